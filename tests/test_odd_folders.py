"""Folders with links."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lgrnet.records.folders import walk


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_to_folders_that_lead_in_circles(tmp_path):
    for name in ("root/a", "root/b", "beside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").touch()
    (tmp_path / "root/a/to_b").symlink_to(tmp_path / "root/b")
    (tmp_path / "root/b/to_a").symlink_to(tmp_path / "root/a")
    (tmp_path / "root/up").symlink_to(tmp_path)
    (tmp_path / "root/beside").symlink_to(tmp_path / "beside")
    (tmp_path / "root/.hidden").mkdir()
    found = [
        Path(folder).relative_to(tmp_path / "root").as_posix() for folder, names in walk(tmp_path / "root") if names
    ]
    assert sorted(found) == ["a", "a/to_b", "b", "b/to_a", "beside"]
