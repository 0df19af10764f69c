"""One step at a time: what a step does, what it refuses, and that a bad one leaves no trace."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch

from lgrnet import distributed
from lgrnet.config import ConfigError
from lgrnet.data.transforms import draw_size
from lgrnet.draws import python_generator
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import Hook, StepRecord, Trainer, TrainingError, resized
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.structures import Targets
from tests.engine.toy import ToyClips, ToyCriterion, ToyLoader, ToyModel, adamw, halving
from tests.fake_gpu import HostWaits, fake_gpu


class Keep(Hook):
    """Keeps the records."""

    def __init__(self):
        self.records: list[StepRecord] = []

    def after_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.records.append(record)


def make(bad=(), criterion=None, model=None, stop=lambda: False, **settings) -> Trainer:
    settings = TrainSettings(**{"steps": 6, "batch_size": 4, "save_every": 100, "sizes": (16, 32), **settings})
    torch.manual_seed(0)
    model = ToyModel(**(model or {}))
    optimizer = adamw(model)
    loader = ToyLoader(ToyClips(bad_positions=bad), settings.batch_size)
    return Trainer(model, criterion or ToyCriterion(), optimizer, halving(optimizer), loader, settings, stop=stop)


def run(trainer: Trainer) -> list[StepRecord]:
    keep = Keep()
    trainer.run([keep])
    return keep.records


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


class GradientIsNan(ToyCriterion):
    """A finite loss whose gradient is not: 0 times the infinite slope of a root at 0."""

    def __call__(self, output, targets, draws):
        terms = super().__call__(output, targets, draws)
        return {**terms, "class_ce": terms["class_ce"] + (output.mask_logits * 0).abs().sum().sqrt()}


def test_it_learns_and_every_record_is_complete():
    records = run(make(steps=40))
    assert records[-1].total < 0.7 * records[0].total
    for number, record in enumerate(records, start=1):
        assert record.step == number and not record.skipped and record.grad_norm > 0
        expected = 2.0 * record.losses["mask_bce"] + 1.0 * record.losses["class_ce"]
        assert record.total == pytest.approx(expected, rel=1e-6)


def test_learning_rates_are_those_of_the_schedule():
    assert [r.lr for r in run(make(steps=11))] == [0.01] * 5 + [0.005] * 5 + [0.0025]


def test_sizes_are_keyed_by_seed_and_step():
    expected = [draw_size((16, 32), python_generator(2024, step, "size")) for step in range(6)]
    records = run(make())
    assert [r.size for r in records] == expected and len(set(expected)) == 2
    assert [r.size for r in run(make(sizes=()))] == [None] * 6


def test_frames_are_resized_and_targets_are_not():
    seen = []

    class Look(ToyCriterion):
        def __call__(self, output, targets, draws):
            seen.append((tuple(output.mask_logits.shape[-2:]), tuple(targets[0].masks.shape[-2:])))
            return super().__call__(output, targets, draws)

    run(make(criterion=Look(), sizes=(32,), steps=1))
    assert seen == [((8, 8), (16, 16))]


def test_resized_frames_are_square_and_not_smoothed():
    frames = torch.arange(2 * 3 * 4 * 8.0).reshape(1, 2, 3, 2, 16)
    assert resized(frames, 4).shape == (1, 2, 3, 4, 4)
    assert resized(frames, None) is frames
    square = frames.reshape(1, 2, 3, 4, 8)[..., :4]
    assert resized(square, 4) is square
    # Without antialias a pixel at half the size is the mean of the four in its middle, and of no more.
    assert torch.allclose(resized(square, 2)[0, 0, 0, 0, 0], square[0, 0, 0, :2, :2].mean())


def test_the_gradient_is_clipped_to_the_norm():
    norms = []

    class Look(torch.optim.SGD):
        def step(self, closure=None):
            norms.append(math.sqrt(sum(p.grad.square().sum().item() for g in self.param_groups for p in g["params"])))

    for clip in (0.01, 0.0):
        trainer = make(clip_norm=clip, steps=1)
        trainer.optimizer = Look(trainer.model.parameters(), lr=0.1)
        trainer.schedule = halving(trainer.optimizer)
        (record,) = run(trainer)
        assert norms[-1] == pytest.approx(clip or record.grad_norm, rel=1e-3) and record.grad_norm > 0.01


def test_losses_norm_and_what_ranks_decided_come_in_one_copy_from_the_device():
    trainer = make()
    with fake_gpu():
        one = torch.ones((), device="cuda")
        with HostWaits(answers=[[0.5, 2.0, 3.0, 0.0, 1.0, 4.0]]) as waits:
            losses, total, norm, finite = trainer._agree({"b": one, "a": one}, one, one)
    assert [place.split(":")[0] for place in waits.found] == ["tolist at lgrnet/engine/trainer.py"]
    assert (losses, total, norm, finite, trainer.stopping) == ({"a": 0.5, "b": 2.0}, 3.0, 4.0, True, True)


def test_a_fused_optimizer_resumes_bit_for_bit():
    def fused() -> Trainer:
        trainer = make()
        trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=0.01, fused=True)
        trainer.schedule = halving(trainer.optimizer)
        return trainer

    unbroken, first, second = fused(), fused(), fused()
    expected = run(unbroken)
    first.settings = dataclasses.replace(first.settings, steps=3)
    records = run(first)
    second.load_state(first.weights(), first.state())
    assert records + run(second) == expected and second.optimizer.param_groups[0]["fused"]
    assert all(torch.equal(a, b) for a, b in zip(state(unbroken).values(), state(second).values(), strict=True))


def test_what_ran_before_does_not_change_a_step():
    first, second = make(), make()
    a = run(first)
    torch.manual_seed(99)
    torch.rand(1000)
    assert run(second) == a
    assert all(torch.equal(x, y) for x, y in zip(state(first).values(), state(second).values(), strict=True))


@pytest.mark.parametrize("kind", ["frames", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(kind):
    if kind == "frames":
        trainer = make(bad=[5])  # a clip of the second step
    else:
        trainer = make()
    batches = trainer.loader.batches(0)
    trainer.train_step(next(batches))
    before, moments = state(trainer), trainer.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    good = trainer.criterion
    trainer.criterion = GradientIsNan() if kind == "gradient" else good
    record = trainer.train_step(next(batches))
    trainer.criterion = good
    assert record.skipped and trainer.skipped == trainer.skipped_in_a_row == 1 and trainer.step == 2
    assert math.isnan(record.grad_norm) and math.isfinite(record.total) == (kind == "gradient")
    # The running statistics of the batch norm too: they are part of the weights.
    assert all(torch.equal(value, before[name]) for name, value in state(trainer).items())
    assert torch.equal(trainer.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    after = trainer.train_step(next(batches))
    assert not after.skipped and trainer.skipped == 1 and trainer.skipped_in_a_row == 0
    assert all(value.isfinite().all() for value in state(trainer).values())


def test_twenty_bad_steps_in_a_row_end_the_training():
    trainer = make(bad=range(8, 1000), steps=100)
    keep = Keep()
    with pytest.raises(TrainingError, match=r"20 steps in a row, up to step 22 .*those of step 2\..*optimizer.lr"):
        trainer.run([keep])
    assert [r.skipped for r in keep.records] == [False] * 2 + [True] * 20
    assert all(value.isfinite().all() for value in state(trainer).values())


def test_too_little_memory_on_the_gpu_is_said_with_what_to_do():
    class Full(ToyCriterion):
        def __call__(self, *args):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    with pytest.raises(
        TrainingError, match=r"memory for step 1 with train.batch_size=4 .*2.00 GiB\.\)\. Free the GPU or"
    ):
        run(make(criterion=Full()))


def test_nineteen_bad_steps_in_a_row_do_not():
    trainer = make(bad=range(4 * 2, 4 * 21), steps=23)
    assert sum(r.skipped for r in run(trainer)) == trainer.skipped == 19


def test_accumulation_equals_the_whole_batch():
    whole, parts = (make(model={"dropout": 0, "norm": False}, accumulate=n, steps=4) for n in (1, 2))
    for one, other in zip(run(whole), run(parts), strict=True):
        assert other.total == pytest.approx(one.total, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    with pytest.raises(TrainingError, match="accumulate=3"):
        run(make(accumulate=3))


class OfMaps(DenseCriterion):
    """The loss of the toy model's masks without its classes."""

    def __call__(self, output, *more, **options):
        return super().__call__(dataclasses.replace(output, class_logits=None), *more, **options)


@pytest.mark.parametrize("criterion", [SetCriterion(num_points=32, logit_scale=4), OfMaps()])
@pytest.mark.parametrize("without", [(), (0, 1), (1,), (0, 1, 2, 3)])
def test_accumulation_has_the_divisors_of_the_whole_step(criterion, without):
    records = {}
    for parts in (1, 2, 4):
        model = {"dropout": 0, "norm": False}
        trainer = make(model=model, criterion=criterion, accumulate=parts, precision="fp64", sizes=())
        trainer.model.double()
        batch = next(trainer.loader.batches(0))
        targets = [emptied(target, i in without) for i, target in enumerate(batch.targets)]
        hidden = dataclasses.replace(targets[3], annotated=torch.tensor([True, False]))
        records[parts] = trainer.train_step(dataclasses.replace(batch, targets=(*targets[:3], hidden)))
    for parts in (2, 4):
        assert records[parts].losses == pytest.approx(records[1].losses, rel=1e-6)
        assert records[parts].grad_norm == pytest.approx(records[1].grad_norm, rel=1e-6)


def emptied(target: Targets, wanted: bool) -> Targets:
    """The target of a clip without objects."""
    return dataclasses.replace(target, labels=target.labels[:0], masks=target.masks[:0]) if wanted else target


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_runs_the_model_in_half_precision_and_the_loss_in_full(precision):
    seen = []

    class Look(ToyCriterion):
        def __call__(self, output, targets, draws):
            seen.append((output.mask_logits.dtype, output.class_logits.dtype))
            return super().__call__(output, targets, draws)

    trainer = make(precision=precision, criterion=Look(), steps=30)
    inside = []
    trainer.model.last.register_forward_hook(lambda module, args, output: inside.append(output.dtype))
    records = run(trainer)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert set(inside) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert records[-1].total < records[0].total and all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_moving_average_is_what_is_evaluated_and_kept():
    trainer = make(ema=0.5, steps=1)
    start = state(trainer)
    batches = trainer.loader.batches(0)
    expected = start
    for step in range(3):
        trainer.train_step(next(batches))
        decay = min(0.5, (1 + step) / (10 + step))
        now = state(trainer)
        expected = {
            name: decay * old + (1 - decay) * now[name] if old.is_floating_point() else now[name]
            for name, old in expected.items()
        }
    trained = state(trainer)
    for name, value in trainer.weights().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    with trainer.evaluating() as model:
        assert not model.training
        assert all(torch.equal(value, trainer.weights()[name]) for name, value in model.state_dict().items())
    assert trainer.model.training
    assert all(torch.equal(value, trained[name]) for name, value in state(trainer).items())


def evaluated(trainer: Trainer) -> dict[str, torch.Tensor]:
    with trainer.evaluating():
        return state(trainer)


def test_ranks_evaluate_the_same_model_also_with_a_moving_average(monkeypatch):
    ranks = make(ema=0.5, steps=3), make(ema=0.5, steps=3)
    for number, trainer in enumerate(ranks):
        batches = trainer.loader.batches(10 * number)
        for _ in range(3):
            trainer.train_step(next(batches))
    # Under DDP the parameters are equal, and only the statistics of the batch norm are not.
    for trainer in ranks:
        for name, parameter in trainer.model.named_parameters():
            parameter.data.fill_(0.5)
            trainer._averages[name].fill_(0.25)
    trained, sent = state(ranks[1]), []
    monkeypatch.setattr(distributed, "broadcast", lambda buffer: sent.append(buffer.clone()))
    first = evaluated(ranks[0])
    monkeypatch.setattr(distributed, "broadcast", lambda buffer: buffer.copy_(sent.pop(0)))
    second = evaluated(ranks[1])
    assert all(torch.equal(first[name], value) for name, value in second.items())
    assert not torch.equal(first["norm.running_mean"], ranks[1].weights()["norm.running_mean"])
    assert all(torch.equal(value, trained[name]) for name, value in state(ranks[1]).items())


def test_another_number_of_samples_is_another_stream():
    trainer = make()
    saved = trainer.state()
    assert saved["samples"] == 8
    trainer.loader.dataset.length = 9
    with pytest.raises(TrainingError, match="trained on 8 samples, data.train now has 9; resume with the same data"):
        trainer.load_state(trainer.weights(), saved)
    trainer.load_state(trainer.weights(), {name: value for name, value in saved.items() if name != "samples"})


def test_compile_keeps_names_and_numbers(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: torch.nn.Sequential(model))
    compiled, plain = make(compile=True), make()
    assert run(compiled) == run(plain)
    assert list(compiled.weights()) == list(plain.weights())


def test_stop_ends_after_the_step_and_still_calls_the_last_hooks():
    asked, ended = [], []

    class End(Hook):
        def after(self, trainer):
            ended.append(trainer.step)

    trainer = make(stop=lambda: bool(asked.append(1) or len(asked) == 3), steps=50)
    trainer.run([End()])
    assert trainer.stopping and trainer.step == 3 and ended == [3]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 0}, "train.steps is 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"precision": "half"}, "fp32, bf16, fp16"),
        ({"ema": 1.0}, "train.ema is 1.0"),
        ({"clip_norm": -1.0}, "train.clip_norm is -1.0; it must be 0"),
        ({"max_skipped": 0}, "max_skipped"),
    ],
)
def test_settings_out_of_range(wrong, says):
    with pytest.raises(ConfigError, match=says):
        TrainSettings(**{"steps": 1, "batch_size": 1, "save_every": 1, **wrong})


def test_a_first_step_that_is_skipped_brings_no_warning_of_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [record.skipped for record in run(make(bad=range(4), steps=2))] == [True, False]
