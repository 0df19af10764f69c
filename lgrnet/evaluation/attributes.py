"""What is known of a video beside its masks: SUN-SEG's visual attributes, and what users' files say."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lgrnet.evaluation.object_size import largest_object
from lgrnet.records import DataError, count_and_name
from lgrnet.records.published import sun_case

VISUAL_ATTRIBUTES = ("SI", "IB", "HO", "GH", "FM", "SO", "LO", "OC", "OV", "SV")
"""SUN-SEG's: surgical instruments, indefinable boundaries, heterogeneous object, ghosting, fast motion, small object,
large object, occlusion, out of view, scale variation."""

FAST_PIXELS, SMALL_SHARE, LARGE_SHARE, SCALE_RATIO = 20, 0.05, 0.15, 0.5
_YES, _NO = ("1", "1.0", "true", "yes", "y", "x"), ("", "0", "0.0", "false", "no", "n")
_KEY_COLUMNS = ("video", "clip")
_TABLES = (".xlsx", ".xls", ".ods", ".numbers")


class FrameShape(NamedTuple):
    """Where the annotated lesions of a frame are, all classes together.

    area, box  of the lesions and of the box around them all, as shares of the image; 0 where there is none
    x, y       their centre in pixels; NaN where there is none
    size       area of the largest object in percent, see `largest_object`
    """

    area: float
    box: float
    x: float
    y: float
    size: float


def frame_shape(there: np.ndarray) -> FrameShape:
    """The shape of the lesions of a frame, of masks bool [K, H, W]."""
    union = there.any(0)
    columns, rows = union.sum(0), union.sum(1)
    pixels = int(rows.sum())
    if not pixels:
        return FrameShape(0.0, 0.0, math.nan, math.nan, 0.0)
    wide, high = (int(np.ptp(np.flatnonzero(line))) + 1 for line in (columns, rows))
    x, y = (float(line @ np.arange(line.size)) / pixels for line in (columns, rows))
    return FrameShape(pixels / union.size, wide * high / union.size, x, y, largest_object(there))


def visual_attributes(shapes: Sequence[FrameShape | None]) -> dict[str, bool]:
    """The four attributes of SUN-SEG that masks alone decide, by their published definitions.

    shapes  of the frames of a clip in their order, None: not annotated

    FM  the centre moves by more than 20 pixels (at the size on disk), mean over neighbouring frames with a lesion
    SO  the lesion has less than 0.05 of the image, mean over the frames with one
    LO  the box around it has more than 0.15 of the image, mean over the frames with one
    SV  the smallest such box has less than half the area of the largest

    A clip without a lesion has none of them.
    """
    shown = [shape for shape in shapes if shape is not None and shape.area]
    if not shown:
        return dict.fromkeys(("SV", "SO", "LO", "FM"), False)
    boxes = [shape.box for shape in shown]
    steps = [
        math.hypot(b.x - a.x, b.y - a.y)
        for a, b in zip(shapes, shapes[1:], strict=False)
        if a is not None and b is not None and a.area and b.area
    ]
    return {
        "SV": min(boxes) / max(boxes) < SCALE_RATIO,
        "SO": math.fsum(shape.area for shape in shown) / len(shown) < SMALL_SHARE,
        "LO": math.fsum(boxes) / len(boxes) > LARGE_SHARE,
        "FM": bool(steps) and math.fsum(steps) / len(steps) > FAST_PIXELS,
    }


def read_attributes(path: str | Path) -> dict[str, dict[str, object]]:
    """Video -> column -> value of a user's table; an empty cell is no value.

    path  .csv (comma or semicolon), .tsv or .txt (tab): a header with a column `video` (or `clip`), one video a line;
          .json: {video: {column: value}}, or a list of objects with a key `video`

    Any column may stand there. SI IB HO GH FM SO LO OC (or OCC) OV SV are yes (1, true, yes, x) or no (0, false, no,
    empty), `size_mm` is a number, and the others are texts, like location, pathology, paris, patient or seen.

    Raises DataError, naming file and line, for a spreadsheet, null bytes, a missing or repeated column, a video that
    stands there twice, a line with too many cells, and a value that is not one of these.
    """
    path = Path(path)
    if path.suffix.lower() in _TABLES:
        raise DataError(f"{path} is a spreadsheet, which is not read; export the sheet as CSV (UTF-8) and give that")
    text = _read_text(path)
    rows = _json_rows(path, text) if path.suffix.lower() == ".json" else _table_rows(path, text)
    found: dict[str, dict[str, object]] = {}
    for place, video, cells in rows:
        if not video:
            raise DataError(f"{place}: no name of a video; expected one in the column `video`")
        if video in found:
            raise DataError(f"{place}: video {video!r} stands there twice; keep one of the lines")
        values = {"OC" if c == "OCC" else c: _value(c, v, f"{place}, video {video!r}") for c, v in cells.items()}
        found[video] = {column: value for column, value in values.items() if value is not None}
    if not found:
        raise DataError(f"{path} names no video; expected a header with a column `video` and one video a line")
    return found


def read_classification(path: str | Path) -> dict[str, str]:
    """Stem of an image -> its class, of SUN-SEG's classification.txt: `<image>.jpg <TAB> <class>` on each line.

    Windows' line ends are read, with a warning. Raises DataError, naming the line, for null bytes, a line of another
    form, and an image with two classes.
    """
    path = Path(path)
    text = _read_text(path)
    if "\r" in text:
        warnings.warn(f"{path} has Windows' line ends (CRLF); they are left out", stacklevel=2)
    classes: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            raise DataError(f"{path}, line {number}: {line[:120]!r}; expected an image, one tab and its class")
        stem = Path(cells[0]).stem
        if classes.setdefault(stem, cells[1]) != cells[1]:
            raise DataError(f"{path}, line {number}: {stem!r} is {cells[1]!r} here and {classes[stem]!r} before")
    if not classes:
        raise DataError(f"{path} names no image; expected `<image>.jpg <TAB> <class>` on each line")
    return classes


def pathology_of(frames: Iterable[str], classes: Mapping[str, str]) -> str | None:
    """The class of a video by those of its frames (stems): "several" where they differ, None where none is known."""
    found = {classes[frame] for frame in frames if frame in classes}
    return None if not found else found.pop() if len(found) == 1 else "several"


def seen_by_case(video: str, training: Iterable[str]) -> str:
    """SUN-SEG's rule: a clip (`case<N>` or `case<N>_<k>`) is "seen" where its case gives training clips, too."""
    return "seen" if sun_case(video) in map(sun_case, training) else "unseen"


def check_known(attributes: Mapping[str, object], videos: Iterable[str], source: str | Path) -> None:
    """Warns of videos that a file of attributes does not know; raises DataError when it knows none of them."""
    videos = list(videos)
    unknown = [video for video in videos if video not in attributes]
    if videos and len(unknown) == len(videos):
        raise DataError(
            f"{source} knows none of {count_and_name(videos, 'video')}; it holds "
            f"{count_and_name(list(attributes), 'name')}: are these the names of the folders?"
        )
    if unknown:
        warnings.warn(f"{source} does not know {count_and_name(unknown, 'video')}: in no slice of it", stacklevel=2)


def gather_attributes(
    videos: Mapping[str, Sequence[str]],
    table: str | Path | None = None,
    classification: str | Path | None = None,
    training: str | Path | None = None,
) -> dict[str, dict[str, object]]:
    """Video -> column -> value, from what a user has of these.

    videos          video -> the names of its frames
    table           see `read_attributes`; goes before the others
    classification  see `read_classification`; gives `pathology`
    training        folder of the training clips (or one with a folder Frame or GT of them); gives `seen`, see
                    `seen_by_case`

    Warns of videos that the table does not know. Raises DataError for files that cannot be used.
    """
    known: dict[str, dict[str, object]] = {video: {} for video in videos}
    if training is not None:
        clips = {sun_case(clip) for clip in _clips(Path(training))}  # one of each case is enough
        known = {video: {"seen": seen_by_case(video, clips)} for video in videos}
    if classification is not None:
        classes = read_classification(classification)
        found = {video: pathology_of(frames, classes) for video, frames in videos.items()}
        check_known({video: {} for video, name in found.items() if name}, videos, classification)
        for video, name in found.items():
            known[video] |= {} if name is None else {"pathology": name}
    if table is not None:
        given = read_attributes(table)
        check_known(given, videos, table)
        for video in videos:
            known[video] |= given.get(video, {})
    return known


def _clips(folder: Path) -> list[str]:
    """The names of the folders in a folder, or in its Frame or GT."""
    inner = next((folder / name for name in ("Frame", "GT") if (folder / name).is_dir()), folder)
    names = sorted(p.name for p in inner.iterdir() if p.is_dir()) if inner.is_dir() else []
    if not names:
        raise DataError(f"{folder} holds no training clips; expected {folder}/<clip>, or in Frame/ or GT/ below it")
    return names


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if raw[:4] == b"PK\x03\x04":
        raise DataError(f"{path} is a spreadsheet or an archive, no text; export the sheet as CSV (UTF-8)")
    if nulls := raw.count(b"\0"):
        line = raw[: raw.index(b"\0")].count(b"\n") + 1
        hint = "save it as UTF-8" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "it is damaged: download it again"
        raise DataError(f"{path} holds {nulls} null bytes, the first in line {line}; {hint} (tr -d '\\0' removes them)")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error


def _parsed(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; is a quote not closed?") from error


def _table_rows(path: Path, text: str) -> Iterable[tuple[str, str, dict[str, str]]]:
    """Where, video and cells of each line of a table."""
    head = text.partition("\n")[0]
    commas = path.suffix.lower() == ".csv"
    delimiter = ("," if head.count(",") >= head.count(";") else ";") if commas else "\t"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines = _parsed(reader, path)
    header = [cell.strip() for cell in next(lines, [])]
    keys = [i for i, cell in enumerate(header) if cell.lower() in _KEY_COLUMNS]
    twice = sorted({cell for cell in header if header.count(cell) > 1 and cell})
    if len(keys) != 1 or twice or "" in header:
        raise DataError(
            f"{path}: the header is {header[:20]}; expected different names of columns, one of them `video` "
            f"({'separated by commas or semicolons' if commas else 'separated by tabs'})"
        )
    for cells in lines:
        place = f"{path}, line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            raise DataError(f"{place}: {len(cells)} cells under {len(header)} columns; put quotes around texts")
        filled = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
        yield place, filled[keys[0]], {header[i]: cell for i, cell in enumerate(filled) if i != keys[0]}


def _json_rows(path: Path, text: str) -> Iterable[tuple[str, str, dict[str, object]]]:
    """Where, video and cells of each entry of a JSON file."""
    try:
        tree = json.loads(text, object_pairs_hook=partial(_once, path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error})") from error
    if isinstance(tree, dict):
        tree = [{**cells, "video": video} if isinstance(cells, dict) else cells for video, cells in tree.items()]
    entries = tree if isinstance(tree, list) else [tree]
    for number, cells in enumerate(entries, start=1):
        if not isinstance(cells, dict) or not isinstance(cells.get("video"), str):
            raise DataError(f"{path}, entry {number}: expected {{video: {{column: value}}}}, or objects with `video`")
        nested = [column for column, value in cells.items() if isinstance(value, (dict, list))]
        if nested:
            raise DataError(f"{path}, entry {number}: {', '.join(nested[:5])} must be a text, a number, true or false")
        yield f"{path}, entry {number}", cells["video"], {c: v for c, v in cells.items() if c != "video"}


def _once(path: Path, pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON, of which a name that stands there twice would keep its last value only."""
    if twice := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
        raise DataError(f"{path}: {twice[0]!r} stands there twice in one object; keep one of them")
    return dict(pairs)


def _value(column: str, value: object, place: str) -> object:
    """A cell as what its column holds; None: no value."""
    text = "" if value is None else str(value).strip()
    if column in VISUAL_ATTRIBUTES and not text:
        return None
    if column in (*VISUAL_ATTRIBUTES, "OCC"):
        if text.lower() not in (*_YES, *_NO):
            raise DataError(
                f"{place}: {column} is {text!r}; expected yes (1, true, yes, x) or no (0, false, no, empty)"
            )
        return text.lower() in _YES
    if column == "size_mm" and text:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise DataError(f"{place}: size_mm is {text!r}; expected a number of millimetres")
        return number
    return text or None
