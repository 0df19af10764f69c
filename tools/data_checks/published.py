"""SUN-SEG: what its archive and the published scripts leave behind, and the numbers of published splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from data_checks.kinds import Finding
from data_checks.tree import Folder, join
from lgrnet.records.published import MICCAI_VPS_SPLITS, SUNSEG_SPLITS, sun_case

_TESTS = ("TestEasyDataset", "TestHardDataset")


def check_published(tree: Mapping[str, Folder]) -> Iterator[Finding]:
    """What is wrong in folders that are SUN-SEG or MICCAI-VPS by the names of their splits."""
    for rel, folder in tree.items():
        if {"TrainDataset", *_TESTS} & set(folder.folders) and "TestDataset" not in folder.folders:
            yield from _sunseg(tree, rel)
        if {"VPS-TrainSet", "VPS-TestSet"} & set(folder.folders):
            for split, (part, published) in MICCAI_VPS_SPLITS.items():
                place = join(rel, part)
                if split != "kvasir_train" and place in tree:
                    yield from _count(place, split, len(_videos(tree, place)), published)


def _videos(tree: Mapping[str, Folder], place: str) -> list[str]:
    frames = tree.get(join(place, "Frame"))
    names = frames.folders if frames else [n for n in tree[place].folders if join(place, n, "Frame") in tree]
    return [name for name in names if not frames or _filled(tree, join(place, "Frame", name))]


def _filled(tree: Mapping[str, Folder], place: str) -> bool:
    return any(rel == place or rel.startswith(place + "/") for rel in tree if tree[rel].files)


def _count(place: str, split: str, there: int, published: int) -> Iterator[Finding]:
    if there != published:
        yield Finding("D224", place, f"{there}; the published split {split!r} has {published}")


def _sunseg(tree: Mapping[str, Folder], base: str) -> Iterator[Finding]:
    pooled = {}
    for test in _TESTS:
        place = join(base, test)
        if place not in tree:
            continue
        pools = [name for name in ("combine", "Combine") if join(place, name) in tree]
        filled = [name for name in pools if _filled(tree, join(place, name))]
        pooled[test] = bool(filled)
        if len(filled) > 1:
            yield Finding("D220", place, "", tuple(join(place, name) for name in filled))
        for part in ("Seen", "Unseen"):
            yield from _part(tree, place, part, bool(filled))
    train = join(base, "TrainDataset", "Frame")
    cases = {sun_case(name) for name in tree[train].folders} if train in tree else None
    for split, (parts, published) in SUNSEG_SPLITS.items():
        place = join(base, parts[0])
        if len(parts) == 1 and place in tree and not pooled.get(parts[0].partition("/")[0]):
            clips = _videos(tree, place)
            yield from _count(place, split, len(clips), published)
            if split.endswith("_seen") and cases is not None:
                untrained = [clip for clip in clips if sun_case(clip) not in cases]
                yield from (Finding("D225", join(place, "Frame", clip)) for clip in untrained)


def _part(tree: Mapping[str, Folder], place: str, part: str, pooled: bool) -> Iterator[Finding]:
    """Seen or Unseen: emptied by the script that pools, or with a Frame folder that belongs to nothing."""
    own = join(place, part)
    there = own in tree
    if pooled and there and not _filled(tree, own):
        yield Finding("D221", own)
    elif there and "Frame" in tree[own].folders and "GT" not in tree[own].folders:
        yield Finding("D222", join(own, "Frame"))
