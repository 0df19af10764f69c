"""Masks of 0 and 1 stand for 0 and 255, which a video tells as a whole; the noise of a lossy format does not."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.evaluation import Evaluator, VPSProtocol
from lgrnet.records import Prediction, list_videos, read_mask, write_frame
from tests.evaluation.test_frame_order import Grey
from tests.tools.map_files import run, save

SIZE = 48, 48
EMPTY = 2


def _truth(index):
    mask = np.zeros(SIZE, np.uint8)
    mask[8:30, 8 + index : 30] = 0 if index == EMPTY else 255
    return mask


def _lossy(index):
    """An empty mask has noise that peaks at 1."""
    mask = _truth(index)
    mask[8:16, 8:16] += np.uint8(2) * (index == EMPTY)
    return mask


def _stray(index):
    mask = _truth(index)
    mask[3, 4] = max(mask[3, 4], 1)
    return mask


KINDS = {
    "plain": (_truth, ".png"),
    "ones": (lambda index: _truth(index) // 255, ".png"),
    "jpeg": (_lossy, ".jpg"),
    "webp": (_lossy, ".webp"),
    "stray": (_stray, ".png"),
}


@pytest.fixture
def scores(tmp_path):
    """The toolbox's numbers of five frames, by the tool and by the evaluation of a model, for a kind of masks."""

    def of(kind):
        made, suffix = KINDS[kind]
        for index in range(5):
            map_ = np.zeros(SIZE, np.uint8)
            map_[10:30, 10:30] = 255
            save(tmp_path / f"pred/c/{index}.png", map_)
            write_frame(tmp_path / f"gt/Frame/c/{index}.png", np.repeat(map_[..., None], 3, axis=-1))
            path = tmp_path / f"gt/GT/c/{index}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(made(index)).save(path, **({} if suffix == ".png" else {"quality": 60}))
        assert run(tmp_path, "--protocol", "vps", "--json", tmp_path / "o.json") == 0
        evaluate_sets(Grey(), {"a": list_videos(tmp_path / "gt")}, tmp_path / "out", SIZE, protocols=[VPSProtocol()])
        files = tmp_path / "o.json", tmp_path / "out/report.json"
        return [json.loads(path.read_text())["sets"][0]["scores"]["vps"] for path in files]

    return of


@pytest.mark.parametrize("kind", ["ones", "stray"])
def test_a_video_is_of_ones_or_it_is_not(kind, scores, tmp_path):
    plain = scores("plain")
    assert plain[0] == plain[1] and plain[0]["Smeasure"] > 0.7
    assert scores(kind) == plain


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_the_noise_of_a_lossy_format_is_no_object(kind, scores, tmp_path):
    found = scores(kind)
    masks = [read_mask(tmp_path / f"gt/GT/c/{index}{KINDS[kind][1]}") for index in range(5)]
    assert masks[EMPTY].max() == 1 and masks[0].max() > 200
    fold = VPSProtocol().begin()
    for mask in masks:
        fold.add(read_mask(tmp_path / "pred/c/0.png"), None, (mask > 128).astype(np.uint8) * 255)
    assert found[0] == found[1]
    assert found[0]["Smeasure"] == pytest.approx(float(fold.end()[1]["Smeasure"]), abs=1e-12)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_a_video_of_noise_alone_shows_nothing(kind, scores, monkeypatch):
    monkeypatch.setitem(KINDS, kind, (lambda index: _lossy(EMPTY), KINDS[kind][1]))
    for found in scores(kind):
        assert found["wFmeasure"] == found["maxDice"] == 0


def test_arrays_alone_say_it_too():
    truth = np.stack([_truth(index) for index in range(5)])
    shown = Prediction("v", tuple("01234"), np.ones(1, np.float32), truth[None], truth[None] > 127)
    stray, results = np.stack([_stray(index) for index in range(5)]), []
    for raw in (truth, truth // 255, stray):
        evaluator = Evaluator([VPSProtocol()])
        evaluator.process(shown, list(raw))
        results.append(evaluator.result()["scores"])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(("top", "told"), [(255, False), (254, True), (128, True), (1, False)])
def test_masks_without_white_are_warned_of(top, told):
    """Some protocols read masks by value, as published: of 0 and 128 they see nothing."""
    evaluator = Evaluator([VPSProtocol()], "s")
    there = np.stack([_truth(index) > 0 for index in range(4)])
    shown = Prediction("v", tuple("abcd"), np.ones(1), there[None].astype(np.uint8) * 255, there[None])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluator.process(shown, [mask * np.uint8(top) for mask in there])
    found = [str(w.message) for w in caught if "as their largest value, not 255" in str(w.message)]
    assert len(found) == told and all(f"masks have {top} " in text for text in found)
