"""Depthwise convolution and GELU of tokens: the middle of the MLPs of PVTv2 and SegFormer.

Legend: B images, H x W tokens row by row, C channels.
"""

from __future__ import annotations

from torch import Tensor

from lgrnet.ops import gpu
from lgrnet.ops.backends import Backend, check_tensors, choose
from lgrnet.ops.cpu import cannot_run
from lgrnet.ops.depthwise.cpu import depthwise_gelu_cpu
from lgrnet.ops.depthwise.reference import depthwise_gelu_reference

__all__ = ["depthwise_gelu"]

BACKENDS = {
    "cpu": Backend(depthwise_gelu_cpu, cannot_run),
    "triton": Backend(gpu.lazily("depthwise", "depthwise_gelu_triton"), gpu.cannot_run),
    "reference": Backend(depthwise_gelu_reference),
}


def depthwise_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: tuple[int, int],
    *,
    shift: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """GELU(3x3 convolution of each channel of x + shift by itself + bias), in the layout of tokens throughout.

    x        [B, H * W, C]
    weight   [C, 1, 3, 3], as that of a Conv2d with C groups
    bias     [C]
    shape    (H, W)
    shift    [C], or None for 0: such as the bias of a linear layer before, which then is a mere product of matrices
    backend  "auto" takes the fastest of ours that can; a name forces it: "cpu" (compiled, float32 inside), "triton"
             (CUDA, float32 inside) or "reference"

    The kernels take x in another type than weight and bias, as autocast gives it; the result has the type of x.

    The map is zero outside, without the shift; the GELU is the exact one, x Phi(x). Returns [B, H * W, C].
    Raises ValueError for shapes, types or devices that do not fit, and BackendError (a ValueError) for a backend that
    is unknown or cannot do this.
    """
    height, width = shape
    if x.ndim != 3 or min(height, width) < 0 or x.shape[1] != height * width:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected [B, H * W, C] with (H, W) = {tuple(shape)}")
    expected = {"weight": (weight, (x.shape[2], 1, 3, 3)), "bias": (bias, (x.shape[2],))}
    tensors = {"x": x, "weight": weight, "bias": bias}
    if shift is not None:
        expected["shift"], tensors["shift"] = (shift, (x.shape[2],)), shift
    for name, (tensor, size) in expected.items():
        if tuple(tensor.shape) != size:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {size} for {x.shape[2]} channels")
    check_tensors(**tensors)
    return choose(BACKENDS, backend, x)(x, weight, bias, (height, width), shift)
