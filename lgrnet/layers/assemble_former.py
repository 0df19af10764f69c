"""AssemFormer of SvANet: a convolution for the neighbourhood and linear attention for the whole map, assembled.

Dai et al., TNNLS 2025. The attention is the separable one of MobileViT v2 (Mehta and Rastegari, 2022), with batch norm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.conv_unit import ConvUnit, make_divisible

PATCH = 2


class AssembleFormer(nn.Module):
    """x + projection of (global, local): both see the map at half the channels (release: AssembleFormer).

    channels   of the map
    depth      attention blocks; 0 leaves the convolutions and a norm
    attention  channel attention between the local convolutions, None: none
    """

    def __init__(self, channels: int, depth: int = 2, attention: nn.Module | None = None):
        super().__init__()
        dim = channels // 2
        self.local = ConvUnit(channels, channels, 3, activation="silu")
        self.attention = nn.Identity() if attention is None else attention
        self.reduce = nn.Conv2d(channels, dim, 1, bias=False)
        blocks = (LinearAttentionBlock(dim) for _ in range(depth))
        self.transformer = nn.Sequential(*blocks, nn.BatchNorm2d(dim))
        self.project = ConvUnit(2 * dim, channels, activation="none")

    def forward(self, x: Tensor) -> Tensor:
        """[batch, C, h, w] -> the same shape.

        As published the last row and column of an odd size are zero in the global half; so is all of a single row.
        """
        local = self.reduce(self.attention(self.local(x)))  # [batch, C / 2, h, w]
        if min(local.shape[-2:]) < PATCH:
            whole = torch.zeros_like(local)
        else:
            whole = from_patches(self.transformer(to_patches(local)), local.shape[-2], local.shape[-1])
        return x + self.project(torch.cat((whole, local), dim=1))


class LinearAttentionBlock(nn.Module):
    """Linear attention and a feed-forward network, each after a batch norm (epsilon 1e-5) and with a residual.

    dim    channels; the network is twice as wide inside, in steps of 16
    """

    def __init__(self, dim: int):
        super().__init__()
        hidden = make_divisible(2 * dim, 16)
        self.attention_norm = nn.BatchNorm2d(dim)
        self.attention = LinearAttention(dim)
        self.ffn_norm = nn.BatchNorm2d(dim)
        self.ffn = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, dim, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """[batch, C, P, N] -> the same shape"""
        patches = patches + self.attention(self.attention_norm(patches))
        return patches + self.ffn(self.ffn_norm(patches))


class LinearAttention(nn.Module):
    """Attention at linear cost: one query channel says how much each patch gives to one shared context.

    Each place inside the patches has its own context, over all N patches.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.query_key_value = nn.Conv2d(dim, 1 + 2 * dim, 1)
        self.output = nn.Conv2d(dim, dim, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """[batch, C, P, N] -> the same shape"""
        query, key, value = self.query_key_value(patches).split((1, self.dim, self.dim), dim=1)
        context = (key * query.softmax(-1)).sum(-1, keepdim=True)  # [batch, C, P, 1]
        return self.output(value.relu() * context)


def to_patches(x: Tensor) -> Tensor:
    """[batch, C, h, w] -> [batch, C, P, N]: P = 4 places inside a 2x2 patch, N patches, both in row-major order.

    The last row and column of an odd size belong to no patch.
    """
    rows, columns = x.shape[-2] // PATCH, x.shape[-1] // PATCH
    x = x[..., : rows * PATCH, : columns * PATCH]
    x = x.unflatten(3, (columns, PATCH)).unflatten(2, (rows, PATCH))  # [batch, C, rows, 2, columns, 2]
    return x.permute(0, 1, 3, 5, 2, 4).flatten(4).flatten(2, 3)


def from_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """The way back, [batch, C, P, N] -> [batch, C, height, width], with zeros where no patch is."""
    rows, columns = height // PATCH, width // PATCH
    x = patches.unflatten(3, (rows, columns)).unflatten(2, (PATCH, PATCH))  # [batch, C, 2, 2, rows, columns]
    x = x.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
    return F.pad(x, (0, width - columns * PATCH, 0, height - rows * PATCH))
