"""Which frame of a video file a picture is, by the times of the packets that the file holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import av

MADE_UP = {"avi"}
"""What FFmpeg calls files that hold no times of frames: those of its packets are guessed, and wrong by some frames."""
_NEAR = 0.25
"""Of the usual distance of two frames: so far off it may be, for clocks that count in milliseconds."""
_STEADY = 0.95
_LONGEST = 60.0
"""Seconds between two frames above which the file's clock was set anew, or it was joined of several."""


class Break(NamedTuple):
    """Where a file's clock jumps: the number of the frame before it, and by how many seconds."""

    after: int
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """The frames of a file before any is decoded.

    numbers   time of a packet, in ticks of its stream -> number of its frame; empty where times do not tell
    promised  how many frames there are by the file's own count, without those that it hides; 0: it does not count them
    breaks    where the clock jumps
    """

    numbers: dict[int, int] = field(default_factory=dict)
    promised: int = 0
    breaks: tuple[Break, ...] = ()

    @property
    def last(self) -> int:
        """The largest number there is, -1 where none is known."""
        return max(max(self.numbers.values(), default=-1), self.promised - 1)


def read_timeline(container: av.container.InputContainer, stream: av.VideoStream) -> Timeline:
    """Reads all packets of a file and decodes none; what cannot be read is left to the one who decodes.

    Where the file counts its frames, all are there, and a frame's number is its rank by time. Where it does not, such
    as Matroska's and transport streams, a longer distance of two frames than usual means that some are lost between
    them; without a usual distance nothing tells so, and frames are to be counted.
    """
    times, hidden, untold = [], 0, not MADE_UP.isdisjoint(container.format.name.split(","))
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
            elif packet.dts is not None:
                hidden += 1
    except av.FFmpegError:
        pass
    promised = max(stream.frames - hidden, 0)
    if untold or None in times or len(set(times)) < len(times) or not times:
        return Timeline(promised=promised)
    times.sort()
    if promised:
        return Timeline({time: number for number, time in enumerate(times)}, promised)
    return _by_distances(times, float(stream.time_base))


def _by_distances(times: list[int], tick: float) -> Timeline:
    distances = [after - before for before, after in pairwise(times)]
    usual = median(distances) if distances else 0
    steps = [distance / usual for distance in distances] if usual else []
    if sum(abs(step - 1) <= _NEAR for step in steps) < _STEADY * len(steps) or not steps:
        return Timeline()
    numbers, breaks = {times[0]: 0}, []
    for time, distance, step in zip(times[1:], distances, steps, strict=True):
        last = numbers[time - distance]
        if distance * tick > _LONGEST:
            breaks.append(Break(last, distance * tick))
            step = 1
        numbers[time] = last + round(step)  # 0 for what is decoded and never shown, as VP8 has it
    return Timeline(numbers, breaks=tuple(breaks))
