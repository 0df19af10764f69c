"""Files that are there whole or not at all, and words for a disk that is full."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from lgrnet.records.drafts import DISK_FULL

_PLACE = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)
_NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What a file system says that cannot sync a folder: some of networks and of user space."""
_RESERVE = 1 << 20


class CheckpointError(ValueError):
    """A checkpoint or weights file cannot be read, written or used; the message says what to do."""


def write_synced(path: Path, data: bytes) -> None:
    """Writes `data` and waits until the disk has it. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` survive a power cut; does nothing where folders cannot be opened (Windows) or
    synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`: a reader sees the old file or the new one, whatever happens meanwhile.

    Raises CheckpointError when the disk is full (with the bytes that are missing) or not writable.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path.parent, len(data))
        write_synced(temporary, data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise save_error(path, len(data), error) from error


def check_apart(target: Path, source: Path) -> None:
    """Raises CheckpointError for a `target` that is the file `source`, by whatever name."""
    if target.exists() and source.exists() and target.samefile(source):
        raise CheckpointError(f"{target} is the source itself, which would be lost; choose another name")


def is_web_page(path: Path) -> bool:
    """Whether a file is what a browser shows of a download and not the download."""
    with open(path, "rb") as file:
        return file.read(64).lstrip().lower().startswith((b"<!doctype", b"<html"))


def require_space(folder: Path, needed: int) -> None:
    """Raises CheckpointError unless `needed` bytes, and as much again or 1 MiB of reserve, are free on the disk of
    `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed + min(needed, _RESERVE):
        raise CheckpointError(_full(folder, needed, free))


def save_error(path: Path, needed: int, error: OSError) -> CheckpointError:
    """What to tell a user when writing `needed` bytes under `path` failed; call it after the litter is gone."""
    if error.errno in DISK_FULL:
        folder = path.parent
        return CheckpointError(_full(folder, needed, shutil.disk_usage(folder).free, error.strerror))
    return CheckpointError(
        f"cannot write {path}: {error.strerror}; give a place that can be written (a run's: --out_dir)"
    )


def place_error(folder: Path, error: OSError) -> CheckpointError | None:
    """What to tell a user when a run that writes into `folder` met this error; None: it is not about disks or paths."""
    where = error.filename or folder
    if error.errno in DISK_FULL:
        there = next((place for place in (folder, *folder.resolve().parents) if place.is_dir()), Path())
        free = shutil.disk_usage(there).free
        return CheckpointError(
            f"cannot write {where}: {error.strerror}; {free:,} bytes are free on the disk of {folder}. "
            "Make room and call it again; a training goes on from its last checkpoint with --trainer_mode train_resume"
        )
    below = error.errno == errno.ENOENT and folder.resolve() in (Path(where), *Path(where).parents)
    if error.errno in _PLACE or below:
        return CheckpointError(f"cannot use {where}: {error.strerror}; check the path, or give another with --out_dir")
    return None


def _full(folder: Path, needed: int, free: int, reason: str = "the disk is full") -> str:
    missing = needed + min(needed, _RESERVE) - free
    lack = (
        f"{missing:,} bytes are missing" if missing > 0 else "a quota or a limit on the size of files stands below it"
    )
    return (
        f"cannot save into {folder}: {reason}; {needed:,} bytes are needed, {free:,} are free, {lack}. "
        "Make room and call it again; a training goes on from its last checkpoint with --trainer_mode train_resume"
    )
