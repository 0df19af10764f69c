"""The time that training itself takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingClock:
    """A clock that stands still while something other than training is done, such as an evaluation."""

    def __init__(self):
        self._aside = 0.0
        self._stopped: float | None = None

    def seconds(self) -> float:
        """Seconds since an arbitrary moment, without the pauses."""
        return (time.monotonic() if self._stopped is None else self._stopped) - self._aside

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still in the body."""
        self._stopped = time.monotonic()
        try:
            yield
        finally:
            self._aside += time.monotonic() - self._stopped
            self._stopped = None
