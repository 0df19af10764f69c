"""Vocalfolds (laryngeal endoscopy, github.com/imesluh/vocalfolds, CC BY 4.0) into the one layout.

    git clone https://github.com/imesluh/vocalfolds
    python data_prep/vocalfolds.py --src vocalfolds --dst data/vocalfolds --foreground vocal_folds

Reads img/ (or Frame/) and annot/ of the source, with or without a folder per patient, and writes Frame/<seq>/ (hard
links, or copies where these are not possible) and GT/<seq>/ (0/255 masks of the chosen classes together). With
`--foreground all` the masks keep the class indices, for a label_map. The source is only read. A run that was stopped
goes on where it was; a folder that holds masks of other classes is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.archives import Folder  # noqa: E402
from data_prep.command import STOPPED, say  # noqa: E402
from data_prep.placing import Content, Entry, Plan, convert_files, place  # noqa: E402
from data_prep.stamp import claim  # noqa: E402
from lgrnet.records import (  # noqa: E402
    IMAGE_SUFFIXES,
    DataError,
    VideoRecord,
    pair_videos,
    read_mask,
    write_image,
    write_mask,
)

CLASSES = ("void", "vocal_folds", "other_tissue", "glottal_space", "pathology", "surgical_tool", "intubation")
"""Names of the raw values 0..6, from the data set's README."""


def find_videos(src: Path) -> list[VideoRecord]:
    """The sequences of a checkout; raises DataError where its folders are not as known."""
    frames = next((src / name for name in ("img", "Frame") if (src / name).is_dir()), None)
    if frames is None or not (src / "annot").is_dir():
        raise DataError(f"{src} has no img (or Frame) and annot folders; expected a checkout of imesluh/vocalfolds")
    folders: dict[str, tuple[Path, Path | None]] = {}
    for folder in sorted(path for path in frames.rglob("*") if path.is_dir() and _has_images(path)):
        place = folder.relative_to(frames)
        name = place.name if place.name not in folders else "_".join(place.parts)
        folders[name] = folder, src / "annot" / place
    if not folders:
        raise DataError(f"{frames} holds no pictures; expected {frames}/seq1/*.png or {frames}/patient1/seq1/*.png")
    return pair_videos(folders)


def class_values(foreground: Sequence[str]) -> list[int]:
    """The raw values of the chosen classes, none for "all"; raises DataError for unknown names, listing the known."""
    if list(foreground) == ["all"]:
        return []
    unknown = [name for name in foreground if name not in CLASSES]
    if unknown:
        raise DataError(f"unknown class {', '.join(unknown)}; the classes are {', '.join(CLASSES)}, or all alone")
    return [CLASSES.index(name) for name in foreground]


def convert(src: Path, dst: Path, foreground: Sequence[str], dry_run: bool = False) -> dict[str, tuple[int, int]]:
    """Writes the one layout to `dst`; per video (frames, masks that show the foreground), the latter 0 in a dry run.

    Raises DataError for a source that is not as known, unknown classes, and a `dst` that holds something else.
    """
    values = class_values(foreground)
    videos = find_videos(src)
    if dry_run:
        return {video.name: (video.num_frames, 0) for video in videos}
    source = Folder(src)
    note = {"source": "imesluh/vocalfolds (CC BY 4.0)", "foreground": sorted(foreground), "classes": list(CLASSES)}
    claim(dst, [source], note, ("Frame", "GT"))
    frames, masks = Plan(), Plan()
    for video in videos:
        for frame, mask in zip(video.frames, video.masks, strict=True):
            frames[f"Frame/{video.name}/{frame.name}"] = Entry(source, frame.relative_to(src).as_posix())
            masks[f"GT/{video.name}/{frame.stem}.png"] = Entry(source, mask.relative_to(src).as_posix())
    place(frames, dst)
    convert_files(masks, dst, lambda content, target: _convert_mask(content, target, values))
    shown = {name: read_mask(dst / name).any() for name in masks}
    return {v.name: (v.num_frames, sum(shown[f"GT/{v.name}/{stem}.png"] for stem in v.frame_names)) for v in videos}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 2 with a message, or 130 when it was interrupted."""
    parser = argparse.ArgumentParser(description="imesluh/vocalfolds into Frame/<video> and GT/<video>")
    parser.add_argument("--src", type=Path, required=True, help="checkout of github.com/imesluh/vocalfolds")
    parser.add_argument("--dst", type=Path, required=True, help="folder to write, e.g. data/vocalfolds")
    parser.add_argument(
        "--foreground", nargs="+", default=["vocal_folds"], help=f"all, or some of {', '.join(CLASSES)}"
    )
    parser.add_argument("--dry_run", action="store_true", help="check the source and count, write nothing")
    options = parser.parse_args(arguments)
    try:
        counts = convert(options.src, options.dst, options.foreground, options.dry_run)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    for name, (frames, shown) in counts.items():
        say(f"{name}: {frames} frames" + ("" if options.dry_run else f", {shown} show {_listed(options.foreground)}"))
    total = sum(frames for frames, _ in counts.values())
    say(f"{'would write' if options.dry_run else 'wrote'} {len(counts)} videos, {total} frames to {options.dst}")
    return 0


def _listed(foreground: Sequence[str]) -> str:
    return "a class" if list(foreground) == ["all"] else " or ".join(foreground)


def _has_images(folder: Path) -> bool:
    return any(p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") for p in folder.iterdir())


def _convert_mask(content: Content, target: Path, values: Sequence[int]) -> None:
    raw = read_mask(content)
    unknown = np.setdiff1d(raw, range(len(CLASSES))).tolist()
    if unknown:
        raise DataError(f"{content} holds the values {unknown}; this data set has 0..{len(CLASSES) - 1}")
    if values:
        write_mask(target, np.isin(raw, values))
    else:
        write_image(target, Image.fromarray(raw))


if __name__ == "__main__":
    sys.exit(main())
