"""Files that are there whole or not at all, and words for disks and paths."""

from __future__ import annotations

import errno
import os
import re

import pytest

from lgrnet.checkpoint import disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EPIPE])
def test_other_files_on_a_full_or_closed_disk(tmp_path, number):
    told = disk.place_error(tmp_path / "not" / "there", OSError(number, os.strerror(number), "some/file.png"))
    if number in (errno.ENOSPC, errno.EDQUOT):
        assert "cannot write some/file.png" in str(told) and re.search(r"[\d,]+ bytes are free", str(told))
        assert "train_resume" in str(told)
    elif number in (errno.EROFS, errno.EACCES):
        assert "cannot use some/file.png" in str(told) and "--out_dir" in str(told)
    else:
        assert told is None
    assert str(tmp_path) in str(disk.place_error(tmp_path, OSError(errno.ENOSPC, "full")))


def test_a_file_that_two_processes_write_at_once_is_of_one_of_them(tmp_path, monkeypatch):
    write = disk.write_synced

    def slowly(path, data):
        write(path, data)
        monkeypatch.undo()
        disk.write_atomic(tmp_path / "table.md", b"of the other process")
        disk.write_atomic(tmp_path / "other.md", b"of another name")

    monkeypatch.setattr(disk, "write_synced", slowly)
    disk.write_atomic(tmp_path / "table.md", b"mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.md", "table.md"]
    assert (tmp_path / "table.md").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_a_place_and_a_file_missing_elsewhere_is_not(tmp_path):
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "run" / "eval"))
    assert "give another with --out_dir" in str(disk.place_error(tmp_path / "run", missing))
    assert disk.place_error(tmp_path / "other", missing) is None


@pytest.mark.parametrize(("size", "free", "fits"), [(100, 150, False), (100, 200, True), (5 << 20, 6 << 20, True)])
def test_a_small_file_needs_no_large_reserve(tmp_path, monkeypatch, size, free, fits):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    if fits:
        disk.require_space(tmp_path, size)
    else:
        with pytest.raises(disk.CheckpointError, match="100 bytes are needed, 150 are free, 50 bytes are missing"):
            disk.require_space(tmp_path, size)
