"""What every script does with a download: plan which file goes where, place the files, say what is missing.

A `Plan` is made from names alone, so a dry run knows everything but pixels. Sources are only read. A file has its final
name when it is whole and not before, so that a run that was killed goes on where it was and ends with the same tree. It
has the time of its source, so that the next run sees which sources have changed since.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_prep.archives import EntryStream, Folder, Source, shown
from lgrnet.records import IMAGE_SUFFIXES, DataError, count_and_name
from lgrnet.records.drafts import DISK_FULL, drafted

_PIECE = 1 << 20
_SECOND = 10**9


class Entry(NamedTuple):
    """One file of a download."""

    source: Source
    name: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.source.files[self.name]

    @property
    def changed(self) -> int:
        """When its source changed, in ns."""
        return self.source.changed(self.name)

    @property
    def whole_name(self) -> str:
        """Its name with that of its source before it: what was unpacked may be given folder by folder."""
        return f"{self.source.path.resolve().name}/{self.name}"

    @property
    def folder(self) -> str:
        """The name of the folder it is in."""
        return self.name.rpartition("/")[0].rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name of the file without its ending."""
        return os.path.splitext(self.name.rpartition("/")[2])[0]

    @property
    def suffix(self) -> str:
        """The ending in lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()


Plan = dict[str, Entry]
"""Name of a file below the folder that is written, "/" between folders -> what it is made of."""


@dataclass
class Part:
    """What was found of one part of a data set, and what its publication has.

    name       of the split
    found      video -> how many of its frames are there
    videos     published number of videos, None: not known
    frames     published number of frames, None: not known
    missing    names of what is known to be missing
    noun       what `videos` are called; None for still images, which are only counted as frames
    """

    name: str
    found: Mapping[str, int]
    videos: int | None = None
    frames: int | None = None
    missing: Sequence[str] = ()
    noun: str | None = "videos"

    @property
    def complete(self) -> bool:
        """Whether nothing is missing and the counts are the published ones."""
        counts = ((self.videos, len(self.found)), (self.frames, sum(self.found.values())))
        return not self.missing and all(expected in (None, found) for expected, found in counts)

    def lines(self) -> Iterator[str]:
        """What is printed."""
        frames = _of(sum(self.found.values()), self.frames, "frames" if self.noun else "images")
        videos = f"{_of(len(self.found), self.videos, self.noun)}, " if self.noun else ""
        yield f"{self.name}: {videos}{frames}" + ("" if self.complete else "  INCOMPLETE")
        for name in self.missing[:5]:
            yield f"    missing: {shown(name)}"
        if len(self.missing) > 5:
            yield f"    ... and {len(self.missing) - 5} more"


@dataclass
class Report:
    """What a script found: the parts, notes on what is not as published, and pictures of earlier runs."""

    parts: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every part is, and nothing else is there."""
        return all(part.complete for part in self.parts) and not self.strays

    def lines(self) -> Iterator[str]:
        """What is printed."""
        for part in self.parts:
            yield from part.lines()
        yield from (f"note: {note}" for note in self.notes)
        if self.strays:
            yield (
                f"NOT OF THIS SOURCE: {count_and_name([shown(name) for name in self.strays], 'picture')} of an earlier "
                "run; remove them where --src has moved or lost them, or choose another --dst"
            )

    def as_json(self) -> dict[str, object]:
        """What the stamp of a folder says."""
        parts = [
            {
                "part": part.name,
                "videos": len(part.found),
                "published_videos": part.videos,
                "frames": sum(part.found.values()),
                "published_frames": part.frames,
                "missing": [shown(name) for name in part.missing],
            }
            for part in self.parts
        ]
        strays = [shown(name) for name in self.strays]
        return {"complete": self.complete, "parts": parts, "notes": self.notes, "not_of_this_source": strays}


def images_of(sources: Sequence[Source]) -> Iterator[Entry]:
    """Every picture of some downloads, source after source."""
    for source in sources:
        yield from (Entry(source, name) for name in source.files if name.lower().endswith(IMAGE_SUFFIXES))


def place(plan: Plan, dst: Path, title: str = "placing") -> None:
    """Puts the files of a plan below `dst`: hard links to files of a folder where possible, else copies.

    A file that is there with the size and time of its source is left alone. Several names of one file become links to
    each other. Raises DataError for a full disk, saying how many bytes are missing, and for damaged archives.
    """
    targets: dict[Entry, list[Path]] = {}
    for name, entry in plan.items():
        targets.setdefault(entry, []).append(dst / name)
    wanted = {e: paths for e, paths in targets.items() if not all(is_there(path, e) for path in paths)}
    by_source: dict[Source, list[Entry]] = {}
    for entry in wanted:
        by_source.setdefault(entry.source, []).append(entry)
    space = _Space(dst, by_source)
    space.check()
    made: set[Path] = set()
    with progress(title, len(targets), len(targets) - len(wanted)) as advance:
        for source, entries in by_source.items():
            linked = isinstance(source, Folder)
            for entry, stream in ((e, None) for e in entries) if linked else _streamed(source, entries):
                first = wanted[entry][0]
                _make_folders(wanted[entry], made)
                with space.told(entry):
                    if not is_there(first, entry):
                        _write(entry, stream, first)
                    for path in wanted[entry][1:]:
                        if not is_there(path, entry):
                            _link(first, path, entry.changed)
                advance()


class Content(io.BytesIO):
    """The bytes of one file of a download, `entry`; its text is where it comes from, for messages."""

    def __init__(self, content: bytes, entry: Entry):
        super().__init__(content)
        self.entry = entry

    def __repr__(self) -> str:
        return f"{shown(self.entry.name)} in {self.entry.source.path}"


def convert_files(plan: Plan, dst: Path, write: Callable[[Content, Path], None], title: str = "converting") -> None:
    """Calls `write(content, path)` for every file of a plan that is not there yet, or whose source has changed since.

    `write` makes the file whole at once, and its folder where needed, as `write_image` and `write_mask` of
    `lgrnet.records` do; what it reads is named in errors by `str(content)`, so `read_mask(content)` says which file.

    Raises DataError for a full disk and for damaged archives.
    """
    missing = {name: entry for name, entry in plan.items() if not has_time(dst / name, _time_made(entry))}
    names: dict[Source, dict[str, list[str]]] = {}
    for name, entry in missing.items():
        names.setdefault(entry.source, {}).setdefault(entry.name, []).append(name)
    space = _Space(dst, {})
    with progress(title, len(plan), len(plan) - len(missing)) as advance:
        for source, wanted in names.items():
            for name, stream in source.streams(wanted):
                entry, content = Entry(source, name), stream.read()
                for target in wanted[name]:
                    with space.told(entry):
                        write(Content(content, entry), dst / target)
                    set_time(dst / target, _time_made(entry))
                    advance()


def _time_made(entry: Entry) -> int:
    """The time in ns of what is made of a file: its own, but for the fraction of the second, which tells files of other
    sizes apart. Archives may give all their files one time, also those of a later version."""
    return entry.changed - entry.changed % _SECOND + (entry.changed + entry.size * 1_000_003) % _SECOND


def is_there(path: Path, entry: Entry) -> bool:
    """Whether a plain file of the size and time of an entry is there."""
    return has_time(path, entry.changed, entry.size)


def has_time(path: Path, changed: int, size: int | None = None) -> bool:
    """Whether a plain file is there that changed at this time in ns, which disks round down to 100 ns, 1 s or 2 s."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found, times = os.lstat(path), [changed // step * step for step in (1, 100, 10**9, 2 * 10**9)]
        return stat.S_ISREG(found.st_mode) and size in (None, found.st_size) and found.st_mtime_ns in times
    return False


def set_time(path: Path, changed: int) -> None:
    """Gives a file that was made the time of its source, in ns."""
    os.utime(path, ns=(changed, changed))


def write_json(path: Path, content: object) -> None:
    """Writes JSON as `write_text` does."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text whole or not at all, making the folder where needed; a file that is the same is left alone."""
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """A bar with the time that is left on the terminal, nothing elsewhere; gives a function to call for each file."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(TextColumn(title), *columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda: bar.advance(task)


class _Space:
    """Room on the disk for the bytes that are still to be written."""

    def __init__(self, dst: Path, entries: Mapping[Source, Sequence[Entry]]):
        device = dst.stat().st_dev
        self._dst = dst
        self._written = {source for source in entries if source.copied or source.path.stat().st_dev != device}
        self._left = sum(entry.size for source in self._written for entry in entries[source])

    def check(self) -> None:
        """Raises DataError where the disk has less."""
        free = shutil.disk_usage(self._dst).free
        if free < self._left:
            raise DataError(
                f"{self._dst} needs {self._left} bytes more but its disk has {free}: {self._left - free} bytes are "
                "missing; make room and run it again, nothing was written"
            )

    @contextmanager
    def told(self, entry: Entry) -> Iterator[None]:
        """Around the writing of a file: says of a full disk how much was still to come."""
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            left = max(self._left, entry.size)
            free = shutil.disk_usage(self._dst).free
            raise DataError(
                f"the disk of {self._dst} is full or its limit is reached ({error.strerror}): {left} bytes were still "
                f"to be written, {free} are free; make room and run it again, it goes on with {shown(entry.name)}"
            ) from error
        self._left -= entry.size if entry.source in self._written else 0


def _streamed(source: Source, entries: Sequence[Entry]) -> Iterator[tuple[Entry, EntryStream]]:
    for name, stream in source.streams([entry.name for entry in entries]):
        yield Entry(source, name), stream


def _write(entry: Entry, stream: EntryStream | None, target: Path) -> None:
    if stream is None:
        _link(entry.source.place_of(entry.name), target, entry.changed)
        return
    with drafted(target) as draft:
        with open(draft, "xb") as file:
            while piece := stream.read(_PIECE):
                file.write(piece)
        set_time(draft, entry.changed)


def _link(source: Path, target: Path, changed: int) -> None:
    """A hard link, or a copy where that is not possible."""
    with drafted(target) as draft:
        try:
            os.link(os.path.realpath(source), draft)
        except OSError:
            shutil.copyfile(source, draft)
            set_time(draft, changed)


def _make_folders(paths: Sequence[Path], made: set[Path]) -> None:
    for folder in {path.parent for path in paths} - made:
        folder.mkdir(parents=True, exist_ok=True)
        made.add(folder)


def _of(found: int, published: int | None, noun: str) -> str:
    return f"{found} {noun}" if published is None else f"{found} of {published} {noun}"
