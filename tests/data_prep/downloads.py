"""Small downloads of the documented shapes, and what one asks of a folder that was made from them."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

JUNK = {"__MACOSX/x/._a.jpg": b"\0\5\26\7", ".DS_Store": b"\0\0\0\1Bud1"}


@cache
def picture(seed: int = 0, size: int = 16, form: str = "JPEG") -> bytes:
    """A picture of noise, different for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    return _saved(Image.fromarray(pixels), form)


@cache
def mask(seed: int = 0, size: int = 16, form: str = "PNG", empty: bool = False) -> bytes:
    """A mask of 0 and 255 with a square in it."""
    values = np.zeros((size, size), np.uint8)
    if not empty:
        values[seed % 8 : seed % 8 + 5, 3:9] = 255
    return _saved(Image.fromarray(values), form)


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_any(kind: str, path: Path, files: Mapping[str, bytes]) -> Path:
    return {"folder": write_folder, "zip": write_zip, "tar": write_tar}[kind](path, files)


def content(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        os.path.relpath(os.path.join(folder, name), root): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(root)
        for name in names
    }


def _saved(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()
