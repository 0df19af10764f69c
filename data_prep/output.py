"""What every script here does with the folder that it writes: a stamp, files whole or not at all, progress."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from lgrnet.records import DataError

STAMP = "prepared.json"
_DRAFT = re.compile(r"\.\d+(\.\w+)?")
_Item = TypeVar("_Item")


def stamp(dst: Path, note: Mapping[str, object], sources: Sequence[Path], folders: Sequence[str]) -> None:
    """Notes in `dst` what it holds, and removes what a run that was killed left half written.

    note     what decides on the files that are written; a run with another note is refused
    sources  what is read, which `dst` must not be or hold
    folders  what is written; without a note of ours they must not be there yet

    Raises DataError where `dst` is a source, or holds something else.
    """
    place = dst.resolve()
    for source in sources:
        if place in (source.resolve(), *source.resolve().parents):
            raise DataError(f"--dst {dst} is the source or holds it; choose another folder, the source stays as it is")
    text = json.dumps(note, indent=1)
    if (dst / STAMP).is_file():
        if (found := (dst / STAMP).read_text(encoding="utf-8", errors="replace")) != text:
            raise DataError(f"{dst} holds something else: {_difference(found, note)}; choose another --dst")
    elif there := [name for name in folders if (dst / name).exists()]:
        raise DataError(f"{dst} holds {there[0]}, which this program did not write; choose another --dst")
    for draft in dst.rglob(".*"):
        if _DRAFT.fullmatch(draft.name) and draft.is_file():
            draft.unlink()
    write_text(dst / STAMP, text)


def place(source: Path, target: Path) -> None:
    """Links a file, or copies it where that is not possible; a half-written copy never has the final name."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        draft = target.with_name(f".{os.getpid()}")
        shutil.copyfile(source, draft)
        os.replace(draft, target)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, which is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def shown(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
    """The items, with a bar on a terminal that says how far they are."""
    console = Console(stderr=True)
    yield from track(items, what, total, console=console, transient=True, disable=not console.is_terminal)


def _difference(found: str, note: Mapping[str, object]) -> str:
    try:
        there = dict(json.loads(found))
    except (ValueError, TypeError):
        return f"its {STAMP} is not what this program writes"
    keys = [key for key in {**note, **there} if there.get(key) != note.get(key)]
    return "; ".join(f"{key} is {there.get(key)!r}, not {note.get(key)!r}" for key in keys) or "another order of things"
