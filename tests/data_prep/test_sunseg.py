"""SUN-SEG from small archives of the documented shape, with the defects of the published ones."""

from __future__ import annotations

import json
import shutil

import pytest

from data_prep import sunseg
from data_prep.sunseg_labels import read_boxes, read_classes
from lgrnet.data.datasets import sunseg as read_sunseg
from lgrnet.records import DataError, list_videos
from lgrnet.records.published import sun_case
from tests.data_prep.downloads import JUNK, content, mask, picture, write_any, write_folder, write_zip

SPLITS = {
    "TrainDataset": ("case1_1", "case1_3", "case10"),
    "TestEasyDataset/Seen": ("case1_2",),
    "TestEasyDataset/Unseen": ("case2", "case3_1"),
    "TestHardDataset/Seen": ("case10_1",),
    "TestHardDataset/Unseen": ("case3_2",),
}
# the benchmark's order; as strings image10 comes before image9, and a10 before a2
NUMBERS = (("001", 2, 9), ("001", 2, 10), ("001", 10, 1), ("002", 1, 1))
BOXES = (
    '{"info": {}, "images": [{"id": "case1_1-a2-image9", "width": 16}\n {"id": "b"}], '
    '"annotation": [{"id": "b", "bbox": [1, 2.5, 3, 4]}]}'
)


def stems(clip: str) -> list[str]:
    head = f"case_M_20181001100941_0U62372100109341_1_{clip.replace('case', '')}"
    return [f"{head}_{place}-1_a{part}_ayy_image{number}" for place, part, number in NUMBERS]


def sun() -> dict[str, dict[str, bytes]]:
    """The two parts of SUN's positive frames."""
    clips = [clip for part in SPLITS.values() for clip in part]
    frames = {f"{sun_case(c)}/{stem}.jpg": picture(hash(stem) % 99) for c in clips for stem in stems(c)}
    first = {f"SUN-Positive/{name}": data for name, data in frames.items() if name.startswith("case1")}
    second = {f"SUN-Positive/{name}": data for name, data in frames.items() if not name.startswith("case1")}
    second["SUN-Positive/case2/spare_image1.jpg"] = picture(1)
    return {"part1": {**first, **JUNK}, "part2": second}


def annotations(halves=None) -> dict[str, bytes]:
    """SUN-SEG-Annotation; `halves` renames Seen and Unseen, as the published script does."""
    files = {f"SUN-SEG-Annotation/{name}": data for name, data in JUNK.items()}
    for split, clips in SPLITS.items():
        base = f"SUN-SEG-Annotation/{split}"
        if halves and "/" in split:
            base = f"SUN-SEG-Annotation/{split.partition('/')[0]}/{halves}"
        for clip in clips:
            for index, stem in enumerate(stems(clip)):
                for kind in ("GT", "Edge"):
                    files[f"{base}/{kind}/{clip}/{stem}.png"] = mask(index)
            files[f"{base}/GT/{clip}/._{stem}.png"] = b"\0\5\26\7"
            files[f"{base}/GT/{clip}/{stem}_2.png"] = mask(7)  # a rejected label
        lines = "".join(f"{stem}.jpg\tlow_grade_adenoma\0\r\n" for clip in clips for stem in stems(clip))
        files[f"{base}/Classification/classification.txt"] = b"\xef\xbb\xbf" + lines.encode()
        files[f"{base}/Detection/bbox_annotation.json"] = BOXES.encode()
    files["SUN-SEG-Annotation/TestEasyDataset/Unseen/Frame/._.DS_Store"] = b"x"
    files["SUN-SEG-Annotation/TestEasyDataset/Unseen/Frame/case2/" + stems("case2")[0] + ".jpg"] = b""
    return files


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    monkeypatch.setattr(sunseg, "SPLITS", {split: (len(c), len(c) * len(NUMBERS)) for split, c in SPLITS.items()})
    monkeypatch.setattr(sunseg, "CASES", 3)


def downloads(tmp_path, kind: str, **options) -> list[str]:
    parts = {**sun(), "annotation": annotations(**options)}
    return [str(write_any(kind, tmp_path / f"{name}.{kind}", files)) for name, files in parts.items()]


def run(src: list[str], dst, *more: str) -> int:
    return sunseg.main(["--src", *src, "--dst", str(dst), *more])


@pytest.mark.parametrize("kind", ["zip", "folder", "tar"])
def test_every_split_at_once(kind, tmp_path, capsys):
    src = downloads(tmp_path, kind)
    before = content(tmp_path)
    assert run(src, tmp_path / "dst") == 0
    said = capsys.readouterr().out
    assert "TestEasyDataset/Unseen: 2 of 2 clips, 8 of 8 frames" in said
    assert "easy, seen and unseen pooled: 3 of 3 clips, 12 of 12 frames" in said
    assert "8 rejected labels (" in said and "1 frame (SUN-Positive/case2/spare_image1.jpg) without a mask" in said
    assert "null bytes dropped" in said and "was not valid JSON, commas mended" in said
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("dst/")} == before
    for split, clips in SPLITS.items():
        records = list_videos(tmp_path / "dst" / split)
        assert [record.name for record in records] == list(clips)
        for record in records:
            assert list(record.frame_names) == stems(record.name)
            assert all(frame.read_bytes() == picture(hash(frame.stem) % 99) for frame in record.frames)
            assert [m.read_bytes() for m in record.masks] == [mask(i) for i in range(len(NUMBERS))]


def test_our_reader_pools_without_files_and_others_find_their_folder(tmp_path):
    src = downloads(tmp_path, "zip")
    assert run(src, tmp_path / "plain") == 0
    assert run(src, tmp_path / "pooled", "--pooled", "Combine") == 0
    for root in (tmp_path / "plain", tmp_path / "pooled"):
        with pytest.warns(UserWarning, match="the published one 119"):
            assert [r.name for r in read_sunseg(root, "easy")] == ["case1_2", "case2", "case3_1"]
        with pytest.warns(UserWarning):
            assert [r.name for r in read_sunseg(root, "hard_unseen")] == ["case3_2"]
    assert not (tmp_path / "plain/TestEasyDataset/Combine").exists()
    assert [r.name for r in list_videos(tmp_path / "pooled/TestHardDataset/Combine")] == ["case3_2", "case10_1"]
    frame = f"case3_2/{stems('case3_2')[0]}.jpg"
    assert (tmp_path / "pooled/TestHardDataset/Combine/Frame" / frame).samefile(
        tmp_path / "pooled/TestHardDataset/Unseen/Frame" / frame
    )


def test_frames_come_in_the_benchmarks_order(tmp_path):
    """Where natural order differs: a number that the benchmark passes over, here the date, is not in order."""
    names = ["M_2019_1_001-1_a1_ayy_image9", "M_2018_1_001-2_a1_ayy_image10", "M_2018_1_002-1_a1_ayy_image1"]
    files = {f"TrainDataset/{kind}/case1/{name}.png": mask() for name in names for kind in ("Frame", "GT")}
    assert run([str(write_folder(tmp_path / "src", files))], tmp_path / "dst") == 1
    with pytest.warns(UserWarning):
        assert list(read_sunseg(tmp_path / "dst", "train")[0].frame_names) == names


@pytest.mark.parametrize("name", ["combine", "Combine"])
def test_what_was_pooled_is_sorted_back(name, tmp_path):
    assert run(downloads(tmp_path, "folder", halves=name), tmp_path / "dst") == 0
    for split, clips in SPLITS.items():
        assert [record.name for record in list_videos(tmp_path / "dst" / split)] == list(clips)


def test_pooled_tests_need_the_training_clips(tmp_path, capsys):
    files = {name: data for name, data in annotations(halves="combine").items() if "TrainDataset" not in name}
    parts = {**sun(), "annotation": files}
    src = [str(write_any("folder", tmp_path / f"{name}.folder", content)) for name, content in parts.items()]
    assert run(src, tmp_path / "dst") == 2
    assert "holds seen and unseen clips together" in capsys.readouterr().err and not (tmp_path / "dst").exists()


def test_frames_that_a_script_has_moved_are_found(tmp_path):
    files = annotations()
    for split, clips in SPLITS.items():
        for clip in clips:
            files.update({f"SUN-SEG-Annotation/{split}/Frame/{clip}/{stem}.jpg": picture(3) for stem in stems(clip)})
    assert run([str(write_folder(tmp_path / "half", files))], tmp_path / "dst") == 0


def test_what_is_missing_is_named(tmp_path, capsys):
    src = downloads(tmp_path, "folder")
    shutil.rmtree(tmp_path / "part2.folder/SUN-Positive/case2")
    assert run(src, tmp_path / "dst") == 1
    said = capsys.readouterr().out
    assert "TestEasyDataset/Unseen: 1 of 2 clips, 4 of 8 frames  INCOMPLETE" in said
    assert f"missing: the frame of TestEasyDataset/Unseen/GT/case2/{stems('case2')[0]}, case2/" in said
    assert "1 case (case2) of SUN have no frames" in said
    stamp = json.loads((tmp_path / "dst/prepared.json").read_text())
    assert not stamp["complete"] and len(stamp["parts"][2]["missing"]) == 4
    write_folder(tmp_path / "part2.folder", sun()["part2"])
    assert run(src, tmp_path / "dst") == 0
    assert run(src, tmp_path / "fresh") == 0
    assert content(tmp_path / "dst") == content(tmp_path / "fresh")


def test_negatives(tmp_path, capsys):
    src = downloads(tmp_path, "zip")
    negatives = {f"SUN-Negative/case{n}/image{i}.jpg": picture(n) for n in (1, 2) for i in range(3)}
    path = write_zip(tmp_path / "negative.zip", negatives)
    assert run(src, tmp_path / "dst", "--negatives", str(path)) == 1
    assert "Negative: 2 folders, 6 of 109554 frames  INCOMPLETE" in capsys.readouterr().out
    records = list_videos(tmp_path / "dst/Negative", masks=None)
    assert [(record.name, record.num_frames) for record in records] == [("case1", 3), ("case2", 3)]


def test_a_dry_run_knows_all_and_writes_nothing(tmp_path, capsys):
    src = downloads(tmp_path, "zip")
    before = content(tmp_path)
    assert run(src, tmp_path / "dst", "--dry_run") == 0
    assert "nothing written, would make 32 frames" in capsys.readouterr().out
    assert content(tmp_path) == before and not (tmp_path / "dst").exists()


@pytest.mark.parametrize("left, message", [(["part1", "part2"], "holds no masks"), (["annotation"], "holds no frames")])
def test_a_part_is_forgotten(left, message, tmp_path, capsys):
    src = [path for path in downloads(tmp_path, "zip") if any(name in path for name in left)]
    assert run(src, tmp_path / "dst") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "dst").exists()


def test_classes_and_boxes():
    assert read_classes(b"a_1.jpg\tinvasive_cancer\0\r\n\n") == {"a_1": "invasive_cancer"}
    with pytest.raises(DataError, match="line 2 is 'b.jpg'"):
        read_classes(b"a.jpg\tinvasive_cancer\nb.jpg\n")
    good = {"annotation": [{"id": "b", "bbox": [1, 2, 3, 4]}]}
    assert read_boxes(json.dumps(good).encode()) == (good, "")
    boxes, wrong = read_boxes(BOXES.encode())
    assert wrong == "was not valid JSON, commas mended" and boxes["annotation"][0]["bbox"] == [1, 2.5, 3, 4]
    torn, wrong = read_boxes(BOXES.replace("annotation", 'an"notation').encode())
    assert torn == {"annotation": [{"id": "b", "bbox": [1.0, 2.5, 3.0, 4.0]}]} and wrong.endswith("1 boxes saved")
    with pytest.raises(DataError, match="no box could be found"):
        read_boxes(b"\0\0 nothing")


def test_a_hopeless_label_file_is_not_fatal(tmp_path, capsys):
    files = annotations()
    files["SUN-SEG-Annotation/TrainDataset/Detection/bbox_annotation.json"] = b"[" * 100_000
    files["SUN-SEG-Annotation/TrainDataset/Classification/classification.txt"] = b"\xff\xfe rubbish"
    src = [str(write_zip(tmp_path / f"{name}.zip", part)) for name, part in {**sun(), "x": files}.items()]
    assert run(src, tmp_path / "dst") == 0
    said = capsys.readouterr().out
    assert said.count("left out: ") == 2
    assert not (tmp_path / "dst/TrainDataset/Detection").exists()
