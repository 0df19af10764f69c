"""Polyp images: PraNet's training and test archives, Kvasir-SEG, CVC-ClinicDB and PolypGen, as their readers want them.

    python data_prep/polyp_images.py --set pranet --src TrainDataset.zip TestDataset.zip --dst data/polyps
    python data_prep/polyp_images.py --set kvasir_seg --src kvasir-seg.zip --dst data/Kvasir-SEG
    python data_prep/polyp_images.py --set cvc_clinicdb --src CVC-ClinicDB --dst data/CVC-ClinicDB
    python data_prep/polyp_images.py --set polypgen --src PolypGen2021_MultiCenterData_v3.zip --dst data/svanet/PolypGen

The first three become `images` and `masks` (PraNet's in TrainDataset and TestDataset/<set>), files as they are.
PolypGen becomes train, val, test and `mask` with class indices, see `data_prep/polypgen.py`. The sources are only read;
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import polypgen  # noqa: E402
from data_prep.archives import Source  # noqa: E402
from data_prep.command import parser_of, run, sources_of  # noqa: E402
from data_prep.pairing import Files, Key, collect, part_of, planned  # noqa: E402
from data_prep.placing import Entry, Plan, Report, convert_files, images_of, place  # noqa: E402
from data_prep.stamp import claim, division, finish  # noqa: E402
from lgrnet.records import DataError  # noqa: E402

SETS = {
    "pranet": {
        "TrainDataset": 1450,
        "TestDataset/CVC-300": 60,
        "TestDataset/CVC-ClinicDB": 62,
        "TestDataset/CVC-ColonDB": 380,
        "TestDataset/ETIS-LaribPolypDB": 196,
        "TestDataset/Kvasir": 100,
    },
    "kvasir_seg": {"": 1000},
    "cvc_clinicdb": {"": 612},
}
"""Data set -> its parts, as folders below --dst, and how many images are published."""

_KINDS = {"image": 0, "images": 0, "original": 0, "mask": 1, "masks": 1, "groundtruth": 1}
_PARTED = ("train", "val", "test")


def find_files(images: Iterable[Entry], parts: Iterable[str]) -> dict[tuple[str, int], Files]:
    """(part, 0 for images or 1 for masks) -> its files. Where a download has PNG and TIFF of the same pictures, PNG is
    taken. Raises DataError where there are none."""
    found: dict[tuple[str, int], list[tuple[Key, Entry]]] = defaultdict(list)
    for entry in images:
        above, _, folder = entry.whole_name.rpartition("/")[0].rpartition("/")
        kind = _KINDS.get("".join(filter(str.isalpha, folder.lower())))
        part = next((part for part in parts if not part or f"/{above}".endswith(f"/{part}")), None)
        if kind is not None and part is not None:
            found[part, kind].append((("", entry.stem), entry))
    if not found:
        raise DataError("--src holds no folders of images and masks (or Original and Ground Truth) of this data set")
    return {(part, kind): collect(_one_format(found[part, kind])) for part in parts for kind in (0, 1)}


def prepare(options: argparse.Namespace) -> Report:
    """Does what the command line says; raises DataError as the shared modules do."""
    sources = sources_of(options)
    if options.set == "polypgen":
        return _prepare_polypgen(options, sources)
    parts = SETS[options.set]
    files = find_files(images_of(sources), parts)
    plan, report = Plan(), Report()
    for name, published in parts.items():
        pairs, part = part_of(name or options.set, files[name, 0], files[name, 1], None, published)
        plan.update(planned(pairs, name, ("images", "masks")))
        report.parts.append(part)
    note = {"source": options.set}
    if not options.dry_run:
        owned = ("images", "masks", "TrainDataset", "TestDataset")
        claim(options.dst, sources, note, owned)
        place(plan, options.dst)
        finish(options.dst, note, report, plan, owned)
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when all is there, 1 when something is missing, 2 with a message."""
    description = "Polyp images into images and masks; PolypGen into train, val, test and mask"
    parser = parser_of(description, "archives or folders")
    parser.add_argument("--set", choices=[*SETS, "polypgen"], required=True, help="the data set that --src holds")
    parser.add_argument("--shares", type=float, nargs=3, default=(0.8, 0.1, 0.1), help="PolypGen: train, val, test")
    parser.add_argument("--seed", type=int, default=1337, help="PolypGen: of the division")
    parser.add_argument("--test_centre", metavar="C6", help="PolypGen: stills of this centre are for the test only")
    return run(prepare, parser, arguments)


def _prepare_polypgen(options: argparse.Namespace, sources: Sequence[Source]) -> Report:
    shares, centre = tuple(options.shares), options.test_centre
    images, masks = polypgen.find_files(images_of(sources))
    parts = polypgen.divide(images, shares, options.seed, centre)
    plan, drawn, report = polypgen.plan_of(images, masks, parts)
    note = {"source": "polypgen", "shares": list(shares), "seed": options.seed, "test_centre": centre}
    note |= division({"/".join(key): part for key, part in parts.items()})
    if not options.dry_run:
        owned = (*_PARTED, "mask")
        claim(options.dst, sources, note, owned)
        place(plan, options.dst)
        convert_files(drawn, options.dst, polypgen.write_class_mask)
        finish(options.dst, note, report, (*plan, *drawn), owned)
    return report


def _one_format(files: Sequence[tuple[Key, Entry]]) -> list[tuple[Key, Entry]]:
    endings = {entry.suffix for _, entry in files}
    if ".png" in endings and endings <= {".png", ".tif", ".tiff"}:
        return [(key, entry) for key, entry in files if entry.suffix == ".png"]
    return list(files)


if __name__ == "__main__":
    sys.exit(main())
