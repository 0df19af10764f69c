"""Cyclic neighborhood propagation: every frame looks at the same place in the frames before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lgrnet.layers.checks import check_heads
from lgrnet.layers.linear import Linear
from lgrnet.layers.norm import LayerNorm
from lgrnet.ops import neighborhood_attention


class NeighborhoodAttention(nn.Module):
    """Neighborhood attention to the `steps` frames before, one weight set for all levels.

    The results of the steps are added, each with the output bias, as published.

    backend  of `lgrnet.ops.neighborhood_attention`
    """

    def __init__(
        self, dim: int, heads: int = 8, window: int = 5, dilation: int = 1, steps: int = 1, backend: str = "auto"
    ):
        super().__init__()
        if window < 1 or window % 2 == 0 or dilation < 1 or steps < 1:
            raise ValueError(
                f"window is {window}, dilation {dilation}, steps {steps}; "
                "expected an odd window, and a dilation and steps of 1 or more"
            )
        check_heads(dim, heads)
        self.heads, self.window, self.dilation, self.steps, self.backend = heads, window, dilation, steps, backend
        self.query = Linear(dim, dim, bias=False)
        self.key_value = Linear(dim, 2 * dim, bias=False)
        self.output = Linear(dim, dim)

    def forward(self, tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """tokens [B, T, S, C] of all levels -> [B, T, S, C]; frame 0 follows on frame T - 1."""
        dim = tokens.shape[-1]
        q = (self.query(tokens) * (dim // self.heads) ** -0.5).unflatten(-1, (self.heads, -1))
        k, v = self.key_value(tokens).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        shifts = range(1, self.steps + 1)
        attended = (
            neighborhood_attention(q, k, v, shapes, self.window, self.dilation, shift, backend=self.backend)
            for shift in shifts
        )
        return sum(self.output(one.flatten(-2)) for one in attended)


class CyclicPropagation(nn.Module):
    """LayerNorm(tokens + attention to the frames before): LGRNet's local block.

    cyclic   True: the first frame of a clip follows on the last one, as published; False: on itself
    backend  of `lgrnet.ops.neighborhood_attention`
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        window: int = 5,
        dilation: int = 1,
        steps: int = 1,
        cyclic: bool = True,
        backend: str = "auto",
    ):
        super().__init__()
        self.cyclic = cyclic
        self.attention = NeighborhoodAttention(dim, heads, window, dilation, steps, backend)
        self.norm = LayerNorm(dim)

    def before_first(self, tokens: Tensor) -> Tensor:
        """What the first frames of a whole clip [B, T, S, C] look back at: [B, steps, S, C]."""
        steps = self.attention.steps
        if not self.cyclic:
            return tokens[:, :1].expand(-1, steps, -1, -1)
        return torch.stack([tokens[:, -step % tokens.shape[1]] for step in range(steps, 0, -1)], dim=1)

    def forward(self, tokens: Tensor, shapes: Sequence[tuple[int, int]], before: Tensor | None = None) -> Tensor:
        """tokens [B, T, S, C] -> [B, T, S, C].

        before  [B, steps, S, C], the frames before a chunk of a longer video, for its first chunk `before_first`.
                None: the tokens are the whole clip.
        """
        if before is None and not self.cyclic:
            before = self.before_first(tokens)
        if before is None:
            return self.norm(tokens + self.attention(tokens, shapes))
        attended = self.attention(torch.cat((before, tokens), dim=1), shapes)[:, before.shape[1] :]
        return self.norm(tokens + attended)
