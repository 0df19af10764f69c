"""How sure a number is: 95 % intervals by resampling videos, and the difference of two results on the same videos.

Frames of one video are alike, so videos are drawn, not frames (Efron's percentile bootstrap, 1979). Letters: V videos,
B resamples, S statistics of a video, M metrics.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lgrnet.evaluation.additive import Additive, divide
from lgrnet.evaluation.protocols import ClipRow, FrameRow

RESAMPLES = 2000
LEVEL = 0.95
SEED = 20240507
_AT_ONCE = 250


@dataclass(frozen=True)
class Interval:
    """Where a number lies with 95 % confidence; both None where that cannot be said."""

    lower: float | None
    upper: float | None


UNKNOWN = Interval(None, None)
"""The interval of a number that fewer than two videos have, or of a protocol that is not `Additive`."""


def resamples(videos: int, number: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """How often each video is drawn: float64 [B, V], each row adds up to V; the same at every call."""
    draws = np.random.default_rng([seed, videos]).multinomial(videos, np.full(videos, 1 / videos), size=number)
    return draws.astype(np.float64)


def resampled(
    protocol: Additive, statistics: Mapping[int | str, Mapping[str, np.ndarray]], videos: Sequence[str]
) -> dict[int | str, np.ndarray]:
    """Class (and "mean" of several) -> metrics [1 + B, M]: of all the videos, and of B draws of as many of them.

    statistics  class -> video -> [S]; a video that a class does not know adds nothing to it

    The draws of a number that fewer than two videos have are NaN: they would all be that of the one.
    """
    weights = np.concatenate([np.ones((1, len(videos))), resamples(len(videos))])
    table, alone = {}, {}
    for class_id, of_videos in statistics.items():
        size = len(next(iter(of_videos.values())))
        if any(len(found) != size for found in of_videos.values()):  # videos of different classes
            metrics = len(protocol.finish(next(iter(of_videos.values()))[None])[0])
            table[class_id], alone[class_id] = np.full((len(weights), metrics), np.nan), np.zeros((1, metrics), bool)
            continue
        stacked = np.stack([of_videos.get(video, np.zeros(size)) for video in videos])
        parts = [protocol.finish(weights[i : i + _AT_ONCE] @ stacked) for i in range(0, len(weights), _AT_ONCE)]
        table[class_id] = np.concatenate(parts)
        alone[class_id] = ~np.isnan(protocol.finish(stacked))  # [V, M]
    if len(table) > 1:
        stacked = np.stack(list(table.values()))
        defined = ~np.isnan(stacked)
        table["mean"] = divide(np.where(defined, stacked, 0).sum(0), defined.sum(0))
        alone["mean"] = np.any(list(alone.values()), axis=0)
    for class_id, numbers in table.items():
        numbers[1:, alone[class_id].sum(0) < 2] = np.nan
    return table


def percentile_interval(draws: np.ndarray) -> Interval:
    """The interval of resampled numbers [B]; those that are not defined are left out, and with none left it is unknown.

    Its ends are the 2.5th and the 97.5th percentile.
    """
    defined = draws[~np.isnan(draws)]
    if not defined.size:
        return UNKNOWN
    lower, upper = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(lower), float(upper))


def intervals_of(
    protocol: object, statistics: Mapping[int | str, Mapping[str, np.ndarray]]
) -> dict[int | str, dict[str, Interval]]:
    """Class (and "mean" of several) -> metric -> 95 % interval, of the statistics that `statistics_of` gives.

    {} where it is unknown: fewer than two videos, or a protocol that is not `Additive`.
    """
    videos = sorted({video for of_videos in statistics.values() for video in of_videos})
    if len(videos) < 2:
        return {}
    return {
        class_id: {m: percentile_interval(draws[1:, i]) for i, m in enumerate(protocol.metrics)}
        for class_id, draws in resampled(protocol, statistics, videos).items()
    }


def statistics_of(
    protocol: object, rows: Sequence[FrameRow] | Sequence[ClipRow]
) -> dict[int | str, dict[str, np.ndarray]]:
    """Class -> video -> [S]; {} for a protocol that is not `Additive`."""
    if not isinstance(protocol, Additive):
        return {}
    grouped: dict[int | str, dict[str, list]] = {}
    for row in rows:
        grouped.setdefault(row.class_id, {}).setdefault(row.video, []).append(row)
    return {
        class_id: {video: protocol.statistics(members) for video, members in of_videos.items()}
        for class_id, of_videos in sorted(grouped.items())
    }


def encoded(statistics: Mapping[int | str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, str]]:
    """Statistics for a JSON file: little-endian float64 in base64, exact and 11 characters a number."""
    return {
        str(class_id): {v: base64.b64encode(sums.astype("<f8").tobytes()).decode("ascii") for v, sums in videos.items()}
        for class_id, videos in statistics.items()
    }


def decoded(statistics: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, np.ndarray]]:
    """What `encoded` was given, classes as texts. Raises ValueError for text that is not that."""
    try:
        return {
            class_id: {v: np.frombuffer(base64.b64decode(text, validate=True), "<f8") for v, text in videos.items()}
            for class_id, videos in statistics.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(f"class, video, base64 expected: {error}") from error
