"""The neighborhood attention of NATTEN (natten.org), for comparison: taken by name only."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.ops.backends import BackendError, importing

_INSTALL = "pip install natten, on a GPU as natten.org says for this torch and CUDA"


def neighborhood_attention_natten(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shapes: tuple[tuple[int, int], ...],
    window: int,
    dilation: int,
    frame_shift: int,
) -> Tensor:
    """See `lgrnet.ops.neighborhood_attention`: NATTEN's na2d, level by level, frames as a batch.

    Raises BackendError where NATTEN cannot be imported, and for what it cannot do: gradients on a CPU, a window of 1,
    float64, and sizes of heads that its kernels do not have.
    """
    na2d = _load()
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        raise BackendError(
            "backend 'natten' has no gradients on a CPU; call it under torch.no_grad(), move to a GPU, or choose auto "
            "or reference, which are lgrnet's own"
        )
    if frame_shift % q.shape[1]:
        k, v = (t.roll(frame_shift, dims=1) for t in (k, v))
    sizes = [height * width for height, width in shapes]
    levels = zip(shapes, *(t.split(sizes, dim=2) for t in (q, k, v)), strict=True)
    return torch.cat([_level(na2d, *level, window, dilation) for level in levels], dim=2)


def _level(
    na2d: Callable, shape: tuple[int, int], q: Tensor, k: Tensor, v: Tensor, window: int, dilation: int
) -> Tensor:
    """One level: q, k, v [B, T, h * w, heads, d] -> [B, T, h * w, heads, d]."""
    height, width = shape
    # NATTEN refuses a side that is shorter than the window: zero tokens make it as long, as in the reference.
    more = [max(side, window * dilation) - side for side in shape]
    maps = [F.pad(t.flatten(0, 1).unflatten(1, shape), (0, 0, 0, 0, 0, more[1], 0, more[0])) for t in (q, k, v)]
    try:
        out = na2d(*maps, kernel_size=window, dilation=dilation, scale=1.0)  # [B * T, h', w', heads, d]
    except (NotImplementedError, ValueError) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise BackendError(
            f"backend 'natten' cannot do window {window}, dilation {dilation} on q {list(q.shape)} {q.dtype} on "
            f"{q.device} ({type(error).__name__}: {reason}); choose auto or reference, which are lgrnet's own"
        ) from error
    return out[:, :height, :width].flatten(1, 2).unflatten(0, q.shape[:2])


def _load() -> Callable:
    with importing("natten", "natten.na2d", _INSTALL):
        from natten import na2d
    return na2d
