"""The one layout, in and out: `Frame/<video>/`, `GT/<video>/`, and label_map.json, which names the values of masks."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from pycocotools import mask as run_lengths

from data_prep.archives import Folder
from data_prep.formats import davis
from data_prep.formats.annotations import Annotations, Picture, Region, class_name, load_json, part, pixels, raster
from data_prep.placing import Entry, Plan, place, progress, write_text
from lgrnet.records import (
    IGNORE,
    DataError,
    VideoRecord,
    count_and_name,
    frame_size,
    list_videos,
    read_mask,
    write_image,
)
from lgrnet.records.masks import MOST_INDEX
from lgrnet.records.pictures import check_frame_bits, exif_orientation, open_picture

LABEL_MAP = "label_map.json"
_Item = TypeVar("_Item")


@dataclass
class Counts:
    """What was written.

    frames, masks  per video
    objects        per label
    overlap        pixels that two classes claimed, and the frames that have such
    """

    frames: Counter[str] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    overlap: tuple[int, int] = (0, 0)


def tracked(items: Iterable[_Item], title: str, total: int) -> Iterator[_Item]:
    """The items, with a bar on a terminal."""
    with progress(title, total) as advance:
        for item in items:
            yield item
            advance()


def read_label_map(path: Path) -> dict[str, int]:
    """Label -> raw value of a label_map.json, by value; raises DataError for one that is none."""
    return _values(part(load_json(path), "values", dict, str(path)), f'{path}: "values"')


def values_in_davis(path: Path, values: Mapping[str, int]) -> dict[str, int]:
    """Label -> value in the masks of a DAVIS tree beside which a label_map.json lies, of which `values` was read.

    As its "davis" says, which exports of ours have. Else the values themselves; but 255 alone is 1 there, as DAVIS has
    it.
    """
    given = load_json(path).get("davis")
    if given is not None:
        return _values(given, f'{path}: "davis"')
    return davis.numbered(values) if set(values.values()) == {davis.VOID} else dict(values)


def _values(values: object, where: str) -> dict[str, int]:
    if not isinstance(values, dict):
        raise DataError(f"{where} is {values}; expected names of classes with values")
    good = all(
        isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 255 for value in values.values()
    )
    if not values or not good or len(set(values.values())) != len(values):
        raise DataError(f"{where} is {values}; expected names of classes with different values 1 .. 255")
    for label in values:
        class_name(label, where)
    return dict(sorted(values.items(), key=lambda item: item[1]))


def write_label_map(path: Path, values: Mapping[str, int], in_davis: Mapping[str, int] | None = None) -> None:
    """Writes label -> raw value, and the `label_map` that a config needs: "binary" for masks of 0 and 255.

    in_davis  beside a DAVIS tree: label -> value in its masks
    """
    classes = {}
    for label, value in values.items():
        ignored = sum(klass == IGNORE for klass in classes.values())
        classes[value] = IGNORE if label == IGNORE else len(classes) - ignored + 1
    label_map = "binary" if classes == {255: 1} else {str(value): klass for value, klass in classes.items()}
    more = {} if in_davis is None else {"davis": dict(in_davis)}
    write_text(path, json.dumps({"values": dict(values), "label_map": label_map, **more}, indent=1))


def class_values(
    labels: Sequence[str], named: Mapping[str, int] | None, chosen: Sequence[str] | None
) -> dict[str, int]:
    """Label -> raw value: as named by a label_map.json; else 255 for a single class, 1, 2, ... for several.

    chosen  the classes to take, in this order; None: all. "ignore" is 255 beside classes.

    Raises DataError for labels that are not known, and more classes than a mask can hold.
    """
    known = list(labels) if named is None else list(named)
    if unknown := [label for label in chosen or labels if label not in known]:
        raise DataError(f"{count_and_name(unknown, 'class')} not known; there are {', '.join(known) or 'none'}")
    taken = list(dict.fromkeys(chosen or known))
    if named is not None:
        return {label: named[label] for label in taken}
    classes = [label for label in taken if label != IGNORE]
    if not classes or len(classes) > 254:
        raise DataError(f"there are {len(classes)} classes; a mask holds 1 .. 254; choose some with --classes")
    if len(taken) == 1:
        return {classes[0]: 255}
    return {label: 255 if label == IGNORE else classes.index(label) + 1 for label in taken}


def check_pictures(pictures: Sequence[Picture]) -> None:
    """Raises DataError that names all damaged pictures, and those of another size than annotated or in their video."""
    sizes: dict[str, tuple[tuple[int, int], Path]] = {}

    def check(picture: Picture) -> None:
        header = open_picture(picture.file, decode=False)
        check_frame_bits(picture.file, header.mode)
        size = header.size[::-1]
        if picture.size not in (None, size):
            raise DataError(
                f"{picture.file} has (height, width) {size}, but was annotated as {picture.size}; "
                "it was resized or turned after that, or is another picture"
            )
        if (turned := exif_orientation(picture.file)) != 1 and (turned < 5 or size[0] == size[1]):
            raise DataError(
                f"{picture.file} says that it is to be turned (EXIF orientation {turned}), which viewers do and frames "
                "here do not: save it upright, or without that mark where it was annotated as it is stored"
            )
        first, file = sizes.setdefault(picture.video, (size, picture.file))
        if first != size:
            raise DataError(
                f"{file} has (height, width) {first} and {picture.file} {size}, in one video {picture.video!r}; "
                "if these are still pictures, give --stills"
            )

    _check_all(check, pictures, "checking pictures")


def check_masks(annotations: Annotations, values: Mapping[str, int]) -> None:
    """Raises DataError that names all raster masks which `write_layout` could not write.

    Other regions are checked when read.
    """
    masks = [picture for picture in annotations.pictures if isinstance(picture.content, Path)]
    _check_all(lambda picture: _painted(picture, annotations.raster, values), masks, "checking masks")


def write_layout(annotations: Annotations, values: Mapping[str, int], dst: Path, dry_run: bool = False) -> Counts:
    """Writes pictures and masks; what is there already stays. A dry run writes nothing and counts no overlap.

    Objects of one frame are painted by layer, and in a layer the larger first, so that the smaller ones show.
    """
    counts = Counts()
    if not dry_run:
        place_frames(
            annotations.root, ((picture.video, picture.file) for picture in annotations.pictures), dst / "Frame"
        )
    for picture in tracked(annotations.pictures, "painting masks", len(annotations.pictures)):
        counts.frames[picture.video] += 1
        counts.masks[picture.video] += picture.content is not None
        if isinstance(picture.content, tuple):
            counts.objects.update(region.label for region in picture.content if region.label in values)
        if picture.content is not None and not dry_run:
            raw, overlap = _painted(picture, annotations.raster, values)
            counts.overlap = counts.overlap[0] + overlap, counts.overlap[1] + (overlap > 0)
            target = dst / "GT" / picture.video / f"{picture.file.stem}.png"
            if not target.is_file():
                write_image(target, Image.fromarray(raw))
            elif isinstance(picture.content, Path) and not np.array_equal(read_mask(target), raw):
                raise DataError(
                    f"{target} is another mask than {picture.content} gives now; choose another --dst, or remove it"
                )
    return counts


def place_frames(root: Path, frames: Iterable[tuple[str, Path]], dst: Path) -> None:
    """Links or copies the frames of videos, which are below `root`, to `<dst>/<video>/`.

    Raises DataError, before anything is written, where another picture is there under a frame's name.
    """
    source = Folder(root)
    plan: Plan = {}
    for video, file in frames:
        plan[f"{video}/{file.name}"] = Entry(source, file.relative_to(root).as_posix())
    for name, entry in plan.items():
        if (dst / name).is_file() and (dst / name).stat().st_size != entry.size:
            raise DataError(f"{dst / name} is another picture than {entry.name}; choose another --dst, or remove it")
    dst.mkdir(parents=True, exist_ok=True)
    place(plan, dst, "placing frames")


def open_layout(root: Path, label_map: Path | None = None) -> tuple[list[VideoRecord], dict[str, int]]:
    """The videos of a root and label -> raw value: of its label_map.json, else of what its masks hold.

    Masks that cannot be read are left to `check_layout`.
    """
    records = list_videos(root, require_masks=False)
    path = label_map or root / LABEL_MAP
    if label_map or path.is_file():
        return records, read_label_map(path)
    masks = [mask for record in records for mask in record.masks if mask is not None]
    found = np.zeros(256, bool)
    for mask in tracked(masks, "looking for classes", len(masks)):
        with suppress(DataError):
            found |= np.bincount(read_mask(mask).ravel(), minlength=256) > 0
    values = [value for value in np.flatnonzero(found).tolist() if value]
    greys = [value for value in values if MOST_INDEX < value < 255]
    if greys and 255 in values:
        raise DataError(
            f"the masks in {root} hold 255 and {len(greys)} values such as {greys[0]}, which look like grey edges or "
            "noise of a lossy format and no classes; save them as 0 and 255, or name the classes by --label_map"
        )
    if values in ([], [255]):
        return records, {"lesion": 255}
    return records, {IGNORE if value == 255 else f"class_{value}": value for value in values}


def check_layout(records: Sequence[VideoRecord], values: Mapping[str, int]) -> dict[str, set[tuple[int, int]]]:
    """Video -> sizes (height, width) of its frames; raises DataError that names every frame and mask which
    `layout_pictures` could not take."""
    frames = [(record, *pair) for record in records for pair in zip(record.frames, record.masks, strict=True)]
    sizes: dict[str, set[tuple[int, int]]] = defaultdict(set)

    def check(frame: tuple[VideoRecord, Path, Path | None]) -> None:
        record, *pair = frame
        sizes[record.name].add(_read_pair(*pair, values)[0])

    _check_all(check, frames, "checking masks")
    return sizes


def check_one_size(sizes: Mapping[str, Collection[tuple[int, int]]]) -> None:
    """Raises DataError that names the videos with frames of several sizes; `sizes` as of `check_layout`."""
    if mixed := [video for video, found in sizes.items() if len(found) > 1]:
        raise DataError(
            f"{count_and_name(mixed, 'video')} with frames of several sizes; a video of YouTube-VIS has one: "
            "split them, or choose another format"
        )


def _check_all(check: Callable[[_Item], object], frames: Sequence[_Item], title: str) -> None:
    """Raises one DataError of all that `check` raises for the frames."""
    wrong = []
    for frame in tracked(frames, title, len(frames)):
        try:
            check(frame)
        except DataError as error:
            wrong.append(f"\n{error}")
    if wrong:
        number = f"{len(wrong)} frame{'s' * (len(wrong) > 1)}"
        raise DataError(
            f"{number} cannot be converted, nothing was written; correct them and run it again:{''.join(wrong)}"
        )


def layout_pictures(records: Sequence[VideoRecord], values: Mapping[str, int]) -> Iterator[Picture]:
    """The frames with one region per class that shows; raises DataError as `check_layout` does, for the first."""
    for record in records:
        for file, mask in zip(record.frames, record.masks, strict=True):
            size, raw = _read_pair(file, mask, values)
            content = None
            if raw is not None:
                content = tuple(raster(k, raw == v) for k, v in values.items() if (raw == v).any())
            yield Picture(file, record.name, content, size)


def _read_pair(file: Path, mask: Path | None, values: Mapping[str, int]) -> tuple[tuple[int, int], np.ndarray | None]:
    """Size of a frame and raw values of its mask, None: it has none. Raises DataError for other values and sizes."""
    size = frame_size(file)
    if mask is None:
        return size, None
    raw = read_mask(mask)
    if unknown := np.setdiff1d(raw, [0, *values.values()]).tolist():
        raise DataError(f"{mask} has the values {unknown}, unknown to {LABEL_MAP} ({dict(values)}); correct it")
    if raw.shape != size:
        raise DataError(f"{mask} has (height, width) {raw.shape}, its frame {size}; correct it")
    return size, raw


def _painted(picture: Picture, names: Mapping[int, str], values: Mapping[str, int]) -> tuple[np.ndarray, int]:
    """The mask uint8 [H, W], and how many pixels two classes claimed."""
    size = frame_size(picture.file)
    if isinstance(picture.content, Path):
        raw = davis.raw_values(read_mask(picture.content), names, values, str(picture.content))
        if raw.shape != size:
            raise DataError(f"{picture.content} has (height, width) {raw.shape}, its frame {size}; they must be equal")
        return raw, 0
    raw, overlap = np.zeros(size, np.uint8), 0
    regions: list[Region] = [region for region in picture.content if region.label in values]
    for region in sorted(regions, key=lambda region: (region.layer, -int(run_lengths.area(dict(region.rle))))):
        mask, value = pixels(region), values[region.label]
        below = raw[mask]
        overlap += int(np.count_nonzero((below > 0) & (below != value)))
        raw[mask] = value
    return raw, overlap
