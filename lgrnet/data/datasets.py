"""The known data sets as lists of VideoRecord, and clips out of records.

Nothing is read when this is imported; a data set is looked at when its function is called, and pixels when a clip is.
Roots are always explicit. DATA.md says how to get each data set.
"""

from __future__ import annotations

import bisect
import operator
import random
import warnings
from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from lgrnet.data.samplers import Sampler
from lgrnet.data.transforms import Compose, Transform, check_clip
from lgrnet.records import (
    BINARY,
    DataError,
    LabelMap,
    VideoRecord,
    class_masks,
    ignored_pixels,
    list_videos,
    natural_key,
    only_ignored,
    pair_videos,
    read_clip,
    read_mask,
)
from lgrnet.records.published import MICCAI_VPS_SPLITS, SUNSEG_SPLITS, sun_case
from lgrnet.structures import Clip, ClipInfo, Targets

MANY = 64
"""After so many masks of nothing but ignored pixels, and none that shows a class, a training looks at all masks."""


def sunseg(root: str | Path, split: str, order: str = "benchmark") -> list[VideoRecord]:
    """A split of SUN-SEG; "easy" and "hard" pool seen and unseen without moving a file.

    root   the folder that holds TrainDataset, TestEasyDataset and TestHardDataset, or one that holds it as SUN-SEG,
           SUN-SEG-Annotation or SUN-SEG/SUN-SEG-Annotation (the published DATASET_PATH)
    split  a key of `SUNSEG_SPLITS`
    order  of frames, see `list_videos`

    Where the published script has moved Seen and Unseen into `combine`, that folder is read; seen and unseen are then
    told apart by the definition: a clip is seen when its case also gives training clips. Warns when the number of
    clips is not the published one. Raises DataError for a split that does not exist, naming those that do.
    """
    root = Path(root)
    below = (root / name for name in ("", "SUN-SEG", "SUN-SEG-Annotation", "SUN-SEG/SUN-SEG-Annotation"))
    base = next(filter(_tests, below), root)
    present = [name for name, (parts, _) in SUNSEG_SPLITS.items() if all(_part_folder(base, part) for part in parts)]
    check_split("SUN-SEG", split, SUNSEG_SPLITS, present, base)
    parts, published = SUNSEG_SPLITS[split]
    records: dict[str, VideoRecord] = {}
    cases = _trained_cases(base)
    if len({_part_folder(base, part) for part in parts}) < len(parts):
        parts = (f"{Path(parts[0]).parent}/*",)
    for part in parts:
        for record in _sunseg_part(base, part, order, cases):
            name = record.name if record.name not in records else f"{Path(part).name}_{record.name}"
            meta = {"dataset": "sunseg", "split": split, "patient": sun_case(record.name)}
            if Path(part).name in ("Seen", "Unseen"):
                meta["seen"] = Path(part).name.lower()
            elif cases and split != "train":
                meta["seen"] = "seen" if meta["patient"] in cases else "unseen"
            records[name] = replace(record, name=name, meta=meta)
    return counted("SUN-SEG", split, list(records.values()), published)


def miccai_vps(
    root: str | Path, split: str, order: str = "natural", drop_empty: bool | None = None
) -> list[VideoRecord]:
    """A split of MICCAI-VPS (Kvasir stills, Mayo, CVC-300, CVC-612), as downloaded or after the published script.

    root        the folder that holds VPS-TrainSet, VPS-TestSet, and Kvasir-SEG or IVPS-TrainSet
    split       a key of `MICCAI_VPS_SPLITS`
    drop_empty  leave frames with an empty mask out; None: for training splits as downloaded, as the published script
                deletes them there

    Both nestings are read: `Frame/<video>` and `<video>/Frame`. Errors and warnings as in `sunseg`.
    """
    root = Path(root)
    present = [name for name, (part, _) in MICCAI_VPS_SPLITS.items() if (root / part).is_dir()]
    raw_stills = root / "IVPS-TrainSet"
    if raw_stills.is_dir() and "kvasir_train" not in present:
        present.append("kvasir_train")
    check_split("MICCAI-VPS", split, MICCAI_VPS_SPLITS, present, root)
    part, published = MICCAI_VPS_SPLITS[split]
    if split == "kvasir_train" and not (root / part).is_dir():
        records, as_downloaded = _kvasir_stills(raw_stills, order), False
    else:
        records, as_downloaded = _either_nesting(root / part, order)
    if drop_empty or (drop_empty is None and as_downloaded and split.endswith("_train")):
        records = [kept for kept in map(_without_empty_masks, records) if kept is not None]
    records = [replace(record, meta={"dataset": "miccai_vps", "split": split}) for record in records]
    return counted("MICCAI-VPS", split, records, published)


def ufuv(root: str | Path, split: str, masks: str = "GT", order: str = "natural") -> list[VideoRecord]:
    """A split ("train", "test") of UFUV (uterine fibroids in ultrasound).

    root   the folder that holds train and test, e.g. `Dataset/temp8`
    masks  "GT": masks; "Box": the weak labels, boxes drawn as masks

    Raises DataError for a split that does not exist, naming those that do, and for masks that are not there.
    """
    root = Path(root)
    if masks not in ("GT", "Box"):
        raise DataError(f'masks is {masks!r}; UFUV has "GT" (masks) and "Box" (boxes)')
    present = _with_frames(root)
    check_split("UFUV", split, present or ("train", "test"), present, root)
    return list_videos(root / split, masks=masks, order=order, meta={"dataset": "ufuv", "split": split})


def video_folder(
    root: str | Path,
    label_map: LabelMap = "binary",
    videos: Sequence[str] | None = None,
    frames: str = "Frame",
    masks: str | None = "GT",
    order: str = "natural",
    require_masks: bool = True,
) -> list[VideoRecord]:
    """Any folder in the one layout; arguments and errors as in `lgrnet.records.list_videos`.

    A root that is not there, or without frames, raises DataError naming those beside it and in it that have some.
    """
    root = Path(root)
    if not (root / frames).is_dir():
        near = [str(folder / name) for folder in (root, root.parent) for name in _with_frames(folder, frames)]
        lack = f"has no folder {frames}" if root.is_dir() else "does not exist"
        raise DataError(f"{root} {lack}; folders that have one: {', '.join(near) or 'none near it'}")
    return list_videos(root, frames, masks, label_map, order, videos, {"dataset": root.name}, require_masks)


class ClipDataset:
    """Training clips of some videos: one sample per anchor frame.

    records             the videos
    sampler             which frames make a clip, see `lgrnet.data.samplers`
    transforms          see `lgrnet.data.transforms`; applied in order
    anchor_step         every anchor_step-th frame of a video is an anchor: 0, anchor_step, ...
    require_foreground  draw again while a clip shows no foreground
    max_draws           so many draws are looked at; published: the third draw is an error even if it shows some

    Raises DataError for no records, and for records whose numbers of classes differ.
    """

    def __init__(
        self,
        records: Sequence[VideoRecord],
        sampler: Sampler,
        transforms: Transform | Sequence[Transform] = (),
        anchor_step: int = 1,
        require_foreground: bool = True,
        max_draws: int = 2,
    ):
        if not records:
            raise DataError("the data set is empty: no videos; check its root, split and videos")
        if anchor_step < 1 or max_draws < 1:
            raise ValueError(f"anchor_step {anchor_step} and max_draws {max_draws} must be at least 1")
        if not callable(sampler):
            raise ValueError(f"sampler is {sampler}; expected what chooses frames, such as LocalGlobal()")
        self.num_classes = _one_number_of_classes(record.num_classes for record in records)
        self.records = tuple(records)
        self.sampler = sampler
        self.transform = transforms if callable(transforms) else Compose(transforms)
        self.anchor_step = anchor_step
        self.require_foreground = require_foreground
        self.max_draws = max_draws
        self._ends = list(accumulate(-(-record.num_frames // anchor_step) for record in records))
        self._warned: set[str] = set()
        self._only_ignored: int | None = 0

    def __len__(self) -> int:
        """The number of anchors."""
        return self._ends[-1]

    def anchor(self, index: int) -> tuple[VideoRecord, int]:
        """The video and the frame of sample `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        video = bisect.bisect_right(self._ends, index)
        start = self._ends[video - 1] if video else 0
        return self.records[video], (index - start) * self.anchor_step

    def sample(self, index: int, rng: random.Random, position: int = -1) -> Clip:
        """One clip: frames [T, 3, H, W], one object per class that has a pixel in the clip; `valid` is False where the
        label map or a transform says that a pixel is to be ignored.

        rng       makes every draw (frames of the clip, augmentation)
        position  place in the sample stream, for the clip's info

        Raises DataError for files that cannot be used, and for clips without foreground where that is required.
        """
        record, anchor = self.anchor(index)
        for _ in range(self.max_draws if self.require_foreground else 1):
            chosen = self._choose(record, anchor, rng)
            frames, raw = read_clip(record, chosen, self._warned)
            masks = _memberships(record, chosen, raw, frames.shape[1:3])
            self._watch(record, masks, raw)
            if (masks > 0).any() or not self.require_foreground:
                annotated = [mask is not None for mask in raw]
                return self._clip(record, chosen, frames, masks, annotated, rng, position)
        ignored = any(only_ignored(values, record.label_map) for values in raw if values is not None)
        hint = f" (its label map ignores all but the background; masks of 0 and 255 want {BINARY})" if ignored else ""
        raise DataError(
            f"video {record.name!r} shows no foreground in {self.max_draws} clips drawn around frame "
            f"{record.frames[anchor]}{hint}; set require_foreground=False or raise max_draws"
        )

    def _choose(self, record: VideoRecord, anchor: int, rng: random.Random) -> list[int]:
        """The frames of a clip. Raises DataError for a sampler that chooses none, or some that are not there."""
        chosen = list(self.sampler(record.num_frames, anchor, rng))
        try:
            indices = [operator.index(i) for i in chosen]
        except TypeError:
            indices = []
        if not indices or not all(0 <= i < record.num_frames for i in indices):
            raise DataError(
                f"sampler {self.sampler} chose the frames {chosen} around frame {anchor} of video {record.name!r}; "
                f"expected some of 0..{record.num_frames - 1}"
            )
        return indices

    def _watch(self, record: VideoRecord, masks: np.ndarray, raw: Sequence[np.ndarray | None]) -> None:
        """Raises DataError where the label map ignores all foreground of the data set, once MANY masks tell of it."""
        if self._only_ignored is None:
            return
        if (masks > 0).any():
            self._only_ignored = None
            return
        self._only_ignored += sum(only_ignored(values, record.label_map) for values in raw if values is not None)
        if self._only_ignored < MANY:
            return
        all_masks = [(path, r.label_map) for r in self.records for path in r.masks if path is not None]
        if not any(class_masks(read_mask(path, label_map=known), known, path).any() for path, known in all_masks):
            raise DataError(
                f"none of the {len(all_masks)} masks shows a class, but {record.label_map} ignores values that are in "
                f"them (as in {next(filter(None, record.masks))}); set {BINARY} for masks of 0 and 255"
            )
        self._only_ignored = None

    def _clip(self, record, chosen, frames, masks, annotated, rng, position) -> Clip:
        disk_size = frames.shape[1:3]
        frames, masks = map(np.asarray, self.transform(frames, masks, rng))
        masks = masks.astype(np.float32, copy=False) if masks.dtype.kind in "bf" else masks
        check_clip(frames, masks, len(chosen), f"the transforms of video {record.name!r}")
        names = [record.frames[i].stem for i in chosen]
        if len(frames) != len(names):  # a still that became a clip
            names, annotated = names * len(frames), annotated * len(frames)
        ignored = np.isnan(masks).any(axis=0)  # [T, H, W]
        masks = np.where(ignored, np.float32(0), masks) if ignored.any() else masks
        present = masks.any(axis=(1, 2, 3))
        size = frames.shape[:3]
        targets = Targets(
            labels=torch.from_numpy(np.flatnonzero(present)),
            masks=torch.from_numpy(np.ascontiguousarray(masks[present])),
            valid=torch.from_numpy(np.ascontiguousarray(~ignored)),
            annotated=torch.tensor(annotated),
        )
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float().div(255)
        return Clip(pixels, targets, ClipInfo(record.name, tuple(names), disk_size, size, position))


class MixedDataset:
    """Several clip data sets as one, in this order, each with its own sampler and transforms."""

    def __init__(self, datasets: Sequence[ClipDataset]):
        if not datasets:
            raise DataError("the data set is empty: MixedDataset got no data sets")
        self.datasets = tuple(datasets)
        self.num_classes = _one_number_of_classes(dataset.num_classes for dataset in datasets)
        self._ends = list(accumulate(len(dataset) for dataset in datasets))

    def __len__(self) -> int:
        """The number of anchors of all parts."""
        return self._ends[-1]

    def sample(self, index: int, rng: random.Random, position: int = -1) -> Clip:
        """As `ClipDataset.sample`."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        part = bisect.bisect_right(self._ends, index)
        return self.datasets[part].sample(index - (self._ends[part - 1] if part else 0), rng, position)


def check_split(dataset: str, split: str, known: Sequence[str], present: Sequence[str], root: Path) -> None:
    """Raises DataError for a split that a data set does not have (`known`) or that is not in `root` (`present`)."""
    if split not in known:
        raise DataError(f"{dataset} has no split {split!r}; it has {', '.join(known)} (found: {_listed(present)})")
    if split not in present:
        raise DataError(f"split {split!r} of {dataset} is not in {root}; splits found there: {_listed(present)}")


def counted(
    dataset: str, split: str, records: list[VideoRecord], published: int, noun: str = "videos"
) -> list[VideoRecord]:
    """The records; warns when they are not as many as the published ones."""
    if len(records) != published:
        warnings.warn(
            f"{dataset} split {split!r} has {len(records)} {noun} here, the published one {published}; "
            "scores do not compare with published ones",
            stacklevel=3,
        )
    return records


def _memberships(record: VideoRecord, chosen: Sequence[int], raw: Sequence, size: tuple[int, int]) -> np.ndarray:
    """[K, T, H, W] float32; zero where a frame is not annotated, NaN where the label map ignores a pixel."""
    masks = np.zeros((record.num_classes, len(chosen), *size), np.float32)
    for i, (index, values) in enumerate(zip(chosen, raw, strict=True)):
        if values is not None:
            masks[:, i] = class_masks(values, record.label_map, record.masks[index])
            masks[:, i, ignored_pixels(values, record.label_map)] = np.nan
    return masks


def _one_number_of_classes(numbers) -> int:
    found = sorted(set(numbers))
    if len(found) > 1:
        raise DataError(f"videos of one data set have {found} classes; give all of them the same label_map")
    return found[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _with_frames(folder: Path, frames: str = "Frame") -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{frames}") if path.is_dir())


def _tests(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("TrainDataset", "TestEasyDataset", "TestHardDataset"))


def _filled(folder: Path) -> bool:
    return any(path.is_dir() for path in folder.glob("Frame/*"))


def _part_folder(base: Path, part: str) -> Path | None:
    """Where a part of SUN-SEG is: its own folder, or the one that the published script pools into."""
    beside = base / Path(part).parent
    candidates = (base / part, *(beside / name for name in ("combine", "Combine") if beside != base))
    return next((folder for folder in candidates if _filled(folder)), None)


def _trained_cases(base: Path) -> set[str]:
    """The SUN cases that training clips are of; empty where these are not there."""
    return {sun_case(path.name) for path in (base / "TrainDataset").glob("Frame/*")}


def _sunseg_part(base: Path, part: str, order: str, cases: Set[str]) -> list[VideoRecord]:
    """The clips of a folder, or those of a pooled one that its cases, of which training clips are, put there."""
    folder = _part_folder(base, part)
    records = list_videos(folder, order=order)
    if folder == base / part or part.endswith("/*"):
        return records
    if not cases:
        trained = base / "TrainDataset" / "Frame"
        raise DataError(f"{folder} pools seen and unseen clips; to tell them apart {trained} must be there")
    return [record for record in records if (sun_case(record.name) in cases) == part.endswith("/Seen")]


def _either_nesting(folder: Path, order: str) -> tuple[list[VideoRecord], bool]:
    """The videos of `<folder>/Frame/<video>` or `<folder>/<video>/Frame`, and whether it was the second."""
    if (folder / "Frame").is_dir():
        return list_videos(folder, order=order), False
    videos = sorted(_with_frames(folder), key=natural_key if order == "natural" else str)
    if not videos:
        raise DataError(f"{folder} has neither Frame/<video> nor <video>/Frame")
    return pair_videos({name: (folder / name / "Frame", folder / name / "GT") for name in videos}, order=order), True


def _kvasir_stills(folder: Path, order: str) -> list[VideoRecord]:
    """The stills of Kvasir among those of IVPS-TrainSet (names that start with K), as the one video "1"."""
    (record,) = pair_videos({"1": (folder / "Frame", folder / "GT")}, order=order)
    pairs = [pair for pair in zip(record.frames, record.masks, strict=True) if pair[0].name.startswith("K")]
    if not pairs:
        raise DataError(f"{folder / 'Frame'} holds no picture whose name starts with K, as those of Kvasir do")
    frames, masks = zip(*pairs, strict=True)
    return [replace(record, frames=frames, masks=masks)]


def _without_empty_masks(record: VideoRecord) -> VideoRecord | None:
    pairs = [pair for pair in zip(record.frames, record.masks, strict=True) if pair[1] and read_mask(pair[1]).any()]
    if not pairs:
        return None
    frames, masks = zip(*pairs, strict=True)
    return replace(record, frames=frames, masks=masks)
