"""Vocalfolds into the one layout: both shapes of the source, any class, stopped and started again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import vocalfolds
from lgrnet.records import DataError, class_masks, list_videos, read_mask, write_frame


def raw_mask(index: int) -> np.ndarray:
    raw = np.full((12, 12), 2, np.uint8)
    raw[:4], raw[4:6], raw[6, :index] = 1, 3, 4
    return raw


def write_source(root: Path, folders=("patient1/seq1", "patient2/seq5"), frames: str = "img") -> Path:
    for folder in folders:
        for index in range(3):
            write_frame(root / frames / folder / f"000{index}_l.png", np.full((12, 12, 3), index))
            (root / "annot" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(raw_mask(index)).save(root / "annot" / folder / f"000{index}_l.png")
    (root / frames / ".DS_Store").write_text("")
    return root


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write_source(tmp_path / "src")


def test_a_checkout_becomes_the_one_layout(src, tmp_path):
    before, dst = content(src), tmp_path / "dst"
    counts = vocalfolds.convert(src, dst, ["vocal_folds"])
    assert counts == {"seq1": (3, 3), "seq5": (3, 3)}
    records = list_videos(dst)
    assert [r.name for r in records] == ["seq1", "seq5"]
    assert records[0].frame_names == ("0000_l", "0001_l", "0002_l")
    assert np.array_equal(read_mask(records[0].masks[1]), np.where(raw_mask(1) == 1, 255, 0))
    assert content(src) == before


@pytest.mark.parametrize("folders, frames", [(("seq1", "seq5"), "img"), (("seq1", "seq5"), "Frame")])
def test_sources_without_patient_folders(tmp_path, folders, frames):
    src = write_source(tmp_path / "src", folders, frames)
    assert list(vocalfolds.convert(src, tmp_path / "dst", ["vocal_folds"])) == ["seq1", "seq5"]


def test_sequences_of_the_same_name_stay_apart(tmp_path):
    src = write_source(tmp_path / "src", ("p1/seq", "p2/seq"))
    assert list(vocalfolds.convert(src, tmp_path / "dst", ["vocal_folds"])) == ["seq", "p2_seq"]


def test_several_classes_count_together_and_empty_masks_are_counted(src, tmp_path):
    assert vocalfolds.convert(src, tmp_path / "a", ["pathology"])["seq1"] == (3, 2)
    vocalfolds.convert(src, tmp_path / "b", ["vocal_folds", "pathology"])
    mask = read_mask(list_videos(tmp_path / "b")[0].masks[2])
    assert np.array_equal(mask > 0, np.isin(raw_mask(2), (1, 4)))


def test_all_classes_keep_their_indices(src, tmp_path):
    vocalfolds.convert(src, tmp_path / "dst", ["all"])
    label_map = {i: i for i in range(1, 7)}
    record = list_videos(tmp_path / "dst", label_map=label_map)[0]
    assert np.array_equal(read_mask(record.masks[2]), raw_mask(2))
    masks = class_masks(read_mask(record.masks[2]), label_map)
    assert masks.shape == (6, 12, 12) and masks[3].sum() == 2


def test_a_dry_run_writes_nothing(src, tmp_path, capsys):
    assert vocalfolds.main(["--src", str(src), "--dst", str(tmp_path / "dst"), "--dry_run"]) == 0
    assert "would write 2 videos, 6 frames" in capsys.readouterr().out
    assert not (tmp_path / "dst").exists()


def test_stopped_and_started_again(src, tmp_path, monkeypatch, capsys):
    dst, written = tmp_path / "dst", []
    real = Image.Image.save

    def fails_at_the_fourth(image, path, **options):
        written.append(path)
        if len(written) == 4:
            path.write_bytes(b"half a ma")
            raise OSError(28, "No space left on device")
        real(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", fails_at_the_fourth)
    assert vocalfolds.main(["--src", str(src), "--dst", str(dst)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert len(list((dst / "GT").rglob("*.png"))) == 3, "no half mask, and no draft"
    monkeypatch.undo()
    assert vocalfolds.main(["--src", str(src), "--dst", str(dst)]) == 0
    assert "wrote 2 videos, 6 frames" in capsys.readouterr().out
    vocalfolds.convert(src, tmp_path / "fresh", ["vocal_folds"])
    assert content(dst) == content(tmp_path / "fresh")
    assert vocalfolds.convert(src, dst, ["vocal_folds"]) == {"seq1": (3, 3), "seq5": (3, 3)}


def test_copies_where_links_are_not_possible(src, tmp_path, monkeypatch):
    def no_link(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_link)
    vocalfolds.convert(src, tmp_path / "dst", ["vocal_folds"])
    frame = list_videos(tmp_path / "dst")[0].frames[1]
    assert frame.read_bytes() == (src / "img/patient1/seq1/0001_l.png").read_bytes()
    assert frame.stat().st_nlink == 1


def test_a_folder_that_holds_something_else_is_refused(src, tmp_path):
    vocalfolds.convert(src, tmp_path / "dst", ["vocal_folds"])
    with pytest.raises(DataError, match=r"holds foreground \['vocal_folds'\], not \['pathology'\]"):
        vocalfolds.convert(src, tmp_path / "dst", ["pathology"])
    (tmp_path / "dst" / "prepared.json").write_text(json.dumps([]))
    with pytest.raises(DataError, match="not what this program writes"):
        vocalfolds.convert(src, tmp_path / "dst", ["vocal_folds"])
    (tmp_path / "mine/Frame").mkdir(parents=True)
    with pytest.raises(DataError, match="did not write"):
        vocalfolds.convert(src, tmp_path / "mine", ["vocal_folds"])
    for place in (src, tmp_path):
        with pytest.raises(DataError, match="is the source or holds it"):
            vocalfolds.convert(src, place, ["vocal_folds"])


def test_an_unknown_class_lists_those_that_exist(src, tmp_path, capsys):
    assert vocalfolds.main(["--src", str(src), "--dst", str(tmp_path / "dst"), "--foreground", "polyp"]) == 2
    message = capsys.readouterr().err
    assert "unknown class polyp" in message and "glottal_space, pathology, surgical_tool" in message
    assert not (tmp_path / "dst").exists()
    with pytest.raises(DataError, match="unknown class all"):
        vocalfolds.class_values(["all", "pathology"])


def test_sources_that_are_none(src, tmp_path):
    with pytest.raises(DataError, match="expected a checkout of imesluh/vocalfolds"):
        vocalfolds.find_videos(tmp_path)
    (src / "annot/patient1/seq1/0001_l.png").unlink()
    with pytest.raises(DataError, match=r"1 frame \(.*seq1/0001_l.png\) without a mask"):
        vocalfolds.convert(src, tmp_path / "dst", ["vocal_folds"])


def test_a_label_that_the_data_set_does_not_have(src, tmp_path):
    Image.fromarray(np.full((12, 12), 9, np.uint8)).save(src / "annot/patient1/seq1/0001_l.png")
    with pytest.raises(DataError, match=r"0001_l.png in .*src holds the values \[9\]; this data set has 0..6"):
        vocalfolds.convert(src, tmp_path / "dst", ["all"])


def test_the_real_frames(shared, tmp_path):
    counts = vocalfolds.convert(shared / "data/vocalfolds", tmp_path, ["pathology"])
    assert [frames for frames, _ in counts.values()] == [32, 34, 26, 44, 26, 44, 36, 36]
    ours = list_videos(tmp_path, videos=["seq1", "seq2"])
    theirs = list_videos(shared / "data/vocalfolds", masks="GT_pathology", videos=["seq1", "seq2"])
    for a, b in zip(ours, theirs, strict=True):
        assert a.frame_names == b.frame_names
        assert all(np.array_equal(read_mask(x), read_mask(y)) for x, y in zip(a.masks, b.masks, strict=True))
