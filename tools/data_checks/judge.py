"""What pictures are beside each other: sizes, colours, values of masks, within a video and within the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from data_checks.kinds import Finding
from data_checks.masks import INDEX_MAX
from data_checks.pictures import Look
from data_checks.sets import Group
from lgrnet.records import IGNORE, LabelMap

Looks = Mapping[str, Look]
_FEW_PIXELS = 4  # by which a mask is "a few pixels" larger or smaller than its frame
_FROZEN = 8  # so many neighbouring frames with one mask


def check_looks(looks: Looks) -> Iterator[Finding]:
    """What was wrong with each file alone."""
    for path, look in looks.items():
        yield from (Finding(code, path, detail) for code, detail in look.problems)


def check_frames(groups: Sequence[Group], looks: Looks) -> Iterator[Finding]:
    """Sizes within each video, and grey frames among coloured ones."""
    for group in groups:
        sizes = {path: looks[path].size for path in group.frames if looks[path].size}
        if not group.stills and len(set(sizes.values())) > 1:
            usual = Counter(sizes.values()).most_common(1)[0][0]
            for path, size in sizes.items():
                if size != usual:
                    yield Finding("D063", path, f"{_size(size)}, the others {_size(usual)}")
    readable = [path for group in groups for path in group.frames if looks[path].thumb]
    grey = [path for path in readable if looks[path].mode in ("L", "1", "LA")]
    colour = [path for path in readable if looks[path].mode in ("RGB", "RGBA", "P")]
    for path in min((grey, colour), key=len):
        yield Finding("D071", path, f"mode {looks[path].mode}")


def check_pair_looks(pairs: Mapping[str, str], looks: Looks) -> Iterator[Finding]:
    """A frame and its mask: their sizes, and whether they are one picture."""
    for frame, mask in pairs.items():
        a, b = looks[frame], looks[mask]
        if a.size and b.size and a.size != b.size:
            few = max(abs(a.size[0] - b.size[0]), abs(a.size[1] - b.size[1])) <= _FEW_PIXELS
            code = "D061" if a.size == b.size[::-1] else "D060" if few else "D062"
            yield Finding(code, mask, f"{_size(b.size)}, its frame {_size(a.size)}", (frame,))
        if is_its_frame(a, b):
            yield Finding("D121", mask, "", (frame,))


def is_its_frame(frame: Look, mask: Look) -> bool:
    """Whether a mask shows what its frame shows, whatever the format."""
    if frame.digest and frame.digest == mask.digest:
        return True
    if not frame.thumb or not mask.thumb or len(mask.values) in (1, 2) or frame.extrema[1] - frame.extrema[0] < 16:
        return False
    a, b = (np.frombuffer(thumb, np.uint8).astype(np.int16) for thumb in (frame.thumb, mask.thumb))
    return bool(np.abs(a - b).mean() < 4)


def check_masks(groups: Sequence[Group], looks: Looks, label_map: LabelMap | None) -> Iterator[Finding]:
    """Values of masks by the label map, or where there is none by what most masks of the set have; then their shapes.

    label_map  as in `lgrnet.records.LabelMap`; None: not told
    """
    masks = [path for group in groups for path in group.masks or () if looks[path].values]
    tops = {path: max(looks[path].values) for path in masks}
    if isinstance(label_map, Mapping):
        yield from _mapped(masks, looks, label_map)
    else:
        yield from _scales(masks, tops, looks, label_map)
    yield from _kinds(masks, looks)
    indices = isinstance(label_map, Mapping) or _are_indices(masks, tops, looks)
    for group in groups:
        own = [path for path in group.masks or () if looks[path].values]
        yield from _shapes(group, own, looks, indices)
        yield from _frozen(group, looks)
    yield from _empty_splits(groups, looks)


def _are_indices(masks: Sequence[str], tops: Mapping[str, int], looks: Looks) -> bool:
    shown = [path for path in masks if tops[path] > 0]
    few = [path for path in shown if 2 <= tops[path] <= INDEX_MAX and not looks[path].lossy]
    return len(few) > len(shown) / 2 or _many_classes(shown, tops, looks)


def _many_classes(shown: Sequence[str], tops: Mapping[str, int], looks: Looks) -> bool:
    """Whether masks hold indices of more than INDEX_MAX classes: their values begin at 1, and are far from 255."""
    low = all(tops[path] < 128 and not looks[path].lossy for path in shown)
    return low and any(len(looks[path].values) > 3 for path in shown) and any(1 in looks[path].values for path in shown)


def _mapped(masks: Sequence[str], looks: Looks, label_map: Mapping[int, int | str]) -> Iterator[Finding]:
    """Unknown values; and masks that show nothing but ignored pixels, where more do so than show a class."""
    ignored, shown = [], 0
    for path in masks:
        values = looks[path].values
        unknown = [value for value in values if value and value not in label_map]
        classes = {label_map.get(value, 0) for value in values} - {0}
        if unknown:
            yield Finding("D115", path, ", ".join(f"{value}: {values[value]} pixels" for value in unknown[:5]))
        elif classes == {IGNORE}:
            ignored.append(path)
        shown += bool(classes - {IGNORE})
    if len(ignored) > shown:
        yield from (Finding("D123", path) for path in ignored)


def _scales(masks: Sequence[str], tops: Mapping[str, int], looks: Looks, label_map: str | None) -> Iterator[Finding]:
    """Scales that do not go together, class values that nobody announced, and grey edges."""
    shown = [path for path in masks if tops[path] > 0]
    small = [path for path in shown if tops[path] <= INDEX_MAX and not looks[path].lossy]
    indices = _are_indices(masks, tops, looks)
    if 0 < len(small) < len(shown) and not _many_classes(shown, tops, looks):
        for path in min(small, [path for path in shown if path not in set(small)], key=len):
            yield Finding("D103", path, f"its largest value is {tops[path]}")
    elif label_map is not None:
        for path in small:
            if tops[path] > 1:
                yield Finding("D122", path, f"values {[value for value in looks[path].values if value]}")
    if label_map not in (None, "binary"):
        return
    for path in shown:
        if looks[path].lossy:
            yield Finding("D100", path)
        elif not indices and tops[path] > INDEX_MAX:
            yield from _grey(path, looks[path], tops[path])


def _grey(path: str, look: Look, top: int) -> Iterator[Finding]:
    grey = [number for value, number in look.values.items() if 0 < value < top]
    if grey and not any(code in ("D105", "D121") for code, _ in look.problems):
        share = sum(grey) / (sum(grey) + look.values[top])
        soft = len(grey) >= 32 and share > 0.5
        yield Finding("D102" if soft else "D101", path, f"{sum(grey)} pixels in {len(grey)} grey values")


def _kinds(masks: Sequence[str], looks: Looks) -> Iterator[Finding]:
    """Palette masks where most are grey, or the other way round."""
    palette = [path for path in masks if looks[path].mode == "P"]
    if 0 < len(palette) < len(masks):
        others = [path for path in masks if looks[path].mode != "P"]
        yield from (Finding("D106", path, f"mode {looks[path].mode}") for path in min(palette, others, key=len))


def _shapes(group: Group, own: Sequence[str], looks: Looks, indices: bool) -> Iterator[Finding]:
    share = {path: looks[path].foreground for path in own}
    for place, path in enumerate(own):
        look, near = looks[path], [share[p] for p in own[max(0, place - 1) : place + 2] if p != path]
        if share[path] == 0:
            if group.stills or not any(share.values()):
                yield Finding("D113", path)
            continue
        pixels = sum(number for value, number in look.values.items() if value)
        if pixels <= 4:
            yield Finding("D118", path, f"{pixels} pixels")
        if indices:
            continue
        if share[path] == 1:
            yield Finding("D114", path)
        elif look.border == 1 and share[path] > (0.5 if near and not group.stills and max(near) < 0.4 else 0.8):
            yield Finding("D112", path, f"{share[path]:.0%} foreground")
        elif look.border >= 0.9:
            yield Finding("D119", path)
        if look.pieces >= 50:
            yield Finding("D120", path, f"{look.pieces} pieces")


def _frozen(group: Group, looks: Looks) -> Iterator[Finding]:
    """Runs of neighbouring frames of a video that differ, with one and the same mask that shows an object."""
    masks = group.masks or []
    if group.stills or len(masks) != len(group.frames):
        return
    run = [0]
    for a, b in pairwise(range(len(masks))):
        same = looks[masks[a]].digest == looks[masks[b]].digest and looks[masks[b]].foreground > 0
        moved = looks[group.frames[a]].digest != looks[group.frames[b]].digest
        run.append(run[-1] + 1 if same and moved else 0)
    for place, length in enumerate(run):
        if length >= _FROZEN - 1 and (place + 1 == len(run) or run[place + 1] == 0):
            yield Finding(
                "D125", masks[place - length], f"{length + 1} frames", tuple(masks[place - length + 1 : place + 1])
            )


def _empty_splits(groups: Sequence[Group], looks: Looks) -> Iterator[Finding]:
    shown: dict[str, list[float]] = {}
    for group in groups:
        shown.setdefault(group.split, []).extend(looks[p].foreground for p in group.masks or () if looks[p].values)
    yield from (Finding("D124", split or ".") for split, all_ in shown.items() if len(all_) > 1 and not any(all_))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
