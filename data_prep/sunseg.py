"""SUN-SEG: the frames of the SUN database beside the masks of SUN-SEG's annotation archive, every split at once.

    python data_prep/sunseg.py --src positive_part1.zip positive_part2.zip SUN-SEG-Annotation-v2.zip --password \
        --dst data/sunseg

Each of --src is an archive or what became of it; SUN's zips have a password. The frame of `GT/case1_1/x.png` is
`case1/x.jpg`. Easy and hard pool seen and unseen when they are read; `--pooled Combine` also writes the folders of that
name that other programs want, as links. What the published script pooled is sorted back: a clip is seen when its case
gives training clips. The sources are only read; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.archives import open_source, shown  # noqa: E402
from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.placing import Entry, Part, Plan, Report, images_of, place  # noqa: E402
from data_prep.stamp import claim, finish  # noqa: E402
from data_prep.sunseg_labels import carry_labels  # noqa: E402
from lgrnet.records import DataError, count_and_name, natural_key  # noqa: E402
from lgrnet.records.published import SUNSEG_FRAMES, SUNSEG_SPLITS, sun_case  # noqa: E402

SPLITS = {
    folders[0]: (clips, SUNSEG_FRAMES[folders[0]]) for folders, clips in SUNSEG_SPLITS.values() if len(folders) == 1
}
"""Folder of a split -> its published clips and frames: 285 and 49,136 in all."""

CASES = 100
NEGATIVE_FRAMES = 109_554
_NOTE = {"source": "SUN-SEG"}
_POOLED = ("combine", "Combine")
_CASE = re.compile(r"case\d+")
_REJECTED = re.compile(r"(.*image\d+)_.+")
_Masks = dict[tuple[str, str], Entry]


def split_of(name: str) -> tuple[str, str, str] | None:
    """(split, kind, clip) of a file of the annotation archive, such as ("TestEasyDataset/Seen", "GT", "case1_1"); None
    for other files. The split of a clip that was pooled ends in "combine"."""
    parts = name.split("/")
    for index, part in enumerate(parts):
        if part == "TrainDataset" and len(parts) == index + 4:
            return part, parts[index + 1], parts[index + 2]
        if part in ("TestEasyDataset", "TestHardDataset") and len(parts) == index + 5:
            half = "combine" if parts[index + 1] in _POOLED else parts[index + 1]
            return f"{part}/{half}", parts[index + 2], parts[index + 3]
    return None


def find_masks(images: Iterable[Entry]) -> tuple[dict[str, _Masks], list[str]]:
    """Split -> (clip, stem) -> mask, and the names of rejected labels, which lie beside the mask they are of."""
    found: dict[str, _Masks] = defaultdict(dict)
    for entry in images:
        place_in = split_of(entry.name)
        if place_in and place_in[1] == "GT":
            found[place_in[0]].setdefault((place_in[2], entry.stem), entry)
    rejected = []
    for masks in found.values():
        for clip, stem in list(masks):
            if _REJECTED.fullmatch(stem):
                rejected.append(masks.pop((clip, stem)).name)
    trained = {sun_case(clip) for clip, _ in found["TrainDataset"]}
    for pooled in [split for split in found if split.endswith("/combine")]:
        if not trained:
            raise DataError(
                f"{pooled} holds seen and unseen clips together, which the cases of the training clips tell apart; "
                "give TrainDataset's masks, too"
            )
        for (clip, stem), entry in found.pop(pooled).items():
            half = "Seen" if sun_case(clip) in trained else "Unseen"
            found[f"{pooled.partition('/')[0]}/{half}"].setdefault((clip, stem), entry)
    unknown = sorted(set(found) - set(SPLITS))
    return {split: found[split] for split in SPLITS}, rejected + [f"{split}: no such split" for split in unknown]


def find_frames(images: Iterable[Entry]) -> dict[tuple[str, str], Entry]:
    """(case, stem) -> frame. Those of the SUN database come before those that a script has put beside the masks, which
    are also there by (clip, stem): clips of one case may have stems in common."""
    sun, moved, clips = {}, {}, {}
    for entry in images:
        place_in = split_of(entry.name)
        if entry.size and place_in is None and _CASE.fullmatch(sun_case(entry.folder)):
            sun.setdefault((sun_case(entry.folder), entry.stem), entry)
        elif entry.size and place_in is not None and place_in[1] == "Frame":
            moved.setdefault((sun_case(place_in[2]), entry.stem), entry)
            clips.setdefault((place_in[2], entry.stem), entry)
    clips = {(clip, stem): frame for (clip, stem), frame in clips.items() if (sun_case(clip), stem) not in sun}
    return {**moved, **clips, **sun}


def plan_of(masks: dict[str, _Masks], frames: dict, pooled: str | None = None) -> tuple[Plan, list[Part]]:
    """Where every pair goes, and what each split has of what is published."""
    plan, parts = Plan(), []
    for split, (clips, published) in SPLITS.items():
        places = [split] if pooled is None or "/" not in split else [split, f"{split.partition('/')[0]}/{pooled}"]
        missing, found = [], defaultdict(int)
        for (clip, stem), mask in sorted(masks[split].items(), key=lambda item: natural_key("/".join(item[0]))):
            frame = frames.get((clip, stem)) or frames.get((sun_case(clip), stem))
            if frame is None:
                missing.append(f"the frame of {split}/GT/{clip}/{stem}, {sun_case(clip)}/{stem}.jpg")
                continue
            found[clip] += 1
            for folder in places:
                plan[f"{folder}/Frame/{clip}/{stem}{frame.suffix}"] = frame
                plan[f"{folder}/GT/{clip}/{stem}{mask.suffix}"] = mask
        parts.append(Part(split, dict(found), clips, published, missing, "clips"))
    return plan, parts


def plan_of_negatives(images: Iterable[Entry]) -> tuple[Plan, Part]:
    """Where the frames without polyps go: a video for each folder, no masks."""
    plan, found = Plan(), defaultdict(int)
    for entry in images:
        name = f"Negative/Frame/{entry.folder}/{entry.stem}{entry.suffix}"
        if plan.setdefault(name, entry) is not entry:
            raise DataError(f"{shown(entry.name)} and {shown(plan[name].name)} would have one name; give one of them")
        found[entry.folder] += 1
    return plan, Part("Negative", dict(found), None, NEGATIVE_FRAMES, noun="folders")


def prepare(options: argparse.Namespace) -> Report:
    """Does what the command line says; raises DataError as the shared modules do, and for sources that hold no masks or
    no frames."""
    sources = sources_of(options)
    images = list(images_of(sources))
    masks, notes = find_masks(images)
    frames = find_frames(images)
    if not any(masks.values()) or not frames:
        what = "no masks (TrainDataset/GT/<clip>/*.png)" if frames else "no frames (case<N>/*.jpg)"
        raise DataError(f"--src holds {what}; give both parts of SUN's positive frames and SUN-SEG's annotations")
    plan, parts = plan_of(masks, frames, options.pooled)
    report = Report(parts, _notes(masks, frames, notes))
    if options.negatives:
        negatives = [open_source(path, options.password) for path in options.negatives]
        more, part = plan_of_negatives(images_of(negatives))
        plan.update(more)
        parts.append(part)
        sources += negatives
    if not options.dry_run:
        owned = ("TrainDataset", "TestEasyDataset", "TestHardDataset", "Negative")
        claim(options.dst, sources, _NOTE, owned)
        place(plan, options.dst)
    report.notes += carry_labels(sources, SPLITS, None if options.dry_run else options.dst)
    if not options.dry_run:
        finish(options.dst, _NOTE, report, plan, owned)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when all is there, 1 when something is missing, 2 with a message."""
    parser = parser_of("SUN-SEG into Frame/<clip> and GT/<clip> of every split", "archives or folders", password=True)
    parser.add_argument("--negatives", type=Path, nargs="+", metavar="PATH", help="frames without polyps, likewise")
    parser.add_argument("--pooled", choices=_POOLED, help="also link seen and unseen into a folder of this name")
    return run(prepare, parser, arguments)


def _notes(masks: dict[str, _Masks], frames: dict, left_out: Sequence[str]) -> list[str]:
    notes = []
    if left_out:
        notes.append(f"{count_and_name([shown(name) for name in left_out], 'rejected label')} left out")
    halves = {half: [k for split, part in masks.items() if split.startswith(half) for k in part] for half in _HALVES}
    for half, keys in halves.items():
        there = sum((sun_case(clip), stem) in frames for clip, stem in keys)
        clips, published = (sum(SPLITS[split][i] for split in SPLITS if split.startswith(half)) for i in (0, 1))
        found = f"{len({clip for clip, _ in keys})} of {clips} clips, {there} of {published} frames"
        notes.append(f"{_HALVES[half]}, seen and unseen pooled: {found}")
    cases = {case for case, _ in frames}
    if absent := [f"case{n}" for n in range(1, CASES + 1) if f"case{n}" not in cases]:
        notes.append(f"{count_and_name(absent, 'case')} of SUN have no frames here")
    wanted = {(sun_case(clip), stem) for part in masks.values() for clip, stem in part}
    if extra := [shown(frames[key].name) for key in frames if key not in wanted]:
        notes.append(f"{count_and_name(extra, 'frame')} without a mask, left out")
    return notes


_HALVES = {"TestEasyDataset": "easy", "TestHardDataset": "hard"}


if __name__ == "__main__":
    sys.exit(main())
