"""Runs the runs of a grid, each in a process of its own, so that a crash ends one run and not the grid."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lgrnet
from lgrnet import distributed
from lgrnet.checkpoint.checkpointer import Checkpoint, Checkpointer, CheckpointError
from lgrnet.checkpoint.disk import write_atomic
from lgrnet.config import ConfigError
from lgrnet.engine.grid import FAILURE_FILE, GRID_FILE, OUTPUT_FILE, RESULT_FILE, GridRun, fingerprint
from lgrnet.engine.hooks import evaluation_due
from lgrnet.engine.lock import BusyError, held, is_held
from lgrnet.engine.parts import evaluation_sets
from lgrnet.engine.run import CHECKPOINTS, evaluate, settings_of, train
from lgrnet.engine.signals import StopRequest

_CALL = ".call"
"""Locked in a run's folder by the call that has it done."""
_PATIENCE = 0.1


def run_one(run: GridRun, context: distributed.Context) -> bool:
    """Trains (or resumes) and evaluates a run in this process; True when it is finished, False when asked to stop.

    Raises BusyError when another process is at it, and what `lgrnet.engine.run.train` raises.
    """
    with held(run.folder):
        if distributed.is_main():
            (run.folder / FAILURE_FILE).unlink(missing_ok=True)
        keeper = Checkpointer(run.folder / CHECKPOINTS)
        resume = distributed.agree(keeper.latest() is not None)
        if distributed.agree(not resume and bool(keeper.all())):
            raise CheckpointError(f"{keeper.folder} holds no whole checkpoint; remove {run.folder} to train it anew")
        steps = train(run.config, run.folder, context, resume)
        if steps < run.config.train.steps or distributed.agree(_left_open(run, keeper)):
            return False
        checkpoint = _chosen(run)
        report = run.folder / "eval" / checkpoint.path.name / "report.json"
        if distributed.agree(not (checkpoint.metrics and report.is_file())):
            evaluate(run.config, checkpoint.path, run.folder, context)
        if distributed.is_main():
            write_atomic(run.folder / RESULT_FILE, json.dumps(_result(run, checkpoint, report), indent=1).encode())
            (run.folder / FAILURE_FILE).unlink(missing_ok=True)  # of a call that took this process for ended
    return True


def run_all(
    runs: Sequence[GridRun],
    out: Path,
    command: Callable[[GridRun], Sequence[str]],
    overrides: Sequence[str] = (),
    after: Callable[[], None] = lambda: None,
) -> bool:
    """Runs what is not finished, one after the other; a failure is noted and the rest goes on. True when none failed.

    command    that does one run by `run_one`
    overrides  of this call, kept for the words of errors
    after      called after every run

    Ctrl-C, SIGTERM or SIGUSR1 end the run of the moment at its next step, with a checkpoint, and no other is begun.
    """
    write_atomic(out / GRID_FILE, json.dumps({"overrides": list(overrides)}, indent=1).encode())
    good, open_runs = True, [(run, run.failure()) for run in runs if run.result() is None]
    print(f"{len(runs)} runs, {len(runs) - len(open_runs)} finished", flush=True)
    with StopRequest() as stop:
        for number, (run, failure) in enumerate(open_runs, start=1):
            title = f"[{number}/{len(open_runs)}] {run.name}"
            try:
                with held(run.folder, _CALL):
                    good &= _follow(run, failure, title, command(run), stop)
            except BusyError:
                print(f"{title}: left to another call", flush=True)
                continue
            after()
            if stop.requested():
                print(f"stopped ({stop.name}); the same command goes on", flush=True)
                break
    return good


def _follow(
    run: GridRun, failure: Mapping[str, Any] | None, title: str, command: Sequence[str], stop: StopRequest
) -> bool:
    """Has the command do a run whose last failure was this one; False when it failed.

    Raises BusyError when another process does it, or has done or tried it meanwhile.
    """
    if run.result() is not None or run.failure() != failure or is_held(run.folder):
        raise BusyError(f"another process has {run.folder}")
    print(f"{title}, seed {run.seed}: {run.state()}", flush=True)
    begun = time.monotonic()
    status, words = _watch(command, run.folder / OUTPUT_FILE, stop)
    if status and run.result() is None and is_held(run.folder):
        # Of a torchrun that was killed: no other run may begin beside them.
        print(f"{title}: processes of it still run; waiting for their end", flush=True)
        while not stop.requested() and is_held(run.folder):
            time.sleep(_PATIENCE)
    good = stop.requested() or run.result() is not None
    if not good:
        write_atomic(run.folder / FAILURE_FILE, json.dumps(_failure(run, status, words), indent=1).encode())
    print(f"{title}: {run.state()}, {_minutes(begun)}", flush=True)
    return good


def _left_open(run: GridRun, keeper: Checkpointer) -> bool:
    """Whether the last step was asked to stop, so that its evaluation is the next call's."""
    settings = settings_of(run.config)
    wanted = bool(evaluation_sets(run.config)) and evaluation_due(settings, settings.steps)
    return wanted and any(c.step == settings.steps and not c.evaluated for c in keeper.all())


def _chosen(run: GridRun) -> Checkpoint:
    """The checkpoint whose numbers count. Raises ConfigError when it is not there."""
    keeper = Checkpointer(run.folder / CHECKPOINTS, metric=run.config.train.metric)
    if run.checkpoint == "last":
        chosen = next((c for c in keeper.all() if c.step == run.config.train.steps and c.damage() is None), None)
    else:
        chosen = keeper.best()
    if chosen is None:
        raise ConfigError(
            f"{keeper.folder} has no whole checkpoint that is {run.checkpoint}"
            + (f" by {keeper.metric}: no evaluation gave it" if run.checkpoint == "best" else "")
        )
    return chosen


def _result(run: GridRun, checkpoint: Checkpoint, report: Path) -> dict[str, Any]:
    """What is kept of a finished run: where it stands in the grid, and every number with its stamp."""
    sets = json.loads(report.read_text(encoding="utf-8"))["sets"]
    scores = [score for result in sets for protocol in result["scores"] for score in _stamped(result, protocol)]
    settings = settings_of(run.config)
    return {
        "run": run.name,
        "seed": run.seed,
        "config": fingerprint(run.config),
        "checkpoint": checkpoint.path.name,
        "chosen": run.checkpoint if run.checkpoint == "last" else f"best by {settings.metric}",
        "steps": settings.steps,
        "version": lgrnet.__version__,
        "scores": scores,
    }


def _stamped(result: Mapping[str, Any], protocol: str) -> Iterator[dict[str, Any]]:
    """Every number of a set and of its slices by one protocol."""
    whole = {"frames": result["frames"], "scores": result["scores"][protocol]}
    for part, found in {None: whole, **result["slices"].get(protocol, {})}.items():
        stamp = {"protocol": protocol, "meaning": result["meaning"][protocol], "set": result["set"], "slice": part}
        for metric, value in (found["scores"] or {}).items():
            yield {**stamp, "frames": found["frames"], "metric": metric, "value": value}


def _watch(command: Sequence[str], output: Path, stop: StopRequest) -> tuple[int, str]:
    """Runs a command, its words in a file and on this terminal; hands a request to stop on. Its status and words."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "ab") as sink, open(output, "rb") as source:
        begin = source.seek(0, 2)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        told = False
        while (status := process.poll()) is None:
            if stop.requested() and not told:
                process.terminate()
                told = True
            _show(source.read())
            time.sleep(_PATIENCE)
        _show(source.read())
        source.seek(begin)
        return status, source.read().decode(errors="replace")


def _show(data: bytes) -> None:
    if data:
        sys.stdout.write(data.decode(errors="replace"))
        sys.stdout.flush()


def _failure(run: GridRun, status: int, words: str) -> Mapping[str, Any]:
    ended = f"killed by signal {-status}" if status < 0 else _reason(words)
    return {"status": status, "step": run.step(), "reason": ended[:500]}


def _reason(words: str) -> str:
    """Of what a failed command has said, the line that tells why; torchrun writes a page of its own behind it."""
    lines = [line.strip() for line in words.splitlines() if any(map(str.isalpha, line))]
    told = [line for line in lines if re.match(r"error(:| in process)", line)]
    raised = [line for line in lines if re.match(r"\w+(Error|Exception|Interrupt)\b", line)]
    return ([*told[:1], *raised[-1:], *lines[-1:]] or ["no output"])[0].removeprefix("error: ")


def _minutes(begun: float) -> str:
    return f"{(time.monotonic() - begun) / 60:.1f} minutes"
