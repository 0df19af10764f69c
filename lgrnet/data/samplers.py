"""Which frames of a video make a clip.

A sampler is called with (video_len, anchor, rng) and returns frame indices in ascending order; the anchor is the
frame that the clip is about. All draws come from the passed `random.Random`. Letter: T frames of a clip.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Sampler = Callable[[int, int, random.Random], list[int]]


@dataclass(frozen=True)
class LocalGlobal:
    """The anchor, one frame shortly before, one shortly after, and the rest from anywhere: LGRNet's sampler.

    num_frames        T, at least 3
    reach             the near frames are 1..reach frames away, clamped to the video
    single_frame      "repeat": a video of one frame gives T times that frame. This default is not the published
                      behaviour, "error": there such a video ends the training, here stills may stand beside videos
    repeat_last_near  True: the latest near frame may be drawn again as a far one, as published, so that draws match
                      the published sequence; False: far frames are others than the near ones

    Published quirks, kept: the frames between the near ones are no far frames, and duplicates can occur (at the ends
    of a video, and in videos shorter than the clip). The order of the draws is the published one, down to the choice
    among one clip size.
    """

    num_frames: int = 6
    reach: int = 3
    single_frame: str = "repeat"
    repeat_last_near: bool = True

    def __post_init__(self) -> None:
        if self.num_frames < 3:
            raise ValueError(f"num_frames is {self.num_frames}; LocalGlobal needs at least 3, use Window or Single")
        if self.single_frame not in ("repeat", "error"):
            raise ValueError(f'single_frame is {self.single_frame!r}; expected "repeat" or "error"')

    def __call__(self, video_len: int, anchor: int, rng: random.Random) -> list[int]:
        """T ascending indices; raises ValueError for a one-frame video when single_frame is "error"."""
        _check_anchor(video_len, anchor)
        rng.choice((self.num_frames,))
        before, after = rng.randint(1, self.reach), rng.randint(1, self.reach)
        if video_len == 1:
            return self._one_frame()
        near = [anchor, max(0, anchor - before), min(video_len - 1, anchor + after)]
        return sorted(near + self._far(near, video_len, rng))

    def _one_frame(self) -> list[int]:
        if self.single_frame == "error":
            raise ValueError('the video has one frame, of which no clip is made; single_frame="repeat" repeats it')
        return [0] * self.num_frames

    def _far(self, near: list[int], video_len: int, rng: random.Random) -> list[int]:
        count = self.num_frames - 3
        pool = [*range(min(near)), *range(max(near) + (not self.repeat_last_near), video_len)]
        if len(pool) > count:
            return rng.sample(pool, count)
        far: list[int] = []
        while count - len(far) > video_len:
            far += range(video_len)
        return far + rng.sample(range(video_len), count - len(far))


@dataclass(frozen=True)
class Dense:
    """T frames `stride` apart, starting at the anchor; moved back by whole strides where the video ends, so that the
    anchor stays among them, the last frame repeated where the video is too short for that."""

    num_frames: int = 6
    stride: int = 1

    def __post_init__(self) -> None:
        _check_positive(num_frames=self.num_frames, stride=self.stride)

    def __call__(self, video_len: int, anchor: int, rng: random.Random) -> list[int]:
        """T ascending indices; draws nothing."""
        _check_anchor(video_len, anchor)
        beyond = anchor + (self.num_frames - 1) * self.stride - (video_len - 1)
        back = min(max(0, -(-beyond // self.stride)), anchor // self.stride)
        start = anchor - back * self.stride
        return [min(start + i * self.stride, video_len - 1) for i in range(self.num_frames)]


@dataclass(frozen=True)
class Window:
    """`size` neighbouring frames that hold the anchor at a random place; the last frame is repeated where the video is
    too short."""

    size: int = 6

    def __post_init__(self) -> None:
        _check_positive(size=self.size)

    def __call__(self, video_len: int, anchor: int, rng: random.Random) -> list[int]:
        """T ascending indices; one draw."""
        _check_anchor(video_len, anchor)
        start = rng.randint(anchor - self.size + 1, anchor)
        start = max(0, min(start, video_len - self.size))
        return [min(start + i, video_len - 1) for i in range(self.size)]


@dataclass(frozen=True)
class Single:
    """The anchor alone: clips of one frame."""

    def __call__(self, video_len: int, anchor: int, rng: random.Random) -> list[int]:
        """[anchor]; draws nothing."""
        _check_anchor(video_len, anchor)
        return [anchor]


def _check_anchor(video_len: int, anchor: int) -> None:
    if not 0 <= anchor < video_len:
        raise ValueError(f"anchor {anchor} is no frame of a video of {video_len} frames (0..{video_len - 1})")


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
