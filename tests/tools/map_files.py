"""Folders of maps and masks for tests of `score_masks`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tools import score_masks

STEM = "case_M_20181001100941_0U62372100109341_1_005_001-1_a2_ayy_image{:04d}"


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def run(folder: Path, *more: object) -> int:
    """The tool on the folders pred and gt."""
    return score_masks.main(["--pred", str(folder / "pred"), "--gt", str(folder / "gt"), *map(str, more)])
