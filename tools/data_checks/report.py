"""What was found: as a table, as JSON, and as a sheet of pictures."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_checks.kinds import ERROR, KINDS, NOTE, WARNING, Finding
from data_checks.pictures import DECODE_ERRORS, Unreadable, decode, open_bytes
from data_checks.run import Report
from lgrnet.records import DataError, read_mask
from lgrnet.visualize import contact_sheet, overlay

_COLOURS = {ERROR: "bold red", WARNING: "yellow", NOTE: "cyan"}
_TILE = 224  # pixels of the longer side
_PER_CODE, _MOST = 4, 60  # tiles


def plain(name: str) -> str:
    """A name in one line of printable signs; what a terminal cannot show stands as its code."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return shown


def print_report(report: Report, console: Console, per_code: int = 5) -> None:
    """A table with a row for each code, and a line with the sum.

    per_code  so many files of a code are named
    """
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.code].append(finding)
    if groups:
        table = Table("code", "", "number", "what", "where", "what to do", box=box.SIMPLE, show_lines=True)
        for code, members in groups.items():
            kind = KINDS[code]
            where = [plain(m.path) + (f": {plain(m.detail)}" if m.detail else "") for m in members[:per_code]]
            where += [f"and {len(members) - per_code} more"] * (len(members) > per_code)
            level, what = Text(kind.level, _COLOURS[kind.level]), Text(kind.meaning)
            table.add_row(code, level, str(len(members)), what, Text("\n".join(where)), Text(kind.todo))
        console.print(table)
    console.print(Text(summary(report)))


def summary(report: Report) -> str:
    """One line."""
    levels = report.levels
    counts = ", ".join(f"{levels[level]} {level}{'' if levels[level] == 1 else 's'}" for level in _COLOURS)
    seen = f"{report.videos} videos and stills, {report.frames} frames, {report.masks} masks"
    verdict = counts if report.findings else "nothing found"
    return f"{plain(str(report.root))}: {seen} in {report.seconds:.1f} s: {verdict}"


def print_codes(console: Console) -> None:
    """The table of all codes."""
    table = Table("code", "", "what it means", "what to do", box=box.SIMPLE)
    for kind in KINDS.values():
        table.add_row(kind.code, Text(kind.level, _COLOURS[kind.level]), Text(kind.meaning), Text(kind.todo))
    console.print(table)


def as_json(report: Report) -> str:
    """Everything as JSON; signs that are no Unicode stand as escapes."""
    findings = [
        {
            "code": finding.code,
            "level": finding.kind.level,
            "path": finding.path,
            "detail": finding.detail,
            "others": list(finding.others),
            "meaning": finding.kind.meaning,
            "todo": finding.kind.todo,
        }
        for finding in report.findings
    ]
    levels = {level: report.levels[level] for level in _COLOURS}
    counts = {"videos": report.videos, "frames": report.frames, "masks": report.masks, "splits": report.splits}
    head = {"root": str(report.root), "status": report.status, "levels": levels, **counts}
    return json.dumps({**head, "seconds": round(report.seconds, 2), "findings": findings}, indent=1)


def sheet(report: Report) -> np.ndarray | None:
    """Pictures of what was found, at most four of a code, masks painted on their frames; None where none can be shown.

    Returns uint8 [H, W, 3].
    """
    frames = {mask: frame for frame, mask in report.pairs.items()}
    shown: dict[str, int] = defaultdict(int)
    tiles, captions = [], []
    for finding in report.findings:
        if shown[finding.code] >= _PER_CODE or len(tiles) >= _MOST:
            continue
        for path in (finding.path, *finding.others[:1]):
            if (tile := _tile(report, path, frames)) is not None:
                tiles.append(tile)
                captions.append(f"{finding.code} {path[-40:]}".encode("ascii", "replace").decode())
                shown[finding.code] += 1
    return contact_sheet(tiles, columns=6, captions=captions) if tiles else None


def _tile(report: Report, path: str, frames: dict[str, str]) -> np.ndarray | None:
    """A frame with its mask, or a file alone, uint8 [h, w, 3]; None for what is no readable picture."""
    mask = path if path in frames else report.pairs.get(path)
    frame = _picture(report.root / frames.get(path, path))
    if frame is None:
        return _picture(report.root / path) if path in frames else None
    if mask is None:
        return frame
    try:
        raw = read_mask(report.root / mask)
    except DataError:
        return _picture(report.root / mask)
    small = cv2.resize((raw > 0).view(np.uint8), frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return overlay(frame, small)


def _picture(path: Path) -> np.ndarray | None:
    try:
        image = open_bytes(str(path))[1]
        image.draft("RGB", (_TILE, _TILE))
        decode(image)
        image = image.convert("RGB")
    except (Unreadable, *DECODE_ERRORS):
        return None
    image.thumbnail((_TILE, _TILE), Image.Resampling.BILINEAR)
    return np.asarray(image)
