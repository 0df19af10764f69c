"""Whether a run that is resumed is still the run that was begun: its settings then and now."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lgrnet.config import ConfigError, to_yaml

CONFIG_FILE = "config.yaml"
FIXED = ("model", "criterion", "optimizer", "schedule", "data.train") + tuple(
    f"train.{name}"
    for name in ("seed", "batch_size", "sizes", "clip_norm", "precision", "freeze_steps", "accumulate", "ema")
)
"""What decides a step: a resumed run must have it as the run that was begun."""

BACKEND = "_backend"
"""How keys end, wherever they stand, that choose who computes a number, not which: a run may go on with another one."""

ABSENT = "absent"
Changes = dict[str, tuple[Any, Any]]
"""Dotted key -> (value then, value now)."""


def changed_settings(folder: Path, config: DictConfig) -> Changes:
    """Where the config differs from the one that the run in `folder` was begun with, harmlessly.

    The data may lie elsewhere: paths below data.root count as equal when they are so below the old root.

    Raises ConfigError, with every such key and both values, when a setting differs that decides what a step does,
    and when the run's config.yaml is not there or cannot be read.
    """
    file = folder / CONFIG_FILE
    changes = differences(file, config)
    refused = {key: pair for key, pair in changes.items() if _decides(key)}
    if refused:
        raise ConfigError(_refusal(file, refused, changes))
    return changes


def _decides(key: str) -> bool:
    """Whether a setting decides what a step does."""
    return f"{key}.".startswith(tuple(f"{name}." for name in FIXED)) and not key.endswith(BACKEND)


def differences(file: Path, config: DictConfig) -> Changes:
    """Every setting in which the config differs from a run's config.yaml; paths below data.root as `changed_settings`.

    Raises ConfigError when the file is not there or cannot be read.
    """
    then, now = _begun_with(file), flat_settings(config)
    root = then.get("data.root", ABSENT)
    if root != ABSENT and "data.root" in now:
        now = flat_settings(with_root(config, root)) | {"data.root": now["data.root"]}
    pairs = {key: (then.get(key, ABSENT), now.get(key, ABSENT)) for key in {**then, **now}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def flat_settings(config: DictConfig) -> dict[str, Any]:
    """Dotted key -> value of the resolved config, as they come back from its file."""
    return _flat(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))


def with_root(config: DictConfig, root: str) -> DictConfig:
    """A copy of the config whose data lie elsewhere."""
    there = copy.deepcopy(config)
    there.data.root = root
    return there


def in_words(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Every key with both values."""
    return "; ".join(f"{key} was {then}, is {now}" for key, (then, now) in changes.items())


def _begun_with(file: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
        if not isinstance(content, dict) or not content:
            raise ValueError("it holds no settings")
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{file}, the config that the run was begun with, cannot be read ({str(error).splitlines()[0]}); restore "
            "it, or start a new run with train.init_weights"
        ) from error
    return _flat(content)


def _flat(node: Any, key: str = "") -> dict[str, Any]:
    """Dotted key -> value, of a tree of dicts and lists; a list of plain values is one value."""
    if isinstance(node, dict) and node:
        items = node.items()
    elif isinstance(node, list) and any(isinstance(value, dict) for value in node):
        items = enumerate(node)
    else:
        return {key: node}
    return {name: value for part, child in items for name, value in _flat(child, f"{key}.{part}".lstrip(".")).items()}


def _refusal(file: Path, refused: Changes, changes: Changes) -> str:
    words = [f"a resumed run must keep what {file} says: {in_words(refused)}"]
    steps = changes.get("train.steps")
    following = [key for key, pair in refused.items() if key.startswith("schedule.") and pair == steps]
    if following:
        kept = ", ".join(f"{key}={refused[key][0]}" for key in following)
        words.append(f"The schedule follows train.steps: {kept} lets more steps go on at its end")
    if any(then == ABSENT for then, _ in refused.values()):
        words.append("A key that was absent may be new in this version of lgrnet: add it to that file to accept it")
    words.append(
        "Resume with the old values, or start a new run with --trainer_mode train, another --out_dir and "
        f"train.init_weights={file.parent / 'checkpoints' / 'step_...'}"
    )
    return ". ".join(words)
