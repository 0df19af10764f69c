"""Multi-scale deformable self-attention over the tokens of a feature pyramid (Deformable DETR, arXiv 2010.04159)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lgrnet.layers.checks import at_least, check_heads
from lgrnet.layers.linear import Linear
from lgrnet.layers.norm import LayerNorm
from lgrnet.ops import ms_deform_attn


def token_centres(shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """The centre (x, y) in 0..1 of every token of all levels: [S, 2]."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centres.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1).flatten(0, 1))
    return torch.cat(centres)


class DeformableAttention(nn.Module):
    """Every token samples `points` places of each of `levels` levels.

    backend  of `lgrnet.ops.ms_deform_attn`
    """

    def __init__(self, dim: int, heads: int = 8, levels: int = 3, points: int = 4, backend: str = "auto"):
        super().__init__()
        check_heads(dim, heads)
        at_least(1, levels=levels, points=points)
        self.heads, self.levels, self.points, self.backend = heads, levels, points, backend
        self.sampling_offsets = Linear(dim, heads * levels * points * 2)
        self.attention_weights = Linear(dim, heads * levels * points)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Point p of head h starts p pixels away in the head's own direction, all points with equal weight."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        offsets = (directions[:, None, None] * steps[:, None]).expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """query and tokens [B, S, C], one query for each token -> [B, S, C]"""
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1))
        reference = token_centres(shapes, query.device)[None, :, None].expand(-1, -1, self.levels, -1)
        sampled = ms_deform_attn(value, offsets, weights, reference, shapes, backend=self.backend)
        return self.output_proj(sampled)


class DeformableBlock(nn.Module):
    """LayerNorm(tokens + deformable attention).

    backend  of `lgrnet.ops.ms_deform_attn`
    """

    def __init__(self, dim: int, heads: int = 8, levels: int = 3, points: int = 4, backend: str = "auto"):
        super().__init__()
        self.attention = DeformableAttention(dim, heads, levels, points, backend)
        self.norm = LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """tokens [B, S, C], position broadcast to it -> [B, S, C]"""
        return self.norm(tokens + self.attention(tokens + position, tokens, shapes))
