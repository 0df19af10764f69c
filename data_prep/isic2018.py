"""ISIC 2018, task 1 (skin lesions) as SvANet uses it.

    python data_prep/isic2018.py --dst data/svanet/ISIC2018T1 --src ISIC2018_Task1-2_Training_Input.zip \\
        ISIC2018_Task1_Training_GroundTruth.zip ISIC2018_Task1-2_Validation_Input.zip ...

The six archives of challenge.isic-archive.com, or folders of them: ISIC2018_Task1-2_<part>_Input/ISIC_<number>.jpg and
ISIC2018_Task1_<part>_GroundTruth/ISIC_<number>_segmentation.png, 2594 images of Training, 100 of Validation, 1000 of
Test, which become train, val and test. Parts of which no archive is given are left out. A lesion is class 1; masks are
cut at 127. Which of the images SvANet took is not published. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.placing import Entry, Report, images_of  # noqa: E402
from data_prep.svanet_layout import Still, lesion, prepare_stills  # noqa: E402
from lgrnet.records import DataError  # noqa: E402

PARTS = {"training": "train", "validation": "val", "test": "test"}
PUBLISHED = {"train": 2594, "val": 100, "test": 1000}
_FLAGS = re.IGNORECASE | re.DOTALL
_IMAGE = re.compile(r"(?:.*/)?ISIC2018_Task1-2_(Training|Validation|Test)_Input/(ISIC_\d+)\.\w+", _FLAGS)
_MASK = re.compile(
    r"(?:.*/)?ISIC2018_Task1_(Training|Validation|Test)_GroundTruth/(ISIC_\d+)_segmentation\.\w+",
    re.IGNORECASE | re.DOTALL,
)


def prepare(options: argparse.Namespace) -> Report:
    """Finds the images and masks and writes them; raises DataError for a download of another shape."""
    sources = sources_of(options)
    images: dict[tuple[str, str], Entry] = {}
    masks: dict[tuple[str, str], Entry] = {}
    for entry in images_of(sources):
        for pattern, found in ((_IMAGE, images), (_MASK, masks)):
            if match := pattern.fullmatch(entry.whole_name):
                key = PARTS[match[1].lower()], match[2]
                if key in found:
                    raise DataError(f"{entry.name} and {found[key].name} are the same picture; keep one of them")
                found[key] = entry
    keys = dict.fromkeys([*images, *masks])
    stills = [Still(*key, images.get(key), masks.get(key)) for key in keys]
    published = {part: PUBLISHED[part] for part, _ in keys}
    report = prepare_stills(
        options, sources, "ISIC2018T1", stills, lambda mask, stem: lesion(mask).astype("uint8"), published
    )
    report.notes += [f"nothing of {part} was given" for part in PUBLISHED if part not in published]
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 1 where something is missing, or 2 with a message."""
    return run(prepare, parser_of("ISIC 2018 task 1 into train, val, test and mask", "its archives"), arguments)


if __name__ == "__main__":
    sys.exit(main())
