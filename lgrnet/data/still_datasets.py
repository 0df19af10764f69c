"""The known data sets of still images as lists of VideoRecord: each image is a video of one frame.

Nothing is read when this is imported; only folders are listed when a function is called. Roots are always explicit.
Images and masks are paired by the stem of their file names, never by their place in a sorted list.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lgrnet.data.datasets import check_split, counted
from lgrnet.records import IGNORE, DataError, LabelMap, VideoRecord, count_and_name, images_by_stem

POLYP_SPLITS = {
    "train": ("TrainDataset", 1450),
    "CVC-300": ("TestDataset/CVC-300", 60),
    "CVC-ClinicDB": ("TestDataset/CVC-ClinicDB", 62),
    "CVC-ColonDB": ("TestDataset/CVC-ColonDB", 380),
    "ETIS-LaribPolypDB": ("TestDataset/ETIS-LaribPolypDB", 196),
    "Kvasir": ("TestDataset/Kvasir", 100),
}
"""Split -> its folder, and how many images the published split has (PraNet's: 900 of Kvasir and 550 of ClinicDB)."""

SVANET_CLASSES = {
    "FIVES": ("amd", "dr", "glaucoma", "health"),
    "ISIC2018T1": ("symptoms",),
    "PolypGen": ("symptoms",),
    "ATLAS": ("liver", "tumour"),
    "KiTS23": ("kidney", "tumor", "cyst"),
    "TissueNet": ("cell", "nucleus"),
    "SpermHealth": ("normal", "abnormal"),
}
"""Data set of SvANet -> the names of its classes 1, 2, ..."""

THREE_WAY = ("train", "val", "test")
_PAIRS = (("images", "masks"), ("image", "mask"), ("Original", "Ground Truth"), ("PNG/Original", "PNG/Ground Truth"))
_FOLDER_NAMES = {"ISIC2018T1": ("ISIC2018T1", "ISIC2018")}


def image_folder(
    images: str | Path,
    masks: str | Path | None,
    label_map: LabelMap = "binary",
    names: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    order: str = "natural",
    require_masks: bool = True,
    meta: Mapping[str, object] | None = None,
) -> list[VideoRecord]:
    """Any folder of images with a folder of masks of the same stems, one record per image.

    masks          None: nothing is annotated
    names          stems to take, or patterns such as "C3_*"; None: all
    leave_out      stems or patterns not to take, for example the centre that is kept for the evaluation
    order          "natural" compares numbers as numbers, "name" compares strings, "benchmark" is SUN-SEG's
    require_masks  False: images without a mask are not annotated instead of an error
    meta           goes into every record

    Raises DataError for a missing or empty folder, an image without a mask, a mask without an image, two files of one
    stem, and names that fit no image; at most five are named.
    """
    found = _listed(Path(images), order)
    truth = None if masks is None else _listed(Path(masks), order)
    records = _paired(
        found, truth, found, label_map, require_masks, {"dataset": Path(images).parent.name, **(meta or {})}
    )
    taken = set(found) if names is None else _fitting(found, names, images)
    taken -= _fitting(found, leave_out, images)
    if not taken:
        raise DataError(f"no image of {images} is left; names is {names}, leave_out is {list(leave_out)}")
    return [record for record in records if record.name in taken]


def split_stills(
    records: Sequence[VideoRecord], split: str, shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 1337
) -> list[VideoRecord]:
    """One of the parts "train", "val", "test" of still images, by the rule of the package split-folders.

    The file names are sorted as strings, with their endings, and shuffled by Python's generator of this seed; the
    first int(share * n) are for training, the next for validation, the rest for the test.
    """
    if split not in THREE_WAY or len(shares) != 3 or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ValueError(f"split is {split!r} and shares are {tuple(shares)}; expected {THREE_WAY} and 3 of sum 1")
    ordered = sorted(records, key=lambda record: record.frames[0].name)
    random.Random(seed).shuffle(ordered)
    first = int(shares[0] * len(ordered))
    second = first + int(shares[1] * len(ordered))
    parts = dict(zip(THREE_WAY, (ordered[:first], ordered[first:second], ordered[second:]), strict=True))
    return sorted(parts[split], key=lambda record: record.frames[0].name)


def polyp_stills(
    root: str | Path, split: str, label_map: LabelMap = "half", require_masks: bool = True
) -> list[VideoRecord]:
    """A split of the polyp images that PraNet put together and SSFormer uses.

    root       the folder that holds TrainDataset and TestDataset
    split      a key of `POLYP_SPLITS`
    label_map  SSFormer trains on "soft" masks and scores with "full" ones

    Warns when the number of images is not the published one. Errors as in `image_folder`, and DataError for a split
    that does not exist, naming those that do.
    """
    root = Path(root)
    present = [name for name, (part, _) in POLYP_SPLITS.items() if _pair_of_folders(root / part)]
    check_split("polyp stills", split, POLYP_SPLITS, present, root)
    part, published = POLYP_SPLITS[split]
    meta = {"dataset": "polyp_stills" if split == "train" else split, "split": "train" if split == "train" else "test"}
    records = image_folder(*_pair_of_folders(root / part), label_map, require_masks=require_masks, meta=meta)
    return counted("polyp stills", split, records, published, "images")


def kvasir_seg(root: str | Path, split: str, label_map: LabelMap = "half") -> list[VideoRecord]:
    """A split ("train", "val", "test") of the 1000 images of Kvasir-SEG, by the split of SSFormer's reproduction study.

    root       holds images and masks, which are then split as in `split_stills`, or train, val and test with both
    label_map  the masks are JPEG files, whose edges are noisy; the study takes "full"

    Errors and warnings as in `polyp_stills`.
    """
    return _three_way("Kvasir-SEG", Path(root), split, label_map, 1000)


def cvc_clinicdb(root: str | Path, split: str, label_map: LabelMap = "half") -> list[VideoRecord]:
    """A split ("train", "val", "test") of the 612 images of CVC-ClinicDB: as `kvasir_seg`.

    root  may also hold Original and "Ground Truth", as downloaded, or PNG with these
    """
    return _three_way("CVC-ClinicDB", Path(root), split, label_map, 612)


def svanet_set(
    root: str | Path,
    name: str,
    split: str,
    fold: int | None = None,
    label_map: LabelMap | None = None,
    require_masks: bool = True,
) -> list[VideoRecord]:
    """A split of one of SvANet's data sets: `<root>/<name>/{train,val|test}/*` and `<root>/<name>/mask/<stem>.png`.

    root       the folder that holds the data set's folder, or that folder
    name       a key of `SVANET_CLASSES`; ISIC2018T1 may stand in a folder ISIC2018
    split      "train", "val" or "test"; where there is no folder test, "test" is val, as published
    fold       1, 2, ...: the cross-validation folder split<fold>, with masks in it or beside it
    label_map  None: masks hold class indices 1 .. K, and 255 is ignored; "binary" for originals of 0 and 255

    Errors as in `image_folder`, and DataError for a name, split or fold that is not there, naming those that are.
    """
    known = next((key for key in SVANET_CLASSES if key.lower() == name.lower()), None)
    if known is None:
        raise DataError(f"SvANet has no data set {name!r}; it has {', '.join(SVANET_CLASSES)}; else use image_folder")
    base = _svanet_base(Path(root), known, name)
    place = _fold_folder(base, known, fold)
    masks = next((folder for folder in (place / "mask", base / "mask") if folder.is_dir()), None)
    if masks is None:
        raise DataError(
            f"the masks of {known} are expected in {place / 'mask'} (or {base / 'mask'}), which do not exist"
        )
    present = [part for part in THREE_WAY if (place / part).is_dir()]
    part = "val" if split == "test" and "test" not in present else split
    check_split(known, split, THREE_WAY, [*present, split] if part in present else present, place)
    classes = SVANET_CLASSES[known]
    if label_map is None:
        label_map = {**{index + 1: index + 1 for index in range(len(classes))}, 255: IGNORE}
    places = [place] if masks.parent == place and place != base else [base, *_folds(base).values()]
    stems = [stem for folder in places for p in THREE_WAY for stem in images_by_stem(folder / p)]
    meta = {"dataset": known, "split": split, "classes": classes}
    return _paired(_listed(place / part), _listed(masks), stems, label_map, require_masks, meta)


def svanet_folds(root: str | Path, name: str) -> list[int]:
    """The cross-validation folders split1, split2, ... that a data set of SvANet has in place of train, val and test.

    root, name  as in `svanet_set`; a data set that is not there has none
    """
    known = next((key for key in SVANET_CLASSES if key.lower() == name.lower()), name)
    folders = [Path(root) / folder for folder in (name, *_FOLDER_NAMES.get(known, (known,)))] + [Path(root)]
    base = next((folder for folder in folders if (folder / "mask").is_dir() or _folds(folder)), None)
    return [] if base is None or any((base / part).is_dir() for part in THREE_WAY) else list(_folds(base))


def _listed(folder: Path, order: str = "natural") -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"folder {folder} does not exist; expected images in it")
    if not (found := images_by_stem(folder, order)):
        raise DataError(f"folder {folder} holds no images (jpg, png, bmp, tif or webp)")
    return found


def _paired(
    images: Mapping[str, Path],
    masks: Mapping[str, Path] | None,
    known: Iterable[str],
    label_map: LabelMap,
    require_masks: bool,
    meta: Mapping[str, object],
) -> list[VideoRecord]:
    """One record per image. `known` are the stems that a mask may have: it may belong to an image of another split."""
    if masks is not None:
        missing = [str(path) for stem, path in images.items() if stem not in masks]
        extra = [str(masks[stem]) for stem in sorted(set(masks) - set(known))]
        if missing and require_masks:
            hint = "add the masks, or pass require_masks=False to take these images as not annotated"
            raise DataError(f"{count_and_name(missing, 'image')} without a mask of the same name; {hint}")
        if extra:
            hint = "add the images or remove the masks"
            raise DataError(f"{count_and_name(extra, 'mask')} without an image of the same name; {hint}")
    truth = masks or {}
    return [VideoRecord(stem, (path,), (truth.get(stem),), label_map, dict(meta)) for stem, path in images.items()]


def _fitting(stems: Mapping[str, Path], patterns: Sequence[str], folder: str | Path) -> set[str]:
    """The stems that fit one of the patterns, each of which must fit some."""
    fitting = {
        pattern: {stem for stem in stems if stem == pattern or fnmatchcase(stem, pattern)} for pattern in patterns
    }
    if useless := [pattern for pattern, fit in fitting.items() if not fit]:
        there = count_and_name(list(stems), "image", 10)
        raise DataError(f"{count_and_name(useless, 'name')} fit nothing in {folder}, which holds {there}")
    return set().union(*fitting.values())


def _pair_of_folders(folder: Path) -> tuple[Path, Path] | None:
    pairs = ((folder / images, folder / masks) for images, masks in _PAIRS)
    return next((pair for pair in pairs if pair[0].is_dir()), None)


def _three_way(dataset: str, root: Path, split: str, label_map: LabelMap, published: int) -> list[VideoRecord]:
    whole = _pair_of_folders(root)
    ready = [name for name in THREE_WAY if _pair_of_folders(root / name)]
    check_split(dataset, split, THREE_WAY, list(THREE_WAY) if whole and not ready else ready, root)
    meta = {"dataset": dataset, "split": split}
    if ready:
        records = {name: image_folder(*_pair_of_folders(root / name), label_map, meta=meta) for name in ready}
        counted(
            dataset, "train, val, test", [record for part in records.values() for record in part], published, "images"
        )
        return records[split]
    records = counted(dataset, "train, val, test", image_folder(*whole, label_map, meta=meta), published, "images")
    return split_stills(records, split)


def _svanet_base(root: Path, known: str, name: str) -> Path:
    folders = [root / folder for folder in dict.fromkeys((name, *_FOLDER_NAMES.get(known, (known,))))]
    for folder in (*folders, root):
        if (folder / "mask").is_dir() or _folds(folder):
            return folder
    tried = " or ".join(map(str, (*folders, root)))
    raise DataError(f"{known} is not in {tried}; expected a folder with train, val or test, and mask")


def _folds(base: Path) -> dict[int, Path]:
    found = [path for path in base.glob("split*") if path.is_dir() and path.name[5:].isdigit()]
    return {int(path.name[5:]): path for path in sorted(found, key=lambda path: int(path.name[5:]))}


def _fold_folder(base: Path, dataset: str, fold: int | None) -> Path:
    folds = _folds(base)
    if fold is None and (not folds or any((base / part).is_dir() for part in THREE_WAY)):
        return base
    if fold not in folds:
        there = f"folds 1..N found: {', '.join(map(str, folds)) or 'none'}"
        raise DataError(f"{dataset} in {base}: fold is {fold}, {there}; set fold to one of them, None without folds")
    return folds[fold]
