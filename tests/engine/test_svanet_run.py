"""SvANet in the engine: its draws in training and its frozen start survive a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lgrnet
from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.engine.run import CHECKPOINTS
from tests.engine.runs import run, same_run, write_videos

FILE = Path(__file__).with_name("svanet_config.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_videos(root / "train", "ab", frames=3)
    write_videos(root / "test", "c", frames=3)
    return root


def test_a_cut_run_goes_on_as_if_it_had_not_been_cut(data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, data, file=FILE) == 3
    assert run(parts, data, "train.steps=1", file=FILE) == 1
    start = Checkpointer(parts / CHECKPOINTS).latest().weights()
    assert run(parts, data, "train.steps=3", resume=True, file=FILE) == 3
    assert same_run(whole, parts)
    last = Checkpointer(whole / CHECKPOINTS).latest()
    end = last.weights()
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    assert "net.backbone.net.conv1.weight" in moved and "net.classifier.weight" in moved
    assert lgrnet.load(last.path).net.guidance.paths["0_to_1"].gate.grid == 4
