"""A backbone that joins the training later: frozen until then, and resumed exactly before, at and after that step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.config import ConfigError, builds, load_config
from lgrnet.engine.run import CHECKPOINTS
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import Trainer, TrainingError
from tests.engine.runs import finish, last_weights, log_text, run, same_run, start, write_videos
from tests.engine.toy import ToyClips, ToyCriterion, ToyLoader, ToyModel, ToyWithBackbone, adamw, halving

FROZEN = Path(__file__).with_name("frozen_config.py")
FEW = ("train.eval_every=0", "train.eval_last=false", "train.save_every=1", "train.keep=20")
BACKBONE = ("first.weight", "first.bias", "norm.weight", "norm.bias")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("data"))


def frozen_run(folder, data, *overrides, **options):
    return run(folder, data, *FEW, *overrides, file=FROZEN, **options)


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Eight steps; the backbone joins with the sixth."""
    folder = tmp_path_factory.mktemp("straight")
    assert frozen_run(folder, data) == 8
    return folder


def weights_after(folder) -> dict[int, dict[str, torch.Tensor]]:
    return {c.step: c.weights() for c in Checkpointer(folder / CHECKPOINTS).all()}


def test_the_backbone_rests_and_its_norm_follows_the_data(straight):
    after = weights_after(straight)
    for name in BACKBONE:
        assert all(torch.equal(after[step][name], after[1][name]) for step in range(2, 6))
        assert not torch.equal(after[6][name], after[5][name])
    for name in ("norm.running_mean", "norm.running_var", "last.weight"):
        assert all(not torch.equal(after[step][name], after[step - 1][name]) for step in range(2, 9))


def test_it_joins_with_fresh_moments_and_without_decay_before(data, tmp_path):
    frozen_run(tmp_path, data, "train.steps=5")
    numbers = {name.split(".")[0] for name in last_weights(tmp_path) if name[0].isdigit()}
    assert numbers == {"4", "5"}, "only the head has moments"


@pytest.mark.parametrize("cut", [3, 5, 6])
@pytest.mark.parametrize("extra", [(), ("train.ema=0.9",)])
def test_resume_is_exact_on_both_sides_of_the_boundary(data, straight, tmp_path, cut, extra):
    whole = straight
    if extra:
        whole = tmp_path / "whole"
        frozen_run(whole, data, *extra)
    parts = tmp_path / "parts"
    assert frozen_run(parts, data, *extra, f"train.steps={cut}") == cut
    assert frozen_run(parts, data, *extra, resume=True) == 8
    assert same_run(whole, parts)


def test_two_processes_train_what_is_free(data, straight, tmp_path):
    one, two, parts = (tmp_path / name for name in ("one", "two", "parts"))
    exact = ("train.precision=fp64", "model.norm=false", "model.dropout=0")
    frozen_run(one, data, *exact)
    assert finish(start(frozen_run, two, data, *exact, world=2)) == [0, 0]
    alone, together = last_weights(one), last_weights(two)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-12)
    assert finish(start(frozen_run, parts, data, *exact, "train.steps=5", world=2)) == [0, 0]
    assert finish(start(resume_two, parts, data, *exact, world=2)) == [0, 0]
    assert same_run(two, parts)


def resume_two(folder, data, *overrides):
    return frozen_run(folder, data, *overrides, resume=True)


def trainer(model, **settings) -> Trainer:
    settings = TrainSettings(**{"steps": 8, "batch_size": 4, "save_every": 9, "sizes": (), **settings})
    optimizer = adamw(model)
    return Trainer(model, ToyCriterion(), optimizer, halving(optimizer), ToyLoader(ToyClips(), 4), settings)


def test_what_the_config_froze_for_good_stays_frozen():
    model = ToyWithBackbone()
    model.first.weight.requires_grad_(False)
    before = model.first.weight.clone()
    trainer(model, freeze_steps=2).run()
    assert torch.equal(model.first.weight, before) and not model.first.weight.requires_grad
    assert model.first.bias.requires_grad


def test_a_model_without_backbone_is_refused():
    with pytest.raises(TrainingError, match="train.freeze_steps=3: ToyModel has no backbone"):
        trainer(ToyModel(), freeze_steps=3)


def test_negative_steps_are_refused():
    with pytest.raises(ConfigError, match=r"train.freeze_steps is -1; it must be 0 \(none\) or more"):
        TrainSettings(steps=1, batch_size=1, save_every=1, freeze_steps=-1)


def test_a_resumed_run_keeps_its_freezing(data, straight):
    before = log_text(straight)
    with pytest.raises(ConfigError, match="train.freeze_steps was 5, is 6"):
        frozen_run(straight, data, "train.freeze_steps=6", resume=True)
    assert log_text(straight) == before


def test_it_is_off_unless_asked_for():
    assert load_config(FROZEN).train.freeze_steps == 5
    assert builds(TrainSettings, steps=1, batch_size=1, save_every=1).freeze_steps == 0
