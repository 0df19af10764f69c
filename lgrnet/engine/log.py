"""What a run leaves in writing: one JSONL file as the truth, a second one for the clock, and the terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lgrnet.checkpoint.disk import write_atomic
from lgrnet.engine.clock import TrainingClock
from lgrnet.engine.trainer import StepRecord

LOG_FILE, EVENTS_FILE = "log.jsonl", "events.jsonl"
_KEYS = {
    "step": {field.name for field in dataclasses.fields(StepRecord)},
    "evaluation": {"step", "sets", "mean"},
}


class RunLog:
    """The files of a run.

    log.jsonl     one line per step and per evaluation; no time, no path, no machine: two runs with the same config
                  have the same file, and so has a run that was killed and resumed
    events.jsonl  starts, saves, skipped steps, speed: everything with a clock

    folder       of the run
    resume_step  None starts log.jsonl anew; a number keeps the lines up to that step and drops what came after
    redo_evaluation  drop the evaluation of `resume_step` itself: it will be done again

    `lost` are the steps up to `resume_step` of which the log has no line that can be read.

    `sinks` get every step, evaluation and picture too (such as `TensorBoardSink`), and are closed with the log.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None, redo_evaluation: bool = False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_step is None else list(_kept(self.folder / LOG_FILE, resume_step, redo_evaluation))
        done = {line["step"] for line in kept if line["type"] == "step"}
        self.lost = sorted(set(range(1, (resume_step or 0) + 1)) - done)
        write_atomic(self.folder / LOG_FILE, "".join(_as_text(line) for line in kept).encode())
        self._log = open(self.folder / LOG_FILE, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._events = open(self.folder / EVENTS_FILE, "a", encoding="utf-8")  # noqa: SIM115
        self.sinks: list[TensorBoardSink] = []

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # On a full disk closing fails too, and must not hide the first error.
        with nullcontext() if error is None else suppress(OSError):
            self.close()

    def step(self, record: StepRecord) -> None:
        """One step; numbers that are not finite are written as text, so that the file stays JSON."""
        self._write(self._log, {"type": "step", **dataclasses.asdict(record)})
        for sink in self.sinks:
            sink.step(record)

    def evaluation(self, step: int, sets: Mapping[str, Mapping[str, float]], mean: Mapping[str, float]) -> None:
        """The numbers of each evaluation set after `step`, and their means over the sets."""
        self._write(self._log, {"type": "evaluation", "step": step, "sets": sets, "mean": mean})
        for sink in self.sinks:
            sink.evaluation(step, sets, mean)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3], for the sinks: the run's own pictures are files beside the log."""
        for sink in self.sinks:
            sink.picture(step, name, image)

    def event(self, kind: str, **facts: Any) -> None:
        """Something that happened at this moment."""
        self._write(self._events, {"type": kind, "time": round(time.time(), 3), **facts})

    def sync(self) -> None:
        """Waits until the disk has every line: before a checkpoint that continues them."""
        for file in (self._log, self._events):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Closes both files and all sinks."""
        for sink in self.sinks:
            sink.close()
        try:
            self._log.close()
        finally:
            self._events.close()

    def _write(self, file: Any, line: Mapping[str, Any]) -> None:
        file.write(_as_text(line))
        file.flush()


def read_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a log.jsonl (or of the run's folder) as dicts; those that are damaged, such as a last one that was
    cut by a kill, are left out."""
    path = Path(path)
    return filter(_is_whole, _lines(path / LOG_FILE if path.is_dir() else path))


def read_events(run: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's events.jsonl, likewise."""
    return _lines(Path(run) / EVENTS_FILE)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether a line is what a `RunLog` writes about a step or an evaluation."""
    keys = _KEYS.get(str(line.get("type")))
    return keys is not None and keys <= line.keys() and type(line["step"]) is int


class Terminal:
    """Progress with the time to go, evaluations left out: a bar on a terminal, plain lines elsewhere.

    steps, done  of the whole run, and those that are behind
    every        plain lines every so many steps, also for the first and the last one
    clock        of the training
    """

    def __init__(
        self,
        steps: int,
        done: int = 0,
        every: int = 20,
        interactive: bool | None = None,
        clock: TrainingClock | None = None,
    ):
        self.steps, self.every, self.clock = steps, every, clock or TrainingClock()
        self._start, self._begun = done, self.clock.seconds()
        self._bar = self._make_bar(done) if (sys.stdout.isatty() if interactive is None else interactive) else None

    def step(self, record: StepRecord) -> None:
        """Shows a step."""
        if self._bar is not None:
            # Short enough for 80 columns.
            words = "not finite" if record.skipped else f"loss {record.total:.4f}"
            self._bar.update(self._task, completed=record.step, words=words)
        elif record.step % self.every == 0 or record.step in (self._start + 1, self.steps):
            print(f"step {record.step}/{self.steps}  {self.words(record)}  {self._speed(record.step)}", flush=True)

    def words(self, record: StepRecord) -> str:
        """A step in words."""
        terms = "  ".join(f"{name} {value:.4f}" for name, value in record.losses.items())
        skipped = "  SKIPPED: not finite" if record.skipped else ""
        size = f"  {record.size} px" if record.size else ""
        return f"loss {record.total:.4f}  {terms}  lr {record.lr:.2e}  grad {record.grad_norm:.2f}{size}{skipped}"

    def say(self, text: str) -> None:
        """A line of text, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()

    def _speed(self, step: int) -> str:
        seconds = (self.clock.seconds() - self._begun) / max(step - self._start, 1)
        left = int(seconds * (self.steps - step))
        return f"{seconds:.2f} s/step  eta {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"

    def _make_bar(self, done: int) -> Progress:
        columns = (TextColumn("train"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        columns += (TimeRemainingColumn(), TextColumn("{task.fields[words]}", markup=False))
        bar = Progress(*columns, get_time=self.clock.seconds)
        self._task = bar.add_task("train", total=self.steps, completed=done, words="")
        bar.start()
        return bar


class TensorBoardSink:
    """Shows a run in TensorBoard: train/<term> for every step, <set>/<metric> and pictures for every evaluation."""

    def __init__(self, writer: Any):
        self._writer = writer

    def step(self, record: StepRecord) -> None:
        """The losses of a step."""
        values = {"total": record.total, "lr": record.lr, "grad_norm": record.grad_norm, **record.losses}
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, record.step)

    def evaluation(self, step: int, sets: Mapping[str, Mapping[str, float]], mean: Mapping[str, float]) -> None:
        """The scores of an evaluation."""
        for set_name, scores in {**sets, "mean": mean}.items():
            for metric, value in scores.items():
                self._writer.add_scalar(f"{set_name}/{metric}", value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 [H, W, 3], as it is after `step`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def tensorboard_sink(folder: str | Path, purge_step: int | None = None) -> TensorBoardSink | None:
    """A sink for a RunLog, None where tensorboard is not installed (pip install lgrnet[tensorboard])."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return TensorBoardSink(SummaryWriter(str(folder), purge_step=purge_step))


def _kept(path: Path, step: int, redo_evaluation: bool) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in read_log(path):
        redone = redo_evaluation and line["type"] == "evaluation" and line["step"] == step
        if line["step"] <= step and not redone:
            yield line


def _as_text(line: Mapping[str, Any]) -> str:
    return json.dumps(_finite(line), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
