"""Folders with what their links lead to. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(root: str | Path, onerror: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Every folder below `root` but hidden ones, and the names of its files; in order of their names.

    Links to folders are followed, but not into one that is open above them, or that holds it. `onerror` as in os.walk.
    """
    opened = {os.fspath(root): (os.path.realpath(root),)}
    for folder, folders, names in os.walk(root, followlinks=True, onerror=onerror):
        above = opened.pop(folder)
        inner = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in sorted(inner) if not any(_holds(inner[name], place) for place in above)]
        opened.update({os.path.join(folder, name): (*above, inner[name]) for name in folders})
        yield folder, sorted(names)


def _holds(folder: str, place: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)
