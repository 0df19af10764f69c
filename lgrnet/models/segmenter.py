"""What all models have in common: pixel statistics, the stride of their input, and clear errors for bad input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lgrnet.layers.mask_head import probability_maps, published_masks
from lgrnet.records import Prediction
from lgrnet.structures import ClipInfo, SegOutput

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """frames [B, T, 3, H, W] in 0..1 -> SegOutput; H and W are multiples of `stride`.

    Pixel mean and std are buffers that are not saved. A still image is a clip with T = 1.
    """

    stride = 32

    def __init__(self, pixel_mean: tuple[float, ...] = PIXEL_MEAN, pixel_std: tuple[float, ...] = PIXEL_STD):
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(3, 1, 1), persistent=False)

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames in 0..1 -> zero mean and unit variance for each channel, same shape. Raises ValueError."""
        if frames.ndim != 5 or frames.shape[2] != 3 or 0 in frames.shape:
            raise ValueError(
                f"frames have shape {tuple(frames.shape)}, expected [B, T, 3, H, W] with at least one frame; "
                "give a still image as [B, 1, 3, H, W]"
            )
        if not frames.is_floating_point():
            raise ValueError(f"frames are {frames.dtype}, expected float32 in 0..1; divide uint8 frames by 255")
        height, width = frames.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"frames are {height} x {width}, expected multiples of {self.stride}; "
                f"resize them, or pad with lgrnet.data.loader.collate(clips, stride={self.stride})"
            )
        return (frames - self.pixel_mean) / self.pixel_std


class PerFrame(Segmenter):
    """A still-image network on clips: the frames are folded into the batch, and no frame knows of another.

    net    maps normalised frames [batch, 3, H, W] to logits [batch, K, h, w], one channel for each class, with
           h = H / net.mask_stride
    chunk  frames that go through the network at once outside training
    """

    def __init__(self, net: nn.Module, chunk: int = 8):
        super().__init__()
        self.net = net
        self.frame_chunk = chunk

    def forward(self, frames: Tensor) -> SegOutput:
        """frames [B, T, 3, H, W] in 0..1 -> mask_logits [B, K, T, h, w]; channel k is class k"""
        flat = self.normalise(frames).flatten(0, 1)
        parts = [flat] if self.training else flat.split(self.frame_chunk)
        logits = torch.cat([self.net(part) for part in parts])
        return SegOutput(logits.unflatten(0, frames.shape[:2]).transpose(1, 2))

    @torch.no_grad()
    def predict(self, output: SegOutput, info: ClipInfo) -> Prediction:
        """A mask for each class where its logit is above 0; its score is the largest probability in the video."""
        frames, height, width = info.valid_size
        logits = output.mask_logits[0, :, :frames]
        sizes = ((height, width), info.disk_size, self.net.mask_stride)
        return Prediction(
            video=info.video,
            frame_names=info.frame_names,
            scores=logits.float().flatten(1).amax(1).sigmoid().cpu().numpy(),
            probability=probability_maps(logits, *sizes).numpy(),
            mask=published_masks(logits, *sizes).numpy(),
        )
