"""From clip samples to batches, the same for any number of ranks and loader workers, and resumable at any step.

Step s takes the stream positions s * batch_size ... (s + 1) * batch_size - 1; rank r of `world` takes every world-th
of them from the r-th on. The draws of a sample are keyed by (seed, position, "sample"), so no state needs storing.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from lgrnet.draws import python_generator
from lgrnet.records import DataError
from lgrnet.structures import Clip, ClipBatch, Targets


class Samples(Protocol):
    """What the loader wants: `ClipDataset` and `MixedDataset` are such."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: random.Random, position: int) -> Clip: ...


class SampleStream:
    """The endless order of samples: consecutive random permutations of 0..length-1 from one torch generator.

    `index(position)` costs one permutation per epoch up to that position, and nothing within an epoch.
    """

    def __init__(self, length: int, seed: int):
        if length < 1:
            raise DataError(f"a sample stream over {length} samples cannot start; the data set is empty")
        self.length, self.seed = length, seed
        self._restart()

    def index(self, position: int) -> int:
        """The sample at `position` (0, 1, ...) of the stream."""
        if position < 0:
            raise ValueError(f"position {position} is before the start of the stream")
        epoch, place = divmod(position, self.length)
        if epoch < self._epoch:
            self._restart()
        while self._epoch < epoch:
            self._order = torch.randperm(self.length, generator=self._generator)
            self._epoch += 1
        return int(self._order[place])

    def _restart(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)


def collate(clips: Sequence[Clip], stride: int = 32) -> ClipBatch:
    """Clips of any sizes as one batch: frames [B, T, 3, H, W] with H and W multiples of `stride`.

    Shorter clips get black frames at the end, smaller ones black pixels at the bottom and on the right. As published
    the padding counts as background: masks are zero and `valid` is True there; only `annotated` is False for
    padded frames. Raises ValueError for no clips.
    """
    if not clips:
        raise ValueError("collate got no clips; a batch needs at least one")
    length = max(clip.frames.shape[0] for clip in clips)
    height, width = (-(-max(clip.frames.shape[i] for clip in clips) // stride) * stride for i in (2, 3))
    size = length, height, width
    frames = torch.zeros(len(clips), length, 3, height, width)
    for padded, clip in zip(frames, clips, strict=True):
        t, _, h, w = clip.frames.shape
        padded[:t, :, :h, :w] = clip.frames
    return ClipBatch(
        frames=frames,
        targets=tuple(_pad_targets(clip.targets, size) for clip in clips),
        infos=tuple(clip.info for clip in clips),
    )


class ClipLoader:
    """Endless batches of a data set, for one rank.

    dataset     a `ClipDataset` or `MixedDataset`
    batch_size  clips per step over all ranks
    seed        of the sample order and of every sample's draws
    rank, world this process and their number
    workers     loader processes; 0 loads in this one. The batches do not depend on it. The data set is pickled for
                them, and a script that uses them needs `if __name__ == "__main__":`
    stride      sizes are padded to a multiple of it
    pin_memory  batches are put where a GPU copies them from while the program goes on; needs one

    Raises ValueError when batch_size is not a multiple of world.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        stride: int = 32,
        pin_memory: bool = False,
    ):
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size {batch_size} (over all ranks) must be a positive multiple of {world} ranks")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world} ranks")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world, self.workers, self.stride = rank, world, workers, stride
        self.pin_memory = pin_memory

    def batches(self, start_step: int = 0) -> Iterator[ClipBatch]:
        """This rank's batches of steps start_step, start_step + 1, ... without end.

        Raises DataError, naming the file, the sample and its position, where a sample cannot be made.
        """
        loader = DataLoader(
            _Keyed(self.dataset, self.seed),
            batch_sampler=_Steps(len(self.dataset), self.batch_size, self.seed, self.rank, self.world, start_step),
            num_workers=self.workers,
            multiprocessing_context=process_context() if self.workers else None,
            collate_fn=_CollateOrError(self.stride),
            worker_init_fn=_start_worker,
            pin_memory=self.pin_memory,
            generator=torch.Generator().manual_seed(self.seed),
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _Steps:
    """Endless lists of (position, sample index): this rank's part of each step."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int, world: int, start_step: int):
        self.stream = SampleStream(length, seed)
        self.batch_size, self.rank, self.world, self.start_step = batch_size, rank, world, start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.start_step * self.batch_size
        while True:
            positions = range(first + self.rank, first + self.batch_size, self.world)
            yield [(position, self.stream.index(position)) for position in positions]
            first += self.batch_size


class _Keyed(Dataset):
    """Makes the sample for a (position, index); a DataError is returned, so that it crosses processes unchanged."""

    def __init__(self, dataset: Samples, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Clip | DataError:
        position, index = key
        try:
            return self.dataset.sample(index, python_generator(self.seed, position, "sample"), position)
        except DataError as error:
            return DataError(f"{error} (sample {index} at position {position} of the stream)")
        except StopIteration as error:  # the loader would take it for the end
            raise RuntimeError(f"sample {index} at position {position} of the stream ended an iterator") from error


class _CollateOrError:
    def __init__(self, stride: int):
        self.stride = stride

    def __call__(self, clips: list[Clip | DataError]) -> ClipBatch | DataError:
        return next((clip for clip in clips if isinstance(clip, DataError)), None) or collate(clips, self.stride)


def process_context() -> multiprocessing.context.BaseContext:
    """Fresh worker processes: one forked from this process hangs where OpenCV has used its threads here before."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "cv2", __name__])
    return context


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(1)
    _leave_signals_to_parent()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_signals_to_parent() -> None:
    """Ctrl-C and batch systems send signals to every process: the training still needs this one to end its step."""
    for name in ("SIGINT", "SIGUSR1"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, signal.SIG_IGN)
    # The second one ends it: PyTorch and Python send their own to a worker that hangs.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


def _leave_with_parent() -> None:
    """Ends this worker when the training process is gone; PyTorch only watches the fork server, which outlives it."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _pad_targets(targets: Targets, size: Sequence[int]) -> Targets:
    t, h, w = (target - given for target, given in zip(size, targets.valid.shape, strict=True))
    return Targets(
        labels=targets.labels,
        masks=F.pad(targets.masks, (0, w, 0, h, 0, t)),
        valid=F.pad(targets.valid, (0, w, 0, h, 0, t), value=True),
        annotated=F.pad(targets.annotated, (0, t), value=False),
    )
