"""From a folder to findings: list, look at every file once in a few processes, compare."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import cv2

from data_checks import coco, judge, leaks, pairs, published, texts, videos
from data_checks.coco import NOTE_FILE
from data_checks.kinds import ERROR, NOTE, WARNING, Finding
from data_checks.masks import look_at_mask
from data_checks.pictures import Look, Unreadable, look_at_frame, open_bytes
from data_checks.sets import Group, assign_splits, check_chosen, find_groups, loose_groups, patient_in, patient_rule
from data_checks.tree import Folder, join, walk
from lgrnet.records import DataError, LabelMap

KNOWN = {
    "vocalfolds": (
        r"^(?:(?P<first>seq[1-4])|(?P<second>seq[5-8]))$",
        {"train": ("seq1", "seq2", "seq3", "seq5", "seq6", "seq7"), "test": ("seq4", "seq8")},
    )
}
"""Part of the source that data_prep notes in prepared.json, or of the folder's name -> the rule for the patients of a
data set, the split of our configs."""

_CLOSELY = 2000  # so many frames are all decoded whole; of larger sets one in 16
_INLINE = 300  # fewer files than this are not worth processes


@dataclass(frozen=True)
class Options:
    """How to check.

    label_map   as in `lgrnet.records.LabelMap`; None: judged by what most masks have
    split       split -> patterns of video names (stems for stills); empty: as of `KNOWN`, else by folders
    patient_of  expression that finds the patient in a video's name; None: as of `KNOWN`, else a number after case,
                patient, pat, subject
    workers     processes; None: one per core
    progress    called with (done, all) files
    """

    label_map: LabelMap | None = None
    split: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patient_of: str | None = None
    workers: int | None = None
    progress: Callable[[int, int], None] | None = None


@dataclass
class Report:
    """What was found in `root`; pairs: frame -> mask."""

    root: Path
    findings: list[Finding]
    videos: int
    frames: int
    masks: int
    splits: dict[str, int]
    pairs: dict[str, str]
    seconds: float

    @property
    def levels(self) -> Counter[str]:
        """How many errors, warnings and notes."""
        return Counter(finding.kind.level for finding in self.findings)

    @property
    def status(self) -> int:
        """0: clean, or notes only; 1: errors or warnings."""
        return 1 if self.levels[ERROR] + self.levels[WARNING] else 0


def check(root: str | Path, options: Options | None = None) -> Report:
    """Everything that is wrong with the data set in `root`, sorted by level, code and path.

    Raises DataError where there is no data set, and ValueError for options that are none.
    """
    begun, root, options = time.monotonic(), Path(root), options or Options()
    rule = None if options.patient_of is None else patient_rule(options.patient_of)
    tree, found = walk(root)
    groups, more = find_groups(tree)
    written = _read_texts(root, tree, found)
    annotated = any(rel.endswith(".json") and ('"images"' in text or '"videos"' in text) for rel, text in written)
    if annotated or not groups:
        groups += loose_groups(tree, groups)
        more = [finding for finding in more if not (annotated and finding.code == "D231")]
    films = [join(rel, n) for rel in sorted(tree) for n in tree[rel].files if n.lower().endswith(videos.SUFFIXES)]
    found += [f for f in more if not (f.code == "D012" and f.path in films)]
    if not groups and not films and not written:
        raise DataError(
            f"{root} holds no data; expected Frame/<video> and GT/<video>, images and masks, or their splits"
        )
    looks = _look_at_all(root, groups, films, options, found)
    fits: dict[str, str] = {}
    names = list(dict.fromkeys(group.name for group in groups if group.name))
    for group in groups:
        paired, wrong = pairs.check_pairs(group)
        fits |= paired
        found += [*wrong, *pairs.check_numbers(group, names)]
    frames = [frame for group in groups for frame in group.frames]
    found += chain(
        judge.check_looks(looks),
        judge.check_frames(groups, looks),
        judge.check_pair_looks(fits, looks),
        judge.check_masks(groups, looks, options.label_map),
        published.check_published(tree),
        _check_texts(written, frames, tree, looks, root),
    )
    places = _places(root, groups, options, rule)
    found += chain(_same_names(groups), leaks.check_same(frames, looks, places))
    found += chain(leaks.check_near(frames, looks, places), leaks.check_patients(places))
    order = {ERROR: 0, WARNING: 1, NOTE: 2}
    findings = sorted(_settled(found), key=lambda f: (order[f.kind.level], f.code, f.path, f.detail))
    masks, count = sum(len(g.masks or ()) for g in groups), len({p.video for p in places.values()}) + len(films)
    splits = dict(Counter(group.split for group in groups for _ in group.frames))
    return Report(root, findings, count, len(frames), masks, splits, fits, time.monotonic() - begun)


def _look_at_all(
    root: Path, groups: Sequence[Group], films: Sequence[str], options: Options, found: list[Finding]
) -> dict[str, Look]:
    """Path -> what was seen, of every frame and mask; what is wrong with video files is added to `found`."""
    frames = list(dict.fromkeys(frame for group in groups for frame in group.frames))
    masks = list(dict.fromkeys(mask for group in groups for mask in group.masks or ()))
    every = 1 if len(frames) <= _CLOSELY else 16
    jobs = [("frame" if i % every else "close", frame) for i, frame in enumerate(frames)]
    jobs += [("mask", mask) for mask in masks] + [("film", film) for film in films]
    looks: dict[str, Look] = {}
    look = partial(_one, str(root), options.label_map)
    for (kind, path), seen in zip(jobs, _worked(look, jobs, options), strict=True):
        if kind == "film":
            found += [Finding(code, path, detail) for code, detail in seen]
        else:
            looks[path] = seen
    return looks


def _one(root: str, label_map: LabelMap | None, job: tuple[str, str]) -> Look | list[tuple[str, str]]:
    kind, rel = job
    path = os.path.join(root, rel)
    if kind == "film":
        return videos.look_at_video(path)
    return look_at_mask(path, label_map) if kind == "mask" else look_at_frame(path, closely=kind == "close")


def _worked(work: Callable, jobs: Sequence, options: Options) -> Iterator:
    """The results of all jobs, in order, from a few processes."""
    tell = options.progress or (lambda done, total: None)
    workers = options.workers or os.cpu_count() or 1
    if workers == 1 or len(jobs) <= _INLINE:
        for done, job in enumerate(jobs, 1):
            yield work(job)
            tell(done, len(jobs))
        return
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, fresh, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            for done, result in enumerate(pool.map(work, jobs, chunksize=32), 1):
                yield result
                tell(done, len(jobs))
        except BrokenProcessPool as error:
            raise DataError("a process that reads files died; try --workers 1 to see at which file") from error


def _read_texts(root: Path, tree: Mapping[str, Folder], found: list[Finding]) -> list[tuple[str, str]]:
    read = [(rel, texts.read_text(root, rel, found)) for rel in texts.find_texts(tree)]
    return [(rel, text) for rel, text in read if text is not None]


def _check_texts(
    written: Sequence[tuple[str, str]], frames: Sequence[str], tree: Mapping[str, Folder], looks: dict, root: Path
) -> Iterator[Finding]:
    names: dict[str, str] = {}
    times: Counter[str] = Counter()
    for rel in tree:
        times.update(tree[rel].files)
        for name in tree[rel].files:
            path = join(rel, name)
            for key in (path, name, Path(name).stem):
                names.setdefault(key, path)
    alone = {name: names[name] for name, number in times.items() if number == 1}
    files = coco.Files(names, alone, partial(_picture_size, root, looks))
    for rel, text in written:
        if rel.lower().endswith(".json"):
            yield from coco.check_json(rel, text, files)
        elif Path(rel).name.lower().startswith("classification"):
            yield from texts.check_classification(rel, text, frames)


def _picture_size(root: Path, looks: dict[str, Look], path: str) -> tuple[int, int] | None:
    if path not in looks:
        look = looks[path] = Look(path)
        try:
            look.size = open_bytes(str(root / path))[1].size[::-1]
        except Unreadable:
            return None
    return looks[path].size


def _note(root: Path) -> dict:
    """What data_prep noted of the set, if anything."""
    try:
        note = json.loads((root / NOTE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _places(
    root: Path, groups: Sequence[Group], options: Options, rule: re.Pattern[str] | None
) -> dict[str, leaks.Place]:
    """Where every frame stands."""
    note = _note(root)
    source = str(note.get("source", root.resolve().name)).lower()
    known = next((KNOWN[name] for name in KNOWN if name in source), (None, {}))
    listed = note.get("patients") if isinstance(note.get("patients"), dict) else {}
    rule = rule or patient_rule(known[0])
    check_chosen(groups, options.split)
    split = options.split or known[1]
    roles = assign_splits(groups, split)
    places = {}
    for group in groups:
        for frame in group.frames:
            video = group.video_of(frame)
            patient = listed.get(video) or patient_in(rule, video)
            at = frame if group.stills else group.frames_dir
            places[frame] = leaks.Place(at, roles[frame], None if patient is None else str(patient))
    return places


def _same_names(groups: Sequence[Group]) -> Iterator[Finding]:
    first: dict[str, Group] = {}
    for group in groups:
        if group.name and first.setdefault(group.name, group).split != group.split:
            yield Finding("D135", group.frames_dir, "", (first[group.name].frames_dir,))


_FOLLOWERS = {
    "D121": ("D100", "D101", "D102", "D103", "D104", "D105", "D112", "D114", "D115", "D119", "D120", "D122"),
    "D102": ("D112", "D119", "D120"),
    "D103": ("D118",),
    "D221": ("D009",),
    "D222": ("D009", "D231", "D233"),
    "D233": ("D009", "D231"),
    "D083": ("D071",),
}
"""Code -> codes of the same file that only follow from it, and are left out."""


def _settled(found: Sequence[Finding]) -> list[Finding]:
    """The findings without those that only follow from another."""
    left_out = {(code, finding.path) for finding in found for code in _FOLLOWERS.get(finding.code, ())}
    blank = [finding.path for finding in found if finding.code == "D124"]
    left_out |= {
        ("D113", finding.path)
        for finding in found
        if finding.code == "D113" and any(split == "." or finding.path.startswith(split + "/") for split in blank)
    }
    return [finding for finding in dict.fromkeys(found) if (finding.code, finding.path) not in left_out]
