"""make demo: renders the phantom clips, trains the small LGRNet from scratch, evaluates it, and draws what came out.

    python tools/demo/phantom.py [--data data/phantom] [--out runs/demo] [key=value ...]

Every call makes a new run folder. It ends by naming the pictures and the reports.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lgrnet import distributed  # noqa: E402
from lgrnet.config import load_config  # noqa: E402
from lgrnet.data.phantom import write  # noqa: E402
from lgrnet.engine import run as engine  # noqa: E402
from lgrnet.engine.command import MISTAKE, status_of  # noqa: E402
from lgrnet.engine.log import read_log  # noqa: E402
from lgrnet.inference.writers import COMPARED  # noqa: E402
from lgrnet.records import VideoRecord, read_frame, read_mask, write_frame  # noqa: E402
from lgrnet.visualize import contact_sheet, curves, overlay, with_legend  # noqa: E402

CONFIG = ROOT / "configs/demo/phantom.py"
FRAMES_SHOWN = 6


def new_folder(parent: Path) -> Path:
    """The next free run_001, run_002, ... below `parent`; nothing is made yet."""
    taken = {int(p.name[4:]) for p in parent.glob("run_*") if p.name[4:].isdigit()}
    return parent / f"run_{max(taken, default=0) + 1:03d}"


def draw_curves(folder: Path, target: Path) -> None:
    """Loss over steps."""
    points = [(line["step"], float(line["total"])) for line in read_log(folder) if line["type"] == "step"]
    smooth = [(x, float(np.mean([y for _, y in points[max(0, i - 9) : i + 10]]))) for i, (x, _) in enumerate(points)]
    write_frame(target, curves({"loss": points, "mean of 19 steps": smooth}, "Training loss", "step", "loss"))


def draw_sheet(record: VideoRecord, evaluations: dict[str, Path], target: Path) -> None:
    """Frames of one unseen clip, in each column the frame, the truth, and the mask of every evaluation."""
    chosen = np.linspace(0, record.num_frames - 1, FRAMES_SHOWN).astype(int)
    frames = [read_frame(record.frames[i]) for i in chosen]
    truths = [read_mask(record.masks[i]) > 0 for i in chosen]
    rows, captions = [*frames], [record.frame_names[i] for i in chosen]
    rows += [overlay(frame, truth) for frame, truth in zip(frames, truths, strict=True)]
    captions += ["truth"] * len(frames)
    for name, folder in evaluations.items():
        for i, frame, truth in zip(chosen, frames, truths, strict=True):
            mask = read_mask(folder / record.name / f"{record.frame_names[i]}.png") > 0
            rows.append(overlay(frame, mask, truth))
            captions.append(name)
    write_frame(target, with_legend(contact_sheet(rows, FRAMES_SHOWN, captions), COMPARED))


def write_page(folder: Path, scores: dict[str, dict[str, float]], pictures: dict[str, Path]) -> Path:
    """One page with the numbers and the pictures."""
    metrics = sorted(next(iter(scores.values())))
    head = "".join(f"<th>{html.escape(m)}</th>" for m in metrics)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{values[m]:.4f}</td>" for m in metrics) + "</tr>"
        for name, values in scores.items()
    )
    shown = "".join(
        f'<h2>{html.escape(title)}</h2><img src="{path.relative_to(folder).as_posix()}" alt="{html.escape(title)}">'
        for title, path in pictures.items()
    )
    page = folder / "demo.html"
    page.write_text(
        "<!doctype html><meta charset=utf-8><title>lgrnet demo</title>"
        "<style>body{font:16px sans-serif;max-width:1200px;margin:2em auto}img{max-width:100%}"
        "td,th{padding:.2em 1em;text-align:left}</style>"
        "<h1>LGRNet on phantom clips it has not seen</h1>"
        f"<table><tr><th>weights</th>{head}</tr>{body}</table>{shown}",
        encoding="utf-8",
    )
    return page


def main() -> int:
    """Runs the demo; mistakes that a user can mend end in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/phantom", help="folder of the phantom clips")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/demo", help="folder of the run folders")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    options = parser.parse_intermixed_args()
    try:
        return status_of(lambda: demo(options.data, new_folder(options.out), options.overrides), options.out)
    except FileExistsError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE


def demo(data: Path, folder: Path, overrides: list[str]) -> int:
    """Renders, trains, evaluates before and after, draws, and names what was written."""
    print(f"rendering phantom clips in {data}", flush=True)
    write(data, progress=print)
    config = load_config(CONFIG, [f"data.root={data}", *overrides])
    with distributed.init(engine.settings_of(config).device) as context:
        steps = engine.train(config, folder, context)
    if steps < config.train.steps:
        return 0  # asked to stop; training has said how to go on
    untrained, trained = (folder / "eval" / f"step_{step:08d}" for step in (0, steps))
    scores = {
        "untrained": set_scores(untrained / "report.json"),
        f"trained, {steps} steps": set_scores(trained / "report.json"),
    }
    record = engine.evaluation_sets(config)["test"][0]
    sheet, loss = folder / "before_and_after.png", folder / "loss.png"
    draw_sheet(record, {"untrained": untrained / "test/web", "trained": trained / "test/web"}, sheet)
    draw_curves(folder, loss)
    extremes = trained / "test/pictures/sheet.png"
    pictures = {"Before and after": sheet, "Worst and best frames": extremes, "Loss": loss}
    page = write_page(folder, scores, pictures)
    print()
    for name, values in scores.items():
        print(f"{name:>20}: " + "  ".join(f"{metric} {value:.4f}" for metric, value in sorted(values.items())))
    print("\npictures")
    for path in pictures.values():
        print(f"  {path}")
    print(f"report\n  {page}\n  {trained / 'report.md'}")
    print(f"every video, frame by frame: open this file in a browser\n  {trained / 'report.html'}")
    return 0


def set_scores(report: Path) -> dict[str, float]:
    """Dice and IoU of the one set in a report.json."""
    (result,) = json.loads(report.read_text(encoding="utf-8"))["sets"]
    return result["scores"]["lgrnet"]


if __name__ == "__main__":
    sys.exit(main())
