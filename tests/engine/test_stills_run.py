"""Still images as a user may bring them, from the command line to the summary: what runs, and what an error says."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from lgrnet.engine.hooks import mean_scores, score_words
from lgrnet.records import read_mask
from tests.data.still_layout import mask_of, write_still

HERE = Path(__file__).parent
EMPTY = {"videos": 0, "frames": 0, "scores": None, "intervals": None}
GREY, CLASSES = HERE / "still_config.py", HERE / "still_classes_config.py"


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Trains (or evaluates) a config on the images of tmp_path: (status, stdout, stderr)."""

    def call(config: Path, *overrides: str, mode: str = "train"):
        place = ["--out_dir", str(tmp_path / "run"), f"data.root={tmp_path}"]
        monkeypatch.setattr(
            sys, "argv", ["main.py", "--config_file", str(config), "--trainer_mode", mode, *place, *overrides]
        )
        status = main.main()
        return status, *capsys.readouterr()

    return call


def write(root: Path, *masks: np.ndarray, palette: bool = False) -> None:
    """Images a.png, b.png, ... with these masks."""
    for name, raw in zip("abcdefgh", masks, strict=False):
        write_still(root / "images", root / "masks", f"{name}.png", raw, palette=palette)


def strict_json(path: Path):
    """A file of JSON; NaN and Infinity, which JSON does not have, are errors."""

    def refuse(constant: str):
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def results(root: Path, call, config: Path) -> dict:
    """Scores of the set by summary.json, after an evaluation of the trained run; every JSON file of it is strict."""
    status, said, error = call(config, mode="eval")
    assert status == 0, error
    assert "nan" not in re.findall(r"[a-z]+", said.lower())
    for path in (root / "run").rglob("*.json"):
        strict_json(path)
    return strict_json(root / "run/eval/summary.json")["step_00000002"]["test"]


def refused(call, config: Path, *overrides: str) -> str:
    """The one line that a training ends with."""
    status, _, error = call(config, *overrides)
    assert status == 2 and error.startswith("error: ") and error.count("\n") == 1
    return error


def losses(root: Path) -> list[float]:
    lines = [json.loads(line) for line in (root / "run/log.jsonl").read_text().splitlines()]
    return [line["total"] for line in lines if line["type"] == "step"]


def test_masks_of_0_and_255_for_a_model_of_class_indices(call, tmp_path):
    write(tmp_path, mask_of((255,)), mask_of((255,)))
    with pytest.warns(UserWarning, match='that the label map ignores.* set label_map="binary"'):
        assert call(CLASSES)[0] == 0
    shutil.rmtree(tmp_path / "run")
    known = "{1: 1, 2: 2}"
    error = refused(call, CLASSES, f"data.train.records.label_map={known}", f"data.eval.test.label_map={known}")
    assert "values [255], unknown" in error and "255: 48 pixels" in error and 'set label_map="binary"' in error


def test_class_indices_for_a_model_of_one_grey_map(call, tmp_path):
    write(tmp_path, mask_of((1, 2)), mask_of((2,)), palette=True)
    error = refused(call, GREY)
    assert re.search(r"holds the values \[[12, ]+\] \([12]: 48 pixels", error) and "set label_map={" in error
    one = "{1: 1, 2: 1}"  # what the error proposes for one class
    status, _, error = call(GREY, f"data.train.records.label_map={one}", f"data.eval.test.label_map={one}")
    assert status == 0, error


def test_palette_masks_are_class_indices(call, tmp_path):
    write(tmp_path, mask_of((1, 2)), mask_of((2, 255)), palette=True)
    status, said, error = call(CLASSES)
    assert status == 0, error
    assert all(map(math.isfinite, losses(tmp_path)))
    assert 0 <= results(tmp_path, call, CLASSES)["dice"] <= 1
    assert Image.open(tmp_path / "run/eval/step_00000002/test/web/a/a.png").mode == "P"


def test_rgb_masks(call, tmp_path):
    raw = mask_of((255,))
    write(tmp_path, raw, raw)
    grey, red = np.stack([raw] * 3, -1), np.stack([raw, raw * 0, raw * 0], -1)
    Image.fromarray(grey).save(tmp_path / "masks/a.png")
    assert call(GREY)[0] == 0
    Image.fromarray(red).save(tmp_path / "masks/a.png")
    status, _, error = call(GREY, mode="eval")
    assert status == 2 and "a.png is a colour image (RGB)" in error and "palette of class indices" in error


def test_unknown_labels(call, tmp_path):
    write(tmp_path, mask_of((1, 7)), mask_of((1, 7)), palette=True)
    assert "holds the values [7], unknown" in (error := refused(call, CLASSES)) and "(7: 48 pixels); add" in error


def test_an_image_without_a_mask(call, tmp_path):
    write(tmp_path, mask_of((255,)), mask_of((255,)))
    (tmp_path / "masks/b.png").unlink()
    error = refused(call, GREY)
    assert "1 image (" in error and "b.png) without a mask of the same name" in error and "require_masks=False" in error
    status, said, error = call(GREY, "data.train.records.require_masks=false", "data.eval.test.require_masks=false")
    assert status == 0, error
    (report,) = (tmp_path / "run").rglob("report.json")
    (part,) = strict_json(report)["sets"]
    assert (part["frames"], part["frames_without_annotation"]) == (1, 1)


@pytest.mark.parametrize("config, value", [(GREY, 255), (CLASSES, 1)])
def test_sizes_that_are_no_multiple_of_the_stride(call, tmp_path, config, value):
    """Images of several sizes, resized to 50 x 70, padded to 64 x 96 for the model, and cut back."""
    sizes = [(45, 63), (63, 45), (50, 70)]
    write(tmp_path, *(mask_of((value,), size) for size in sizes))
    status, _, error = call(config)
    assert status == 0, error
    results(tmp_path, call, config)
    web = tmp_path / "run/eval/step_00000002/test/web"
    assert [read_mask(web / name / f"{name}.png").shape for name in "abc"] == sizes


@pytest.mark.parametrize("config, value", [(GREY, 255), (CLASSES, 2)])
def test_objects_of_one_pixel(call, tmp_path, config, value):
    raw = np.zeros((50, 70), np.uint8)
    raw[20, 30] = value
    write(tmp_path, raw, raw)
    status, _, error = call(config)
    assert status == 0, error
    assert len(losses(tmp_path)) == 2 and all(map(math.isfinite, losses(tmp_path)))
    results(tmp_path, call, config)
    (report,) = (tmp_path / "run/eval/step_00000002").rglob("report.json")
    slices = strict_json(report)["sets"][0]["slices"]["svanet-size"]
    # A polygon through the centre of one pixel has no area.
    assert slices["0 - 0.5 %"]["frames"] == 2 and slices["no object"] == EMPTY


@pytest.mark.parametrize("config", [GREY, CLASSES])
def test_nothing_but_empty_masks(call, tmp_path, config):
    """Batches without an object train; what is not defined without objects is not 0, and no NaN in a file."""
    write(tmp_path, *[mask_of(())] * 3)
    status, said, error = call(config, "train.eval_every=1", "train.save_every=1")
    assert status == 0, error
    assert all(map(math.isfinite, losses(tmp_path)))
    assert "dice not defined" in said
    scores = results(tmp_path, call, config)
    assert scores["dice"] is None and scores["iou"] is None and scores["mae"] is not None
    for path in (tmp_path / "run/checkpoints").glob("*/metrics.json"):
        found = json.loads(path.read_text())
        assert "dice" not in found and "mae" in found
    assert (tmp_path / "run/curves.png").is_file()


def test_size_classes_without_images_are_said_to_be_so(call, tmp_path):
    large = np.zeros((50, 70), np.uint8)
    large[10:40, 10:60] = 255
    write(tmp_path, large, large)
    assert call(GREY)[0] == 0
    assert 0 <= results(tmp_path, call, GREY)["dice"] <= 1
    (report,) = (tmp_path / "run/eval/step_00000002").rglob("report.json")
    slices = strict_json(report)["sets"][0]["slices"]["svanet-size"]
    assert slices["< 1 %"] == EMPTY and slices["10 - 100 %"]["frames"] == 2
    text = report.with_name("report.md").read_text()
    row = next(line for line in text.splitlines() if "< 1 %" in line.replace("&lt;", "<"))
    assert "no images" in row or "| 0 |" in row
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def test_means_over_sets_are_of_those_where_a_score_is_defined():
    sets = {"a": {"dice": 0.5, "mae": 0.1}, "b": {"dice": math.nan, "mae": 0.3}}
    assert mean_scores(sets) == {"dice": 0.5, "mae": pytest.approx(0.2)}
    assert math.isnan(mean_scores({"b": sets["b"]})["dice"])
    assert score_words(sets["b"]) == "dice not defined  mae 0.3000"
