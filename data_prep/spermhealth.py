"""SpermHealth (microscopy, the own images of SvANet's authors) checked and brought into SvANet's layout.

    python data_prep/spermhealth.py --src SpermHealth.zip --dst data/svanet/SpermHealth
    python data_prep/spermhealth.py --src pictures --dst data/svanet/SpermHealth --folds 5

No download is known, and nothing is published of its shape but the classes, 1 normal and 2 abnormal. Read are images
and masks of the same stems: masks in a folder mask or masks, images in train, val and test (also below split1, split2,
...), which stay as they are, or in images. Of the latter 80 % become train and 20 % val, or --folds N makes split1 ..
splitN of them; the names are shuffled with a fixed seed. Masks hold class indices. There is no published number to
compare with. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.placing import Content, Entry, Report, images_of  # noqa: E402
from data_prep.stamp import division  # noqa: E402
from data_prep.svanet_layout import Still, indices, parts_of, prepare_stills  # noqa: E402
from lgrnet.records import DataError  # noqa: E402

CLASSES = ("normal", "abnormal")
SHARES = {"train": 0.8, "val": 0.2}
_PARTS = re.compile(r"(?:.*/)?((?:split\d+/)?(?:train|val|test))/[^/]+", re.DOTALL)


def prepare(options: argparse.Namespace) -> Report:
    """Finds the images and masks and writes them; raises DataError for a source of another shape."""
    if options.folds == 1 or options.folds < 0:
        raise DataError(f"--folds is {options.folds}; expected 2 or more, or 0 for one split")
    sources = sources_of(options)
    masks: dict[str, Entry] = {}
    loose: dict[str, Entry] = {}
    placed: dict[tuple[str, str], Entry] = {}
    for entry in images_of(sources):
        if match := _PARTS.fullmatch(entry.name):
            where, key = placed, (match[1], entry.stem)
        elif entry.folder in ("mask", "masks"):
            where, key = masks, entry.stem
        elif entry.folder == "images":
            where, key = loose, entry.stem
        else:
            continue
        if key in where:
            raise DataError(f"{entry.name} and {where[key].name} are the same picture; keep one of them")
        where[key] = entry
    if loose and placed:
        raise DataError("there are pictures in images and in train, val or test; give one of them")
    if placed and options.folds:
        raise DataError("--folds is for pictures in images; these are split already")
    if options.folds > len(loose):
        raise DataError(f"--folds is {options.folds}, but there are {len(loose)} pictures; each fold needs one")
    drawn = _split(list(loose), options.folds)
    for stem, parts in drawn.items():
        placed.update({(part, stem): loose[stem] for part in parts})
    stills = [Still(part, stem, image, masks.get(stem)) for (part, stem), image in placed.items()]
    with_image = {still.stem for still in stills}
    note = division({stem: " ".join(parts) for stem, parts in drawn.items()}) if drawn else {}
    report = prepare_stills(options, sources, "SpermHealth", stills, _classes_of, {}, note)
    if extra := [mask.name for stem, mask in masks.items() if stem not in with_image]:
        report.notes.append(f"{len(extra)} masks without an image left out, such as {extra[0]}")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 1 where something is missing, or 2 with a message."""
    parser = parser_of("SpermHealth into train, val and mask", "archive or folder with images and masks")
    parser.add_argument("--folds", type=int, default=0, help="make split1 .. splitN for cross-validation")
    return run(prepare, parser, arguments)


def _classes_of(mask: Content, stem: str) -> np.ndarray:
    return indices(mask, len(CLASSES))


def _split(stems: Sequence[str], folds: int) -> dict[str, list[str]]:
    """Stem -> the parts that its image is in."""
    if not folds:
        return {stem: [part] for stem, part in parts_of(stems, SHARES).items()}
    shuffled = list(parts_of(stems, {"": 1}))
    return {
        stem: [
            f"split{fold + 1}/{'val' if fold == place * folds // len(shuffled) else 'train'}" for fold in range(folds)
        ]
        for place, stem in enumerate(shuffled)
    }


if __name__ == "__main__":
    sys.exit(main())
