"""Annotations in plain text: how they are coded, and lists of picture and class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_checks.kinds import Finding
from data_checks.tree import Folder, join

SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".xml")
SUN_CLASSES = {
    "low_grade_adenoma",
    "high_grade_adenoma",
    "hyperplastic_polyp",
    "traditional_serrated_adenoma",
    "sessile_serrated_lesion",
    "invasive_cancer",
}
"""The classes of SUN-SEG's classification.txt."""
_PROSE = ("readme", "license", "licence", "source", "original", "requirements", "changelog", "citation", "notice")
_MOST = 1 << 30  # bytes of a text that is read


def find_texts(tree: Mapping[str, Folder]) -> list[str]:
    """Files that hold annotations as text, by their path from the root; prose (README, LICENSE, ...) is left out."""
    return [
        join(rel, name)
        for rel in sorted(tree)
        for name in tree[rel].files
        if name.lower().endswith(SUFFIXES) and not name.lower().startswith(_PROSE)
    ]


def read_text(root: Path, rel: str, found: list[Finding]) -> str | None:
    """The text of a file; what is wrong with its coding is added to `found`, and None returned where it is no text."""
    try:
        if (root / rel).stat().st_size > _MOST:
            found.append(Finding("D020", rel, f"a text of more than {_MOST >> 30} GB"))
            return None
        data = (root / rel).read_bytes()
    except OSError as error:
        found.append(Finding("D002", rel, error.strerror or ""))
        return None
    if not data:
        found.append(Finding("D001", rel))
        return None
    if b"\0" in data:
        found.append(Finding("D150", rel, f"{data.count(0)} of {len(data)} bytes"))
        return None
    if data.startswith(b"\xef\xbb\xbf"):
        found.append(Finding("D152", rel))
    if b"\r\n" in data:
        found.append(Finding("D151", rel))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found.append(Finding("D153", rel, f"byte {error.start}"))
        return data.decode("latin-1")


def check_classification(rel: str, text: str, frames: Sequence[str]) -> Iterator[Finding]:
    """A list of lines "picture TAB class", as in SUN-SEG; all frames are those of its split.

    rel     the file; its split is the folder two above it (<split>/Classification/classification.txt), or its own
    frames  paths of all frames of the set
    """
    named: dict[str, str] = {}
    split = str(Path(rel).parent.parent if "lassification" in str(Path(rel).parent) else Path(rel).parent)
    own = [frame for frame in frames if split == "." or frame.startswith(split + "/")]
    stems = {Path(frame).stem for frame in own or frames}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, _, klass = line.partition("\t")
        if not name.strip() or not klass.strip() or "\t" in klass:
            yield Finding("D154", rel, f"line {number}: {line[:60]!r}")
            continue
        stem = Path(name.strip()).stem
        if klass.strip() not in SUN_CLASSES:
            yield Finding("D155", rel, f"line {number}: {klass.strip()[:60]!r}")
        if stem in named:
            yield Finding("D157", rel, f"line {number}: {name}, class {named[stem]!r} before, {klass.strip()!r} here")
        elif stem not in stems:
            yield Finding("D156", rel, f"line {number}: {name}")
        named.setdefault(stem, klass.strip())
    if missing := [frame for frame in own if Path(frame).stem not in named]:
        yield Finding("D160", rel, f"{len(missing)} pictures", tuple(missing))
