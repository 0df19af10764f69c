"""Time, memory and their statistics."""

from __future__ import annotations

import ctypes
import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.autograd import DeviceType

Work = Callable[[], object]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
LEAST_ROUNDS = 3
LEAST_SAMPLE_MS = 10.0
"""Short calls are repeated until a sample is about as long."""
MOST_SPREAD = 0.25


@dataclass(frozen=True)
class Clock:
    """Milliseconds of some calls.

    kind  "cpu": processor time of this process, all its threads; "wall"; "cuda": events on the GPU's stream
    """

    kind: str

    def __call__(self, work: Work, calls: int = 1) -> float:
        """Milliseconds of one call, the mean of `calls`."""
        if self.kind == "cuda":
            return self._events(work, calls)
        now = time.process_time if self.kind == "cpu" else time.perf_counter
        start = now()
        for _ in range(calls):
            work()
        return (now() - start) * 1000 / calls

    def _events(self, work: Work, calls: int) -> float:
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls


def interleave(
    works: Mapping[str, Work], clock: Callable[[Work, int], float], rounds: int, budget_s: float, seed: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of every work in every round: all take their turn once a round, in an order drawn anew.

    budget_s  what one work may take in all its rounds. A slow one takes part in fewer, from the first on, but in at
              least three; one whose single call takes longer than the budget is not called again.

    A call before the first round is discarded; it says how often short works are repeated within a sample.
    """
    draw, samples = random.Random(seed), {name: [] for name in works}
    first = {name: clock(work, 1) for name, work in works.items()}
    calls = {name: max(1, round(LEAST_SAMPLE_MS / max(ms, 1e-3))) for name, ms in first.items()}
    turns = {name: _turns(ms * calls[name] / 1000, rounds, budget_s) for name, ms in first.items()}
    samples |= {name: [first[name]] for name in works if turns[name] == 0}
    for turn in range(rounds):
        names = [name for name in works if turn < turns[name]]
        draw.shuffle(names)
        gc.collect()
        for name in names:
            samples[name].append(clock(works[name], calls[name]))
    return samples


def _turns(seconds: float, rounds: int, budget_s: float) -> int:
    if seconds > budget_s:
        return 0
    return min(rounds, max(LEAST_ROUNDS, int(budget_s / max(seconds, 1e-9))))


@dataclass(frozen=True)
class Ratio:
    """How many times longer a peer takes than we do: median over rounds, its 95 % interval, and the spread.

    spread  distance of the quartiles over the median; None: fewer than three rounds
    """

    value: float
    interval: tuple[float, float]
    spread: float | None

    @property
    def noisy(self) -> bool:
        """Whether the value says too little to be shown."""
        return self.spread is None or self.spread > MOST_SPREAD


def compare(theirs: list[float], ours: list[float], draws: int = 2000, seed: int = 0) -> Ratio:
    """The ratio of times of the same rounds, with a bootstrap interval (resampled rounds)."""
    count = min(len(theirs), len(ours))
    ratios = np.array(theirs[:count]) / np.array(ours[:count])
    chosen = np.random.default_rng(seed).integers(0, count, (draws, count))
    low, high = np.percentile(np.median(ratios[chosen], axis=1), (2.5, 97.5))
    return Ratio(float(np.median(ratios)), (float(low), float(high)), spread(ratios))


def spread(values) -> float | None:
    """Distance of the quartiles over the median; None for fewer than three values."""
    if len(values) < LEAST_ROUNDS:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


def kernel_ms(work: Work) -> float | None:
    """What a call keeps the GPU busy: the sum of its kernels and copies, without the time that it waits for the host.

    None where torch's profiler sees none of them (it may not be allowed to).
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    microseconds = [event.time_range.elapsed_us() for event in events if not event.is_user_annotation]
    return sum(microseconds) / 1000 if microseconds else None


def peak_bytes(work: Work, device: torch.device) -> int | None:
    """By how much memory grows during one call at most: results, scratch, and what the backward pass keeps.

    On a GPU what torch has allocated there; on a CPU the resident set of the process, so that memory which torch did
    not allocate counts too. None where the system does not tell (CPU other than Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not CLEAR.exists():
        work()
        return None
    # What was freed earlier must not serve this call unseen.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    CLEAR.write_text("5")  # the highest mark of the resident set starts anew
    before = _resident("VmRSS")
    work()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024
