"""PVTv2-B2 as a feature pyramid: frames [T, 3, 352, 352] -> four maps. The peers are the plain net of timm."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from benchmarks.contest import OURS, Case, Op, Peer, Problem, emulated_bf16
from benchmarks.modules import in_type_of_input
from lgrnet.models.backbones import TimmBackbone

BF16 = 0.1
"""The largest difference of a map in bf16, relative to its largest value."""


class Maps(nn.Module):
    """The backbone with its maps as a tuple."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """[T, 3, H, W] -> four maps"""
        return tuple(self.net(frames).values())


class FrameByFrame(nn.Module):
    """The same maps from one frame at a time."""

    def __init__(self, maps: Maps):
        super().__init__()
        self.maps = maps

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """[T, 3, H, W] -> four maps"""
        return tuple(map(torch.cat, zip(*(self.maps(frame) for frame in frames.split(1)), strict=True)))


def cases(quick: bool) -> list[Case]:
    """A clip of 6 frames, as they go through the net at once."""
    if quick:
        return [Case("T=1", {"frames": 1, "side": 64, "small": 1})]
    return [Case("T=6", {"frames": 6, "side": 352, "small": 0})]


def problem(case: Case, device: str) -> Problem:
    """Random weights, normal input."""
    torch.manual_seed(0)
    name = "pvt_v2_b0" if case.sizes["small"] else "pvt_v2_b2"
    ours = TimmBackbone(name, drop_path=0)
    ours, plain = (Maps(net).eval().requires_grad_(False).to(device) for net in (ours, plainly(ours, name)))
    frames = torch.randn(case.sizes["frames"], 3, case.sizes["side"], case.sizes["side"], device=device)
    return Problem((frames,), in_type_of_input(plain), {"ours": ours, "plain": plain})


def plainly(backbone: TimmBackbone, name: str) -> TimmBackbone:
    """A copy whose net is timm's own."""
    plain = copy.deepcopy(backbone)
    plain.net = timm.create_model(name, num_classes=0)
    plain.net.prune_intermediate_layers(plain.indices, prune_norm=True, prune_head=True)
    plain.net.load_state_dict(backbone.net.state_dict())
    return plain


def _with(
    change: Callable[[nn.Module], Callable[..., object]], net: str = "plain"
) -> Callable[[Problem], Callable[..., object]]:
    return lambda problem: in_type_of_input(problem.fixed[net], change)


def _same(net: nn.Module) -> Callable[..., object]:
    return net


def _channels_last(net: nn.Module) -> Callable[..., object]:
    net = net.to(memory_format=torch.channels_last)
    return lambda frames: net(frames.contiguous(memory_format=torch.channels_last))


def _compiled(net: nn.Module) -> Callable[..., object]:
    return torch.compile(net, dynamic=False)


def _onnxruntime(problem: Problem) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """ONNX Runtime on the CPU, with as many threads as torch."""
    import onnxruntime

    written = io.BytesIO()
    torch.onnx.export(problem.fixed["plain"], problem.inputs, written, dynamo=True, external_data=False, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(written.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(frames: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {name: frames.numpy()})))

    return call


def _on_cpu(case: Case, mode: str, device: str) -> str | None:
    return None if device == "cpu" else "measured on a CPU only"


_COMPILER = "a C++ compiler for torch.compile"
OP = Op(
    "backbone",
    cases,
    problem,
    (
        Peer(OURS, _with(_same, "ours")),
        Peer("ours frame by frame", _with(FrameByFrame, "ours")),
        Peer("ours compiled", _with(_compiled, "ours"), _COMPILER),
        Peer("plain timm", _with(_same)),
        Peer("plain timm frame by frame", _with(FrameByFrame)),
        Peer("channels_last", _with(_channels_last)),
        Peer("compiled", _with(_compiled), _COMPILER),
        Peer("onnxruntime", _onnxruntime, 'pip install "lgrnet[export]"', refuses=_on_cpu, first_call=True),
        Peer("ours bf16", _with(_same, "ours"), refuses=emulated_bf16, dtype="bf16", tolerance=BF16),
        Peer("eager bf16", _with(_same), refuses=emulated_bf16, dtype="bf16", tolerance=BF16),
        Peer("channels_last bf16", _with(_channels_last), refuses=emulated_bf16, dtype="bf16", tolerance=BF16),
        Peer("compiled bf16", _with(_compiled), _COMPILER, refuses=emulated_bf16, dtype="bf16", tolerance=BF16),
    ),
    modes=("fwd",),
    dtypes=("fp32",),
)
