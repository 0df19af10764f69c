"""The labels of SUN-SEG beside its masks: the class of each frame, and boxes; used by sunseg.py.

Their files come with defects: null bytes in classification.txt, a box file that is not valid JSON. They are mended
where that is possible, and never in the way of the masks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_prep.archives import Source
from data_prep.placing import write_json, write_text
from lgrnet.records import DataError

CLASSES = (
    *("low_grade_adenoma", "high_grade_adenoma", "hyperplastic_polyp"),
    *("traditional_serrated_adenoma", "sessile_serrated_lesion", "invasive_cancer"),
)
_COMMA = re.compile(r'([}\]"0-9el])(\s*\n\s*)(["{\[])')
_BOX = re.compile(r'\{[^{}]*"id"\s*:\s*"([^"]*)"[^{}]*"bbox"\s*:\s*\[([-+\d.,eE\s]*)\][^{}]*\}')


def carry_labels(sources: Sequence[Source], splits: Iterable[str], dst: Path | None) -> list[str]:
    """Writes the classes and boxes of the splits below `dst` (None: only looks); notes on what was mended or lost."""
    notes = []
    for split in splits:
        for name, carry in (
            ("Classification/classification.txt", _carry_classes),
            ("Detection/bbox_annotation.json", _carry_boxes),
        ):
            place = f"{split}/{name}"
            found = ((s, file) for s in sources for file in s.files if f"/{file}".endswith(f"/{place}"))
            source, file = next(found, (None, None))
            if source is not None:
                try:
                    note = carry(source.read(file), None if dst is None else dst / place)
                except DataError as error:
                    note = f"left out: {error}"
                notes += [f"{place}: {note}"] if note else []
    return notes


def read_classes(content: bytes) -> dict[str, str]:
    """Stem of a frame -> class, from classification.txt; null bytes, a byte order mark and Windows' lines are dropped.

    Raises DataError for a line that is not a name, a tab (or space) and a class.
    """
    classes = {}
    for number, line in enumerate(_text(content).splitlines(), 1):
        parts = line.split()
        if len(parts) == 1 or len(parts) > 2 or (parts and parts[1] not in CLASSES):
            raise DataError(f"line {number} is {line[:80]!r}; expected <frame>.jpg, a tab and one of {CLASSES}")
        if parts:
            classes[parts[0].removesuffix(".jpg")] = parts[1]
    return classes


def read_boxes(content: bytes) -> tuple[dict[str, object], str]:
    """The box file as published (`images`, `annotation`), and what was wrong with it, "" for nothing.

    Commas that are missing or too many are mended; else the boxes are taken out one by one. Raises DataError where
    there are none.
    """
    text = _text(content)
    mended = re.sub(r",(\s*[}\]])", r"\1", _COMMA.sub(r"\1,\2\3", text))
    for candidate, wrong in ((text, ""), (mended, "was not valid JSON, commas mended")):
        try:
            boxes = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(boxes, dict):
            return boxes, wrong
    boxes = []
    for name, numbers in _BOX.findall(text):
        try:
            boxes.append({"id": name, "bbox": [float(number) for number in numbers.split(",")]})
        except ValueError:
            continue
    if not boxes:
        raise DataError("no JSON and no box could be found in it")
    return {"annotation": boxes}, f"was not valid JSON, {len(boxes)} boxes saved"


def _carry_classes(content: bytes, target: Path | None) -> str:
    classes = read_classes(content)
    if target is not None:
        write_text(target, "".join(f"{stem}.jpg\t{name}\n" for stem, name in classes.items()))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(classes.values()).items()))
    mended = f"{content.count(0)} null bytes dropped; " if 0 in content else ""
    return f"{mended}{counts}"


def _carry_boxes(content: bytes, target: Path | None) -> str:
    boxes, wrong = read_boxes(content)
    if target is not None:
        write_json(target, boxes)
    return wrong


def _text(content: bytes) -> str:
    return content.replace(b"\0", b"").decode("utf-8-sig", errors="replace")
