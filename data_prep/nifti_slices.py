"""ATLAS (liver, MRI) and KiTS23 (kidneys, CT): slices of volumes as SvANet uses them.

    python data_prep/nifti_slices.py --set ATLAS --src atlas-train-dataset-1.0.1.zip --dst data/svanet/ATLAS
    python data_prep/nifti_slices.py --set KiTS23 --src kits23/dataset --dst data/svanet/KiTS23

ATLAS: imagesTr/im<k>.nii.gz and labelsTr/lb<k>.nii.gz, 60 scans. Every 4th axial slice and the last one; a slice is
divided by its maximum; 1 liver, 2 tumour. KiTS23: case_<5 digits>/imaging.nii.gz and segmentation.nii.gz, 489 cases.
2 % of the slices, drawn from the middle 70 %; Hounsfield units are cut to 0..255, as published, or spread over --window
LOW HIGH; 1 kidney, 2 tumor, 3 cyst. Images are JPEG of quality 95, names as published.

Not published are the split (here 80 % of the patients train, the others val, shuffled with a fixed seed; --val_share)
and the draws of KiTS23's slices (here keyed by seed 999 and the case): numbers need not compare. Needs nibabel: pip
install "lgrnet[medical]". A run that was stopped goes on with the case where it was; volumes that have changed since
are cut anew.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import random
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.placing import Entry, Part, Report, progress, write_json  # noqa: E402
from data_prep.stamp import claim, division, finish  # noqa: E402
from data_prep.svanet_layout import parts_of, write_classes  # noqa: E402
from lgrnet.records import DataError, count_and_name, write_frame  # noqa: E402

_DONE = "cases.json"
_MAX_BYTES = 4 << 30


class Kind(NamedTuple):
    """How a set is named, and cut. axis: of the array as nibabel gives it, along which slices are taken."""

    image: re.Pattern
    mask: re.Pattern
    name: str
    axis: int
    classes: int
    published: int


KINDS = {
    "ATLAS": Kind(
        re.compile(r"(?:.*/)?imagesTr/im(\d+)\.nii(?:\.gz)?", re.DOTALL),
        re.compile(r"(?:.*/)?labelsTr/lb(\d+)\.nii(?:\.gz)?", re.DOTALL),
        "im{}.nii",
        2,
        2,
        60,
    ),
    "KiTS23": Kind(
        re.compile(r"(?:.*/)?case_(\d{5})/imaging\.nii(?:\.gz)?", re.DOTALL),
        re.compile(r"(?:.*/)?case_(\d{5})/segmentation\.nii(?:\.gz)?", re.DOTALL),
        "case_{}",
        0,
        3,
        489,
    ),
}


def prepare(options: argparse.Namespace) -> Report:
    """Writes the slices; raises DataError for volumes that are not as known, and where nibabel is missing."""
    kind = KINDS[options.set]
    if not 0 <= options.val_share < 1:
        raise DataError(f"--val_share is {options.val_share}; expected 0 .. 1, such as 0.2")
    if options.window is not None and (options.set != "KiTS23" or not options.window[0] < options.window[1]):
        raise DataError(f"--window is {options.window}; expected LOW below HIGH, for KiTS23")
    sources = sources_of(options)
    cases, missing = find_cases(kind, sources)
    if not cases:
        raise DataError(f"no volumes of {options.set} in {', '.join(map(str, options.src))}; see --help")
    parts = parts_of(list(cases), {"train": 1 - options.val_share, "val": options.val_share})
    report = Report()
    if options.dry_run:
        report.parts.append(Part("volumes", dict.fromkeys(cases, 1), kind.published, missing=missing, noun="volumes"))
        report.notes.append("how many slices they give is known when they are read")
        return report
    _nibabel()
    note = {"source": options.set, "val_share": options.val_share, "window": options.window}
    note |= division(parts)
    claim(options.dst, sources, note, ("train", "val", "mask", _DONE))
    done, apart = _write_cases(options, kind, cases, parts)
    report.parts.append(Part("volumes", done, kind.published, missing=missing, noun="volumes"))
    for part in ("train", "val"):
        slices = [done[case] for case in cases if parts[case] == part]
        report.notes.append(f"{part}: {len(slices)} volumes, {sum(slices)} slices")
    if apart:
        volumes = count_and_name(apart, "volume")
        report.notes.append(f"by its header the mask lies beside the image, cut index by index all the same: {volumes}")
    finish(options.dst, note, report)
    return report


def find_cases(kind: Kind, sources: Sequence) -> tuple[dict[str, tuple[Entry, Entry]], list[str]]:
    """Case -> its image and mask, in the order of their numbers, and what is missing of others."""
    found: dict[str, dict[str, Entry]] = {}
    for entry in (Entry(source, name) for source in sources for name in source.files):
        for role, pattern in (("image", kind.image), ("mask", kind.mask)):
            if match := pattern.fullmatch(entry.whole_name):
                pair = found.setdefault(match[1], {})
                if role in pair:
                    raise DataError(f"{entry.name} and {pair[role].name} are the same volume; keep one of them")
                pair[role] = entry
    cases, missing = {}, []
    for number in sorted(found, key=int):
        name, pair = kind.name.format(number), found[number]
        if len(pair) == 2:
            cases[name] = pair["image"], pair["mask"]
        else:
            missing.append(f"{'mask' if 'image' in pair else 'image'} of {name}")
    return cases, missing


def chosen_slices(dataset: str, case: str, count: int) -> list[int]:
    """Which of `count` slices of a volume are taken."""
    if dataset == "ATLAS":
        return sorted({*range(0, count, 4), count - 1})
    low = int(0.15 * count)
    middle = range(low, max(int(0.85 * count), low + 1))
    return sorted(random.Random(f"999 {case}").sample(middle, min(math.ceil(0.02 * count), len(middle))))


def grey(values: np.ndarray, dataset: str, window: Sequence[float] | None = None) -> np.ndarray:
    """uint8 [H, W] of a slice: by its maximum (ATLAS), cut to 0..255, or spread over a window (KiTS23)."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if dataset == "ATLAS":
        values = 255 * values / values.max() if values.max() > 0 else np.zeros_like(values)
    elif window is not None:
        values = 255 * (values - window[0]) / (window[1] - window[0])
    return np.clip(values, 0, 255).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 1 where something is missing, or 2 with a message."""
    parser = parser_of("slices of ATLAS or KiTS23 into train, val and mask", "archive or folder with the volumes")
    parser.add_argument("--set", choices=tuple(KINDS), required=True, help="which set it is")
    parser.add_argument("--val_share", type=float, default=0.2, help="share of the patients for val; default 0.2")
    parser.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="Hounsfield units, for KiTS23")
    return run(prepare, parser, arguments)


def _write_cases(
    options: argparse.Namespace, kind: Kind, cases: dict[str, tuple[Entry, Entry]], parts: dict[str, str]
) -> tuple[dict[str, int], list[str]]:
    """Case -> how many slices of it are there, and the cases whose image and mask lie apart.

    What an earlier run finished is read again only if it has changed.
    """
    done = _read_done(options.dst / _DONE)
    times = {case: [volume.changed for volume in volumes] for case, volumes in cases.items()}
    there = _slices(options.dst)
    same = {case for case in cases if done.get(case, [])[2:] == times[case] and len(there[case]) == 2 * done[case][0]}
    with progress("slicing", len(cases), len(same)) as advance:
        for case, (image, mask) in cases.items():
            if case in same:
                continue
            volume, labels = _volume(image), _volume(mask)
            if volume.shape != labels.shape or len(volume.shape) != 3:
                found = f"{image.name} has the shape {volume.shape}, {mask.name} {labels.shape}"
                raise DataError(f"{found}; expected the same 3 sides")
            chosen = chosen_slices(options.set, case, volume.shape[kind.axis])
            for path in there[case]:  # of a volume that has changed, or whose slices were not all written
                path.unlink()
            for index in chosen:
                name = f"{case}_{index}"
                raw = _cut(labels, kind.axis, index, mask)
                if unknown := np.setdiff1d(raw, range(kind.classes + 1)).tolist():
                    raise DataError(f"{mask.name} holds the values {unknown}; expected 0 .. {kind.classes}")
                write_classes(options.dst / "mask" / f"{name}.png", raw.astype(np.uint8))
                shade = grey(_cut(volume, kind.axis, index, image), options.set, options.window)
                write_frame(options.dst / parts[case] / f"{name}.jpg", np.array(Image.fromarray(shade).convert("RGB")))
            done[case] = [len(chosen), int(_apart(volume, labels)), *times[case]]
            write_json(options.dst / _DONE, done)
            advance()
    return {case: row[0] for case, row in done.items()}, [case for case, row in done.items() if row[1]]


def _apart(volume, labels) -> bool:
    """Whether a corner of the one lies more than half a voxel from that of the other, by their affines."""
    corners = np.array([[*np.array(corner) * (np.array(volume.shape) - 1), 1] for corner in np.ndindex(2, 2, 2)])
    distances = np.linalg.norm(corners @ (volume.affine - labels.affine).T, axis=1)
    smallest = np.linalg.norm(volume.affine[:3, :3], axis=0).min()
    return not distances.max() <= smallest / 2


def _slices(dst: Path) -> dict[str, list[Path]]:
    """Case -> its images and masks that are there."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in (path for part in ("train", "val", "mask") for path in (dst / part).glob("*")):
        case, _, number = path.stem.rpartition("_")
        if number.isdecimal():
            found[case].append(path)
    return found


def _read_done(path: Path) -> dict[str, list[int]]:
    """Case -> its number of slices, whether image and mask lie apart (0 or 1), and when they changed."""
    try:
        done = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {case: list(row) for case, row in dict(done).items()}
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not what this program writes; remove it, and the volumes are read again") from error


def _cut(volume, axis: int, index: int, entry: Entry) -> np.ndarray:
    """One slice [H, W]. KiTS23 is stored slice by slice; ATLAS x, y, z, and its pictures show y downwards."""
    try:
        values = np.asarray(volume.dataobj[index] if axis == 0 else volume.dataobj[..., index].T)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{entry.name} in {entry.source.path} is damaged ({error}); get it again") from error
    return values


def _volume(entry: Entry):
    """A NIfTI image over the bytes of a file; its slices are decoded when asked for."""
    nibabel = _nibabel()
    place = f"{entry.name} in {entry.source.path}"
    data = entry.source.read(entry.name, _MAX_BYTES)
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{place} becomes more than {_MAX_BYTES} bytes; it looks like a decompression bomb")
        second = nibabel.Nifti2Header.may_contain_header(data)
        volume = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_stream(io.BytesIO(data))
        needed = volume.dataobj.offset + math.prod(volume.shape) * volume.get_data_dtype().itemsize
        if needed > len(data):
            raise DataError(f"{place} has {len(data)} bytes and needs {needed}; it is cut short: get it again")
        if (dtype := volume.get_data_dtype()).kind not in "iuf":
            raise DataError(f"{place} holds {dtype}; expected whole or real numbers")
        if 0 in volume.shape:
            raise DataError(f"{place} has the shape {volume.shape}; expected a volume that is not empty")
        return volume
    except (OSError, ValueError, EOFError, zlib.error, *_errors_of(nibabel)) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{place} is no NIfTI file, or damaged ({error}); get it again") from error


def _errors_of(nibabel) -> tuple[type[Exception], ...]:
    header = nibabel.spatialimages.HeaderDataError, nibabel.spatialimages.HeaderTypeError
    return *header, nibabel.filebasedimages.ImageFileError, nibabel.wrapstruct.WrapStructError


def _nibabel():
    try:
        import nibabel
    except ImportError as error:
        raise DataError('reading NIfTI needs nibabel: pip install nibabel, or pip install "lgrnet[medical]"') from error
    return nibabel


if __name__ == "__main__":
    sys.exit(main())
