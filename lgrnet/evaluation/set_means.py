"""Plain means over sets, as papers print them: the number of SUN-SEG's easy clips is that of seen and unseen ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lgrnet.records import count_and_name

COLUMNS = ("folder", "seen")
"""What is known of videos, by which the parts of a set are sets themselves."""

SetMeans = dict[str, dict[str, dict[str, float]]]
"""Which sets -> protocol -> metric -> the mean of their numbers."""


def means_over_sets(results: Sequence[Mapping], apart: bool = True) -> SetMeans:
    """The means of the numbers of sets, each scored alone and of the same weight, however many videos it has.

    results  of `Evaluator.result`. The slices of one of them by `COLUMNS` have a mean, and so have several results
    apart    whether no two results hold the same frame; else their mean would count that frame twice, and is left out
    """
    means: SetMeans = {}
    for result in results:
        for column in COLUMNS:
            parts = {protocol: _parts(slices, f"{column}: ") for protocol, slices in result["slices"].items()}
            if names := max(map(list, parts.values()), key=len, default=None):
                means[f"{result['set']}: {_label(names)}"] = {
                    protocol: _means(scores) for protocol, scores in parts.items() if len(scores) == len(names)
                }
    if len(results) > 1 and apart:
        means[_label([result["set"] for result in results])] = {
            protocol: _means({result["set"]: result["scores"][protocol] for result in results})
            for protocol in results[0]["scores"]
        }
    return means


def _means(sets: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric that all sets have; NaN where one of them has no number: it would be of the others."""
    shared = [name for name in next(iter(sets.values())) if all(name in scores for scores in sets.values())]
    return {name: math.fsum(scores[name] for scores in sets.values()) / len(sets) for name in shared}


def _parts(slices: Mapping[str, Mapping], prefix: str) -> dict[str, Mapping[str, float]]:
    """Name -> scores of the slices that begin with the prefix."""
    return {name.removeprefix(prefix): part["scores"] for name, part in slices.items() if name.startswith(prefix)}


def _label(names: Sequence[str]) -> str:
    return f"mean over {count_and_name(names, 'set')}"
