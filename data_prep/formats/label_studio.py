"""Label Studio's JSON export, in and out: brush masks in its own run lengths, and polygons in per cent.

Rectangles, key points, ellipses and video boxes are left out and counted. A task without an annotation is a frame that
is not annotated; one with an empty annotation has an empty mask. The predictions of models are not read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import numpy as np

from data_prep.formats.annotations import (
    Annotations,
    Folder,
    Picture,
    Region,
    class_name,
    content_of,
    finite,
    load_json,
    part,
    pixels,
    polygons,
    raster,
    size_of,
    whole,
)
from data_prep.placing import write_text
from lgrnet.records import DataError, natural_key

_MASKS = {"brushlabels": "brush", "polygonlabels": "polygon"}
_ABOUT_THE_TASK = ("choices", "textarea", "rating", "number", "taxonomy")
_WORD, _SIZES = 8, (4, 8, 12, 16)
_OPAQUE = 127
_UPLOAD = re.compile(r"[0-9a-f]{8}-")


def read_label_studio(path: Path, folder: Folder) -> Annotations:
    """The pictures of a JSON export; raises DataError naming the file and the task that is wrong."""
    tasks = load_json(path)
    if not isinstance(tasks, list):
        raise DataError(f"{path} is no list of tasks; export the project as JSON")
    pictures, labels, seen, left_out = [], set(), set(), Counter()
    for index, task in enumerate(tasks):
        key = task.get("id", index) if isinstance(task, dict) else index
        where = f"{path}: task {index} (id {key!r})"
        if not isinstance(key, int | str) or key in seen:
            raise DataError(f"{where}: its id is there twice, or no id; ids must differ")
        seen.add(key)
        name = _picture_name(part(task, "data", dict, where), folder, where)
        results = _results(task, where)
        content, size = (None, None) if results is None else _regions(results, where, left_out)
        labels |= {region.label for region in content or ()}
        pictures.append(folder.picture(name, content, size, where))
    folder.check(path)
    return Annotations(tuple(sorted(labels, key=natural_key)), pictures, folder.root, left_out=left_out)


def write_label_studio(path: Path, labels: Sequence[str], pictures: Iterable[Picture]) -> None:
    """Writes pictures (with regions and sizes) as tasks for brush labels: one brush mask per class and picture."""
    tasks = []
    for index, picture in enumerate(pictures, start=1):
        results = [_brush(region, f"{index}-{labels.index(region.label) + 1}") for region in picture.content or ()]
        annotation = {"id": index, "result": results, "was_cancelled": False}
        file = quote(f"{picture.video}/{picture.file.name}", errors="surrogateescape")
        tasks.append(
            {
                "id": index,
                "data": {"image": f"/data/local-files/?d={file}"},
                "annotations": [] if picture.content is None else [annotation],
            }
        )
    write_text(path, json.dumps(tasks, separators=(",", ":")))


def packed(values: np.ndarray) -> list[int]:
    """Bytes as Label Studio's run lengths (rle-pack): the number of values in 32 bits, the bits of a value - 1 in 5,
    four bit widths - 1 in 4 each; then chunks: 1 for a run or 0 for values as they are, the number of the width in 2
    bits, the length - 1 in that width, and the value or values. Written are runs only."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    bits = [f"{len(values):032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    longest = 1 << _SIZES[-1]
    for start, length in zip(starts.tolist(), np.diff(np.append(starts, len(values))).tolist(), strict=True):
        value = f"{values[start]:08b}"
        for done in range(0, length, longest):
            count = min(longest, length - done) - 1
            place = next(i for i, size in enumerate(_SIZES) if count < 1 << size)
            bits.append(f"1{place:02b}{count:0{_SIZES[place]}b}{value}")
    text = "".join(bits)
    return np.packbits(np.frombuffer(text.encode(), np.uint8) - ord("0")).tolist()


def unpacked(rle: Any, expected: int, where: str) -> np.ndarray:
    """The bytes, uint8 [expected], of Label Studio's run lengths; raises DataError for damaged ones."""
    numbers = whole(rle, where)
    if len(numbers) < 8 or (numbers < 0).any() or (numbers > 255).any():
        raise DataError(f"{where}: its rle is no list of bytes, or empty")
    bits = np.unpackbits(numbers.astype(np.uint8))
    place = 0

    def read(width: int) -> int:
        nonlocal place
        if place + width > len(bits):
            raise DataError(f"{where}: its run lengths are cut short")
        value = int("".join(map(str, bits[place : place + width])), 2)
        place += width
        return value

    total, word = read(32), read(5) + 1
    if total != expected or word != _WORD:
        raise DataError(f"{where}: its run lengths make up {total} values of {word} bits; expected {expected} of 8")
    sizes, values, done = [read(4) + 1 for _ in range(4)], np.empty(total, np.uint8), 0
    while done < total:
        run = read(1)
        count = read(sizes[read(2)]) + 1
        if done + count > total or (not run and place + count * _WORD > len(bits)):
            raise DataError(f"{where}: its run lengths are damaged: they lead beyond the picture, or are cut short")
        if run:
            values[done : done + count] = read(_WORD)
        else:
            values[done : done + count] = np.packbits(bits[place : place + count * _WORD])
            place += count * _WORD
        done += count
    return values


def _brush(region: Region, key: str) -> dict[str, Any]:
    mask = pixels(region)
    return {
        "id": key,
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": packed(np.repeat(np.where(mask.ravel(), np.uint8(255), np.uint8(0)), 4)),
            "brushlabels": [region.label],
        },
    }


def _results(task: dict, where: str) -> list | None:
    """The results of the one annotation of a task, None where nobody annotated it."""
    listed = part(task, "annotations", list, where)
    if wrong := [item for item in listed if not isinstance(item, dict)]:
        raise DataError(f"{where}: its annotation {wrong[0]!r:.80} is no JSON object; export the annotations in full")
    made = [item for item in listed if not item.get("was_cancelled")]
    chosen = [item for item in made if item.get("ground_truth")] or made
    if len(chosen) > 1:
        raise DataError(f"{where} has {len(chosen)} annotations; mark one as ground truth, or export one only")
    return part(chosen[0], "result", list, where) if chosen else None


def _regions(
    results: list, where: str, left_out: Counter[str]
) -> tuple[tuple[Region, ...] | None, tuple[int, int] | None]:
    regions, sizes = [], set()
    for index, result in enumerate(results):
        place = f"{where}, result {index}"
        kind = part(result, "type", str, place)
        if kind not in _MASKS:
            if kind.startswith(("bitmask", "vector")):
                raise DataError(f"{place} is of type {kind!r}, which is not read; use brush or polygon labels")
            if kind not in _ABOUT_THE_TASK:
                left_out[f"results of type {kind}"] += 1
                regions.append(None)
            continue
        size = size_of(result.get("original_height"), result.get("original_width"), place)
        if result.get("image_rotation"):
            raise DataError(f"{place}: its picture is rotated by {result['image_rotation']}; annotate it as stored")
        sizes.add(size)
        regions.append(_region(part(result, "value", dict, place), kind, size, place))
    if len(sizes) > 1:
        raise DataError(f"{where}: its results are of pictures of different sizes (height, width): {sorted(sizes)}")
    return content_of(regions), next(iter(sizes), None)


def _region(value: dict, kind: str, size: tuple[int, int], where: str) -> Region:
    labels = part(value, kind, list, where)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise DataError(f"{where} has the labels {labels}; expected one")
    class_name(labels[0], where)
    if kind == "polygonlabels":
        points = [finite(point, f"{where}: a point") for point in part(value, "points", list, where)]
        if any(len(point) != 2 for point in points):
            raise DataError(f"{where}: a point of its polygon has not two numbers")
        scaled = [side * number / 100 for point in points for side, number in zip(size[::-1], point, strict=True)]
        return polygons(labels[0], [scaled], size, where)
    if value.get("format") != "rle":
        raise DataError(f"{where}: its brush has the format {value.get('format')!r}; expected 'rle'")
    rgba = unpacked(part(value, "rle", list, where), 4 * size[0] * size[1], where)
    return raster(labels[0], rgba.reshape(*size, 4)[..., 3] > _OPAQUE)


def _picture_name(data: dict, folder: Folder, where: str) -> str:
    """The name in the folder of pictures of what a task shows: as much of the end of its address as is there."""
    address = data.get("image") or next((value for value in data.values() if isinstance(value, str)), None)
    if not isinstance(address, str):
        raise DataError(f"{where}: its data name no image; they are {data!r:.80}")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise DataError(f"{where}: its image {address!r} is no address ({error})") from error
    served = parse_qs(parts.query, errors="surrogateescape").get("d")
    path = served[0].lstrip("/") if served else unquote(parts.path, errors="surrogateescape")
    names = path.split("/")
    ends = (names[first:] for first in range(len(names)) if names[first])
    known = ["/".join(end) for end in ends if ".." not in end]
    known.append(_UPLOAD.sub("", names[-1], count=1))
    local = served or not (parts.scheme or path.startswith("/"))
    return next((name for name in known if name and folder.find(name, where).is_file()), path if local else names[-1])
