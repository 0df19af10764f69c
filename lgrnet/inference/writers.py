"""Predictions onto disk: masks as published, and pictures to look at."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lgrnet.evaluation import FrameRow, Picture, Pictures
from lgrnet.evaluation.protocols import ALL_CLASSES, LOW_IS_GOOD
from lgrnet.records import (
    Prediction,
    VideoRecord,
    class_masks,
    raw_mask,
    read_frame,
    read_mask,
    write_frame,
    write_image,
)
from lgrnet.visualize import INVENTED, LINE_COLOURS, MISSED, RIGHT, contact_sheet, overlay, with_legend

SHEET_SIDE = 320
"""Longer side of a picture on a contact sheet, in pixels."""
JPEG_SIDE = 65_500
"""The longest side that libjpeg writes, in pixels."""
COMPARED = {
    "right: found and annotated": RIGHT,
    "invented: found only (green outline)": INVENTED,
    "missed: annotated only (blue outline)": MISSED,
}
FOUND = {"found": RIGHT}


def save_masks(prediction: Prediction, folder: str | Path) -> list[Path]:
    """Writes <folder>/<video>/<frame>.png and returns the paths.

    One class: 0 and 255, as published. Several: a palette image whose indices are the class ids; where masks
    overlap, the class with the highest probability. A file is there whole or not at all. Raises ValueError when
    the name of the video or of a frame would lead out of the folder, and when two frames have one name.
    """
    target = inside(folder, prediction.video)
    paths = [target / f"{_file_name(name)}.png" for name in prediction.frame_names]
    if twice := [path.stem for path, number in Counter(paths).items() if number > 1]:
        raise ValueError(
            f"video {prediction.video!r} has two frames named {twice[0]!r}, whose masks would be one file; rename one"
        )
    for index, path in enumerate(paths):
        write_image(path, _mask_image(prediction, index))
    return paths


def remove_other_masks(folder: str | Path, records: Iterable[VideoRecord]) -> None:
    """Removes the masks of an earlier evaluation, of other videos or frames, from where `save_masks` puts them."""
    known = {inside(folder, r.name) / f"{_file_name(name)}.png" for r in records for name in r.frame_names}
    root = Path(folder).resolve()
    for path in [path for path in root.rglob("*.png") if path not in known]:
        path.unlink()
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def save_overlays(
    rows: Sequence[FrameRow],
    records: Iterable[VideoRecord],
    masks_folder: str | Path,
    folder: str | Path,
    set_name: str,
    count: int = 4,
    protocol: str = "lgrnet",
    metric: str = "dice",
) -> list[Path]:
    """Pictures of the worst and best frames of a set, and all of them on one contact sheet with a legend.

    rows          of the evaluator; the masks are read back from where `save_masks` put them, so that the rows
                  may come from any rank
    records       of the set
    masks_folder  given to `save_masks`
    count         frames of each kind; a frame where nothing is and nothing was found is not shown among the best, one
                  whose number is not defined not at all

    Writes <folder>/<set_name>/worst_1_<video>_<frame>.png ... best_1_..., sheet.png, and removes those of an earlier
    evaluation. Returns the paths, sheet last; none when there are no rows.
    """
    by_name = {record.name: record for record in records}
    shown = [row for row in rows if row.protocol == protocol and row.video in by_name]
    shown = [row for row in shown if not math.isnan(row.values[metric])]
    sign = -1 if metric in LOW_IS_GOOD else 1
    shown.sort(key=lambda row: (sign * row.values[metric], row.video, row.frame))
    target = inside(folder, set_name)
    earlier = [path for path in target.glob("*.png") if re.match(r"(worst|best)_\d+_", path.name)]
    pictures, captions, paths, seen = [], [], [], set()
    for kind, ordered in (("worst", shown), ("best", shown[::-1])):
        place = 0
        for row in ordered:
            if place == count or (row.video, row.frame, row.class_id) in seen:
                break
            masks = _masks_of(row, by_name[row.video], Path(masks_folder))
            if kind == "best" and not masks.any():
                continue
            place += 1
            seen.add((row.video, row.frame, row.class_id))
            picture = overlay(_frame_of(row, by_name[row.video]), *masks)
            path = target / f"{kind}_{place}_{_safe(row.video)}_{_safe(row.frame)}.png"
            write_frame(path, picture)
            paths.append(path)
            pictures.append(_shrunk(picture))
            captions.append(f"{kind} {place}: {metric} {row.values[metric]:.3f}  {row.video}/{row.frame}")
    for path in earlier:
        if path not in paths:
            path.unlink()
    return _with_sheet(paths, pictures, target / "sheet.png", captions, max(1, min(count, 4)), COMPARED)


def save_frames_sheet(
    records: Sequence[VideoRecord], masks_folder: str | Path, folder: str | Path, set_name: str, count: int = 12
) -> Path | None:
    """A contact sheet of frames spread evenly over the annotated ones of a set: the same at every evaluation.

    Arguments as for `save_overlays`; classes are drawn as one.

    Writes <folder>/<set_name>/frames.png and returns its path, None when no frame is annotated or `count` is 0.
    """
    frames = [(record, i) for record in records for i, annotated in enumerate(record.annotated) if annotated]
    pictures, captions = [], []
    for number in _spread(len(frames), count):
        record, index = frames[number]
        name = record.frame_names[index]
        found = read_mask(inside(masks_folder, record.name) / f"{_file_name(name)}.png")
        there = _truth_of(record, index).any(0)
        pictures.append(_shrunk(overlay(read_frame(record.frames[index]), found, there)))
        captions.append(f"{record.name}/{name}")
    path = inside(folder, set_name) / "frames.png"
    return (_with_sheet([], pictures, path, captions, 4, COMPARED) or [None])[0]


def report_pictures(records: Iterable[VideoRecord], masks_folder: str | Path) -> Pictures:
    """What the HTML report shows of a set: frames and masks from disk, the predicted ones from where `save_masks` put
    them. Arguments as for `save_overlays`."""
    by_name = {record.name: record for record in records}

    def picture(video: str, frame: str) -> Picture:
        record = by_name[video]
        index = record.frame_names.index(frame)
        found = read_mask(inside(masks_folder, video) / f"{_file_name(frame)}.png")
        classes = [found > 0] if record.num_classes == 1 else [found == k + 1 for k in range(record.num_classes)]
        truth = _truth_of(record, index) if record.annotated[index] else None
        return Picture(read_frame(record.frames[index]), truth, np.stack(classes))

    return picture


def save_video_overlays(
    frames: Iterable[tuple[str, np.ndarray]], prediction: Prediction, folder: str | Path, sheet_frames: int = 12
) -> list[Path]:
    """Every frame with its predicted mask drawn on, and a contact sheet, with a legend, of some evenly spread.

    frames  (name, uint8 [H, W, 3]), the frames that were predicted and in that order

    Writes <folder>/<video>/<frame>.jpg (.png where it has more pixels in a row than a JPEG holds) and
    <folder>/<video>_sheet.png; returns the paths, sheet last.
    """
    target = inside(folder, prediction.video)
    total = len(prediction.frame_names)
    chosen = set(_spread(total, sheet_frames))
    paths, pictures, captions = [], [], []
    for index, (name, frame) in enumerate(frames):
        if index >= total or name != prediction.frame_names[index]:
            raise ValueError(f"frame {index} of video {prediction.video!r} is {name!r}, which was not predicted there")
        picture = overlay(frame, prediction.mask[:, index].any(0))
        suffix = ".jpg" if max(picture.shape) <= JPEG_SIDE else ".png"
        paths.append(target / f"{_file_name(name)}{suffix}")
        write_frame(paths[-1], picture)
        if index in chosen:
            pictures.append(_shrunk(picture))
            captions.append(name)
    return _with_sheet(paths, pictures, _sheet_of(target), captions, 4, FOUND)


def save_stills_sheet(overlays: Sequence[Path], count: int = 12) -> Path:
    """A contact sheet of some overlays in one folder, spread evenly over them: <folder>_sheet.png beside it; its path.

    Raises ValueError where there is no overlay.
    """
    if not overlays:
        raise ValueError("a sheet of no overlays; expected at least one")
    shown = [overlays[index] for index in _spread(len(overlays), count)]
    pictures, captions = [_shrunk(read_frame(path)) for path in shown], [path.stem for path in shown]
    return _with_sheet([], pictures, _sheet_of(overlays[0].parent), captions, 4, FOUND)[-1]


def _spread(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, spread evenly over them, in order."""
    return sorted({round(place) for place in np.linspace(0, total - 1, min(count, total))})


def _sheet_of(folder: Path) -> Path:
    """Where the sheet of the overlays in a folder is."""
    return folder.with_name(f"{_shortened(folder.name, 240)}_sheet.png")


def inside(folder: str | Path, name: str) -> Path:
    """<folder>/<name>, where the name may hold folders. Raises ValueError when that is not below the folder."""
    root = Path(folder).resolve()
    path = (root / name).resolve() if name and "\0" not in name else root
    if not path.is_relative_to(root) or path == root:
        raise ValueError(f"the name {name!r} would be written outside {folder}; rename the video")
    return path


def _file_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or os.sep in name or "\0" in name:
        raise ValueError(f"the frame name {name!r} is no file name; rename the frame")
    return name


def _safe(name: str) -> str:
    """A name as a part of a file name."""
    return _shortened(re.sub(r"[^\w.-]+", "_", name), 60)


def _shortened(name: str, most: int) -> str:
    """The end of a name, in so many bytes at most: file systems count these."""
    return os.fsencode(name)[-most:].decode(errors="ignore") if len(os.fsencode(name)) > most else name


def _mask_image(prediction: Prediction, index: int) -> Image.Image:
    masks = prediction.mask[:, index]
    if len(masks) == 1:
        return Image.fromarray(np.where(masks[0], np.uint8(255), np.uint8(0)))
    # A masked class must win over one that is not, even where its probability is 0.
    certainty = np.where(masks, prediction.probability[:, index].astype(np.int16), -1)
    indices = np.where(masks.any(0), certainty.argmax(0) + 1, 0).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    colours = [(0, 0, 0), *(LINE_COLOURS[k % len(LINE_COLOURS)] for k in range(len(masks)))]
    image.putpalette([value for colour in colours for value in colour])
    return image


def _masks_of(row: FrameRow, record: VideoRecord, folder: Path) -> np.ndarray:
    """Prediction and truth of the row's class, or of all classes as one, bool [2, H, W]."""
    found = read_mask(inside(folder, row.video) / f"{_file_name(row.frame)}.png")
    together = row.class_id == ALL_CLASSES
    predicted = found > 0 if record.num_classes == 1 or together else found == row.class_id
    classes = _truth_of(record, record.frame_names.index(row.frame))
    truth = classes.any(0) if together else classes[row.class_id - 1]
    return np.stack([predicted, truth])


def _truth_of(record: VideoRecord, index: int) -> np.ndarray:
    """The annotation of a frame, bool [K, H, W]."""
    return class_masks(raw_mask(record, index), record.label_map, record.masks[index] or "mask") > 0


def _frame_of(row: FrameRow, record: VideoRecord) -> np.ndarray:
    return read_frame(record.frames[record.frame_names.index(row.frame)])


def _shrunk(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = SHEET_SIDE / max(height, width)
    if scale >= 1:
        return picture
    return cv2.resize(
        picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )


def _with_sheet(
    paths: list[Path],
    pictures: Sequence[np.ndarray],
    sheet: Path,
    captions: Sequence[str],
    columns: int,
    colours: Mapping[str, tuple[int, int, int]],
) -> list[Path]:
    if pictures:
        write_frame(sheet, with_legend(contact_sheet(pictures, columns, captions), colours))
        paths.append(sheet)
    return paths
