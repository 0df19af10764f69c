"""Which files are frames and masks of which video and split, in every layout that lgrnet reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from data_checks.kinds import Finding
from data_checks.tree import Folder, join
from lgrnet.records import IMAGE_SUFFIXES, natural_key

FRAMES = ("frame", "frames", "images", "image", "img", "imgs", "original", "jpegimages")
MASKS = ("gt", "masks", "mask", "ground truth", "annot", "annotations", "labels", "segmentations", "segmentationclass")
_VIDEO_LIKE = ("frame", "frames", "jpegimages")
_OTHER_PICTURES = (".gif", ".jp2", ".j2k", ".heic", ".heif", ".avif", ".jfif", ".pgm", ".ppm", ".dcm", ".svg", ".raw")
_WORDS = ("train", "val", "test")


@dataclass
class Group:
    """One video, or one folder of still images.

    split   the folder of its split from the root, "" without splits
    name    of the video, "" for stills
    frames, masks  paths from the root, in natural order; masks is None where there is no folder of masks
    """

    split: str
    name: str
    frames_dir: str
    masks_dir: str | None
    frames: list[str] = field(default_factory=list)
    masks: list[str] | None = None

    @property
    def stills(self) -> bool:
        """Whether each frame is an image of its own."""
        return not self.name

    def video_of(self, frame: str) -> str:
        """The video that a frame belongs to; a still is one of its own."""
        return self.name or Path(frame).stem


def find_groups(tree: Mapping[str, Folder]) -> tuple[list[Group], list[Finding]]:
    """Every video and folder of stills, and what is wrong with how they lie."""
    groups: list[Group] = []
    found: list[Finding] = []
    inside: list[str] = []
    for rel in sorted(tree):
        folder = tree[rel]
        if any(rel == top or rel.startswith(top + "/") for top in inside):
            continue
        names = {name.lower(): name for name in folder.folders}
        frames = next((names[name] for name in FRAMES if name in names), None)
        masks = [names[name] for name in MASKS if name in names] or [n for n in folder.folders if n[:3] == "GT_"]
        if frames is None and masks:
            shared = _shared_masks(tree, rel, masks[0])
            groups += shared
            inside += [group.frames_dir for group in shared] + [join(rel, masks[0])] * bool(shared)
        if frames is None:
            continue
        inside += [join(rel, name) for name in (frames, *masks)]
        masks_dir = join(rel, masks[0]) if masks else None
        groups += _groups(tree, rel, join(rel, frames), masks_dir, found)
        if not masks:
            found.append(Finding("D231", join(rel, frames)))
    found += _both_nestings(groups)
    return groups, found


def _groups(
    tree: Mapping[str, Folder], rel: str, frames_dir: str, masks_dir: str | None, found: list[Finding]
) -> Iterator[Group]:
    """Those of one folder of frames with its folder of masks."""
    frames = tree[frames_dir]
    there = set() if masks_dir is None or masks_dir not in tree else set(tree[masks_dir].folders)
    if frames.folders:
        for name in sorted({*frames.folders, *there}, key=natural_key):
            if name not in frames.folders:
                found.append(Finding("D052", join(masks_dir or "", name)))
                continue
            masks = join(masks_dir, name) if masks_dir and name in there else None
            if masks_dir and masks is None:
                found.append(Finding("D053", join(frames_dir, name)))
            yield _filled(Group(rel, name, join(frames_dir, name), masks), tree, found)
    elif any(map(_is_picture, frames.files)):
        parent, _, own = rel.rpartition("/")
        nested = frames_dir.rpartition("/")[2].lower() in _VIDEO_LIKE and own and not own.upper().startswith("IVPS")
        split, name = (parent, own) if nested else (rel, "")
        yield _filled(Group(split, name, frames_dir, masks_dir), tree, found)
    elif there:
        found += [Finding("D052", join(masks_dir or "", name)) for name in sorted(there)]
    else:
        found.append(Finding("D233", frames_dir))


def _filled(group: Group, tree: Mapping[str, Folder], found: list[Finding]) -> Group:
    group.frames = _pictures(tree, group.frames_dir, found)
    if group.masks_dir is not None:
        group.masks = _pictures(tree, group.masks_dir, found, (".npy",))
    if not group.frames and not any(finding.path.startswith(group.frames_dir + "/") for finding in found):
        found.append(Finding("D054", group.frames_dir))
    return group


def _pictures(tree: Mapping[str, Folder], rel: str, found: list[Finding], more: Sequence[str] = ()) -> list[str]:
    """The pictures of a folder in natural order; what else lies there is a finding."""
    folder = tree.get(rel)
    if folder is None:
        return []
    found += [Finding("D013", join(rel, name)) for name in folder.folders]
    kept = []
    for name in sorted(folder.files, key=natural_key):
        if _is_picture(name) or name.lower().endswith(tuple(more)):
            kept.append(join(rel, name))
        else:
            other = name.lower().endswith(_OTHER_PICTURES)
            found.append(Finding("D015" if other else "D012", join(rel, name)))
    return kept


def _is_picture(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _shared_masks(tree: Mapping[str, Folder], rel: str, masks: str) -> list[Group]:
    """`train`, `val`, `test` of pictures beside one folder of masks for all of them, as SvANet's sets have it."""
    parts = [name for name in tree[rel].folders if name.lower() in _WORDS and tree[join(rel, name)].files]
    if not parts:
        return []
    ignored: list[Finding] = []
    pool = _pictures(tree, join(rel, masks), ignored)
    groups = []
    for name in parts:
        group = Group(join(rel, name), "", join(rel, name), join(rel, masks))
        group.frames = _pictures(tree, group.frames_dir, ignored)
        stems = {Path(frame).stem.casefold() for frame in group.frames}
        group.masks = [mask for mask in pool if Path(mask).stem.casefold() in stems]
        pool = [mask for mask in pool if Path(mask).stem.casefold() not in stems]
        groups.append(group)
    groups[0].masks = [*(groups[0].masks or []), *pool]
    return groups


def loose_groups(tree: Mapping[str, Folder], groups: Sequence[Group]) -> list[Group]:
    """Folders of pictures that belong to no other group, as stills without masks."""
    taken = {group.frames_dir for group in groups} | {group.masks_dir for group in groups}
    parts = {place.rpartition("/")[0] for place in taken if place}
    free = [rel for rel in sorted(tree) if rel not in taken and rel not in parts]
    ignored: list[Finding] = []
    found = [Group(rel, "", rel, None, _pictures(tree, rel, ignored)) for rel in free]
    return [group for group in found if group.frames]


def _both_nestings(groups: Iterable[Group]) -> Iterator[Finding]:
    nestings: dict[str, set[bool]] = {}
    for group in groups:
        if not group.stills:
            nestings.setdefault(group.split, set()).add(group.frames_dir.endswith("/" + group.name))
    yield from (Finding("D232", split or ".") for split, both in nestings.items() if len(both) > 1)


_ROLE = re.compile(r"(?<![A-Za-z])(train|test|val)|Train|Test|Val|TRAIN|TEST|VAL")
"""Where a word begins with it: not latest, not strain."""


def role_of(split: str) -> str:
    """What a split is for, by the innermost of its folders that says so: "train", "val", "test", or "" for none.

    SUN-SEG's Seen shares cases with the training split by design, and so does what its script pools (combine): "".
    """
    parts = split.split("/")[::-1]
    if parts[0].lower() in ("seen", "combine"):
        return ""
    return next((found[0].lower() for part in parts if (found := _ROLE.search(part))), "")


def assign_splits(groups: Sequence[Group], chosen: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Frame -> its role in training and evaluation, by `chosen` (split -> patterns of videos), else by its folder."""
    roles: dict[str, str] = {}
    for group in groups:
        for frame in group.frames:
            video = group.video_of(frame)
            named = (s for s, patterns in chosen.items() if any(fnmatchcase(video, p) for p in patterns))
            split = next(named, "") if chosen else group.split
            roles[frame] = (role_of(split) or split) if chosen else role_of(split)
    return roles


def check_chosen(groups: Sequence[Group], chosen: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for a pattern that no video fits, and a video that is named in two splits: with either, a leak
    would not be seen."""
    videos = {group.video_of(frame) for group in groups for frame in group.frames}
    places: dict[str, str] = {}
    for split, patterns in chosen.items():
        for pattern in patterns:
            if not any(fnmatchcase(video, pattern) for video in videos):
                there = ", ".join(sorted(videos, key=natural_key)[:5])
                raise ValueError(f"--split has {pattern!r}, which no video fits; there are {there}, ...")
            if pattern in videos and places.setdefault(pattern, split) != split:
                raise ValueError(f"--split has the video {pattern!r} in {places[pattern]} and in {split}; name it once")


def patient_rule(regex: str | None) -> re.Pattern[str]:
    """The rule by which a video's name gives its patient; `regex` None: a number after case, patient, pat or subject.

    Raises ValueError for an expression that is none.
    """
    try:
        return re.compile(regex or r"(?i)(?:^|[^a-z])(?:case|patient|pat|subject)[ _-]?0*(\d+)")
    except re.error as error:
        raise ValueError(f"--patient_of {regex!r} is no regular expression ({error})") from error


def patient_in(rule: re.Pattern[str], video: str) -> str | None:
    """The patient of a video: the name of the named group that matched, else the first group, else all that matched."""
    match = rule.search(video)
    if match is None:
        return None
    named = next((name for name, text in match.groupdict().items() if text), None)
    return named or next((text for text in match.groups() if text), match[0])
