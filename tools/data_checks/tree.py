"""The folder as it is: its files and folders, and what is wrong with these before anything is opened."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_checks.kinds import Finding
from lgrnet.records import DataError

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_MANAGERS = {".ds_store", "thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx"}
_UNFINISHED = re.compile(r"(\.part|\.partial|\.tmp|\.temp|\.crdownload|\.download|\.bak|\.orig|\.swp|~)$", re.I)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", re.I)
_LONG = 250  # bytes of a name; file systems take 255


@dataclass
class Folder:
    """One folder: names of its files and folders, without those that are set aside (hidden, junk, broken links)."""

    path: Path
    rel: str
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def join(*parts: str) -> str:
    """A path from the root, with slashes on every system."""
    return "/".join(part for part in parts if part)


def walk(root: Path) -> tuple[dict[str, Folder], list[Finding]]:
    """Every folder below `root` by its path from there ("" is the root), and what is wrong with names and links.

    Links to folders are followed, but never into a folder that is open above them. Raises DataError where `root` is no
    folder that can be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected the folder of a data set")
    tree: dict[str, Folder] = {}
    found: list[Finding] = []
    todo = [("", root, (os.path.realpath(root),))]
    while todo:
        rel, path, above = todo.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            if not rel:
                raise DataError(f"{root} cannot be listed ({error.strerror}); give yourself the right to") from error
            found.append(Finding("D002", rel, error.strerror or ""))
            continue
        folder = tree[rel] = Folder(path, rel)
        for entry in entries:
            code = _what(entry, above)
            if code == "folder":
                folder.folders.append(entry.name)
                todo.append((join(rel, entry.name), path / entry.name, (*above, os.path.realpath(entry.path))))
            elif code == "file":
                folder.files.append(entry.name)
            else:
                found.append(Finding(code, join(rel, entry.name)))
        if not entries and rel:
            found.append(Finding("D009", rel))
        found += _names(rel, [entry.name for entry in entries])
    return tree, found


def _what(entry: os.DirEntry, above: tuple[str, ...]) -> str:
    """ "file", "folder", or the code of what sets this entry aside."""
    if code := _set_aside(entry.name):
        return code
    try:
        mode = os.stat(entry.path).st_mode
    except FileNotFoundError:
        return "D003"
    except OSError as error:
        return "D004" if entry.is_symlink() and not isinstance(error, PermissionError) else "D002"
    if stat.S_ISDIR(mode):
        return "D004" if entry.is_symlink() and os.path.realpath(entry.path) in above else "folder"
    return "file" if stat.S_ISREG(mode) else "D005"


def _set_aside(name: str) -> str:
    low = name.lower()
    if low in _MANAGERS:
        return "D007"
    if _UNFINISHED.search(low):
        return "D010"
    if low.endswith(ARCHIVES) and not low.endswith(".nii.gz"):
        return "D011"
    return ("D006" if name.startswith("._") else "D008") if name.startswith(".") else ""


def _names(rel: str, names: Iterable[str]) -> Iterator[Finding]:
    """What is wrong with the names in one folder."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        yield from (Finding(code, join(rel, name)) for code in _name_codes(name))
        same[unicodedata.normalize("NFC", name).casefold()].append(name)
    for twins in same.values():
        coded = {unicodedata.normalize("NFC", name) for name in twins}
        if len(coded) < len(twins):
            yield Finding("D034", join(rel, twins[1]), others=(join(rel, twins[0]),))
        elif len(twins) > 1:
            yield Finding("D038", join(rel, twins[1]), f"beside {twins[0]}", (join(rel, twins[0]),))


def _name_codes(name: str) -> Iterator[str]:
    if any("\udc80" <= letter <= "\udcff" for letter in name):
        yield "D039"
    elif any(unicodedata.category(letter) == "Cc" or letter in "\u2028\u2029" for letter in name):
        yield "D032"
    elif len(os.fsencode(name)) >= _LONG:
        yield "D033"
    elif name[-1] in ". " or Path(name).stem[-1:] in (".", " "):
        yield "D035"
    elif _RESERVED.match(name):
        yield "D036"
    elif name.startswith("-"):
        yield "D037"
    elif any(letter in '<>:"|?*\\' for letter in name):
        yield "D040"
    elif any(letter in "'`$;&" for letter in name):
        yield "D031"
    elif any(letter.isspace() for letter in name):
        yield "D030"
