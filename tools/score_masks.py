"""Scores a folder of maps from any program against a folder of masks. No model, no PyTorch.

    python tools/score_masks.py --pred runs/pns/maps --gt SUN-SEG/TestEasyDataset/Unseen --protocol all --json out.json
    python tools/score_masks.py --pred maps --gt masks --protocol vps,lgrnet --out report --workers 2

Files are matched by (video, frame): the name of the folder that a file lies in, and its own without suffix. Folders
named for a model, a split, Frame or GT on the way make no difference. Maps are grey images of 8 or 16 bits, white is
certain; a map of another size than its mask is resized by each protocol's own rule. Protocols and what they mean are in
README.md; numbers of two protocols are different quantities, even under the same name.

Ends with 0; with 2 and a message where files are missing, damaged or there twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lgrnet.evaluation.catalogue import PROTOCOLS, choose_protocols  # noqa: E402
from lgrnet.evaluation.mask_trees import MaskPairs, pair_trees  # noqa: E402
from lgrnet.evaluation.report import file_hash, published_table, write_json, write_report  # noqa: E402
from lgrnet.evaluation.score_files import score_pairs  # noqa: E402
from lgrnet.records import DataError, LabelMap, count_and_name  # noqa: E402

_NAMED = 20


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pred", type=Path, required=True, help="folder with the predicted maps")
    parser.add_argument("--gt", type=Path, required=True, help="folder with the annotated masks")
    parser.add_argument("--protocol", default="all", help=f"all, or some of {','.join(PROTOCOLS)} (default: all)")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument("--out", type=Path, help="folder for report.json, scores.csv, frames.csv and report.md")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--allow_missing", action="store_true", help="score the frames that have a map, leave out others"
    )
    parser.add_argument("--foreground", help="values of masks that are foreground, like 1,2 (default: all above 0)")
    parser.add_argument("--set", help="name of the data set (default: that of the folder of masks)")
    parser.add_argument("--method", help="name of what predicted (default: that of the folder of maps)")
    parser.add_argument("--weights", type=Path, help="file of weights that predicted; its hash stands by every number")
    return parser


def _label_map(foreground: str | None) -> LabelMap:
    if foreground is None:
        return "binary"
    values = foreground.split(",")
    if not all(value.strip().isdecimal() and 0 < int(value) < 256 for value in values):
        raise ValueError(f"--foreground is {foreground!r}; expected values 1 to 255 with commas between, like 1,2")
    return dict.fromkeys(range(256), 0) | {int(value): 1 for value in values}


def _found(options: argparse.Namespace) -> MaskPairs:
    """The pairs. Raises DataError for missing predictions, unless they are allowed; tells of what is left out."""
    pairs = pair_trees(options.pred, options.gt)
    if pairs.extra:
        told = count_and_name(pairs.extra, "prediction", _NAMED)
        _tell(f"note: {told} without a mask in {options.gt}; not scored")
    if not pairs.missing:
        return pairs
    told = f"{count_and_name(pairs.missing, 'frame', _NAMED)} of {options.gt} without a prediction in {options.pred}"
    if not options.allow_missing:
        raise DataError(f"{told}; add them, or leave them out with --allow_missing")
    _tell(f"note: {told}; the numbers are of the other {pairs.frames}")
    return pairs


def _score(options: argparse.Namespace) -> list[str]:
    """Writes what was asked for; the lines to print."""
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}; expected 1 or more")
    protocols, label_map = choose_protocols(options.protocol), _label_map(options.foreground)
    pairs = _found(options)
    weights_hash = None if options.weights is None else file_hash(options.weights)
    for folder in (options.out, None if options.json is None else options.json.parent):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    set_name, method = options.set or options.gt.resolve().name, options.method or options.pred.resolve().name
    evaluator = score_pairs(pairs, protocols, set_name, weights_hash, label_map, options.workers, _tell)
    result = evaluator.result()
    facts = {"method": method, "predictions": str(options.pred), "annotations": str(options.gt)}
    facts |= {"mask": "map above half of its range", "missing": pairs.missing, "extra": pairs.extra}
    if options.json is not None:
        write_json(options.json, [result], facts)
    if options.out is not None:
        write_report(evaluator, options.out, facts)
    lines = [f"{result['frames']} frames of {result['videos']} videos, split {result['split_hash']}"]
    if pairs.missing:
        lines.append(f"{len(pairs.missing)} frames without a prediction were left out")
    for name, meaning in result["meaning"].items():
        lines += ["", f"{name}: {meaning}", published_table(result, name, method)]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with a message."""
    options = _parser().parse_args(arguments)
    try:
        lines = _score(options)
    except (ValueError, OSError) as error:
        _tell(f"error: {error}")
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
