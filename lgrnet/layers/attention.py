"""Attention and feed-forward blocks with the norm after the residual ("post-norm"); tokens are [batch, L, C]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.checks import at_least, check_heads
from lgrnet.layers.linear import Linear
from lgrnet.layers.norm import LayerNorm
from lgrnet.layers.parts import at_least_float32, in_parts
from lgrnet.ops import linear, multi_head_attention

AT_ONCE = 2**20
"""Hidden numbers of a feed-forward block at a time on a CPU: 4 MB, which its caches hold."""


@dataclass(frozen=True)
class Gathered:
    """What queries have gathered from some of the keys, so that the rest can be added (online softmax).

    In float32 at least: of hundreds of parts the shares would not have the sum 1 in half precision.

    value       [B, heads, Q, d], the softmax-weighted mean over these keys
    log_weight  [B, heads, Q], logarithm of the sum of exponentials behind it; -inf: no key was free
    """

    value: Tensor
    log_weight: Tensor

    def merge(self, other: Gathered) -> Gathered:
        """As if the keys of both had been seen at once."""
        total = torch.logaddexp(self.log_weight, other.log_weight)
        none = total == -torch.inf
        shares = ((part.log_weight - total).exp().masked_fill(none, 0)[..., None] for part in (self, other))
        return Gathered(sum(share * part.value for share, part in zip(shares, (self, other), strict=True)), total)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., arXiv 1706.03762) with the parameter names of nn.MultiheadAttention.

    `forward` sees all keys. Where they come in chunks, `gather` from each, merge, and `finish`.

    backend  of `multi_head_attention`, where every key is free
    """

    def __init__(self, dim: int, heads: int = 8, backend: str = "auto"):
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.backend = heads, backend
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        """query [B, Q, C], key and value [B, S, C], blocked [B, 1 or heads, Q, S] bool or None -> [B, Q, C].

        Where `blocked` is True a key takes no part; no row may be blocked everywhere (see `free_rows`).
        """
        q, k, v = self._project(query, key, value)
        if blocked is None:
            return self.out_proj(multi_head_attention(q, k, v, self.heads, backend=self.backend))
        q, k, v = self._by_heads(q, k, v)
        return self._output(F.scaled_dot_product_attention(q, k, v, attn_mask=~blocked))

    def gather(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Gathered:
        """The same for a chunk of the keys; here a row may be blocked everywhere."""
        q, k, v = self._by_heads(*self._project(query, key, value))
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = map(at_least_float32, (q, k, v))
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if blocked is None:
                return Gathered(logits.softmax(-1) @ v, logits.logsumexp(-1))
            logits = logits.masked_fill(blocked, -torch.inf)
            weights = logits.softmax(-1).masked_fill(blocked.all(-1, keepdim=True), 0)
            return Gathered(weights @ v, logits.logsumexp(-1))

    def finish(self, gathered: Gathered) -> Tensor:
        """What `forward` returns, from all keys gathered: [B, Q, C]"""
        return self._output(gathered.value.to(self.out_proj.weight.dtype))

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values, each [B, L, C], head by head."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        inputs = zip((query, key, value), weights, biases, strict=True)
        return [linear(x, weight, bias) for x, weight, bias in inputs]

    def _by_heads(self, *tokens: Tensor) -> list[Tensor]:
        """Each [B, L, C] -> [B, heads, L, C / heads]"""
        return [t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in tokens]

    def _output(self, attended: Tensor) -> Tensor:
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class LearnedQueries(nn.Module):
    """A table of learned queries: what they hold at the start (`content`), and where they stand (`position`)."""

    def __init__(self, number: int, dim: int):
        super().__init__()
        at_least(1, number=number)
        self.content = nn.Embedding(number, dim)
        self.position = nn.Embedding(number, dim)


def free_rows(blocked: Tensor) -> Tensor:
    """Unblocks the rows of a mask [..., S] that are blocked everywhere: such a query attends to everything."""
    return blocked & ~blocked.all(dim=-1, keepdim=True)


class AttentionBlock(nn.Module):
    """LayerNorm(x + attention(x, ...))."""

    def __init__(self, dim: int, heads: int = 8):
        super().__init__()
        self.attention = Attention(dim, heads)
        self.norm = LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        key: Tensor,
        value: Tensor,
        position: Tensor | float = 0.0,
        blocked: Tensor | None = None,
    ) -> Tensor:
        """x [B, Q, C] with its `position` (broadcast), key and value [B, S, C] -> [B, Q, C]."""
        return self.norm(x + self.attention(x + position, key, value, blocked))


class FeedForward(nn.Module):
    """LayerNorm(x + W2 relu(W1 x))."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        at_least(1, hidden=hidden)
        self.linear1 = Linear(dim, hidden)
        self.linear2 = Linear(hidden, dim)
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]"""
        return self.norm(in_parts(self._through, x.flatten(0, -2), self.linear1.out_features, AT_ONCE).view_as(x))

    def _through(self, rows: Tensor) -> Tensor:
        # Of a matrix: with more axes a linear layer's result is a view, and then autograd copies gradients for relu_.
        return rows + self.linear2(F.relu(self.linear1(rows), inplace=True))


class MultiLayerPerceptron(nn.Module):
    """`depth` linear layers with ReLU between."""

    def __init__(self, dim: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]"""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        return self.layers[-1](x)
