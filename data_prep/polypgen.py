"""PolypGen (version 3 of its archive) as SvANet's layout wants it; used by polyp_images.py.

Stills are `data_C<n>/images_C<n>/x.jpg` with `masks_C<n>/x_mask.jpg`, sequences `sequenceData/positive/seq<n>/`
likewise, and `sequenceData/negativeOnly/seq<n>_neg/x.jpg` show no polyp and have no masks: empty ones are written. How
SvANet divides them is not published; here a sequence stays in one part, and stills, positive and negative sequences are
divided each by the same shares.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.pairing import Files, Key, collect, paired
from data_prep.placing import Content, Entry, Part, Plan, Report
from data_prep.svanet_layout import lesion
from lgrnet.records import DataError, natural_key, read_frame, read_mask, write_image
from lgrnet.records.pictures import is_lossy

FRAMES, POSITIVE, STILLS = 8037, 3762, 1537
_FOLDER = re.compile(r"(images|masks)_(C\d+|seq\d+)")
_NEGATIVE = re.compile(r"seq\d+_neg")
_PARTS = ("train", "val", "test")
_PALETTE = [0, 0, 0, 255, 255, 255]


def find_files(images: Iterable[Entry]) -> tuple[Files, Files]:
    """The images and the masks by (centre or sequence, stem); raises DataError where there are none."""
    pictures: list[tuple[Key, Entry]] = []
    masks: list[tuple[Key, Entry]] = []
    for entry in images:
        if kind := _FOLDER.fullmatch(entry.folder):
            stem = entry.stem.removesuffix("_mask") if kind[1] == "masks" else entry.stem
            (masks if kind[1] == "masks" else pictures).append(((kind[2], stem), entry))
        elif _NEGATIVE.fullmatch(entry.folder):
            pictures.append(((entry.folder, entry.stem), entry))
    if not pictures:
        raise DataError("--src holds no data_C<n>/images_C<n> nor sequenceData; expected PolypGen's archive, version 3")
    found, truth = collect(pictures), collect(masks)
    for centre, stem in [key for key in found if key not in truth and key[1].endswith("_")]:
        if (bare := (centre, stem.rstrip("_"))) in truth:  # one published image has a "_" that its mask has not
            truth[centre, stem] = truth.pop(bare)
    return found, truth


def divide(images: Files, shares: Sequence[float], seed: int, test_centre: str | None = None) -> dict[Key, str]:
    """Which part each image belongs to; every sequence is in one. Raises DataError for shares that are none."""
    if not min(shares) >= 0 or not abs(sum(shares) - 1) <= 1e-6:
        raise DataError(f"--shares are {tuple(shares)}; expected three numbers that are not negative and add up to 1")
    present = sorted({group for group, _ in images}, key=natural_key)
    if test_centre is not None and test_centre not in present:
        raise DataError(f"--test_centre is {test_centre}; the images are of {', '.join(present)}")
    kinds: dict[str, dict[object, list[Key]]] = defaultdict(lambda: defaultdict(list))
    for key in sorted(images, key=lambda key: (natural_key(key[0]), natural_key(key[1]))):
        kind = "still" if key[0].startswith("C") else "negative" if key[0].endswith("_neg") else "positive"
        kinds["held out" if key[0] == test_centre else kind][key if kind == "still" else key[0]].append(key)
    parts = {key: "test" for group in kinds.pop("held out", {}).values() for key in group}
    for kind in sorted(kinds):
        groups = list(kinds[kind].values())
        random.Random(f"{seed} {kind}").shuffle(groups)
        ends = [round(sum(shares[: i + 1]) * len(groups)) for i in range(3)]
        for index, group in enumerate(groups):
            part = next(part for part, end in zip(_PARTS, ends, strict=True) if index < end)
            parts.update(dict.fromkeys(group, part))
    return parts


def plan_of(images: Files, masks: Files, parts: dict[Key, str]) -> tuple[Plan, Plan, Report]:
    """Where the images go, what the masks are drawn from (the image itself where it shows no polyp), and the report."""
    pairs, missing = paired({key: entry for key, entry in images.items() if not key[0].endswith("_neg")}, masks)
    negative = {key: entry for key, entry in images.items() if key[0].endswith("_neg")}
    names = _names([*pairs, *negative])
    plan, drawn = Plan(), Plan()
    for key, entry in {**{key: pair[0] for key, pair in pairs.items()}, **negative}.items():
        plan[f"{parts[key]}/{names[key]}{entry.suffix}"] = entry
        drawn[f"mask/{names[key]}.png"] = pairs[key][1] if key in pairs else entry
    report = Report(
        [
            _part("stills", [key for key in pairs if key[0].startswith("C")], STILLS, missing),
            _part("positive sequences", [key for key in pairs if key[0].startswith("seq")], POSITIVE - STILLS),
            _part("negative sequences", list(negative), FRAMES - POSITIVE),
        ]
    )
    counts = {part: sum(name.startswith(f"{part}/") for name in plan) for part in _PARTS}
    report.notes.append(", ".join(f"{part} {count}" for part, count in counts.items()) + ": not a published division")
    return plan, drawn, report


def write_class_mask(content: Content, target: Path) -> None:
    """A mask with a palette: 1 where the original, a JPEG, is above 127; 0 everywhere for an image without polyp.
    DataError for one that is no JPEG and holds class indices."""
    negative = _NEGATIVE.fullmatch(content.entry.folder)
    if negative:
        shown = np.zeros(read_frame(content).shape[:2], bool)
    elif is_lossy(content.entry.name):  # the noise of an empty one may be above 0
        shown = read_mask(content) > 127
    else:
        shown = lesion(content)
    image = Image.fromarray(shown.astype(np.uint8))
    image.putpalette(_PALETTE)
    write_image(target, image)


def _part(name: str, keys: Sequence[Key], published: int, missing: Sequence[str] = ()) -> Part:
    return Part(name, {"": len(keys)}, None, published, missing, None)


def _names(keys: Sequence[Key]) -> dict[Key, str]:
    """The stems, with the sequence before them where two images have the same."""
    count: dict[str, int] = defaultdict(int)
    for _, stem in keys:
        count[stem] += 1
    return {key: key[1] if count[key[1]] == 1 else "_".join(key) for key in keys}
