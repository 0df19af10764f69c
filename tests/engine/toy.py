"""The smallest things that keep the contracts of model, criterion and data, for tests of the engine."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgrnet.records import Prediction
from lgrnet.structures import Clip, ClipBatch, ClipInfo, SegOutput, Targets


class ToyModel(nn.Module):
    """A convolution, a batch norm, dropout and one query: it has weights, buffers and draws of its own."""

    def __init__(self, channels: int = 4, dropout: float = 0.2, norm: bool = True):
        super().__init__()
        self.stride = 4
        self.first = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(channels, 1, 1)

    def forward(self, frames: Tensor) -> SegOutput:
        maps = self.first(frames.flatten(0, 1))  # [B*T, C, h, w]
        maps = self.last(self.dropout(self.norm(maps).relu()))
        masks = maps.unflatten(0, frames.shape[:2]).transpose(1, 2)  # [B, 1, T, h, w]
        classes = torch.stack([masks.mean((1, 2, 3, 4)), -masks.mean((1, 2, 3, 4))], -1)[:, None]
        return SegOutput(masks, classes)

    def predict(self, output: SegOutput, info: ClipInfo) -> Prediction:
        logits = F.interpolate(output.mask_logits[0], size=info.disk_size, mode="bilinear")  # [1, T, H, W]
        probability = (logits.sigmoid() * 255).byte().numpy()
        return Prediction(info.video, info.frame_names, np.ones(1, np.float32), probability, (logits > 0).numpy())


class ToyWithBackbone(ToyModel):
    """The toy whose convolution and batch norm are its backbone."""

    @property
    def backbone(self) -> nn.Module:
        return nn.ModuleDict({"first": self.first, "norm": self.norm})


class ToyCriterion:
    """Cross-entropy at the model's own resolution, on pixels that `draws` chooses; and a small class term."""

    def __init__(self, mask_bce: float = 2.0, class_ce: float = 1.0):
        self.weights = {"mask_bce": mask_bce, "class_ce": class_ce}

    def __call__(self, output: SegOutput, targets: Sequence[Targets], draws, whole=None) -> dict[str, Tensor]:
        masks = output.mask_logits[:, 0]  # [B, T, h, w]
        losses = []
        for index, target in enumerate(targets):
            truth = F.interpolate(target.masks[:1], size=masks.shape[-2:])[0]
            chosen = draws.sample("pixels", index, masks.shape[1:], masks.device)
            losses.append(F.binary_cross_entropy_with_logits(masks[index], truth, weight=chosen))
        return {"mask_bce": torch.stack(losses).mean(), "class_ce": output.class_logits.pow(2).mean()}


class ToyClips:
    """Clips of noise with a bright square, made from their position alone; what ClipLoader asks of a dataset."""

    def __init__(self, length: int = 8, frames: int = 2, size: int = 16, bad_positions: Sequence[int] = ()):
        self.length, self.frames, self.size, self.bad = length, frames, size, set(bad_positions)

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: random.Random, position: int) -> Clip:
        numpy_rng = np.random.default_rng(rng.getrandbits(32) + index)
        frames = numpy_rng.random((self.frames, 3, self.size, self.size), dtype=np.float32) * 0.5
        mask = np.zeros((1, self.frames, self.size, self.size), np.float32)
        top, left = numpy_rng.integers(0, self.size // 2, 2)
        mask[:, :, top : top + self.size // 2, left : left + self.size // 2] = 1
        frames += 0.5 * mask[0][:, None]
        if position in self.bad:
            frames[:] = np.nan
        shape = (self.frames, self.size, self.size)
        targets = Targets(
            torch.zeros(1, dtype=torch.int64),
            torch.from_numpy(mask),
            torch.ones(shape, dtype=torch.bool),
            torch.ones(self.frames, dtype=torch.bool),
        )
        names = tuple(f"{i:03d}" for i in range(self.frames))
        return Clip(torch.from_numpy(frames), targets, ClipInfo("toy", names, (self.size,) * 2, shape, position))


class ToyLoader:
    """Batches of a ToyClips in order of position: the loader's contract without its workers."""

    def __init__(self, dataset: ToyClips, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1):
        self.dataset, self.batch_size, self.seed, self.rank, self.world = dataset, batch_size, seed, rank, world

    def batches(self, start_step: int):
        step = start_step
        while True:
            first = step * self.batch_size
            positions = range(first + self.rank, first + self.batch_size, self.world)
            clips = [self.dataset.sample(p % len(self.dataset), random.Random(p), p) for p in positions]
            yield ClipBatch(
                torch.stack([c.frames for c in clips]), tuple(c.targets for c in clips), tuple(c.info for c in clips)
            )
            step += 1


def adamw(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    """An optimizer, as configs give it."""
    return torch.optim.AdamW(model.parameters(), lr=lr)


def halving(optimizer: torch.optim.Optimizer, every: int = 5) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule, as configs give it."""
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [every, 2 * every], gamma=0.5)


class ToyLevels(nn.Module):
    """A backbone of two convolutions, with maps at strides 4 and 8."""

    def __init__(self):
        super().__init__()
        self.channels = {"res2": 4, "res3": 4}
        self.first, self.second = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2)

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        first = self.first(frames)
        return {"res2": first, "res3": self.second(first)}
