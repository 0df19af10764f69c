"""One training step of SSFormer and of its reproduction study: loss, every gradient's norm, the optimizer's step."""

import copy

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import nn

from lgrnet.checkpoint.official_stills import to_official
from lgrnet.engine.optim import adamw
from lgrnet.losses.published_criteria import SSFormerCriterion
from lgrnet.losses.softmax_criterion import study_criterion
from lgrnet.structures import SegOutput
from tests.losses.stills import binary_targets, weighted_sum
from tests.models.golden_stills import golden_model

CASES = {"ssformer_S": SSFormerCriterion, "repro_PLD_MiT-B0": study_criterion}


def without_dropout(name):
    """A copy of a golden model in training mode, in which nothing is dropped."""
    model = copy.deepcopy(golden_model(name)).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return model


@pytest.fixture(scope="module", params=CASES)
def step(request, shared):
    """A name, its model after backward, the golden numbers, and the loss."""
    with np.load(shared / "golden" / "ssformer" / f"trainstep_{request.param}_fanin.npz") as stored:
        golden = dict(stored)
    model = without_dropout(request.param)
    criterion = CASES[request.param]()
    logits = model.net(torch.from_numpy(golden["x"]))[:, :, None]  # [B, K, 1, H, W]
    output = SegOutput(logits, activation="sigmoid" if logits.shape[1] == 1 else "softmax")
    loss = weighted_sum(criterion, criterion(output, binary_targets(torch.from_numpy(golden["t"]))))
    loss.backward()
    return request.param, model, golden, loss.item()


def test_loss_and_gradients(step):
    _, model, golden, loss = step
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-6)
    gradients = to_official({name: parameter.grad for name, parameter in model.named_parameters()})
    published = {key.removeprefix("gradnorm/"): float(golden[key]) for key in golden if key.startswith("gradnorm/")}
    assert len(published) == {"ssformer_S": 351, "repro_PLD_MiT-B0": 198}[step[0]]
    # Ours are given on the way back the layers that the published model holds and does not use.
    assert {name for name in set(gradients) - set(published) if ".linear_fuse." not in name} == set()
    for name, norm in published.items():
        # The absolute part is for biases before a batch norm, whose gradients are rounding noise.
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-7), name


def test_the_optimizers_are_the_published_ones(step):
    """SSFormer: one AdamW for everything with torch's decay; the study: no decay of vectors."""
    name, model, _, _ = step
    twin = copy.deepcopy(model)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        theirs.grad = ours.grad.clone()
    if name == "ssformer_S":
        published = torch.optim.AdamW(twin.parameters(), lr=1e-4)
        optimizer = adamw(model, lr=1e-4, backbone_lr_scale=1.0, weight_decay=0.01, decay_norms=True)
    else:
        vectors, others = ([p for p in twin.parameters() if (p.dim() == 1) == flat] for flat in (True, False))
        groups = [{"params": others}, {"params": vectors, "weight_decay": 0.0}]
        published = torch.optim.AdamW(groups, lr=1.49e-4, weight_decay=0.1)
        settings = {"weight_decay": 0.1, "decay_norms": True, "decay_biases": False}
        optimizer = adamw(model, lr=1.49e-4, backbone_lr_scale=1.0, **settings)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.step()
    published.step()
    for old, ours, theirs in zip(before, model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs) and not torch.equal(ours, old)
