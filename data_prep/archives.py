"""Downloads as trees of files: a folder, a zip or a tar, read without trusting what is inside.

`open_source` lists a download and reads it; nothing is unpacked to find out what is there. An archive that holds a path
outside of it, a link, a device, a name twice, or more than `Limits` allow is refused as a whole, before a byte of it is
written. Hidden files and those of other systems (`._x`, `.DS_Store`, `__MACOSX`) are left out and counted.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lgrnet.records import DataError
from lgrnet.records.folders import walk

_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OverflowError, RuntimeError, ValueError, OSError),
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_AES = 99
_OTHER_FORMATS = {b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!": "a rar archive", b"<": "a web page, no archive"}
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What an archive may become: so many files and bytes, and so many times its own size once it is over `free`."""

    files: int = 1_000_000
    bytes: int = 1 << 40
    ratio: int = 200
    free: int = 1 << 26


class EntryStream:
    """The bytes of one file of an archive; a damaged archive, or one that lies about sizes, is a DataError."""

    def __init__(self, stream: BinaryIO, size: int, place: str):
        self._stream, self._left, self._place = stream, size, place

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, all that is left for -1, and none at the end."""
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        with _damage_in(self._place):
            data = self._stream.read(wanted)
        if len(data) > self._left or (len(data) < min(wanted, self._left)):
            raise DataError(f"{self._place} is not as long as the archive says; it is damaged or forged: get it again")
        self._left -= len(data)
        return data


class Source:
    """A download: `files` has the bytes of each file by its name, folders divided by "/".

    path    the folder or archive
    files   name -> bytes, in the order of the archive
    junk    how many files were left out
    copied  whether its files have to be written anew; those of a folder can be linked
    """

    copied = True

    def __init__(self, path: Path):
        self.path, self.junk, self.files = path, 0, dict[str, int]()

    def streams(self, names: Iterable[str]) -> Iterator[tuple[str, EntryStream]]:
        """The chosen files one after the other, in the order of the archive; each is read before the next is asked."""
        raise NotImplementedError

    def read(self, name: str, limit: int = 1 << 28) -> bytes:
        """The content of one file; DataError where it has more than `limit` bytes. Slow for many files of a tar.gz."""
        if self.files[name] > limit:
            raise DataError(f"{name} in {self.path} has {self.files[name]} bytes, more than the {limit} that are read")
        with closing(self.streams([name])) as streams:
            return next(streams)[1].read()

    def changed(self, name: str) -> int:
        """When a file changed, in ns; those of an archive did when the archive did."""
        return self.path.stat().st_mtime_ns

    def _add(self, name: str, size: int) -> None:
        if any(part.startswith(".") or part in _JUNK for part in name.split("/")):
            self.junk += 1
        else:
            self.files[name] = size


class Folder(Source):
    """A folder, with what its links to folders lead to; a link that leads to a folder above it is not followed."""

    copied = False

    def __init__(self, path: Path):
        super().__init__(path)
        for file in [os.path.join(parent, name) for parent, names in walk(path, _raise) for name in names]:
            if os.path.isfile(file):
                self._add(os.path.relpath(file, path).replace(os.sep, "/"), os.path.getsize(file))

    def changed(self, name: str) -> int:
        """As `Source.changed`."""
        return os.stat(f"{self.path}/{name}").st_mtime_ns

    def place_of(self, name: str) -> Path:
        """Where a file is."""
        return self.path / name

    def streams(self, names: Iterable[str]) -> Iterator[tuple[str, EntryStream]]:
        """As `Source.streams`."""
        wanted = set(names)
        for name in (name for name in self.files if name in wanted):
            with open(self.place_of(name), "rb") as file:
                yield name, EntryStream(file, self.files[name], shown(self.place_of(name)))


class _Archive(Source):
    """What zip and tar have in common: the checks of names and sizes."""

    def __init__(self, path: Path, limits: Limits):
        super().__init__(path)
        self._limits, self._size, self._bytes = limits, path.stat().st_size, 0
        self._names, self._parents = set[str](), set[str]()

    def _admit(self, raw: str, size: int) -> str:
        """Checks one file and takes it; its name as it is used. Raises DataError."""
        name = safe_name(raw, self.path)
        if name in self._names:
            raise DataError(f"{self.path} is refused: {shown(name)} is in it twice")
        self._names.add(name)
        self._parents.update(str(parent) for parent in _parents(name))
        self._bytes += size
        if len(self._names) > self._limits.files:
            raise DataError(f"{self.path} is refused: it holds more than {self._limits.files} files")
        allowed = min(self._limits.bytes, max(self._limits.free, self._limits.ratio * self._size))
        if self._bytes > allowed:
            raise DataError(
                f"{self.path} is refused: its {self._size} bytes would become more than {allowed} "
                f"({self._limits.ratio} times as many); it looks like a decompression bomb. If it "
                "is none, unpack it and give the folder"
            )
        self._add(name, size)
        return name

    def _admitted(self) -> None:
        """After the last file: no file stands where others want a folder."""
        if both := sorted(self._names & self._parents):
            raise DataError(f"{self.path} is refused: {shown(both[0])} is a file and a folder in it")


class ZipFiles(_Archive):
    """A zip archive, also one with a password (the old encryption; Python does not read AES)."""

    def __init__(self, path: Path, password: str | None = None, limits: Limits | None = None):
        super().__init__(path, limits or Limits())
        self._password = None if password is None else password.encode("utf-8")
        self._entries: dict[str, zipfile.ZipInfo] = {}
        with _damage_in(path), zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        for info in infos:
            self._check_kind(info)
            if info.filename.endswith(("/", "\\")):
                safe_name(info.filename, path)
            else:
                self._entries[self._admit(info.filename, info.file_size)] = info
        self._admitted()
        locked = next((name for name in self.files if self._entries[name].flag_bits & 1), None)
        if locked is not None:
            self._check_password(locked)

    def streams(self, names: Iterable[str]) -> Iterator[tuple[str, EntryStream]]:
        """As `Source.streams`."""
        wanted = set(names)
        with zipfile.ZipFile(self.path) as archive:
            for name in (name for name in self.files if name in wanted):
                place = f"{shown(name)} in {self.path}"
                with _damage_in(place):
                    stream = archive.open(self._entries[name], pwd=self._password)
                with stream:
                    yield name, EntryStream(stream, self.files[name], place)

    def _check_kind(self, info: zipfile.ZipInfo) -> None:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{self.path} is refused: {shown(info.filename)} in it is {_kind(kind)}, no plain file")
        if "\0" in info.orig_filename:
            raise DataError(f"{self.path} is refused: the name {shown(info.orig_filename)} in it has a null byte")
        if info.compress_type not in _METHODS:
            method = "AES encryption" if info.compress_type == _AES else f"method {info.compress_type}"
            raise DataError(f"{self.path} uses {method}, which Python cannot read; unpack it with 7z, give the folder")

    def _check_password(self, locked: str) -> None:
        if self._password is None:
            raise DataError(f"{self.path} is encrypted; give its password with --password")
        with _damage_in(self.path), zipfile.ZipFile(self.path) as archive:
            try:
                archive.open(self._entries[locked], pwd=self._password).close()
            except RuntimeError as error:
                raise DataError(f"{self.path} does not open with this --password ({error})") from error


class TarFiles(_Archive):
    """A tar archive, plain or packed by gzip, bzip2 or xz."""

    def __init__(self, path: Path, limits: Limits | None = None):
        super().__init__(path, limits or Limits())
        with _damage_in(path), self._opened(listing=True) as archive:
            for member in archive:
                if member.isdir():
                    safe_name(member.name, path)
                elif not member.isreg() or member.issparse():
                    kind = _tar_kind(member)
                    raise DataError(f"{path} is refused: {shown(member.name)} in it is {kind}, no plain file")
                else:
                    self._admit(member.name, member.size)
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise DataError(f"{path} is damaged after {len(self._names)} files; get it again")
        self._admitted()

    def streams(self, names: Iterable[str]) -> Iterator[tuple[str, EntryStream]]:
        """As `Source.streams`."""
        wanted = set(names)
        with self._opened() as archive:
            members = iter(archive)
            while wanted:
                with _damage_in(self.path):
                    member = next(members, None)
                if member is None:
                    raise DataError(f"{self.path} changed while it was read: {shown(min(wanted))} is gone")
                if member.isreg() and (name := safe_name(member.name, self.path)) in wanted:
                    wanted.remove(name)
                    yield name, EntryStream(archive.extractfile(member), member.size, f"{shown(name)} in {self.path}")

    @contextmanager
    def _opened(self, listing: bool = False) -> Iterator[tarfile.TarFile]:
        with open(self.path, "rb") as file:
            start = file.read(6)
        packings = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
        opener = next((opener for magic, opener in packings.items() if start.startswith(magic)), open)
        with opener(self.path, "rb") as stream:
            with tarfile.open(fileobj=_Headers(stream) if listing else stream, mode="r:") as archive:
                yield archive


class _Headers:
    """What a tar is listed from. A header is small: one that asks for gigabytes of a packed archive is an attack."""

    def __init__(self, stream: BinaryIO):
        self._stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if size > _HEADER_BYTES:
            raise DataError(f"the archive is refused: a header in it has {size} bytes, more than {_HEADER_BYTES}")
        return self._stream.read(size)


def open_source(path: str | Path, password: str | None = None, limits: Limits | None = None) -> Source:
    """A folder, zip or tar as a tree of files; its content tells which, not its name.

    Raises DataError for a path that is not there, other kinds of files, damaged archives, a password that is missing or
    wrong, and archives that are refused (see the module).
    """
    path = Path(path)
    if path.is_dir():
        return Folder(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a folder, a zip or a tar archive")
    with open(path, "rb") as file:
        start = file.read(512)
    for magic, what in _OTHER_FORMATS.items():
        if start.lstrip().startswith(magic):
            raise DataError(f"{path} is {what}; expected a folder, a zip or a tar archive: unpack it, or get it again")
    if start.startswith(b"PK"):
        return ZipFiles(path, password, limits)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")) or start[257:262] == b"ustar" or tarfile.is_tarfile(path):
        return TarFiles(path, limits)
    raise DataError(f"{path} ({path.stat().st_size} bytes) is neither a folder nor a zip or tar archive; get it again")


def safe_name(name: str, archive: str | Path) -> str:
    """The name of a file in an archive, "/" between folders; DataError where it leads outside or cannot be written."""
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    reason = None
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain):
        reason = "is an absolute path"
    elif ".." in parts:
        reason = "leads out of the archive"
    elif "\0" in plain or (not parts and plain.strip("/.") != ""):
        reason = "is no name of a file"
    elif any(len(os.fsencode(part)) > 255 for part in parts):
        reason = "has more than 255 bytes"
    if reason:
        raise DataError(f"{archive} is refused: the name {shown(name)} in it {reason}")
    return "/".join(parts)


def shown(name: str | Path) -> str:
    """A name as it can be printed on one line: as it is, or quoted where it holds newlines and the like."""
    return str(name) if str(name).isprintable() else ascii(str(name))


@contextmanager
def _damage_in(place: str | Path) -> Iterator[None]:
    """Says of errors in reading an archive where they are and what to do; those of the system stay as they are."""
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise
        raise DataError(f"{place} is damaged or cut short ({error}); get it again") from error


def _raise(error: OSError) -> None:
    raise error


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _kind(mode: int) -> str:
    known = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return known.get(mode, "something else")


def _tar_kind(member: tarfile.TarInfo) -> str:
    kinds = ((member.islnk() or member.issym(), "a link"), (member.isfifo(), "a pipe"), (member.isdev(), "a device"))
    return next((name for holds, name in kinds if holds), "sparse or unknown")
