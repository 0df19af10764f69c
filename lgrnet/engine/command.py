"""How a command ends: with a status, and in one line where its user has made a mistake."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from lgrnet import distributed
from lgrnet.checkpoint.disk import place_error
from lgrnet.engine.run import USER_ERRORS

MISTAKE = 2
"""Exit status after a mistake that the user can mend."""
_RANK_0_FIRST = 3.0
"""Seconds that the other processes give rank 0 to tell an error."""


def status_of(work: Callable[[], int], folder: Path) -> int:
    """The exit status of a command's work: what it returns, or 2 after a mistake that is told in one line.

    folder  that the work writes into
    """
    try:
        return work()
    except USER_ERRORS as error:
        words = str(error)
    except OSError as error:
        if (told := place_error(folder, error)) is None:
            raise
        words = str(told)
    complain(words)
    return MISTAKE


def status_in_group(work: Callable[[distributed.Context], object], device: str | None, folder: Path) -> int:
    """`status_of` for work of all processes that torchrun has started; 0 when it returns."""
    with distributed.init(device) as context:

        def done() -> int:
            work(context)
            return 0

        # Told before the group is left: the others fail with it, and torchrun would end this process meanwhile.
        status = status_of(done, folder)
        if status:
            distributed.abandon(status)
    return status


def complain(text: str) -> None:
    """The error of this process, once where all processes have it."""
    rank = distributed.started_rank()
    if rank > 0:
        # An error of all processes has ended rank 0 by then, upon which torchrun ends this one. What is left are
        # errors that rank 0 does not have.
        time.sleep(_RANK_0_FIRST)
    print(f"error: {text}" if rank == 0 else f"error in process {rank}: {text}", file=sys.stderr, flush=True)
