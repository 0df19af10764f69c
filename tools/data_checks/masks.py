"""What one mask file is. Runs in worker processes."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from data_checks.pictures import (
    Look,
    damage_noted,
    decode,
    grey_values,
    open_bytes,
    read_header,
    thumbnail,
)
from lgrnet.records import DataError, LabelMap, read_mask
from lgrnet.records.pictures import is_lossy, num_pages

INDEX_MAX = 31
"""Masks whose largest value is 2 to 31 are taken for class values, as in `lgrnet.records.check_values`."""


def look_at_mask(path: str, label_map: LabelMap | None = None) -> Look:
    """A mask: raw values, pieces and border of its foreground."""
    look = Look(path, lossy=is_lossy(path))
    if path.lower().endswith(".npy"):
        look.problems.append(_npy(path))
        return look
    raw = None
    with damage_noted(look):
        data, image = open_bytes(path)
        read_header(look, data, image)
        look.lossy |= look.format in ("JPEG", "MPO")
        decode(image)
        raw, look.thumb = _raw(look, image, label_map), thumbnail(grey_values(image))
    if raw is not None:
        _measure(look, raw)
    return look


def _npy(path: str) -> tuple[str, str]:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        broken = values.dtype.kind == "f" and values.size <= 64_000_000 and not np.isfinite(values).all()
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, MemoryError, OverflowError) as error:
        return "D019", str(error)[:200]
    return ("D116", "") if broken else ("D117", f"{values.dtype} {list(values.shape)}")


def _raw(look: Look, image: Image.Image, label_map: LabelMap | None) -> np.ndarray | None:
    """uint8 [H, W] by the rules of `read_mask`, or None with the problem noted (several pictures: by the header)."""
    mode = image.mode
    if num_pages(image) > 1:
        return None
    if mode == "L":
        return np.asarray(image)
    if mode == "F":
        finite = np.isfinite(np.asarray(image)).all()
        look.problems.append(("D117", "floating point") if finite else ("D116", ""))
        return None
    try:
        raw = read_mask(look.path, label_map=label_map)
    except DataError as error:
        transparent = "transparent" in str(error)
        code = "D107" if mode == "P" else "D109" if mode[0] == "I" else "D110" if transparent else "D105"
        look.problems.append((code, f"mode {mode}"))
        return None
    fits = {"RGB": "D104", "RGBA": "D111", "LA": "D111"}
    if mode in fits or mode[0] == "I":
        look.problems.append((fits.get(mode, "D108"), f"mode {mode}"))
    return raw


def _measure(look: Look, raw: np.ndarray) -> None:
    counts = cv2.calcHist([raw], [0], None, [256], [0, 256]).ravel()
    look.values = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    largest = max(look.values)
    if largest == 0 or (2 <= largest <= INDEX_MAX and len(look.values) > 2):
        return
    bright = raw > (0 if largest <= INDEX_MAX else largest // 2)
    look.pieces = cv2.connectedComponents(bright.view(np.uint8), connectivity=8)[0] - 1
    look.border = float(min(bright[0].mean(), bright[-1].mean(), bright[:, 0].mean(), bright[:, -1].mean()))
