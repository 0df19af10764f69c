"""One process at a time in the folder of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lgrnet import distributed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LOCK = ".lock"
_PATIENCE = 1.0
"""Seconds in which a lock is tried again: another process may take it only to see whether it is taken."""
_HELD: set[Path] = set()
"""What this process holds. A lock of POSIX ends when any of its files is closed, so none is taken twice."""


class BusyError(RuntimeError):
    """Another process trains this run."""


@contextmanager
def held(folder: Path, name: str = _LOCK) -> Iterator[None]:
    """Keeps other processes off a run, for as long as this one lives; nothing where files cannot be locked (Windows,
    some file systems of networks), and where this process holds it already.

    name  of the file in `folder` that is locked

    Raises BusyError when another process holds it.
    """
    place = folder.resolve() / name
    if fcntl is None or not distributed.is_main() or place in _HELD:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(place, "a") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            holder = place.read_text(encoding="utf-8").strip() or "unknown"
            raise BusyError(
                f"another process ({holder}) trains in {folder}; wait for it, or give another --out_dir"
            ) from error
        except OSError:
            yield
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _HELD.add(place)
        try:
            yield
        finally:
            _HELD.remove(place)


def is_held(folder: Path) -> bool:
    """Whether another process trains this run."""
    try:
        with held(folder):
            return False
    except BusyError:
        return True


def _lock(file: IO[str]) -> None:
    """Locks an open file for this process. Raises OSError, the first two kinds where another process has it."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            # lockf, not flock: the lock must not live on in loader workers after this process was killed.
            return fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                raise
            time.sleep(_PATIENCE / 20)
