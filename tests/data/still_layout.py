"""Small sets of still images on disk for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lgrnet.data.still_datasets import image_folder
from lgrnet.records import VideoRecord, write_frame


def mask_of(values: tuple[int, ...], size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """uint8 [H, W] with two rows of each value."""
    raw = np.zeros(size, np.uint8)
    for index, value in enumerate(values):
        raw[2 * index + 2 : 2 * index + 4] = value
    return raw


def write_still(
    images: Path, masks: Path, name: str, raw: np.ndarray | None = None, palette: bool = False, suffix: str = ".png"
) -> None:
    raw = mask_of((255,)) if raw is None else raw
    write_frame(images / name, np.random.default_rng(len(name)).integers(0, 256, (*raw.shape, 3), np.uint8))
    masks.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(raw)
    if palette:
        picture = Image.fromarray(raw, "P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200] + [9, 50, 7] * 252)
    picture.save(masks / f"{Path(name).stem}{suffix}")


def listed(root: Path, **options) -> list[VideoRecord]:
    """The records of images/ and masks/."""
    return image_folder(root / "images", root / "masks", **options)


def write_svanet(base: Path, values: tuple[int, ...], parts: tuple[str, ...] = ("train", "test")) -> None:
    """One image per part, with a palette mask of these class indices."""
    for part in parts:
        write_still(base / part, base / "mask", f"{part}_1.jpg", mask_of(values), palette=True)
