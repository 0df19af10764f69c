"""Linear layers of tokens.

Legend: C channels in, D channels out.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import Parameter

from lgrnet.ops.backends import Backend
from lgrnet.ops.cpu import cannot_run, inference_backend, without_gradients
from lgrnet.ops.projection.cpu import linear_cpu
from lgrnet.ops.projection.reference import linear_reference

__all__ = ["linear"]

WORTH = 2**22
"""Products from which on the kernel is taken for gradients: for fewer its way through autograd takes longer."""
BACKENDS = {"cpu": Backend(linear_cpu, cannot_run), "reference": Backend(linear_reference)}


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """residual + x weight^T + bias.

    x         [..., C]
    weight    [D, C]; a part of a larger one, such as weight[:, a:b], is read where it lies
    bias      [D] or None
    residual  [..., D] or None
    out       [..., D], contiguous, takes the result, without gradients; may be `residual` itself; None: a new tensor
    backend   "cpu" (compiled, float32, or bfloat16 without gradients) or "reference", which is torch's own; "auto"
              takes the first where it can and is faster, but not for a graph or under autocast. In float32: without
              gradients, and with them from `WORTH` products on with AVX-512 of another maker than Intel, where torch
              keeps to half of its width. In bfloat16: where the processor multiplies pairs of numbers
              (AVX512_BF16) or whole matrices (AMX); sums are float32 and rounded once, and an odd C is torch's

    Returns [..., D]. By the kernel each row's numbers are the same whatever the number of rows or threads.
    Raises ValueError for shapes, types or devices that do not fit, and BackendError (a ValueError) for a backend that
    is unknown or cannot do this.
    """
    if x.ndim < 1 or weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        raise ValueError(f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}, expected [..., C] and [D, C]")
    shape = (*x.shape[:-1], len(weight))
    _check_shape("bias", bias, shape[-1:])
    _check_shape("residual", residual, shape)
    _check_shape("out", out, shape)
    given = {"x": x, "weight": weight, "bias": bias, "residual": residual, "out": out}
    function = inference_backend(BACKENDS, backend, given, lambda: x.numel() * len(weight) >= WORTH)
    if out is not None and not (out.is_contiguous() and without_gradients(given.values())):
        raise ValueError("out is not contiguous, or gradients are wanted; give a contiguous one, under torch.no_grad()")
    if out is not None and all(type(t) in (Tensor, Parameter) for t in given.values() if t is not None):
        _check_apart(out, x=x, weight=weight, bias=bias, residual=residual)
    return function(x, weight, bias, residual, out)


def _check_apart(out: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError where what is written would be read later; the very same residual is read first."""
    begin, end = out.data_ptr(), out.data_ptr() + out.nbytes
    for name, tensor in others.items():
        if tensor is None or (name == "residual" and tensor.data_ptr() == begin and tensor.is_contiguous()):
            continue
        reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        first = tensor.data_ptr()
        if tensor.numel() and first < end and begin < first + reach * tensor.element_size():
            raise ValueError(
                f"out shares memory with {name}; give another tensor (only the residual itself may be out)"
            )


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
