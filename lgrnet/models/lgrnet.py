"""LGRNet (Xu et al., MICCAI 2024): local-global reciprocal network for lesion segmentation in video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from lgrnet.layers.library_block import hooked
from lgrnet.layers.mask_head import decided_by_logit, published_masks
from lgrnet.layers.parts import recorded
from lgrnet.models.backbones import LEVELS, TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.segmenter import Segmenter, check_one_clip, frames_at_once, in_unit_range
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.models.whole_video import decode, encode
from lgrnet.records import Candidates, Prediction
from lgrnet.structures import ClipInfo, SegOutput

MASK_STRIDE = 4
"""Pixels of the input behind one mask logit."""


class LGRNet(Segmenter):
    """A clip -> masks of Q queries over the whole clip, with class scores.

    backbone     maps frames to res2..res5 and knows their `channels`
    encoder      makes the encoder from these channels: `partial(LGREncoder, dim=64, ...)`
    decoder      the video decoder, of the same dim as the encoder
    frame_chunk  frames that go through the backbone at once outside training, and through everything in `infer`, so
                 that memory hardly grows with the video; None: see `frames_at_once`

    A video is one clip, however long it is. The release's `test_clip_size`, which cuts it, is left out: it is unset in
    every published config and fails when set.

    Raises ValueError when encoder and decoder differ in dim.
    """

    def __init__(
        self,
        backbone: TimmBackbone,
        encoder: Callable[..., LGREncoder],
        decoder: VideoDecoder,
        frame_chunk: int | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder(channels=backbone.channels)
        self.decoder = decoder
        if self.encoder.dim != decoder.dim:
            raise ValueError(f"encoder has dim {self.encoder.dim}, decoder {decoder.dim}; expected the same")
        self.frame_chunk = frame_chunk

    def features(self, frames: Tensor) -> dict[str, Tensor]:
        """Normalised frames [B, T, 3, H, W] -> res2..res5, each [B, T, C_level, h, w]"""
        flat = frames.flatten(0, 1)
        size = len(flat) if self.training else frames_at_once(self.frame_chunk, flat.device)
        maps, *others = [self.backbone(chunk) for chunk in flat.split(size)]
        if others:  # a single chunk is not copied
            maps = {k: torch.cat([chunk[k] for chunk in (maps, *others)]) for k in LEVELS}
        if not recorded():
            _check_stride(tuple(maps[LEVELS[0]].shape[-2:]), tuple(frames.shape[-2:]))
        return {k: maps[k].unflatten(0, frames.shape[:2]) for k in LEVELS}

    def forward(self, frames: Tensor) -> SegOutput:
        """frames [B, T, 3, H, W] in 0..1 -> mask_logits [B, Q, T, H/4, W/4], class_logits [B, Q, K + 1]"""
        return self.decoder(self.encoder(self.features(self.normalise(frames))))

    @torch.no_grad()
    def infer(self, frames: Tensor) -> SegOutput:
        """What `forward` gives outside training, but without aux: `frame_chunk` frames at a time.

        The memory of a frame is that of its pixels, of one map at stride 4, of its tokens and of its masks. Sums over
        the video are taken in another order than in `forward`, so values differ by rounding. With hooks on layers of
        encoder or decoder (pruning, say) the clip goes through `forward`, which runs them. See `Segmenter.infer`.
        """
        if any(map(hooked, chain(self.encoder.modules(), self.decoder.modules()))):
            return replace(self(in_unit_range(frames)), aux=())
        self.normalise(in_unit_range(frames[:, :1]))  # raises for bad frames before anything is cut
        length, size = frames.shape[1], frames_at_once(self.frame_chunk, frames.device)
        spans = [slice(start, min(start + size, length)) for start in range(0, length, size)]
        parts = (self.features(self.normalise(in_unit_range(frames[:, span]))) for span in spans)
        video = encode(self.encoder, parts, spans, length)
        return decode(self.decoder, self.encoder, video, spans)

    @torch.no_grad()
    def predict(self, output: SegOutput, info: ClipInfo, candidates: bool = False) -> Prediction:
        """The published rule: for each class the query with its highest score, for all frames; mask where logit > 0.

        output      of one clip (B = 1)
        candidates  keep the masks of all Q queries too

        Raises ValueError for a batch of more than one clip.
        """
        check_one_clip(output)
        frames, height, width = info.valid_size
        scores = output.class_logits[0].float().softmax(-1)[:, :-1]  # [Q, K]
        best = scores.argmax(0)  # [K]
        logits = output.mask_logits[0, :, :frames]
        sizes = ((height, width), info.disk_size, MASK_STRIDE)
        maps, masks = decided_by_logit(logits[best], *sizes)
        kept = None
        if candidates:
            kept = Candidates(masks=published_masks(logits, *sizes).numpy(), scores=scores.cpu().numpy())
        return Prediction(
            video=info.video,
            frame_names=info.frame_names,
            scores=scores.amax(0).cpu().numpy(),
            probability=maps.numpy(),
            mask=masks.numpy(),
            candidates=kept,
        )


def _check_stride(finest: tuple[int, int], frame: tuple[int, int]) -> None:
    """Raises ValueError unless the finest map has MASK_STRIDE: masks would be of another place."""
    if finest != tuple(side // MASK_STRIDE for side in frame):
        raise ValueError(
            f"the backbone's finest map is {finest} of frames of {frame}; LGRNet needs maps of strides "
            f"{MASK_STRIDE}, {2 * MASK_STRIDE}, {4 * MASK_STRIDE} and {8 * MASK_STRIDE}"
        )
