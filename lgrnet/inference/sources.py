"""Where frames come from: a folder of images, one image, a video file. All are read frame by frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from lgrnet.records import IMAGE_SUFFIXES, MAX_PIXELS, DataError, natural_key, read_frame


@dataclass
class ImageSource:
    """Image files as one video; a single image is a video of one frame."""

    name: str
    paths: tuple[Path, ...]
    damage: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 [H, W, 3]) of each frame. Raises DataError for an image that cannot be read."""
        return ((path.stem, read_frame(path)) for path in self.paths)


@dataclass
class VideoFileSource:
    """A video file, decoded packet by packet, so that a damaged packet costs its own frames only.

    Frames that are coded as a difference to a lost one are lost too where the decoder cannot conceal it.

    damage  what was wrong in the latest pass, one line per place; empty for a sound file

    Frames are named by their place in time (frame 12 stays 000012 when frame 11 is lost). They are turned as the file's
    display matrix says, as by players, where that is by a multiple of 90 degrees; its flips are not applied.
    """

    name: str
    path: Path
    damage: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, uint8 [H, W, 3] RGB) of each frame that can be decoded; every pass decodes anew.

        Raises DataError when the file cannot be opened, holds no video, or its frames are too large.
        """
        self.damage.clear()
        try:
            container = av.open(str(self.path))
        except (av.FFmpegError, OSError) as error:
            raise DataError(
                f"video {self.path} cannot be opened ({error}); it is damaged, cut short or no video"
            ) from error
        with container:
            stream = _video_stream(container, self.path)
            numbers = [-1]
            for frame in self._decoded(container, stream):
                numbers.append(_number(frame, stream, after=numbers[-1]))
                yield f"{numbers[-1]:06d}", _upright(frame)
            self._report_gaps(numbers, stream.frames)

    def _report_gaps(self, numbers: Sequence[int], promised: int) -> None:
        """Frames that a damaged packet took with it, because they are coded as a difference to its own."""
        ends = [*numbers, promised] if self.damage and promised > numbers[-1] else numbers
        gaps = [(a + 1, b - 1) for a, b in pairwise(ends) if b > a + 1]
        if gaps and (self.damage or promised > len(numbers) - 1):
            shown = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in gaps[:20])
            count = sum(b - a + 1 for a, b in gaps)
            self.damage.append(f"missing frames ({count} in all): {shown}{', ...' if len(gaps) > 20 else ''}")

    def _decoded(self, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
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
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damage.append(f"packet {index} at {_seconds(packet)}: its frame is damaged and left out")
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


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise DataError(f"{path} holds no video stream; expected a video file, an image or a folder of frames")
    stream = container.streams.video[0]
    if stream.width * stream.height > MAX_PIXELS:
        raise DataError(f"{path} has frames of {stream.width} x {stream.height}, more than {MAX_PIXELS} pixels")
    return stream


def _number(frame: av.VideoFrame, stream: av.VideoStream, after: int) -> int:
    """The frame's place in time, counted in frames from the start; always more than the one before."""
    rate = stream.average_rate or stream.guessed_rate
    if frame.pts is None or not rate:
        return after + 1
    seconds = (frame.pts - (stream.start_time or 0)) * Fraction(frame.time_base)
    return max(after + 1, round(seconds * rate))


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3] RGB, turned counterclockwise as the display matrix says where that needs no resampling."""
    pixels, angle = frame.to_ndarray(format="rgb24"), frame.rotation
    return pixels if angle % 90 else np.ascontiguousarray(np.rot90(pixels, angle // 90))


def _seconds(packet: av.Packet) -> str:
    time = packet.pts if packet.pts is not None else packet.dts
    return "an unknown time" if time is None else f"{float(time * packet.time_base):.2f} s"
