"""Groups and schedules against the published ones, and the rules behind them."""

import json
import math

import pytest
import torch
from torch import nn

from lgrnet.checkpoint.official import ours_to_official
from lgrnet.engine.optim import (
    adamw,
    clip_gradients,
    constant,
    cosine,
    multi_step,
    parameter_groups,
    parameter_settings,
    poly,
    restarted_cosine,
)
from tests.fake_gpu import fake_gpu, moved
from tests.losses.golden import SUBSET, load
from tests.models.golden import build, seed_weights


def small_model():
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model.encoder = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GroupNorm(2, 4))
    model.queries = nn.Embedding(5, 4)
    model.level_embed = nn.Parameter(torch.zeros(3, 4))
    model.relative_position_bias_table = nn.Parameter(torch.zeros(3))
    return model


def optimizer_of(lr=1e-3):
    return adamw(small_model(), lr=lr)


def rates(schedule, optimizer, steps):
    """The learning rate of the first group at each of the first steps."""
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


def test_every_parameter_of_lgrnet_has_its_published_settings():
    groups = load(SUBSET)["optim.groups"]
    with torch.device("meta"):
        model = build("sunseg_pvt")
    ours = {ours_to_official(name): setting for name, setting in parameter_settings(model).items()}
    assert len(ours) == len(groups) == 654
    assert ours == {g["name"]: (g["lr"], g["weight_decay"]) for g in groups}


def test_biases_are_decayed_as_published_or_not():
    model = small_model()
    vectors = {name for name, p in model.named_parameters() if p.ndim < 2}
    published, spared = parameter_settings(model), parameter_settings(model, decay_biases=False)
    changed = {name for name in published if published[name] != spared[name]}
    assert changed and changed < vectors
    assert all(spared[name][1] == 0 for name in vectors)
    decays = {group["weight_decay"] for group in adamw(model, decay_biases=False).param_groups}
    assert decays == {0.0, 1e-4}


def test_rules_of_decay_and_backbone():
    settings = parameter_settings(small_model(), lr=1.0, backbone_lr_scale=0.5, weight_decay=2.0)
    assert settings == {
        "level_embed": (1.0, 2.0),
        "relative_position_bias_table": (1.0, 0.0),
        "backbone.0.weight": (0.5, 2.0),
        "backbone.0.bias": (0.5, 2.0),
        "backbone.1.weight": (0.5, 0.0),
        "backbone.1.bias": (0.5, 0.0),
        "encoder.0.weight": (1.0, 2.0),
        "encoder.0.bias": (1.0, 2.0),
        "encoder.1.weight": (1.0, 0.0),
        "encoder.1.bias": (1.0, 0.0),
        "encoder.2.weight": (1.0, 0.0),
        "encoder.2.bias": (1.0, 0.0),
        "queries.weight": (1.0, 0.0),
    }


def test_equal_settings_share_a_group_and_every_parameter_is_in_one():
    model = small_model()
    optimizer = adamw(model, lr=1e-2, betas=[0.8, 0.99], eps=1e-6)
    assert len(optimizer.param_groups) == 4
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters()))
    assert all(g["betas"] == (0.8, 0.99) and g["eps"] == 1e-6 for g in optimizer.param_groups)


def test_the_groups_hold_what_the_settings_say():
    model = small_model()
    arguments = {"lr": 1.0, "backbone_lr_scale": 0.5, "weight_decay": 2.0, "decay_biases": False}
    groups = parameter_groups(model, **arguments)
    names = {parameter: name for name, parameter in model.named_parameters()}
    flat = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert flat == parameter_settings(model, **arguments)
    taken = adamw(model, **arguments).param_groups
    assert [g["lr"] for g in taken] == [g["lr"] for g in groups]
    assert [list(map(id, g["params"])) for g in taken] == [list(map(id, g["params"])) for g in groups]


def test_a_group_for_all_steps_like_a_group_for_each():
    torch.manual_seed(0)
    model, twin = small_model(), small_model()
    twin.load_state_dict(model.state_dict())
    settings = parameter_settings(twin)
    ours = adamw(model)
    single = [{"params": [twin.get_parameter(n)], "lr": a, "weight_decay": b} for n, (a, b) in settings.items()]
    published = torch.optim.AdamW(single)
    for _ in range(3):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        published.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_clipped_step_from_the_published_gradient_gives_the_published_weights():
    golden, name = load(SUBSET), "decoder.query_class.weight"
    gradient = golden[f"grad.{name}"]
    start = seed_weights().seeded_state_dict({name: torch.zeros_like(gradient)})[name]
    # All other parameters together, as one number: what is missing to the published global norm.
    rest = math.sqrt(golden["grad.global_norm"] ** 2 - gradient.double().norm().item() ** 2)
    model = nn.Module()
    model.head, model.rest = nn.Linear(64, 2, bias=False), nn.Linear(1, 1, bias=False)
    model.head.weight.data.copy_(start)
    model.head.weight.grad, model.rest.weight.grad = gradient.clone(), torch.full((1, 1), rest)
    assert clip_gradients(model.parameters(), 0.01).item() == pytest.approx(golden["grad.global_norm"], rel=1e-6)
    adamw(model).step()
    step = golden[f"optim.after.{name}"] - start
    assert (model.head.weight.detach() - start - step).abs().max() <= 1e-5 * step.abs().max()


def test_frozen_and_shared_parameters():
    model = small_model()
    model.backbone.requires_grad_(False)
    model.again = model.encoder[0]
    names = list(parameter_settings(model))
    assert not any(name.startswith(("backbone", "again")) for name in names)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter with requires_grad"):
        adamw(model)


def test_multi_step_gives_the_published_learning_rates():
    expected = load(SUBSET)["optim.lr_after_n_scheduler_steps"]
    optimizer = optimizer_of()
    schedule = multi_step(optimizer, [823 * k for k in (3, 6, 9, 12)])
    optimizer.step()
    seen = {}
    for step in range(1, max(expected) + 1):
        schedule.step()
        seen[step] = sorted({g["lr"] for g in optimizer.param_groups})
    assert {step: seen[step] for step in expected} == {step: sorted(pair) for step, pair in expected.items()}


def test_constant():
    optimizer = optimizer_of(0.5)
    assert rates(constant(optimizer), optimizer, 5) == [0.5] * 5


@pytest.mark.parametrize(
    ("make", "half"), [(cosine, 0.5), (lambda *a, **k: poly(*a, power=2.0, **k), 0.25)], ids=["cosine", "poly"]
)
def test_warmup_rises_then_decays_to_the_final_share(make, half):
    optimizer = optimizer_of(1.0)
    values = rates(make(optimizer, total_steps=24, warmup_steps=4, final=0.1), optimizer, 30)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[14] == pytest.approx(0.1 + 0.9 * half)
    assert all(later < earlier for earlier, later in zip(values[4:24], values[5:25], strict=True))
    assert values[24:] == pytest.approx([0.1] * 6)


@pytest.mark.parametrize("case", ["main_100_pretrained", "100_scratch", "70_pretrained", "10_pretrained"])
def test_restarted_cosine_gives_the_published_rate_of_every_epoch(golden, case):
    published = json.loads((golden / "svanet/lr_schedule.json").read_text())[case]
    expected, optimizer = published["lr_in_effect_during_epoch"], optimizer_of(5e-4)
    given = case == "main_100_pretrained"  # the others take the default, a tenth
    schedule = restarted_cosine(
        optimizer,
        len(expected),
        steps_per_epoch=3,
        warmup_epochs=published["milestones"] if given else None,
        restart=case != "100_scratch",
    )
    values = rates(schedule, optimizer, 3 * len(expected))
    assert values == pytest.approx([rate for rate in expected for _ in range(3)], rel=1e-12)
    assert len(rates(schedule, optimizer, 6)) == 6, "steps after the last epoch have a rate, too"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)


@pytest.mark.parametrize("restart", [True, False])
def test_restarted_cosine_of_one_epoch_is_its_lowest_rate_as_published(restart):
    optimizer = optimizer_of(5e-4)
    values = rates(restarted_cosine(optimizer, 1, 4, restart=restart), optimizer, 4)
    assert values == pytest.approx([1e-6] * 4, rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        constant,
        lambda o: multi_step(o, [3, 5]),
        lambda o: cosine(o, 10, 2),
        lambda o: poly(o, 10, 2),
        lambda o: restarted_cosine(o, 9, 1, 4),
    ],
)
def test_a_schedule_resumes_from_json_where_it_stopped(make):
    optimizer = optimizer_of()
    whole = rates(make(optimizer), optimizer, 9)
    optimizer = optimizer_of()
    schedule = make(optimizer)
    first = rates(schedule, optimizer, 4)
    state, weights = json.loads(json.dumps(schedule.state_dict())), optimizer.state_dict()
    again = optimizer_of()
    resumed = make(again)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert first + rates(resumed, again, 5) == whole


def test_clipping_scales_all_gradients_together():
    a, b, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert clip_gradients(iter([a, b, unused]), None).item() == pytest.approx(5)
    assert a.grad.tolist() == [3, 0]
    assert clip_gradients([a, b, unused], 0.01).item() == pytest.approx(5)
    assert math.hypot(a.grad[0], b.grad[1]) == pytest.approx(0.01, rel=1e-4)
    assert a.grad[0] / b.grad[1] == pytest.approx(0.75)
    a.grad[0] = torch.nan
    assert clip_gradients([a, b], 0.01).isnan()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multi_step(optimizer_of(), [5, 3]), r"milestones are \[5, 3\]"),
        (lambda: cosine(optimizer_of(), 10, 10), "warmup_steps is 10 of total_steps 10"),
        (lambda: poly(optimizer_of(), 10, -1), "expected 0 to 9"),
        (lambda: restarted_cosine(optimizer_of(), 10, 5, 10), "warmup_epochs is 10 of 10 epochs of 5 steps"),
        (lambda: restarted_cosine(optimizer_of(), 1, 4, 2), "warmup_epochs is 2 of 1 epochs.*expected 1 to 1,"),
        (lambda: restarted_cosine(optimizer_of(), 0, 4), "warmup_epochs is 0 of 0 epochs.*at least one epoch"),
        (lambda: restarted_cosine(optimizer_of(), 10, 0), "at least one epoch with one step"),
        (lambda: clip_gradients([], 0.0), "max_norm is 0.0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_adamw_is_fused_on_gpus_and_as_it_was_elsewhere():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    assert [group["fused"] for group in adamw(model).param_groups] == [None, None]
    with fake_gpu():
        assert [group["fused"] for group in adamw(moved(model)).param_groups] == [True, True]


@pytest.mark.parametrize("wrong", [{"lr": float("inf")}, {"lr": float("nan")}, {"weight_decay": -1e-4}])
def test_rates_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; it must be 0 or more, and finite"):
        adamw(nn.Linear(2, 2), **wrong)
