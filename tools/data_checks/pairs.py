"""Frames against masks by their names, and the numbers in the names."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from data_checks.kinds import Finding
from data_checks.sets import Group
from lgrnet.records import natural_key

_ADDED = re.compile(r"(?i)^(mask|gt|label)s?[ _-]|[ _-](mask|gt|label|seg|segmentation|annotation|binary)s?$")
_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)", re.S)


def by_stem(paths: Sequence[str], code: str) -> tuple[dict[str, str], list[Finding]]:
    """Stem -> path; the second file of a stem is a finding of `code`."""
    stems: dict[str, str] = {}
    twice = []
    for path in paths:
        first = stems.setdefault(Path(path).stem, path)
        if first is not path:
            twice.append(Finding(code, path, f"beside {Path(first).name}", (first,)))
    return stems, twice


def check_pairs(group: Group) -> tuple[dict[str, str], list[Finding]]:
    """Frame -> mask of one group, by the stem of their names, and what does not fit."""
    frames, found = by_stem(group.frames, "D056")
    if group.masks is None:
        return {}, found
    masks, twice = by_stem(group.masks, "D057")
    found += twice
    pairs = {path: masks[stem] for stem, path in frames.items() if stem in masks}
    alone = {stem: path for stem, path in frames.items() if stem not in masks}
    extra = {stem: path for stem, path in masks.items() if stem not in frames}
    if (shift := _shift(frames, masks)) and len(frames) > 2:
        found.append(Finding("D065", group.masks_dir or "", f"by {shift}", (group.frames_dir,)))
        return pairs, found
    for code, same in _SAME:
        known = {same(stem): stem for stem in alone}
        for stem in list(extra):
            frame = known.get(same(stem))
            if frame in alone:
                mask = extra.pop(stem)
                pairs[alone[frame]] = mask
                found.append(Finding(code, mask, f"its frame is {Path(alone[frame]).name}", (alone.pop(frame),)))
    rejected = {stem for stem in extra if re.sub(r"_\d+$", "", stem) in frames and re.search(r"_\d+$", stem)}
    found += [Finding("D223" if stem in rejected else "D051", path) for stem, path in extra.items()]
    found += [Finding("D050", path) for path in alone.values()]
    return pairs, found


_SAME = (
    ("D034", lambda stem: unicodedata.normalize("NFC", stem)),
    ("D055", lambda stem: unicodedata.normalize("NFC", stem).casefold()),
    ("D058", lambda stem: _ADDED.sub("", stem).casefold()),
    ("D059", lambda stem: natural_key(stem)[0]),
)
"""Codes, and the form in which names are the same but for that."""


def number_of(stem: str) -> tuple[str, str, str] | None:
    """(what stands before, the last number, what stands after it) of a name."""
    match = _LAST_NUMBER.search(stem)
    return match and (stem[: match.start()], match[0], stem[match.end() :])


def _shift(frames: dict[str, str], masks: dict[str, str]) -> int:
    """By how much all numbers of masks are above those of the frames; 0 where that is not what is wrong."""
    parts = [[number_of(stem) for stem in side] for side in (frames, masks)]
    if any(part is None for side in parts for part in side) or len(frames) != len(masks) or set(frames) == set(masks):
        return 0
    ours, theirs = ({(before, int(number), after) for before, number, after in side} for side in parts)
    shift = min(n for _, n, _ in theirs) - min(n for _, n, _ in ours)
    return shift if {(b, n + shift, a) for b, n, a in ours} == theirs else 0


def check_numbers(group: Group, videos: Sequence[str]) -> Iterator[Finding]:
    """Order, gaps, repeats and mixtures of the frames of one video.

    videos  names of all videos, by which a stranger's frames are known
    """
    stems = [Path(frame).stem for frame in group.frames]
    if group.stills or len(stems) < 2:
        return
    series: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for stem, path in zip(stems, group.frames, strict=True):
        if part := number_of(stem):
            series[part[0], part[2]].append((int(part[1]), path))
    yield from _mixed(group, series, videos)
    for members in series.values():
        yield from _steps(group, sorted(members))


def _mixed(group: Group, series: dict, videos: Sequence[str]) -> Iterator[Finding]:
    """Names of another pattern than most have, or that begin with the name of another video."""
    others = set(videos) - {group.name}
    patterns = Counter()
    for key, members in series.items():
        patterns[_pattern(key)] += len(members)
    for key, members in series.items():
        stranger = key[0].rstrip("_- .")
        rare = patterns[_pattern(key)] < patterns.total() / 2
        if rare or (len(series) > 1 and stranger in others):
            yield Finding("D133", members[0][1], f"{len(members)} frames", tuple(path for _, path in members[1:]))


def _pattern(key: tuple[str, str]) -> str:
    return re.sub(r"\d+", "#", "|".join(key))


def _steps(group: Group, members: Sequence[tuple[int, str]]) -> Iterator[Finding]:
    by_name = sorted(members, key=lambda member: Path(member[1]).stem)
    if late := next((a for a, b in zip(members, by_name, strict=True) if a[0] != b[0]), None):
        yield Finding("D130", group.frames_dir, f"from {Path(late[1]).name} on")
    steps = [b[0] - a[0] for a, b in pairwise(members)]
    for step, (a, b) in zip(steps, pairwise(members), strict=True):
        if step == 0 and Path(a[1]).stem != Path(b[1]).stem:
            yield Finding("D131", b[1], f"{Path(a[1]).name} has the same number", (a[1],))
    usual, times = Counter(steps).most_common(1)[0] if steps else (0, 0)
    if len(members) >= 8 and usual > 0 and times >= 0.8 * len(steps):  # else frames were sampled on purpose
        for step, (a, b) in zip(steps, pairwise(members), strict=True):
            if step > usual:
                yield Finding("D132", group.frames_dir, f"from {Path(a[1]).name} to {Path(b[1]).name}")
