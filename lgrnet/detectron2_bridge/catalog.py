"""Data sets of ours by name in detectron2's catalogs; a disk is looked at when a catalog is asked, never before."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from lgrnet.data.datasets import MICCAI_VPS_SPLITS, SUNSEG_SPLITS, miccai_vps, sunseg, ufuv, video_folder
from lgrnet.records import DataError, VideoRecord, frame_size

EVALUATOR_TYPE = "lgrnet"
IGNORED = 255
"""The value of pixels without an annotation in `sem_seg`."""

_OURS: dict[str, Callable[[], list[dict]]] = {}


def register_records(
    name: str, records: Callable[[], Sequence[VideoRecord]], thing_classes: Sequence[str] = ("lesion",)
) -> None:
    """Registers a data set under `name` in DatasetCatalog and MetadataCatalog; a name of ours is replaced.

    records        called each time the catalog is asked, so that nothing is read now
    thing_classes  names of the classes, background not counted; `stuff_classes` (of sem_seg) has it first

    Raises ValueError for a name that somebody else registered, and a text in place of names.
    """
    register_dicts(name, partial(_dicts, name, records, tuple(thing_classes)), thing_classes, EVALUATOR_TYPE)


def register_dicts(
    name: str, dicts: Callable[[], list[dict]], thing_classes: Sequence[str], evaluator_type: str
) -> None:
    """Registers what gives the dicts of a data set; as `register_records` otherwise."""
    if isinstance(thing_classes, str):
        raise ValueError(f"thing_classes is the text {thing_classes!r}; expected a list of names, [{thing_classes!r}]")
    if name in DatasetCatalog and DatasetCatalog[name] is not _OURS.get(name):
        raise ValueError(f"the data set {name!r} is registered by another package; choose another name")
    if name in _OURS:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)
    facts = {
        "thing_classes": list(thing_classes),
        "stuff_classes": ["background", *thing_classes],
        "ignore_label": IGNORED,
        "evaluator_type": evaluator_type,
    }
    known = MetadataCatalog.get(name).as_dict() if name in MetadataCatalog else {}
    if other := [f"{key} {known[key]}" for key, value in facts.items() if known.get(key, value) != value]:
        raise ValueError(f"MetadataCatalog has {', '.join(other)} for {name!r} already; choose another name")
    MetadataCatalog.get(name).set(**facts)
    DatasetCatalog.register(name, dicts)
    _OURS[name] = dicts


def register_folder(
    name: str, root: str | Path, thing_classes: Sequence[str] = ("lesion",), **arguments: object
) -> None:
    """Registers a folder in the one layout; `arguments` as of `lgrnet.data.datasets.video_folder`."""
    register_records(name, partial(video_folder, root, **arguments), thing_classes)


def register_layouts(root: str | Path = "data") -> tuple[str, ...]:
    """Registers every split of the data sets that lgrnet knows and returns their names; no disk is touched.

    root  the folder that holds SUN-SEG, MICCAI-VPS, UFUV and phantom, as in the files of configs/

    The names are sunseg_<split>, miccai_vps_<split>, ufuv_train, ufuv_test, phantom_train and phantom_test, with the
    splits of `lgrnet.data.datasets`. Calling it again changes nothing, or where the data sets are.
    """
    layouts = _layouts(Path(root))
    for name, (records, classes) in layouts.items():
        register_records(name, records, classes)
    return tuple(layouts)


def registered() -> tuple[str, ...]:
    """The names that lgrnet has registered and that are still in the catalog, sorted."""
    return tuple(sorted(set(_OURS) & set(DatasetCatalog)))


def check_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple. Raises DataError, with the nearest and all names of ours, where one is not registered."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(name, list(DatasetCatalog), n=3, cutoff=0.0)
            ours = f"lgrnet registered {', '.join(registered())}" if registered() else "lgrnet registered none yet"
            raise DataError(
                f"data set {name!r} is not registered; the nearest names are {', '.join(near)}. {ours}. "
                "register_folder(name, root) adds a folder, register_layouts(root) the data sets that lgrnet knows"
            )
    return names


def clip_dicts(names: str | Iterable[str]) -> list[dict]:
    """The videos of registered data sets, one dict of plain values for each.

    dataset, video_name, num_frames, meta
    file_names, mask_file_names  one path per frame as text; None: the frame is not annotated
    no_lesion                    no frame has a mask, and all are annotated as empty
    label_map                    how mask values become classes, see `lgrnet.records.LabelMap`
    height, width                of the first frame on disk
    image_id, video_id           the place in its data set

    Raises DataError for a name that is not registered, for a data set that is not on disk, and for one of another
    kind.
    """
    dicts = []
    for name in check_names(names):
        found = DatasetCatalog.get(name)
        if not found or "file_names" not in found[0]:
            raise DataError(f"data set {name!r} holds no videos; expected one that lgrnet registered")
        dicts += found
    return dicts


def record_of(video: Mapping) -> VideoRecord:
    """The record of one dict of `clip_dicts`."""
    masks = tuple(None if path is None else Path(path) for path in video["mask_file_names"])
    frames = tuple(Path(path) for path in video["file_names"])
    return VideoRecord(video["video_name"], frames, masks, video["label_map"], video["meta"], video["no_lesion"])


def anchors(dicts: Sequence[dict], anchor_step: int = 1) -> list[dict]:
    """One dict for each frame that a training clip is about: the video's dict and "frame_index", 0, anchor_step, ...

    The order is that of `lgrnet.data.datasets.ClipDataset`. Raises ValueError unless anchor_step is at least 1.
    """
    if anchor_step < 1:
        raise ValueError(f"anchor_step is {anchor_step}; expected at least 1")
    return [{**video, "frame_index": index} for video in dicts for index in range(0, video["num_frames"], anchor_step)]


def _layouts(root: Path) -> dict[str, tuple[Callable[[], Sequence[VideoRecord]], tuple[str, ...]]]:
    """Name -> what reads it, and its classes. Frames are in the order of their names as text, as published."""
    sun, vps, fibroids, phantom = (root / name for name in ("SUN-SEG", "MICCAI-VPS", "UFUV", "phantom"))
    found = {f"sunseg_{split}": (partial(sunseg, sun, split, order="name"), ("polyp",)) for split in SUNSEG_SPLITS}
    for split in MICCAI_VPS_SPLITS:
        found[f"miccai_vps_{split}"] = partial(miccai_vps, vps, split, order="name"), ("polyp",)
    for split in ("train", "test"):
        found[f"ufuv_{split}"] = partial(ufuv, fibroids, split, order="name"), ("fibroid",)
        found[f"phantom_{split}"] = partial(video_folder, phantom / split), ("lesion",)
    return found


def _dicts(name: str, records: Callable[[], Sequence[VideoRecord]], classes: tuple[str, ...]) -> list[dict]:
    dicts, names = [], set[str]()
    for index, record in enumerate(records()):
        if record.name in names:
            raise DataError(f"data set {name!r} holds two videos named {record.name!r}; give each a name of its own")
        names.add(record.name)
        if record.num_classes != len(classes):
            raise DataError(
                f"video {record.name!r} of data set {name!r} has {record.num_classes} classes by its label map, but "
                f"thing_classes names {len(classes)} ({', '.join(classes)}); name each class once"
            )
        height, width = frame_size(record.frames[0])
        dicts.append(
            {
                "dataset": name,
                "video_name": record.name,
                "video_id": index,
                "image_id": index,
                "num_frames": record.num_frames,
                "height": height,
                "width": width,
                "file_names": [str(path) for path in record.frames],
                "mask_file_names": [None if path is None else str(path) for path in record.masks],
                "no_lesion": record.no_lesion,
                "label_map": record.label_map,
                "meta": dict(record.meta),
            }
        )
    return dicts
