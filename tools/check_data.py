r"""Finds what is wrong with a data set before a model learns from it, or a number is believed. Reads only.

    python tools/check_data.py data/SUN-SEG
    python tools/check_data.py data/mine --split train=seq1,seq2 test=seq3 --patient_of '^p(\d+)_' --json found.json

PATH is a folder in the one layout (Frame/<video>, GT/<video>), with or without splits; images and masks; pictures with
COCO or YouTube-VIS JSON; or video files. `--codes` lists every kind of defect. Pictures of what was found go to
--sheet. Exit status: 0 clean, or notes only; 1 something is wrong; 2 the check could not run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tools")) if path not in sys.path]

from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402

from data_checks import report, run  # noqa: E402
from lgrnet.records import LabelMap, check_label_map, write_frame  # noqa: E402


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, nargs="?", metavar="PATH", help="folder of the data set")
    parser.add_argument("--label_map", help='binary, half, full, soft, or "1:1,2:2,255:ignore"; default: by the masks')
    parser.add_argument(
        "--split", nargs="+", default=[], metavar="NAME=VIDEOS", help="train=seq1,seq2 test=seq3,c3_*; default: folders"
    )
    parser.add_argument(
        "--patient_of", metavar="REGEX", help="finds the patient in a video's name: a group or all of it"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE, or - in place of the table"
    )
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write pictures of what was found to this file")
    parser.add_argument("--workers", type=int, help="processes; default: one per core")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="name so many files of each kind (5)")
    parser.add_argument("--codes", action="store_true", help="list every kind of defect and leave")
    return parser


def read_label_map(text: str | None) -> LabelMap | None:
    """A label map as it is written on a command line: a name, or `1:1,2:2,255:ignore`. Raises DataError."""
    if text is None or ":" not in text:
        return text and check_label_map(text)
    pairs = [part.partition(":") for part in text.split(",")]
    return check_label_map({raw.strip(): klass.strip() for raw, _, klass in pairs})


def read_split(parts: Sequence[str]) -> dict[str, list[str]]:
    """`train=a,b` and `test=c` as {"train": ["a", "b"], "test": ["c"]}. Raises ValueError for anything else."""
    split = {}
    for part in parts:
        name, equals, videos = part.partition("=")
        if not (name and equals and videos):
            raise ValueError(f"--split got {part!r}; expected NAME=VIDEO,VIDEO, such as train=seq1,seq2 test=seq3")
        split.setdefault(name, []).extend(videos.split(","))
    return split


def _make_room(given: argparse.Namespace) -> None:
    """Before a check that may take minutes: the folders of the files to write. Raises ValueError and OSError."""
    for option, target in (("--json", given.json), ("--sheet", given.sheet)):
        if target not in (None, "-"):
            if Path(target).is_dir():
                raise ValueError(f"{option} {target} is a folder; expected a file to write")
            Path(target).parent.mkdir(parents=True, exist_ok=True)


def _checked(given: argparse.Namespace, console: Console) -> run.Report:
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("files", total=None)
        options = run.Options(
            read_label_map(given.label_map),
            read_split(given.split),
            given.patient_of,
            given.workers,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
        return run.check(given.path, options)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 clean or notes only, 1 something is wrong, 2 the check could not run."""
    parser = _parser()
    given = parser.parse_args(arguments)
    out = Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False)
    if given.codes:
        report.print_codes(out)
        return 0
    if given.path is None:
        parser.error("PATH is missing: the folder of a data set")
    if given.workers is not None and given.workers < 1:
        parser.error(f"--workers is {given.workers}; expected at least 1")
    try:
        _make_room(given)
        found = _checked(given, Console(stderr=True))
        if given.json == "-":
            print(report.as_json(found))
        else:
            report.print_report(found, out, given.show)
        if given.json not in (None, "-"):
            Path(given.json).write_text(report.as_json(found) + "\n", encoding="utf-8")
        if given.sheet is not None:
            picture = report.sheet(found)
            if picture is None:
                print(f"no finding has a picture to show: {given.sheet} is not written", file=sys.stderr)
            else:
                write_frame(given.sheet, picture)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return found.status


if __name__ == "__main__":
    sys.exit(main())
