"""The decoder's mask heads: masks of 10 queries from four calls, and where the next layer may not look.

Inputs: queries [4, B, Q, C] as they reach the four heads, and the features at stride 4, [B, T, C, h, w].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from benchmarks.modules import in_type_of_input
from lgrnet.layers.attention import free_rows
from lgrnet.models.video_decoder import VideoDecoder

CALLS, QUERIES, CHANNELS, HEADS, SCALE = 4, 10, 64, 8, 4
BITS = 1e-5
"""The share of bits that may differ from those of float64: logits within rounding of the threshold."""


class DirectHeads(nn.Module):
    """As lgrnet does it: blocked places straight from the logits at stride 4.

    enlarge  True: the last masks are enlarged to full size, too
    """

    def __init__(self, decoder: VideoDecoder, enlarge: bool = False):
        super().__init__()
        self.decoder, self.enlarge = decoder, enlarge

    def forward(self, queries: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """-> blocked places of each call, [B, 1, Q, T * h * w] bool"""
        blocked = []
        for at, shape in zip(queries, _levels(features), strict=True):
            logits = self.decoder.heads(at, features).mask_logits
            blocked.append(free_rows(self.decoder.low(logits, shape)))
        if self.enlarge:
            F.interpolate(logits.flatten(0, 1), scale_factor=SCALE, mode="bilinear")
        return tuple(blocked)


class PublishedHeads(nn.Module):
    """As LGRNet was published: masks at full size from every call, all kept; copies of them shrunk and compared."""

    def __init__(self, decoder: VideoDecoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, queries: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """See `DirectHeads`."""
        blocked, kept = [], []
        for at, shape in zip(queries, _levels(features), strict=True):
            normed = self.decoder.norm(at)
            self.decoder.class_head(normed)
            logits = torch.einsum("bqc,btchw->btqhw", self.decoder.mask_embed(normed), features)
            full = F.interpolate(logits.flatten(0, 1), scale_factor=SCALE, mode="bilinear")
            kept.append(full)
            small = F.interpolate(full.detach().clone(), size=shape, mode="bilinear")
            low = (small < self.decoder.attention_threshold).unflatten(0, logits.shape[:2])  # [B, T, Q, h, w]
            low = low.transpose(1, 2).flatten(2)[:, None].repeat(1, HEADS, 1, 1)  # [B, heads, Q, T * h * w]
            blocked.append(free_rows(low)[:, :1])
        return tuple(blocked)


def _levels(features: Tensor) -> list[tuple[int, int]]:
    """Strides 32, 16 and 8, coarse to fine, and again the coarsest for the last call."""
    height, width = features.shape[-2:]
    coarse_to_fine = [(height // n, width // n) for n in (8, 4, 2)]
    return [*coarse_to_fine, coarse_to_fine[0]]


def cases(quick: bool) -> list[Case]:
    """Clips of 352 x 352."""
    frames, side = ((2,), 16) if quick else ((6, 60), 88)
    return [Case(f"T={n}", {"frames": n, "side": side}, n) for n in frames]


def _decoder(device: str, backend: str = "auto") -> VideoDecoder:
    torch.manual_seed(0)
    return VideoDecoder(dim=CHANNELS, mask_backend=backend).eval().requires_grad_(False).to(device)


def problem(case: Case, device: str) -> Problem:
    """Logits of either sign."""
    decoder, by_torch = _decoder(device), _decoder(device, "reference")
    side = case.sizes["side"]
    queries = torch.randn(CALLS, 1, QUERIES, CHANNELS, device=device)
    features = 4 * torch.randn(1, case.sizes["frames"], CHANNELS, side, side, device=device)
    truth = in_type_of_input(PublishedHeads(decoder))
    return Problem((queries, features), truth, {"decoder": decoder, "by_torch": by_torch})


OP = Op(
    "heads",
    cases,
    problem,
    (
        Peer(OURS, lambda p: in_type_of_input(DirectHeads(p.fixed["decoder"])), tolerance=BITS),
        Peer(
            "ours and last masks x4", lambda p: in_type_of_input(DirectHeads(p.fixed["decoder"], True)), tolerance=BITS
        ),
        Peer("torch's products", lambda p: in_type_of_input(DirectHeads(p.fixed["by_torch"])), tolerance=BITS),
        Peer("published way", lambda p: in_type_of_input(PublishedHeads(p.fixed["decoder"])), tolerance=BITS),
    ),
    modes=("fwd",),
    dtypes=("fp32",),
)
