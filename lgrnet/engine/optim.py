"""Parameter groups, learning rates over time, gradient clipping."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

_NORMS = (
    nn.modules.batchnorm._NormBase,  # every BatchNorm and InstanceNorm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
_TABLES = ("relative_position_bias_table", "absolute_pos_embed")


def parameter_settings(
    model: nn.Module,
    lr: float = 1e-3,
    backbone_lr_scale: float = 0.1,
    weight_decay: float = 1e-4,
    decay_biases: bool = True,
    decay_norms: bool = False,
) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter that is trained, by name, in the order of named_modules.

    Parameters below a module called "backbone" learn at lr * backbone_lr_scale. The module that owns a parameter
    decides about decay: none for norms and nn.Embedding, nor for tables of positions. All others are decayed.

    decay_biases  True: biases and other vectors too, as published; False: only what has two dimensions or more
    decay_norms   True: what is owned by norms and nn.Embedding and tables, too: with decay_biases everything is decayed
                  (SSFormer, SvANet), without it all but vectors (SSFormer's reproduction study)

    Raises ValueError for a rate or a decay that is negative or not finite.
    """
    for name, value in {"lr": lr, "backbone_lr_scale": backbone_lr_scale, "weight_decay": weight_decay}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be 0 or more, and finite")
    settings: dict[str, tuple[float, float]] = {}
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        in_backbone = "backbone" in path.split(".")
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            spared = isinstance(module, (*_NORMS, nn.Embedding)) or any(table in name for table in _TABLES)
            spared = (spared and not decay_norms) or (parameter.ndim < 2 and not decay_biases)
            full_name = f"{path}.{name}" if path else name
            settings[full_name] = (lr * backbone_lr_scale if in_backbone else lr, 0.0 if spared else weight_decay)
    return settings


def parameter_groups(
    model: nn.Module,
    lr: float = 1e-3,
    backbone_lr_scale: float = 0.1,
    weight_decay: float = 1e-4,
    decay_biases: bool = True,
    decay_norms: bool = False,
) -> list[dict]:
    """`parameter_settings` as an optimizer takes them: parameters of equal settings form a group.

    Returns groups {"params": [...], "lr": ..., "weight_decay": ...}, in the order of their first parameters.
    Raises ValueError when nothing in the model is trained.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    settings = parameter_settings(model, lr, backbone_lr_scale, weight_decay, decay_biases, decay_norms)
    for name, setting in settings.items():
        groups.setdefault(setting, []).append(model.get_parameter(name))
    if not groups:
        raise ValueError("the model has no parameter with requires_grad; unfreeze a part of it")
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def adamw(
    model: nn.Module,
    lr: float = 1e-3,
    backbone_lr_scale: float = 0.1,
    weight_decay: float = 1e-4,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    decay_biases: bool = True,
    decay_norms: bool = False,
) -> Optimizer:
    """AdamW with `parameter_groups`.

    The published code makes a group of every parameter. AdamW treats each parameter by itself, so the steps are the
    same, and `checkpoint.official_optimizer` translates what a published checkpoint holds of them. On GPUs a step is
    one fused kernel for many parameters; a checkpoint keeps which way it was, so that a resume on another device goes
    on in the same one.

    Raises ValueError when nothing in the model is trained.
    """
    first, second = betas
    groups = parameter_groups(model, lr, backbone_lr_scale, weight_decay, decay_biases, decay_norms)
    on_gpus = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return AdamW(groups, lr=lr, betas=(first, second), eps=eps, fused=True if on_gpus else None)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scales all gradients together so that their global L2 norm is at most max_norm (published: 0.01).

    max_norm  None: measure only

    Returns the norm before clipping, a scalar. A norm that is not finite makes the gradients so too: look at it
    before a step. Raises ValueError when max_norm is not positive.
    """
    parameters = [p for p in parameters if p.grad is not None]
    if max_norm is None:
        return nn.utils.get_total_norm([p.grad for p in parameters])
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, expected more than 0, or None to measure only")
    return nn.utils.clip_grad_norm_(parameters, max_norm)


def multi_step(optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.5) -> LRScheduler:
    """The learning rate times gamma from each milestone on, counted in iterations (published: 3, 6, 9, 12 epochs).

    Raises ValueError when the milestones do not ascend.
    """
    milestones = [int(step) for step in milestones]
    if milestones != sorted(set(milestones)):
        raise ValueError(f"milestones are {milestones}, expected ascending iterations")
    return LambdaLR(optimizer, lambda step: gamma ** bisect_right(milestones, step))


def constant(optimizer: Optimizer) -> LRScheduler:
    """The learning rate as it is."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> LRScheduler:
    """Linear rise over warmup_steps, then half a cosine down to `final` of the learning rate at total_steps.

    Raises ValueError when the warm-up is not shorter than the whole.
    """
    return _decay(optimizer, total_steps, warmup_steps, final, lambda part: 0.5 * (1 + math.cos(math.pi * part)))


def poly(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 0.9,
    final: float = 0.0,
    warmup_start: float | None = None,
) -> LRScheduler:
    """Linear rise over warmup_steps, then (1 - progress)^power down to `final` of the learning rate at total_steps.

    warmup_start  share of the learning rate at the first step of the rise, which then ends one step later: the
                  "warmuppolylr" of semseg with 0.1; None: the rise starts at one part of warmup_steps + 1

    Raises ValueError when the warm-up is not shorter than the whole.
    """
    return _decay(optimizer, total_steps, warmup_steps, final, lambda part: (1 - part) ** power, warmup_start)


def ssformer_steps(
    optimizer: Optimizer, steps_per_epoch: int, decay_epochs: int = 200, gamma: float = 0.1
) -> LRScheduler:
    """SSFormer's schedule as its code runs it: epoch 0 at a rate of 0, then times gamma every decay_epochs epochs.

    Epochs 1 to decay_epochs run at the full rate. Raises ValueError for lengths below 1.
    """
    _check_lengths(steps_per_epoch=steps_per_epoch, decay_epochs=decay_epochs)

    def factor(step: int) -> float:
        epoch = step // steps_per_epoch
        return gamma ** ((epoch - 1) // decay_epochs) if epoch else 0.0

    return LambdaLR(optimizer, factor)


def plrd(
    optimizer: Optimizer, steps_per_epoch: int, decay_epochs: int = 40, end_lr: float = 1e-4, power: float = 1.0
) -> LRScheduler:
    """Polynomial decay by epochs: end_lr + (lr - end_lr) (1 - (e + 1) / decay_epochs)^power in epoch e.

    end_lr is a rate, not a share of one. Epochs count from 0, so the first epoch is a step down already; from epoch
    decay_epochs - 1 on the rate stays at end_lr, for every group. This is "plrd" of SSFormer's reproduction study (lr
    1.49e-4 and the defaults). It is also what SSFormer's text describes: from 1e-4 to 1e-4, which is no decay.

    Raises ValueError for lengths below 1 and for a group whose learning rate is not above 0.
    """
    _check_lengths(steps_per_epoch=steps_per_epoch, decay_epochs=decay_epochs)
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if min(rates) <= 0:
        raise ValueError(f"learning rates are {rates}, expected more than 0")

    def factor(step: int, rate: float) -> float:
        left = 1 - min(step // steps_per_epoch + 1, decay_epochs) / decay_epochs
        return (end_lr + (rate - end_lr) * left**power) / rate

    return LambdaLR(optimizer, [partial(factor, rate=rate) for rate in rates])


def restarted_cosine(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int | None = None,
    restart: bool = True,
    first: float = 0.1,
    final: float = 0.002,
) -> LRScheduler:
    """SvANet's learning rate: a short course while the backbone is frozen, then the whole one; constant in each epoch.

    Epoch 0 runs at `final`. With restart the rate then rises over half of warmup_epochs from `first` to 1 and follows
    a cosine, falling to `final` at warmup_epochs, where the backbone joins; from there it rises again and follows the
    cosine of all epochs. Without restart (no ImageNet weights) it rises once, over warmup_epochs.

    epochs           of the whole training
    steps_per_epoch  iterations in each
    warmup_epochs    None: a tenth of the epochs, rounded up
    first, final     shares of the optimizer's learning rate (published: 5e-5 and 1e-6 of 5e-4)

    A training of one epoch, which is a warm-up of one epoch, is all at `final`.

    Raises ValueError when the warm-up of more epochs is not shorter than the whole, or an epoch has no step.
    """
    longest = max(epochs - 1, 1)
    warmup = -(-epochs // 10) if warmup_epochs is None else warmup_epochs
    if not 0 < warmup <= longest or min(epochs, steps_per_epoch) < 1:
        raise ValueError(
            f"warmup_epochs is {warmup} of {epochs} epochs of {steps_per_epoch} steps; expected 1 to {longest}, and at "
            "least one epoch with one step"
        )
    rise = warmup // 2 if restart else warmup

    def factor(step: int) -> float:
        # The release sets the rate after each epoch, for the next one.
        past = step // steps_per_epoch - 1
        if past < 0:
            return final
        if restart and past >= warmup:
            begun, risen, end = warmup - 1, warmup + rise, epochs
        else:
            begun, risen, end = 0, rise, warmup if restart else epochs
        if past < risen:
            return first + (past - begun) * (1 - first) / rise
        if past + 1 >= end:
            return final
        return final + 0.5 * (1 - final) * (1 + math.cos(math.pi * past / end))

    return LambdaLR(optimizer, factor)


def _decay(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int,
    final: float,
    shape: Callable[[float], float],
    warmup_start: float | None = None,
) -> LRScheduler:
    """Warm-up, then `shape` (1 at progress 0, 0 at progress 1); iterations after the last stay at `final`."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps} of total_steps {total_steps}; expected 0 to {total_steps - 1}"
        )

    def factor(step: int) -> float:
        if step < warmup_steps and warmup_start is not None:
            return warmup_start + (1 - warmup_start) * step / warmup_steps
        if step < warmup_steps:
            # The first iteration already moves: a rate of 0 would spend a step on nothing.
            return (step + 1) / (warmup_steps + 1)
        part = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
        return final + (1 - final) * shape(part)

    return LambdaLR(optimizer, factor)


def _check_lengths(**lengths: int) -> None:
    if wrong := [f"{name} is {value}" for name, value in lengths.items() if value < 1]:
        raise ValueError(f"{', '.join(wrong)}; expected at least 1")
