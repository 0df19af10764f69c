"""AdamW's moments of a published checkpoint: our optimizer goes on where the published one stopped."""

import copy
import json

import pytest
import torch
from torch import nn

from lgrnet.checkpoint.official import OfficialWeightsError, read_checkpoint, to_official, to_ours
from lgrnet.checkpoint.official_optimizer import optimizer_to_ours
from lgrnet.engine.optim import adamw
from lgrnet.models.video_decoder import VideoDecoder
from tests.losses.golden import SUBSET, load
from tests.models.golden import build, seed_weights


class Published:
    """What the published trainer holds: parameters in its order and names, each in an optimizer group of its own."""

    def __init__(self, record: dict):
        state = {name: torch.empty(shape) for name, (shape, _) in record["keys"].items()}
        self.state = seed_weights().seeded_state_dict(state)
        self.settings = {group["name"]: group for group in load(SUBSET)["optim.groups"]}
        self.parameters = {name: nn.Parameter(self.state[name].clone()) for name in self.settings}
        groups = [
            {"params": [p], "lr": self.settings[name]["lr"], "weight_decay": self.settings[name]["weight_decay"]}
            for name, p in self.parameters.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name]
        self.optimizer.step()

    def checkpoint(self) -> dict:
        model = self.state | {name: p.detach().clone() for name, p in self.parameters.items()}
        return {"model": model, "optimizer": copy.deepcopy(self.optimizer.state_dict()), "num_iterations": 2}


def gradients_of(published: Published, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(p.shape, generator=generator) for k, p in published.parameters.items()}


@pytest.fixture(scope="module")
def published(golden) -> Published:
    """Two steps of the published optimizer from the golden weights."""
    published = Published(json.loads((golden / "lgrnet" / "state_sunseg_pvt.json").read_text()))
    for seed in (1, 2):
        published.step(gradients_of(published, seed))
    return published


def test_the_next_step_is_the_published_one(published, tmp_path):
    torch.save(published.checkpoint(), tmp_path / "ckpt.pth.tar")
    checkpoint = read_checkpoint(tmp_path / "ckpt.pth.tar")
    model = build("sunseg_pvt")
    model.load_state_dict(to_ours(checkpoint["model"], model.state_dict()).state)
    optimizer = adamw(model)
    optimizer.load_state_dict(optimizer_to_ours(checkpoint, model, optimizer))
    assert len(optimizer.param_groups) == 4 and len(optimizer.state) == 654
    gradients = gradients_of(published, 3)
    for name, gradient in to_ours(gradients).state.items():
        model.get_parameter(name).grad = gradient
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    published.step(gradients)
    for name, expected in to_ours({k: p.detach() for k, p in published.parameters.items()}).state.items():
        step, published_step = model.get_parameter(name).detach() - before[name], expected - before[name]
        torch.testing.assert_close(step, published_step, rtol=0, atol=1e-7, msg=name)
        assert published_step.abs().max() > 1e-5, name


def decoder(dim=32) -> nn.Module:
    """The smallest part of LGRNet that has published names."""
    model = nn.Module()
    model.decoder = VideoDecoder(dim=dim, hidden=32, num_queries=3)
    return model


def stepped(model: nn.Module) -> dict:
    """A checkpoint of a published decoder after a step."""
    state = to_official(model.state_dict())
    parameters = [nn.Parameter(v.clone()) for k, v in state.items() if "loss_module" not in k]
    optimizer = torch.optim.AdamW([{"params": [p]} for p in parameters])
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"model": state, "optimizer": optimizer.state_dict()}


def test_frozen_parameters_are_left_out_and_settings_are_our_own():
    model = decoder()
    checkpoint = stepped(model)
    model.decoder.level_embed.requires_grad_(False)
    optimizer = adamw(model, lr=0.5)
    state = optimizer_to_ours(checkpoint, model, optimizer)
    optimizer.load_state_dict(state)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert set(optimizer.state) == set(trained) and len(trained) < len(list(model.parameters()))
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape and optimizer.state[p]["step"] == 1 for p in trained)


def test_a_checkpoint_before_the_first_step_has_no_moments():
    model = decoder()
    checkpoint = stepped(model)
    checkpoint["optimizer"]["state"] = {}
    assert optimizer_to_ours(checkpoint, model, adamw(model))["state"] == {}


def test_checkpoints_that_do_not_fit_are_refused():
    model, checkpoint = decoder(), stepped(decoder())
    optimizer = adamw(model)
    with pytest.raises(OfficialWeightsError, match="holds no optimizer .it holds: model"):
        optimizer_to_ours({"model": checkpoint["model"]}, model, optimizer)
    with pytest.raises(OfficialWeightsError, match="holds no model"):
        optimizer_to_ours(checkpoint["model"], model, optimizer)
    fewer = {"model": dict(list(checkpoint["model"].items())[1:]), "optimizer": checkpoint["optimizer"]}
    with pytest.raises(OfficialWeightsError, match="but its optimizer"):
        optimizer_to_ours(fewer, model, optimizer)
    wider = decoder(64)
    with pytest.raises(OfficialWeightsError, match="whose moments have another shape"):
        optimizer_to_ours(checkpoint, wider, adamw(wider))
    turned = {"model": dict(reversed(checkpoint["model"].items())), "optimizer": checkpoint["optimizer"]}
    with pytest.raises(OfficialWeightsError, match="whose moments have another shape"):
        optimizer_to_ours(turned, model, optimizer)
    model.more = nn.Linear(2, 2)
    with pytest.raises(OfficialWeightsError, match="more.weight, which the file has not"):
        optimizer_to_ours(checkpoint, model, adamw(model))
