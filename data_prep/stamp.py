"""The stamp of a folder that a script writes: what makes its content, so that downloads never mix; what it holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_prep.archives import Folder, Source
from data_prep.placing import Report, write_json
from lgrnet.records import IMAGE_SUFFIXES, DataError
from lgrnet.records.drafts import DRAFT

STAMP = "prepared.json"
DIVISION = "division"
"""The key of a stamp for how images were divided into parts, see `division`."""

FOLDER = "source folder"
"""The key of a stamp for the folder that its content came from; stamps of earlier versions do not have it."""


def division(parts: Mapping[str, str]) -> dict[str, str]:
    """What a stamp notes of parts that were drawn, name -> part: other names would be drawn otherwise."""
    return {DIVISION: hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()[:16]}


def claim(dst: Path, sources: Sequence[Source], note: Mapping[str, object], owned: Sequence[str]) -> None:
    """Makes `dst` and notes in its stamp what it will hold; drafts of a run that was killed are removed.

    note   what makes the content of `dst`: another run must say the same, or it is refused
    owned  names in `dst` that the script writes: where one is there without a stamp, it is refused

    Raises DataError for the above, and for a `dst` that is a source, in one, or holds one.
    """
    check_apart(dst, sources)
    if file := next((path for path in (dst, *dst.parents) if path.is_file()), None):
        raise DataError(f"{file} is a file; choose a folder as --dst")
    if (dst / STAMP).is_file():
        known = read_stamp(dst)
        for key, value in note.items():
            if key == DIVISION and known.get(key, value) != value:
                raise DataError(
                    f"--src holds other images than when {dst} was made: they would be divided anew, and some be in "
                    "two parts; choose another --dst, or remove this one"
                )
            unknown = value if key in (DIVISION, FOLDER) else None
            if known.get(key, unknown) != value:
                raise DataError(f"{dst} holds {key} {known.get(key)}, not {value}; choose another --dst")
    elif there := [name for name in owned if (dst / name).exists()]:
        raise DataError(f"{dst} holds {' and '.join(there)} that this program did not write; choose another --dst")
    dst.mkdir(parents=True, exist_ok=True)
    if (dst / STAMP).is_file():
        _remove_drafts(dst, owned)
    else:
        write_json(dst / STAMP, dict(note))


def _remove_drafts(dst: Path, owned: Sequence[str]) -> None:
    """Of a run of ours that was killed: in `dst` itself, and below what the script writes; nothing else is touched."""
    places = [dst / name for name in os.listdir(dst)]
    places += [Path(folder, name) for top in owned for folder, _, names in os.walk(dst / top) for name in names]
    for path in places:
        if DRAFT.fullmatch(path.name) and path.is_file():
            path.unlink()


def finish(
    dst: Path, note: Mapping[str, object], report: Report, written: Iterable[str] = (), owned: Sequence[str] = ()
) -> None:
    """Notes in the stamp what is there and what is missing, by every name.

    written  names below `dst` of the pictures of this run; others in the folders `owned` are of an earlier one, and the
             report says so: where the source has moved or lost them since, they are in two parts, or in one too many
    """
    known = set(written)
    if known:
        found = (path for top in owned for path in sorted((dst / top).rglob("*")) if path.is_file())
        names = (path.relative_to(dst).as_posix() for path in found if path.suffix.lower() in IMAGE_SUFFIXES)
        report.strays = [name for name in names if name not in known and not DRAFT.fullmatch(name.rpartition("/")[2])]
    write_json(dst / STAMP, {**note, **report.as_json()})


def check_apart(dst: Path, sources: Sequence[Source]) -> None:
    """Raises DataError for a `dst` that is the folder of a source, in it, or holds it."""
    there = dst.resolve()
    for source in sources:
        place = source.path.resolve()
        if isinstance(source, Folder) and (there == place or there in place.parents or place in there.parents):
            relation = "is in the source" if place in there.parents else "is the source or holds it"
            raise DataError(f"--dst {dst} {relation}, {source.path}; choose another folder, the source stays as it is")


def read_stamp(dst: Path) -> dict[str, object]:
    """The stamp of a folder; DataError for one that no script wrote."""
    try:
        stamp = json.loads((dst / STAMP).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{dst / STAMP} is not what this program writes ({error}); choose another --dst") from error
    if not isinstance(stamp, dict):
        raise DataError(f"{dst / STAMP} is not what this program writes; choose another --dst")
    return stamp
