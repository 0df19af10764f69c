"""Scores a folder of maps from any program against a folder of masks. No model, no PyTorch.

    python tools/score_masks.py --pred runs/pns/maps --gt SUN-SEG/TestEasyDataset/Unseen --protocol all --json out.json
    python tools/score_masks.py --pred maps --gt masks --protocol vps,lgrnet --out report --workers 2
    python tools/score_masks.py --compare old.json new.json
    python tools/score_masks.py --compare runs/old/maps runs/new/maps --gt masks --protocol vps

Files are matched by (video, frame): the name of the folder that a file lies in, and its own without suffix. Folders
named for a model, a split, Frame or GT on the way make no difference. Maps are grey images of 8 or 16 bits, white is
certain; a map of another size than its mask is resized by each protocol's own rule. Protocols and what they mean are in
README.md; numbers of two protocols are different quantities, even under the same name.

A map that is missing is an error (--allow_missing: its frame is left out). Where vps and miccai-vps are the only
protocols, none is needed for the first and last mask of a clip, which they drop, and so none of a clip of two frames.

Frames that show no lesion, such as SUN-SEG's negatives, need no masks: --no_lesion in place of --gt takes every frame
as annotated and empty, at the size of its image in --frames, which then also says what is missing, else at that of
its map. Numbers that such frames do not define have no value.

Masks of a video of which none has a value above 1 are read as 0 and 255, under every protocol; to the programs of vps,
pranet, ssformer-test and study they would be empty. Not so JPEGs, whose noise has such values. Masks of class values:
--foreground 1,2 makes one class of these; --classes 1,2 makes a class of each, and maps then hold the same values in
place of grey. With either, pixels of --ignore 255 take no part in the overlaps of svanet-size and study; for other
protocols they are background.

Sets of still images may be the folders of one run. The tables are of all images together; the mean over the folders,
as SSFormer's test program prints it, stands below those of ssformer-test and pranet. Videos that lie in several folders
below --gt, as in Seen and Unseen of SUN-SEG's TestEasyDataset, make a slice of each folder, and the plain mean of
these, which papers print as the number of SUN-SEG-Easy, stands below every table.

Brackets hold 95 % intervals, from drawing videos again. --compare prints the paired differences of two results, or of
two folders of maps, with their intervals, over draws of the same videos for both.

With --frames the report shows the frames under the outlines, and over-time compares neighbours along the motion between
them, too.

--attributes is a table (CSV, TSV or JSON) with a column `video`; its other columns make slices: SI IB HO GH OC OV (yes
or no), location, pathology, paris, size_mm, patient, or any other. SV, SO, LO and FM are computed from the masks.

Ends with 0; with 2 and a message where files are missing, damaged or there twice.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgrnet.evaluation.attributes import gather_attributes  # noqa: E402
from lgrnet.evaluation.average_precision import FORMS, precisions  # noqa: E402
from lgrnet.evaluation.catalogue import PROTOCOLS, choose_protocols  # noqa: E402
from lgrnet.evaluation.comparison import compare_sets, comparison_table, read_results  # noqa: E402
from lgrnet.evaluation.evaluator import Evaluator  # noqa: E402
from lgrnet.evaluation.html_pictures import Pictures  # noqa: E402
from lgrnet.evaluation.html_report import ScoredSet, write_html  # noqa: E402
from lgrnet.evaluation.mask_trees import GENERIC, MaskPairs, find_frames, folders_of, pair_trees  # noqa: E402
from lgrnet.evaluation.report import (  # noqa: E402
    mean_over_videos,
    plain_json,
    published_table,
    write_json,
    write_report,
    write_whole,
)
from lgrnet.evaluation.score_files import pair_pictures, score_pairs  # noqa: E402
from lgrnet.evaluation.set_means import means_over_sets  # noqa: E402
from lgrnet.evaluation.video_scorer import drop_ends  # noqa: E402
from lgrnet.evaluation.vps_protocol import VPSProtocol  # noqa: E402
from lgrnet.records import IGNORE, DataError, LabelMap, count_and_name, file_hash  # noqa: E402

_NAMED = 20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pred", type=Path, help="folder with the predicted maps")
    parser.add_argument("--gt", type=Path, help="folder with the annotated masks")
    parser.add_argument("--no_lesion", action="store_true", help="no frame shows a lesion; in place of --gt")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two JSON files, or two of --pred")
    parser.add_argument("--common", action="store_true", help="compare the videos that are in both of A and B")
    parser.add_argument("--protocol", default="all", help=f"all, or some of {','.join(PROTOCOLS)} (default: all)")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument(
        "--out", type=Path, help="folder for report.json, scores.csv, frames.csv, report.md and report.html"
    )
    parser.add_argument(
        "--frames", type=Path, help="folder of the frames: shown in the report; over-time follows their motion"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--allow_missing", action="store_true", help="score the frames that have a map, leave out others"
    )
    parser.add_argument("--foreground", help="values of masks that are foreground, like 1,2 (default: all above 0)")
    parser.add_argument(
        "--classes", help="values of masks that are class 1, 2, ..., like 1,2,3; maps then hold the same values"
    )
    parser.add_argument("--ignore", help="values of masks that are not judged, like 255; see svanet-size and study")
    parser.add_argument("--attributes", type=Path, help="table of what is known of the videos; its columns make slices")
    parser.add_argument("--classification", type=Path, help="SUN-SEG's classification.txt: slices by pathology")
    parser.add_argument("--training", type=Path, help="folder of the training clips: slices seen and unseen, by case")
    parser.add_argument("--instances", choices=FORMS, help="average precision (pycocotools) of frames or whole videos")
    parser.add_argument("--fps", type=float, help="frames a second, for over-time: seconds, false alarms a minute")
    parser.add_argument("--set", help="name of the data set (default: that of the nearest folder above the masks)")
    parser.add_argument("--method", help="name of what predicted (default: that of the folder of maps)")
    parser.add_argument("--weights", type=Path, help="file of weights that predicted; its hash stands by every number")
    return parser


def _values(option: str, text: str | None) -> list[int]:
    values = [] if text is None else text.split(",")
    if not all(value.strip().isdecimal() and 0 < int(value) < 256 for value in values):
        raise ValueError(f"{option} is {text!r}; expected values 1 to 255 with commas between, like 1,2")
    return [int(value) for value in values]


def _label_map(options: argparse.Namespace) -> LabelMap:
    names = ("--foreground", "--classes", "--ignore")
    given = {name: _values(name, getattr(options, name[2:])) for name in names}
    foreground, classes, ignored = given.values()
    if foreground and classes:
        raise ValueError("give --foreground or --classes: one class of grey maps, or maps that hold class values")
    if twice := [value for value, times in Counter(sum(given.values(), [])).items() if times > 1]:
        raise ValueError(f"{', '.join(names)} name the value {twice[0]} twice; give it once")
    if classes and options.instances is not None:
        raise ValueError("--instances is for grey maps, which say how sure they are; leave out it or --classes")
    if ignored and not foreground and not classes:
        raise ValueError("--ignore goes with --foreground or --classes: say which values are not ignored")
    if not foreground and not classes:
        return "binary"
    chosen = dict.fromkeys(foreground, 1) or {value: k for k, value in enumerate(classes, start=1)}
    rest = dict.fromkeys(range(256), 0) if foreground else {}
    return rest | chosen | dict.fromkeys(ignored, IGNORE)


def _annotations(options: argparse.Namespace, predictions: Path) -> Path:
    """The folder that says which frames there are."""
    return (options.frames or predictions) if options.no_lesion else options.gt


def _found(options: argparse.Namespace, predictions: Path, ends_dropped: bool) -> MaskPairs:
    """The pairs. Raises DataError for missing predictions, unless they are allowed; tells of what is left out.

    ends_dropped  whether the ends of clips count for nothing; then predictions may be missing there
    """
    truth = _annotations(options, predictions)
    pairs = pair_trees(predictions, truth, options.no_lesion)
    if pairs.extra:
        told = count_and_name(pairs.extra, "prediction", _NAMED)
        _tell(f"note: {told} without a {'frame' if options.no_lesion else 'mask'} in {truth}; not scored")
    if ends_dropped and pairs.missing_ends:
        told = count_and_name(pairs.missing_ends, "frame", _NAMED)
        _tell(f"note: {told} at the ends of their clips without a prediction in {predictions}; none is needed there")
        pairs = pairs.without_ends()
    if not pairs.missing:
        return pairs
    told = f"{count_and_name(pairs.missing, 'frame', _NAMED)} of {truth} without a prediction in {predictions}"
    if not options.allow_missing:
        raise DataError(f"{told}; add them, or leave them out with --allow_missing")
    _tell(f"note: {told}; the numbers are of the other {pairs.frames}")
    return pairs


def _tell_of_short(pairs: MaskPairs) -> None:
    if short := [video for video in pairs.pairs if len(pairs.annotated[video]) < 3]:
        told = f"{count_and_name(short, 'video')} {'has' if len(short) == 1 else 'have'} two annotated frames or fewer"
        _tell(f"note: {told}, and vps drops the first and the last: they count for nothing there")


def _evaluator(options: argparse.Namespace, predictions: Path) -> tuple[Evaluator, Pictures, MaskPairs]:
    """All maps of a folder, scored, and what there is to see of them."""
    protocols = choose_protocols(options.protocol, options.fps, flow=options.frames is not None)
    label_map, indexed = _label_map(options), options.classes is not None
    pairs = _found(options, predictions, drop_ends(protocols) and options.instances is None)
    if any(isinstance(protocol, VPSProtocol) for protocol in protocols):
        _tell_of_short(pairs)
    images = None if options.frames is None else find_frames(options.frames, pairs)
    weights_hash = None if options.weights is None else file_hash(options.weights)
    files = options.attributes, options.classification, options.training
    known = gather_attributes({video: list(pairs.annotated[video]) for video in pairs.pairs}, *files)
    folders = folders_of(pairs, _annotations(options, predictions))
    known = {video: {"folder": folder, **known[video]} for video, folder in folders.items()} or known
    told = {"attributes": known, "images": images, "instances": options.instances, "indexed": indexed}
    scored = score_pairs(pairs, protocols, _set_name(options), weights_hash, label_map, options.workers, _tell, **told)
    return scored, pair_pictures(pairs, label_map, images, indexed), pairs


def _set_name(options: argparse.Namespace) -> str:
    folder = options.frames if options.no_lesion else options.gt
    parts = () if folder is None else folder.resolve().parts
    named = (name for name in reversed(parts) if name.lower() not in GENERIC)
    return options.set or next(named, "no lesion" if options.no_lesion else "masks")


def _compare(options: argparse.Namespace) -> list[str]:
    """The differences of two results, as lines to print; with --json also written there."""
    results = []
    for path in options.compare:
        if not path.is_dir():
            results.append(read_results(path))
            continue
        if options.gt is None and not options.no_lesion:
            raise ValueError(f"{path} is a folder of maps; give the masks with --gt, or two JSON files")
        evaluator, _, pairs = _evaluator(options, path)
        result = plain_json(evaluator.result())
        results.append({result["set"]: {**result, "missing": pairs.missing}})
    protocols = {protocol.id: protocol for protocol in choose_protocols(options.protocol, options.fps)}
    if any(isinstance(protocol, VPSProtocol) for protocol in protocols.values()):
        whole = (VPSProtocol(drop_ends=False, resize=rule) for rule in ("bilinear", "imresize"))
        protocols |= {protocol.id: protocol for protocol in whole}
    names = " and ".join(map(str, options.compare))
    found = compare_sets(*results, protocols, options.common, names)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain_json({"compared": list(map(str, options.compare)), "sets": found}), indent=1)
        write_whole(options.json, [text, "\n"])
    lines = [f"A: {options.compare[0]}", f"B: {options.compare[1]}"]
    return lines + [line for name, of_set in found.items() for line in ("", name, comparison_table(of_set))]


def _folder_means(evaluator: Evaluator, result: dict) -> dict[str, dict[str, float]]:
    """Of protocols of still images, whose folders are sets: protocol -> metric -> mean over the folders."""
    names = [name for name, protocol in evaluator.protocols.items() if getattr(protocol, "of_sets", False)]
    return {name: mean_over_videos(result, name) for name in names if result["videos"] > 1}


def _score(options: argparse.Namespace) -> list[str]:
    """Writes what was asked for; the lines to print."""
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}; expected 1 or more")
    if options.json is not None and options.json.is_dir():
        raise ValueError(f"--json {options.json} is a folder; expected a file to write")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; expected a folder to write")
    if options.gt is not None and options.no_lesion:
        raise ValueError("give --gt or --no_lesion, not both: frames without a lesion need no masks")
    if options.compare is not None and options.out is not None:
        raise ValueError("--compare writes no report; give --json in place of --out")
    if options.compare is not None:
        return _compare(options)
    if options.pred is None or (options.gt is None and not options.no_lesion):
        raise ValueError("expected --pred and --gt (or --no_lesion), two folders, or --compare with two results")
    for folder in (options.out, None if options.json is None else options.json.parent):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    evaluator, pictures, pairs = _evaluator(options, options.pred)
    method = options.method or options.pred.resolve().name
    result = evaluator.result()
    truth = "none: no frame shows a lesion" if options.no_lesion else str(options.gt)
    facts = {"method": method, "predictions": str(options.pred), "annotations": truth}
    facts |= {"mask": "map above half of its range", "missing": pairs.missing, "extra": pairs.extra}
    facts |= {"mean_over_folders": _folder_means(evaluator, result), "mean_over_sets": means_over_sets([result])}
    if options.json is not None:
        write_json(options.json, [result], facts)
    if options.out is not None:
        write_report(evaluator, options.out, facts)
        page = ScoredSet(result, evaluator.each_row(), pictures)
        write_html(options.out / "report.html", [page], {"command": sys.argv, **facts})
    return _told(result, facts)


def _told(result: dict, facts: dict) -> list[str]:
    """What is printed."""
    lines = [f"{result['frames']} frames of {result['videos']} videos, split {result['split_hash']}"]
    if facts["missing"]:
        lines.append(f"{len(facts['missing'])} frames without a prediction were left out")
    if result["instances"]:
        numbers = precisions(result["instances"]).items()
        told = "  ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in numbers)
        lines += ["", f"average precision, one image a {result['instances']['form']}: {told}"]
    for name, meaning in result["meaning"].items():
        lines += ["", f"{name}: {meaning}", published_table(result, name, facts["method"])]
        means = {f"mean over the {result['videos']} folders": facts["mean_over_folders"].get(name)}
        means |= {label: of.get(name) for label, of in facts["mean_over_sets"].items()}
        for label, values in means.items():
            if values:
                numbers = {metric: "-" if math.isnan(value) else f"{value:.4f}" for metric, value in values.items()}
                told = "  ".join(f"{metric} {number}" for metric, number in numbers.items())
                lines.append(f"{label}, each of the same weight: {told}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with a message."""
    options = _parser().parse_args(arguments)
    try:
        lines = _score(options)
    except (ValueError, OSError) as error:
        unnamed = isinstance(error, OSError) and error.filename is None and options.out is not None
        _tell(f"error: {error}" + f"; look at the disk of {options.out}" * unnamed)
        return 2
    print("\n".join(map(_printable, lines)))
    return 0


def _tell(text: str) -> None:
    print(_printable(text), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
