"""Layer norm of tokens.

Legend: C channels.
"""

from __future__ import annotations

from torch import Tensor

from lgrnet.ops.backends import Backend
from lgrnet.ops.cpu import cannot_run, inference_backend
from lgrnet.ops.normalization.cpu import layer_norm_cpu
from lgrnet.ops.normalization.reference import layer_norm_reference

__all__ = ["layer_norm"]

BACKENDS = {"cpu": Backend(layer_norm_cpu, cannot_run), "reference": Backend(layer_norm_reference)}


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float = 1e-5, *, backend: str = "auto") -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias of each token (Ba et al., arXiv 1607.06450, equation 4).

    x             [..., C]; mean and variance (that of the numbers themselves, not an estimate) are over C
    weight, bias  [C]
    backend       "cpu" (compiled, float32 inside, no gradients) or "reference", which is torch's own; "auto" takes the
                  first where it can and is faster, as `lgrnet.ops.linear` does

    Returns [..., C]. By the kernel each token's numbers are the same whatever stands beside it.
    Raises ValueError for shapes, types or devices that do not fit, and BackendError (a ValueError) for a backend that
    is unknown or cannot do this.
    """
    if x.ndim < 1:
        raise ValueError("x has no axis, expected [..., C]")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor.shape != x.shape[-1:]:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(x.shape[-1:])}, the channels of x"
            )
    return inference_backend(BACKENDS, backend, {"x": x, "weight": weight, "bias": bias})(x, weight, bias, epsilon)
