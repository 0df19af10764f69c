"""Two results on the same videos: the differences of their numbers, with intervals from drawing videos in pairs."""

from __future__ import annotations

import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lgrnet.evaluation.additive import Additive
from lgrnet.evaluation.intervals import decoded, percentile_interval, resampled
from lgrnet.evaluation.protocols import overall
from lgrnet.evaluation.report import table_header, table_line
from lgrnet.records import DataError, count_and_name

_GREY = ("binary", "half", "full", "soft", "{255: 1}")
"""Label maps, as texts, by which protocols see the grey values of masks as they are."""
_KINDS = {"set": str, "split_hash": str, "scores": dict, "statistics": dict, "numbers": list}
"""What is read of a result, and its types."""


def read_results(path: str | Path) -> dict[str, dict]:
    """Set -> result, of a report.json or of what `tools/score_masks.py --json` writes, with its `missing`, the frames
    `<video>/<frame>` that were left out.

    Raises DataError, naming the file, for anything else.
    """
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); expected the JSON of an evaluation") from error
    sets = tree.get("sets", [tree]) if isinstance(tree, dict) else None
    if not isinstance(sets, list) or not all(map(_is_result, sets)):
        raise DataError(f"{path} is no result of an evaluation with {', '.join(_KINDS)}; score the masks again")
    if twice := [name for name, times in Counter(found["set"] for found in sets).items() if times > 1]:
        raise DataError(f"{path} holds the set {twice[0]!r} twice; name the sets and score the masks again")
    missing = tree.get("missing")
    missing = [name for name in missing if isinstance(name, str)] if isinstance(missing, list) else []
    return {found["set"]: {"missing": missing, **found} for found in sets}


def compare(
    first: Mapping, second: Mapping, protocols: Mapping[str, Additive], common: bool = False, names: str = "A and B"
) -> dict:
    """The differences second - first of two results of `Evaluator.result`.

    protocols  id -> protocol; those without an entry here, or that are not `Additive`, are not compared
    common     True: of results with different videos, those that are in both; False: that is an error
    names      what the two are called in errors

    Returns videos (in both), only_first, only_second (names), not_compared (ids), and differences: a list in which
    each entry carries protocol, metric, first, second, difference, lower, upper (95 %, over draws of videos that are
    the same for both; None where fewer than two videos have the number) and share_above, the share of the draws in
    which the second is above the first, equal ones half: near 0 or 1 the order is sure, near 0.5 it is not. Several
    classes: their mean.

    Raises DataError when protocols, videos or annotated frames differ.
    """
    ids = list(first["statistics"]), list(second["statistics"])
    if sorted(ids[0]) != sorted(ids[1]):
        raise DataError(f"{names} were scored by different protocols, {ids[0]} and {ids[1]}; score both by the same")
    _check_meaning(first, second, names)
    videos = [_frames_of_videos(result) for result in (first, second)]
    both = sorted(videos[0].keys() & videos[1].keys())
    only = [sorted(a.keys() - b.keys()) for a, b in (videos, videos[::-1])]
    _check_same(first, second, videos, only, common, names)
    chosen = [name for name in ids[0] if isinstance(protocols.get(name), Additive) and first["statistics"][name]]
    return {
        "videos": both,
        "only_first": only[0],
        "only_second": only[1],
        "not_compared": [name for name in ids[0] if name not in chosen],
        "differences": [
            entry for name in chosen for entry in _differences(name, protocols[name], (first, second), both, names)
        ],
    }


def compare_sets(
    first: Mapping[str, Mapping],
    second: Mapping[str, Mapping],
    protocols: Mapping[str, Additive],
    common: bool = False,
    names: str = "A and B",
) -> dict[str, dict]:
    """`compare` of every set of two files; files of one set each are compared whatever its name is.

    Raises DataError where the sets differ, and as `compare` does.
    """
    if len(first) == len(second) == 1:
        second = dict(zip(first, second.values(), strict=True))
    if sorted(first) != sorted(second):
        raise DataError(f"{names} hold different sets, {sorted(first)} and {sorted(second)}; evaluate both on the same")
    return {name: compare(first[name], second[name], protocols, common, names) for name in first}


def comparison_table(found: Mapping, titles: Sequence[str] = ("A", "B")) -> str:
    """What `compare` found, as a Markdown table per protocol."""
    lines = [f"{count_and_name(found['videos'], 'video')} in both"]
    for title, key in zip(titles, ("only_first", "only_second"), strict=True):
        if found[key]:
            lines.append(f"left out, only in {title}: {', '.join(found[key])}")
    if found["not_compared"]:
        lines.append(f"not compared, for want of intervals or not asked for: {', '.join(found['not_compared'])}")
    last = None
    for entry in found["differences"]:
        if entry["protocol"] != last:
            last = entry["protocol"]
            lines += ["", f"protocol {last}", ""]
            lines += table_header(["metric", *titles, f"{titles[1]} - {titles[0]}", "95 %", f"{titles[1]} above"])
        numbers = [_signed(entry[key], key == "difference") for key in ("first", "second", "difference")]
        bounds = "-" if entry["lower"] is None else f"{entry['lower']:+.4f} to {entry['upper']:+.4f}"
        share = "-" if entry["share_above"] is None else f"{entry['share_above']:.3f}"
        lines.append(table_line([entry["metric"], *numbers, bounds, share]))
    return "\n".join(lines)


def _is_result(found: object) -> bool:
    """Whether this has what is read of a result, numbers and scores in the form that they are read in."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _KINDS.items()):
        return False
    videos = all(
        isinstance(number, dict)
        and isinstance(number.get("video", 0), str | type(None))
        and isinstance(number.get("frames"), int)
        for number in found["numbers"]
    )
    return videos and all(isinstance(found["scores"].get(name), dict) for name in found["statistics"])


def _frames_of_videos(result: Mapping) -> dict[str, int]:
    """Video -> the most frames that any of its numbers is of."""
    frames: dict[str, int] = {}
    for number in result["numbers"]:
        if number["video"] is not None:
            frames[number["video"]] = max(frames.get(number["video"], 0), number["frames"])
    return frames


def _check_meaning(first: Mapping, second: Mapping, names: str) -> None:
    """Raises DataError where the numbers of one mean something else than those of the other."""
    meanings = [result.get("meaning", {}) for result in (first, second)]
    for name in meanings[0].keys() & meanings[1].keys():
        if meanings[0][name] != meanings[1][name]:
            raise DataError(
                f"protocol {name} of {names} has other settings in one than in the other; score both alike. First: "
                f"{meanings[0][name]} Second: {meanings[1][name]}"
            )
    maps = [result.get("label_maps") for result in (first, second)]
    if None not in maps and len({frozenset("grey" if of in _GREY else of for of in known) for known in maps}) > 1:
        told = " and ".join(", ".join(of) for of in maps)
        raise DataError(f"the annotations of {names} were read by different label maps ({told}); score both by one")


def _check_same(
    first: Mapping, second: Mapping, videos: Sequence[Mapping], only: Sequence[list], common: bool, names: str
) -> None:
    if first["split_hash"] == second["split_hash"]:
        return
    hashes = f"{first['split_hash'][:12]} and {second['split_hash'][:12]}"
    if not any(only):
        raise DataError(f"{names} are of different frames of the same videos (split hashes {hashes}); score the same")
    if not common or not videos[0].keys() & videos[1].keys():
        lists = ", ".join(
            f"{count_and_name(names, 'video')} only in the {which}"
            for names, which in zip(only, ("first", "second"), strict=True)
            if names
        )
        raise DataError(
            f"{names} are of different videos (split hashes {hashes}): {lists}; score the same, or compare those that "
            "are in both (--common)"
        )
    both = videos[0].keys() & videos[1].keys()
    lacking = [{n for n in r.get("missing", ()) if n.rpartition("/")[0] in both} for r in (first, second)]
    if differing := sorted(lacking[0] ^ lacking[1]):
        told = count_and_name(differing, "frame")
        raise DataError(f"{names} lack different frames of the same videos: {told}; score the same frames")
    frames = [(found, result.get("video_hashes", {})) for found, result in zip(videos, (first, second), strict=True)]
    (counts, hashed), (other_counts, other_hashed) = frames
    known = hashed.keys() & other_hashed.keys()
    other = [v for v in sorted(both) if counts[v] != other_counts[v] or (v in known and hashed[v] != other_hashed[v])]
    if other:
        raise DataError(f"{names} have different annotated frames in {count_and_name(other, 'video')}; score the same")


def _differences(
    name: str, protocol: Additive, results: Sequence[Mapping], videos: list[str], names: str
) -> list[dict]:
    metrics = list(results[0]["scores"][name])
    try:
        tables = [resampled(protocol, _only(decoded(r["statistics"][name]), videos), videos) for r in results]
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"statistics of protocol {name!r} of {names} do not fit ({error}); score the masks again"
        ) from error
    if sorted(tables[0]) != sorted(tables[1]) or list(results[1]["scores"][name]) != metrics:
        raise DataError(f"protocol {name!r} of {names} has other classes or metrics in one than in the other")
    first, second = map(overall, tables)
    entries = []
    for i, metric in enumerate(metrics):
        draws = (second - first)[1:, i]
        draws = draws[~np.isnan(draws)] if len(videos) > 1 else draws[:0]
        bounds = percentile_interval(draws)
        above = float(np.mean((draws > 0) + 0.5 * (draws == 0))) if draws.size else None
        a, b = float(first[0, i]), float(second[0, i])
        entry = {"protocol": name, "metric": metric, "first": a, "second": b, "difference": b - a}
        entries.append({**entry, "lower": bounds.lower, "upper": bounds.upper, "share_above": above})
    return entries


def _only(statistics: Mapping[str, Mapping[str, np.ndarray]], videos: list[str]) -> dict[str, dict[str, np.ndarray]]:
    chosen = {k: {v: s for v, s in of.items() if v in set(videos)} for k, of in statistics.items()}
    return {class_id: of_videos for class_id, of_videos in chosen.items() if of_videos}


def _signed(value: float, sign: bool) -> str:
    return "-" if np.isnan(value) else f"{value:{'+' if sign else ''}.4f}"
