"""Proves lgrnet on a GPU in one command, in at most nine minutes: kernels, golden numbers, memory, speed.

    python tools/gpu_check.py                              # everything, to runs/gpu_check
    python tools/gpu_check.py --section scan --section graph
    python tools/gpu_check.py --device cpu --quick         # tiny shapes without a GPU: that the program works

Needs torch 2.10 or newer with Triton, timm, NumPy and SciPy; runs from a clone without installation and without a
network. Triton before 3.8 needs a C compiler and Python's headers. Writes gpu_check.json and gpu_check.md after every
section. Each runs in a process of its own with a time of its own; what fails there is reported, and the others go on.
Exit status: 0 all passed, 1 something failed, 2 there is no GPU, or no place to write.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BEGUN = time.monotonic()
"""Before torch is loaded: that takes its time, too."""
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import torch  # noqa: E402

from benchmarks import report as machine  # noqa: E402
from benchmarks import runner  # noqa: E402
from gpu_checks import report, schedule  # noqa: E402
from gpu_checks.check import Result, Setup  # noqa: E402
from gpu_checks.sections import SECTIONS  # noqa: E402

MINUTES = 8.75


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", action="append", choices=list(SECTIONS), help="only this part; may be repeated")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu_check", help="folder of the two files")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything")
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)  # of a process that runs one section
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser


def _one(options: argparse.Namespace) -> int:
    """One section in this process, which another one started; findings go to a file as they come."""
    with options.notes.open("w", encoding="utf-8") as file:

        def note(line: dict) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        setup = Setup(options.device, options.quick, time.monotonic() + options.seconds)
        result = schedule.in_here(SECTIONS[options.section[0]], setup, note)
    if result.error:
        print(result.error, file=sys.stderr)
    return 1 if result.error else 0


def _all(options: argparse.Namespace, begun: float, write: Callable[[list[Result]], object]) -> list[Result]:
    """Runs what was chosen; `write` is given all results after each, those that are not there yet as unfinished."""
    setup = Setup(options.device, options.quick, begun + 60 * options.minutes)
    chosen = [section for name, section in SECTIONS.items() if name in (options.section or SECTIONS)]
    results = {section.name: Result(section.name, section.title, error="not finished") for section in chosen}
    one_at_a_time = threading.Lock()

    def done(result: Result) -> None:
        with one_at_a_time:
            results[result.name] = result
            print(report.verdict(result), flush=True)
            write(list(results.values()))

    if options.device == "cuda":
        with tempfile.TemporaryDirectory() as folder:
            schedule.all_apart(chosen, setup, Path(__file__).resolve(), Path(folder), done)
    else:
        for section in chosen:
            done(schedule.in_here(section, setup))
    return list(results.values())


def main(arguments: Sequence[str] | None = None, begun: float | None = None) -> int:
    """The command line; 0 all passed, 1 something failed, 2 there is no GPU, or no place to write.

    begun  when the program was started, on time.monotonic; None: now
    """
    begun = time.monotonic() if begun is None else begun
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: PyTorch sees no GPU here; without one, try --device cpu --quick", file=sys.stderr)
        return 2
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: cannot write to {options.out}: {error.strerror}; give another --out", file=sys.stderr)
        return 2
    runner.without_tf32()
    if options.notes is not None:
        return _one(options)
    facts = machine.environment(options.device)
    print(machine.environment_line(facts), flush=True)
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "tools/gpu_check.py", *map(str, given)])
    results = _all(options, begun, lambda found: report.write(options.out, found, facts, command))
    for result in results:
        for check in result.checks:
            if check.status == "failed":
                print(f"FAILED {result.name}, {check.name}: {check.value} > {check.limit} {check.note}")
    word = "all passed" if report.passed(results) else "FAILED"
    written = " and ".join(str(options.out / name) for name in report.FILES)
    print(f"{word} in {time.monotonic() - begun:.0f} s; see {written}")
    return 0 if report.passed(results) else 1


if __name__ == "__main__":
    sys.exit(main(begun=BEGUN))
