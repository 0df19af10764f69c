"""What the sections of a config build, checked before a run begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lgrnet.checkpoint.described import input_facts
from lgrnet.config import ConfigError, build
from lgrnet.data.transforms import as_size, check_eval_rule
from lgrnet.engine.evaluate import check_set
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import AveragePrecision, LGRNetProtocol, Protocol, read_attributes
from lgrnet.evaluation.protocols import LOW_IS_GOOD
from lgrnet.records import VideoRecord

_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError, ZeroDivisionError)
"""What a class may raise for arguments that mean nothing."""


def build_part(config: DictConfig, key: str, *args: Any) -> Any:
    """What a dotted key of the config builds; with `args` the node is a partial one (zen_partial), called with them.

    Raises ConfigError with that key where there is nothing to build, and for arguments that a class refuses.
    """
    node = OmegaConf.select(config, key)
    if node is None or (isinstance(node, DictConfig) and "_target_" not in node):
        given = "null" if node is None else "no builds(...)"
        raise ConfigError(f"config section {key} is {given}; it must be builds(...), see configs/demo/phantom.py")
    try:
        part = build(node)
        return part(*args) if args else part
    except _REFUSALS as error:
        # An error of a kind of its own, such as DataError, already says where it comes from.
        if type(error) in _REFUSALS:
            raise ConfigError(f"config section {key} does not build: {error}") from error
        raise


def settings_of(config: DictConfig) -> TrainSettings:
    """The `train` section as settings. Raises ConfigError for values that are out of range."""
    settings = build_part(config, "train")
    if not isinstance(settings, TrainSettings):
        raise ConfigError(
            f"the section train builds a {type(settings).__name__}; it must be builds(TrainSettings, ...)"
        )
    return settings


def evaluation_sets(config: DictConfig) -> dict[str, Sequence[VideoRecord]]:
    """The videos of every entry of data.eval that is not null."""
    return {name: build_part(config, f"data.eval.{name}") for name in _entries(config, "eval")}


def evaluation_protocols(config: DictConfig) -> list[Protocol]:
    """What scores the evaluation sets: the entries of data.protocols that are not null, or LGRNet's protocol."""
    names = _entries(config, "protocols")
    return [build_part(config, f"data.protocols.{name}") for name in names] or [LGRNetProtocol()]


def evaluation_options(config: DictConfig) -> dict[str, Any]:
    """How to evaluate: arguments of `lgrnet.engine.evaluate.evaluate_sets` that the data section gives.

    Raises ConfigError for a value that means nothing, DataError for attributes that cannot be read.
    """
    size = input_facts(config).get("input_size")
    if size is None:
        raise ConfigError("config section data has no size; it must be [height, width] of the model's input")
    options: dict[str, Any] = {"size": tuple(size), "protocols": evaluation_protocols(config)}
    options |= {"resize": config.data.get("resize") or "bilinear", "instances": config.data.get("instances")}
    try:
        as_size(options["size"])
        check_eval_rule(options["resize"])
        if options["instances"] is not None:
            AveragePrecision(options["instances"])
    except ValueError as error:
        raise ConfigError(f"config section data: {error}") from error
    if config.data.get("attributes"):
        if not isinstance(config.data.attributes, str):
            raise ConfigError(f"data.attributes is {config.data.attributes}; it must be the path of a table, or null")
        options["attributes"] = read_attributes(config.data.attributes)
    return options


def check_evaluation(
    settings: TrainSettings, sets: Mapping[str, Sequence[VideoRecord]], protocols: Sequence[Protocol]
) -> None:
    """What would end a training only at its first evaluation.

    Raises DataError for a set without annotated frames, ConfigError when no evaluation gives train.metric.
    """
    if not sets or not (settings.eval_every or settings.eval_first or settings.eval_last):
        return
    for name, records in sets.items():
        check_set(name, records)
    given = protocols[0].metrics
    if settings.metric not in (*given, *(f"{metric}_{name}" for name in sets for metric in given)):
        raise ConfigError(
            f"train.metric is {settings.metric!r}, which no evaluation gives; it must be one of {', '.join(given)} "
            f"(the first of data.protocols), or of one set, such as {given[0]}_{next(iter(sets))}"
        )
    plain = next(metric for metric in given if settings.metric in (metric, *(f"{metric}_{name}" for name in sets)))
    if plain in LOW_IS_GOOD:
        raise ConfigError(
            f"train.metric is {settings.metric!r}, which is good when low; the best checkpoint is the one with the "
            f"highest: choose one of {', '.join(metric for metric in given if metric not in LOW_IS_GOOD)}"
        )


def _entries(config: DictConfig, key: str) -> list[str]:
    """The names below data.<key>; null takes an entry out."""
    return [name for name, node in (config.data.get(key) or {}).items() if node is not None]
