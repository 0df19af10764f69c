"""Stopping on request: the step in progress is finished, a checkpoint is written, and the process ends."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopRequest:
    """Listens for Ctrl-C, SIGTERM and SIGUSR1 while it is entered; `requested()` becomes True at the first one.

    A second Ctrl-C interrupts at once. Works in the main thread only, as Python's signals do.
    """

    def __init__(self):
        self.name: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)
            if number is not None:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.name is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
