"""LGRNet's optimizer for detectron2's trainers: AdamW, a smaller rate for the backbone, one limit for all gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn
from torch.optim import AdamW, Optimizer

from lgrnet.engine.optim import clip_gradients, parameter_groups

FULL_MODEL = "full_model"
"""SOLVER.CLIP_GRADIENTS.CLIP_TYPE of the published training: the norm over all parameters is limited."""
_UNUSED = {"WEIGHT_DECAY_NORM": 0.0, "WEIGHT_DECAY_BIAS": None, "BIAS_LR_FACTOR": 1.0, "NESTEROV": False}
"""Keys of SOLVER that AdamW in these groups has no use for, with detectron2's defaults."""


def adamw(
    params: Iterable[dict],
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    max_norm: float | None = 0.01,
) -> Optimizer:
    """AdamW that limits the global L2 norm of the gradients before each step.

    params    groups of `lgrnet.engine.optim.parameter_groups`; in a lazy config LazyCall(parameter_groups)(lr=...),
              into which detectron2's script puts the model
    lr        of groups that have none
    max_norm  None: no limit

    Under mixed precision the gradients are already unscaled then.
    """
    first, second = betas
    optimizer = AdamW([dict(group) for group in params], lr=lr, betas=(first, second), eps=eps)
    if max_norm is not None:
        optimizer.register_step_pre_hook(partial(_limit, max_norm))
    return optimizer


def build_optimizer(cfg, model: nn.Module) -> Optimizer:
    """The optimizer of a config: SOLVER.BASE_LR, BACKBONE_MULTIPLIER, WEIGHT_DECAY, DECAY_BIASES, DECAY_NORMS and
    CLIP_GRADIENTS.

    CLIP_TYPE "full_model" limits the norm over all parameters, as published; detectron2's own types "value" and
    "norm" limit each parameter by itself. By default weight decay leaves out norms and takes other biases, as LGRNet's
    does; SSFormer's and SvANet's take norms, too. Raises ValueError for another type, and for keys of SOLVER that
    change nothing here.
    """
    for key, default in _UNUSED.items():
        if (given := cfg.SOLVER.get(key, default)) != default:
            raise ValueError(f"SOLVER.{key} is {given}, which LGRNet's AdamW has no use for; leave it at {default}")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE not in (FULL_MODEL, "value", "norm"):
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; expected {FULL_MODEL!r} (as published), "
            '"value" or "norm"'
        )
    whole = clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL
    solver = cfg.SOLVER
    decays = solver.WEIGHT_DECAY, solver.DECAY_BIASES, solver.DECAY_NORMS
    groups = parameter_groups(model, solver.BASE_LR, solver.BACKBONE_MULTIPLIER, *decays)
    optimizer = adamw(groups, solver.BASE_LR, max_norm=clip.CLIP_VALUE if whole else None)
    return optimizer if whole else maybe_add_gradient_clipping(cfg, optimizer)


def _limit(max_norm: float, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Called by the optimizer before each step; a result would be taken for new arguments."""
    clip_gradients([parameter for group in optimizer.param_groups for parameter in group["params"]], max_norm)
