"""What SvANet's sets have in common: `{train,val,test}/<stem>.jpg` and `mask/<stem>.png`, masks being class indices.

A mask is a palette PNG, as published: 0 is background, 1, 2, ... are the classes, 255 is ignored. `svanet_set` of
lgrnet.data.still_datasets reads it.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_prep.archives import Source
from data_prep.placing import Content, Entry, Part, Plan, Report, convert_files, place
from data_prep.stamp import claim, finish
from lgrnet.records import IGNORE, DataError, natural_key, read_mask, write_image

IGNORED = 255
_COLOURS = (0, 0, 0, 230, 60, 60, 60, 180, 75, 255, 225, 25, 0, 130, 200)


class Still(NamedTuple):
    """One image of a set: where it goes, what it and its mask are made of. None: not in the download.

    part  folder of the image: train, val, test, or split1/train and so on
    """

    part: str
    stem: str
    image: Entry | None
    mask: Entry | None


def write_classes(target: Path, classes: np.ndarray) -> None:
    """Writes class indices uint8 [H, W] as a palette PNG, making the folder where needed."""
    image = Image.fromarray(np.asarray(classes, np.uint8))
    image.putpalette([*_COLOURS, *(255,) * (768 - len(_COLOURS))])
    write_image(target, image)


def lesion(content: Content) -> np.ndarray:
    """bool [H, W]: a mask of 0 and 255 whose edges may be grey; DataError for one that holds class indices."""
    raw = read_mask(content)
    if 0 < raw.max() <= 127:
        raise DataError(f"{content} holds values up to {raw.max()}; expected a mask of 0 and 255")
    return raw > 127


def indices(content: Content, num_classes: int) -> np.ndarray:
    """uint8 [H, W]: a mask that holds class indices; DataError for other values than 0 .. num_classes and 255."""
    raw = read_mask(content, label_map={**{k: k for k in range(1, num_classes + 1)}, IGNORED: IGNORE})
    found = np.unique(raw).tolist()
    if unknown := [value for value in found if num_classes < value < IGNORED]:
        raise DataError(f"{content} holds the values {unknown}; expected class indices 0 .. {num_classes}, and 255")
    if found in ([0, IGNORED], [IGNORED]):
        raise DataError(f"{content} holds 0 and 255 only, and 255 is ignored; expected class indices")
    return raw


def prepare_stills(
    options: argparse.Namespace,
    sources: Sequence[Source],
    dataset: str,
    stills: Sequence[Still],
    classes_of: Callable[[Content, str], np.ndarray],
    published: Mapping[str, int],
    more: Mapping[str, object] | None = None,
) -> Report:
    """Places images and writes masks; the report. Images without a mask, and masks without an image, are left out.

    options     with `dst` and `dry_run`
    stills      all that was found; a stem may come in several parts, for cross-validation
    classes_of  (mask, stem) -> class indices uint8 [H, W]
    published   part -> number of images
    more        to note of what makes `dst`, such as `stamp.division`

    Raises DataError where a download holds nothing of it, holds an image twice, or `dst` holds something else.
    """
    if not any(still.image and still.mask for still in stills):
        raise DataError(f"no images of {dataset} with masks in {', '.join(str(source.path) for source in sources)}")
    images, masks, origins = Plan(), Plan(), {}
    for still in stills:
        if still.image and still.mask:
            name = f"{still.part}/{still.stem}{still.image.suffix}"
            origin = still.mask, still.image.size  # of folds: the same picture in each
            if origins.setdefault(still.stem, origin) != origin or name in images:
                raise DataError(f"{still.image.name} is there twice, in {still.part} or another part; keep one of them")
            images[name], masks[f"mask/{still.stem}.png"] = still.image, still.mask
    report = _report(stills, published)
    if options.dry_run:
        return report
    note = {"source": dataset, "folders": sorted({still.part for still in stills}), **(more or {})}
    owned = sorted({"mask", *(still.part.split("/")[0] for still in stills)})
    claim(options.dst, sources, note, owned)
    place(images, options.dst, "placing images")
    convert_files(masks, options.dst, lambda content, path: write_classes(path, classes_of(content, path.stem)))
    finish(options.dst, note, report, (*images, *masks), owned)
    return report


def parts_of(names: Sequence[str], shares: Mapping[str, float], seed: int = 1337) -> dict[str, str]:
    """Name -> part: the names in natural order, shuffled by Python's generator, cut by the shares; the last part takes
    what is left. Names of patients keep their images together."""
    ordered = sorted(set(names), key=natural_key)
    random.Random(seed).shuffle(ordered)
    parts, done = {}, 0
    for index, (part, share) in enumerate(shares.items()):
        count = len(ordered) - done if index == len(shares) - 1 else round(share * len(ordered))
        parts.update(dict.fromkeys(ordered[done : done + count], part))
        done += count
    return parts


def _report(stills: Sequence[Still], published: Mapping[str, int]) -> Report:
    report = Report()
    for part in sorted({*published, *(still.part for still in stills)}, key=natural_key):
        inside = [still for still in stills if still.part == part]
        found = Counter(still.stem for still in inside if still.image and still.mask)
        missing = [f"mask of {still.image.name}" for still in inside if still.image and not still.mask]
        missing += [f"image of {still.mask.name}" for still in inside if still.mask and not still.image]
        report.parts.append(Part(part, found, frames=published.get(part), missing=missing, noun=None))
    return report
