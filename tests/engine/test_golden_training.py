"""One published training step with the real model: losses, gradients, the step, and the forward of a random size."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lgrnet.checkpoint.official import to_official
from lgrnet.data.transforms import draw_size
from lgrnet.draws import SequentialDraws
from lgrnet.engine.optim import adamw, clip_gradients, parameter_settings
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.structures import Targets
from tests.losses.golden import KINDS, LARGE, SUBSET, draws_of, load, targets_of
from tests.models.golden import golden_model, relative_error, seed_weights

PUBLISHED_TERMS = {"mask_bce": "mask_dice", "mask_dice": "mask_ce", "class_ce": "class_ce"}
WEIGHTS = {"mask_bce": 5.0, "mask_dice": 5.0, "class_ce": 2.0}


def official_gradients(model):
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return to_official(gradients)


def clips():
    """The golden clips [2, 3, 3, 64, 96], made from their name."""
    return torch.from_numpy(seed_weights().seeded_input("video_train", (2, 3, 3, 64, 96), "uniform"))


def after_backward(dtype):
    """A model after backward on the golden clips, its golden numbers, and its losses."""
    golden = load(SUBSET)
    model = golden_model("sunseg_pvt", drop_path=0.0).train().to(dtype)
    criterion = SetCriterion(num_points=256)
    terms = criterion(model(clips().to(dtype)), targets_of(golden, "single"), draws_of(golden, "single", 256))
    total = sum(WEIGHTS[k] * v for k, v in terms.items())
    total.backward()
    return model, golden, terms, total


@pytest.fixture(scope="module")
def step():
    return after_backward(torch.float32)


def check_losses(model, golden, kind, points):
    with torch.no_grad():
        output = model(clips())
        terms = SetCriterion(num_points=points)(output, targets_of(golden, kind), draws_of(golden, kind, points))
    for ours, theirs in PUBLISHED_TERMS.items():
        assert terms[ours].item() == pytest.approx(golden[f"{kind}.np{points}.loss"][theirs], rel=1e-5), ours


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_the_real_model(step, kind):
    check_losses(step[0], step[1], kind, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_the_real_model_at_the_published_number_of_points(step, shared, kind):
    golden = load(shared / LARGE)
    assert torch.equal(golden["input.videos01"], clips())
    check_losses(step[0], golden, kind, 12544)


def check_gradients(model, golden, total, tolerance):
    assert total.item() == pytest.approx(golden["grad.total_loss"], rel=1e-5)
    gradients = official_gradients(model)
    for name, norm in golden["grad.norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=tolerance, abs=1e-6), name
    for name in golden:
        if name.startswith("grad.") and torch.is_tensor(golden[name]):
            assert relative_error(gradients[name.removeprefix("grad.")], golden[name]) < tolerance, name


def test_gradients(step):
    """In float32 a rectifier whose input is within rounding of 0 passes its gradient on some processors only: on
    one of two that were tried all are within 9e-5, on the other that makes 2.1e-4."""
    model, golden, _, total = step
    check_gradients(model, golden, total, 1e-3)


def test_gradients_free_of_rounding():
    model, golden, _, total = after_backward(torch.float64)
    check_gradients(model, golden, total, 1e-4)


def test_groups_and_the_step(step):
    model, golden, _, _ = step
    settings = parameter_settings(model)
    official = to_official({name: torch.tensor(values, dtype=torch.float64) for name, values in settings.items()})
    assert len(golden["optim.groups"]) == len(settings) == 654
    for group in golden["optim.groups"]:
        assert official[group["name"]].flatten().tolist() == pytest.approx([group["lr"], group["weight_decay"]]), group[
            "name"
        ]

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer = adamw(model)
    norm = clip_gradients(model.parameters(), 0.01)
    assert float(norm) == pytest.approx(golden["grad.global_norm"], rel=1e-4)
    optimizer.step()
    after = to_official({name: p.detach() for name, p in model.named_parameters()})
    moved = to_official({name: p.detach() - before[name] for name, p in model.named_parameters()})
    for name, largest in golden["optim.step_delta_absmax"].items():
        assert moved[name].abs().max().item() == pytest.approx(largest, rel=1e-2), name
    for name, expected in golden.items():
        if name.startswith("optim.after."):
            name = name.removeprefix("optim.after.")
            step_size = golden["optim.step_delta_absmax"][name]
            assert (after[name] - expected).abs().max() < 1e-5 * max(step_size, expected.abs().max().item()), name
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
            p.grad.copy_(gradients[name])


def test_forward_at_a_random_size(shared):
    """The published forward(): frames resized to a drawn size, targets left as they are."""
    golden = torch.load(shared / "golden" / "lgrnet" / "eval_and_train_paths.pt", weights_only=True)["train_forward"]
    size = draw_size((256, 288, 320, 352, 384, 416, 448), np.random.RandomState(golden["np_seed"]))
    assert size == golden["size"]
    model = golden_model("sunseg_pvt", drop_path=0.0).train()
    clip = golden["video01"]
    resized = F.interpolate(clip.flatten(0, 1), size=(size, size), mode="bilinear")[None]
    masks = golden["target_masks"].float()
    targets = Targets(
        torch.zeros(1, dtype=torch.long),
        masks,
        torch.ones(masks.shape[1:], dtype=torch.bool),
        torch.ones(2, dtype=torch.bool),
    )
    draws = SequentialDraws(torch.Generator().manual_seed(golden["torch_seed"]))
    with torch.no_grad():
        terms = SetCriterion()(model(resized), [targets], draws)
    for ours, theirs in PUBLISHED_TERMS.items():
        assert terms[ours].item() == pytest.approx(golden["losses"][theirs], rel=1e-5), ours
