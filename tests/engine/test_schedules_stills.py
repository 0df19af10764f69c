"""Schedules and weight decay of SSFormer and of its reproduction study."""

import json

import pytest
import torch
from torch import nn

from lgrnet.engine.optim import parameter_settings, plrd, poly, ssformer_steps

PER_EPOCH = 3


def rates(schedule, lr, steps, **arguments):
    """The learning rate in effect at each of so many optimizer steps."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=lr)
    scheduler = schedule(optimizer, **arguments)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def by_epoch(schedule, lr, epochs, **arguments):
    """The learning rate of each epoch, which must not change within one."""
    found = rates(schedule, lr, epochs * PER_EPOCH, steps_per_epoch=PER_EPOCH, **arguments)
    epochs = [found[i : i + PER_EPOCH] for i in range(0, len(found), PER_EPOCH)]
    assert all(len(set(epoch)) == 1 for epoch in epochs)
    return [epoch[0] for epoch in epochs]


def test_as_stored(shared):
    golden = json.loads((shared / "golden" / "ssformer" / "lr_schedules.json").read_text())
    found = {
        "official_train_py_lr_by_epoch": by_epoch(ssformer_steps, 1e-4, 2000),
        "repro_plrd_by_epoch(base=1.49e-4)": by_epoch(plrd, 1.49e-4, 200),
        "plrd(base=1e-4,end=1e-4,steps=40)": by_epoch(plrd, 1e-4, 200),
        "plrd(base=1e-3,end=1e-5,steps=40,power=2)": by_epoch(plrd, 1e-3, 200, end_lr=1e-5, power=2),
        "semseg warmuppolylr(base=1e-3,max_iter=400,power=.9,warmup_iter=20,ratio=.1,linear) by iter": rates(
            poly, 1e-3, 401, total_steps=400, warmup_steps=20, warmup_start=0.1
        ),
    }
    assert set(found) == set(golden)
    for name, published in golden.items():
        assert found[name] == pytest.approx(published, rel=1e-12, abs=1e-20), name


def test_ssformer_as_run():
    found = by_epoch(ssformer_steps, 1e-4, 402)
    assert found[0] == 0
    assert found[1] == found[200] == 1e-4
    assert found[201] == pytest.approx(1e-5) and found[400] == found[201]
    assert found[401] == pytest.approx(1e-6)


def test_plrd_ends_at_one_rate_for_every_group():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 1.49e-4}, {"params": [second], "lr": 1e-3}])
    scheduler = plrd(optimizer, steps_per_epoch=1)
    assert scheduler.get_last_lr() == pytest.approx([1.47775e-4, 9.775e-4])
    for _ in range(100):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([1e-4, 1e-4])


def test_the_rise_of_poly_is_as_before_without_a_start():
    assert rates(poly, 1.0, 3, total_steps=10, warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75])


def test_wrong_lengths():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    for schedule in (ssformer_steps, plrd):
        with pytest.raises(ValueError, match="steps_per_epoch is 0, decay_epochs is -1"):
            schedule(optimizer, steps_per_epoch=0, decay_epochs=-1)
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(ValueError, match="more than 0"):
        plrd(optimizer, 1)


def test_decay_of_everything_and_of_all_but_vectors():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Embedding(5, 6), nn.LayerNorm([2, 2]))
    everything = parameter_settings(model, weight_decay=0.01, decay_norms=True)
    assert {decay for _, decay in everything.values()} == {0.01} and len(everything) == 7
    study = parameter_settings(model, weight_decay=0.1, decay_norms=True, decay_biases=False)
    decayed = {name for name, (_, decay) in study.items() if decay}
    assert decayed == {"0.weight", "2.weight", "3.weight", "3.bias"}
    assert {name for name, (_, decay) in parameter_settings(model).items() if decay} == {"0.weight", "0.bias"}
