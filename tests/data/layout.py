"""Small videos on disk for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lgrnet.records import write_frame, write_mask


def blob(size: tuple[int, int], index: int = 0) -> np.ndarray:
    """bool [H, W] with a rectangle that moves with the index."""
    mask = np.zeros(size, bool)
    top = index % (size[0] // 2)
    mask[top : top + size[0] // 3, size[1] // 4 : size[1] // 2] = True
    return mask


def write_video(
    root: Path,
    name: str,
    frames: int | Sequence[str] = 4,
    size: tuple[int, int] = (20, 24),
    suffix: str = ".png",
    empty: bool = False,
    masks: str = "GT",
) -> None:
    """Frame/<name> and GT/<name>; the top left pixel of each frame is its index."""
    stems = [f"frame{i}" for i in range(frames)] if isinstance(frames, int) else frames
    for index, stem in enumerate(stems):
        picture = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        picture[0, 0] = index
        write_frame(root / "Frame" / name / f"{stem}{suffix}", picture)
        write_mask(root / masks / name / f"{stem}.png", np.zeros(size, bool) if empty else blob(size, index))
