"""Parts of a set, of whole videos or of frames, by what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lgrnet.evaluation.attributes import VISUAL_ATTRIBUTES, FrameShape, visual_attributes
from lgrnet.evaluation.object_size import NO_OBJECT, PUBLISHED_LIMITS, size_classes

Slice = Mapping[str, frozenset[str] | None]
"""Video -> names of its frames in the slice, None: the whole video."""

LENGTHS = (100, 200, 300)
MILLIMETRES = (6, 10)
"""Polyps up to 5 mm are called diminutive, 6 to 9 mm small, and 10 mm and more large."""

_GROUPS = ("attribute", "length", "place", "size", "frames", "videos")
_MANY = 10
_MOST = 40


@dataclass(frozen=True)
class VideoFacts:
    """What slices are made of.

    frames      names of all frames, in their order
    shapes      of the annotated lesions of each, None: not annotated
    attributes  column -> text, number, True or False; of a file (`read_attributes`) or of `VideoRecord.meta`
    """

    frames: Sequence[str]
    shapes: Sequence[FrameShape | None]
    attributes: Mapping[str, object] = field(default_factory=dict)


def slices_of(facts: Mapping[str, VideoFacts], limits: Sequence[float] = PUBLISHED_LIMITS) -> dict[str, Slice]:
    """Name of a slice -> what is in it; a slice that would be empty is left out.

    Of whole videos:
    "attribute: SV"       those that have it; SV, SO, LO and FM come from the masks (`visual_attributes`) unless the
                          attributes say them, the others from the attributes
    "<column>: <value>"   one per value of every other attribute; numbers of more than 10 different values in three
                          parts of equal size; `size_mm` in up to 5, 6 to 9 and 10 and more
    "length: ..."         by the number of frames
    "videos: with lesion", "videos: without lesion"   in some annotated frame, and in none

    Of frames:
    "place: first frame", "place: last frame", "place: between"   among the annotated ones of each video
    "size: ..."           by the largest object, disjoint classes with SvANet's limits (see `size_classes`)
    "frames: with lesion", "frames: without lesion"

    A column that is called like one of these groups is shown as "own <column>".

    A column with one value for all makes no slice; nor does one of more than 40 different texts, nor one in which each
    of more than 10 videos has its own.
    """
    facts = {video: facts[video] for video in sorted(facts)}
    groups = {**_of_attributes(facts), **_of_lengths(facts), **_of_places(facts), **_of_sizes(facts, limits)}
    groups = {group: {name: part for name, part in parts.items() if part} for group, parts in groups.items()}
    return {
        f"{group}: {name}": part
        for group, parts in groups.items()
        for name, part in parts.items()
        if len(parts) > 1 or group == "attribute"
    }


def whole_videos(part: Slice) -> bool:
    """Whether a slice is made of whole videos, so that it fits protocols that score a clip as a whole."""
    return all(frames is None for frames in part.values())


def holds(part: Slice, video: str, frame: str) -> bool:
    """Whether a frame is in a slice."""
    return video in part and (part[video] is None or frame in part[video])


def _of_attributes(facts: Mapping[str, VideoFacts]) -> dict[str, dict[str, Slice]]:
    given = {video: {a: x for a, x in fact.attributes.items() if x is not None} for video, fact in facts.items()}
    known = {video: {**visual_attributes(fact.shapes), **given[video]} for video, fact in facts.items()}
    groups: dict[str, dict[str, Slice]] = {
        "attribute": {a: {v: None for v in known if known[v].get(a) in (True,)} for a in VISUAL_ATTRIBUTES}
    }
    for column in sorted({column for values in known.values() for column in values} - set(VISUAL_ATTRIBUTES)):
        values = {video: found[column] for video, found in known.items() if found.get(column) is not None}
        if parts := _by_value(column, values):
            groups[f"own {column}" if column in _GROUPS else column] = parts
    return groups


def _by_value(column: str, values: Mapping[str, object]) -> dict[str, Slice]:
    """The slices of one column."""
    if column == "size_mm":
        return _binned({video: float(value) for video, value in values.items()}, MILLIMETRES, "mm")
    numbers = {v: float(x) for v, x in values.items() if isinstance(x, (int, float)) and not isinstance(x, bool)}
    if len(numbers) == len(values) and len(set(numbers.values())) > _MANY:
        ordered = sorted(numbers.values())
        return _binned(numbers, sorted({ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]}))
    texts = {video: str(value) for video, value in values.items()}
    different = len(set(texts.values()))
    if different > _MOST or different == len(texts) > _MANY:
        return {}
    return {text: {v: None for v in texts if texts[v] == text} for text in sorted(set(texts.values()))}


def _binned(numbers: Mapping[str, float], limits: Sequence[float], unit: str = "") -> dict[str, Slice]:
    """Slices below the first limit, between two (the lower one included), and from the last one on."""
    unit = f" {unit}" if unit else ""
    names = [f"< {limits[0]:g}{unit}", *(f"{a:g} to < {b:g}{unit}" for a, b in zip(limits, limits[1:], strict=False))]
    names.append(f">= {limits[-1]:g}{unit}")
    place = {video: sum(number >= limit for limit in limits) for video, number in numbers.items()}
    return {name: {v: None for v in place if place[v] == i} for i, name in enumerate(names)}


def _of_lengths(facts: Mapping[str, VideoFacts]) -> dict[str, dict[str, Slice]]:
    return {"length": _binned({video: len(fact.frames) for video, fact in facts.items()}, LENGTHS, "frames")}


def _of_places(facts: Mapping[str, VideoFacts]) -> dict[str, dict[str, Slice]]:
    annotated = {video: [f for f, s in zip(x.frames, x.shapes, strict=True) if s] for video, x in facts.items()}
    parts = {"first frame": slice(0, 1), "last frame": slice(-1, None), "between": slice(1, -1)}
    return {"place": {name: _frames({v: f[part] for v, f in annotated.items()}) for name, part in parts.items()}}


def _of_sizes(facts: Mapping[str, VideoFacts], limits: Sequence[float]) -> dict[str, dict[str, Slice]]:
    known = [
        (video, frame, shape)
        for video, fact in facts.items()
        for frame, shape in zip(fact.frames, fact.shapes, strict=True)
        if shape is not None
    ]
    classes = size_classes([shape.size for *_, shape in known], [shape.area > 0 for *_, shape in known], limits)

    def chosen(places: Sequence[int]) -> Slice:
        frames: dict[str, list[str]] = {}
        for video, frame, _ in (known[i] for i in places):
            frames.setdefault(video, []).append(frame)
        return _frames(frames)

    without = classes.pop(NO_OBJECT)
    ill = {video for video, _, shape in known if shape.area}
    healthy = {video for video, _, shape in known} - ill
    return {
        "size": {name: chosen(places) for name, places in classes.items() if not name.startswith("<")},
        "frames": {"with lesion": chosen(sorted({*range(len(known))} - {*without})), "without lesion": chosen(without)},
        "videos": {"with lesion": dict.fromkeys(sorted(ill)), "without lesion": dict.fromkeys(sorted(healthy))},
    }


def _frames(frames: Mapping[str, Sequence[str]]) -> Slice:
    return {video: frozenset(names) for video, names in frames.items() if names}
