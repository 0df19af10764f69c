"""What a section finds: checks with a value and its limit; and what a section is given."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from benchmarks.clock import Clock
from lgrnet.ops import gpu

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class Setup:
    """Where and how large.

    device    "cuda" or "cpu"
    quick     tiny shapes, to see that everything runs
    deadline  on time.monotonic; a section that has something to leave out looks at it
    """

    device: str
    quick: bool
    deadline: float

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Check:
    """One finding.

    value, limit  what was measured, and what it may be at most; without a limit it is told only
    status        "ok", "failed", or "skipped", where it cannot be done here
    note          why, or what else was seen
    """

    name: str
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    status: str = OK
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Checks that belong together.

    budget_s  seconds after which it is stopped
    timed     True: it measures time, and nothing else may run beside it
    run       gives the checks one by one, as they are done
    """

    name: str
    title: str
    budget_s: float
    run: Callable[[Setup], Iterable[Check]]
    timed: bool = False


@dataclass
class Result:
    """What came of a section.

    extra  what it has beside checks: the rows of the benchmark
    error  why it ended before its end
    """

    name: str
    title: str
    seconds: float = 0.0
    error: str = ""
    checks: list[Check] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all of it was done and nothing failed."""
        return not self.error and bool(self.checks) and all(check.status != FAILED for check in self.checks)


def bounded(name: str, value: float, limit: float, unit: str = "", note: str = "") -> Check:
    """A check of value <= limit; a value that is no number fails."""
    return Check(name, value, limit, unit, OK if value <= limit else FAILED, note)


def told(name: str, value: float, unit: str, note: str = "") -> Check:
    """A measured number without a limit."""
    return Check(name, value, None, unit, OK, note)


def failures() -> tuple[type[Exception], ...]:
    """What a case may raise without ending the others."""
    plain = (ValueError, TypeError, LookupError, ImportError, OSError, ArithmeticError, AttributeError, AssertionError)
    return (*gpu.kernel_errors(), *plain, subprocess.SubprocessError)  # the last: Triton's compiler


def in_words(error: Exception) -> str:
    """An error in one line."""
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {reason[:300]}"


def attempt(name: str, work: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks of `work`; where it fails, that is the check: the next case is still tried."""
    try:
        yield from work()
    except failures() as error:
        yield Check(name, status=FAILED, note=in_words(error))
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def milliseconds(work: Callable[[], object], device: str, rounds: int) -> float:
    """The median time of a call, after a discarded one; on a GPU by events on its stream."""
    clock = Clock("cuda" if device == "cuda" else "wall")
    work()
    return float(torch.tensor([clock(work) for _ in range(rounds)]).median())
