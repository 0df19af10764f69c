"""Multi-head attention in the layout of tokens.

Legend: B images or clips, N queries, M keys, C channels of all heads.
"""

from __future__ import annotations

from torch import Tensor

from lgrnet.ops.attention.cpu import multi_head_attention_cpu
from lgrnet.ops.attention.reference import multi_head_attention_reference
from lgrnet.ops.backends import Backend
from lgrnet.ops.cpu import cannot_run, inference_backend

__all__ = ["multi_head_attention"]

BACKENDS = {
    "cpu": Backend(multi_head_attention_cpu, cannot_run),
    "reference": Backend(multi_head_attention_reference),
}


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, backend: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(C / heads)) v of each head (Vaswani et al., arXiv 1706.03762, section 3.2).

    q        [B, N, C], its channels head by head
    k, v     [B, M, C]; parts of one tensor, such as kv.chunk(2, -1), are read where they lie
    heads    C is a multiple of it
    backend  "cpu" (compiled, no gradients) or "reference", which is torch's scaled_dot_product_attention; "auto" takes
             the first where it can and is faster, as `lgrnet.ops.linear` does. In bfloat16 the kernel rounds softmax's
             weights and the result, and heads of an odd number of channels are torch's

    Returns [B, N, C]; without keys zeros.
    Raises ValueError for shapes, types or devices that do not fit, and BackendError (a ValueError) for a backend that
    is unknown or cannot do this.
    """
    if q.ndim != 3 or heads < 1 or q.shape[2] % heads:
        raise ValueError(f"q has shape {tuple(q.shape)}, expected [B, N, C] with C a multiple of heads = {heads}")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.ndim != 3 or tensor.shape != (q.shape[0], k.shape[1], q.shape[2]):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected [B, M, C] with B = {q.shape[0]}, C = {q.shape[2]}"
                f"{'' if name == 'k' else f' and M = {k.shape[1]} of k'}"
            )
    return inference_backend(BACKENDS, backend, {"q": q, "k": k, "v": v})(q, k, v, heads)
