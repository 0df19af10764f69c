"""One process at a time in the folder of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lgrnet import distributed

_LOCK = ".lock"
_HELD: set[Path] = set()
"""What this process holds. A lock of POSIX ends when any of its files is closed, so none is taken twice."""


class BusyError(RuntimeError):
    """Another process trains this run."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes off a run, for as long as this one lives; nothing where files cannot be locked (Windows,
    some file systems of networks), and where this process holds it already.

    Raises BusyError when another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        fcntl = None
    place = folder.resolve()
    if fcntl is None or not distributed.is_main() or place in _HELD:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a") as file:
        try:
            # lockf, not flock: the lock must not live on in loader workers after this process was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = (folder / _LOCK).read_text(encoding="utf-8").strip() or "unknown"
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
