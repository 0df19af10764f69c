"""From a config to a finished run: what `main.py` calls."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

import lgrnet
from lgrnet import distributed
from lgrnet.checkpoint import input_facts, load_weights, resolve
from lgrnet.checkpoint.checkpointer import Checkpoint, Checkpointer, CheckpointError, list_weights, weights_damage
from lgrnet.checkpoint.disk import write_atomic
from lgrnet.checkpoint.official import OfficialWeightsError, load_backbone
from lgrnet.checkpoint.weights import weights_file, weights_metadata
from lgrnet.config import ConfigError, to_json, to_yaml
from lgrnet.data.loader import ClipLoader
from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.engine.hooks import EvaluateHook, Hook, LogHook, SaveHook, SetScores, evaluation_due, score_words
from lgrnet.engine.lock import BusyError, held
from lgrnet.engine.log import RunLog, Terminal
from lgrnet.engine.parts import build_part, check_evaluation, evaluation_options, evaluation_sets, settings_of
from lgrnet.engine.pictures import CURVES_FILE, PictureHook
from lgrnet.engine.results import check_target, results_name
from lgrnet.engine.resume import CONFIG_FILE, Changes, changed_settings, in_words
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.signals import StopRequest
from lgrnet.engine.trainer import Trainer, TrainingError
from lgrnet.evaluation import plain_json
from lgrnet.ops.backends import BackendError
from lgrnet.records import DataError, VideoRecord, count_and_name

CHECKPOINTS = "checkpoints"
USER_ERRORS = (
    ConfigError,
    DataError,
    CheckpointError,
    OfficialWeightsError,
    TrainingError,
    BackendError,
    BusyError,
    distributed.DeviceError,
    MemoryError,
)
"""What a user can mend: the message is enough, a traceback would hide it."""

_VERSIONS = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "pillow", "safetensors", "hydra-zen")


def train(config: DictConfig, folder: str | Path, context: distributed.Context, resume: bool = False) -> int:
    """Trains as the config says, in `folder`; returns the number of steps that are done.

    resume  go on from the newest whole checkpoint of `folder`, with settings that do not change what a step does, and
            not with fewer steps than are done; without it a folder that holds checkpoints is refused

    Raises ConfigError, DataError, CheckpointError, OfficialWeightsError, TrainingError and BusyError (another process
    trains in `folder`) for what a user can mend.
    """
    folder, settings = Path(folder), settings_of(config)
    metadata = weights_metadata(to_json(config.model), input_facts(config))
    checkpointer = Checkpointer(folder / CHECKPOINTS, settings.keep, settings.metric, metadata, warn=_say)
    there = checkpointer.all()
    start = _start(checkpointer, resume)
    if start is not None and start.step > settings.steps:
        raise ConfigError(
            f"the run in {folder} has done {start.step} steps, but train.steps is {settings.steps}: nothing is left to "
            "train. Resume with more steps, or evaluate its checkpoints with --trainer_mode eval"
        )
    changes = {} if start is None else changed_settings(folder, config)
    sets, options = evaluation_sets(config), evaluation_options(config)
    check_evaluation(settings, sets, options["protocols"])
    trainer, stop = _make_trainer(config, settings, context, new=start is None), StopRequest()
    trainer.stop = stop.requested
    if start is not None:
        trainer.load_state(start.weights(), start.state())
    due = bool(sets) and start is not None and evaluation_due(settings, start.step)
    redo = distributed.agree(due and not start.evaluated)
    evaluate = partial(_evaluate_checkpoint, config, settings, sets, options, folder, context.device)
    with held(folder), stop:
        if distributed.is_main():
            _check_alone(checkpointer, there)
            _keep_config(config, folder, start, changes)
            _run_main(trainer, checkpointer, folder, start, evaluate if sets else None, redo)
        else:
            trainer.run(_hooks(checkpointer, None, print, evaluate if sets else None, redo))
    if distributed.is_main():
        _say_end(trainer, checkpointer, folder, stop.name)
    distributed.barrier()  # what rank 0 has written is there for all
    return trainer.step


def evaluate(
    config: DictConfig, paths: str | Path, folder: str | Path, context: distributed.Context
) -> dict[str, SetScores]:
    """Evaluates weights on the config's evaluation sets; name of the weights -> set -> metric -> value (on rank 0).

    paths   a weights file, a checkpoint's folder, or a folder of checkpoints (evaluated in order of their steps)
    folder  of the run: results go into <folder>/eval/<name of the weights>

    Of several weights those that are damaged are passed over in words. Raises what `train` raises.
    """
    settings, sets = settings_of(config), evaluation_sets(config)
    if not sets:
        raise ConfigError("the config has no evaluation set; add one to data.eval")
    options = evaluation_options(config)
    _prepare_torch(settings, context.device)
    model = build_part(config, "model").to(context.device)
    results: dict[str, SetScores] = {}
    for path in _whole([resolve(paths)] if resolve(paths) != Path(paths) else list_weights(paths)):
        load_weights(model, path)
        name = results_name(path)
        target = Path(folder) / "eval" / name
        check_target(path, Path(folder), target, sets)
        results[name] = _evaluate(
            config, settings, sets, options, target, context.device, model.eval(), weights_file(path)
        )
        if distributed.is_main():
            _print_scores(name, results[name], target)
            summary = json.dumps(plain_json(results), indent=1, allow_nan=False)
            write_atomic(Path(folder) / "eval" / "summary.json", summary.encode())
    return results


def run_folder(config_file: str | Path) -> Path:
    """runs/<config>: the path of the file below a folder named configs (or its name alone), without the suffix."""
    parts = Path(config_file).resolve().with_suffix("").parts
    below = parts[len(parts) - parts[::-1].index("configs") :] if "configs" in parts else parts[-1:]
    return Path("runs", *below)


def describe_origin() -> dict[str, Any]:
    """Versions, platform, command and git state, to be kept beside a run."""
    versions = {"lgrnet": lgrnet.__version__, "python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "platform": platform.platform(),
        "command": sys.argv,
        "processes": distributed.world_size(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": (_git("status", "--porcelain") or "").splitlines(),
    }


def _make_trainer(config: DictConfig, settings: TrainSettings, context: distributed.Context, new: bool) -> Trainer:
    _prepare_torch(settings, context.device)
    share = context.world_size * settings.accumulate
    if settings.batch_size % share:
        raise ConfigError(
            f"train.batch_size={settings.batch_size} does not split into {context.world_size} processes x "
            f"train.accumulate={settings.accumulate}; use a multiple of {share}"
        )
    model = build_part(config, "model")
    if new:
        _load_initial(model, settings)
    model = model.to(context.device, torch.float64 if settings.precision == "fp64" else torch.float32)
    optimizer = build_part(config, "optimizer", model)
    odd = [size for size in settings.sizes if size % model.stride]
    if odd:
        raise ConfigError(f"train.sizes has {odd[0]}; every size must be a multiple of {model.stride} for this model")
    loader = ClipLoader(
        build_part(config, "data.train"),
        settings.batch_size,
        settings.seed,
        rank=context.rank,
        world=context.world_size,
        workers=settings.workers,
        stride=model.stride,
        pin_memory=context.device.type == "cuda",
    )
    schedule, criterion = build_part(config, "schedule", optimizer), build_part(config, "criterion")
    return Trainer(model, criterion, optimizer, schedule, loader, settings, context.device)


def _load_initial(model: nn.Module, settings: TrainSettings) -> None:
    """The weights that a new run starts from; a resumed one has its own."""
    if settings.backbone_weights is not None:
        if not hasattr(model, "backbone"):
            raise ConfigError(
                f"train.backbone_weights={settings.backbone_weights}: {type(model).__name__} has no backbone"
            )
        load_backbone(model, settings.backbone_weights)
    if settings.init_weights is not None:
        load_weights(model, resolve(settings.init_weights))


def _prepare_torch(settings: TrainSettings, device: torch.device) -> None:
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = settings.tf32


def _start(checkpointer: Checkpointer, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, None for a new run."""
    there = checkpointer.all()
    if checkpointer.folder.exists() and not checkpointer.folder.is_dir():
        raise CheckpointError(f"{checkpointer.folder} is no folder; remove it, or give another place with --out_dir")
    if not resume and there:
        raise CheckpointError(
            f"{checkpointer.folder} already holds {len(there)} checkpoints, up to step {there[-1].step}; "
            "go on with --trainer_mode train_resume, or give another folder with --out_dir"
        )
    if not resume:
        return None
    start = checkpointer.latest()
    if start is None:
        other = " and another --out_dir" if there else ""
        raise CheckpointError(
            f"{checkpointer.folder} holds no whole checkpoint to resume; use --trainer_mode train{other}"
        )
    return start


def _check_alone(checkpointer: Checkpointer, there: Sequence[Checkpoint]) -> None:
    """Raises BusyError when checkpoints have come or gone since these were there."""
    if checkpointer.all() != there:
        raise BusyError(
            f"another process has trained in {checkpointer.folder.parent} meanwhile; go on with --trainer_mode "
            "train_resume, or give another --out_dir"
        )


def _run_main(
    trainer: Trainer,
    checkpointer: Checkpointer,
    folder: Path,
    start: Checkpoint | None,
    evaluate: Callable[..., SetScores] | None,
    redo: bool,
) -> None:
    """Training on rank 0, which also writes."""
    settings = trainer.settings
    terminal = Terminal(settings.steps, trainer.step, settings.log_every, clock=trainer.clock)
    with RunLog(folder, None if start is None else start.step, redo) as log:
        origin = describe_origin()
        write_atomic(folder / "origin.json", json.dumps(origin, indent=1).encode())
        log.event("start" if start is None else "resume", step=trainer.step, origin=origin)
        terminal.say(f"training in {folder}, step {trainer.step} of {settings.steps}, on {trainer.device}")
        if log.lost:
            terminal.say(f"its log has no readable line of {count_and_name(list(map(str, log.lost)), 'step')}")
        if trainer.step == settings.steps:
            terminal.say("all steps are done: nothing is left to train")
        try:
            show = LogHook(log, terminal, resumed=start is not None)
            hooks = _hooks(checkpointer, log, terminal.say, evaluate, redo)
            trainer.run([show, *hooks, PictureHook(log, folder / "eval")])
        finally:
            terminal.close()
            # On a full disk this fails too, and must not hide the first error.
            with suppress(OSError):
                log.event("end", step=trainer.step, stopped=trainer.stopping)


def _say_end(trainer: Trainer, checkpointer: Checkpointer, folder: Path, signal: str | None) -> None:
    """The last words of a run: what to do next, or where to look."""
    if trainer.stopping:
        print(f"stopped at step {trainer.step} ({signal or 'as asked'}); go on with --trainer_mode train_resume")
    print(f"curves of losses, scores and learning rate: {folder / CURVES_FILE}")
    best = checkpointer.best()
    if best is not None:
        print(f"best checkpoint: {best.path} ({checkpointer.metric} {best.metrics[checkpointer.metric]:.4f})")
        print(f"its report, masks and pictures: {folder / 'eval' / best.path.name}", flush=True)


def _hooks(
    checkpointer: Checkpointer,
    log: RunLog | None,
    say: Callable[[str], None],
    evaluate: Callable[..., SetScores] | None,
    redo: bool,
) -> list[Hook]:
    hooks: list[Hook] = [SaveHook(checkpointer, log)]
    if evaluate is not None:
        hooks.append(EvaluateHook(evaluate, checkpointer, log, say, redo))
    return hooks


def _evaluate_checkpoint(
    config: DictConfig,
    settings: TrainSettings,
    sets: dict[str, Sequence[VideoRecord]],
    options: dict[str, Any],
    folder: Path,
    device: torch.device,
    model: nn.Module,
    step: int,
    checkpoint: Checkpoint | None,
) -> SetScores:
    weights = None if checkpoint is None else weights_file(checkpoint.path)
    return _evaluate(config, settings, sets, options, folder / "eval" / f"step_{step:08d}", device, model, weights)


def _evaluate(
    config: DictConfig,
    settings: TrainSettings,
    sets: dict[str, Sequence[VideoRecord]],
    options: dict[str, Any],
    target: Path,
    device: torch.device,
    model: nn.Module,
    weights: Path | None,
) -> SetScores:
    facts = {"weights": None if weights is None else str(weights), "size": list(options["size"])}
    options = {**options, "chunk": settings.eval_chunk, "pictures": settings.pictures, "weights": weights}
    if distributed.is_main():
        options["origin"] = {**describe_origin(), "config": to_yaml(config)}
    # A progress bar that is on the terminal puts printed lines above itself.
    return evaluate_sets(model, sets, target, device=device, facts=facts, **options, say=partial(print, flush=True))


def _print_scores(name: str, sets: SetScores, target: Path) -> None:
    for set_name, scores in sets.items():
        print(f"{name}  {set_name}: {score_words(scores)}", flush=True)
    print(f"report, masks and pictures: {target}", flush=True)


def _say(text: str) -> None:
    """A line of text, once for all processes."""
    if distributed.is_main():
        print(text, flush=True)


def _keep_config(config: DictConfig, folder: Path, start: Checkpoint | None, changes: Changes) -> None:
    """Writes the config of a new run; that of a resumed one stands beside it where it differs."""
    if start is None:
        write_atomic(folder / CONFIG_FILE, to_yaml(config).encode())
    elif changes:
        write_atomic(folder / f"config_resume_{start.step:08d}.yaml", to_yaml(config).encode())
        _say(f"resumed with other settings: {in_words(changes)}")


def _whole(paths: Sequence[Path]) -> Iterator[Path]:
    """The weights that are whole; of several, damaged ones are passed over. Raises CheckpointError when none is."""
    found = False
    for path in paths:
        damage = weights_damage(path)
        if damage is None:
            found = True
            yield path
        elif len(paths) == 1:
            raise CheckpointError(damage)
        else:
            _say(f"{path} is passed over: {damage}")
    if not found:
        raise CheckpointError(f"none of the {len(paths)} weights is whole, from {paths[0]} to {paths[-1]}")


def _git(*arguments: str) -> str | None:
    """Output of git in the folder of the package, None where there is no git or no repository."""
    folder = Path(lgrnet.__file__).parent
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip()
