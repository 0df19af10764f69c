"""The tensors that rooms hand to each other.

Letters: B clips, T frames, N objects, Q queries, K classes (background not counted), H W pixels,
h w features. A still image is a clip with T = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What a clip should be segmented into.

    labels     [N] int64, 0-based foreground class of each object
    masks      [N, T, H, W] float32 in 0..1 (soft masks are allowed)
    valid      [T, H, W] bool, False: the pixel is ignored by losses
    annotated  [T] bool, False: the frame has no annotation and takes part in no loss
    """

    labels: Tensor
    masks: Tensor
    valid: Tensor
    annotated: Tensor

    @property
    def counted(self) -> Tensor:
        """[T] bool: the frames that take part in a loss, annotated ones with a pixel that is not to be ignored."""
        return self.annotated & self.valid.flatten(1).any(1)

    def to(self, device, non_blocking: bool = False) -> Targets:
        move = {k: v.to(device, non_blocking=non_blocking) for k, v in vars(self).items()}
        return Targets(**move)

    def pin_memory(self) -> Targets:
        return Targets(**{k: v.pin_memory() for k, v in vars(self).items()})


@dataclass(frozen=True)
class ClipInfo:
    """Where a clip comes from and how large it was before it was resized and padded.

    video         name of the video
    frame_names   stems of the frames' files, one per frame
    disk_size     (height, width) of the frames on disk
    valid_size    (T, H, W) of the clip before a batch padded it
    position      place in the sample stream, -1 outside training; the key of every random draw
    """

    video: str
    frame_names: tuple[str, ...]
    disk_size: tuple[int, int]
    valid_size: tuple[int, int, int]
    position: int = -1


@dataclass(frozen=True)
class Clip:
    """frames [T, 3, H, W] float32 in 0..1, its targets and its origin."""

    frames: Tensor
    targets: Targets
    info: ClipInfo


@dataclass(frozen=True)
class ClipBatch:
    """frames [B, T, 3, H, W] float32 in 0..1, and B targets and infos."""

    frames: Tensor
    targets: tuple[Targets, ...]
    infos: tuple[ClipInfo, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        """The stream position of each clip: the keys of its random draws."""
        return tuple(info.position for info in self.infos)

    def to(self, device, non_blocking: bool = False) -> ClipBatch:
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=non_blocking),
            targets=tuple(t.to(device, non_blocking) for t in self.targets),
        )

    def pin_memory(self) -> ClipBatch:
        """The batch in memory from which a GPU copies while the program goes on; torch's DataLoader calls it."""
        return replace(self, frames=self.frames.pin_memory(), targets=tuple(t.pin_memory() for t in self.targets))


@dataclass(frozen=True)
class SegOutput:
    """What every model returns.

    mask_logits   [B, Q, T, h, w], at the model's own resolution (LGRNet: stride 4)
    class_logits  [B, Q, K + 1], the last one is "no object"; None: channel q is class q
    activation    "sigmoid", or "softmax" over Q (then channel 0 is background)
    aux           outputs of earlier stages, first to last, each with an empty aux
    frame_size    (H, W) of the frames that the masks cover; None: as the model's stride says
    """

    mask_logits: Tensor
    class_logits: Tensor | None = None
    activation: str = "sigmoid"
    aux: tuple[SegOutput, ...] = ()
    frame_size: tuple[int, int] | None = None

    @property
    def layers(self) -> tuple[SegOutput, ...]:
        """All predictions, earliest first; the last one is this output itself."""
        return (*self.aux, self)
