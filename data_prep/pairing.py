"""Frames and masks of a download paired by their names, videos and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from data_prep.archives import Source, shown
from data_prep.placing import Content, Entry, Part, Plan
from lgrnet.records import DataError, natural_key

Key = tuple[str, str]
"""(video, stem of the frame); the video is "" for still images."""

Files = dict[Key, Entry]


def collect(files: Iterable[tuple[Key, Entry]]) -> Files:
    """The files by their keys. One that a later download holds again is left out.

    Raises DataError for two in one download, and for another file under the name: a frame of one download would be
    paired with a mask of the other.
    """
    found: Files = {}
    for key, entry in files:
        first = found.setdefault(key, entry)
        if first is entry:
            continue
        if first.source is entry.source:
            names = f"{shown(first.name)} and {shown(entry.name)}"
            raise DataError(f"{names} in {entry.source.path} are the same frame twice; keep one of them")
        if (first.suffix, first.size) != (entry.suffix, entry.size):
            raise DataError(
                f"{shown(entry.name)} is another file in {entry.source.path} than in {first.source.path}; give the "
                "downloads of one data set only, or one of these"
            )
    return found


def paired(frames: Files, masks: Files) -> tuple[dict[Key, tuple[Entry, Entry]], list[str]]:
    """The pairs in natural order, and what is missing: the masks of some frames and the frames of some masks."""
    order = sorted(set(frames) | set(masks), key=lambda key: (natural_key(key[0]), natural_key(key[1])))
    pairs = {key: (frames[key], masks[key]) for key in order if key in frames and key in masks}
    lone = [(key, "mask", frames[key]) for key in order if key not in masks]
    lone += [(key, "frame", masks[key]) for key in order if key not in frames]
    return pairs, [f"the {what} of {entry.name}" for _, what, entry in lone]


def counted(pairs: Iterable[Key]) -> dict[str, int]:
    """Video -> how many frames it has here."""
    found: dict[str, int] = defaultdict(int)
    for video, _ in pairs:
        found[video] += 1
    return dict(found)


def planned(pairs: dict[Key, tuple[Entry, Entry]], folder: str = "", names: tuple[str, str] = ("Frame", "GT")) -> Plan:
    """Where the pairs go: `<folder>/<names[0]>/<video>/<stem>` with the endings they have, and so the masks."""
    plan = Plan()
    for (video, stem), files in pairs.items():
        for name, entry in zip(names, files, strict=True):
            plan["/".join(part for part in (folder, name, video, stem + entry.suffix) if part)] = entry
    return plan


def part_of(
    name: str, frames: Files, masks: Files, videos: int | None, published: int | None
) -> tuple[dict[Key, tuple[Entry, Entry]], Part]:
    """The pairs of a split, and its part of the report; still images where there is no published number of videos."""
    pairs, missing = paired(frames, masks)
    noun = None if videos is None else "videos"
    return pairs, Part(name, counted(pairs), videos, published, missing, noun)


def contents_of(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Content]]:
    """The bytes of some files, download after download, each in its own order."""
    names: dict[Source, list[str]] = defaultdict(list)
    for entry in entries:
        names[entry.source].append(entry.name)
    for source, wanted in names.items():
        for name, stream in source.streams(wanted):
            entry = Entry(source, name)
            yield entry, Content(stream.read(), entry)
