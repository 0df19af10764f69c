"""Measures lgrnet's ops, losses and models against what a user would take instead.

    python tools/benchmark.py --op scan --against all --device cpu --json runs/scan.json --picture runs/scan.png
    python tools/benchmark.py --op neighborhood --against gather,natten --mode fwd --case T=6
    python tools/benchmark.py --suite cpu                       # the tables of ops/README.md
    python tools/benchmark.py --suite cuda                      # those of a GPU

Every peer is first checked against the reference in float64. Then all take their turns in one process, round after
round; a ratio is the peer's time over ours, the median over the rounds, with a bootstrap 95 % interval, and is not
shown ("noisy") where the rounds differ too much. On a CPU the default is one thread and the process's processor time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import torch  # noqa: E402

from benchmarks import contest, report, runner, suite  # noqa: E402
from lgrnet.records import write_frame  # noqa: E402


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--op", choices=sorted(suite.OPS), help="what to measure")
    what.add_argument(
        "--suite", choices=sorted(suite.SUITES), help="measure everything and rewrite the tables of --page"
    )
    parser.add_argument("--against", default="all", help="all, or names of peers with commas between")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: that of the suite, else cpu")
    parser.add_argument("--case", help="only these cases, with commas between; else all but the largest")
    parser.add_argument("--mode", help="of fwd, fwdbwd and step, with commas between; default: all that the op has")
    parser.add_argument("--dtype", help="of fp32 and bf16, with commas between; default: fp32")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--clock", choices=("cpu", "wall"), help="default: cpu with one thread, else wall")
    parser.add_argument("--rounds", type=int, default=11, help="in which every peer takes its turn")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of one peer in all rounds of a case")
    parser.add_argument("--quick", action="store_true", help="tiny cases, to see that everything runs")
    parser.add_argument("--json", type=Path, help="write all rows there")
    parser.add_argument("--picture", type=Path, help="write time and memory against length there, .png")
    parser.add_argument("--page", type=Path, default=ROOT / "ops/README.md", help="page whose tables --suite rewrites")
    return parser


def _choose(given: str | None, known: Sequence[str], what: str) -> list[str]:
    """The names in a comma-separated list. Raises ValueError for one that is not known."""
    if given is None:
        return list(known)
    names = [name.strip() for name in given.split(",") if name.strip()]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ValueError(f"{what} is {given!r}, expected some of: {', '.join(known)}")
    return names


def _settings(options: argparse.Namespace) -> runner.Settings:
    if options.suite is not None and options.device != options.suite:
        raise ValueError(f"suite {options.suite} is measured on {options.suite}, not on {options.device}; choose one")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch sees no GPU here; use --device cpu")
    if options.threads < 1 or options.rounds < 1:
        raise ValueError(f"threads {options.threads}, rounds {options.rounds}: expected at least one of each")
    kind = "cuda" if options.device == "cuda" else options.clock or ("cpu" if options.threads == 1 else "wall")
    return runner.Settings(options.device, options.threads, kind, options.rounds, options.budget)


def _measure(
    op: contest.Op, cases: Sequence[contest.Case], options: argparse.Namespace, dtypes: Sequence[str]
) -> list[runner.Row]:
    settings = _settings(options)
    peers = [peer.name for peer in op.peers[1:]]
    against = None if options.against == "all" else _choose(options.against, peers, "--against")
    modes = _choose(options.mode, op.modes, "--mode")
    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {line}", file=sys.stderr, flush=True)

    return [
        row
        for case in cases
        for mode in modes
        for dtype in dtypes
        for row in runner.measure(op, case, mode, dtype, settings, against, say)
    ]


def _run(options: argparse.Namespace) -> list[runner.Row]:
    """All rows that the command line asks for."""
    if options.suite is not None:
        parts = suite.SUITES[options.suite]
        return [
            row for part in parts for row in _measure(suite.OPS[part.op], part.of(options.quick), options, part.dtypes)
        ]
    op = suite.OPS[options.op]
    known = {case.name: case for case in op.cases(options.quick)}
    names = _choose(options.case, list(known), "--case") if options.case else [n for n, c in known.items() if c.full]
    dtypes = _choose(options.dtype, op.dtypes, "--dtype") if options.dtype else op.dtypes[:1]
    return _measure(op, [known[name] for name in names], options, dtypes)


def _write(rows: Sequence[runner.Row], facts: dict[str, object], options: argparse.Namespace) -> None:
    for path in (options.json, options.picture):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if options.json is not None:
        listed = [row.as_json() | {"environment": facts} for row in rows]
        options.json.write_text(json.dumps(listed, indent=1), encoding="utf-8")
    chart = report.picture(rows) if options.picture is not None else None
    if chart is not None:
        write_frame(options.picture, chart)
    elif options.picture is not None:
        print("no picture: it needs cases of two lengths", file=sys.stderr)
    if options.suite is not None:
        threads = "one thread" if options.threads == 1 else f"{options.threads} threads"
        threads = "one GPU, fp32 without TF32" if options.device == "cuda" else threads
        settings = (
            f"{threads}, {_settings(options).clock} time, up to {options.rounds} rounds in {options.budget:g} s a peer"
        )
        command = f"python tools/benchmark.py --suite {options.suite} --budget {options.budget:g}"
        suite.rewrite(options.page, options.suite, suite.page(rows, facts, command, settings))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with a message."""
    options = _parser().parse_args(arguments)
    options.device = options.device or options.suite or "cpu"
    try:
        _settings(options)
        torch.set_num_threads(options.threads)
        runner.without_tf32()
        facts = report.environment(options.device)
        print(report.environment_line(facts), flush=True)
        rows = _run(options)
        _write(rows, facts, options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for op in dict.fromkeys(row.op for row in rows):
        chosen = [row for row in rows if row.op == op]
        print("\n".join(["", op, report.text(chosen), *report.frame_growth(chosen)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
