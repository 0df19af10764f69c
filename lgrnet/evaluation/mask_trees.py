"""Pairs of predicted and annotated maps in folders of any program, matched by video and frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lgrnet.records import IMAGE_SUFFIXES, DataError, benchmark_key, count_and_name, natural_key
from lgrnet.records.folders import walk
from lgrnet.records.pictures import open_picture

GENERIC = frozenset(
    "frame frames gt groundtruth ground_truth mask masks image images img imgs label labels annotation annotations "
    "pred preds prediction predictions map maps result results output outputs".split()
)
"""Folders, in lower case, that name what a file is and not which video it is of."""

Frames = dict[str, Path]


@dataclass(frozen=True)
class MaskPairs:
    """Videos and their frames, in order.

    pairs      video -> frame -> (prediction, annotation); frames that have both
    annotated  video -> frame -> annotation, of all videos, with or without a prediction
    missing    annotations without a prediction, `<video>/<frame>`
    extra      predictions without an annotation, likewise
    no_lesion  the annotations are no masks but images of the masks' sizes: no frame shows a lesion
    """

    pairs: dict[str, dict[str, tuple[Path, Path]]]
    annotated: dict[str, Frames]
    missing: list[str]
    extra: list[str]
    no_lesion: bool = False

    @property
    def frames(self) -> int:
        """How many frames have both."""
        return sum(map(len, self.pairs.values()))

    @property
    def _counting(self) -> list[str]:
        """The videos that have predictions, or no other frames than ends."""
        return [video for video, frames in self.annotated.items() if video in self.pairs or len(frames) < 3]

    @property
    def missing_ends(self) -> list[str]:
        """Those of `missing` that are the first or last annotated frame of a video that has predictions, or no other
        frames."""
        videos = {video: list(self.annotated[video]) for video in self._counting}
        ends = {f"{video}/{name}" for video, names in videos.items() for name in names[:1] + names[-1:]}
        return [name for name in self.missing if name in ends]

    def without_ends(self) -> MaskPairs:
        """The same where the ends of videos count for nothing: none is missing there, and a video that has no other
        frames is among the pairs even without a prediction."""
        pairs = {video: self.pairs.get(video, {}) for video in self._counting}
        ends = set(self.missing_ends)
        return replace(self, pairs=pairs, missing=[name for name in self.missing if name not in ends])


def pair_trees(predictions: str | Path, annotations: str | Path, no_lesion: bool = False) -> MaskPairs:
    """Matches the images of two folders by (video, stem of the file), however deep they lie.

    A file's video is the nearest folder above it whose name is not GENERIC; what is above that (model, data set, split)
    makes no difference. Images that lie in both given folders directly are one video, named after that of the
    annotations. Where the annotations have folders named GT, only these count: Frame, Edge and others beside them hold
    no masks. Hidden files are passed over.

    no_lesion  no frame shows a lesion; annotations is the folder of the frames (of which those named Frame count), or
               that of the predictions

    Raises DataError for a folder that is missing or without images, the same frame twice, and where nothing matches.
    """
    predictions, annotations = Path(predictions), Path(annotations)
    found, true = _tree(predictions), _tree(annotations, marker="frame" if no_lesion else "gt")
    if len(found) == len(true) == 1 and _flat(predictions, found) and _flat(annotations, true):
        found = dict(zip(true, found.values(), strict=True))
    pairs, missing = {}, []
    true = {video: true[video] for video in sorted(true, key=natural_key)}
    for video in true:
        of_video = found.get(video, {})
        missing += [f"{video}/{frame}" for frame in true[video] if frame not in of_video]
        both = {frame: (of_video[frame], path) for frame, path in true[video].items() if frame in of_video}
        if both:
            pairs[video] = both
    extra = [f"{v}/{frame}" for v, frames in found.items() for frame in frames if frame not in true.get(v, {})]
    if not pairs:
        shown = f"{count_and_name(extra, 'prediction')} and {count_and_name(missing, 'annotation')}"
        raise DataError(f"no frame of {predictions} is one of {annotations}: {shown}; both need <video>/<frame>.png")
    return MaskPairs(pairs, true, missing, extra, no_lesion)


def find_frames(folder: str | Path, pairs: MaskPairs) -> dict[str, Frames]:
    """Video -> frame -> its image, of every pair, in a folder like those of `pair_trees`; where it has folders named
    Frame, only these count.

    Raises DataError for a folder that is missing or without images, the same frame twice, and frames that are not
    there.
    """
    found = _tree(Path(folder), marker="frame")
    if len(found) == len(pairs.pairs) == 1 and _flat(Path(folder), found):
        found = dict(zip(pairs.pairs, found.values(), strict=True))
    missing = [f"{v}/{frame}" for v, of in pairs.pairs.items() for frame in of if frame not in found.get(v, {})]
    if missing:
        raise DataError(f"{folder} lacks the images of {count_and_name(missing, 'frame')}; give the folder of all")
    return {video: {frame: found[video][frame] for frame in frames} for video, frames in pairs.pairs.items()}


def folders_of(pairs: MaskPairs, annotations: str | Path) -> dict[str, str]:
    """Video -> what its folder lies in below `annotations`, GENERIC folders left out: of SUN-SEG such as "Seen";
    {} where that is the same for all.
    """
    folders = {}
    for video in pairs.pairs:
        path = next(iter(pairs.annotated[video].values()))
        names = [name for name in path.relative_to(annotations).parts[:-1] if name.lower() not in GENERIC]
        folders[video] = "/".join(names[:-1]) or "."
    return folders if len(set(folders.values())) > 1 else {}


def read_map(path: str | Path) -> np.ndarray:
    """A predicted map [H, W], uint8, or uint16 of a file with 16 bits; 1-bit images give 0 and 255.

    Raises DataError for colours, transparency, other types, and files that cannot be read.
    """
    image = open_picture(path)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    values = np.array(image.convert("L") if image.mode == "1" else image)
    if image.mode in ("LA", "RGBA"):
        if values[..., -1].min() < 255:
            raise DataError(f"map {path} is partly transparent; save it as a grey PNG")
        values = values[..., :-1]
    if values.ndim == 3:
        if image.mode not in ("LA", "RGB", "RGBA") or (values != values[..., :1]).any():
            raise DataError(f"map {path} has colours ({image.mode}); expected grey values, white is certain")
        values = np.ascontiguousarray(values[..., 0])
    if values.dtype == np.int32 and values.min() >= 0 and values.max() <= 65535:  # Pillow's mode of some 16-bit files
        values = values.astype(np.uint16)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    raise DataError(f"map {path} has mode {image.mode}; expected grey values of 8 or 16 bits")


def _tree(root: Path, marker: str | None = None) -> dict[str, Frames]:
    """Video -> frame -> file, frames in the benchmark's order; only below folders named as the marker, if there are."""
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist; expected a folder with <video>/<frame>.png in it")
    below = (Path(folder, name) for folder, names in walk(root) for name in names if name[0] != ".")
    files = sorted(path for path in below if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if marker:
        marked = [path for path in files if marker in (part.lower() for part in path.relative_to(root).parts[:-1])]
        files = marked or files
    if not files:
        raise DataError(f"folder {root} holds no images ({', '.join(IMAGE_SUFFIXES)}); expected <video>/<frame>.png")
    videos: dict[str, Frames] = {}
    for path in files:
        video = _video(path, root)
        frames = videos.setdefault(video, {})
        other = frames.get(path.stem) or next(iter(frames.values()), path)
        if path.stem in frames or other.parent != path.parent:
            what = f"the same frame {path.stem!r}" if path.stem in frames else "the same video"
            hint = "give the folder of one model and of one split"
            raise DataError(f"{other} and {path}: {what} twice (video {video!r}); {hint}")
        frames[path.stem] = path
    return {
        video: {stem: frames[stem] for stem in sorted(frames, key=benchmark_key)} for video, frames in videos.items()
    }


def _video(path: Path, root: Path) -> str:
    """The nearest folder that names a video: below the root, else the root itself or what is above it."""
    above = [*reversed(path.relative_to(root).parts[:-1]), root.resolve().name]
    return next((name for name in above if name.lower() not in GENERIC), root.resolve().parent.name)


def _flat(root: Path, videos: Mapping[str, Frames]) -> bool:
    return all(path.parent == root for frames in videos.values() for path in frames.values())
