"""What every annotation format is read into: pictures with regions, a region being the pixels of one object.

Pixels are kept as COCO's run lengths (pycocotools), which are small and exact; everything that a file says is checked
when it is read, so that nothing is written of a file that is wrong further on. Letters: H W pixels.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths

from lgrnet.records import IMAGE_SUFFIXES, MAX_PIXELS, DataError, count_and_name

MAX_BYTES = 2 << 30
"""The largest annotation file that is read into memory."""


@dataclass(frozen=True)
class Region:
    """The pixels of one object in one picture.

    label  name of its class
    rle    {"size": [H, W], "counts": bytes}, compressed as pycocotools does
    layer  a region of a higher layer lies on top
    """

    label: str
    rle: Mapping[str, Any]
    layer: int = 0


@dataclass(frozen=True)
class Picture:
    """One frame and what is annotated in it.

    file     the picture on disk
    video    name of its video
    content  regions; or the file of a raster mask; None: the frame is not annotated
    size     (H, W) that the annotation says, None where it says nothing
    """

    file: Path
    video: str
    content: tuple[Region, ...] | Path | None
    size: tuple[int, int] | None = None


@dataclass
class Annotations:
    """All that one export holds.

    labels    names of the classes, in the order of the export
    pictures  in the order of the videos and their frames
    root      the folder that holds the pictures' files
    raster    value in a raster mask -> label; of formats that hold raster masks
    left_out  kind of thing -> how many of them are no masks and therefore left out
    crowds    how many regions are said to be several objects; they are regions of their class all the same
    """

    labels: tuple[str, ...]
    pictures: list[Picture]
    root: Path
    raster: Mapping[int, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    crowds: int = 0


class Folder:
    """The folder of an export's pictures, of which a name in the export must not lead out.

    stills  True: every picture is a video of its own; False: the pictures of a folder are the frames of a video, and
            only those beside no folder are videos of their own
    """

    def __init__(self, root: Path, stills: bool = False):
        if not root.is_dir():
            raise DataError(f"the pictures are expected in {root}, which is no folder; give it with --images")
        self.root, self.stills = root, stills
        self._inside = root.resolve()
        self._taken: dict[tuple[str, str], str] = {}
        self._homes: dict[str, PurePosixPath] = {}
        self._missing: list[str] = []

    def picture(self, name: str, content: Any, size: tuple[int, int] | None, where: str) -> Picture:
        """The picture of this relative name; raises DataError for names that cannot be. See `check`."""
        file = self.find(name, where)
        return self.place(file, PurePosixPath(name), content, size, where)

    def find(self, name: str, where: str) -> Path:
        """The file of this relative name, which need not be there; raises DataError for one outside of the folder."""
        path = PurePosixPath(name)
        if not name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.name:
            raise DataError(f"{where}: the picture is {name!r}; expected a path inside of {self.root}")
        try:
            os.fsencode(name)
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: the picture is {name!r}; no file can have this name: export it again") from error
        file = self.root / path
        if not file.resolve().is_relative_to(self._inside):
            raise DataError(f"{where}: the picture {name!r} is a link that leads out of {self.root}; put a copy there")
        return file

    def place(self, file: Path, name: PurePosixPath, content: Any, size: tuple[int, int] | None, where: str) -> Picture:
        """The picture in a file, under the name of its video; raises DataError for names that meet, or are hidden."""
        home = name.with_suffix("") if self.stills or len(name.parts) == 1 else name.parent
        video = "_".join(home.parts)
        if name.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{where}: {str(name)!r} is no picture; known are {', '.join(IMAGE_SUFFIXES)}")
        if any(folder.startswith(".") for folder in name.parts):
            raise DataError(
                f"{where}: {str(name)!r} has a name with a dot in front, and hidden files are not read; rename it"
            )
        if len(video.encode(errors="surrogateescape")) > 255:
            raise DataError(f"{where}: {str(name)!r} makes a name of a video above 255 bytes; rename its folders")
        if self._homes.setdefault(video, home) != home:
            raise DataError(f"{where}: {home} and {self._homes[video]} would both be the video {video}; rename one")
        if (other := self._taken.setdefault((video, name.stem), where)) != where:
            raise DataError(f"{where} and {other} are the same frame: {video}/{name.stem}; keep one of them")
        if not file.is_file():
            self._missing.append(str(name))
        return Picture(file, video, content, size)

    def check(self, source: Path) -> None:
        """Raises DataError when pictures that were asked for are not there, naming some."""
        if self._missing:
            raise DataError(
                f"{source} names {count_and_name(self._missing, 'picture')} that {self.root} does not hold; "
                "add them, or give their folder with --images"
            )
        if not self._taken:
            raise DataError(f"{source} names no pictures; nothing can be made of it")


def load_json(path: Path) -> Any:
    """What a JSON file holds; raises DataError for one that is unreadable, too large or no JSON."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has more than {MAX_BYTES} bytes; split it")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as JSON ({error}); export it again") from error


def part(item: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """item[key], which must be of these kinds; raises DataError saying where it is not."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(item, Mapping):
        raise DataError(f"{where}: {_shown(item)} is no JSON object; expected one with {key!r}")
    if key not in item:
        raise DataError(f"{where} has no {key!r}; it has {', '.join(map(repr, list(item)[:8])) or 'nothing'}")
    value = item[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise DataError(f"{where}: {key} is {_shown(value)}; expected {expected}")
    return value


def class_name(name: str, where: str) -> str:
    """The name of a class; DataError for one with half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the class {name!r} is no text; rename it and export again") from error
    return name


def size_of(height: Any, width: Any, where: str) -> tuple[int, int]:
    """(H, W) of a picture; raises DataError unless they are whole, positive and not too large."""
    numbers = finite([height, width], where)
    if min(numbers) < 1 or any(n != int(n) for n in numbers) or numbers[0] * numbers[1] > MAX_PIXELS:
        raise DataError(f"{where}: the size is {_shown(width)} x {_shown(height)}; expected 1 .. {MAX_PIXELS} pixels")
    return int(numbers[0]), int(numbers[1])


def finite(values: Any, where: str) -> list[float]:
    """Numbers; raises DataError for anything else, NaN and infinity."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool | Mapping | list)]
        good = len(numbers) == len(values) and all(map(math.isfinite, numbers))
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise DataError(f"{where} holds {_shown(values)}; expected finite numbers")
    return numbers


def content_of(regions: Sequence[Region | None]) -> tuple[Region, ...] | None:
    """What is drawn in a picture; None, not annotated, where all that is drawn was left out: its lesions are known to
    be there, and not where."""
    drawn = tuple(region for region in regions if region is not None)
    return drawn if drawn or not regions else None


def polygons(label: str, outlines: Sequence[Any], size: tuple[int, int], where: str, layer: int = 0) -> Region:
    """The region of an object made of polygons [x1, y1, x2, y2, ...] in pixels, filled by COCO's rule.

    Raises DataError for less than 3 points, an odd number of numbers, points far outside of the picture, and such that
    are shares of its sides.
    """
    checked = []
    for outline in outlines:
        numbers = finite(outline, f"{where}: its polygon")
        if len(numbers) < 6 or len(numbers) % 2:
            raise DataError(f"{where}: a polygon has {len(numbers)} numbers; expected x and y of 3 points or more")
        limit = 2 * max(size)
        if min(numbers) < -limit or max(numbers) > limit:
            raise DataError(
                f"{where}: a polygon reaches from {min(numbers):g} to {max(numbers):g}, far outside of the picture of "
                f"{size[1]} x {size[0]} pixels; are its points of another size, or in per cent?"
            )
        checked.append(numbers)
    if not checked:
        raise DataError(f"{where}: there is no polygon; expected one or more")
    points = {number for numbers in checked for number in numbers}
    if max(size) > 1 and all(0 <= number <= 1 for number in points) and points - {0, 1}:
        raise DataError(
            f"{where}: all points of its polygons lie in 0 .. 1, the first pixel of {size[1]} x {size[0]}: they look "
            "like shares of the picture's sides; multiply them by its width and height, and export again"
        )
    return Region(label, run_lengths.merge(run_lengths.frPyObjects(checked, *size)), layer)


def raster(label: str, mask: np.ndarray, layer: int = 0) -> Region:
    """The region of a mask, bool [H, W]."""
    return Region(label, run_lengths.encode(np.asfortranarray(mask, np.uint8)), layer)


def pixels(region: Region) -> np.ndarray:
    """bool [H, W]."""
    return run_lengths.decode(dict(region.rle)).astype(bool)


def coco_rle(label: str, rle: Any, size: tuple[int, int], where: str, layer: int = 0) -> Region:
    """The region of COCO run lengths, {"size": [H, W], "counts": list or str}: column by column, background first.

    Raises DataError for another size than the picture's, and counts that are none or do not fill it: decoding such
    would write beyond the mask.
    """
    found = part(rle, "size", list, where)
    if found != list(size):
        raise DataError(f"{where}: its run lengths have the size (height, width) {found}; the picture has {list(size)}")
    counts = part(rle, "counts", (list, str), where)
    lengths = _expanded(counts, where) if isinstance(counts, str) else whole(counts, where)
    filled(lengths, size[0] * size[1], where)
    if isinstance(counts, str):
        return Region(label, {"size": list(size), "counts": counts.encode()}, layer)
    return Region(label, run_lengths.frPyObjects({"size": list(size), "counts": list(map(int, counts))}, *size), layer)


def whole(counts: Any, where: str) -> np.ndarray:
    """Run lengths int64; raises DataError where they are no whole numbers."""
    numbers = np.array(finite(counts, f"{where}: its run lengths"))
    if (numbers != np.floor(numbers)).any() or (np.abs(numbers) > MAX_PIXELS).any():
        raise DataError(f"{where}: its run lengths are no whole numbers of pixels")
    return numbers.astype(np.int64)


def filled(lengths: np.ndarray, expected: int, where: str) -> None:
    """Raises DataError unless run lengths are not negative and make up the expected number of pixels."""
    if (lengths < 0).any() or lengths.sum() != expected:
        total = "are negative" if (lengths < 0).any() else f"make up {lengths.sum()} pixels"
        raise DataError(f"{where}: its run lengths {total}; expected {expected} pixels in all")


def _expanded(text: str, where: str) -> np.ndarray:
    """The run lengths int64 in COCO's string: 5 bits a character, low first, then the sixth says that more follow;
    signed, and from the fourth on the difference to the one before the last."""
    codes = np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.int64) - 48
    more = (codes & 32) > 0
    if not len(codes) or ((codes < 0) | (codes > 63)).any() or more[-1]:
        raise DataError(f"{where}: its run lengths are no string of COCO's, or cut short")
    starts = np.flatnonzero(np.concatenate([[True], ~more[:-1]]))
    sizes = np.diff(np.append(starts, len(codes)))
    if sizes.max() > 7:
        raise DataError(f"{where}: a run length has more than 32 bits")
    place = np.arange(len(codes)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((codes & 31) << 5 * place, starts)
    lengths -= np.where(codes[starts + sizes - 1] & 16, 1, 0) << 5 * sizes
    for first in (1, 2):
        lengths[first::2] = np.cumsum(lengths[first::2])
    return lengths


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
