"""Annotations of others into the one layout, and back.

    python data_prep/convert.py --from coco --src instances.json --images pictures --dst data/mine
    python data_prep/convert.py --to cvat --src data/mine --dst export

Formats: coco (instances: polygons, run lengths), ytvis (YouTube-VIS), davis, cvat (XML 1.1 for images and for video;
out: for images), labelstudio (JSON: brush, polygons). Into the layout: pictures are hard links, or copies where these
are not possible; one class becomes masks of 0 and 255, several become 1, 2, ..., and label_map.json beside says which.
Objects of one class become one. Where objects of two classes meet, the higher layer (CVAT's z_order) is on top, in a
layer the smaller object; the pixels are counted. Boxes and other things that are no masks are left out and counted.

Out of the layout: one object per class and picture (or video), as run lengths or rasters, so that masks come back bit
for bit; label_map.json goes along and brings the values back. All masks are checked first: where some are bad, all of
them are named and nothing is written. The source is only read. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import archives  # noqa: E402
from data_prep.command import STOPPED, say  # noqa: E402
from data_prep.formats import coco, cvat, davis, label_studio, layout  # noqa: E402
from data_prep.formats.annotations import Annotations, Folder  # noqa: E402
from data_prep.placing import shown  # noqa: E402
from data_prep.stamp import FOLDER, check_apart, claim  # noqa: E402
from lgrnet.records import DataError, VideoRecord, count_and_name, file_hash  # noqa: E402

READERS = {
    "coco": (coco.read_coco, "annotations.json", "images"),
    "ytvis": (coco.read_youtube_vis, "instances.json", "JPEGImages"),
    "cvat": (cvat.read_cvat, "annotations.xml", "images"),
    "labelstudio": (label_studio.read_label_studio, "tasks.json", "images"),
}
"""Format -> its reader, the file of the annotations in an export of ours, and the folder of the pictures."""

WRITERS = {
    "coco": coco.write_coco,
    "ytvis": coco.write_youtube_vis,
    "cvat": cvat.write_cvat,
    "labelstudio": label_studio.write_label_studio,
}
FORMATS = (*READERS, "davis")


def read(
    kind: str, src: Path, images: Path | None, stills: bool, named: Mapping[str, int] | None = None
) -> Annotations:
    """What an export holds, all of it checked; `named` are the classes of a DAVIS tree and the values of its masks.

    Raises DataError.
    """
    if not src.exists():
        raise DataError(f"{src} does not exist; expected the export to read")
    if kind == "davis":
        return davis.read_davis(src, named)
    reader, name, folder = READERS[kind]
    file = src / name if src.is_dir() else src
    if not file.is_file():
        raise DataError(f"{file} does not exist; give the file itself as --src")
    if images is None:
        images = file.parent / folder if (file.parent / folder).is_dir() else file.parent
    return reader(file, Folder(images, stills))


def to_layout(
    kind: str,
    src: Path,
    dst: Path,
    images: Path | None = None,
    label_map: Path | None = None,
    classes: Sequence[str] | None = None,
    stills: bool = False,
    dry_run: bool = False,
) -> tuple[layout.Counts, Annotations]:
    """Writes an export as the one layout; what was written, and what was read. Nothing is written of a bad export.

    images     folder of the pictures; None: beside the file
    label_map  label_map.json with the values of the classes; None: the one beside the file, if any
    classes    those to take, in this order; None: all
    stills     every picture is a video of its own
    """
    base = src if src.is_dir() else src.parent
    path = label_map or (base / layout.LABEL_MAP if (base / layout.LABEL_MAP).is_file() else None)
    named = None if path is None else layout.read_label_map(path)
    in_davis = None if kind != "davis" or named is None else layout.values_in_davis(path, named)
    annotations = read(kind, src, images, stills, in_davis)
    values = layout.class_values(annotations.labels, named, classes)
    layout.check_pictures(annotations.pictures)
    layout.check_masks(annotations, values)
    if not dry_run:
        if src.is_dir():
            check_apart(dst, [archives.Folder(src)])
        note = {"format": kind, "sha256": _hash(kind, src), "values": values, "stills": stills}
        claim(dst, [archives.Folder(annotations.root)], note, ("Frame", "GT", layout.LABEL_MAP))
        layout.write_label_map(dst / layout.LABEL_MAP, values)
    return layout.write_layout(annotations, values, dst, dry_run), annotations


def from_layout(
    kind: str, src: Path, dst: Path, label_map: Path | None = None, dry_run: bool = False
) -> tuple[list[VideoRecord], dict[str, int]]:
    """Writes the one layout as an export; its videos, and label -> value. A dry run checks all and writes nothing.

    Nothing is written where a frame or mask is bad: the DataError names all that are.

    label_map  label_map.json with the names of the values; None: the one in `src`, else made up of what is found
    """
    records, values = layout.open_layout(src, label_map)
    if kind == "davis":
        davis.check_names((record.name for record in records), list(values))
    sizes = layout.check_layout(records, values)
    if kind == "ytvis":
        layout.check_one_size(sizes)
    if dry_run:
        return records, values
    pictures = layout.layout_pictures(records, values)
    pictures = layout.tracked(pictures, "reading masks", sum(record.num_frames for record in records))
    folder = dst / ("JPEGImages" if kind in ("davis", "ytvis") else "images")
    written = (READERS[kind][1],) if kind in READERS else ("Annotations", "ImageSets")
    note = {"format": kind, "values": values, FOLDER: shown(str(src.resolve()))}
    claim(dst, [archives.Folder(src)], note, (folder.name, layout.LABEL_MAP, *written))
    frames = ((record.name, file) for record in records for file in record.frames)
    layout.place_frames(src, frames, folder / davis.RESOLUTION if kind == "davis" else folder)
    layout.write_label_map(dst / layout.LABEL_MAP, values, davis.numbered(values) if kind == "davis" else None)
    if kind == "davis":
        davis.write_davis(dst, list(values), pictures)
    else:
        WRITERS[kind](dst / READERS[kind][1], list(values), pictures)
    return records, values


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 2 with a message, or 130 when it was interrupted."""
    parser = argparse.ArgumentParser(description="annotations of others into Frame/<video> and GT/<video>, and back")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", choices=FORMATS, help="format of --src; --dst becomes the one layout")
    way.add_argument("--to", dest="target", choices=FORMATS, help="format of --dst; --src is the one layout")
    parser.add_argument("--src", type=Path, required=True, help="file or folder to read")
    parser.add_argument("--dst", type=Path, required=True, help="folder to write")
    parser.add_argument("--images", type=Path, help="folder of the pictures that the file names; default: beside it")
    parser.add_argument("--label_map", type=Path, help="label_map.json with names and values; default: beside --src")
    parser.add_argument("--classes", nargs="+", help="classes to take, in this order; default: all")
    parser.add_argument("--stills", action="store_true", help="every picture is a video of its own")
    parser.add_argument("--dry_run", action="store_true", help="check the source and count, write nothing")
    options = parser.parse_args(arguments)
    if options.target and (options.images or options.classes or options.stills):
        parser.error("--images, --classes and --stills go with --from")
    try:
        _run(options)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    verb = "would write" if options.dry_run else "wrote"
    if options.target:
        records, values = from_layout(options.target, options.src, options.dst, options.label_map, options.dry_run)
        frames = sum(record.num_frames for record in records)
        masks = sum(mask is not None for record in records for mask in record.masks)
        say(f"classes: {', '.join(f'{label} ({value})' for label, value in values.items())}")
        say(f"{verb} {len(records)} videos, {frames} frames, {masks} of them annotated, to {options.dst}")
        return
    counts, found = to_layout(
        options.source,
        options.src,
        options.dst,
        options.images,
        options.label_map,
        options.classes,
        options.stills,
        options.dry_run,
    )
    for label, number in counts.objects.items():
        say(f"{label}: {number} objects")
    for kind, number in (+found.left_out).items():
        say(f"left out: {number} {kind}")
    if found.crowds:
        say(f"crowds: {found.crowds} regions are said to hold several objects; they are painted like any other")
    if counts.overlap[0]:
        where = f"{counts.overlap[0]} pixels in {counts.overlap[1]} frames"
        say(f"overlap: {where} are of two classes; the upper or smaller object shows")
    if bare := [video for video, number in counts.masks.items() if not number]:
        say(f"not annotated: {count_and_name(bare, 'video')}")
    frames, masks = counts.frames.total(), counts.masks.total()
    say(f"{verb} {len(counts.frames)} videos, {frames} frames, {masks} of them annotated, to {options.dst}")


def _hash(kind: str, src: Path) -> str | None:
    """Of the annotation file, so that masks of another version of it do not mix; None for a tree of masks."""
    if kind == "davis":
        return None
    return file_hash(src / READERS[kind][1] if src.is_dir() else src)


if __name__ == "__main__":
    sys.exit(main())
