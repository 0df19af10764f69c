"""LGRNet's encoder: local propagation between frames, global exchange through frame queries, and back.

The encoder is made of stages: maps over frames (`EncoderLayer.collect`, `EncoderLayer.spread`) and reductions over
the clip (`ClipProjection.statistics`, the frame queries' `scan`). `forward` runs them on a whole clip; a long video
runs the same stages chunk by chunk (whole_video.py).

Legend: B clips, T frames, C channels, S tokens of all levels of a frame (coarse to fine), N frame queries of a frame.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.layers.attention import AttentionBlock, FeedForward, LearnedQueries, free_rows
from lgrnet.layers.checks import at_least
from lgrnet.layers.conv import ClipProjection, ConvNorm
from lgrnet.layers.deformable import DeformableAttention, DeformableBlock
from lgrnet.layers.neighborhood import CyclicPropagation
from lgrnet.layers.position import sine_space
from lgrnet.layers.scan import FrameQueryMixer, GridScan

TOKEN_LEVELS = ("res5", "res4", "res3")
Shapes = Sequence[tuple[int, int]]


class EncoderLayer(nn.Module):
    """One round: propagate, gather into the frame queries, scan them, distribute, deformable attention, feed-forward.

    propagation          None: no cyclic neighborhood propagation
    gather, distribute   None (both): no frame queries; the rest of the round is per frame
    scan                 None: the frame queries of different frames do not exchange
    gather_mask          True: a query gathers only where its similarity to the finest level is positive
    """

    def __init__(
        self,
        propagation: CyclicPropagation | None,
        gather: AttentionBlock | None,
        scan: FrameQueryMixer | None,
        distribute: AttentionBlock | None,
        deformable: DeformableBlock,
        ffn: FeedForward,
        gather_mask: bool = False,
    ):
        super().__init__()
        self.propagation, self.gather, self.scan, self.distribute = propagation, gather, scan, distribute
        self.deformable, self.ffn = deformable, ffn
        self.gather_mask = gather_mask

    def collect(
        self,
        tokens: Tensor,
        queries: Tensor | None,
        token_position: Tensor,
        query_position: Tensor | None,
        shapes: Shapes,
        before: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """First map over frames: tokens [B, T, S, C], queries [B, T, N, C] or None -> both, updated.

        before  the tokens of the frames before this chunk, as `CyclicPropagation` takes them
        """
        if self.propagation is not None:
            tokens = self.propagation(tokens, shapes, before)
        if self.gather is None:
            return tokens, queries
        blocked = self._blocked(tokens, queries, shapes) if self.gather_mask else None
        flat = tokens.flatten(0, 1)  # [B*T, S, C]
        gathered = self.gather(queries.flatten(0, 1), flat + token_position, flat, query_position, blocked)
        return tokens, gathered.unflatten(0, queries.shape[:2])

    def spread(
        self,
        tokens: Tensor,
        queries: Tensor | None,
        token_position: Tensor,
        query_position: Tensor | None,
        shapes: Shapes,
    ) -> Tensor:
        """Second map over frames: tokens [B, T, S, C] and the scanned queries [B, T, N, C] or None -> tokens."""
        flat = tokens.flatten(0, 1)
        if self.distribute is not None:
            held = queries.flatten(0, 1)
            flat = self.distribute(flat, held + query_position, held, token_position)
        flat = self.ffn(self.deformable(flat, token_position, shapes))
        return flat.unflatten(0, tokens.shape[:2])

    @torch.no_grad()
    def _blocked(self, tokens: Tensor, queries: Tensor, shapes: Shapes) -> Tensor:
        """Where a query may not gather: [B*T, 1, N, S] bool."""
        finest = tokens.split([h * w for h, w in shapes], dim=2)[-1]
        similarity = torch.einsum("btnc,btsc->btns", queries, finest).unflatten(-1, shapes[-1]).flatten(0, 1)
        coarser = (F.interpolate(similarity, size=shape, mode="bilinear") for shape in shapes[:-1])
        levels = torch.cat([level.flatten(2) for level in (*coarser, similarity)], dim=-1)
        return free_rows(levels.sigmoid() < 0.5)[:, None]

    def forward(
        self,
        tokens: Tensor,
        queries: Tensor | None,
        token_position: Tensor,
        query_position: Tensor | None,
        shapes: Shapes,
    ) -> tuple[Tensor, Tensor | None]:
        """All stages on a whole clip: tokens [B, T, S, C], queries [B, T, N, C] or None -> both."""
        tokens, queries = self.collect(tokens, queries, token_position, query_position, shapes)
        if self.scan is not None:
            queries = self.scan(queries, query_position)
        return self.spread(tokens, queries, token_position, query_position, shapes), queries


def _layer(
    dim: int,
    heads: int,
    hidden: int,
    points: int,
    propagation: tuple | None,
    has_queries: bool,
    scan: tuple | None,
    gather_mask: bool,
    deform_backend: str,
) -> EncoderLayer:
    """A layer of the encoder; propagation, scan: what these parts take after dim, None leaves the part out."""
    return EncoderLayer(
        None if propagation is None else CyclicPropagation(dim, *propagation),
        AttentionBlock(dim, heads) if has_queries else None,
        None if scan is None else FrameQueryMixer(dim, *scan),
        AttentionBlock(dim, heads) if has_queries else None,
        DeformableBlock(dim, heads, len(TOKEN_LEVELS), points, deform_backend),
        FeedForward(dim, hidden),
        gather_mask,
    )


class FeaturePyramid(nn.Module):
    """One step of a feature pyramid: the encoded res3 is enlarged and added to res2."""

    def __init__(self, channels: int, dim: int):
        super().__init__()
        self.lateral = ConvNorm(channels, dim, 1)
        self.output = ConvNorm(dim, dim, 3, relu=True)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """fine [batch, channels, 2h, 2w], coarse [batch, C, h, w] -> [batch, C, 2h, 2w]"""
        return self.merge(self.lateral(fine), coarse)

    def merge(self, lateral: Tensor, coarse: Tensor) -> Tensor:
        """What follows once `lateral` [batch, C, 2h, 2w] is made of the finer map."""
        enlarged = F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear")
        return self.output(lateral + enlarged)


class LGREncoder(nn.Module):
    """Features of a clip -> features of the same levels, all with `dim` channels, aware of the whole clip.

    channels           of res2..res5 as the backbone gives them
    dim, depth         width of all levels, and how many layers there are
    heads, hidden      of a layer: attention heads, and width of its feed-forward part
    points             samples of deformable attention for each head and level
    propagation_steps  how often a layer propagates between frames
    scan_depth, scan_states, scan_hidden  of a layer's exchange between frame queries: scans, states of a channel, and
                       width of the feed-forward parts
    num_frame_queries  N; 0 leaves out gathering, scanning and distributing (ablation)
    local              False: no cyclic neighborhood propagation (ablation)
    global_mixing      False: the frame queries of different frames do not exchange (ablation)
    scan_order         "hilbert" or "zigzag" (ablation)
    window, dilation   of the propagation: 5 and 1 for polyps, 5 and 2 for fibroids, as published
    gather_mask        True: a query gathers only where its similarity to the finest level is positive (fibroids)
    scan_init          "xavier": the published initialisation overwrites Mamba's decay and time-step rules by Xavier;
                       "mamba": keeps them
    cyclic             see `CyclicPropagation`: published, the first frame follows on the last
    norm_per_clip      see `ClipProjection`: published, the statistics of the projections run over the whole clip
    scan_backend          which `lgrnet.ops.selective_scan`: "auto", or a name, as "mamba_ssm"
    neighborhood_backend  which `lgrnet.ops.neighborhood_attention`: "auto", or a name, as "natten"
    deform_backend        which `lgrnet.ops.ms_deform_attn`: "auto", or a name, as "reference"

    All layers start as copies of one, as published: their matrices are then drawn anew, their biases stay equal.
    Raises ValueError for an unknown scan_init or scan_order and for numbers out of range.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        dim: int = 64,
        depth: int = 3,
        heads: int = 8,
        hidden: int = 1024,
        points: int = 4,
        num_frame_queries: int = 20,
        window: int = 5,
        dilation: int = 1,
        propagation_steps: int = 1,
        scan_order: str = "hilbert",
        scan_depth: int = 3,
        scan_states: int = 16,
        scan_hidden: int = 2048,
        local: bool = True,
        global_mixing: bool = True,
        gather_mask: bool = False,
        scan_init: str = "xavier",
        cyclic: bool = True,
        norm_per_clip: bool = True,
        scan_backend: str = "auto",
        neighborhood_backend: str = "auto",
        deform_backend: str = "auto",
    ):
        super().__init__()
        at_least(0, depth=depth, num_frame_queries=num_frame_queries)
        self.projections = nn.ModuleDict({k: ClipProjection(channels[k], dim, 32, norm_per_clip) for k in TOKEN_LEVELS})
        self.level_embed = nn.Parameter(torch.empty(len(TOKEN_LEVELS), dim))
        self.frame_queries = LearnedQueries(num_frame_queries, dim) if num_frame_queries else None
        mixes = num_frame_queries and global_mixing
        propagation = (heads, window, dilation, propagation_steps, cyclic, neighborhood_backend) if local else None
        scan = (scan_depth, scan_states, scan_order, scan_hidden, scan_backend) if mixes else None
        layer = _layer(
            dim, heads, hidden, points, propagation, num_frame_queries > 0, scan, gather_mask, deform_backend
        )
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(depth))
        self.fpn = FeaturePyramid(channels["res2"], dim)
        self._initialise(scan_init)

    @property
    def dim(self) -> int:
        """Channels of all that comes out."""
        return self.level_embed.shape[1]

    def _initialise(self, scan_init: str) -> None:
        """Xavier for every matrix between projections and pyramid, then the parts with rules of their own."""
        if scan_init not in ("xavier", "mamba"):
            raise ValueError(f"scan_init is {scan_init!r}, expected xavier or mamba")
        parts = [part for part in (self.frame_queries, self.layers) if part is not None]
        for part in parts:
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.level_embed)
        for module in self.layers.modules():
            keeps_own_rule = isinstance(module, DeformableAttention) or (
                isinstance(module, GridScan) and scan_init == "mamba"
            )
            if keeps_own_rule:
                module.reset_parameters()

    def tokens(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Shapes]:
        """Maps [B, T, C, h, w] of each level -> tokens [B, T, S, C] and the shapes of the levels."""
        levels = [maps[k] for k in TOKEN_LEVELS]
        shapes = tuple(tuple(m.shape[-2:]) for m in levels)
        return torch.cat([m.flatten(3).transpose(2, 3) for m in levels], dim=2), shapes

    def maps(self, tokens: Tensor, shapes: Shapes) -> dict[str, Tensor]:
        """The way back of `tokens`, without a copy."""
        levels = tokens.split([h * w for h, w in shapes], dim=2)
        return {
            k: level.transpose(2, 3).unflatten(-1, shape)
            for k, level, shape in zip(TOKEN_LEVELS, levels, shapes, strict=True)
        }

    def position(self, shapes: Shapes) -> Tensor:
        """Where tokens stand in a frame and in the pyramid: [S, C]"""
        return torch.cat(
            [
                sine_space(h, w, self.dim, embed.device).flatten(0, 1).to(embed.dtype) + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )

    def pyramid(self, tokens: Tensor, shapes: Shapes, res2: Tensor) -> dict[str, Tensor]:
        """Encoded tokens [B, T, S, C] and the backbone's res2 [B, T, C2, h, w] -> res2..res5, each [B, T, C, h, w]."""
        maps = self.maps(tokens, shapes)
        fine = self.fpn(res2.flatten(0, 1), maps["res3"].flatten(0, 1))
        return {"res2": fine.unflatten(0, res2.shape[:2]), **maps}

    def queries(self, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The frame queries of tokens [B, T, S, C] at the start, [B, T, N, C], and their positions [N, C]; or None."""
        if self.frame_queries is None:
            return None, None
        content = self.frame_queries.content.weight.expand(*tokens.shape[:2], -1, -1)
        return content, self.frame_queries.position.weight

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """res2..res5, each [B, T, C_level, h, w] of the whole clip -> the same levels, each [B, T, C, h, w]"""
        tokens, shapes = self.tokens({k: self.projections[k](features[k]) for k in TOKEN_LEVELS})
        token_position = self.position(shapes)
        queries, query_position = self.queries(tokens)
        for layer in self.layers:
            tokens, queries = layer(tokens, queries, token_position, query_position, shapes)
        return self.pyramid(tokens, shapes, features["res2"])
