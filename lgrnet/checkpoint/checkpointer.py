"""Training checkpoints: one folder each, written whole or not at all, checked by hash, without pickle.

<folder>/step_00000500/weights.safetensors   what a user loads (describes its model)
                       state.safetensors     tensors of the training state
                       state.json            numbers of the training state
                       manifest.json         step, sizes and SHA-256 of the three files
                       metrics.json          results of the evaluation, once there are any
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from lgrnet import __version__
from lgrnet.checkpoint.disk import CheckpointError, require_space, save_error, sync_folder, write_atomic, write_synced
from lgrnet.checkpoint.tree import join_tree, split_tree
from lgrnet.checkpoint.weights import (
    FORMAT,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    load_state,
    load_weights,
    pack,
    read_metadata,
    read_weights,
    save_weights,
    weights_metadata,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "list_weights",
    "load_state",
    "load_weights",
    "read_metadata",
    "read_weights",
    "save_weights",
    "weights_damage",
    "weights_metadata",
]

_STATE, _NUMBERS, _METRICS = "state.safetensors", "state.json", "metrics.json"
_PREFIX, _TEMPORARY = "step_", ".tmp_"
_NAME = re.compile(rf"{_PREFIX}([0-9]+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, not read yet: its folder and its step."""

    path: Path
    step: int

    @staticmethod
    def is_name(name: str) -> bool:
        """Whether a checkpoint's folder is called like this."""
        return _NAME.fullmatch(name) is not None

    @property
    def metrics(self) -> dict[str, float]:
        """What the evaluation of this checkpoint gave, empty if it was not evaluated."""
        return self._metrics() or {}

    @property
    def evaluated(self) -> bool:
        """Whether it was evaluated, also where no metric was defined; not when what was noted cannot be read."""
        return self._metrics() is not None

    def _metrics(self) -> dict[str, float] | None:
        try:
            noted = json.loads((self.path / _METRICS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return noted if isinstance(noted, dict) else None

    def damage(self) -> str | None:
        """What is wrong with the files, None when each has the size and hash that the manifest states."""
        try:
            manifest = json.loads((self.path / MANIFEST_FILE).read_text(encoding="utf-8"))
            if manifest["step"] != self.step or set(manifest["files"]) != {WEIGHTS_FILE, _STATE, _NUMBERS}:
                return f"{MANIFEST_FILE} does not describe this checkpoint"
            for name, expected in manifest["files"].items():
                size = (self.path / name).stat().st_size
                if size != expected["bytes"]:
                    return f"{name} has {size:,} of {expected['bytes']:,} bytes"
                if _sha256((self.path / name).read_bytes()) != expected["sha256"]:
                    return f"{name} was changed after it was written"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def weights(self) -> dict[str, Tensor]:
        """The model's state dict."""
        return read_weights(self.path)[0]

    def state(self) -> Any:
        """The training state as it was given to `Checkpointer.save`. Raises CheckpointError when it is damaged."""
        try:
            tensors = safetensors.torch.load((self.path / _STATE).read_bytes())
            return join_tree(json.loads((self.path / _NUMBERS).read_text(encoding="utf-8")), tensors)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"training state of {self.path} cannot be read ({error}); use another one") from error


class Checkpointer:
    """Keeps the newest checkpoints of a run and the best one.

    folder    where the checkpoints of this run are
    keep      how many of the newest stay
    metric    the best is the one whose metrics have the highest value under this name; it stays as well
    metadata  of the weights files (see weights_metadata), {} stands for an unnamed model
    warn      told in words when a damaged checkpoint is passed over
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 3,
        metric: str = "dice",
        metadata: Mapping[str, str] | None = None,
        warn: Callable[[str], None] = print,
    ):
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint must stay")
        self.folder = Path(folder)
        self.keep = keep
        self.metric = metric
        self.metadata = dict(metadata or weights_metadata(None))
        self.warn = warn

    def save(self, step: int, weights: Mapping[str, Tensor], state: Any) -> Checkpoint:
        """Writes the checkpoint of `step`, then removes what is neither new nor best.

        weights  the model's state dict;  state  any tree of tensors and plain data

        Raises CheckpointError when the disk is full (with the missing bytes) or not writable; checkpoints that
        were there stay as they were, and nothing half-written is left.
        """
        checkpoint = Checkpoint(self.folder / f"{_PREFIX}{step:08d}", step)
        if not checkpoint.path.is_dir() or checkpoint.damage():
            data, tensors = split_tree(state)
            files = {
                WEIGHTS_FILE: pack(weights, self.metadata | {"step": json.dumps(step)}),
                _STATE: pack(tensors),
                _NUMBERS: json.dumps(data).encode(),
            }
            self._write(checkpoint, files)
        # A run goes on from the newest whole checkpoint: whatever is newer than this one was passed over as damaged,
        # and must not push whole ones out of the newest K.
        for later in self.all():
            if later.step > step and later.damage():
                self._remove(later)
        self._prune()
        return checkpoint

    def add_metrics(self, checkpoint: Checkpoint, metrics: Mapping[str, float]) -> None:
        """Notes the results of a checkpoint that was evaluated after it was saved."""
        write_atomic(checkpoint.path / _METRICS, json.dumps(dict(metrics), indent=1).encode())
        self._prune()

    def all(self) -> list[Checkpoint]:
        """The checkpoints that are there, oldest first; damaged ones are not told apart."""
        if not self.folder.is_dir():
            return []
        named = ((p, _NAME.fullmatch(p.name)) for p in self.folder.iterdir() if p.is_dir())
        return sorted((Checkpoint(p, int(name[1])) for p, name in named if name), key=lambda c: c.step)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, None when there is none. Says which damaged ones it passed over."""
        for checkpoint in reversed(self.all()):
            damage = checkpoint.damage()
            if damage is None:
                return checkpoint
            self.warn(f"checkpoint {checkpoint.path} is damaged ({damage}); falling back to the one before")
        return None

    def best(self) -> Checkpoint | None:
        """The whole checkpoint with the highest metric (the earliest of equals), None when none was evaluated."""
        return next((c for c in self._ranked() if c.damage() is None), None)

    def _ranked(self) -> list[Checkpoint]:
        """Evaluated checkpoints, best first."""
        values = {c: c.metrics.get(self.metric) for c in self.all()}
        scored = [c for c, value in values.items() if isinstance(value, (int, float))]
        return sorted(scored, key=lambda c: (-values[c], c.step))

    def _write(self, checkpoint: Checkpoint, files: Mapping[str, bytes]) -> None:
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "step": checkpoint.step,
            "files": {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()},
        }
        files = {**files, MANIFEST_FILE: json.dumps(manifest, indent=1).encode()}
        needed = sum(len(data) for data in files.values())
        temporary = self.folder / f"{_TEMPORARY}{checkpoint.path.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            require_space(self.folder, needed)
            temporary.mkdir()
            for name, data in files.items():
                write_synced(temporary / name, data)
            sync_folder(temporary)
            if checkpoint.path.exists():  # a damaged one, `save` leaves whole ones alone
                shutil.rmtree(checkpoint.path)
            temporary.rename(checkpoint.path)
            sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise save_error(temporary, needed, error) from error

    def _sweep(self) -> None:
        """Removes what a process that was killed while saving has left."""
        for litter in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(litter, ignore_errors=True)

    def _prune(self) -> None:
        best = self._ranked()[:1]
        for checkpoint in self.all()[: -self.keep]:
            if checkpoint not in best:
                self._remove(checkpoint)

    def _remove(self, checkpoint: Checkpoint) -> None:
        # Renamed first: a kill in the middle leaves litter, never a checkpoint with missing files.
        doomed = checkpoint.path.with_name(f"{_TEMPORARY}{checkpoint.path.name}")
        checkpoint.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def list_weights(path: str | Path) -> list[Path]:
    """What `--eval_path` names: a weights file, a checkpoint, or every checkpoint of a folder in order of steps.

    A run's folder counts as its checkpoints. Raises CheckpointError when nothing is there.
    """
    path = Path(path)
    if path.is_file() or (path / WEIGHTS_FILE).is_file():
        return [path]
    folders = (path, path / "checkpoints")
    saved = ([checkpoint.path for checkpoint in Checkpointer(folder).all()] for folder in folders)
    loose = (sorted(folder.glob("*.safetensors")) for folder in folders)
    for found in (*saved, *loose):
        if found:
            return found
    raise CheckpointError(
        f"{path} holds no weights; give a .safetensors file, a checkpoint's folder, or a run's folder"
    )


def weights_damage(path: str | Path) -> str | None:
    """What is wrong with the weights file that `path` names (itself, or a checkpoint's), None when it is whole."""
    try:
        read_weights(path)
    except CheckpointError as error:
        return str(error)
    return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
