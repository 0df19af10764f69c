"""CVAT XML 1.1, in and out: "for images" and "for video" in, "for images" out.

Polygons and masks are read; boxes, points, lines and other shapes are left out and counted, and a picture of nothing
else is not annotated. One that the file names and nothing is drawn in has an empty mask, unless it has the tag "not
annotated".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from data_prep.formats.annotations import (
    MAX_BYTES,
    Annotations,
    Folder,
    Picture,
    Region,
    content_of,
    filled,
    finite,
    pixels,
    polygons,
    raster,
    size_of,
    whole,
)
from data_prep.placing import write_text
from lgrnet.records import DataError, frame_size, images_by_stem

NOT_ANNOTATED = "not annotated"
_NUMBERED = re.compile(r"frame_(\d+)")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_cvat(path: Path, folder: Folder) -> Annotations:
    """The pictures of a CVAT file; raises DataError naming the file and the item that is wrong.

    Tracks are frames of one video: the pictures of `folder`, taken in order, or by their number when they are named
    frame_000012 as CVAT does.
    """
    root = _load(path)
    labels = _labels(root)
    left_out: Counter[str] = Counter()
    if root.find("track") is not None:
        pictures = _tracks(root, path, folder, labels, left_out)
    else:
        pictures, seen = [], set()
        for index, image in enumerate(root.iter("image")):
            where = f"{path}: image {index} ({image.get('name')!r})"
            if (key := image.get("id")) is not None and (key, image.get("task_id")) in seen:
                raise DataError(f"{where}: its id {key!r} is there twice; ids must differ")
            seen.add((key, image.get("task_id")))
            size = size_of(image.get("height"), image.get("width"), where)
            drawn = [
                _region(shape, shape.get("label"), labels, size, f"{where}, shape {place}", left_out)
                for place, shape in enumerate(image)
                if shape.tag != "tag"
            ]
            skipped = any(tag.get("label") == NOT_ANNOTATED for tag in image.findall("tag"))
            content = None if skipped else content_of(drawn)
            pictures.append(folder.picture(image.get("name") or "", content, size, where))
    folder.check(path)
    return Annotations(
        tuple(label for label in labels if label != NOT_ANNOTATED), pictures, folder.root, left_out=left_out
    )


def write_cvat(path: Path, labels: Sequence[str], pictures: Iterable[Picture]) -> None:
    """Writes pictures (with regions and sizes) as CVAT 1.1 for images: one mask per class and picture."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    listed = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for label in (*labels, NOT_ANNOTATED):
        entry = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(entry, "name").text = _legal(label)
        ElementTree.SubElement(entry, "type").text = "tag" if label == NOT_ANNOTATED else "mask"
    for index, picture in enumerate(pictures):
        name = _legal(f"{picture.video}/{picture.file.name}")
        sides = {"width": str(picture.size[1]), "height": str(picture.size[0])}
        image = ElementTree.SubElement(root, "image", {"id": str(index), "name": name, **sides})
        if picture.content is None:
            ElementTree.SubElement(image, "tag", {"label": NOT_ANNOTATED, "source": "manual"})
        for region in picture.content or ():
            ElementTree.SubElement(image, "mask", {"label": region.label, **_cropped(pixels(region))})
    write_text(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True))


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type, and with it every entity that a file could define to grow or to read other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise DataError("it has a DOCTYPE, which CVAT does not write and which could make it grow without end")


def _load(path: Path) -> ElementTree.Element:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"it has more than {MAX_BYTES} bytes; split it")
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} cannot be read as CVAT XML ({error}); export it again") from error
    if root.tag != "annotations":
        raise DataError(f"{path} is <{root.tag}>; expected <annotations>, as CVAT for images or for video has")
    return root


def _labels(root: ElementTree.Element) -> dict[str, None]:
    """The labels in the order of the task; of a file that lists none, those of its shapes."""
    meta = root.find("meta")
    listed = [] if meta is None else [entry.findtext("name") for entry in meta.iter("label")]
    if not any(listed):
        listed = sorted({item.get("label") for item in root.iter() if item.get("label")})
    return dict.fromkeys(label for label in listed if label)


def _tracks(
    root: ElementTree.Element, path: Path, folder: Folder, labels: dict[str, None], left_out: Counter[str]
) -> list[Picture]:
    frames, name, annotated = _frames(root, path, folder)
    regions: dict[int, list[Region | None]] = defaultdict(list)
    seen: set[str | None] = set()
    tasks = sorted({track.get("task_id") for track in root.iter("track")} - {None})
    if len(tasks) > 1:
        raise DataError(f"{path} has tracks of the tasks {', '.join(tasks)}; export every task by itself")
    for track in root.iter("track"):
        where = f"{path}: track {track.get('id')!r}"
        if track.get("id") in seen:
            raise DataError(f"{where}: its id is there twice; ids must differ")
        seen.add(track.get("id"))
        for shape in track:
            number = _whole(shape, "frame", where)
            if shape.get("outside") == "1":
                continue
            if number not in frames:
                raise DataError(f"{where} is in frame {number}, but {folder.root} has the frames {_span(frames)}")
            region = _region(shape, track.get("label"), labels, frames[number][1], f"{where}, frame {number}", left_out)
            regions[number].append(region)
    return [
        folder.place(
            file,
            PurePosixPath(name, file.name),
            content_of(regions[number]) if number in annotated else None,
            size,
            f"{path}: frame {number}",
        )
        for number, (file, size) in frames.items()
    ]


def _frames(
    root: ElementTree.Element, path: Path, folder: Folder
) -> tuple[dict[int, tuple[Path, tuple[int, int]]], str, Collection[int]]:
    """Number -> frame and its size, the name of the video, and which numbers the file is about."""
    files = list(images_by_stem(folder.root).values())
    if not files:
        raise DataError(f"{folder.root} holds no pictures; a CVAT file for video needs its frames, see --images")
    numbers, annotated = _numbers(root, [file.stem for file in files], path, folder)
    original = root.find("meta//original_size")
    if original is not None:
        size = size_of(original.findtext("height"), original.findtext("width"), f"{path}: original_size")
    else:
        size = frame_size(files[0])
    name = root.findtext("meta//task/name") or root.findtext("meta//source") or path.parent.name
    name = re.sub(r"[/\0]", "_", name).lstrip(".") or "video"
    return {number: (file, size) for number, file in zip(numbers, files, strict=True)}, name, annotated


def _numbers(
    root: ElementTree.Element, stems: Sequence[str], path: Path, folder: Folder
) -> tuple[Sequence[int], Collection[int]]:
    """The numbers of a video's pictures, and those that the file is about: all, where it does not say.

    Pictures are numbered by their names where these hold all frames that the file speaks of, or some of them and no
    others; else they are these frames in order. Raises DataError where there are not as many.
    """
    matches = [_NUMBERED.fullmatch(stem) for stem in stems]
    named = [int(match[1]) for match in matches] if all(matches) else None
    ends = [root.findtext(f"meta//{key}") for key in ("start_frame", "stop_frame")]
    if not all(end and end.strip().isdecimal() for end in ends):
        numbers = range(len(stems)) if named is None else named
        return numbers, numbers
    step = re.search(r"step\s*=\s*(\d+)", root.findtext("meta//frame_filter") or "")
    about = range(int(ends[0]), int(ends[1]) + 1, max(1, int(step[1]) if step else 1))
    if named is not None and (set(named).issuperset(about) or set(named).issubset(about)):
        return named, about
    if len(stems) == len(about) and (named is None or named[0] == 1):  # ffmpeg counts from 1
        return about, about
    if named is None and len(stems) > about.stop - 1:
        return range(len(stems)), about
    raise DataError(
        f"{path} is about the {len(about)} frames {about[0]} .. {about[-1]}, but {folder.root} has {len(stems)} "
        f"pictures{'' if named is None else f' with the numbers {min(named)} .. {max(named)}'}; give those of the task"
    )


def _region(
    shape: ElementTree.Element,
    label: str | None,
    labels: dict[str, None],
    size: tuple[int, int],
    where: str,
    left_out: Counter[str],
) -> Region | None:
    if label not in labels or label == NOT_ANNOTATED:
        raise DataError(f"{where} has the unknown label {label!r}; the file lists {', '.join(labels)}")
    layer = _whole(shape, "z_order", where) if "z_order" in shape.attrib else 0
    if shape.tag == "polygon":
        points = [point.split(",") for point in (shape.get("points") or "").split(";")]
        if wrong := [point for point in points if len(point) != 2]:
            raise DataError(f"{where}: the point {','.join(wrong[0])!r} of its polygon is no x,y of finite numbers")
        return polygons(label, [[number for point in points for number in point]], size, where, layer)
    if shape.tag == "mask":
        return raster(label, _mask(shape, size, where), layer)
    left_out[f"shapes of kind {shape.tag}"] += 1
    return None


def _mask(shape: ElementTree.Element, size: tuple[int, int], where: str) -> np.ndarray:
    """bool [H, W] of run lengths within a box: row by row, background first."""
    left, top, width, height = (_whole(shape, key, where) for key in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[1] or top + height > size[0]:
        raise DataError(
            f"{where}: its mask of {width} x {height} pixels at ({left}, {top}) is not inside of the picture of "
            f"{size[1]} x {size[0]}"
        )
    counts = whole((shape.get("rle") or "").split(","), where)
    filled(counts, width * height, where)
    mask = np.zeros(size, bool)
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    mask[top : top + height, left : left + width] = inside
    return mask


def _cropped(mask: np.ndarray) -> dict[str, str]:
    """The attributes of a mask element for a mask, bool [H, W], that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, height, width = rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    flat = mask[top : top + height, left : left + width].ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))  # a first run of length 0 where it starts with foreground
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]]))
    box = {"left": left, "top": top, "width": width, "height": height, "z_order": 0}
    return {"source": "manual", "rle": ", ".join(map(str, counts)), **{key: str(value) for key, value in box.items()}}


def _whole(item: ElementTree.Element, key: str, where: str) -> int:
    number = finite([item.get(key)], f"{where}: {key}")[0]
    if number != int(number):
        raise DataError(f"{where}: {key} is {number}; expected a whole number")
    return int(number)


def _legal(text: str) -> str:
    if _NOT_XML.search(text):
        raise DataError(f"{text!r} holds characters that XML cannot; rename it")
    return text


def _span(frames: dict[int, object]) -> str:
    return f"{min(frames)} .. {max(frames)}"
