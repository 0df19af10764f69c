"""What one picture file is: read once, judged alone. Runs in worker processes."""

from __future__ import annotations

import errno
import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lgrnet.records import MAX_PIXELS
from lgrnet.records.pictures import FORMATS, ORIENTATION, READ_ERRORS, num_pages

THUMB = 32
"""Side of the grey thumbnail by which pictures are compared."""
MAX_BYTES = 1 << 29
"""The largest picture file that is read."""

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
DECODE_ERRORS = (*READ_ERRORS, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
_TEXTS = (b"version https://git-lfs", b"<!doctype", b"<html", b"<?xml", b"<head", b"{")


class Unreadable(ValueError):
    """A picture file that cannot be used; `code` says why."""

    def __init__(self, code: str, detail: str):
        super().__init__(detail)
        self.code, self.detail = code, detail


@dataclass
class Look:
    """What was seen in one picture file.

    size       (height, width), None where it cannot be read
    digest     of the file's bytes
    thumb      grey uint8 [32, 32] as bytes; empty where it was not made
    extrema    smallest and largest grey value, of a frame in its reduced form
    lossy      mask: whether it was stored with loss
    problems   (code, detail)
    values     mask: raw value -> its number of pixels
    pieces     mask: connected parts of the foreground
    border     mask: the smallest share of one of the four borders that is foreground
    """

    path: str
    size: tuple[int, int] | None = None
    mode: str = ""
    format: str = ""
    digest: bytes = b""
    thumb: bytes = b""
    extrema: tuple[int, int] = (0, 255)
    lossy: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=dict)
    pieces: int = 0
    border: float = 0.0

    @property
    def foreground(self) -> float:
        """The share of a mask above 0, whatever the value."""
        total = sum(self.values.values())
        return 1 - self.values.get(0, 0) / total if total else 0.0


def open_bytes(path: str) -> tuple[bytes, Image.Image]:
    """The bytes of a picture file and its header, with the size checked. Raises Unreadable."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise Unreadable("D020", f"the file has more than {MAX_BYTES >> 20} MB")
        data = Path(path).read_bytes()
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        raise Unreadable("D002" if denied else "D019", error.strerror or str(error)) from error
    if not data:
        raise Unreadable("D001", "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise Unreadable("D020", str(error)) from error
    except DECODE_ERRORS as error:
        raise Unreadable(*_no_picture(data)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unreadable("D020", f"{width} x {height} pixels, more than {MAX_PIXELS}")
    return data, image


def _no_picture(data: bytes) -> tuple[str, str]:
    head = data[:64].lstrip().lower()
    if head.startswith(_TEXTS):
        return "D017", f"it begins with {data[:24]!r}"
    magics = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
    known = next((name for magic, name in magics.items() if data.startswith(magic)), "")
    if known:
        return ("D018" if len(data) < 1024 else "D019"), f"{known} of {len(data)} bytes without a usable head"
    others = {
        b"GIF8": "GIF",
        b"\0\0\0\x0cjP": "JPEG 2000",
        b"\xff\x4f\xff\x51": "JPEG 2000",
        b"P5": "PGM",
        b"P6": "PPM",
    }
    other = next((name for magic, name in others.items() if data.startswith(magic)), "")
    if other or data[4:8] == b"ftyp":
        return "D015", other or "HEIC, AVIF or a video"
    return "D016", f"it begins with {data[:8]!r}"


def decode(image: Image.Image) -> None:
    """Decodes in place. Raises Unreadable for files that are cut short or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except DECODE_ERRORS as error:
        raise Unreadable(*damage(error)) from error


def damage(error: Exception) -> tuple[str, str]:
    """(code, detail) of what a decoder said."""
    cut = any(word in str(error).lower() for word in ("truncated", "not enough", "unexpected end", "incomplete"))
    return "D018" if cut else "D019", str(error)[:200]


def look_at_frame(path: str, closely: bool = True) -> Look:
    """A frame, decoded at an eighth of its size where it is a JPEG.

    closely  decode it whole and look for the comb of interlaced video, too
    """
    look, grey = Look(path), None
    with damage_noted(look):
        data, image = open_bytes(path)
        read_header(look, data, image)
        look.problems += _frame_header(image)
        if not closely:
            image.draft("L", (3 * THUMB, 3 * THUMB))
        decode(image)
        grey = grey_values(image)
    if grey is None:
        return look
    look.thumb = thumbnail(grey)
    look.extrema = int(grey.min()), int(grey.max())
    look.problems += _frame_pixels(look, grey, closely)
    return look


@contextmanager
def damage_noted(look: Look) -> Iterator[None]:
    """Notes why a file cannot be read, and goes on behind the block."""
    try:
        yield
    except Unreadable as error:
        look.problems.append((error.code, error.detail))
    except DECODE_ERRORS as error:
        look.problems.append(damage(error))


def read_header(look: Look, data: bytes, image: Image.Image) -> None:
    """Notes what the head of the file says."""
    look.size, look.mode, look.format = image.size[::-1], image.mode, image.format or ""
    look.digest = hashlib.blake2b(data, digest_size=16).digest()
    if Path(look.path).suffix.lower() not in SUFFIXES.get(look.format, ()):
        look.problems.append(("D014", f"it is a {look.format}"))
    if (pages := num_pages(image)) > 1:
        look.problems.append(("D080", f"{pages} pictures"))


def _frame_header(image: Image.Image) -> list[tuple[str, str]]:
    found, (width, height) = [], image.size
    turned = image.getexif().get(ORIENTATION, 1)
    if turned not in (0, 1):
        found.append(("D064", f"orientation {turned}"))
    by_mode = {"CMYK": "D070", "RGBA": "D073", "LA": "D073", "PA": "D073", "P": "D074"}
    if image.mode in by_mode:
        found.append((by_mode[image.mode], f"mode {image.mode}"))
    elif image.mode[0] in "IF":
        found.append(("D072", f"mode {image.mode}"))
    if min(width, height) < 32:
        found.append(("D079", f"{width} x {height} pixels"))
    elif max(width, height) > 4 * min(width, height):
        found.append(("D078", f"{width} x {height} pixels"))
    return found


def grey_values(image: Image.Image) -> np.ndarray:
    """uint8 [H, W]; more bits or floating point are stretched to its range."""
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, np.float32))
        span = float(values.max() - values.min()) or 1.0
        return np.uint8(np.clip((values - values.min()) / span * 255, 0, 255))
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))


def thumbnail(grey: np.ndarray) -> bytes:
    """The thumbnail of grey values uint8 [H, W]."""
    return cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).tobytes()


def _frame_pixels(look: Look, grey: np.ndarray, whole: bool) -> list[tuple[str, str]]:
    low, high = look.extrema
    if high <= 16:
        return [("D076", f"grey values {low} to {high}")]
    if high - low <= 2:
        return [("D075", f"grey values {low} to {high}")]
    if ((grey <= 8) | (grey >= 247)).mean() > 0.98 and 0.003 < (grey >= 247).mean() < 0.997:
        return [("D083", "nearly all pixels are black or white")]
    if whole and grey.shape[0] >= 64:
        rows = grey.astype(np.int16)
        comb, step = np.abs(rows[1:-1] - rows[:-2]).mean(), np.abs(rows[2:] - rows[:-2]).mean()
        if comb > 3 and comb > 1.3 * step:
            return [("D077", f"neighbouring lines differ by {comb:.1f}, every other one by {step:.1f}")]
    return []
