"""Folders of maps from any program: files that do not fit, odd names, slices, comparisons."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgrnet.evaluation import PROTOCOLS
from lgrnet.evaluation.mask_trees import pair_trees, read_map
from lgrnet.records import DataError, benchmark_key
from tests.tools.map_files import STEM
from tests.tools.map_files import run as _run
from tests.tools.map_files import save as _save
from tools import score_masks

TOOL = Path(score_masks.__file__)


def _disc(shift=0, size=(20, 24)):
    y, x = np.mgrid[: size[0], : size[1]]
    return ((y - 9) ** 2 + (x - 10 - shift) ** 2 < 30).astype(np.uint8) * 255


@pytest.fixture
def trees(tmp_path):
    """Two videos of four frames in the layout of SUN-SEG and of its published maps."""
    for video in ("case1_1", "case2"):
        for index in range(8, 12):
            _save(tmp_path / f"gt/TestHardDataset/Seen/GT/{video}/{STEM.format(index)}.png", _disc())
            _save(tmp_path / f"gt/TestHardDataset/Seen/Frame/{video}/{STEM.format(index)}.jpg", _disc())
            _save(tmp_path / f"pred/Model/TestHardDataset/Seen/{video}/{STEM.format(index)}.png", _disc(1))
    return tmp_path


def _prediction(trees, index, video="case2"):
    return trees / f"pred/Model/TestHardDataset/Seen/{video}/{STEM.format(index)}.png"


def test_all_protocols_in_one_pass_without_torch(trees):
    code = (
        f"import sys; sys.argv[0] = {str(TOOL)!r}; sys.path.insert(0, {str(TOOL.parent)!r}); import score_masks; "
        f"code = score_masks.main(['--pred', {str(trees / 'pred')!r}, '--gt', {str(trees / 'gt')!r}, '--json', "
        f"{str(trees / 'o.json')!r}, '--out', {str(trees / 'report')!r}]); print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    stored = json.loads((trees / "o.json").read_text())
    (found,) = stored["sets"]
    assert set(found["scores"]) == set(PROTOCOLS) and found["frames"] == 8
    assert stored["missing"] == stored["extra"] == []
    assert json.loads((trees / "report/report.json").read_text()) == stored
    assert all(n["split_hash"] == found["split_hash"] for n in found["numbers"])


def test_several_processes_give_the_same_numbers(trees):
    for workers in (1, 2):
        assert _run(trees, "--protocol", "vps,plain", "--workers", workers, "--json", trees / f"{workers}.json") == 0
    assert (trees / "1.json").read_text() == (trees / "2.json").read_text()


def test_missing_frames_are_listed_and_never_scored(trees, capsys):
    _prediction(trees, 9).unlink()
    assert _run(trees, "--json", trees / "o.json") == 2
    error = capsys.readouterr().err
    assert f"1 frame (case2/{STEM.format(9)})" in error and "--allow_missing" in error and "Traceback" not in error
    assert not (trees / "o.json").exists()
    assert _run(trees, "--allow_missing", "--protocol", "lgrnet", "--json", trees / "o.json") == 0
    stored = json.loads((trees / "o.json").read_text())
    assert stored["missing"] == [f"case2/{STEM.format(9)}"] and stored["sets"][0]["frames"] == 7
    assert "1 frames without a prediction were left out" in capsys.readouterr().out


def test_extra_frames_are_listed(trees, capsys):
    _save(_prediction(trees, 99), _disc())
    assert _run(trees, "--protocol", "plain") == 0
    assert f"1 prediction (case2/{STEM.format(99)}) without a mask" in capsys.readouterr().err


def test_the_same_frame_twice_is_an_error(trees, capsys):
    _save(trees / f"pred/Other/TestHardDataset/Seen/case2/{STEM.format(9)}.png", _disc())
    assert _run(trees) == 2
    assert "the same frame" in capsys.readouterr().err
    _save(trees / f"gt/TestHardDataset/Unseen/GT/case1_1/{STEM.format(40)}.png", _disc())
    with pytest.raises(DataError, match="the same video twice .video 'case1_1'"):
        pair_trees(trees / "pred/Model", trees / "gt")


def test_a_name_in_two_videos_is_two_frames(tmp_path):
    for video in "ab":
        _save(tmp_path / f"pred/{video}/0.png", _disc())
        _save(tmp_path / f"gt/{video}/0.png", _disc())
    assert pair_trees(tmp_path / "pred", tmp_path / "gt").frames == 2


def test_other_sizes_go_by_the_rule_of_the_protocol(trees):
    _save(_prediction(trees, 9), _disc(1).repeat(2, 0).repeat(2, 1))
    assert _run(trees, "--protocol", "all", "--json", trees / "o.json") == 0
    scores = json.loads((trees / "o.json").read_text())["sets"][0]["scores"]
    assert 0.7 < scores["lgrnet"]["dice"] < 1 and 0.7 < scores["vps"]["maxDice"] < 1


def test_sixteen_bits_count_as_eight(trees):
    assert _run(trees, "--protocol", "all", "--json", trees / "8.json") == 0
    for path in (trees / "pred").rglob("*.png"):
        _save(path, np.array(Image.open(path)).astype(np.uint16) * 257)
        assert read_map(path).dtype == np.uint16
    assert _run(trees, "--protocol", "all", "--json", trees / "16.json") == 0
    assert (trees / "8.json").read_text() == (trees / "16.json").read_text()


def test_opencv_reads_the_upper_byte_of_sixteen_bits(tmp_path):
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).integers(0, 65536, (40, 50)).astype(np.uint16)
    _save(tmp_path / "a.png", values)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_GRAYSCALE), values >> 8)


def test_frames_are_ordered_as_the_benchmark_does():
    names = [
        "case_M_20181001100941_0U62372100109341_1_005_002-9_a1_azz_image0002",
        "case_M_20181001100941_0U62372100109341_1_005_002-1_a1_ayy_image0010",
        "case_M_20181001100941_0U62372100109341_1_005_002-1_a10_ayy_image0001",
        "case_M_20181001100941_0U62372100109341_1_004_010-1_a2_ayy_image0001",
    ]
    assert sorted(reversed(names), key=benchmark_key) == names
    assert sorted(["f10", "f9", "10", "9"], key=benchmark_key) == ["9", "10", "f9", "f10"]


def test_damaged_and_wrong_files_are_named(trees, capsys):
    path = _prediction(trees, 9)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert _run(trees) == 2
    assert f"{path} cannot be read" in capsys.readouterr().err
    colours = np.zeros((20, 24, 3), np.uint8)
    colours[4:9, 4:9, 0] = 255
    _save(path, colours)
    assert _run(trees, "--workers", 2) == 2
    assert f"map {path} has colours" in capsys.readouterr().err
    path.write_bytes(b"")
    assert _run(trees) == 2


def test_maps_of_nan_are_refused(trees, capsys):
    path = _prediction(trees, 9)
    path.unlink()
    _save(path.with_suffix(".tif"), np.full((20, 24), np.nan, np.float32))
    assert _run(trees) == 2
    assert "has mode F; expected grey values of 8 or 16 bits" in capsys.readouterr().err


def test_masks_of_zero_and_one_are_not_taken_for_empty_maps(trees, capsys):
    for path in (trees / "pred").rglob("*.png"):
        _save(path, np.array(Image.open(path)) // 255)
    assert _run(trees) == 2
    assert "no predicted map has a value above 1" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_eight_bits_in_files_of_sixteen_are_not_taken_for_empty_maps(workers, trees, capsys):
    for path in (trees / "pred").rglob("*.png"):
        _save(path, np.array(Image.open(path)).astype(np.uint16))
    assert _run(trees, "--workers", workers) == 2
    assert "no predicted map of 16 bits has a value above 255" in capsys.readouterr().err
    _save(_prediction(trees, 9), np.full((20, 24), 512, np.uint16))
    assert _run(trees, "--protocol", "plain") == 0, "one that has is of 16 bits"
    for path in (trees / "pred").rglob("*.png"):
        _save(path, np.zeros((20, 24), np.uint16))
    assert _run(trees, "--protocol", "plain") == 0, "empty maps are empty"


def test_masks_of_class_indices_need_to_be_told(trees, capsys):
    for path in (trees / "gt").rglob("*.png"):
        _save(path, np.array(Image.open(path)) // 255 * np.uint8(3) + np.uint8(2) * (np.array(Image.open(path)) == 0))
    assert _run(trees) == 2
    assert "look like class indices" in capsys.readouterr().err
    assert _run(trees, "--foreground", "3", "--protocol", "plain", "--json", trees / "o.json") == 0
    assert json.loads((trees / "o.json").read_text())["sets"][0]["scores"]["plain"]["dice"] > 0.8
    assert _run(trees, "--foreground", "x") == 2


def test_all_truth_empty_and_objects_of_one_pixel(tmp_path):
    for video, pixels in (("empty", 0), ("point", 1)):
        for index in range(4):
            raw = np.zeros((20, 24), np.uint8)
            raw[5, 6 : 6 + pixels] = 255
            _save(tmp_path / f"gt/{video}/{index}.png", raw)
            _save(tmp_path / f"pred/{video}/{index}.png", raw)
    assert _run(tmp_path, "--json", tmp_path / "o.json") == 0
    (found,) = json.loads((tmp_path / "o.json").read_text())["sets"]
    by_video = {(n["protocol"], n["video"], n["metric"]): n["value"] for n in found["numbers"]}
    assert by_video["lgrnet", "empty", "dice"] == by_video["plain", "point", "dice"] == 1
    assert by_video["plain", "empty", "dice"] is None
    assert by_video["vps", "empty", "maxDice"] == by_video["vps", "empty", "wFmeasure"] == 0
    assert by_video["vps", "empty", "Smeasure"] == 1 and by_video["vps", "point", "Smeasure"] == 0
    assert by_video["vps", "point", "maxDice"] == 1


@pytest.mark.parametrize(
    "video", ['a "b" <script>', "line\nbreak", "größe 大", "x" * 255, b"\xff\xfe".decode("utf-8", "surrogateescape")]
)
def test_odd_names(tmp_path, video, capsys):
    for index in range(3):
        _save(tmp_path / f"gt/{video}/{index}.png", _disc())
        _save(tmp_path / f"pred/{video}/{index}.png", _disc())
    out = tmp_path / "report"
    assert _run(tmp_path, "--json", tmp_path / "o.json", "--out", out, "--set", video) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "o.json").read_text())["sets"][0]["videos"] == 1
    names = {"report.json", "scores.csv", "frames.csv", "report.md", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    assert '"frame":null,"truth":["M' in (out / "report.html").read_text(encoding="utf-8")


def test_images_without_folders_are_one_video(tmp_path):
    for index in range(3):
        _save(tmp_path / f"preds/{index}.png", _disc())
        _save(tmp_path / f"masks/{index}.png", _disc())
    found = pair_trees(tmp_path / "preds", tmp_path / "masks")
    assert len(found.pairs) == 1 and found.frames == 3
    _save(tmp_path / "masks/.hidden.png", _disc())
    _save(tmp_path / "masks/._1.png", _disc())
    assert pair_trees(tmp_path / "preds", tmp_path / "masks").missing == []


def test_nothing_that_matches(tmp_path, capsys):
    _save(tmp_path / "pred/a/0.png", _disc())
    _save(tmp_path / "gt/b/0.png", _disc())
    assert _run(tmp_path, "--allow_missing") == 2
    assert "1 prediction (a/0) and 1 annotation (b/0)" in capsys.readouterr().err
    assert score_masks.main(["--pred", str(tmp_path / "none"), "--gt", str(tmp_path / "gt")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert _run(tmp_path, "--protocol", "vps,nope") == 2
    assert "some of lgrnet, vps, miccai-vps, pranet" in capsys.readouterr().err


def _other(trees, name, shift):
    """Other maps of the same frames."""
    for path in sorted((trees / "pred").rglob("*.png")):
        _save(trees / name / path.relative_to(trees / "pred"), _disc(shift))
    return trees / name


def test_two_results_are_compared_as_files_and_as_folders(trees, capsys):
    near, far = _other(trees, "near", 1), _other(trees, "far", 4)
    for folder in (near, far):
        told = ["--pred", str(folder), "--gt", str(trees / "gt"), "--json", str(folder) + ".json"]
        assert score_masks.main([*told, "--protocol", "lgrnet,vps"]) == 0
    capsys.readouterr()
    assert score_masks.main(["--compare", f"{far}.json", f"{near}.json", "--json", str(trees / "new/diff.json")]) == 0
    text = capsys.readouterr().out
    assert "| metric | A | B | B - A | 95 % | B above |" in text
    assert "protocol lgrnet" in text and "protocol vps" in text
    (dice,) = (line for line in text.splitlines() if line.startswith("| dice |"))
    assert dice.endswith("| 1.000 |")
    stored = json.loads((trees / "new/diff.json").read_text())
    assert stored["sets"][trees.name]["differences"][0]["lower"] > 0
    folders = ["--compare", str(far), str(near), "--gt", str(trees / "gt"), "--protocol", "lgrnet,vps"]
    assert score_masks.main(folders) == 0
    assert dice in capsys.readouterr().out
    assert score_masks.main(folders[:3]) == 2
    assert "give the masks with --gt" in capsys.readouterr().err
    assert score_masks.main([]) == 2
    assert "expected --pred and --gt" in capsys.readouterr().err
    assert score_masks.main(["--compare", f"{far}.json", str(trees / "no.json")]) == 2
    assert "no.json cannot be read" in capsys.readouterr().err


def test_clips_of_which_vps_drops_every_frame_are_told(tmp_path, capsys):
    for video, frames in (("a", 1), ("b", 2), ("c", 3)):
        for frame in range(frames):
            _save(tmp_path / "gt" / video / f"{frame}.png", _disc(0))
    told = ["--pred", str(tmp_path / "gt"), "--gt", str(tmp_path / "gt"), "--protocol"]
    assert score_masks.main([*told, "all"]) == 0
    words = "2 videos (a, b) have two annotated frames or fewer, and vps drops the first and the last"
    assert words in capsys.readouterr().err
    assert score_masks.main([*told, "lgrnet"]) == 0
    assert "note" not in capsys.readouterr().err


def test_a_clip_of_two_frames_needs_no_map_where_vps_drops_both(tmp_path, capsys):
    for video, frames in (("a", 1), ("b", 2), ("c", 5)):
        for frame in range(frames):
            _save(tmp_path / "gt" / video / f"{frame}.png", _disc())
            _save(tmp_path / "pred" / video / f"{frame}.png", _disc(1))
    results = []
    for gone in ("", "ab"):
        for video in gone:
            shutil.rmtree(tmp_path / "pred" / video)
        assert _run(tmp_path, "--protocol", "vps", "--json", tmp_path / "o.json", "--out", tmp_path / "out") == 0
        error = capsys.readouterr().err
        assert "2 videos (a, b) have two annotated frames or fewer" in error
        results.append(json.loads((tmp_path / "o.json").read_text()))
    assert "3 frames (a/0, b/0, b/1) at the ends of their clips" in error
    assert results[0] == results[1]
    assert _run(tmp_path, "--protocol", "vps", "--allow_missing", "--json", tmp_path / "o.json") == 0
    assert json.loads((tmp_path / "o.json").read_text()) == results[0]
    capsys.readouterr()
    assert _run(tmp_path, "--protocol", "vps,plain") == 2
    assert "3 frames (a/0, b/0, b/1) of" in capsys.readouterr().err
    assert _run(tmp_path, "--protocol", "vps,plain", "--allow_missing", "--json", tmp_path / "o.json") == 0
    assert json.loads((tmp_path / "o.json").read_text())["sets"][0]["videos"] == 1
    assert "two annotated frames" not in capsys.readouterr().err
    shutil.rmtree(tmp_path / "pred/c")
    _save(tmp_path / "pred/b/0.png", _disc())
    assert _run(tmp_path, "--protocol", "vps") == 2
    assert "3 frames (c/1, c/2, c/3)" not in (error := capsys.readouterr().err) and "5 frames (c/0, c/1" in error


def test_a_folder_in_place_of_a_file_is_told_before_the_work(trees, capsys):
    (trees / "found.json").mkdir()
    assert _run(trees, "--protocol", "lgrnet", "--json", str(trees / "found.json")) == 2
    error = capsys.readouterr().err
    assert "found.json is a folder; expected a file to write" in error and "1 of" not in error
    (trees / "file").write_text("mine")
    assert _run(trees, "--protocol", "lgrnet", "--out", str(trees / "file")) == 2
    assert "file is a file; expected a folder to write" in capsys.readouterr().err
    assert (trees / "file").read_text() == "mine"


@pytest.mark.parametrize("as_files", [True, False])
def test_common_videos_of_different_frames_are_not_compared(as_files, tmp_path, capsys):
    for side, videos in (("a", "vw"), ("b", "wx")):
        for video in videos:
            for frame in range(4):
                _save(tmp_path / f"gt_{side}/{video}/{frame}.png", _disc())
                if (video, frame) != ("w", 1 if side == "a" else 2):
                    _save(tmp_path / f"{side}/{video}/{frame}.png", _disc(1))
        told = ["--pred", str(tmp_path / side), "--gt", str(tmp_path / f"gt_{side}"), "--protocol", "lgrnet"]
        assert score_masks.main([*told, "--allow_missing", "--json", str(tmp_path / f"{side}.json")]) == 0
    second = str(tmp_path / "b.json") if as_files else str(tmp_path / "b")
    more = [] if as_files else ["--gt", str(tmp_path / "gt_b"), "--allow_missing", "--protocol", "lgrnet"]
    assert score_masks.main(["--compare", str(tmp_path / "a.json"), second, "--common", *more]) == 2
    assert "lack different frames of the same videos: 2 frames (w/1, w/2)" in capsys.readouterr().err


def test_slices_of_users_tables(trees, capsys):
    (trees / "a.csv").write_text("video,SI,location\ncase1_1,yes,C\ncase2,no,T\n")
    (trees / "train/Frame/case1_2").mkdir(parents=True)
    classes = "".join(f"{STEM.format(i)}.jpg\tinvasive_cancer\n" for i in range(8, 12))
    (trees / "classification.txt").write_text(classes)
    told = ["--protocol", "lgrnet,over-time", "--fps", "30", "--json", trees / "out.json"]
    files = ["--attributes", trees / "a.csv", "--training", trees / "train"]
    assert _run(trees, *told, *files, "--classification", trees / "classification.txt") == 0
    (found,) = json.loads((trees / "out.json").read_text())["sets"]
    for protocol in ("lgrnet", "over-time"):
        slices = found["slices"][protocol]
        assert {"location: C", "location: T", "seen: seen", "seen: unseen", "attribute: SI"} <= set(slices)
        assert (slices["seen: seen"]["videos"], slices["seen: seen"]["frames"]) == (1, 4)
    assert "seconds_to_detection" in found["scores"]["over-time"]
    capsys.readouterr()
    (trees / "a.csv").write_text("video,SI\ncase3,yes\n")
    assert _run(trees, *told, *files) == 2
    assert "a.csv knows none of 2 videos" in capsys.readouterr().err
    assert _run(trees, *told, "--training", trees / "none") == 2
    assert "holds no training clips" in capsys.readouterr().err


def test_frames_are_shown_and_followed(trees, tmp_path, capsys):
    arguments = ["--pred", str(trees / "pred"), "--gt", str(trees / "gt"), "--protocol", "over-time"]
    for path in (trees / "gt").rglob("*.png"):
        _save(tmp_path / "set/Frame" / path.parent.name / path.name, np.full((40, 50), 90, np.uint8))
        _save(tmp_path / "set/GT" / path.parent.name / path.name, np.zeros((40, 50), np.uint8))
    out = tmp_path / "out"
    assert score_masks.main([*arguments, "--frames", str(tmp_path / "set"), "--out", str(out)]) == 0
    assert "warped_flicker" in capsys.readouterr().out and (out / "report.html").is_file()
    next((tmp_path / "set/Frame").rglob("*.png")).unlink()
    assert score_masks.main([*arguments, "--frames", str(tmp_path / "set")]) == 2
    assert "lacks the images of 1 frame" in capsys.readouterr().err


def test_average_precision_of_maps(trees, tmp_path, capsys):
    assert _run(trees, "--protocol", "plain", "--instances", "video", "--json", tmp_path / "x.json") == 0
    assert "average precision, one image a video: ap " in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "x.json").read_text())["sets"]
    dice = found["scores"]["plain"]["dice"]
    passed = sum(dice / (2 - dice) >= threshold for threshold in np.arange(0.5, 1, 0.05))  # both videos are alike
    assert found["instances"]["ap"] == pytest.approx(passed / 10, abs=1e-3)
    assert (found["instances"]["form"], found["instances"]["videos"]) == ("video", 2)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_videos_behind_links_are_scored(trees, capsys):
    seen = trees / "gt/TestHardDataset/Seen/GT"
    (trees / "elsewhere").mkdir()
    (seen / "case2").rename(trees / "elsewhere/case2")
    (seen / "case2").symlink_to(trees / "elsewhere/case2")
    (seen / "case1_1/up").symlink_to(trees / "gt")
    assert score_masks.main(["--pred", str(trees / "pred"), "--gt", str(trees / "gt"), "--protocol", "lgrnet"]) == 0
    told = capsys.readouterr()
    assert "8 frames of 2 videos" in told.out and "not scored" not in told.err
