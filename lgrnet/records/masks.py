"""Masks in and out: raw values from files, and what they mean. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import numpy as np
from PIL import Image

from lgrnet.records.pictures import MAX_PIXELS, DataError, is_lossy, open_picture, write_image

LabelMap = str | Mapping[int, int | str]
"""How raw mask values become classes.

"binary"  every value above 0 is class 1 (LGRNet's published rule)
"half"    values above 127 are class 1: for masks with grey edges, or stored with loss
"full"    only 255 is class 1 (the published rule of SSFormer's scores and of its reproduction study)
"soft"    value / 255 is the membership of class 1
mapping   raw value -> class id, class 0 is background; raw value 0 is background unless the mapping says otherwise.
          "ignore" instead of a class id: such pixels count neither as a class nor as background
"""

IGNORE = "ignore"
BINARY = 'label_map="binary" (or {255: 1})'
"""What messages tell who has masks of 0 and 255."""
MOST_INDEX = 31
"""Up to this maximum a mask of grey values is taken for one of class indices."""
_GREY_MAPS = {"binary": MOST_INDEX, "half": MOST_INDEX, "full": MOST_INDEX, "soft": 2}
"""Maps of grey values, and up to which maximum a mask is taken for one of class indices instead."""


def check_label_map(label_map: LabelMap) -> LabelMap:
    """The label map with integer keys and class ids; raises DataError for anything that is not one."""
    if isinstance(label_map, str) and label_map in _GREY_MAPS:
        return label_map
    try:
        clean = {int(raw): klass if klass == IGNORE else int(klass) for raw, klass in label_map.items()}
    except (AttributeError, TypeError, ValueError) as error:
        names = ", ".join(f'"{name}"' for name in _GREY_MAPS)
        raise DataError(
            f"label_map is {label_map!r}; expected {names} or a map value: class "
            "(on a command line with a space, {1: 1})"
        ) from error
    classes = _class_ids(clean)
    if not classes or classes != set(range(1, max(classes) + 1)) or not all(0 <= raw <= 255 for raw in clean):
        raise DataError(
            f"label_map {clean} must map raw values 0..255 to class ids 0 (background), 1, 2, ... all used, "
            f'or to "{IGNORE}"'
        )
    return clean


def num_classes(label_map: LabelMap) -> int:
    """K of a label map, background not counted."""
    return 1 if isinstance(label_map, str) else max(_class_ids(label_map))


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS, label_map: LabelMap | None = None) -> np.ndarray:
    """The raw values of a mask as uint8 [H, W].

    A palette image gives its indices, a 1-bit image 0 and 255, an RGB image its value where the channels are equal, a
    16-bit image its values when at most 255, or 8-bit values times 257. Raises DataError for anything else, for
    unreadable, truncated or too large files, for files of several pictures, and for a palette of greys in no rising
    order, by whose indices a mask could be turned inside out, unless the greys cannot be its values. So it does for
    many greys that are not their indices, where a label map of grey values is given.

    path        a file, or an open one
    max_pixels  the most that are decoded
    label_map   what the values are for, which tells indices from greys: a mapping that knows all indices and not all
                greys; None: not known
    """
    image = open_picture(path, max_pixels)
    if image.mode == "P":
        return _palette_indices(image, path, label_map)
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


def class_masks(raw: np.ndarray, label_map: LabelMap = "binary", source: str | Path | None = "mask") -> np.ndarray:
    """Raw mask values uint8 [H, W] as one membership map per class, float32 [K, H, W] in 0..1.

    Ignored pixels belong to no class, see `ignored_pixels`. Raises DataError as `check_values` does with the `source`,
    the mask's path where it has one; None: its values were checked before.
    """
    if source is not None:
        check_values(raw, label_map, source)
    if label_map == "soft":
        return (raw.astype(np.float32) / 255)[None]
    if isinstance(label_map, str):
        return (raw > {"binary": 0, "half": 127, "full": 254}[check_label_map(label_map)]).astype(np.float32)[None]
    lookup = np.zeros(256, np.int16)
    for value, klass in check_label_map(label_map).items():
        lookup[value] = 0 if klass == IGNORE else klass
    ids = np.arange(1, num_classes(label_map) + 1, dtype=np.int16)
    return (lookup[raw][None] == ids[:, None, None]).astype(np.float32)


def ignored_pixels(raw: np.ndarray, label_map: LabelMap = "binary") -> np.ndarray:
    """bool [H, W]: where the label map says "ignore"."""
    ignored = [] if isinstance(label_map, str) else [v for v, klass in label_map.items() if klass == IGNORE]
    return np.isin(raw, ignored)


def only_ignored(raw: np.ndarray, label_map: LabelMap) -> bool:
    """Whether raw mask values uint8 [H, W] show pixels to ignore, and no class.

    In one mask that is right: no object, some pixels that are not judged. A whole set of such masks is one of 0 and 255
    whose label map ignores 255: all of its foreground would vanish, and `BINARY` sets it right.
    """
    if isinstance(label_map, str):
        return False
    values = np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist()
    return {label_map.get(value, 0) for value in values} - {0} == {IGNORE}


def check_values(raw: np.ndarray, label_map: LabelMap, source: str | Path = "mask") -> None:
    """Raises DataError, naming `source`, the values, their pixels and what to set, unless raw mask values uint8 [H, W]
    fit the label map.

    A mapping knows every value that occurs; a mask of nothing but what it ignores fits, see `only_ignored`. A mask
    whose largest value is 31 or less (2 or less for "soft") holds class indices, for which the maps of grey values are
    wrong; but 0 and 1 fit "binary", and small values in a file stored with loss (`is_lossy`) are its noise.
    """
    largest = int(raw.max(initial=0))
    if not isinstance(label_map, str):
        _check_mapped(raw, label_map, source)
    elif 0 < largest <= _GREY_MAPS[check_label_map(label_map)] and not is_lossy(source):
        found = np.unique(raw[raw > 0]).tolist()
        if (label_map, found) == ("binary", [1]):
            return
        raise DataError(
            f"{source} holds the values {found} ({_pixels(raw, found)}), which look like class indices, but its "
            f'label_map is "{label_map}"; set label_map={ {v: v for v in range(1, largest + 1)} } for one class per '
            f"value, or label_map={dict.fromkeys(found, 1)} for one class"
        )


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Writes bool [H, W] as a 0/255 PNG, making the folder where needed."""
    write_image(path, Image.fromarray(np.where(np.asarray(mask, bool), np.uint8(255), np.uint8(0))))


def _check_mapped(raw: np.ndarray, label_map: Mapping[int, int | str], source: str | Path) -> None:
    known = {0: 0, **check_label_map(label_map)}
    counts = np.bincount(raw.ravel(), minlength=256)
    found = np.flatnonzero(counts).tolist()
    unknown = [value for value in found if value not in known]
    above = [value for value in found if value]
    if unknown:
        hint = f"this is a mask of 0 and 255: set {BINARY}" if above == [255] else "add them (0: background)"
        raise DataError(
            f"{source} holds the values {unknown}, unknown to the label map {known} ({_pixels(raw, unknown)}); {hint}"
        )


def _pixels(raw: np.ndarray, values: list[int]) -> str:
    """`3: 12 pixels, 9: 40 pixels`."""
    shown = [f"{value}: {np.count_nonzero(raw == value)} pixels" for value in values[:5]]
    return ", ".join(shown) + (", ..." if len(values) > 5 else "")


def _class_ids(label_map: Mapping[int, int | str]) -> set[int]:
    return {klass for klass in label_map.values() if klass != IGNORE} - {0}


def _palette_indices(image: Image.Image, path: str | Path, label_map: LabelMap | None) -> np.ndarray:
    indices = np.array(image)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    found = np.unique(indices).tolist()
    used = palette[[index for index in found if index < len(palette)]]
    rising = (np.diff(used[:, 0].astype(int)) >= 0).all()
    many = isinstance(label_map, str) and found[-1] > _GREY_MAPS[check_label_map(label_map)]
    if (used == used[:, :1]).all() and (not rising or (many and used[:, 0].tolist() != found)):
        greys = set(used[:, 0].tolist())
        clear = len(greys) < len(used)  # nobody makes two indices of one grey value
        if isinstance(label_map, Mapping):
            known = {0, *label_map}
            clear = known.issuperset(found) and (clear or not known.issuperset(greys))
        if not clear or isinstance(label_map, str):
            raise DataError(
                f"mask {path} has a grey palette that is not in rising order or not that of its indices, and these "
                f"({found}) need not be its values; save it as an 8-bit grey PNG, or give a "
                "label_map of its indices that knows not all its greys"
            )
    return indices


def _one_channel(values: np.ndarray, mode: str, path: str | Path) -> np.ndarray:
    """[H, W, C] with equal colour channels and an opaque alpha, as [H, W]; those of a file that is stored with loss may
    differ by 1, as WebP's do where its decoder rounds."""
    if mode in ("LA", "RGBA"):
        if values[..., -1].min() < 255:
            raise DataError(f"mask {path} is partly transparent; save it as an 8-bit grey PNG")
        values = values[..., :-1]
    planes = list(np.moveaxis(values, -1, 0))
    spread = reduce(np.maximum, planes) - reduce(np.minimum, planes)
    if mode not in ("RGB", "RGBA", "LA") or spread.max() > is_lossy(path):
        raise DataError(f"mask {path} is a colour image ({mode}); expected grey values or a palette of class indices")
    return np.ascontiguousarray(planes[len(planes) // 2])
