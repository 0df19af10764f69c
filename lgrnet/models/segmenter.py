"""What all models have in common: pixel statistics, the stride of their input, and clear errors for bad input."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from lgrnet.layers.mask_head import decided_by_logit, decided_by_probability
from lgrnet.layers.parts import recorded
from lgrnet.ops.backends import transformed
from lgrnet.records import Prediction
from lgrnet.structures import ClipInfo, SegOutput

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
_FAR = 30.0
"""Deviations from the mean that no picture in the right range has."""


class Segmenter(nn.Module):
    """frames [B, T, 3, H, W] in 0..1 -> SegOutput; H and W are multiples of `stride`.

    Pixel mean and std are buffers that are not saved, and float32 whatever the weights are. A still image is a clip
    with T = 1.
    """

    stride = 32

    def __init__(self, pixel_mean: tuple[float, ...] = PIXEL_MEAN, pixel_std: tuple[float, ...] = PIXEL_STD):
        super().__init__()
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def _apply(self, *args, **more) -> Segmenter:
        """What moves and converts a module; of rounded pixel statistics the digits would not come back."""
        exact = {name: getattr(self, name) for name in ("pixel_mean", "pixel_std")}
        super()._apply(*args, **more)
        for name, buffer in exact.items():
            if (converted := getattr(self, name)).dtype != buffer.dtype:
                setattr(self, name, buffer.to(converted.device))
        return self

    def normalise(self, frames: Tensor) -> Tensor:
        """Frames in 0..1 -> zero mean and unit variance for each channel, same shape. Raises ValueError.

        Warns of frames far outside of 0..1, such as floats in 0..255; on a CPU only, for a GPU would have to be waited
        for.
        """
        if not isinstance(frames, Tensor):
            raise ValueError(f"frames are a {type(frames).__name__}, expected a tensor; use torch.from_numpy")
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
        weights = next(self.parameters(), self.pixel_mean)
        frames = frames.to(torch.promote_types(frames.dtype, weights.dtype))
        normal = (frames - self.pixel_mean) / self.pixel_std
        if frames.device.type == "cpu" and not recorded() and not transformed():
            low, high = normal.detach().aminmax()
            if max(-low, high) > _FAR:
                warnings.warn(
                    f"frames reach from {frames.amin():g} to {frames.amax():g}, expected 0..1; divide by 255, or give "
                    "uint8 to `infer` or a Predictor",
                    stacklevel=2,
                )
        return normal.to(weights.dtype)

    @torch.no_grad()
    def infer(self, frames: Tensor) -> SegOutput:
        """As `forward`, for videos of any length: models that can go through them a few frames at a time do.

        frames  as for `forward`, or uint8 in 0..255, which takes a quarter of the memory

        There are no gradients, and `aux` may be empty.
        """
        return self(in_unit_range(frames))


def frames_at_once(chosen: int | None, device: torch.device) -> int:
    """How many frames go through a network together: `chosen`, or on a CPU so few that their features stay in its
    caches and its allocator keeps their memory, on a GPU enough to keep it busy.

    Raises ValueError for less than one.
    """
    if chosen is not None and chosen < 1:
        raise ValueError(f"frames at once are {chosen}; expected at least 1, or None")
    return chosen or (2 if device.type == "cpu" else 16)


def check_one_clip(output: SegOutput) -> None:
    """Raises ValueError for an output of several clips."""
    if len(output.mask_logits) != 1:
        raise ValueError(f"output holds {len(output.mask_logits)} clips, expected 1: predict one video at a time")


def in_unit_range(frames: Tensor) -> Tensor:
    """uint8 frames as float32 in 0..1; others as they are."""
    return frames.float().div(255) if frames.dtype == torch.uint8 else frames


DECISIONS = ("logit", "sigmoid", "softmax")


class PerFrame(Segmenter):
    """A still-image network on clips: the frames are folded into the batch, and no frame knows of another.

    net       maps normalised frames [batch, 3, H, W] to logits [batch, channels, h, w] with h = H / net.mask_stride,
              rounded up; logits of another size (SvANet's output_size, SSFormer on sides that are no multiples of 4)
              cover the frames, and predictions resize them to these;
              net.stride, where it has one, is what H and W must be multiples of (else 32)
    chunk     frames that go through the network at once outside training; None: see `frames_at_once`
    decision  how a prediction is made of the logits:
              "logit"    channel k is class k; logits enlarged, above 0, nearest to disk size
              "sigmoid"  channel k is class k; sigmoid, probabilities resized to disk size, above 0.5 (SSFormer). They
                         go there at once, whatever the logits' size; where frames are padded, logits are first brought
                         to the frames' size and cut
              "softmax"  channel 0 is background, channel k + 1 is class k; softmax over the channels, probabilities
                         resized to disk size, the largest
    pixel_mean, pixel_std  what frames in 0..1 are normalised with; (0, 0, 0) and (1, 1, 1) leave them (SvANet)

    Raises ValueError for another decision.
    """

    def __init__(
        self,
        net: nn.Module,
        chunk: int | None = None,
        decision: str = "logit",
        pixel_mean: tuple[float, ...] = PIXEL_MEAN,
        pixel_std: tuple[float, ...] = PIXEL_STD,
    ):
        super().__init__(pixel_mean, pixel_std)
        if decision not in DECISIONS:
            raise ValueError(f"decision is {decision!r}, expected one of {', '.join(DECISIONS)}")
        self.net = net
        self.stride = getattr(net, "stride", Segmenter.stride)
        self.frame_chunk = chunk
        self.decision = decision

    @property
    def backbone(self) -> nn.Module:
        """The network's backbone, where it has one."""
        return self.net.backbone

    def forward(self, frames: Tensor) -> SegOutput:
        """frames [B, T, 3, H, W] in 0..1 -> mask_logits [B, channels, T, h, w] and their activation"""
        size = frames.shape[1] if self.training else frames_at_once(self.frame_chunk, frames.device)
        parts = (self.normalise(part) for part in frames.split(size, dim=1))
        logits = torch.cat([self.net(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in parts], dim=1)
        activation = "softmax" if self.decision == "softmax" else "sigmoid"
        return SegOutput(logits.transpose(1, 2), activation=activation, frame_size=tuple(frames.shape[-2:]))

    @torch.no_grad()
    def infer(self, frames: Tensor) -> SegOutput:
        """See `Segmenter.infer`; hooks of the model see every part."""
        size = frames_at_once(self.frame_chunk, frames.device)
        parts = [self(in_unit_range(part)) for part in frames.split(size, dim=1)]
        return replace(parts[0], mask_logits=torch.cat([part.mask_logits for part in parts], dim=2))

    @torch.no_grad()
    def predict(self, output: SegOutput, info: ClipInfo) -> Prediction:
        """A mask for each class by the model's `decision`; its score is the largest probability in the video.

        Raises ValueError for a batch of more than one clip.
        """
        check_one_clip(output)
        frames, height, width = info.valid_size
        logits = output.mask_logits[0, :, :frames]
        size, scale = self._place(output, (height, width))
        rows, columns = _covered(logits, size, scale)
        seen = logits[..., :rows, :columns].float()
        share = seen.softmax(0)[1:] if output.activation == "softmax" else seen.sigmoid()
        sizes = (size, info.disk_size, scale)
        if self.decision == "logit":
            maps, masks = decided_by_logit(logits, *sizes)
        else:
            maps, masks = decided_by_probability(logits, *sizes, output.activation)
        return Prediction(
            video=info.video,
            frame_names=info.frame_names,
            scores=share.flatten(1).amax(1).cpu().numpy(),
            probability=maps.numpy(),
            mask=masks.numpy(),
        )

    def _place(self, output: SegOutput, valid_size: tuple[int, int]) -> tuple[tuple[int, int], int | tuple[int, int]]:
        """What the masks cover: `valid_size` and `scale` of `decided_by_logit`."""
        stride, frames, own = self.net.mask_stride, output.frame_size, tuple(output.mask_logits.shape[-2:])
        if self.decision == "sigmoid" and frames == valid_size:
            return own, 1
        if frames is None or own == tuple(-(-side // stride) for side in frames):
            return valid_size, stride
        return valid_size, frames


def _covered(logits: Tensor, valid_size: tuple[int, int], scale: int | tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns of logits [..., h, w] lie in the frames before padding."""
    if isinstance(scale, int):
        return tuple(-(-side // scale) for side in valid_size)
    sides = zip(logits.shape[-2:], valid_size, scale, strict=True)
    return tuple(-(-own * side // full) for own, side, full in sides)
