"""Annotations as JSON: COCO, YouTube-VIS, and the boxes of SUN-SEG, which are nearly COCO."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_checks.kinds import Finding
from data_checks.tree import join

NOTE_FILE = "prepared.json"
"""What data_prep writes beside what it has made."""

Size = tuple[float, float]


@dataclass
class Files:
    """What is there to be named.

    names    names, and paths from the folder of the JSON or of the set, of every file -> its path
    alone    names that one file of the set has -> its path
    size_of  path -> (height, width) of the picture, None where it cannot be read
    """

    names: Mapping[str, str]
    alone: Mapping[str, str]
    size_of: Callable[[str], Size | None]


def check_json(rel: str, text: str, files: Files) -> Iterator[Finding]:
    """What is wrong with a JSON of annotations; of another JSON only whether it is one."""
    odd: list[str] = []

    def constant(name: str) -> float:
        odd.append(name)
        return float(name.replace("Infinity", "inf"))

    try:
        data = json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        yield Finding("D158", rel, str(error)[:200])
        return
    found = []
    ours = rel.rpartition("/")[2] == NOTE_FILE  # it counts its images
    if isinstance(data, dict) and ("images" in data or "videos" in data) and not ours:
        found = list(_Checker(rel, data, files).check())
    yield from found
    if odd and not any(finding.code == "D179" for finding in found):
        yield Finding("D159", rel, f"{odd[0]}, {len(odd)} times")


class _Checker:
    """One JSON of annotations; every value in it may be of any type."""

    def __init__(self, rel: str, data: dict, files: Files):
        self.rel, self.data, self.files = rel, data, files
        self.parts: dict[str, list[dict]] = {}

    def _say(self, code: str, detail: str) -> Finding:
        return Finding(code, self.rel, detail)

    def check(self) -> Iterator[Finding]:
        """All of it."""
        media = "images" if "images" in self.data else "videos"
        notes = "annotations" if "annotations" in self.data else "annotation"  # SUN-SEG has it in the singular
        for name in (media, notes, *(["categories"] if notes == "annotations" else [])):
            part = self.data.get(name)
            if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
                yield self._say("D183", f"{name!r} is {type(part).__name__}; expected a list of objects")
            self.parts[name] = [e for e in part if isinstance(e, dict)] if isinstance(part, list) else []
        yield from self._twice("categories", "D185")
        yield from self._twice(media, "D170")
        if notes == "annotations":
            yield from self._twice(notes, "D171")
        yield from self._images(media)
        yield from self._annotations(media, notes)

    def _twice(self, part: str, code: str) -> Iterator[Finding]:
        seen = set()
        for entry in self.parts.get(part, ()):
            key = _id(entry)
            if key is None:
                yield self._say("D183", f"an entry of {part!r} without a usable id")
            elif key in seen:
                yield self._say(code, f"id {key!r}")
            seen.add(key)

    def _images(self, media: str) -> Iterator[Finding]:
        seen: dict[str, object] = {}
        for entry in self.parts[media]:
            names = entry.get("file_name") if media == "images" else entry.get("file_names")
            names = [names] if media == "images" else names
            if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
                yield self._say("D183", f"{media} {_id(entry)!r} without file names")
                continue
            if not names:
                yield self._say("D186", f"video {_id(entry)!r}")
            for name in names:
                if name in seen and seen[name] != _id(entry):
                    yield self._say("D187", f"{name}: ids {seen[name]!r} and {_id(entry)!r}")
                seen.setdefault(name, _id(entry))
                yield from self._file(name, entry)

    def _file(self, name: str, entry: Mapping) -> Iterator[Finding]:
        plain = name.replace("\\", "/")
        if plain.startswith("/") or ".." in PurePosixPath(plain).parts or plain[1:2] == ":":
            yield self._say("D188", name)
            return
        path = self.files.names.get(join(str(Path(self.rel).parent), plain)) or self.files.names.get(plain)
        path = path or self.files.alone.get(PurePosixPath(plain).name)
        if path is None:
            yield self._say("D172", name)
        elif (size := self.files.size_of(path)) and (stated := _size(entry)) and stated != size:
            yield Finding("D182", self.rel, f"{name}: {stated} stated, {size} there (height, width)", (path,))

    def _annotations(self, media: str, notes: str) -> Iterator[Finding]:
        owners = {_id(entry): entry for entry in self.parts[media]}
        kinds = {_id(entry) for entry in self.parts.get("categories", ())}
        key = "id" if notes == "annotation" else "image_id" if media == "images" else "video_id"
        for entry in self.parts[notes]:
            name = f"annotation {_id(entry)!r}"
            owner = owners.get(_id(entry, key))
            if owner is None:
                yield self._say("D173", f"{name}: {key} {entry.get(key)!r}")
            if kinds and _id(entry, "category_id") not in kinds:
                yield self._say("D174", f"{name}: category_id {entry.get('category_id')!r}")
            size = _size(owner or {})
            if media == "images":
                yield from self._object(name, entry.get("segmentation"), entry.get("bbox"), size)
            else:
                yield from self._track(name, entry, owner or {}, size)

    def _track(self, name: str, entry: Mapping, owner: Mapping, size: Size | None) -> Iterator[Finding]:
        frames = owner.get("file_names")
        masks, boxes = entry.get("segmentations"), entry.get("bboxes")
        for part in (masks, boxes):
            if isinstance(part, list) and isinstance(frames, list) and len(part) != len(frames):
                yield self._say("D184", f"{name}: {len(part)} entries, {len(frames)} frames")
        masks, boxes = (part if isinstance(part, list) else [] for part in (masks, boxes))
        for place in range(max(len(masks), len(boxes))):
            mask, box = (part[place] if place < len(part) else None for part in (masks, boxes))
            yield from self._object(f"{name}, frame {place}", mask, box, size)

    def _object(self, name: str, mask: object, box: object, size: Size | None) -> Iterator[Finding]:
        codes = [*_box_codes(box, size)]
        if isinstance(mask, dict):
            codes += _rle_codes(mask, size)
        elif isinstance(mask, list):
            codes += _polygon_codes(mask, size)
            if not codes and _apart(mask, box):
                codes.append("D189")
        elif mask is not None:
            codes.append("D183")
        yield from (self._say(code, name) for code in dict.fromkeys(codes))


def _id(entry: Mapping, key: str = "id") -> int | str | None:
    value = entry.get(key)
    return value if isinstance(value, int | str) else None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(entry: Mapping) -> Size | None:
    size = entry.get("height"), entry.get("width")
    return size if all(map(_number, size)) else None


def _box_codes(box: object, size: Size | None) -> Iterator[str]:
    if box is None:
        return
    if not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)):
        yield "D179"
        return
    x, y, width, height = box
    if width <= 0 or height <= 0:
        yield "D180"
    elif size and (x < -1 or y < -1 or x + width > size[1] + 1 or y + height > size[0] + 1):
        yield "D181"


def _polygon_codes(polygons: Sequence, size: Size | None) -> Iterator[str]:
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not all(map(_number, polygon)):
            yield "D175"
        elif size and not (
            all(-1 <= x <= size[1] + 1 for x in polygon[::2]) and all(-1 <= y <= size[0] + 1 for y in polygon[1::2])
        ):
            yield "D176"


def _apart(polygons: Sequence[Sequence[float]], box: object) -> bool:
    """Whether a box is another than that of the polygons, by more than three pixels and a tenth of its size."""
    if not isinstance(box, list) or not polygons:
        return False
    xs, ys = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    x, y, width, height = box
    differences = (min(xs) - x, min(ys) - y, max(xs) - x - width, max(ys) - y - height)
    return max(map(abs, differences)) > 3 + 0.1 * max(width, height)


def _rle_codes(mask: Mapping, size: Size | None) -> list[str]:
    own, counts = mask.get("size"), mask.get("counts")
    if not isinstance(own, list) or len(own) != 2 or not all(map(_number, own)):
        return ["D178"]
    if size and tuple(own) != tuple(size):
        return ["D177"]
    runs = _runs(counts) if isinstance(counts, str) else counts
    good = isinstance(runs, list) and all(_number(run) and run >= 0 for run in runs) and sum(runs) == own[0] * own[1]
    return [] if good else ["D178"]


def _runs(text: str) -> list[int] | None:
    """The runs of COCO's packed form: 5 bits a sign; from the fourth on, differences to the run two before."""
    runs: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs
