"""What all models have in common: pixel statistics, the stride of their input, and clear errors for bad input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
