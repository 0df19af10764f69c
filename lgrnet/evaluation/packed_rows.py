"""The rows of a video in a fifth of the memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from lgrnet.evaluation.protocols import FrameRow


class PackedRows:
    """The rows of one video, their values one behind the other as float64; to be read again and again, in order."""

    def __init__(self, rows: Sequence[FrameRow]):
        metrics: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._video = rows[0].video if rows else ""
        self._heads: list[tuple[str, str, int | str, tuple[str, ...]]] = []
        self._values = array("d")
        for row in rows:
            names = tuple(row.values)
            self._heads.append((row.protocol, row.frame, row.class_id, metrics.setdefault(names, names)))
            self._values.extend(row.values.values())

    def __iter__(self) -> Iterator[FrameRow]:
        yield from self.of(None)

    def of(self, protocol: str | None) -> Iterator[FrameRow]:
        """The rows of one protocol; None: all."""
        start = 0
        for name, frame, class_id, metrics in self._heads:
            end = start + len(metrics)
            if protocol in (None, name):
                values = dict(zip(metrics, self._values[start:end], strict=True))
                yield FrameRow(name, self._video, frame, class_id, values)
            start = end


def as_json(value: float | np.ndarray) -> float | list:
    """A number, or an array as a list, for JSON."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def from_json(value: float | list) -> float | np.ndarray:
    """What `as_json` was given."""
    return np.array(value, np.float64) if isinstance(value, list) else value
