"""Parameter groups, learning rates over time, gradient clipping."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

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
) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter that is trained, by name, in the order of named_modules.

    Parameters below a module called "backbone" learn at lr * backbone_lr_scale. The module that owns a parameter
    decides about decay: none for norms and nn.Embedding, nor for tables of positions. All others are decayed.

    decay_biases  True: biases and other vectors too, as published; False: only what has two dimensions or more
    """
    settings: dict[str, tuple[float, float]] = {}
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        in_backbone = "backbone" in path.split(".")
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            spared = isinstance(module, (*_NORMS, nn.Embedding)) or any(table in name for table in _TABLES)
            spared = spared or (parameter.ndim < 2 and not decay_biases)
            full_name = f"{path}.{name}" if path else name
            settings[full_name] = (lr * backbone_lr_scale if in_backbone else lr, 0.0 if spared else weight_decay)
    return settings


def parameter_groups(
    model: nn.Module,
    lr: float = 1e-3,
    backbone_lr_scale: float = 0.1,
    weight_decay: float = 1e-4,
    decay_biases: bool = True,
) -> list[dict]:
    """`parameter_settings` as an optimizer takes them: parameters of equal settings form a group.

    Returns groups {"params": [...], "lr": ..., "weight_decay": ...}, in the order of their first parameters.
    Raises ValueError when nothing in the model is trained.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, setting in parameter_settings(model, lr, backbone_lr_scale, weight_decay, decay_biases).items():
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
) -> Optimizer:
    """AdamW with `parameter_groups`.

    The published code makes a group of every parameter. AdamW treats each parameter by itself, so the steps are the
    same.

    Raises ValueError when nothing in the model is trained.
    """
    first, second = betas
    groups = parameter_groups(model, lr, backbone_lr_scale, weight_decay, decay_biases)
    return AdamW(groups, lr=lr, betas=(first, second), eps=eps)


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
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, power: float = 0.9, final: float = 0.0
) -> LRScheduler:
    """Linear rise over warmup_steps, then (1 - progress)^power down to `final` of the learning rate at total_steps.

    Raises ValueError when the warm-up is not shorter than the whole.
    """
    return _decay(optimizer, total_steps, warmup_steps, final, lambda part: (1 - part) ** power)


def _decay(
    optimizer: Optimizer, total_steps: int, warmup_steps: int, final: float, shape: Callable[[float], float]
) -> LRScheduler:
    """Warm-up, then `shape` (1 at progress 0, 0 at progress 1); iterations after the last stay at `final`."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps} of total_steps {total_steps}; expected 0 to {total_steps - 1}"
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            # The first iteration already moves: a rate of 0 would spend a step on nothing.
            return (step + 1) / (warmup_steps + 1)
        part = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
        return final + (1 - final) * shape(part)

    return LambdaLR(optimizer, factor)
