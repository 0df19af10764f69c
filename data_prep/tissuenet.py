"""TissueNet (fluorescence microscopy, datasets.deepcell.org) as SvANet uses it.

    python data_prep/tissuenet.py --dst data/svanet/TissueNet --src tissuenet_v1.1_train.npz tissuenet_v1.1_val.npz \\
        tissuenet_v1.1_test.npz

Each .npz has X [N, H, W, 2] (nuclei, membranes) and y [N, H, W, 2] (cells and nuclei, numbered); train is 512 x 512,
val and test 256 x 256. An image becomes an RGB PNG with nuclei in green and membranes in blue, each channel scaled
from its minimum to its 99.9th percentile; in a mask 1 is a cell and 2 a nucleus, which lies on top. SvANet does not say
how it made its pictures: numbers need not compare. Names are <part>_<index>. Memory is that of one image. A run that
was stopped goes on where it was; what comes of a file that has changed since is written anew.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.archives import Folder, Source  # noqa: E402
from data_prep.arrays import items_of, shape_of  # noqa: E402
from data_prep.command import parser_of, run  # noqa: E402
from data_prep.placing import Part, Report, has_time, progress, set_time  # noqa: E402
from data_prep.stamp import claim, finish  # noqa: E402
from data_prep.svanet_layout import write_classes  # noqa: E402
from lgrnet.records import DataError, write_image  # noqa: E402

PUBLISHED = {"1.0": {"train": 2601, "val": 3118, "test": 1324}, "1.1": {"train": 2580, "val": 3118, "test": 1324}}
"""Version -> part -> number of images."""
_PART = re.compile(r"(?:^|[_.-])(train|val|test)(?=[_.-]|$)")
_VERSION = re.compile(r"v(\d\.\d)")
_PERCENTILE = 99.9


def prepare(options: argparse.Namespace) -> Report:
    """Writes the images and masks; raises DataError for files of another shape."""
    parts = parts_of_files(options.src)
    report = Report()
    shapes = {part: _checked_shape(path) for part, path in parts.items()}
    versions = {match[1] for path in parts.values() if (match := _VERSION.search(path.name))}
    published = PUBLISHED.get(next(iter(versions)), {}) if len(versions) == 1 else {}
    if len(versions) > 1:
        report.notes.append(f"files of several versions: {', '.join(sorted(versions))}")
    for part, count in shapes.items():
        found = dict.fromkeys((f"{part}_{index:05d}" for index in range(count)), 1)
        report.parts.append(Part(part, found, frames=published.get(part), noun=None))
    if missing := [part for part in ("train", "val", "test") if part not in parts]:
        report.notes.append(f"nothing of {' and '.join(missing)} was given")
    if options.dry_run:
        return report
    note = {"source": "TissueNet", "files": {part: path.name for part, path in parts.items()}, "images": shapes}
    folders = [Folder(path) for path in options.src if path.is_dir()]
    claim(options.dst, [*folders, *map(Source, parts.values())], note, ("train", "val", "test", "mask"))
    for part, path in parts.items():
        _write_part(options.dst, part, path, shapes[part])
    finish(options.dst, note, report)
    return report


def parts_of_files(paths: Sequence[Path]) -> dict[str, Path]:
    """train, val, test -> its .npz file, of files or folders of them; raises DataError for other names, or two."""
    files = [file for path in paths for file in (sorted(path.glob("*.npz")) if path.is_dir() else [path])]
    parts: dict[str, Path] = {}
    for file in files:
        match = _PART.search(file.stem)
        if match is None or not file.is_file():
            raise DataError(f"{file} is not there, or not named for train, val or test, as tissuenet_v1.1_train.npz is")
        if match[1] in parts:
            raise DataError(f"{file} and {parts[match[1]]} are both {match[1]}; give one of them")
        parts[match[1]] = file
    if not parts:
        raise DataError(f"no .npz files in {', '.join(map(str, paths))}; unpack the archive and give its folder")
    return parts


def picture(channels: np.ndarray, where: str) -> np.ndarray:
    """uint8 RGB [H, W, 3] of nuclei and membranes [H, W, 2]; raises DataError for NaN and infinity."""
    if not np.isfinite(channels).all():
        raise DataError(f"{where} holds values that are no numbers; get the file again")
    rgb = np.zeros((*channels.shape[:2], 3), np.uint8)
    for index in range(2):
        values = channels[..., index].astype(np.float64)
        low, high = values.min(), np.percentile(values, _PERCENTILE)
        if high > low:
            rgb[..., index + 1] = np.rint(255 * np.clip((values - low) / (high - low), 0, 1))
    return rgb


def classes(numbered: np.ndarray, where: str) -> np.ndarray:
    """uint8 [H, W] of numbered cells and nuclei [H, W, 2]: 2 nucleus, else 1 cell, else 0.

    Raises DataError, naming `where`, for labels below 0 and NaN.
    """
    if (wrong := numbered[~(numbered >= 0)]).size:
        raise DataError(
            f"{where} holds the label {wrong.min()}; expected 0 and the numbers of cells and nuclei: get the file "
            "again, or set such labels to 0 where they are background"
        )
    return np.where(numbered[..., 1] > 0, 2, numbered[..., 0] > 0).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 1 where something is missing, or 2 with a message."""
    return run(prepare, parser_of("TissueNet into train, val, test and mask", "its .npz files, or a folder"), arguments)


def _checked_shape(path: Path) -> int:
    images, masks = shape_of(path, "X"), shape_of(path, "y")
    if len(images) != 4 or images != masks or images[3] != 2:
        raise DataError(f"{path} has X {images} and y {masks}; expected both [N, H, W, 2]")
    return images[0]


def _write_part(dst: Path, part: str, path: Path, count: int) -> None:
    changed = path.stat().st_mtime_ns
    with progress(part, count) as advance:
        for index, (image, mask) in enumerate(zip(items_of(path, "X"), items_of(path, "y"), strict=True)):
            name = f"{part}_{index:05d}.png"
            if not has_time(target := dst / "mask" / name, changed):
                write_classes(target, classes(mask, f"item {index} of y in {path}"))
                set_time(target, changed)
            if not has_time(target := dst / part / name, changed):
                write_image(target, Image.fromarray(picture(image, f"item {index} of X in {path}")))
                set_time(target, changed)
            advance()


if __name__ == "__main__":
    sys.exit(main())
