"""Archives are read without trust: hostile ones are refused as a whole, damaged ones are told."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from data_prep.archives import Limits, open_source, safe_name, shown
from lgrnet.records import DataError
from tests.data_prep.downloads import JUNK, content, write_any, write_folder, write_tar, write_zip

FILES = {"a/b.txt": b"hello", "a/c d.txt": b"", "e.bin": bytes(range(256)) * 40}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_download_is_listed_and_read(kind, tmp_path):
    source = open_source(write_any(kind, tmp_path / "x", {**FILES, **JUNK}))
    assert source.files == {name: len(data) for name, data in FILES.items()}
    assert source.junk == 2 and source.copied == (kind != "folder")
    assert {name: stream.read() for name, stream in source.streams(FILES)} == FILES
    with pytest.raises(DataError, match="more than the 100 that are read"):
        source.read("e.bin", limit=100)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_packing_of_tar(mode, tmp_path):
    source = open_source(write_tar(tmp_path / "no ending", FILES, mode))
    assert source.read("e.bin") == FILES["e.bin"]


def special(kind: bytes, name: str = "x", target: str = "/etc/passwd"):
    def make(path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        return path

    return make


def linked_zip(path: Path) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


def huge_header(path: Path) -> Path:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 32
    path.write_bytes(info.tobuf() + bytes(2048))
    return path


def sparse(path: Path) -> Path:
    info = tarfile.TarInfo("x")
    info.type = tarfile.GNUTYPE_SPARSE
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    return path


def null_byte(path: Path) -> Path:
    write_zip(path, {"a.jpgXexe": b""})
    path.write_bytes(path.read_bytes().replace(b"a.jpgXexe", b"a.jpg\0exe"))
    return path


def with_names(*names: str, kind=write_zip):
    return lambda path: kind(path, {name: b"x" for name in names})


def twice(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("same"), io.BytesIO())
    return path


HOSTILE = {
    "leads out": (with_names("../../x"), "leads out"),
    "leads out in the middle": (with_names("a/../../x", kind=write_tar), "leads out"),
    "leads out by Windows' strokes": (with_names("..\\..\\x"), "leads out"),
    "absolute": (with_names("/tmp/x", kind=write_tar), "absolute path"),
    "absolute in a zip": (with_names("/tmp/x"), "absolute path"),
    "a drive": (with_names("C:/x"), "absolute path"),
    "a share": (with_names("\\\\server\\x"), "absolute path"),
    "link": (special(tarfile.SYMTYPE), "is a link"),
    "hard link": (special(tarfile.LNKTYPE), "is a link"),
    "link in a zip": (linked_zip, "is a link"),
    "pipe": (special(tarfile.FIFOTYPE), "is a pipe"),
    "device": (special(tarfile.CHRTYPE), "is a device"),
    "block device": (special(tarfile.BLKTYPE), "is a device"),
    "a folder outside": (special(tarfile.DIRTYPE, "../out"), "leads out"),
    "sparse": (sparse, "sparse"),
    "twice": (twice, "in it twice"),
    "twice by another spelling": (with_names("a/b", "a/./b"), "in it twice"),
    "file and folder": (with_names("a", "a/b"), "a file and a folder"),
    "null byte": (null_byte, "null byte"),
    "too long a name": (with_names("x" * 256, kind=write_tar), "more than 255 bytes"),
    "bomb": (lambda path: write_zip(path, {"x": bytes(80 << 20)}), "decompression bomb"),
    "packed header of gigabytes": (huge_header, "a header in it has"),
}


@pytest.mark.parametrize("make, message", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused(make, message, tmp_path):
    path = make(tmp_path / "archive")
    with pytest.raises(DataError, match=message):
        open_source(path)
    assert list(content(tmp_path)) == ["archive"]


def test_limits(tmp_path):
    path = write_zip(tmp_path / "x.zip", {str(n): bytes(1000) for n in range(5)})
    with pytest.raises(DataError, match="more than 4 files"):
        open_source(path, limits=Limits(files=4))
    with pytest.raises(DataError, match="more than 4000"):
        open_source(path, limits=Limits(bytes=4000))
    with pytest.raises(DataError, match="would become more than"):
        open_source(path, limits=Limits(ratio=2, free=1000))


@pytest.mark.parametrize("kind", ["zip", "tar", "plain"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_cut_short(kind, share, tmp_path):
    big = {f"{n}.bin": bytes((n * i * i) % 251 for i in range(3000)) for n in range(1, 6)}
    path = tmp_path / "x"
    write_zip(path, big) if kind == "zip" else write_tar(path, big, "w:gz" if kind == "tar" else "w")
    path.write_bytes(
        path.read_bytes()[
            : int(sum(map(len, big.values())) * share if kind == "plain" else share * path.stat().st_size)
        ]
    )
    with pytest.raises(DataError, match="damaged|cut short"):
        source = open_source(path)
        assert all(stream.read() == big[name] for name, stream in source.streams(big))
        pytest.fail("nothing was noticed")


def test_a_flipped_byte_is_noticed(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a": bytes(range(256)) * 9, "b": b"second"})
    data = bytearray(path.read_bytes())
    data[60] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DataError, match="a in .*x.zip is damaged"):
        open_source(path).read("a")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"a": bytes(600), "b": bytes(600)}, "w")
    data = bytearray(path.read_bytes())
    data[1536:1540] = b"????"
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged after 1 files"):
        open_source(path)


def locked(path: Path, flag: int = 1, method: int = 0) -> Path:
    """A zip whose entry says that it is encrypted, or packed by a method."""
    write_zip(path, {"a.jpg": b"x" * 50})
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.index(magic) + at
        struct.pack_into("<HH", data, start, flag, method or 8)
    path.write_bytes(data)
    return path


def test_passwords(tmp_path):
    path = locked(tmp_path / "x.zip")
    with pytest.raises(DataError, match="encrypted; give its password with --password"):
        open_source(path)
    with pytest.raises(DataError, match="does not open with this --password|damaged"):
        open_source(path, "wrong").read("a.jpg")
    with pytest.raises(DataError, match="AES encryption.*7z"):
        open_source(locked(tmp_path / "y.zip", 1, 99), "any")


@pytest.mark.parametrize(
    "start, message",
    [
        (b"7z\xbc\xaf\x27\x1c", "7z archive"),
        (b"Rar!\x1a", "rar archive"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"", "0 bytes"),
    ],
)
def test_what_is_no_archive(start, message, tmp_path):
    (tmp_path / "x.zip").write_bytes(start)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "x.zip")
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "none")


def test_links_of_a_folder_are_followed_once(tmp_path):
    write_any("folder", tmp_path / "real", FILES)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/linked").symlink_to(tmp_path / "real")
    (tmp_path / "real/a/loop").symlink_to(tmp_path / "real")
    assert set(open_source(tmp_path / "src").files) == {f"linked/{name}" for name in FILES}


def test_names_that_are_odd_but_legal():
    for name in ("a b/'c\".jpg", "new\nline.jpg", "ü/日本.jpg", "x" * 255, "a..b/..c"):
        assert safe_name(name, "archive") == name
    assert shown("new\nline") == r"'new\nline'" and shown("日本") == "日本"


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs the program zip, which Python has no writer for")
def test_a_password_opens_what_zip_has_locked(tmp_path):
    write_any("folder", tmp_path / "src", FILES)
    command = ["zip", "-q", "-r", "-P", "a b'c", str(tmp_path / "x.zip"), "."]
    subprocess.run(command, cwd=tmp_path / "src", check=True)
    source = open_source(tmp_path / "x.zip", "a b'c")
    assert {name: stream.read() for name, stream in source.streams(FILES)} == FILES
    with pytest.raises(DataError, match="does not open with this --password|damaged"):
        open_source(tmp_path / "x.zip", "wrong").read("e.bin")


def test_two_links_to_one_folder_are_both_followed(tmp_path):
    """Such as variants of a data set that share what is equal."""
    write_folder(tmp_path / "src/Data/v", {"0.png": b"a"})
    (tmp_path / "src/Frame").mkdir()
    (tmp_path / "src/Frame/v").symlink_to(tmp_path / "src/Data/v")
    (tmp_path / "src/Data/v/up").symlink_to(tmp_path / "src")
    assert set(open_source(tmp_path / "src").files) == {"Data/v/0.png", "Frame/v/0.png"}
