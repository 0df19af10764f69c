"""Neighborhood attention between the frames of a clip, over all levels of a feature pyramid.

Legend: B clips, T frames, S tokens of all levels (row-major, one level after the other), d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lgrnet.ops import gpu
from lgrnet.ops.backends import Backend, check_tensors, choose
from lgrnet.ops.cpu import cannot_run
from lgrnet.ops.neighborhood.cpu import neighborhood_attention_cpu
from lgrnet.ops.neighborhood.peers import neighborhood_attention_natten
from lgrnet.ops.neighborhood.reference import neighborhood_attention_reference

__all__ = ["neighborhood_attention"]

FARTHEST = 2**20
"""The largest window times dilation: kernels count places in 32 and 64 bits."""
BACKENDS = {
    "cpu": Backend(neighborhood_attention_cpu, cannot_run),
    "triton": Backend(gpu.lazily("neighborhood", "neighborhood_attention_triton"), gpu.cannot_run),
    "reference": Backend(neighborhood_attention_reference),
}
PEERS = {"natten": neighborhood_attention_natten}


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shapes: Sequence[tuple[int, int]],
    window: int,
    dilation: int = 1,
    frame_shift: int = 1,
    *,
    backend: str = "auto",
) -> Tensor:
    """Each token of frame t attends to window x window tokens around its place in frame (t - frame_shift) mod T.

    The rule of the windows is that of neighborhood attention (Hassani et al., arXiv 2204.07143; dilated: arXiv
    2209.15001): along an axis the window holds every `dilation`-th position around the query, and at a border it is
    shifted, never shrunk. An axis shorter than window * dilation is extended by zero keys with zero values at its
    end; these take part in the softmax, as in the published LGRNet.

    q, k, v      [B, T, S, heads, d]; q is used as it is: scale it by d ** -0.5 before
    shapes       ((h, w), ...) of the levels, sum of h * w = S
    window       odd number of keys along an axis
    frame_shift  how many frames back the keys and values are, cyclically; 0: the same frame
    backend      "auto" takes the fastest of ours that can; a name forces it: "cpu" (compiled, float32 inside),
                 "triton" (CUDA, float32 inside), "reference", or "natten": NATTEN, on a CPU without gradients

    Returns [B, T, S, heads, d]. Raises ValueError for shapes, types or devices that do not fit, and BackendError (a
    ValueError) for a backend that is unknown, not installed, or cannot do this.
    """
    tokens = sum(h * w for h, w in shapes)
    if q.ndim != 5 or q.shape != k.shape or q.shape != v.shape or q.shape[2] != tokens:
        raise ValueError(
            f"q, k, v have shapes {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}; "
            f"expected three times [B, T, {tokens}, heads, d] for levels {tuple(shapes)}"
        )
    if window < 1 or window % 2 == 0 or dilation < 1:
        raise ValueError(f"window is {window}, dilation {dilation}; expected an odd window and a dilation of 1 or more")
    if window * dilation > FARTHEST:
        raise ValueError(f"window is {window}, dilation {dilation}; expected a product of at most {FARTHEST}")
    check_tensors(q=q, k=k, v=v)
    attention = choose(BACKENDS, backend, q, PEERS)
    return attention(q, k, v, tuple(map(tuple, shapes)), window, dilation, frame_shift)
