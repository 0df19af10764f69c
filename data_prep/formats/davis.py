"""DAVIS, in and out: `JPEGImages[/480p]/<video>/*.jpg` beside `Annotations[/480p]/<video>/*.png`.

A value in a mask is an object of its video and no class, so all objects are one class, "object"; an export of ours has
classes 1, 2, ... as values, and label_map.json says their names. A frame without a mask is not annotated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from data_prep.formats.annotations import Annotations, Folder, Picture, pixels
from data_prep.placing import write_text
from lgrnet.records import DataError, images_by_stem, list_videos, natural_key, read_mask, write_image

OBJECT = "object"
VOID = 255
RESOLUTION = "Full-Resolution"


def numbered(labels: Iterable[str]) -> dict[str, int]:
    """Label -> value in the masks that are written here: 1, 2, ..., and 255 for "ignore"."""
    return {label: VOID if label == "ignore" else index for index, label in enumerate(labels, start=1)}


def read_davis(root: Path, labels: Mapping[str, int] | None = None) -> Annotations:
    """The frames of a DAVIS tree; `labels` are the values that its masks have for classes, None: they are objects.

    Raises DataError for a tree of another shape, several resolutions, and masks without a frame.
    """
    resolution = _resolution(root)
    frames, masks = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    if not masks.is_dir():
        raise DataError(f"{masks} does not exist; expected {masks}/<video>/*.png")
    records = list_videos(
        root, str(frames.relative_to(root)), str(masks.relative_to(root)), {1: 1}, require_masks=False
    )
    folder = Folder(frames)
    pictures = []
    for record in records:
        for file, mask in zip(record.frames, record.masks, strict=True):
            pictures.append(folder.place(file, PurePosixPath(record.name, file.name), mask, None, str(file)))
    if not labels:
        return Annotations((OBJECT,), pictures, frames, dict.fromkeys(range(1, VOID), OBJECT))
    return Annotations(tuple(labels), pictures, frames, {value: label for label, value in labels.items()})


def raw_values(raw: np.ndarray, names: Mapping[int, str], values: Mapping[str, int], where: str) -> np.ndarray:
    """A raster mask uint8 [H, W] with the layout's values in place of its own.

    names   value in the mask -> label
    values  label -> value in the layout; a label that is not in it becomes background
    """
    found = np.unique(raw[raw > 0]).tolist()
    if found == [VOID] and VOID not in names and set(names.values()) == {OBJECT}:
        names = {VOID: OBJECT}  # DAVIS 2016: 0 and 255, one object
    if unknown := [value for value in found if value not in names]:
        void = "; 255 beside objects is void in DAVIS: set it to 0, or name it in label_map.json" * (VOID in unknown)
        raise DataError(f"{where} holds the values {unknown}; known are {_range(names)}{void}")
    table = np.zeros(256, np.uint8)
    for value, label in names.items():
        table[value] = values.get(label, 0)
    return table[raw]


def write_davis(dst: Path, labels: Sequence[str], pictures: Iterable[Picture]) -> None:
    """Writes masks with the values 1, 2, ... of the labels ("ignore": 255) and the list of videos of `pictures`."""
    table = numbered(labels)
    videos = dict.fromkeys(_write_mask(dst, table, picture) for picture in pictures)
    write_text(dst / "ImageSets/2017/train.txt", "".join(f"{video}\n" for video in videos))


def check_names(videos: Iterable[str], labels: Sequence[str]) -> None:
    """Raises DataError for names of videos that DAVIS' list, a text with a name on each line, cannot hold, and for more
    labels than its masks can."""
    if len(labels) >= VOID:
        raise DataError(f"DAVIS masks hold 254 classes at most, not {len(labels)}")
    for video in videos:
        if "\n" in video or video != video.encode("utf-8", "replace").decode():
            raise DataError(f"the video {video!r} has a name which the list of DAVIS cannot hold; rename it")


def _write_mask(dst: Path, table: Mapping[str, int], picture: Picture) -> str:
    target = dst / "Annotations" / RESOLUTION / picture.video / f"{picture.file.stem}.png"
    if picture.content is not None:
        mask = np.zeros(picture.size, np.uint8)
        for region in picture.content:
            mask[pixels(region)] = table[region.label]
        if not target.is_file():
            image = Image.fromarray(mask)
            image.putpalette(palette())
            write_image(target, image)
        elif not np.array_equal(read_mask(target), mask):
            what = f"another mask than the one of {picture.video}/{picture.file.name} is now"
            raise DataError(f"{target} is {what}; choose another --dst, or remove it")
    return picture.video


def palette() -> list[int]:
    """The 256 colours of PASCAL VOC, which DAVIS uses: the bits of an index, dealt to red, green and blue in turn."""
    colours = np.zeros((256, 3), int)
    for index in range(256):
        for bit in range(8):
            colours[index, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return colours.ravel().tolist()


def _resolution(root: Path) -> str:
    frames = root / "JPEGImages"
    if not frames.is_dir():
        raise DataError(f"{frames} does not exist; expected {frames}/<video>/*.jpg, or {frames}/480p/<video>/*.jpg")
    folders = sorted((path for path in frames.iterdir() if path.is_dir()), key=lambda path: natural_key(path.name))
    if any(images_by_stem(folder) for folder in folders):
        return "."
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise DataError(f"{frames} holds several resolutions or none ({names}); give a tree with one")
    return folders[0].name


def _range(names: Mapping[int, str]) -> str:
    return f"{min(names)}..{max(names)}" if len(names) > 8 else ", ".join(map(str, names))
