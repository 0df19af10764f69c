"""Scores out of detectron2's loop, and the optimizer of its trainers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.evaluation import inference_on_dataset
from torch import nn

from lgrnet import distributed
from lgrnet.data.datasets import video_folder
from lgrnet.detectron2_bridge import add_lgrnet_config
from lgrnet.detectron2_bridge.catalog import register_folder
from lgrnet.detectron2_bridge.evaluator import ClipEvaluator
from lgrnet.detectron2_bridge.loaders import build_test_loader
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.detectron2_bridge.solver import adamw, build_optimizer
from lgrnet.engine import optim
from lgrnet.evaluation import Evaluator, LGRNetProtocol, read_annotation
from lgrnet.records import DataError, Prediction, write_frame, write_mask


@pytest.fixture
def folder(tmp_path):
    """Two videos of 3 frames of 12 x 16 pixels, registered as evaluator_clips."""
    for video in ("a", "b"):
        for t in range(3):
            mask = np.zeros((12, 16), bool)
            mask[2 : 6 + t, 4:12] = True
            write_frame(tmp_path / "Frame" / video / f"{t}.png", np.zeros((12, 16, 3), np.uint8))
            write_mask(tmp_path / "GT" / video / f"{t}.png", mask)
    register_folder("evaluator_clips", tmp_path)
    return tmp_path


class Guess(nn.Module):
    """Says that the upper half of every frame is lesion."""

    def forward(self, videos: list[dict]) -> list[dict]:
        return [{"prediction": guess(video["video_name"], video["frame_names"])} for video in videos]


def guess(video: str, frames: tuple[str, ...]) -> Prediction:
    mask = np.zeros((1, len(frames), 12, 16), bool)
    mask[:, :, :6] = True
    return Prediction(video, tuple(frames), np.float32([0.75]), mask.astype(np.uint8) * 255, mask)


def ours(folder) -> Evaluator:
    """What lgrnet's own evaluation says of the same."""
    evaluator = Evaluator([LGRNetProtocol(extended=True)], "evaluator_clips")
    for record in video_folder(folder):
        evaluator.process(guess(record.name, record.frame_names), read_annotation(record), record.label_map)
    return evaluator


def test_scores_are_ours_in_percent_and_the_report_is_written(folder, tmp_path):
    evaluator = ClipEvaluator("evaluator_clips", tmp_path / "report", [LGRNetProtocol(extended=True)])
    loader = build_test_loader("evaluator_clips", mapper=ClipMapper(False, size=32))
    scores = inference_on_dataset(Guess(), loader, evaluator)
    expected = ours(folder).result()["scores"]["lgrnet"]
    assert 0.3 < expected["dice"] < 0.9
    assert scores == {"lgrnet": {metric: 100 * value for metric, value in expected.items()}}
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["sets"][0]["scores"]["lgrnet"]["dice"] == expected["dice"]


def test_a_new_round_starts_empty(folder):
    evaluator = ClipEvaluator("evaluator_clips")
    video = [{"video_name": "a"}]
    evaluator.process(video, [{"prediction": guess("a", ("0", "1", "2"))}])
    with pytest.raises(DataError, match="'a' was scored before"):
        evaluator.process(video, [{"prediction": guess("a", ("0", "1", "2"))}])
    evaluator.reset()
    with pytest.raises(DataError, match="no frame was scored"):
        evaluator.evaluate()


def test_processes_are_brought_together(folder, monkeypatch):
    parts = [ClipEvaluator("evaluator_clips") for _ in "ab"]
    for part, name in zip(parts, "ab", strict=True):
        part.process([{"video_name": name}], [{"prediction": guess(name, ("0", "1", "2"))}])
    other = parts[1]._evaluator.state()
    monkeypatch.setattr(distributed, "gather_objects", lambda state: [state, other])
    assert parts[0].evaluate()["lgrnet"]["dice"] == 100 * ours(folder).result()["scores"]["lgrnet"]["dice"]
    monkeypatch.setattr(distributed, "gather_objects", lambda state: [])
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert parts[1].evaluate() is None


def test_videos_and_data_sets_that_are_not_there(folder):
    with pytest.raises(DataError, match="'evaluator_clip' is not registered; the nearest names are evaluator_clips"):
        ClipEvaluator("evaluator_clip")
    with pytest.raises(DataError, match="video 'c' is not in the data set 'evaluator_clips' of 2 videos"):
        ClipEvaluator("evaluator_clips").process([{"video_name": "c"}], [{"prediction": guess("c", ("0",))}])
    with pytest.raises(ValueError, match='video .a. has sem_seg but no "prediction"'):
        ClipEvaluator("evaluator_clips").process([{"video_name": "a"}], [{"sem_seg": None}])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.norm, self.head = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.backbone(x)))


def stepped(make_step) -> list[torch.Tensor]:
    """The parameters after three steps on large gradients."""
    torch.manual_seed(0)
    net = Net()
    step = make_step(net)
    for _ in range(3):
        net.zero_grad()
        (100 * net(torch.ones(2, 3))).square().sum().backward()
        step()
    return [parameter.detach() for parameter in net.parameters()]


def ours_step(max_norm: float | None):
    def make(net):
        optimizer = optim.adamw(net, 1e-2, 0.1, 1e-4)

        def step():
            optim.clip_gradients(net.parameters(), max_norm)
            optimizer.step()

        return step

    return make


def test_steps_are_those_of_our_own_training():
    cfg = get_cfg()
    add_lgrnet_config(cfg)
    # Below AdamW's eps, so that a limit changes the steps and not only the gradients.
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1e-2, 1e-8
    expected = stepped(ours_step(1e-8))
    for found in (
        stepped(lambda net: build_optimizer(cfg, net).step),
        stepped(lambda net: adamw(optim.parameter_groups(net, 1e-2, 0.1, 1e-4), 1e-2, max_norm=1e-8).step),
    ):
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-8) for a, b in zip(found, expected, strict=True))

    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    found, unlimited = stepped(lambda net: build_optimizer(cfg, net).step), stepped(ours_step(None))
    assert all(torch.equal(a, b) for a, b in zip(found, unlimited, strict=True))
    assert not any(torch.allclose(a, b, rtol=1e-3) for a, b in zip(found, expected, strict=True))


@pytest.mark.peer
def test_detectron2s_own_ways_to_limit_gradients_work():
    cfg = get_cfg()
    add_lgrnet_config(cfg)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = "value", 1e-3
    net = Net()
    optimizer = build_optimizer(cfg, net)
    net(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    assert max(parameter.grad.abs().max().item() for parameter in net.parameters()) == pytest.approx(1e-3)


def test_unknown_ways_to_limit_gradients_are_refused():
    cfg = get_cfg()
    add_lgrnet_config(cfg)
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full"
    with pytest.raises(ValueError, match="CLIP_TYPE is 'full'; expected 'full_model'"):
        build_optimizer(cfg, Net())
