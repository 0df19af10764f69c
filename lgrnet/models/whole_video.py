"""LGRNet on a video of any length: the stages of encoder and decoder, a few frames at a time.

What grows with the video is held once and changed in place: the tokens, and one map at stride 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrnet.layers.attention import free_rows
from lgrnet.layers.conv import ClipStatistics
from lgrnet.models.lgr_encoder import TOKEN_LEVELS, EncoderLayer, LGREncoder, Shapes
from lgrnet.models.video_decoder import MEMORY_LEVELS, VideoDecoder
from lgrnet.structures import SegOutput


@dataclass
class Video:
    """A video on its way through the encoder.

    tokens  [B, T, S, C];  shapes  of their levels
    fine    [B, T, C, h, w] at stride 4: what the pyramid takes from the backbone, and in the end what it gives
    """

    tokens: Tensor
    shapes: Shapes
    fine: Tensor


def encode(encoder: LGREncoder, parts: Iterable[Mapping[str, Tensor]], spans: Sequence[slice], frames: int) -> Video:
    """`LGREncoder.forward` for a video of `frames` frames.

    parts  the backbone's res2..res5 of the frames of each span, [B, n, C_level, h, w]
    """
    video = _project(encoder, parts, spans, frames)
    position = encoder.position(video.shapes)
    queries, query_position = encoder.queries(video.tokens)
    for layer in encoder.layers:
        queries = _collect(layer, video, spans, queries, position, query_position)
        if layer.scan is not None:
            queries = layer.scan(queries, query_position)
        for span in spans:
            held = None if queries is None else queries[:, span]
            video.tokens[:, span] = layer.spread(video.tokens[:, span], held, position, query_position, video.shapes)
    for span in spans:
        lateral = video.fine[:, span]
        coarse = encoder.maps(video.tokens[:, span], video.shapes)["res3"]
        video.fine[:, span] = encoder.fpn.merge(lateral.flatten(0, 1), coarse.flatten(0, 1)).view_as(lateral)
    return video


def _project(encoder: LGREncoder, parts: Iterable[Mapping[str, Tensor]], spans: Sequence[slice], frames: int) -> Video:
    """The tokens at the start, normalised over the whole video, and the lateral maps of the pyramid."""
    video: Video | None = None
    statistics: dict[str, ClipStatistics] = {}
    for span, features in zip(spans, parts, strict=True):
        projected = {}
        for level in TOKEN_LEVELS:
            projection = encoder.projections[level]
            if not projection.per_clip:
                projected[level] = projection(features[level])
                continue
            projected[level] = projection.project(features[level])
            seen = projection.statistics(projected[level])
            statistics[level] = statistics[level].merge(seen) if level in statistics else seen
        tokens, shapes = encoder.tokens(projected)
        fine = encoder.fpn.lateral(features["res2"].flatten(0, 1)).unflatten(0, tokens.shape[:2])
        if video is None:
            video = Video(_room(tokens, frames), shapes, _room(fine, frames))
        video.tokens[:, span], video.fine[:, span] = tokens, fine
    for span in spans:
        maps = encoder.maps(video.tokens[:, span], video.shapes)
        for level, seen in statistics.items():
            maps[level].copy_(encoder.projections[level].normalise(maps[level], seen))
    return video


def _room(part: Tensor, frames: int) -> Tensor:
    """Memory for all frames of what `part` [B, n, ...] has of some, its axes in the same order there."""
    axes = sorted(range(2, part.ndim), key=part.stride, reverse=True)
    room = part.new_empty(part.shape[0], frames, *(part.shape[axis] for axis in axes))
    return room.permute(0, 1, *(2 + axes.index(axis) for axis in range(2, part.ndim)))


def _collect(
    layer: EncoderLayer,
    video: Video,
    spans: Sequence[slice],
    queries: Tensor | None,
    position: Tensor,
    query_position: Tensor | None,
) -> Tensor | None:
    """`EncoderLayer.collect` of every span: tokens are changed in place, the queries [B, T, N, C] are returned."""
    before = None if layer.propagation is None else layer.propagation.before_first(video.tokens).clone()
    collected = []
    for span in spans:
        tokens, held = video.tokens[:, span], None if queries is None else queries[:, span]
        # The next span looks back at these frames as they are now.
        last = None if before is None else torch.cat((before, tokens), dim=1)[:, -before.shape[1] :]
        tokens[:], held = layer.collect(tokens, held, position, query_position, video.shapes, before)
        before = last
        collected.append(held)
    return None if queries is None else torch.cat(collected, dim=1)


def decode(decoder: VideoDecoder, encoder: LGREncoder, video: Video, spans: Sequence[slice]) -> SegOutput:
    """The last prediction of `VideoDecoder.forward`; of the others only the bits that say where to look are kept."""
    batch, frames = video.tokens.shape[:2]
    queries, position = decoder.queries.content.weight.expand(batch, -1, -1), decoder.queries.position.weight
    for number, layer in enumerate(decoder.layers):
        level = number % len(MEMORY_LEVELS)
        shape = video.shapes[TOKEN_LEVELS.index(MEMORY_LEVELS[level])]
        logits = (decoder.heads(queries, video.fine[:, span]).mask_logits for span in spans)
        # Whether a query finds no place in the whole video is known only when all frames are seen.
        blocked = free_rows(torch.cat([decoder.low(part, shape) for part in logits], dim=-1))
        blocked = blocked.split([(span.stop - span.start) * shape[0] * shape[1] for span in spans], dim=-1)
        seen = None
        for span, part in zip(spans, blocked, strict=True):
            maps = encoder.maps(video.tokens[:, span], video.shapes)
            memory = decoder.level_memory(maps, level, span.start, frames)
            gathered = layer.cross.attention.gather(queries + position, *memory, part)
            seen = gathered if seen is None else seen.merge(gathered)
        queries = layer.update(queries, position, layer.cross.attention.finish(seen))
    outputs = [decoder.heads(queries, video.fine[:, span]) for span in spans]
    return SegOutput(torch.cat([output.mask_logits for output in outputs], dim=2), outputs[0].class_logits)
