"""What happens around the steps of a training: lines in the log, checkpoints, evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from lgrnet import distributed
from lgrnet.checkpoint.checkpointer import Checkpoint, Checkpointer
from lgrnet.engine.log import RunLog, Terminal, tensorboard_sink
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import Hook, StepRecord, Trainer
from lgrnet.evaluation.protocols import mean_scores

SetScores = Mapping[str, Mapping[str, float]]
"""Evaluation set -> metric -> value."""


def evaluation_due(settings: TrainSettings, step: int) -> bool:
    """Whether an evaluation belongs to this step."""
    on_the_way = settings.eval_every > 0 and step > 0 and step % settings.eval_every == 0
    return on_the_way or (settings.eval_first and step == 0) or (settings.eval_last and step == settings.steps)


def score_words(scores: Mapping[str, float]) -> str:
    """Scores for a line on the terminal; one that has no frame to be of is said to be not defined, not NaN."""
    values = {name: "not defined" if math.isnan(value) else f"{value:.4f}" for name, value in scores.items()}
    return "  ".join(f"{name} {value}" for name, value in values.items())


class LogHook(Hook):
    """Writes every step to the run's log, the terminal and, where it is installed, TensorBoard. For rank 0."""

    def __init__(self, log: RunLog, terminal: Terminal, resumed: bool = False):
        self.log, self.terminal, self.resumed = log, terminal, resumed

    def before(self, trainer: Trainer) -> None:
        """Opens TensorBoard's file."""
        purge = trainer.step + 1 if self.resumed else None
        sink = tensorboard_sink(self.log.folder / "tensorboard", purge)
        if sink is not None:
            self.log.sinks.append(sink)
        self._since = (trainer.step, trainer.clock.seconds())

    def after_step(self, trainer: Trainer, record: StepRecord) -> None:
        """The step in all its places."""
        self.log.step(record)
        self.terminal.step(record)
        if record.skipped:
            self.log.event("skipped", step=record.step, total=record.total, in_a_row=trainer.skipped_in_a_row)
        if record.step % trainer.settings.log_every == 0:
            self._speed(trainer)

    def after(self, trainer: Trainer) -> None:
        """How many steps were skipped, if any."""
        if trainer.skipped:
            self.terminal.say(f"{trainer.skipped} of {trainer.step} steps were skipped: loss or gradient not finite")

    def _speed(self, trainer: Trainer) -> None:
        step, begun = self._since
        now = trainer.clock.seconds()
        facts = {"step": trainer.step, "seconds_per_step": round((now - begun) / (trainer.step - step), 4)}
        if trainer.device.type == "cuda":
            facts["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(trainer.device)
        self.log.event("speed", **facts)
        self._since = (trainer.step, now)


class SaveHook(Hook):
    """Writes checkpoints: every `save_every` steps, before an evaluation, when asked to stop, and at the end."""

    def __init__(self, checkpointer: Checkpointer, log: RunLog | None):
        self.checkpointer, self.log = checkpointer, log

    def after_step(self, trainer: Trainer, record: StepRecord) -> None:
        """Saves when this step is one to be kept."""
        settings, step = trainer.settings, record.step
        last = step == settings.steps or trainer.stopping
        if last or step % settings.save_every == 0 or evaluation_due(settings, step):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Saves now; the other ranks wait, so that none runs on when saving fails."""
        if self.log is not None:
            self.log.sync()
            begun = time.monotonic()
            checkpoint = self.checkpointer.save(trainer.step, trainer.weights(), trainer.state())
            self.log.event("saved", step=trainer.step, path=checkpoint.path.name, seconds=time.monotonic() - begun)
        distributed.barrier()


class EvaluateHook(Hook):
    """Evaluates when it is due, and notes the result in the log and in the checkpoint of that step.

    evaluate      (model in eval mode, step, checkpoint or None) -> scores per set on rank 0, {} elsewhere; on all ranks
    checkpointer  of the run, which keeps the results of a step beside its weights
    log           None on every rank but 0
    say           prints a line
    redo          whether a resumed run evaluates its checkpoint first, because a kill has cut that off
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module, int, Checkpoint | None], SetScores],
        checkpointer: Checkpointer,
        log: RunLog | None,
        say: Callable[[str], None] = print,
        redo: bool = False,
    ):
        self.evaluate, self.checkpointer, self.log, self.say, self.redo = evaluate, checkpointer, log, say, redo

    def before(self, trainer: Trainer) -> None:
        """The evaluation before training, or the one that a kill cut off."""
        if self.redo or (trainer.step == 0 and evaluation_due(trainer.settings, 0)):
            with trainer.clock.paused():
                self._run(trainer)

    def after_step(self, trainer: Trainer, record: StepRecord) -> None:
        """The evaluation of this step, unless training was asked to stop: then the resumed run does it."""
        if evaluation_due(trainer.settings, record.step) and not trainer.stopping:
            with trainer.clock.paused():
                self._run(trainer)

    def _run(self, trainer: Trainer) -> None:
        step = trainer.step
        checkpoint = next((c for c in self.checkpointer.all() if c.step == step), None)
        begun = time.monotonic()
        with trainer.evaluating() as model:
            sets = self.evaluate(model, step, checkpoint)
        if self.log is None:
            return
        mean = mean_scores(sets)
        self.log.evaluation(step, sets, mean)
        self.log.event("evaluated", step=step, seconds=round(time.monotonic() - begun, 3))
        for name, scores in sets.items():
            self.say(f"step {step}  {name}: {score_words(scores)}")
        if checkpoint is not None:
            per_set = {f"{metric}_{name}": value for name, scores in sets.items() for metric, value in scores.items()}
            defined = {metric: value for metric, value in (per_set | mean).items() if not math.isnan(value)}
            self.log.sync()  # before the mark that it was done: else a power cut could leave the mark alone
            self.checkpointer.add_metrics(checkpoint, defined)
