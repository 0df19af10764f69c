"""The video decoder: queries over a whole clip, refined by masked attention (Mask2Former, arXiv 2112.01527).

Legend: B clips, T frames, C channels, Q queries, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.attention import AttentionBlock, FeedForward, LearnedQueries, MultiLayerPerceptron, free_rows
from lgrnet.layers.checks import at_least, check_heads
from lgrnet.layers.norm import LayerNorm
from lgrnet.layers.position import sine_space_time
from lgrnet.ops import mask_logits
from lgrnet.structures import SegOutput

MEMORY_LEVELS = ("res5", "res4", "res3")


class DecoderLayer(nn.Module):
    """Masked attention to one level of the clip, attention between the queries, feed-forward."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.cross = AttentionBlock(dim, heads)
        self.self_attention = AttentionBlock(dim, heads)
        self.ffn = FeedForward(dim, hidden)

    def forward(self, queries: Tensor, position: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
        """queries [B, Q, C], key and value [B, T*h*w, C], blocked [B, 1, Q, T*h*w] -> [B, Q, C]"""
        return self.update(queries, position, self.cross.attention(queries + position, key, value, blocked))

    def update(self, queries: Tensor, position: Tensor, seen: Tensor) -> Tensor:
        """What follows once the queries have looked at the whole clip: `seen` [B, Q, C] is what they saw there."""
        queries = self.cross.norm(queries + seen)
        queries = self.self_attention(queries, queries + position, queries, position)
        return self.ffn(queries)


class VideoDecoder(nn.Module):
    """Clip features res2..res5 [B, T, C, h, w] -> masks and classes of Q queries after every layer.

    dim, depth           width, that of the encoder, and how many layers there are
    num_classes          K, without background
    num_queries          Q, the masks of a clip
    heads, hidden        of a layer: attention heads, and width of its feed-forward part
    attention_threshold  a place is blocked where the mask logit is below this. Published: 0.5, a probability applied
                         to a logit (so probability 0.622)
    identical_layers     True: all layers start as copies of the first, as published
    level_in_value       True: the level embedding is part of keys and values, as published; False: of the keys alone
    mask_backend         of `mask_logits`

    Made of stages, like the encoder: `heads`, `low` and `memory` are maps over frames, looking at the clip is a
    reduction (`Attention.gather`), and `DecoderLayer.update` follows once per clip.
    """

    def __init__(
        self,
        dim: int = 64,
        num_classes: int = 1,
        num_queries: int = 10,
        depth: int = 3,
        heads: int = 8,
        hidden: int = 2048,
        attention_threshold: float = 0.5,
        identical_layers: bool = True,
        level_in_value: bool = True,
        mask_backend: str = "auto",
    ):
        super().__init__()
        at_least(1, num_queries=num_queries, num_classes=num_classes)
        at_least(0, depth=depth)
        check_heads(dim, heads)
        self.dim = dim
        self.attention_threshold = attention_threshold
        self.level_in_value = level_in_value
        self.mask_backend = mask_backend
        self.level_embed = nn.Embedding(len(MEMORY_LEVELS), dim)
        self.queries = LearnedQueries(num_queries, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, hidden) for _ in range(depth))
        self.norm = LayerNorm(dim)
        self.mask_embed = MultiLayerPerceptron(dim, 3)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self._initialise(identical_layers)

    def _initialise(self, identical_layers: bool) -> None:
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        if identical_layers:
            for i in range(1, len(self.layers)):
                self.layers[i] = copy.deepcopy(self.layers[0])

    def heads(self, queries: Tensor, mask_features: Tensor) -> SegOutput:
        """queries [B, Q, C], mask_features [B, T, C, h, w] -> masks at the features' size, and classes."""
        queries = self.norm(queries)
        by_frame = mask_logits(self.mask_embed(queries), mask_features, backend=self.mask_backend)  # [B, T, Q, h, w]
        return SegOutput(mask_logits=by_frame.transpose(1, 2), class_logits=self.class_head(queries))

    @torch.no_grad()
    def low(self, mask_logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Where the mask of a query is too weak to look at: mask_logits [B, Q, T, h, w] -> [B, 1, Q, T * shape] bool.

        Straight from the logits: enlarging them four times first, as published, gives the same bits. A query may not
        look at these places, unless its mask is too weak in the whole clip (`free_rows`).
        """
        batch, queries, frames = mask_logits.shape[:3]
        by_frame = mask_logits.transpose(1, 2).flatten(0, 1)  # [B*T, Q, h, w], as `heads` has left them
        weak = _shrunk(by_frame, shape) < self.attention_threshold
        return weak.view(batch, frames, queries, -1).transpose(1, 2).flatten(2)[:, None]

    def memory(
        self, features: Mapping[str, Tensor], start: int = 0, total: int | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Key and value, each [B, T*h*w, C], of every level.

        start, total  for a chunk of a longer video: its first frame, and the frames of the whole video
        """
        return [self.level_memory(features, level, start, total) for level in range(len(MEMORY_LEVELS))]

    def level_memory(
        self, features: Mapping[str, Tensor], level: int, start: int = 0, total: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """`memory` of one of MEMORY_LEVELS."""
        maps, embed = features[MEMORY_LEVELS[level]], self.level_embed.weight[level]
        _, frames, dim, height, width = maps.shape
        tokens = maps.permute(0, 1, 3, 4, 2).flatten(1, 3)
        span = slice(start, start + frames)
        position = sine_space_time(total or frames, height, width, dim, tokens.device, span).flatten(0, 2)
        return tokens + embed + position.to(embed.dtype), tokens + embed if self.level_in_value else tokens

    def forward(self, features: Mapping[str, Tensor]) -> SegOutput:
        """res2..res5, each [B, T, C, h, w] -> SegOutput at the stride of res2, with all earlier predictions in aux."""
        batch = features["res2"].shape[0]
        queries = self.queries.content.weight.expand(batch, -1, -1)
        position = self.queries.position.weight
        memory = self.memory(features)
        predictions = [self.heads(queries, features["res2"])]
        for i, layer in enumerate(self.layers):
            level = i % len(MEMORY_LEVELS)
            low = self.low(predictions[-1].mask_logits, features[MEMORY_LEVELS[level]].shape[-2:])
            queries = layer(queries, position, *memory[level], free_rows(low))
            predictions.append(self.heads(queries, features["res2"]))
        last = predictions[-1]
        return SegOutput(last.mask_logits, last.class_logits, aux=tuple(predictions[:-1]))


def _shrunk(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, *shape], bilinear with align_corners=False.

    By a whole even factor that is the mean of the four places around each centre, up to the rounding of their sum; a
    CPU is faster that way.
    """
    (height, width), factor = maps.shape[-2:], maps.shape[-1] // max(shape[1], 1)
    whole = factor > 0 and factor % 2 == 0 and (height, width) == (factor * shape[0], factor * shape[1])
    if not whole or maps.device.type != "cpu" or maps.dtype != torch.float32:
        return F.interpolate(maps, size=shape, mode="bilinear")
    before, behind = slice(factor // 2 - 1, None, factor), slice(factor // 2, None, factor)
    upper, lower = (maps[..., rows, before] + maps[..., rows, behind] for rows in (before, behind))
    return (upper + lower) * 0.25
