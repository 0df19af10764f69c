"""FIVES (fundus images with vessels, Jin et al. 2022) as SvANet uses it.

    python data_prep/fives.py --src FIVES.zip --dst data/svanet/FIVES

The download has {train,test}/Original/<number>_<group>.png and {train,test}/"Ground truth"/ of the same names, 600 and
200 images. Vessels get the class of the image's group: A 1 amd, D 2 dr, G 3 glaucoma, N 4 health. Numbers start again
in test and the masks of both stand in one folder, so stems become train_1_A and test_1_A. Masks are cut at 127. Images
are hard links to those of a folder where possible; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.placing import Report, images_of  # noqa: E402
from data_prep.svanet_layout import Still, lesion, prepare_stills  # noqa: E402
from lgrnet.records import DataError  # noqa: E402

GROUPS = {"A": 1, "D": 2, "G": 3, "N": 4}
"""Group of an image, from its name -> class of its vessels."""
PUBLISHED = {"train": 600, "test": 200}
_NAME = re.compile(r"(?:.*/)?(train|test)/(original|ground truth)/(\d+_[ADGN])\.\w+", re.IGNORECASE | re.DOTALL)


def prepare(options: argparse.Namespace) -> Report:
    """Finds the images and masks and writes them; raises DataError for a download of another shape."""
    sources = sources_of(options)
    found: dict[tuple[str, str], dict[str, object]] = {}
    others = []
    for entry in images_of(sources):
        if (match := _NAME.fullmatch(entry.whole_name)) is None:
            others.append(entry.name)
            continue
        part, kind, stem = match[1].lower(), match[2].lower(), match[3].upper()
        if kind in (pair := found.setdefault((part, stem), {})):
            raise DataError(f"{entry.name} and {pair[kind].name} are the same picture; keep one of them")
        pair[kind] = entry
    stills = [
        Still(part, f"{part}_{stem}", pair.get("original"), pair.get("ground truth"))
        for (part, stem), pair in found.items()
    ]
    report = prepare_stills(
        options, sources, "FIVES", stills, lambda mask, stem: lesion(mask) * GROUPS[stem[-1]], PUBLISHED
    )
    if others:
        report.notes.append(f"{len(others)} other pictures left out, such as {others[0]}")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 1 where something is missing, or 2 with a message."""
    return run(prepare, parser_of("FIVES into train, test and mask", "archive or folder of FIVES"), arguments)


if __name__ == "__main__":
    sys.exit(main())
