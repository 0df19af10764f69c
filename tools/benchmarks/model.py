"""The whole LGRNet with PVTv2-B2: a forward pass of a clip in inference, and a training step.

Inputs: frames [1, T, 3, H, W] in 0..1. The peer is the same model with all three ops as plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.backbone import plainly
from benchmarks.contest import OURS, Case, Op, Peer, Problem, emulated_bf16
from benchmarks.modules import in_type_of_input
from lgrnet.draws import KeyedDraws
from lgrnet.layers.attention import Attention
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.structures import Targets

OPS = ("scan", "neighborhood", "deform")
SHORT = 6
"""Longer clips are for ours alone: the reference's memory and time say nothing new there."""
FP32, BF16 = 1e-2, 0.5
"""The places that a query may look at are bits: where rounding flips one, all that follows moves."""


class Logits(nn.Module):
    """The model with its final masks and classes as a tuple."""

    def __init__(self, net: LGRNet):
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, 3, H, W] -> mask_logits, class_logits"""
        output = self.net.infer(frames)
        return output.mask_logits, output.class_logits


def build(small: bool, backend: str) -> LGRNet:
    """The published sizes with seeded random weights; `backend` of all three ops.

    With the reference the backbone is timm's own net, too: nothing of ours is left that is faster than plain torch.
    """
    torch.manual_seed(0)
    encoder = partial(LGREncoder, dim=64, **{f"{op}_backend": backend for op in OPS})
    name = "pvt_v2_b0" if small else "pvt_v2_b2"
    net = LGRNet(TimmBackbone(name, drop_path=0), encoder, VideoDecoder(dim=64))
    if backend == "reference":
        net.backbone = plainly(net.backbone, name)
        for module in net.modules():
            if isinstance(module, Attention):
                module.backend = backend
        net.decoder.mask_backend = backend
    return net


def cases(quick: bool) -> list[Case]:
    """A short clip, and whole videos whose memory tells what a frame costs.

    That does not depend on the backbone, so that those with PVTv2-B0 tell it sooner.
    """
    if quick:
        return [Case("T=2", {"frames": 2, "side": 64, "small": 1}, 2)]
    lengths = (SHORT, 60, 120, 300, 600)
    large = [Case(f"T={n}", {"frames": n, "side": 352, "small": 0}, n, full=n == SHORT) for n in lengths]
    return large + [Case(f"B0 T={n}", {"frames": n, "side": 352, "small": 1}, n, full=False) for n in (60, 120, 600)]


def _frames(case: Case, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    side = case.sizes["side"]
    return torch.rand(1, case.sizes["frames"], 3, side, side, generator=generator).to(device)


def problem(case: Case, device: str) -> Problem:
    """Random frames."""

    def truth(frames: Tensor) -> tuple[Tensor, Tensor]:
        return _inference("reference", case, device).double()(frames)

    known = case.sizes["frames"] <= SHORT
    return Problem((_frames(case, device),), truth if known else None, {"case": case, "device": device})


def _inference(backend: str, case: Case, device: str) -> Logits:
    net = build(bool(case.sizes["small"]), backend).eval().requires_grad_(False).to(device)
    return Logits(net)


def _peer(backend: str) -> Callable[[Problem], Callable[..., object]]:
    def make(problem: Problem) -> Callable[..., object]:
        return in_type_of_input(_inference(backend, problem.fixed["case"], problem.fixed["device"]))

    return make


def _short(case: Case, mode: str, device: str) -> str | None:
    return f"measured up to T = {SHORT}" if case.sizes["frames"] > SHORT else None


def _short_bf16(case: Case, mode: str, device: str) -> str | None:
    return _short(case, mode, device) or emulated_bf16(case, mode, device)


OP = Op(
    "model",
    cases,
    problem,
    (
        Peer(OURS, _peer("auto"), tolerance=FP32),
        Peer("reference ops", _peer("reference"), refuses=_short, tolerance=FP32),
        Peer("ours bf16", _peer("auto"), refuses=emulated_bf16, dtype="bf16", tolerance=BF16),
        Peer("reference ops bf16", _peer("reference"), refuses=_short_bf16, dtype="bf16", tolerance=BF16),
    ),
    modes=("fwd",),
    dtypes=("fp32",),
)


def _training_cases(quick: bool) -> list[Case]:
    return [case for case in cases(quick) if case.sizes["frames"] <= SHORT]


def _training_problem(case: Case, device: str) -> Problem:
    fixed = {"case": case, "device": device}

    def truth(frames: Tensor) -> Tensor:
        return training_loss(build(bool(case.sizes["small"]), "reference").train().to(device).double(), frames).detach()

    return Problem((_frames(case, device),), truth, fixed)


def training_loss(net: nn.Module, frames: Tensor) -> Tensor:
    """The loss of a clip with a square in it; frames [1, T, 3, H, W]."""
    _, count, _, height, width = frames.shape
    masks = torch.zeros(1, count, height, width, device=frames.device)
    masks[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    valid = torch.ones_like(masks[0], dtype=torch.bool)
    label = torch.zeros(1, dtype=torch.int64, device=frames.device)
    criterion = SetCriterion()
    terms = criterion(net(frames), (Targets(label, masks, valid, valid[:, 0, 0]),), KeyedDraws(0, (0,)))
    return sum(criterion.weights[name] * term for name, term in terms.items())


def _step(backend: str) -> Callable[[Problem], Callable[[Tensor], Tensor]]:
    """Forward, loss, backward and AdamW. The type of the frames is that of autocast; weights are float32."""

    def make(problem: Problem) -> Callable[[Tensor], Tensor]:
        case, device = problem.fixed["case"], problem.fixed["device"]
        net = build(bool(case.sizes["small"]), backend).train().to(device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

        def step(frames: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            half = frames.dtype == torch.bfloat16
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                loss = training_loss(net, frames.float())
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    return make


TRAIN = Op(
    "train",
    _training_cases,
    _training_problem,
    (
        Peer(OURS, _step("auto"), tolerance=FP32),
        Peer("reference ops", _step("reference"), tolerance=FP32),
        Peer("ours bf16", _step("auto"), refuses=emulated_bf16, dtype="bf16", tolerance=BF16),
    ),
    modes=("step",),
    dtypes=("fp32",),
)
