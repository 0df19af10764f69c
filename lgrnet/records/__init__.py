"""What is on disk and what is predicted: the one layout, in and out. No torch.

The layout is `Frame/<video>/<frame>.jpg` beside `GT/<video>/<frame>.png`; every data set is brought into it once.
Letters: K classes (background not counted), T frames, H W pixels, Q queries.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lgrnet.records.masks import (
    BINARY,
    IGNORE,
    LabelMap,
    check_label_map,
    check_values,
    class_masks,
    ignored_pixels,
    num_classes,
    only_ignored,
    read_mask,
    write_mask,
)
from lgrnet.records.pictures import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    DataError,
    frame_size,
    read_frame,
    write_frame,
    write_image,
)

__all__ = [
    "BINARY",
    "IGNORE",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "NO_LESION",
    "Candidates",
    "DataError",
    "LabelMap",
    "Prediction",
    "VideoRecord",
    "benchmark_key",
    "benchmark_order",
    "check_label_map",
    "check_sizes",
    "check_values",
    "class_masks",
    "count_and_name",
    "file_error",
    "file_hash",
    "frame_size",
    "ignored_pixels",
    "images_by_stem",
    "list_videos",
    "natural_key",
    "num_classes",
    "only_ignored",
    "pair_videos",
    "raw_mask",
    "read_clip",
    "read_frame",
    "read_mask",
    "warn_of_grey",
    "write_frame",
    "write_image",
    "write_mask",
]

NO_LESION = "empty"
"""In place of a folder of masks: no frame shows a lesion, and all are annotated so."""


@dataclass(frozen=True)
class VideoRecord:
    """One video on disk; holds no pixels. A still image is a video of one frame.

    name       name of the video, unique in its data set
    frames     one path per frame, in temporal order
    masks      one path per frame, None: the frame is not annotated
    label_map  how raw mask values become classes, see `LabelMap`
    meta       what else is known: data set, split, patient, attributes
    no_lesion  all masks are None, and every frame is annotated nevertheless: as empty, at its own size
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    label_map: LabelMap = "binary"
    meta: Mapping[str, object] = field(default_factory=dict)
    no_lesion: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "masks"):
            paths = (None if path is None else Path(path) for path in getattr(self, name))
            object.__setattr__(self, name, tuple(paths))
        if not self.frames:
            raise DataError(f"video {self.name!r} has no frames; expected at least one")
        if len(self.masks) != len(self.frames):
            given = f"{len(self.frames)} frames but {len(self.masks)} masks"
            raise DataError(f"video {self.name!r} has {given}; give one mask path (or None) per frame")
        if self.no_lesion and (given := sum(path is not None for path in self.masks)):
            raise DataError(f"video {self.name!r} shows no lesion but has {given} masks; give None per frame")
        object.__setattr__(self, "label_map", check_label_map(self.label_map))

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.frames)

    @property
    def frame_names(self) -> tuple[str, ...]:
        """The stems of the frames' files."""
        return tuple(path.stem for path in self.frames)

    @property
    def annotated(self) -> tuple[bool, ...]:
        """One per frame."""
        return tuple(self.no_lesion or path is not None for path in self.masks)

    @property
    def num_classes(self) -> int:
        """K, background not counted."""
        return num_classes(self.label_map)


@dataclass
class Candidates:
    """Every query of a model: masks [Q, T, H, W] bool and scores [Q, K] float32."""

    masks: np.ndarray
    scores: np.ndarray


@dataclass
class Prediction:
    """What a model says about one video, at the size of the frames on disk.

    video        name of the video
    frame_names  stems of the frames' files
    scores       [K] float32
    probability  [K, T, H, W] uint8, 255 is certain
    mask         [K, T, H, W] bool, by the model's published rule
    candidates   every query's masks and scores, when asked for
    """

    video: str
    frame_names: tuple[str, ...]
    scores: np.ndarray
    probability: np.ndarray
    mask: np.ndarray
    candidates: Candidates | None = None


def read_clip(
    record: VideoRecord, indices: Sequence[int] | None = None, warned: set[str] | None = None
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """The pixels of some frames (default: all) of a video: uint8 [T, H, W, 3] and T raw masks uint8 [H, W] or None.

    A binary mask with grey pixels warns once per video; `warned` remembers the names of the videos that did.
    Raises DataError for unreadable files and for frames or masks of different sizes, naming the files.
    """
    indices = list(range(record.num_frames) if indices is None else indices)
    frames = {i: read_frame(record.frames[i]) for i in dict.fromkeys(indices)}
    masks = {i: raw_mask(record, i) for i in frames}
    check_sizes(record, {i: (x.shape[:2], None if masks[i] is None else masks[i].shape) for i, x in frames.items()})
    warn_of_grey(record, list(masks.values()), warned)
    return np.stack([frames[i] for i in indices]), [masks[i] for i in indices]


def raw_mask(record: VideoRecord, index: int) -> np.ndarray | None:
    """The raw mask of a frame, uint8 [H, W], of zeros where the video shows no lesion; None: not annotated.

    Raises DataError for files that cannot be read.
    """
    if record.no_lesion:
        return np.zeros(frame_size(record.frames[index]), np.uint8)
    path = record.masks[index]
    return None if path is None else read_mask(path, label_map=record.label_map)


def check_sizes(record: VideoRecord, sizes: Mapping[int, tuple[tuple[int, int], tuple[int, int] | None]]) -> None:
    """Raises DataError, naming the files, unless some frames of a video and their masks have one size.

    sizes  index of a frame -> (height, width) of the frame and of its mask, None where it has none
    """
    first = next(iter(sizes))
    for index, (size, mask_size) in sizes.items():
        frame = f"{record.frames[index]} has (height, width) {size}"
        if size != sizes[first][0]:
            expected = f"{record.frames[first]} has {sizes[first][0]}"
            raise DataError(f"frames of video {record.name!r} differ: {expected}, {frame}; one video has one size")
        if mask_size not in (None, size):
            raise DataError(f"mask {record.masks[index]} has {mask_size} but its frame {frame}; they must be equal")


def warn_of_grey(record: VideoRecord, raw_masks: Sequence[np.ndarray | None], warned: set[str] | None = None) -> None:
    """Warns where a binary label map makes foreground of grey pixels: neither 0 nor the maximum of their mask.

    Nothing is said of a video in `warned`; one that is warned of is added to it.
    """
    if record.label_map != "binary" or (warned is not None and record.name in warned):
        return
    masks = [raw for raw in raw_masks if raw is not None]
    if count := sum(np.count_nonzero((raw > 0) & (raw < raw.max(initial=0))) for raw in masks):
        if warned is not None:
            warned.add(record.name)
        found = f"masks of video {record.name!r} have grey edges: {count} pixels in {len(masks)} masks are between 0"
        rule = "and the maximum and count as foreground (> 0, as published)"
        choice = 'label_map="half" takes those above 127, label_map="soft" keeps their grey values'
        warnings.warn(f"{found} {rule}; {choice}", stacklevel=3)


def natural_key(name: str) -> tuple:
    """Sorts names with numbers compared as numbers: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def benchmark_key(name: str) -> tuple:
    """Sorts frames of SUN-SEG as the benchmark does: by the number after the last `_` before the first `-`, the one
    after `_a`, and the one after `_image`. Other names come after them, by `natural_key`."""
    numbers = re.match(r"[^-]*_(\d+)-.*?_a(\d+).*?_image(\d+)", name)
    return numbers is None, tuple(map(int, numbers.groups())) if numbers else (), natural_key(name)


def benchmark_order(names: Sequence[str]) -> list[int]:
    """The indices of frames in the order of `benchmark_key`: in which they are scored, however a model reads them."""
    return sorted(range(len(names)), key=lambda index: benchmark_key(names[index]))


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def list_videos(
    root: str | Path,
    frames: str = "Frame",
    masks: str | None = "GT",
    label_map: LabelMap = "binary",
    order: str = "natural",
    videos: Sequence[str] | None = None,
    meta: Mapping[str, object] | None = None,
    require_masks: bool = True,
) -> list[VideoRecord]:
    """The videos of a folder in the one layout: `<root>/<frames>/<video>/*` and `<root>/<masks>/<video>/*`.

    masks          folder of the masks; None: nothing is annotated; "empty" (NO_LESION): every frame is annotated, and
                   none shows a lesion
    order          of frames and videos: "natural" compares numbers as numbers, "name" compares strings (published),
                   "benchmark" is that of SUN-SEG's benchmark
    videos         names to take, in this order; None: all
    meta           goes into every record
    require_masks  False: frames without a mask are not annotated (their mask is None) instead of an error

    Raises DataError for a missing folder, no videos, a video without frames, unknown names in `videos`, frames
    without a mask, masks without a frame (at most five are named), and for "empty" where a folder has that name.
    """
    root, key = Path(root), _order_key(order)
    no_lesion = masks == NO_LESION
    if no_lesion and (root / masks).exists():
        raise DataError(f'{root / masks} is there, but masks="empty" means that no frame shows a lesion; rename it')
    masks = None if no_lesion else masks
    found = sorted(_folders(root / frames), key=key)
    if not found:
        raise DataError(f"{root / frames} holds no videos; expected {root / frames}/<video>/<frame>.jpg")
    if masks is not None and not (root / masks).is_dir():
        raise DataError(f"masks are expected in {root / masks}, which does not exist; masks=None means not annotated")
    if stray := sorted(_folders(root / masks) - set(found), key=key) if masks is not None and videos is None else []:
        strays = count_and_name(stray, "folder")
        raise DataError(f"{strays} of masks in {root / masks} without frames in {root / frames}")
    names = _chosen(found, videos, root / frames)
    folders = {name: (root / frames / name, None if masks is None else root / masks / name) for name in names}
    records = pair_videos(folders, label_map, order, meta, require_masks)
    return [replace(record, no_lesion=True) for record in records] if no_lesion else records


def pair_videos(
    folders: Mapping[str, tuple[Path, Path | None]],
    label_map: LabelMap = "binary",
    order: str = "natural",
    meta: Mapping[str, object] | None = None,
    require_masks: bool = True,
) -> list[VideoRecord]:
    """One record per entry `name: (folder of its frames, folder of its masks or None)`; what `list_videos` is made of,
    for layouts that nest the other way round. Arguments and errors as there.
    """
    missing, extra, records = [], [], []
    images = {name: images_by_stem(frames, order) for name, (frames, _) in folders.items()}
    empty = [str(folders[name][0]) for name, paths in images.items() if not paths]
    if empty:
        raise DataError(f"{count_and_name(empty, 'video')} without frames; remove the folder or fill it")
    for name, frames in images.items():
        masks = {} if folders[name][1] is None else images_by_stem(folders[name][1], order)
        if folders[name][1] is not None:
            missing += [str(path) for stem, path in frames.items() if stem not in masks]
            extra += [str(path) for stem, path in masks.items() if stem not in frames]
        paths = tuple(frames.values()), tuple(masks.get(stem) for stem in frames)
        records.append(VideoRecord(name, *paths, label_map, dict(meta or {})))
    if missing and require_masks:
        hint = "add the masks, or pass require_masks=False to take these frames as not annotated"
        raise DataError(f"{count_and_name(missing, 'frame')} without a mask of the same name; {hint}")
    if extra:
        hint = "add the frames or remove the masks"
        raise DataError(f"{count_and_name(extra, 'mask')} without a frame of the same name; {hint}")
    return records


def images_by_stem(folder: Path, order: str = "natural") -> dict[str, Path]:
    """Stem -> path of the images of a folder, in order; empty where the folder is missing.

    Raises DataError for two images of one stem.
    """
    images: dict[str, Path] = {}
    key = _order_key(order)
    for path in sorted(folder.iterdir(), key=lambda p: key(p.name)) if folder.is_dir() else ():
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise DataError(f"{images[path.stem]} and {path} are the same frame twice; keep one of them")
        images[path.stem] = path
    return images


def count_and_name(names: Sequence[str], noun: str, limit: int = 5) -> str:
    """`7 videos (a, b, c, d, e, ...)`."""
    plural = "" if len(names) == 1 else "s"
    return f"{len(names)} {noun}{plural} ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})"


def file_error(error: OSError) -> str:
    """Which file it was, and why: `a/b.png: Permission denied`."""
    return f"{error.filename}: {error.strerror}" if error.filename else f"a file: {error}"


def _order_key(order: str):
    keys = {"natural": natural_key, "name": str, "benchmark": benchmark_key}
    if order not in keys:
        raise DataError(f'order is {order!r}; expected "natural", "name" or "benchmark"')
    return keys[order]


def _folders(path: Path) -> set[str]:
    if not path.is_dir():
        raise DataError(f"folder {path} does not exist; expected {path}/<video>/<frame>.jpg")
    return {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}


def _chosen(found: Sequence[str], videos: Sequence[str] | None, folder: Path) -> list[str]:
    if videos is None:
        return list(found)
    if isinstance(videos, str) or not isinstance(videos, Iterable):
        raise DataError(f"videos is {videos!r}; expected a list of names, such as [{videos}]")
    names = list(dict.fromkeys(str(name) for name in videos))
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        there = count_and_name(found, "video", 20)
        raise DataError(f"{count_and_name(unknown or names, 'video')} chosen, but {folder} holds {there}")
    return names
