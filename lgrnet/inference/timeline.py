"""Which frame of a video file a picture is, by the times of the packets that the file holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import av

_UNTOLD = {"avi", "ivf"}
"""What FFmpeg calls files whose times do not tell: AVI holds none, and FFmpeg's guesses are wrong by some frames; IVF
has, and counts, pictures that are never shown."""
_NEAR = 0.25
"""Of the usual distance of two frames: so far off it may be, for clocks that count in milliseconds."""
_STEADY = 0.95
_LONGEST = 10.0
"""Seconds between two frames above which the file's clock was set anew, or it was joined of several."""
_SAMPLE = 32
"""Packets that are decoded to see whether each is a frame."""


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
    """Reads all packets of a file and decodes few; what cannot be read is left to the one who decodes.

    Where the file counts its frames, all are there, and a frame's number is its rank by time. Where it does not, such
    as Matroska's and transport streams, a longer distance of two frames than usual means that some are lost between
    them; without a usual distance nothing tells so, and frames are to be counted, as where each half of an interlaced
    frame is a packet, and where the clock goes back.
    """
    kinds, promised = set(container.format.name.split(",")), stream.frames
    times, shown, breaks, clock = [], [], [], None
    for packet in _packets(container, stream):
        if not packet.size or packet.is_discard:
            promised -= packet.dts is not None
            continue
        if clock is not None and packet.dts is not None and packet.dts < clock:
            breaks.append(Break(len(times) - 1, float((packet.dts - clock) * packet.time_base)))
        clock = clock if packet.dts is None else packet.dts
        times.append(packet.pts)
        if len(times) <= _SAMPLE:
            shown += _times_shown(packet)
    if kinds & _UNTOLD:
        return Timeline(promised=_cut_off(promised, clock, len(times)) if "avi" in kinds else 0)
    if not times or None in times or len(set(times)) < len(times) or breaks:
        return Timeline(promised=max(promised, 0), breaks=tuple(breaks))
    if _are_fields(times[:_SAMPLE], shown):
        return Timeline()
    times.sort()
    if promised > 0:
        return Timeline({time: number for number, time in enumerate(times)}, promised)
    return _by_distances(times, float(stream.time_base))


def _cut_off(places: int, last: int | None, found: int) -> int:
    """How many frames an AVI of so many places had, of which the last that is there is `last`; 0: it is whole.

    Places may be empty, as in files of more places a second than frames; FFmpeg passes over these.
    """
    if last is None or not found:
        return places
    every = (last + 1) / found
    lost = int((places - last - 1) / every) - (every > 1)
    return found + lost if lost > 0 else 0


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    with suppress(av.FFmpegError):
        yield from container.demux(stream)


def _times_shown(packet: av.Packet) -> list[int | None]:
    try:
        return [frame.pts for frame in packet.decode()]
    except av.FFmpegError:
        return []


def _are_fields(times: Sequence[int], shown: Sequence[int | None]) -> bool:
    """Whether every second packet alone is the time of a frame."""
    if len(shown) < 4 or None in shown:
        return False
    between = sorted(time for time in times if min(shown) <= time <= max(shown))
    return between[::2] == sorted(shown) and len(between) > len(shown)


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
