"""Pictures of the HTML report: which frames have one, and how it is kept in few bytes.

A picture is the small frame as JPEG; the outlines of truth and prediction are paths of SVG, so that they stay sharp and
the page can show either.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

QUALITY = 78
SAME_VIDEO = 3
"""Frames of one video among the worst and the best: its neighbours look alike."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What there is to show of one frame.

    frame  uint8 [H, W, 3]; None where only masks are known
    truth  bool [K, H, W]; None where the frame is not annotated
    found  bool [K, H, W], the predicted masks; of another size than the truth they are drawn at its place
    """

    frame: np.ndarray | None
    truth: np.ndarray | None
    found: np.ndarray


Pictures = Callable[[str, str], Picture | None]
"""The picture of (video, frame); None where it is not to be had."""


def encode(picture: Picture, side: int) -> dict[str, object]:
    """A picture as plain values: size [width, height], frame (data URI or None), truth and found (a path per class).

    side  longer side in pixels; a smaller frame keeps its size
    """
    height, width = (picture.found if picture.truth is None else picture.truth).shape[-2:]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    uri = None
    if picture.frame is not None:
        buffer = io.BytesIO()
        small = cv2.resize(picture.frame, size, interpolation=cv2.INTER_AREA)
        Image.fromarray(small).save(buffer, "JPEG", quality=QUALITY, optimize=True)
        uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    masks = {"truth": () if picture.truth is None else picture.truth, "found": picture.found}
    return {"size": size, "frame": uri, **{name: [outline(mask, size) for mask in masks[name]] for name in masks}}


def outline(mask: np.ndarray, size: tuple[int, int]) -> str:
    """The borders of a mask, bool [H, W], as an SVG path on an image of `size` (width, height).

    They run through the centres of the border's pixels at full size, where no object is too small to have one, and
    are simplified by less than half a pixel of the image.
    """
    scale = np.array(size) / mask.shape[::-1]
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for border in borders:
        points = (cv2.approxPolyDP(border, 0.4 / float(scale.max()), True)[:, 0] + 0.5) * scale
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points.tolist()) + "Z")
    return "".join(parts)


def spread(count: int) -> list[int]:
    """All of 0 .. count - 1, ordered so that the first ones of any number are spread evenly: ends, middle, quarters."""
    order = dict.fromkeys((0, count - 1) if count else ())
    parts = 2
    while len(order) < count:
        order.update(dict.fromkeys(round(i * (count - 1) / parts) for i in range(1, parts)))
        parts *= 2
    return list(order)


@dataclass(frozen=True)
class Wanted:
    """One set's frames, for the choice of pictures.

    videos    video -> its frames
    scores    (video, frame) -> the number that ranks frames, higher is better; those not defined are absent
    pictures  where the pictures come from
    """

    videos: Mapping[str, Sequence[str]]
    scores: Mapping[tuple[str, str], float]
    pictures: Pictures


class Album:
    """Encoded pictures, one at a time, until the budget is spent.

    budget   bytes of all of them, as they stand in the page
    extreme  so many worst and so many best frames of each set come first

    After `entries` has run out, `places` has (set, video, frame) -> number of its picture, and `worst` and `best` have
    (video, frame) per set.
    """

    def __init__(self, sets: Sequence[Wanted], budget: int, side: int, extreme: int):
        self.sets, self.budget, self.side, self.extreme = sets, budget, side, extreme
        self.places: dict[tuple[int, str, str], int] = {}
        self.worst: list[list[tuple[str, str]]] = [[] for _ in sets]
        self.best: list[list[tuple[str, str]]] = [[] for _ in sets]
        self._full = False

    def entries(self) -> Iterator[str]:
        """The pictures as JSON, in the order of their numbers: extremes, each video's worst frame, then more and more
        frames of every video, spread evenly."""
        for number, wanted in enumerate(self.sets):
            ordered = sorted(wanted.scores, key=lambda place: (wanted.scores[place], place))
            yield from self._extremes(number, ordered, self.worst[number], empty_too=True)
            yield from self._extremes(number, ordered[::-1], self.best[number], empty_too=False)
        for number, video, frame in self._in_turn():
            if self._full:
                return
            if (number, video, frame) not in self.places:
                yield from self._entry(number, video, frame)

    def _extremes(
        self, number: int, ordered: Sequence[tuple[str, str]], kept: list[tuple[str, str]], empty_too: bool
    ) -> Iterator[str]:
        """The first of `ordered`, few of one video; a frame where nothing is and nothing was found only if asked."""
        of_video: Counter[str] = Counter()
        tries = 0
        for video, frame in ordered:
            if len(kept) == self.extreme or tries == 4 * self.extreme or self._full:
                return
            if of_video[video] < SAME_VIDEO and (
                kept is self.worst[number] or (video, frame) not in self.worst[number]
            ):
                tries += 1
                yield from self._entry(number, video, frame, empty_too)
                if (number, video, frame) in self.places:
                    kept.append((video, frame))
                    of_video[video] += 1

    def _in_turn(self) -> Iterator[tuple[int, str, str]]:
        """Set, video and frame: of every video the worst one, then one after the other of its frames as `spread`."""
        for number, wanted in enumerate(self.sets):
            for video, frames in wanted.videos.items():
                yield number, video, min(frames, key=lambda f, v=video, s=wanted.scores: s.get((v, f), math.inf))
        queues = [
            (n, v, frames, spread(len(frames))) for n, w in enumerate(self.sets) for v, frames in w.videos.items()
        ]
        for turn in range(max((len(order) for *_, order in queues), default=0)):
            for number, video, frames, order in queues:
                if turn < len(order):
                    yield number, video, frames[order[turn]]

    def _entry(self, number: int, video: str, frame: str, empty_too: bool = True) -> Iterator[str]:
        """The picture of a frame, unless it has one already, there is none, or it does not fit any more."""
        if (number, video, frame) in self.places:
            return
        picture = self.sets[number].pictures(video, frame)
        if picture is None or not (empty_too or _shows_something(picture)):
            return
        text = json.dumps(encode(picture, self.side), separators=(",", ":"))
        self._full = len(text) > self.budget
        if not self._full:
            self.budget -= len(text)
            self.places[number, video, frame] = len(self.places)
            yield text


def _shows_something(picture: Picture) -> bool:
    return bool(picture.found.any() or (picture.truth is not None and picture.truth.any()))
