"""Gradients: of the references by finite differences in float64, of the whole model against the references."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import model as whole_model
from gpu_checks.check import FAILED, OK, Check, Setup, attempt, bounded
from gpu_checks.ops import backend, normal, orders, scan_inputs
from lgrnet.layers.deformable import token_centres
from lgrnet.ops import depthwise_gelu, ms_deform_attn, neighborhood_attention, selective_scan

SHAPES = ((2, 3), (4, 3))
WHOLE = {False: 0.05, True: 0.3}
"""The gradient of a training loss in the L2 norm over all parameters, in fp32 and in bf16. Where rounding moves a point
of the loss or a bit of an attention mask, all gradients move: 0.005 and 0.02 on a CPU."""


def _differences(
    name: str, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], device: str
) -> Iterator[Check]:
    doubles = [t.to(device).double().requires_grad_() for t in inputs]
    # Sums of atomics on a GPU come in another order each time.
    right = torch.autograd.gradcheck(function, doubles, raise_exception=False, nondet_tol=1e-9)
    yield Check(f"{name}: finite differences", status=OK if right else FAILED)


def _references(device: str) -> Iterator[Check]:
    order = orders(6, 2).to(device)
    scan = scan_inputs(1, 6, 2, 2, 2, 2)
    yield from _differences("scan", lambda *x: selective_scan(*x, order, backend="reference"), scan, device)
    tokens = sum(h * w for h, w in SHAPES)
    qkv = tuple(normal(i, 1, 2, tokens, 1, 2) for i in range(3))
    yield from _differences(
        "neighborhood", lambda *x: neighborhood_attention(*x, SHAPES, 3, backend="reference"), qkv, device
    )
    centres = token_centres(SHAPES, device).double()[None, :, None].expand(-1, -1, len(SHAPES), -1)
    deform = (normal(0, 1, tokens, 1, 2), 0.3 * normal(1, 1, tokens, 1, 2, 1, 2), normal(2, 1, tokens, 1, 2))
    yield from _differences(
        "deform", lambda *x: ms_deform_attn(*x, centres, SHAPES, backend="reference"), deform, device
    )
    depthwise = (normal(0, 1, 12, 2), normal(1, 2, 1, 3, 3), normal(2, 2))
    yield from _differences("depthwise", lambda *x: depthwise_gelu(*x, (4, 3), backend="reference"), depthwise, device)


def _whole(half: bool, setup: Setup) -> Iterator[Check]:
    """LGRNet's training loss with the kernels against the same with plain torch, both from the same weights."""
    size = 64 if setup.quick else 224
    frames = torch.rand(1, 2 if setup.quick else 6, 3, size, size, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    for name in (backend(setup), "reference"):
        net = whole_model.build(setup.quick, name).train().to(setup.device)
        with torch.autocast(setup.device, torch.bfloat16, enabled=half):
            loss = whole_model.training_loss(net, frames.to(setup.device))
        gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        found.append(torch.cat([g.flatten().double() for g in gradients if g is not None]))
    ours, theirs = found
    kind = "bf16" if half else "fp32"
    error = ((ours - theirs).norm() / theirs.norm()).item()
    yield bounded(f"LGRNet, {kind}: gradient of the training loss", error, WHOLE[half])


def run(setup: Setup) -> Iterator[Check]:
    """Small sizes for the differences, a training clip for the model."""
    yield from attempt("references", lambda: _references(setup.device))
    for half in (False,) if setup.quick else (False, True):
        yield from attempt("LGRNet", lambda h=half: _whole(h, setup))
