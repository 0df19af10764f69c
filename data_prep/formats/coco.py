"""COCO instances and YouTube-VIS, in and out.

COCO: {"images", "annotations", "categories"}, a segmentation being polygons or run lengths. YouTube-VIS: {"videos",
"annotations", "categories"}, an annotation being an object with a segmentation, or null, for every frame of its video.
A picture that the file names and nothing is annotated in has an empty mask, unless the file says "annotated": false.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as run_lengths

from data_prep.formats.annotations import (
    Annotations,
    Folder,
    Picture,
    Region,
    class_name,
    coco_rle,
    content_of,
    finite,
    load_json,
    part,
    polygons,
    size_of,
)
from data_prep.placing import write_text
from lgrnet.records import DataError

_BOXES = "annotations with a box and no mask"


def read_coco(path: Path, folder: Folder) -> Annotations:
    """The pictures of a COCO file of instances; raises DataError naming the file and the item that is wrong."""
    data = load_json(path)
    labels = _labels(data, path)
    images = _listed(data, "image", path)
    regions: dict[Any, list[Region | None]] = defaultdict(list)
    left_out, crowds = Counter(), 0
    for where, item, key in _objects(data, "image", images, path):
        label = _label(item, labels, where)
        _check_boxes([item.get("bbox")], where)
        region = _region(label, item.get("segmentation"), images[key][1], where)
        left_out[_BOXES] += region is None
        crowds += region is not None and item.get("iscrowd") == 1
        regions[key].append(region)
    pictures = []
    for key, (image, size, where) in images.items():
        content = content_of(regions[key]) if _annotated(image, where) else None
        pictures.append(folder.picture(part(image, "file_name", str, where), content, size, where))
    folder.check(path)
    return Annotations(tuple(labels.values()), pictures, folder.root, left_out=left_out, crowds=crowds)


def read_youtube_vis(path: Path, folder: Folder) -> Annotations:
    """The frames of a YouTube-VIS file; raises DataError naming the file and the item that is wrong."""
    data = load_json(path)
    labels = _labels(data, path)
    videos = _listed(data, "video", path)
    regions: dict[tuple[Any, int], list[Region | None]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for where, item, key in _objects(data, "video", videos, path):
        label, (video, size, place) = _label(item, labels, where), videos[key]
        _check_boxes(part(item, "bboxes", list, where) if item.get("bboxes") else (), where)
        masks, frames = part(item, "segmentations", list, where), part(video, "file_names", list, place)
        if len(masks) != len(frames):
            raise DataError(f"{where} has {len(masks)} segmentations; its video {key!r} has {len(frames)} frames")
        for frame, mask in enumerate(masks):
            if mask is None:
                continue
            region = _region(label, mask, size, f"{where}, frame {frame}")
            left_out[_BOXES] += region is None
            regions[key, frame].append(region)
    pictures, owners = [], dict[str, str]()
    for key, (video, size, where) in videos.items():
        names = part(video, "file_names", list, where)
        said = video.get("annotated", [True] * len(names))
        if not isinstance(said, list) or len(said) != len(names):
            raise DataError(f'{where}: "annotated" is no list of {len(names)} values')
        for frame, name in enumerate(names):
            content = content_of(regions[key, frame]) if said[frame] else None
            if not isinstance(name, str):
                raise DataError(f"{where}: the name of frame {frame} is {name!r}; expected text")
            pictures.append(folder.picture(name, content, size, f"{where}, frame {frame}"))
        if not folder.stills:
            _check_one_folder(pictures[len(pictures) - len(names) :], owners, where)
    folder.check(path)
    return Annotations(tuple(labels.values()), pictures, folder.root, left_out=left_out)


def _check_one_folder(frames: Sequence[Picture], owners: dict[str, str], where: str) -> None:
    """Raises DataError unless the frames of a video are in a folder of their own, by which videos are told here.

    owners  folder -> the video that it belongs to; this one's is added
    """
    folders = sorted({picture.video for picture in frames})
    if len(folders) > 1 or any(owners.setdefault(name, where) != where for name in folders):
        raise DataError(f"{where} has its frames in {', '.join(folders[:3])}; expected one folder of its own")


def write_coco(path: Path, labels: Sequence[str], pictures: Iterable[Picture]) -> None:
    """Writes pictures (with regions and sizes) as COCO instances: one run-length object per class and picture."""
    images, annotations = [], []
    for key, picture in enumerate(pictures, start=1):
        height, width = picture.size
        image = {"id": key, "file_name": f"{picture.video}/{picture.file.name}", "height": height, "width": width}
        images.append(image if picture.content is not None else {**image, "annotated": False})
        for region in picture.content or ():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": labels.index(region.label) + 1,
                    "segmentation": _text(region),
                    "area": int(run_lengths.area(region.rle)),
                    "bbox": [float(number) for number in run_lengths.toBbox(region.rle)],
                    "iscrowd": 0,
                }
            )
    _write(path, {"images": images, "annotations": annotations, "categories": _categories(labels)})


def write_youtube_vis(path: Path, labels: Sequence[str], pictures: Iterable[Picture]) -> None:
    """Writes pictures, video after video, as YouTube-VIS: one object per class and video."""
    videos: dict[str, dict[str, Any]] = {}
    tracks: dict[tuple[str, str], dict[int, Region]] = defaultdict(dict)
    for picture in pictures:
        height, width = picture.size
        video = videos.setdefault(
            picture.video,
            {"id": len(videos) + 1, "height": height, "width": width, "length": 0, "file_names": [], "annotated": []},
        )
        for region in picture.content or ():
            tracks[picture.video, region.label][video["length"]] = region
        video["length"] += 1
        video["file_names"].append(f"{picture.video}/{picture.file.name}")
        video["annotated"].append(picture.content is not None)
    annotations = [
        _track(key, videos[video], labels.index(label) + 1, frames)
        for key, ((video, label), frames) in enumerate(tracks.items(), start=1)
    ]
    for video in videos.values():
        if all(video["annotated"]):
            del video["annotated"]
    _write(path, {"videos": list(videos.values()), "annotations": annotations, "categories": _categories(labels)})


def _items(data: Any, key: str, path: Path) -> Iterable[tuple[str, dict]]:
    """Where an item stands, and the item; an item with an id is named by it."""
    for index, item in enumerate(part(data, key, list, str(path))):
        where = f"{path}: {key}[{index}]"
        if not isinstance(item, dict):
            raise DataError(f"{where} is {item!r}; expected an object")
        yield f"{where} (id {item['id']!r})" if "id" in item else where, item


def _listed(data: Any, kind: str, path: Path) -> dict[Any, tuple[dict, tuple[int, int], str]]:
    """Id -> item, size and place of each image or video."""
    listed: dict[Any, tuple[dict, tuple[int, int], str]] = {}
    for where, item in _items(data, f"{kind}s", path):
        key = _identity(item, listed, where)
        listed[key] = item, size_of(item.get("height"), item.get("width"), where), where
    return listed


def _objects(data: Any, kind: str, listed: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, dict, Any]]:
    """Where an annotation stands, the annotation, and the id of the image or video that it is of."""
    seen: set[Any] = set()
    for where, item in _items(data, "annotations", path):
        seen.add(_identity(item, seen, where))
        key = part(item, f"{kind}_id", (int, str), where)
        if key not in listed:
            raise DataError(f"{where} is of {kind} {key!r}, which {path} does not list")
        yield where, item, key


def _identity(item: dict, seen: Any, where: str) -> Any:
    key = part(item, "id", (int, str), where)
    if key in seen:
        raise DataError(f"{where}: its id {key!r} is there twice; ids must differ")
    return key


def _labels(data: Any, path: Path) -> dict[Any, str]:
    labels: dict[Any, str] = {}
    for where, item in _items(data, "categories", path):
        key, name = _identity(item, labels, where), class_name(part(item, "name", str, where), where)
        if name in labels.values():
            raise DataError(f"{where}: the category {name!r} is there twice; names must differ")
        labels[key] = name
    return labels


def _label(item: dict, labels: dict[Any, str], where: str) -> str:
    key = part(item, "category_id", (int, str), where)
    if key not in labels:
        raise DataError(f"{where} has the unknown category {key!r}; the file lists {list(labels)}")
    return labels[key]


def _check_boxes(boxes: Iterable[Any], where: str) -> None:
    """Boxes are not used; but a file whose boxes are no numbers was written by something that is broken."""
    for box in boxes:
        if box is not None and len(finite(box, f"{where}: its box")) not in (0, 4):
            raise DataError(f"{where}: its box is {box}; expected x, y, width, height")


def _annotated(image: dict, where: str) -> bool:
    if not isinstance(said := image.get("annotated", True), bool):
        raise DataError(f'{where}: "annotated" is {said!r}; expected true or false')
    return said


def _region(label: str, segmentation: Any, size: tuple[int, int], where: str) -> Region | None:
    """The region of a segmentation, None where there is none."""
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, dict):
        return coco_rle(label, segmentation, size, where)
    if not isinstance(segmentation, list) or not all(isinstance(outline, list) for outline in segmentation):
        raise DataError(f"{where}: its segmentation is neither a list of polygons nor run lengths")
    return polygons(label, segmentation, size, where)


def _text(region: Region) -> dict[str, Any]:
    return {"size": list(region.rle["size"]), "counts": region.rle["counts"].decode("ascii")}


def _categories(labels: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": index, "name": label} for index, label in enumerate(labels, start=1)]


def _track(key: int, video: dict[str, Any], category: int, frames: dict[int, Region]) -> dict[str, Any]:
    shown = [frames.get(index) for index in range(video["length"])]
    return {
        "id": key,
        "video_id": video["id"],
        "category_id": category,
        "segmentations": [region and _text(region) for region in shown],
        "bboxes": [region and [float(number) for number in run_lengths.toBbox(region.rle)] for region in shown],
        "areas": [region and int(run_lengths.area(region.rle)) for region in shown],
        "height": video["height"],
        "width": video["width"],
        "iscrowd": 0,
    }


def _write(path: Path, data: dict[str, Any]) -> None:
    write_text(path, json.dumps(data, separators=(",", ":")))
