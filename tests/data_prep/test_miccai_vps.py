"""MICCAI-VPS from small archives of the documented shape."""

from __future__ import annotations

import re

import pytest

from data_prep import miccai_vps
from lgrnet.data.datasets import miccai_vps as read_vps
from lgrnet.records import list_videos, read_mask
from tests.data_prep.downloads import JUNK, content, mask, picture, write_any, write_zip

VIDEOS = {split: 2 for split in miccai_vps.SPLITS if split != miccai_vps.STILLS}


def archive(nested: bool = True) -> dict[str, bytes]:
    """As downloaded, or as the published script leaves it (with the empty masks still there)."""
    files = {f"MICCAI-VPS/{name}": data for name, data in JUNK.items()}
    for index in range(3):
        for letter in "KM":
            files[f"MICCAI-VPS/IVPS-TrainSet/Frame/{letter}{index}.jpg"] = picture(index)
            files[f"MICCAI-VPS/IVPS-TrainSet/GT/{letter}{index}.png"] = mask(index)
    for split, videos in VIDEOS.items():
        train = split.endswith("Train")
        for video in (f"v{n}" for n in range(videos)):
            for n in range(4):
                form, ending = ("JPEG", "jpg") if "Test" in split and n == 3 else ("PNG", "png")
                for kind, name, data in (
                    ("Frame", f"{n}.jpg", picture(n)),
                    ("GT", f"{n}.{ending}", mask(n, form=form, empty=n == 1)),
                ):
                    place = f"{video}/{kind}" if train and nested else f"{kind}/{video}"
                    files[f"MICCAI-VPS/{split}/{place}/{name}"] = data
    return files


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    monkeypatch.setattr(miccai_vps, "SPLITS", {miccai_vps.STILLS: (1, 3), **{s: (n, None) for s, n in VIDEOS.items()}})


@pytest.mark.filterwarnings("ignore:MICCAI-VPS split")
@pytest.mark.parametrize("kind, nested", [("zip", True), ("folder", True), ("tar", False)])
def test_every_split(kind, nested, tmp_path, capsys):
    src = write_any(kind, tmp_path / "src", archive(nested))
    before, dst = content(tmp_path), tmp_path / "dst"
    assert miccai_vps.main(["--src", str(src), "--dst", str(dst)]) == 0
    said = capsys.readouterr().out
    assert "Kvasir-SEG: 1 of 1 videos, 3 of 3 frames" in said
    assert "6 training frames with an empty mask left out; published: 1546" in said
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("dst/")} == before
    assert read_vps(dst, "kvasir_train")[0].frame_names == ("K0", "K1", "K2")
    for split in ("mayo_train", "cvc300_train", "cvc612_train"):
        assert [record.frame_names for record in read_vps(dst, split)] == [("0", "2", "3")] * 2
    for split in ("cvc300_tv", "cvc612_test", "cvc612_val"):
        records = read_vps(dst, split)
        assert [record.num_frames for record in records] == [4, 4]
        assert not read_mask(records[0].masks[1]).any() and records[0].masks[3].suffix == ".jpg"


def test_empty_frames_may_stay(tmp_path):
    src = write_zip(tmp_path / "x.zip", archive())
    assert miccai_vps.main(["--src", str(src), "--dst", str(tmp_path / "dst"), "--keep_empty"]) == 0
    assert list_videos(tmp_path / "dst/VPS-TrainSet/ASU-Mayo_Clinic/Train")[0].num_frames == 4
    assert miccai_vps.main(["--src", str(src), "--dst", str(tmp_path / "dst")]) == 2


def test_what_is_missing_is_named(tmp_path, capsys):
    files = archive()
    del files["MICCAI-VPS/VPS-TestSet/CVC-ColonDB-300/GT/v0/2.png"]
    files = {name: data for name, data in files.items() if "CVC-ClinicDB-612-Test/" not in name}
    src = write_zip(tmp_path / "x.zip", files)
    assert miccai_vps.main(["--src", str(src), "--dst", str(tmp_path / "dst"), "--dry_run"]) == 1
    said = capsys.readouterr().out
    assert "missing: the mask of MICCAI-VPS/VPS-TestSet/CVC-ColonDB-300/Frame/v0/2.jpg" in said
    assert "CVC-ClinicDB-612-Test: 0 of 2 videos, 0 frames  INCOMPLETE" in said
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    "more, message",
    [
        ({"VPS-TestSet/CVC-ColonDB-300/GT/v0/2.jpg": mask(form="JPEG")}, "are the same frame twice"),
        ({"VPS-TrainSet/CVC-ColonDB-300/Train/v0/GT/2.png": b"no picture"}, "GT/2.png in .*x.zip cannot be read"),
    ],
)
def test_what_is_wrong_is_named(more, message, tmp_path, capsys):
    files = {**archive(), **{f"MICCAI-VPS/{name}": data for name, data in more.items()}}
    src = write_zip(tmp_path / "x.zip", files)
    assert miccai_vps.main(["--src", str(src), "--dst", str(tmp_path / "dst")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert miccai_vps.main(["--src", str(write_zip(tmp_path / "y.zip", {"a.jpg": b""})), "--dst", "x"]) == 2
    assert "holds none of" in capsys.readouterr().err
