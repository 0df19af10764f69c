"""The benchmark's cuda suite, as much of it as there is time for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from benchmarks import runner, suite
from benchmarks.contest import Case, Op
from gpu_checks.check import FAILED, SKIPPED, Check, Setup, attempt, bounded, told

QUICK = ("scan", "neighborhood", "deform", "depthwise", "heads", "loss")
SLOW_TO_START = ("compiled", "flex")
"""torch.compile takes a minute for some of these peers: `tools/benchmark.py --suite cuda` has them."""
LEAST_S = 25.0
"""What a case needs; with less time left it is not begun."""


def _measured(op: Op, case: Case, mode: str, dtype: str, setup: Setup, rows: list[runner.Row]) -> Iterator[Check]:
    clock = "cuda" if setup.device == "cuda" else "cpu"
    rounds, budget = (1, 0.2) if setup.quick else (11, 1.5)
    settings = runner.Settings(setup.device, 1, clock, rounds, budget)
    peers = [peer.name for peer in op.peers[1:] if not any(word in peer.name for word in SLOW_TO_START)]
    found = runner.measure(op, case, mode, dtype, settings, peers if not setup.quick else peers[:1])
    rows += found
    ours, *others = found
    name = f"{op.name} {case.name} {mode} {dtype}"
    if ours.status != "ok":
        yield Check(f"{name}: against float64", ours.error, status=FAILED, note=ours.status)
        return
    if ours.error is not None:
        limit = op.peers[0].tolerance or runner.TOLERANCE[dtype]
        yield bounded(f"{name}: against float64", ours.error, limit)
    told_ratios = [f"{row.peer} {row.ratio:.3g}x" for row in others if row.ratio is not None]
    yield told(f"{name}: time", ours.median_ms, "ms", ", ".join(told_ratios))


def _turns(quick: bool) -> Iterator[tuple[Op, Case, str, str]]:
    """Op, case, mode and type of everything: one of each part, then a second of each, since time may end."""
    parts = []
    for part in suite.SUITES["cuda"]:
        op, dtypes = suite.OPS[part.op], part.dtypes[:1] if quick else part.dtypes[::-1]
        if not quick or part.op in QUICK:
            parts.append([(op, *one) for one in itertools.product(part.of(quick), op.modes, dtypes)])
    for turn in itertools.zip_longest(*parts):
        yield from (one for one in turn if one is not None)


def run(setup: Setup) -> Iterator[Check | list[runner.Row]]:
    """The checks of ours, and after each case the rows of all."""
    for op, case, mode, dtype in _turns(setup.quick):
        name = f"{op.name} {case.name} {mode} {dtype}"
        if setup.left_s < LEAST_S:
            yield Check(f"{name}: time", status=SKIPPED, note="no time left")
            continue
        rows: list[runner.Row] = []
        work = (op, case, mode, dtype, setup, rows)
        yield from attempt(name, lambda w=work: _measured(*w))
        yield rows
