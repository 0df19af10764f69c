"""Scores of several runs on the still images that one config evaluates, and a picture of some of them.

    python tools/compare_stills.py configs/polypgen_stills/ssformer_b0.py data.root=/data/polypgen --out pictures.jpg \\
        --run SSFormer runs/polypgen_stills/ssformer_b0 --run LGRNet runs/polypgen_stills/lgrnet_b0

Prints a table in Markdown: Dice and IoU by LGRNet's protocol at the size on disk, means over all images of the masks
that the last evaluation of each run left on disk, and over those that show something. Below it the best constant mask:
one for all images, a level of the mean truth of the training images; and the same chosen on the very images that are
scored, which is as far as a method that looks at nothing can come. The picture has a row for each of some images that
show something, evenly spread over the set, with the truth and the answer of every run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgrnet.config import ConfigError, load_config  # noqa: E402
from lgrnet.engine.run import build_part, evaluation_sets  # noqa: E402
from lgrnet.evaluation.constant_mask import best_constant  # noqa: E402
from lgrnet.evaluation.metrics import count, dice, iou, resize_nearest  # noqa: E402
from lgrnet.inference.writers import COMPARED  # noqa: E402
from lgrnet.records import (  # noqa: E402
    IMAGE_SUFFIXES,
    DataError,
    VideoRecord,
    class_masks,
    file_error,
    read_frame,
    read_mask,
    write_frame,
)
from lgrnet.visualize import contact_sheet, overlay, with_legend  # noqa: E402

HEIGHT, WIDTH = 92, 138
"""Largest size of a cell of the picture, in pixels."""

Masks = list[np.ndarray]


def truths(records: Sequence[VideoRecord]) -> Masks:
    """The annotation of each image, all classes as one, bool [H, W]. Raises DataError for an image without one."""
    if bare := [record.name for record in records if record.masks[0] is None]:
        raise DataError(f"{len(bare)} images are not annotated ({', '.join(bare[:5])}); every image needs a mask")
    raw = [(read_mask(record.masks[0], label_map=record.label_map), record) for record in records]
    return [class_masks(mask, record.label_map, record.masks[0]).any(0) for mask, record in raw]


def answers(run: Path, set_name: str, records: Sequence[VideoRecord], truth: Masks) -> Masks:
    """What the last evaluation of a run found in each image, bool [H, W]. Raises DataError where it is not on disk, or
    of another size than the annotation."""
    folders = sorted((run / "eval").glob(f"step_*/{set_name}/web"))
    if not folders:
        raise DataError(f"run {run} has no evaluation of the set {set_name!r}; expected {run}/eval/step_*/{set_name}")
    files = [folders[-1] / record.name / f"{record.frame_names[0]}.png" for record in records]
    found = [read_mask(file) > 0 for file in files]
    for file, mask, there in zip(files, found, truth, strict=True):
        if mask.shape != there.shape:
            raise DataError(f"{file} has (height, width) {mask.shape}, its annotation {there.shape}; evaluate anew")
    return found


def scores(found: Masks, truth: Masks) -> np.ndarray:
    """[images, 2]: Dice and IoU."""
    counts = [count(mask, there) for mask, there in zip(found, truth, strict=True)]
    return np.array([(dice(c), iou(c)) for c in counts])


def table(runs: Mapping[str, Masks], truth: Masks, fitted: Masks) -> list[str]:
    """Lines of Markdown: the scores of every run, and of the best constant mask."""
    shown = np.array([there.any() for there in truth])
    lines = [
        f"| | Dice, {len(truth)} images | IoU | Dice, {shown.sum()} images that show something |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in runs.items():
        values = scores(found, truth)
        mean, mean_shown = values.mean(0), values[shown].mean(0)
        lines.append(f"| {name} | {mean[0]:.3f} | {mean[1]:.3f} | {mean_shown[0]:.3f} |")
    objects = [there for there in truth if there.any()]
    for words, source in (("training images", fitted), ("images that are scored", truth)):
        level, of_objects = best_constant(truth, source), best_constant(objects, source)
        lines.append(f"| one mask for all, chosen on the {words} | {level:.3f} | | {of_objects:.3f} |")
    return lines


def picture(records: Sequence[VideoRecord], truth: Masks, runs: Mapping[str, Masks], images: int) -> np.ndarray:
    """A row for each of `images` images that show something: the truth, then the answer of each run with its Dice."""
    shown = [index for index, there in enumerate(truth) if there.any()]
    chosen = sorted({shown[round(place)] for place in np.linspace(0, len(shown) - 1, min(images, len(shown)))})
    cells, captions = [], []
    for index in chosen:
        frame, there = _small(read_frame(records[index].frames[0])), truth[index]
        small = _small(there)
        cells.append(overlay(frame, small))
        captions.append(f"truth: {records[index].name}")
        for name, found in runs.items():
            cells.append(overlay(frame, _small(found[index]), small))
            captions.append(f"{name}: {dice(count(found[index], there)):.2f}")
    return with_legend(contact_sheet(cells, 1 + len(runs), captions), COMPARED)


def compare(config_file: Path, runs: Mapping[str, Path], out: Path, images: int, overrides: Sequence[str]) -> list[str]:
    """Writes the picture and returns the table, line by line. Raises ConfigError and DataError."""
    config = load_config(config_file, overrides)
    (set_name, records), *more = evaluation_sets(config).items()
    if more:
        raise ConfigError(f"{config_file} evaluates {1 + len(more)} sets; expected one of still images")
    fitted = truths(build_part(config, "data.train").records)
    truth = truths(records)
    if not any(there.any() for there in truth):
        raise DataError(f"no image of {config_file} shows anything; there is nothing to compare")
    if taken := [path for r in records for path in (*r.frames, *r.masks) if path and path.resolve() == out.resolve()]:
        raise DataError(f"--out {taken[0]} is a picture of the data set; give another name")
    found = {name: answers(run, set_name, records, truth) for name, run in runs.items()}
    write_frame(out, picture(records, truth, found, images))
    return [*table(found, truth, fitted), "", str(out)]


def _small(image: np.ndarray) -> np.ndarray:
    """A frame [H, W, 3] or a mask bool [H, W] that fits into a cell."""
    height, width = image.shape[:2]
    scale = min(1.0, HEIGHT / height, WIDTH / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if image.ndim == 2:
        return resize_nearest(image, size)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; mistakes that a user can mend end in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config_file", type=Path, help="a config whose one evaluation set is scored")
    parser.add_argument(
        "--run", nargs=2, action="append", required=True, metavar=("NAME", "FOLDER"), help="a run; may be repeated"
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture to write, .jpg or .png")
    parser.add_argument("--images", type=int, default=8, help="rows of the picture")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    options = parser.parse_intermixed_args(arguments)
    runs = {name: Path(folder) for name, folder in options.run}
    if len(runs) < len(options.run):
        parser.error(f"--run names {', '.join(name for name, _ in options.run)}; give every run a name of its own")
    if options.images < 1:
        parser.error(f"--images is {options.images}; expected 1 or more")
    if options.out.suffix.lower() not in IMAGE_SUFFIXES:
        parser.error(f"--out {options.out} is no picture; give a name that ends in .jpg or .png")
    try:
        lines = compare(options.config_file, runs, options.out, options.images, options.overrides)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot use {file_error(error)}; check the runs and --out", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
