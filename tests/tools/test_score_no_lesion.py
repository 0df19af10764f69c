"""Maps of frames that show no lesion: no folder of masks is needed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.tools.map_files import save
from tools import score_masks


@pytest.fixture
def trees(tmp_path):
    """Maps of two videos at half the size of their frames, and masks of zeros; nothing is found in two frames."""
    for video, size in (("case1", (20, 24)), ("case2", (30, 28))):
        for index in range(8, 12):
            found = np.zeros((size[0] // 2, size[1] // 2), np.uint8)
            found[2 : index - 6, 3:6] = 200
            save(tmp_path / f"pred/model/{video}/{index}.png", found)
            save(tmp_path / f"gt/{video}/{index}.png", np.zeros(size, np.uint8))
            save(tmp_path / f"Negative/Frame/{video}/{index}.jpg", np.full((*size, 3), 90, np.uint8))
    return tmp_path


def _run(trees, *more):
    return score_masks.main(["--pred", str(trees / "pred"), *map(str, more)])


def _set(path):
    (found,) = json.loads(path.read_text())["sets"]
    return found


def test_numbers_are_those_of_masks_of_zeros_at_the_size_of_the_frames(trees):
    common = ("--protocol", "all", "--fps", 30, "--frames", trees / "Negative", "--set", "negatives")
    assert _run(trees, "--gt", trees / "gt", "--json", trees / "zeros.json", *common) == 0
    for workers in (1, 2):
        told = "--json", trees / "none.json", "--out", trees / "report", "--workers", workers
        assert _run(trees, "--no_lesion", *told, *common) == 0
        assert _set(trees / "none.json") == _set(trees / "zeros.json")
    assert (trees / "report/report.html").is_file()
    scores = _set(trees / "none.json")["scores"]
    assert scores["over-time"]["specificity"] == 0.25 and scores["over-time"]["false_alarms_per_minute"] == 1350
    assert 0.9 < scores["plain"]["specificity"] < 1 and scores["plain"]["sensitivity"] is None
    assert scores["over-time"]["missed_frames"] is None


def test_without_frames_masks_have_the_size_of_the_maps(trees, capsys):
    assert _run(trees, "--no_lesion", "--protocol", "plain,lgrnet", "--json", trees / "none.json") == 0
    found = _set(trees / "none.json")
    sizes = {"case1": 10 * 12, "case2": 15 * 14}
    expected = np.mean([1 - 3 * (index - 8) / pixels for pixels in sizes.values() for index in range(8, 12)])
    assert found["scores"]["plain"]["specificity"] == pytest.approx(expected)
    assert found["scores"]["lgrnet"]["dice"] == pytest.approx(np.mean([1 / (3 * n + 1) for n in range(4)]))
    assert found["set"] == "no lesion" and found["frames"] == 8
    assert json.loads((trees / "none.json").read_text())["annotations"] == "none: no frame shows a lesion"
    assert "8 frames of 2 videos" in capsys.readouterr().out


def test_frames_say_which_maps_are_missing(trees, capsys):
    (trees / "pred/model/case2/9.png").unlink()
    common = ("--no_lesion", "--frames", trees / "Negative", "--protocol", "plain")
    assert _run(trees, *common) == 2
    assert "1 frame (case2/9)" in capsys.readouterr().err
    assert _run(trees, *common, "--allow_missing", "--json", trees / "o.json") == 0
    assert _set(trees / "o.json")["frames"] == 7 and _set(trees / "o.json")["set"] == "Negative"


def test_two_folders_are_compared(trees, capsys):
    for path in sorted((trees / "pred/model").rglob("*.png")):
        save(trees / "other" / path.relative_to(trees / "pred"), np.zeros((10, 12), np.uint8))
    compared = ["--compare", str(trees / "pred"), str(trees / "other"), "--no_lesion", "--protocol", "over-time"]
    assert score_masks.main(compared) == 0
    assert "specificity" in capsys.readouterr().out


def test_masks_and_their_absence_are_a_contradiction(trees, capsys):
    assert _run(trees, "--no_lesion", "--gt", trees / "gt") == 2
    assert "--gt or --no_lesion, not both" in capsys.readouterr().err
    assert _run(trees) == 2
    assert "--no_lesion" in capsys.readouterr().err


def test_options_that_compare_does_not_take(trees, capsys):
    given = ["--no_lesion", "--pred", str(trees / "pred")]
    assert score_masks.main([*given, "--json", str(trees / "a.json")]) == 0
    capsys.readouterr()
    compared = ["--compare", str(trees / "a.json"), str(trees / "a.json")]
    assert score_masks.main([*compared, "--out", str(trees / "out")]) == 2
    assert "--compare writes no report; give --json" in capsys.readouterr().err
    assert score_masks.main([*compared, "--protocol", "lgrnet,plain"]) == 0
    told = capsys.readouterr().out
    assert "protocol lgrnet" in told and "protocol plain" in told and "protocol pranet" not in told
    assert "not asked for: " in told


def test_a_foreground_that_no_mask_has(trees, capsys):
    """Else all would be background, and a perfect prediction worth nothing."""
    for path in sorted((trees / "pred/model").rglob("*.png")):
        save(trees / "gt" / path.parent.name / path.name, np.full((10, 12), 255, np.uint8))
    given = ["--pred", str(trees / "pred"), "--gt", str(trees / "gt"), "--protocol", "plain", "--foreground"]
    assert score_masks.main([*given, "1"]) == 2
    assert "no mask has one of the values [1]; the largest that masks have is 255" in capsys.readouterr().err
    assert score_masks.main([*given, "1,255"]) == 0
