"""detectron2's loaders over our data sets. In training the clips are those of `lgrnet.data.loader.ClipLoader`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

from detectron2.config import configurable
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch.utils.data import DataLoader, Dataset, Sampler

from lgrnet.data.loader import SampleStream, process_context
from lgrnet.detectron2_bridge.catalog import anchors, check_names, clip_dicts, register_layouts
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.records import DataError, num_classes


class MappedAnchors(Dataset):
    """Clips by (position in the sample stream, number of the anchor); each has its "position".

    dicts   of `catalog.anchors`
    mapper  its seed is that of the order, too
    """

    def __init__(self, dicts: Sequence[dict], mapper: ClipMapper):
        self.dicts, self.mapper = dicts, mapper

    def __len__(self) -> int:
        """The number of anchors."""
        return len(self.dicts)

    def __getitem__(self, place: tuple[int, int]) -> dict:
        position, number = place
        return self.mapper({**self.dicts[number], "position": position})


class StreamSampler(Sampler[tuple[int, int]]):
    """The endless (position, anchor) of this rank in the stream of `length` anchors, from a step on.

    Step s takes the positions s * batch_size .. (s + 1) * batch_size - 1, of which rank r takes every world-th.
    """

    def __init__(self, length: int, seed: int, batch_size: int, start_step: int = 0, rank: int = 0, world: int = 1):
        self.length, self.seed, self.batch_size = length, seed, batch_size
        self.start_step, self.rank, self.world = start_step, rank, world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        stream = SampleStream(self.length, self.seed)  # here, since it does not travel to loader processes
        for first in count(self.start_step * self.batch_size, self.batch_size):
            for position in range(first + self.rank, first + self.batch_size, self.world):
                yield position, stream.index(position)


class TrainLoader:
    """Endless batches, each a list of mapped dicts; iterating starts at the step that detectron2's trainer is at.

    detectron2's own samplers start their order anew when a training is resumed; here a resumed training sees the
    clips that an uninterrupted one would have seen, where a step takes one batch (a trainer that adds up gradients of
    several comes back to clips that it has seen). The order and the draws do not depend on ranks or workers.
    """

    def __init__(self, clips: MappedAnchors, batch_size: int, num_workers: int = 0):
        world = comm.get_world_size()
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size {batch_size} (over all processes) must be a positive multiple of {world}")
        self.clips, self.batch_size, self.num_workers = clips, batch_size, num_workers

    def __iter__(self) -> Iterator[list[dict]]:
        step = get_event_storage().iter if has_event_storage() else 0
        place = comm.get_rank(), comm.get_world_size()
        return iter(
            build_detection_train_loader(
                self.clips,
                mapper=None,  # it is in the clips, for detectron2 hands it nothing but whole numbers
                sampler=StreamSampler(len(self.clips), self.clips.mapper.seed, self.batch_size, step, *place),
                total_batch_size=self.batch_size,
                aspect_ratio_grouping=False,
                num_workers=self.num_workers,
                multiprocessing_context=process_context() if self.num_workers else None,
            )
        )


def _train_arguments(cfg, mapper: ClipMapper | None = None) -> dict:
    return {
        "names": cfg.DATASETS.TRAIN,
        "mapper": ClipMapper(cfg, True) if mapper is None else mapper,
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "anchor_step": cfg.INPUT.CLIP.ANCHOR_STEP,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_train_arguments)
def build_train_loader(
    names: str | Iterable[str],
    *,
    mapper: ClipMapper,
    batch_size: int,
    anchor_step: int = 1,
    num_workers: int = 0,
    root: str | Path | None = None,
) -> TrainLoader:
    """The training clips of registered data sets; `build_train_loader(cfg)` takes the arguments from a config.

    batch_size   clips per step over all processes
    anchor_step  every anchor_step-th frame of a video is one that a clip is about
    num_workers  loader processes
    root         given: `catalog.register_layouts(root)` comes first

    The order of the clips has the seed of the mapper. Raises DataError where a data set is not registered or not on
    disk, where none is named, and for videos that differ in their number of classes.
    """
    if root is not None:
        register_layouts(root)
    names = check_names(names)
    if not names:
        raise DataError("no data set to train on was named; name one or more that are registered (DATASETS.TRAIN)")
    videos = clip_dicts(names)
    if len(classes := {num_classes(video["label_map"]) for video in videos}) > 1:
        raise DataError(f"the data sets {', '.join(names)} have {sorted(classes)} classes; train on sets of one number")
    return TrainLoader(MappedAnchors(anchors(videos, anchor_step), mapper), batch_size, num_workers)


def _test_arguments(cfg, dataset_name: str, mapper: ClipMapper | None = None) -> dict:
    mapper = ClipMapper(cfg, False) if mapper is None else mapper
    return {"names": dataset_name, "mapper": mapper, "num_workers": cfg.DATALOADER.NUM_WORKERS}


@configurable(from_config=_test_arguments)
def build_test_loader(
    names: str | Iterable[str], *, mapper: ClipMapper, num_workers: int = 0, root: str | Path | None = None
) -> DataLoader:
    """The videos of registered data sets, one at a time as published, split over the processes.

    `build_test_loader(cfg, name)` takes the arguments from a config. Arguments and errors as of `build_train_loader`.
    """
    if root is not None:
        register_layouts(root)
    return build_detection_test_loader(clip_dicts(names), mapper=mapper, num_workers=num_workers)
