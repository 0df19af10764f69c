"""What is on disk and what is predicted: the one layout, in and out. No torch.

The layout is `Frame/<video>/<frame>.jpg` beside `GT/<video>/<frame>.png`; every data set is brought into it once.
Letters: K classes (background not counted), T frames, H W pixels, Q queries.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

LabelMap = str | Mapping[int, int]
"""How raw mask values become classes.

"binary"  every value above 0 is class 1 (the published rule)
"soft"    value / 255 is the membership of class 1
mapping   raw value -> class id, class 0 is background; raw value 0 is background unless the mapping says otherwise
"""

MAX_PIXELS = 64_000_000
"""The largest image that is decoded: an 8K frame has 33 million pixels, a decompression bomb far more."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class DataError(ValueError):
    """Data on disk are not usable; the message names the files and says what to do."""


@dataclass(frozen=True)
class VideoRecord:
    """One video on disk; holds no pixels. A still image is a video of one frame.

    name       name of the video, unique in its data set
    frames     one path per frame, in temporal order
    masks      one path per frame, None: the frame is not annotated
    label_map  how raw mask values become classes, see `LabelMap`
    meta       what else is known: data set, split, patient, attributes
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    label_map: LabelMap = "binary"
    meta: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.frames:
            raise DataError(f"video {self.name!r} has no frames; expected at least one")
        if len(self.masks) != len(self.frames):
            given = f"{len(self.frames)} frames but {len(self.masks)} masks"
            raise DataError(f"video {self.name!r} has {given}; give one mask path (or None) per frame")
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


def check_label_map(label_map: LabelMap) -> LabelMap:
    """The label map with integer keys and values; raises DataError for anything that is not one."""
    if label_map in ("binary", "soft"):
        return label_map
    try:
        clean = {int(raw): int(klass) for raw, klass in label_map.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f'label_map is {label_map!r}; expected "binary", "soft" or a map value: class') from error
    classes = set(clean.values()) - {0}
    if not classes or classes != set(range(1, max(classes) + 1)) or not all(0 <= raw <= 255 for raw in clean):
        raise DataError(f"label_map {clean} must map raw values 0..255 to class ids 0 (background), 1, 2, ... all used")
    return clean


def num_classes(label_map: LabelMap) -> int:
    """K of a label map, background not counted."""
    return 1 if isinstance(label_map, str) else max(label_map.values())


def read_frame(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A frame as uint8 [H, W, 3] RGB, pixels as stored (an EXIF rotation is not applied: masks do not have one).

    Raises DataError naming the file when it is unreadable, truncated, larger than `max_pixels`, or has 16 bits.
    """
    image = _open(path, max_pixels)
    if image.mode[0] in "IF":
        raise DataError(f"frame {path} has more than 8 bits per channel ({image.mode}); convert it to 8 bits first")
    return np.array(image.convert("RGB"))


def frame_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of an image, of which only the header is read. Raises DataError as `read_frame` does."""
    return _open(path, MAX_PIXELS, decode=False).size[::-1]


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The raw values of a mask as uint8 [H, W].

    A palette image gives its indices, a 1-bit image 0 and 255, an RGB image its value where the channels are equal, a
    16-bit image its values when at most 255, or 8-bit values times 257. Raises DataError for anything else and for
    unreadable, truncated or too large files.
    """
    image = _open(path, max_pixels)
    if image.mode == "P":
        return _palette_indices(image, path)
    values = np.array(image.convert("L") if image.mode == "1" else image)
    if values.ndim == 3:
        values = _one_channel(values, image.mode, path)
    if values.dtype.kind in "iu" and values.min() >= 0:
        if values.max() <= 255:
            return values.astype(np.uint8, copy=False)
        if values.max() <= 65535 and not (values % 257).any():
            return (values // 257).astype(np.uint8)
    raise DataError(
        f"mask {path} has mode {image.mode} and values {values.min()}..{values.max()}; expected 8-bit values, "
        "or 16-bit values that are 8-bit ones times 257: save it as an 8-bit PNG"
    )


def class_masks(raw: np.ndarray, label_map: LabelMap = "binary", source: str | Path = "mask") -> np.ndarray:
    """Raw mask values uint8 [H, W] as one membership map per class, float32 [K, H, W] in 0..1.

    Raises DataError naming `source` and the values when an indexed label map does not know a raw value.
    """
    if label_map == "binary":
        return (raw > 0).astype(np.float32)[None]
    if label_map == "soft":
        return (raw.astype(np.float32) / 255)[None]
    known = {0: 0, **check_label_map(label_map)}
    lookup = np.full(256, -1, np.int16)
    lookup[list(known)] = list(known.values())
    classes = lookup[raw]
    if classes.min(initial=0) < 0:
        unknown = np.unique(raw[classes < 0]).tolist()
        raise DataError(
            f"{source} holds the values {unknown}, unknown to the label map {known}; add them (0: background)"
        )
    ids = np.arange(1, num_classes(label_map) + 1, dtype=np.int16)
    return (classes[None] == ids[:, None, None]).astype(np.float32)


def read_clip(
    record: VideoRecord, indices: Sequence[int] | None = None, warned: set[str] | None = None
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """The pixels of some frames (default: all) of a video: uint8 [T, H, W, 3] and T raw masks uint8 [H, W] or None.

    A binary mask with grey pixels warns once per video; `warned` remembers the names of the videos that did.
    Raises DataError for unreadable files and for frames or masks of different sizes, naming the files.
    """
    indices = list(range(record.num_frames) if indices is None else indices)
    frames = {i: read_frame(record.frames[i]) for i in dict.fromkeys(indices)}
    masks = {i: None if record.masks[i] is None else read_mask(record.masks[i]) for i in frames}
    check_sizes(record, {i: (x.shape[:2], None if masks[i] is None else masks[i].shape) for i, x in frames.items()})
    warn_of_grey(record, list(masks.values()), warned)
    return np.stack([frames[i] for i in indices]), [masks[i] for i in indices]


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
        rule = 'and the maximum and count as foreground (> 0, as published); label_map="soft" keeps their grey values'
        warnings.warn(f"{found} {rule}", stacklevel=3)


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Writes bool [H, W] as a 0/255 PNG, making the folder where needed."""
    write_image(path, Image.fromarray(np.where(np.asarray(mask, bool), np.uint8(255), np.uint8(0))))


def write_frame(path: str | Path, frame: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] RGB in the format of the suffix (JPEG at quality 95), making the folder where needed."""
    write_image(path, Image.fromarray(np.asarray(frame, np.uint8)), quality=95)


def write_image(path: str | Path, image: Image.Image, **options: int) -> None:
    """Writes a picture, making the folder where needed; the file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}{path.suffix}")  # short, so that it is legal for the longest stems
    try:
        image.save(draft, **options)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def natural_key(name: str) -> tuple:
    """Sorts names with numbers compared as numbers: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


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

    masks          folder of the masks; None: nothing is annotated
    order          of frames and videos: "natural" compares numbers as numbers, "name" compares strings (published)
    videos         names to take, in this order; None: all
    meta           goes into every record
    require_masks  False: frames without a mask are not annotated (their mask is None) instead of an error

    Raises DataError for a missing folder, no videos, a video without frames, unknown names in `videos`, frames
    without a mask, masks without a frame; at most five are named.
    """
    root, key = Path(root), _order_key(order)
    found = sorted(_folders(root / frames), key=key)
    if not found:
        raise DataError(f"{root / frames} holds no videos; expected {root / frames}/<video>/<frame>.jpg")
    if masks is not None and not (root / masks).is_dir():
        raise DataError(f"masks are expected in {root / masks}, which does not exist; masks=None means not annotated")
    if stray := sorted(_folders(root / masks) - set(found), key=key) if masks is not None and videos is None else []:
        raise DataError(f"{_some(stray, 'folder')} of masks in {root / masks} without frames in {root / frames}")
    names = _chosen(found, videos, root / frames)
    folders = {name: (root / frames / name, None if masks is None else root / masks / name) for name in names}
    return pair_videos(folders, label_map, order, meta, require_masks)


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
    key, missing, extra, records = _order_key(order), [], [], []
    images = {name: _images(frames, key) for name, (frames, _) in folders.items()}
    empty = [str(folders[name][0]) for name, paths in images.items() if not paths]
    if empty:
        raise DataError(f"{_some(empty, 'video')} without frames; remove the folder or fill it")
    for name, frames in images.items():
        masks = {} if folders[name][1] is None else _images(folders[name][1], key)
        if folders[name][1] is not None:
            missing += [str(path) for stem, path in frames.items() if stem not in masks]
            extra += [str(path) for stem, path in masks.items() if stem not in frames]
        paths = tuple(frames.values()), tuple(masks.get(stem) for stem in frames)
        records.append(VideoRecord(name, *paths, label_map, dict(meta or {})))
    if missing and require_masks:
        hint = "add the masks, or pass require_masks=False to take these frames as not annotated"
        raise DataError(f"{_some(missing, 'frame')} without a mask of the same name; {hint}")
    if extra:
        raise DataError(f"{_some(extra, 'mask')} without a frame of the same name; add the frames or remove the masks")
    return records


def _open(path: str | Path, max_pixels: int, decode: bool = True) -> Image.Image:
    """A decoded image, or its header; the size is checked before anything is decoded."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                return image.copy() if decode else image
    except _READ_ERRORS as error:
        raise DataError(f"{path} cannot be read ({error}); it is missing, damaged, cut short or no image") from error
    raise DataError(f"{path} has {width} x {height} pixels, more than the {max_pixels} that are decoded")


def _palette_indices(image: Image.Image, path: str | Path) -> np.ndarray:
    """Indices of a palette image; a grey palette that starts light would turn the mask inside out, so it is refused."""
    indices = np.array(image)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = palette[np.unique(indices)]
    if (used == used[:, :1]).all() and (np.diff(used[:, 0].astype(int)) < 0).any():
        raise DataError(f"mask {path} has a grey palette that is not in rising order; save it as an 8-bit grey PNG")
    return indices


def _one_channel(values: np.ndarray, mode: str, path: str | Path) -> np.ndarray:
    """[H, W, C] with equal colour channels and an opaque alpha, as [H, W]."""
    if mode in ("LA", "RGBA"):
        if values[..., -1].min() < 255:
            raise DataError(f"mask {path} is partly transparent; save it as an 8-bit grey PNG")
        values = values[..., :-1]
    if mode not in ("RGB", "RGBA", "LA") or (values != values[..., :1]).any():
        raise DataError(f"mask {path} is a colour image ({mode}); expected grey values or a palette of class indices")
    return np.ascontiguousarray(values[..., 0])


def _order_key(order: str):
    if order not in ("natural", "name"):
        raise DataError(f'order is {order!r}; expected "natural" or "name"')
    return natural_key if order == "natural" else str


def _folders(path: Path) -> set[str]:
    if not path.is_dir():
        raise DataError(f"folder {path} does not exist; expected {path}/<video>/<frame>.jpg")
    return {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}


def _chosen(found: Sequence[str], videos: Sequence[str] | None, folder: Path) -> list[str]:
    if videos is None:
        return list(found)
    names = list(dict.fromkeys(str(name) for name in videos))
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        raise DataError(f"{_some(unknown or names, 'video')} chosen, but {folder} holds {_some(found, 'video', 20)}")
    return names


def _images(folder: Path, key) -> dict[str, Path]:
    """Stem -> path of the images of a folder, in order; empty where the folder is missing."""
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: key(p.name)) if folder.is_dir() else ():
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in images:
            raise DataError(f"{images[path.stem]} and {path} are the same frame twice; keep one of them")
        images[path.stem] = path
    return images


def _some(names: Sequence[str], noun: str, limit: int = 5) -> str:
    """`7 videos (a, b, c, d, e, ...)`."""
    plural = "" if len(names) == 1 else "s"
    return f"{len(names)} {noun}{plural} ({', '.join(names[:limit])}{', ...' if len(names) > limit else ''})"
