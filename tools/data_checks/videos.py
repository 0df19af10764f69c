"""Video files, decoded to their end. Runs in worker processes."""

from __future__ import annotations

from pathlib import Path

import av

from lgrnet.inference.sources import open_source
from lgrnet.records import DataError

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".ogv")


def look_at_video(path: str) -> list[tuple[str, str]]:
    """(code, detail) of everything that is wrong with a video file."""
    try:
        if Path(path).stat().st_size == 0:
            return [("D001", "")]
        with av.open(path) as container:
            if not container.streams.video:
                return [("D201", "")]
            stream = container.streams.video[0]
            found = [] if stream.average_rate and stream.guessed_rate else [("D202", "")]
            alone = len(container.streams) == 1 and container.duration
            promised = stream.duration * stream.time_base if stream.duration else alone and alone / av.time_base
            expected = float((promised or 0) * (stream.guessed_rate or 0))
            found += _turned(container)
    except PermissionError as error:
        return [("D002", error.strerror or "")]
    except (av.FFmpegError, OSError, ValueError) as error:
        return [("D200", str(error)[:200])]
    return found + _frames(path, expected)


def _turned(container: av.container.InputContainer) -> list[tuple[str, str]]:
    """Whether the first frame is to be turned when it is shown."""
    try:
        angle = next((frame.rotation for frame in container.decode(video=0)), 0)
    except (av.FFmpegError, ValueError, MemoryError):
        return []  # said of the frames
    return [("D207", f"by {angle} degrees")] if angle else []


def _frames(path: str, expected: float) -> list[tuple[str, str]]:
    """What is wrong with its frames, of which so many are `expected` by the file's length and rate."""
    source = open_source(path)
    sizes, found, last = {}, [], 0
    try:
        for name, frame in source:
            sizes.setdefault(frame.shape[:2], name)
            last = int(name)
    except DataError as error:
        return [("D204", str(error)[:200])]
    except (av.FFmpegError, ValueError, MemoryError) as error:
        found.append(("D203", str(error)[:200]))
    if not sizes:
        return [("D204", "; ".join(source.damage[:3])[:200])]
    if source.damage:
        found.append(("D203", "; ".join(source.damage[:3])[:200]))
    elif last + 1 < 0.95 * expected - 2:
        found.append(("D203", f"it ends at frame {last}, its head says {expected:.0f}"))
    if len(sizes) > 1:
        found.append(("D206", ", ".join(f"{size[0]} x {size[1]} from frame {name}" for size, name in sizes.items())))
    return found
