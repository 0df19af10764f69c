"""UFUV from small archives of the documented shape."""

from __future__ import annotations

import pytest

from data_prep import ufuv
from lgrnet.data.datasets import ufuv as read_ufuv
from tests.data_prep.downloads import mask, picture, write_any, write_zip


def archive(variants=("temp8", "temp7"), kinds=("Frame", "GT", "Box")) -> dict[str, bytes]:
    return {
        f"uterus_myoma/Dataset/{variant}/{split}/{kind}/video {n}/{i}.png": picture(i, form="PNG")
        if kind == "Frame"
        else mask(i + (kind == "Box"))
        for variant in variants
        for split, videos in (("train", 3), ("test", 1 if variant == "temp8" else 2))
        for kind in kinds
        for n in range(videos)
        for i in range(2)
    }


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    monkeypatch.setattr(ufuv, "VARIANTS", {"temp": (2, 2), "temp7": (3, 2), "temp8": (3, 1)})


@pytest.mark.parametrize("kind", ["zip", "folder", "tar"])
@pytest.mark.parametrize("variant, tests", [("temp8", 1), ("temp7", 2)])
def test_a_variant(kind, variant, tests, tmp_path, capsys):
    src = write_any(kind, tmp_path / "src", archive())
    assert ufuv.main(["--src", str(src), "--dst", str(tmp_path / "dst"), "--variant", variant]) == 0
    assert f"test: {tests} of {tests} videos" in capsys.readouterr().out
    assert [record.name for record in read_ufuv(tmp_path / "dst", "train")] == ["video 0", "video 1", "video 2"]
    record = read_ufuv(tmp_path / "dst", "test", "Box")[0]
    assert [path.read_bytes() for path in record.masks] == [mask(1), mask(2)]


def test_the_folder_of_a_variant_and_no_boxes(tmp_path):
    files = archive(["temp8"], ["Frame", "GT"])
    src = write_any("folder", tmp_path / "src", files) / "uterus_myoma/Dataset/temp8"
    assert ufuv.main(["--src", str(src), "--dst", str(tmp_path / "dst")]) == 0
    assert not (tmp_path / "dst/test/Box").exists()


def test_what_is_missing(tmp_path, capsys):
    files = archive(["temp8"])
    del files["uterus_myoma/Dataset/temp8/train/GT/video 1/0.png"]
    src = str(write_zip(tmp_path / "x.zip", files))
    assert ufuv.main(["--src", src, "--dst", str(tmp_path / "dst")]) == 1
    assert "missing: the mask of uterus_myoma/Dataset/temp8/train/Frame/video 1/0.png" in capsys.readouterr().out
    assert [record.num_frames for record in read_ufuv(tmp_path / "dst", "train", "Box")] == [2, 1, 2]
    assert ufuv.main(["--src", src, "--dst", str(tmp_path / "new"), "--variant", "temp"]) == 2
    assert "it holds temp8: set --variant" in capsys.readouterr().err
