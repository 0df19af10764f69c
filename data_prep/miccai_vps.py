"""MICCAI-VPS (PNS-Net's data: Kvasir stills, Mayo, CVC-300 and CVC-612 videos) into the one layout.

    python data_prep/miccai_vps.py --src MICCAI-VPS-dataset.zip --dst data/miccai_vps

Reads the archive, what was unpacked of it, or what the published script made of that: `Frame/<video>` and
`<video>/Frame`. Training frames whose mask is empty are left out, as the published script deletes them; `--keep_empty`
keeps them. The sources are only read; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.pairing import Files, Key, collect, contents_of, part_of, planned  # noqa: E402
from data_prep.placing import Entry, Plan, Report, images_of, place, progress  # noqa: E402
from data_prep.stamp import claim, finish  # noqa: E402
from lgrnet.records import DataError, read_mask  # noqa: E402

STILLS = "Kvasir-SEG"
SPLITS = {
    STILLS: (1, 1000),
    "VPS-TrainSet/ASU-Mayo_Clinic/Train": (10, None),
    "VPS-TrainSet/CVC-ClinicDB-612/Train": (18, None),
    "VPS-TrainSet/CVC-ColonDB-300/Train": (6, None),
    "VPS-TestSet/CVC-ColonDB-300": (6, None),
    "VPS-TestSet/CVC-ClinicDB-612-Valid": (5, None),
    "VPS-TestSet/CVC-ClinicDB-612-Test": (5, None),
}
"""Folder of a split -> its published videos and, where it is known, frames."""

EMPTY = 1546
"""So many training frames with an empty mask are in the published archive."""

_KINDS = ("Frame", "GT")


def place_in_set(name: str) -> tuple[str, str, str] | None:
    """(split, "Frame" or "GT", video) of a file, None for files of no split; the stills are the video "1"."""
    *folders, file = name.split("/")
    if folders[-2:-1] == ["IVPS-TrainSet"] and folders[-1] in _KINDS:
        return (STILLS, folders[-1], "1") if file.startswith("K") else None
    for first, second in ((-2, -1), (-1, -2)):
        if len(folders) > 2 and folders[first] in _KINDS:
            within = "/" + "/".join(folders[:-2])
            split = next((split for split in SPLITS if within.endswith(f"/{split}")), None)
            if split is not None:
                return split, folders[first], folders[second]
    return None


def find_files(images: Iterable[Entry]) -> dict[tuple[str, str], Files]:
    """(split, "Frame" or "GT") -> its files."""
    found: dict[tuple[str, str], list[tuple[Key, Entry]]] = defaultdict(list)
    for entry in images:
        if where := place_in_set(entry.name):
            found[where[:2]].append(((where[2], entry.stem), entry))
    if not found:
        known = ", ".join((*SPLITS, "IVPS-TrainSet"))
        raise DataError(f"--src holds none of {known}; expected the archive of MICCAI-VPS, or its folder")
    return {(split, kind): collect(found[split, kind]) for split in SPLITS for kind in _KINDS}


def empty_masks(masks: Sequence[Entry]) -> set[Entry]:
    """Those that show nothing. Raises DataError for files that are no masks."""
    with progress("looking for empty masks", len(masks)) as advance:
        empty = set()
        for entry, content in contents_of(masks):
            if not read_mask(content).any():
                empty.add(entry)
            advance()
    return empty


def prepare(options: argparse.Namespace) -> Report:
    """Does what the command line says; raises DataError as the shared modules do, and for sources of no known split."""
    sources = sources_of(options)
    files = find_files(images_of(sources))
    train = [e for (split, kind), part in files.items() if "TrainSet" in split and kind == "GT" for e in part.values()]
    empty = set() if options.keep_empty else empty_masks(train)
    plan, report, left_out = Plan(), Report(), 0
    for split, (videos, published) in SPLITS.items():
        pairs, part = part_of(split, files[split, "Frame"], files[split, "GT"], videos, published)
        kept = {key: pair for key, pair in pairs.items() if pair[1] not in empty}
        left_out += len(pairs) - len(kept)
        plan.update(planned(kept, split))
        report.parts.append(part)
    if not options.keep_empty:
        report.notes.append(f"{left_out} training frames with an empty mask left out; published: {EMPTY}")
    note = {"source": "MICCAI-VPS", "empty_training_frames": bool(options.keep_empty)}
    if not options.dry_run:
        owned = (STILLS, "VPS-TrainSet", "VPS-TestSet")
        claim(options.dst, sources, note, owned)
        place(plan, options.dst)
        finish(options.dst, note, report, plan, owned)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when all is there, 1 when something is missing, 2 with a message."""
    parser = parser_of("MICCAI-VPS into Frame/<video> and GT/<video> of every split", "archive or folder of it")
    parser.add_argument("--keep_empty", action="store_true", help="keep training frames whose mask is empty")
    return run(prepare, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
