"""Where frames come from: a folder of images, one image, a video file. All are read frame by frame."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition

from lgrnet.inference.timeline import Timeline, read_timeline
from lgrnet.records import IMAGE_SUFFIXES, MAX_PIXELS, DataError, natural_key, read_frame

NOT_FILMED = {"tty", "bin", "xbin", "adf", "idf", "concat", "hls", "applehttp", "dash", "tiff_pipe"}
"""What FFmpeg calls files that it makes pictures of but that are none: texts drawn as on a screen, lists of files, and
stacks of pictures of which it sees the first."""


@dataclass
class ImageSource:
    """Image files as one video; a single image is a video of one frame."""

    name: str
    paths: tuple[Path, ...]
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 [H, W, 3]) of each frame. Raises DataError for an image that cannot be read."""
        return ((path.stem, read_frame(path)) for path in self.paths)


@dataclass
class VideoFileSource:
    """A video file, decoded packet by packet, so that a damaged packet costs its own frames only.

    Frames that are coded as a difference to a lost one are lost too where the decoder cannot conceal it.

    damage  what was noticed in the latest pass, one line per place. Codings without checksums can be damaged unnoticed
    notes   what else is to be known of the frames: a clock that jumps, other films in the file

    Frames are numbered as programs count them, from 0; a frame that is known to be lost keeps its number (frame 12
    stays 000012 when frame 11 is lost), see `read_timeline`. They are turned and mirrored as the file's display matrix
    says, as by players, where that is by a multiple of 90 degrees.
    """

    name: str
    path: Path
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 [H, W, 3] RGB) of each frame that can be decoded; every pass decodes anew.

        Raises DataError when the file cannot be opened, holds no video, or its frames are too large.
        """
        self.damage.clear()
        self.notes.clear()
        with self._opened() as container:
            timeline = read_timeline(container, _video_stream(container, self.path))
        with self._opened() as container:
            stream = _video_stream(container, self.path)
            numbers, end, undecoded = [-1], 0.0, 0
            for frame in self._decoded(container, stream):
                if frame is None:
                    undecoded += 1
                    continue
                counted = numbers[-1] + 1 + (0 if timeline.numbers else undecoded)
                numbers.append(max(timeline.numbers.get(frame.pts, counted), numbers[-1] + 1))
                end, undecoded = _end(frame, stream), 0
                yield f"{numbers[-1]:06d}", _upright(frame)
            self._note(container, stream, timeline)
            self._report_end(end, container, stream)
            self._report_gaps(numbers, timeline)

    def _opened(self) -> av.container.InputContainer:
        try:
            # As an absolute path: FFmpeg takes what stands before a colon for a protocol.
            return av.open(str(self.path.absolute()))
        except (av.FFmpegError, OSError) as error:
            raise DataError(
                f"video {self.path} cannot be opened ({error}); it is damaged, cut short or no video"
            ) from error

    def _note(self, container: av.container.InputContainer, stream: av.VideoStream, timeline: Timeline) -> None:
        if (films := len(_films(container))) > 1:  # as of the two eyes of a stereo endoscope
            self.notes.append(f"the file holds {films} video streams; stream {stream.index} was taken")
        for number, seconds in timeline.breaks:
            self.notes.append(f"the clock jumps by {seconds:+.0f} s after frame {number}; frames are numbered on")

    def _report_end(self, end: float, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        """Says so where the frames end before the file does by its own words: it was cut short.

        Only for files that do not say how many frames they have, such as Matroska's.
        """
        promised, rate = _promised_seconds(container, stream), stream.average_rate or stream.guessed_rate
        if not stream.frames and promised and rate and promised - end > 1.5 / rate:
            self.damage.append(f"the file says that it lasts {promised:.2f} s, but its last frame ends at {end:.2f} s")

    def _report_gaps(self, numbers: Sequence[int], timeline: Timeline) -> None:
        """Frames that are not there: damaged, coded as a difference to damaged ones, or not in the file."""
        ends = [*numbers, timeline.last + 1]
        gaps = [(a + 1, b - 1) for a, b in pairwise(ends) if b > a + 1]
        if gaps:
            count = sum(b - a + 1 for a, b in gaps)
            shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in gaps[:20])
            self.damage.append(f"missing frames ({count} in all): {shown}{', ...' if len(gaps) > 20 else ''}")

    def _decoded(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.VideoFrame | None]:
        """The frames, None for each that cannot be decoded."""
        packets = container.demux(stream)
        index = -1
        while True:
            index += 1
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.damage.append(f"packet {index}: the rest of {self.path.name} cannot be read ({error.strerror})")
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self.damage.append(f"packet {index} at {_seconds(packet)}: not decoded ({error.strerror})")
                yield None
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damage.append(f"packet {index} at {_seconds(packet)}: its frame is damaged and left out")
                    yield None
                else:
                    yield frame


def open_source(path: str | Path) -> ImageSource | VideoFileSource:
    """The source for a folder of frames, an image or a video file, named after it.

    Raises DataError when the path does not exist or is a folder without images.
    """
    path = Path(path)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
        if not found:
            inside = sorted(p.name for p in path.iterdir() if p.is_dir())[:5]
            hint = f"; it holds the folders {', '.join(inside)}: give one of these" if inside else ""
            raise DataError(f"folder {path} holds no frames ({', '.join(IMAGE_SUFFIXES)}){hint}")
        twice = sorted(stem for stem, times in Counter(p.stem for p in found).items() if times > 1)
        if twice:
            raise DataError(
                f"folder {path} holds frames twice, in two formats: {', '.join(twice[:5])}; keep one of each"
            )
        return ImageSource(path.resolve().name, tuple(sorted(found, key=lambda p: natural_key(p.name))))
    if not path.exists():
        raise DataError(f"{path} does not exist; expected a folder of frames, an image or a video file")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource(path.stem, (path,))
    return VideoFileSource(path.stem, path)


def _films(container: av.container.InputContainer) -> list[av.VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    films = _films(container)
    if not films or not NOT_FILMED.isdisjoint(container.format.name.split(",")):
        raise DataError(f"{path} holds no video stream; expected a video file, an image or a folder of frames")
    best = container.streams.best("video")
    stream = best if best in films else films[0]
    if stream.codec_context is None:
        raise DataError(f"{path} has a video stream in a coding that is not known here; convert it, to H.264 say")
    if stream.width * stream.height > MAX_PIXELS:
        raise DataError(f"{path} has frames of {stream.width} x {stream.height}, more than {MAX_PIXELS} pixels")
    return stream


def _end(frame: av.VideoFrame, stream: av.VideoStream) -> float:
    """When the frame ends, in seconds of the file; infinity where that is not known."""
    rate = stream.average_rate or stream.guessed_rate
    if frame.pts is None or not (rate or frame.duration):
        return math.inf
    return float(frame.pts * frame.time_base + (frame.duration * frame.time_base or 1 / rate))


def _promised_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long the stream lasts by what the file says; None where that is not known, or may be meant of its sound."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    alone = len(container.streams) == 1 and container.duration
    return container.duration / av.time_base if alone else None


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3] RGB, turned and mirrored as the display matrix says where that needs no resampling."""
    pixels = frame.to_ndarray(format="rgb24")
    (a, b), (c, d) = _display(frame)
    if a and d and not (b or c):
        return np.ascontiguousarray(pixels[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1])
    if b and c and not (a or d):
        return np.ascontiguousarray(pixels.swapaxes(0, 1)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1])
    return pixels


def _display(frame: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the display matrix brings the axes x and y: (x to x, x to y), (y to x, y to y)."""
    for data in frame.side_data:
        if data.type == Type.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return (a, b), (c, d)
    return (1, 0), (0, 1)


def _seconds(packet: av.Packet) -> str:
    time = packet.pts if packet.pts is not None else packet.dts
    return "an unknown time" if time is None else f"{float(time * packet.time_base):.2f} s"
