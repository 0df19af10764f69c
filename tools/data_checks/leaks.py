"""The same and nearly the same pictures, and the same patients, on both sides of a split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from data_checks.kinds import Finding
from data_checks.pictures import THUMB, Look

FINE, COARSE, PLAIN = 0.96, 0.85, 0.985
"""Least correlation of two pictures that are nearly the same: of their details at 32 x 32 and at 16 x 16 pixels, and
of their grey values. Pairs of unlike frames stay below 0.95 in the first even where one endoscope took both; a picture
saved again, at half its size or brighter, stays above 0.965 in all."""
_BLOCK = 4096
_LIMIT = 200_000  # pairs that are looked at closely; a set with more has copies everywhere


@dataclass(frozen=True)
class Place:
    """Where a frame stands: its video with its split, and its role ("train", "test", ...; "" unknown)."""

    video: str
    role: str
    patient: str | None


def check_same(frames: Sequence[str], looks: Mapping[str, Look], places: Mapping[str, Place]) -> Iterator[Finding]:
    """Files with the same bytes: whole videos first, then pictures, one finding per pair of videos."""
    copies: dict[bytes, list[str]] = defaultdict(list)
    for frame in frames:
        if looks[frame].digest:
            copies[looks[frame].digest].append(frame)
    lengths: dict[str, int] = defaultdict(int)
    for frame in frames:
        lengths[places[frame].video] += 1
    between: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    order = {frame: number for number, frame in enumerate(frames)}
    for group in copies.values():
        for a, b in pairwise(group):
            if places[a].video != places[b].video:
                between[places[a].video, places[b].video].append((a, b))
            elif order[b] > order[a] + 1:
                yield Finding("D142", b, "", (a,))
    for (one, other), pairs in between.items():
        whole = len(pairs) > 1 and len(pairs) == min(lengths[one], lengths[other])
        yield _between("D147" if whole else "", pairs, places)


def _between(code: str, pairs: Sequence[tuple[str, str]], places: Mapping[str, Place], near: bool = False) -> Finding:
    if places[pairs[0][1]].role == "train" != places[pairs[0][0]].role:
        pairs = [pair[::-1] for pair in pairs]  # the evaluation's picture is the one to look at
    a, b = pairs[0]
    if code == "D147":
        return Finding(code, places[b].video, f"{len(pairs)} frames", (places[a].video,))
    if not code:
        code = ("D143" if near else "D140") if _leak(places[a], places[b]) else ("D144" if near else "D141")
    more = tuple(path for pair in pairs[1:] for path in pair)
    return Finding(code, b, f"{len(pairs)} such pairs" if more else "", (a, *more))


def _leak(a: Place, b: Place) -> bool:
    return a.role != b.role and bool(a.role and b.role)


def check_near(frames: Sequence[str], looks: Mapping[str, Look], places: Mapping[str, Place]) -> Iterator[Finding]:
    """Pictures of different videos that are nearly the same, one finding per pair of videos.

    Neighbours in one video look alike by nature and are never compared; nor are clips of one patient on one side.
    """
    chosen = [f for f in frames if looks[f].thumb and looks[f].extrema[1] - looks[f].extrema[0] > 24]
    chosen = list({looks[frame].digest: frame for frame in reversed(chosen)}.values())[::-1]
    if len(chosen) < 2:
        return
    thumbs = np.stack([np.frombuffer(looks[f].thumb, np.uint8).reshape(THUMB, THUMB) for f in chosen])
    names = {name: number for number, name in enumerate(dict.fromkeys(places[f].video for f in chosen))}
    videos = np.array([names[places[f].video] for f in chosen])
    between: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for i, j in _alike(thumbs, videos):
        a, b = chosen[i], chosen[j]
        same_patient = places[a].patient is not None and places[a].patient == places[b].patient
        if _leak(places[a], places[b]) or not same_patient:
            between[places[a].video, places[b].video].append((a, b))
    for pairs in between.values():
        yield _between("", pairs, places, near=True)


def _alike(thumbs: np.ndarray, videos: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs i < j of thumbnails uint8 [N, 32, 32] of different videos that are nearly the same."""
    plain = _unit(thumbs.reshape(len(thumbs), -1).astype(np.float32))
    detail = np.stack([t - cv2.GaussianBlur(t, (0, 0), 2) for t in thumbs.astype(np.float32)])
    fine = _unit(detail.reshape(len(thumbs), -1))
    half = THUMB // 2
    coarse = _unit(detail.reshape(len(thumbs), half, 2, half, 2).mean((2, 4)).reshape(len(thumbs), -1))
    seen = 0
    for top in range(0, len(thumbs), _BLOCK):
        for left in range(top, len(thumbs), _BLOCK):
            rows, columns = np.nonzero(coarse[top : top + _BLOCK] @ coarse[left : left + _BLOCK].T > COARSE)
            rows, columns = rows + top, columns + left
            kept = (rows < columns) & (videos[rows] != videos[columns])
            rows, columns = rows[kept][: _LIMIT - seen], columns[kept][: _LIMIT - seen]
            seen += len(rows)
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
                if fine[i] @ fine[j] > FINE and plain[i] @ plain[j] > PLAIN:
                    yield i, j


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows without their mean, of length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)


def check_patients(places: Mapping[str, Place]) -> Iterator[Finding]:
    """Patients that stand in more than one of training, validation and test."""
    roles: dict[str, dict[str, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))
    for place in places.values():
        if place.patient is not None and place.role:
            roles[place.patient][place.role][place.video] = None
    for patient, sides in roles.items():
        if len(sides) > 1:
            sides = dict(sorted(sides.items(), key=lambda side: side[0] != "train"))
            shown = "; ".join(f"{role}: {', '.join(list(videos)[:6])}" for role, videos in sides.items())
            first, *others = [video for videos in sides.values() for video in videos]
            yield Finding("D145", first, f"patient {patient}: {shown}", tuple(others))
