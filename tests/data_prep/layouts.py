"""A small layout with odd names, and what a folder holds, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lgrnet.records import list_videos, read_mask, write_frame, write_image

ODD = ("plain", "a b'c\"d", "zwei\nZeilen", "größe 腸", "n" * 255)


def noise(seed: int, values: tuple[int, ...], size: tuple[int, int] = (23, 37)) -> np.ndarray:
    """uint8 [H, W]: blocks and single pixels of these values and 0."""
    draws = np.random.default_rng(seed)
    coarse = draws.choice([0, *values], size=(size[0] // 4 + 1, size[1] // 4 + 1)).repeat(4, 0).repeat(4, 1)
    raw = coarse[: size[0], : size[1]].astype(np.uint8)
    spots = draws.random(size) < 0.1
    raw[spots] = draws.choice([0, *values], size=int(spots.sum()))
    return raw


def write_layout(root: Path, values: tuple[int, ...] = (255,), videos: tuple[str, ...] = ODD) -> dict[str, np.ndarray]:
    """Videos of three frames: noise, an empty mask, and none; name -> what the masks hold."""
    masks = {}
    for seed, video in enumerate(videos):
        for index in range(3):
            stem = f"{index} {video}"[:200] if len(video.encode()) < 200 else f"{index}{video[:250]}"
            write_frame(root / "Frame" / video / f"{stem}.png", np.full((23, 37, 3), 40 * index + seed, np.uint8))
            if index < 2:
                raw = noise(seed, values) if index == 0 else np.zeros((23, 37), np.uint8)
                write_image(root / "GT" / video / f"{stem}.png", Image.fromarray(raw))
                masks[f"{video}/{stem}"] = raw
    return masks


def masks_of(root: Path) -> dict[str, np.ndarray]:
    """video/frame -> raw values, of the frames that have a mask."""
    records = list_videos(root, require_masks=False)
    pairs = [(r.name, mask) for r in records for mask in r.masks if mask is not None]
    return {f"{name}/{mask.stem}": read_mask(mask) for name, mask in pairs}


def content(root: Path) -> dict[str, bytes]:
    """Path -> bytes of all files."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
