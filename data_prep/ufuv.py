"""UFUV (uterine fibroids in ultrasound video) into the one layout.

    python data_prep/ufuv.py --src uterus_myoma.zip --dst data/ufuv

Reads an archive or a folder with `<variant>/{train,test}/{Frame,GT,Box}/<video>/`; the variant's folder may be left
out. `--variant` chooses the division into training and test: temp8 is that of the published config. Box (the weak
labels) is taken along where it is there. The sources are only read; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.pairing import Files, Key, collect, paired, part_of, planned  # noqa: E402
from data_prep.placing import Entry, Plan, Report, images_of, place  # noqa: E402
from data_prep.stamp import claim, finish  # noqa: E402
from lgrnet.records import DataError  # noqa: E402

VARIANTS = {"temp": (80, 20), "temp7": (85, 15), "temp8": (83, 17)}
"""Variant -> its published numbers of training and test videos."""

SPLITS = ("train", "test")
_KINDS = ("Frame", "GT", "Box")
Place = tuple[str, str]
"""(split, kind)."""


def find_files(images: Iterable[Entry], variant: str) -> dict[Place, Files]:
    """(split, kind) -> its files, of one variant.

    Raises DataError naming the variants where there are none, and the folders where others than a variant's hold files
    of one split and kind.
    """
    found: dict[str, dict[Place, list[tuple[Key, Entry]]]] = defaultdict(lambda: defaultdict(list))
    for entry in images:
        parts = entry.name.split("/")
        if len(parts) >= 4 and parts[-4] in SPLITS and parts[-3] in _KINDS:
            above = parts[-5] if len(parts) > 4 else entry.source.path.name
            found[above][parts[-4], parts[-3]].append(((parts[-2], entry.stem), entry))
    others = sorted(above for above in found if above in VARIANTS and above != variant)
    taken = {above: files for above, files in found.items() if above not in others}
    if variant in taken:  # what else lies there, such as a copy by another name, is not it
        taken = {variant: taken[variant]}
    if not taken:
        there = f"it holds {', '.join(others)}: set --variant" if others else "get it again"
        raise DataError(f"--src has no {variant}/train/Frame/<video> nor train/Frame/<video>; {there}")
    return {place: _of_place(place, taken) for place in product(SPLITS, _KINDS)}


def _of_place(place: Place, found: Mapping[str, Mapping[Place, list[tuple[Key, Entry]]]]) -> Files:
    holders = sorted(above for above, files in found.items() if place in files)
    if len(holders) > 1:
        raise DataError(f"{'/'.join(place)} is in {' and in '.join(holders)}; give one of these folders")
    return collect(found[holders[0]][place] if holders else ())


def prepare(options: argparse.Namespace) -> Report:
    """Does what the command line says; raises DataError as the shared modules do."""
    sources = sources_of(options)
    files = find_files(images_of(sources), options.variant)
    plan, report = Plan(), Report()
    for split, videos in zip(SPLITS, VARIANTS[options.variant], strict=True):
        pairs, part = part_of(split, files[split, "Frame"], files[split, "GT"], videos, None)
        boxes, lone = paired(files[split, "Frame"], files[split, "Box"])
        plan.update(planned(pairs, split))
        if boxes:
            taken = {key: boxes[key][::-1] for key in boxes if key in pairs}
            plan.update(planned(taken, split, ("Box", "Frame")))
            report.notes += [f"{split}: {len(lone)} frames and boxes are without each other"] if lone else []
        report.parts.append(part)
    note = {"source": "UFUV", "variant": options.variant}
    if not options.dry_run:
        claim(options.dst, sources, note, SPLITS)
        place(plan, options.dst)
        finish(options.dst, note, report, plan, SPLITS)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when all is there, 1 when something is missing, 2 with a message."""
    parser = parser_of("UFUV into Frame/<video>, GT/<video> and Box/<video> of train and test", "archive or folder")
    parser.add_argument("--variant", choices=list(VARIANTS), default="temp8", help="division into training and test")
    return run(prepare, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
