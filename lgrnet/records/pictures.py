"""Picture files in and out, and what is said about files that cannot be used. No torch."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from lgrnet.records.drafts import drafted

ORIENTATION = 0x0112
"""The tag of EXIF that says how a picture is to be turned."""
MAX_PIXELS = 64_000_000
"""The largest image that is decoded: an 8K frame has 33 million pixels, a decompression bomb far more."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""What Pillow may take a file for; others of its decoders are never run."""
READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that it cannot read."""

_MAX_CHUNKS = 64


class DataError(ValueError):
    """Data on disk are not usable; the message names the files and says what to do."""


def open_picture(path: str | Path, max_pixels: int = MAX_PIXELS, decode: bool = True) -> Image.Image:
    """A decoded image, or its header; the size is checked before anything is decoded.

    Raises DataError, also for a file of several pictures: which of them is meant, it does not say; and for colours of
    16 bits, of which Pillow keeps the upper eight.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            pages, deep = num_pages(image), _loses_bits(image)
            if width * height <= max_pixels and pages == 1 and not deep:
                return image.copy() if decode else image
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({error}); it is missing, damaged, cut short or no image") from error
    if pages > 1:
        raise DataError(f"{path} holds {pages} pictures; expected one: save each that is meant as a file of its own")
    if deep:
        raise DataError(
            f"{path} has colours or transparency with 16 bits per channel ({image.mode}); save it with 8 bits"
        )
    raise DataError(f"{path} has {width} x {height} pixels, more than the {max_pixels} that are decoded")


def num_pages(image: Image.Image) -> int:
    """How many pictures an opened file holds; the previews that cameras put behind a JPEG (MPO) do not count."""
    alone = image.format == "MPO" or not getattr(image, "is_animated", False)
    return 1 if alone else image.n_frames


def _loses_bits(image: Image.Image) -> bool:
    """Whether an opened file has more bits than its decoded picture will have."""
    raw_modes = [name for _, _, _, args in image.tile for name in (args if isinstance(args, tuple) else (args,))]
    return image.mode[0] not in "IF" and any(isinstance(name, str) and ";16" in name for name in raw_modes)


def exif_orientation(path: str | Path) -> int:
    """How a picture says it is to be turned, 1 to 8; 1: not at all. Raises DataError for what is no picture."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(ORIENTATION, 1) or 1
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def is_lossy(path: str | Path) -> bool:
    """Whether a picture is stored with loss, so that small values in it are noise: a JPEG by its name, a WebP by what
    its file says. False for a WebP that cannot be read."""
    name = str(path).lower()
    if not name.endswith(".webp"):
        return name.endswith((".jpg", ".jpeg"))
    try:
        with open(path, "rb") as file:
            return _webp_coding(file) == b"VP8 "
    except OSError:
        return False


def _webp_coding(file: BinaryIO) -> bytes:
    """The name of a WebP's chunk of pixels: `VP8 ` with loss, `VP8L` without; anything else: there is none."""
    file.seek(12)  # RIFF, size, WEBP
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[:4] in (b"VP8 ", b"VP8L"):
            return head[:4]
        size = int.from_bytes(head[4:], "little")
        file.seek(size + size % 2, os.SEEK_CUR)
    return b""


def read_frame(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A frame as uint8 [H, W, 3] RGB, pixels as stored (an EXIF rotation is not applied: masks do not have one).

    Raises DataError naming the file when it is unreadable, truncated, larger than `max_pixels`, of several pictures,
    or has 16 bits.
    """
    image = open_picture(path, max_pixels)
    check_frame_bits(path, image.mode)
    return np.array(image.convert("RGB"))


def check_frame_bits(path: str | Path, mode: str) -> None:
    """Raises DataError for a picture whose mode, as Pillow calls it, has more than 8 bits: a mask may, a frame not."""
    if mode[0] in "IF":
        raise DataError(f"frame {path} has more than 8 bits per channel ({mode}); convert it to 8 bits first")


def frame_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image, of which only the header is read. Raises DataError as `read_frame` does."""
    return open_picture(path, decode=False).size[::-1]


def write_frame(path: str | Path, frame: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB in the format of the suffix (JPEG at quality 95), making the folder where needed."""
    write_image(path, Image.fromarray(np.asarray(frame, np.uint8)), quality=95)


def write_image(path: str | Path, image: Image.Image, **options: int) -> None:
    """Writes a picture, making the folder where needed; the file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path, path.suffix) as draft:
        image.save(draft, **options)
