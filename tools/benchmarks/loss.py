"""The set criterion: matching and losses of four layers of masks, read at points.

Inputs: mask logits [4, B, 10, T, h, w] at stride 4 and class logits [4, B, 10, 2]; one object per clip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from lgrnet.draws import KeyedDraws
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.structures import SegOutput, Targets

LAYERS, QUERIES, SCALE = 4, 10, 4
TERMS = ("mask_bce", "mask_dice", "class_ce")
POINTS_DIFFER = 5e-3
"""Where two logits are nearly as uncertain, rounding decides which point is taken."""
OTHER_DRAWS = 5e-2


def cases(quick: bool) -> list[Case]:
    """Training batches of clips, and of still images."""
    if quick:
        return [Case("B=1 T=2", {"batch": 1, "frames": 2, "side": 16, "points": 64}, 2)]
    return [
        Case(f"B={batch} T={frames}", {"batch": batch, "frames": frames, "side": 88, "points": 12544})
        for batch, frames in ((1, 6), (4, 6), (8, 1))
    ]


def problem(case: Case, device: str) -> Problem:
    """One disc per clip; logits of either sign."""
    batch, frames, side = (case.sizes[k] for k in ("batch", "frames", "side"))
    generator = torch.Generator().manual_seed(0)
    masks = 3 * torch.randn(LAYERS, batch, QUERIES, frames, side, side, generator=generator)
    classes = torch.randn(LAYERS, batch, QUERIES, 2, generator=generator)
    targets = tuple(_target(frames, side * SCALE, device) for _ in range(batch))
    fixed = {"targets": targets, "points": case.sizes["points"]}
    return Problem((masks.to(device), classes.to(device)), _criterion(fixed), fixed)


def _target(frames: int, side: int, device: str) -> Targets:
    axis = torch.linspace(-1, 1, side, device=device)
    disc = (axis[:, None].square() + axis.square() < 0.2).float().expand(1, frames, -1, -1)
    valid = torch.ones(frames, side, side, dtype=torch.bool, device=device)
    return Targets(torch.zeros(1, dtype=torch.int64, device=device), disc, valid, valid[:, 0, 0])


def _criterion(fixed: dict[str, object], full_size: bool = False) -> Callable[..., tuple[Tensor, ...]]:
    """Our criterion; full_size: every mask is enlarged to full size and read there, as published."""
    criterion = SetCriterion(num_points=fixed["points"], logit_scale=1 if full_size else SCALE)
    targets = fixed["targets"]

    def call(masks: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        if full_size:
            enlarged = (F.interpolate(m.flatten(0, 1), scale_factor=SCALE, mode="bilinear") for m in masks)
            layers = [m.unflatten(0, masks.shape[1:3]) for m in enlarged]
        else:
            layers = masks.unbind()
        outputs = [SegOutput(m, c) for m, c in zip(layers, classes, strict=True)]
        output = SegOutput(outputs[-1].mask_logits, outputs[-1].class_logits, aux=tuple(outputs[:-1]))
        terms = criterion(output, targets, KeyedDraws(0, range(len(targets))))
        return tuple(terms[name] for name in TERMS)

    return call


def _transformers(problem: Problem) -> Callable[..., tuple[Tensor, ...]]:
    """The loss of transformers' Mask2Former; it reads the masks as they are, at its own random points."""
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = Mask2FormerConfig(
        num_labels=1, train_num_points=problem.fixed["points"], class_weight=2.0, mask_weight=2.0, dice_weight=2.0
    )
    names = ("loss_mask", "loss_dice", "loss_cross_entropy")
    loss = Mask2FormerLoss(config, dict.fromkeys(names, 1.0)).to(problem.inputs[0].device)
    truth = [target.masks[:, 0] for target in problem.fixed["targets"]]
    labels = [target.labels for target in problem.fixed["targets"]]

    def call(masks: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        layers = [
            {"masks_queries_logits": m[:, :, 0], "class_queries_logits": c} for m, c in zip(masks, classes, strict=True)
        ]
        terms = loss(*layers[-1].values(), truth, labels, layers[:-1])
        return tuple(sum(value for key, value in terms.items() if key.startswith(name)) for name in names)

    return call


def _stills_only(case: Case, mode: str, device: str) -> str | None:
    return None if case.sizes["frames"] == 1 else "it knows still images only: measured at T = 1"


OP = Op(
    "loss",
    cases,
    problem,
    (
        Peer(OURS, lambda p: _criterion(p.fixed), tolerance=POINTS_DIFFER),
        Peer("full-size masks", lambda p: _criterion(p.fixed, full_size=True), tolerance=POINTS_DIFFER),
        Peer(
            "transformers",
            _transformers,
            "pip install transformers",
            refuses=_stills_only,
            tolerance=OTHER_DRAWS,
            values_only=True,
        ),
    ),
    modes=("fwdbwd",),
    dtypes=("fp32",),
)
