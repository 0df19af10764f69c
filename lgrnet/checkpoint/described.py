"""Models that are built from what their weights say, and models of a config with weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import nn

from lgrnet import __version__
from lgrnet.checkpoint.checkpointer import CheckpointError, load_state, load_weights, read_weights
from lgrnet.config import ConfigError, build, build_json, load_config

ALLOWED = (
    "lgrnet.models.lgrnet.LGRNet",
    "lgrnet.models.backbones.TimmBackbone",
    "lgrnet.models.backbones.MixTransformer",
    "lgrnet.models.backbones.ConvolutionalTransformer",
    "lgrnet.models.lgr_encoder.LGREncoder",
    "lgrnet.models.video_decoder.VideoDecoder",
    "lgrnet.models.segmenter.PerFrame",
    "lgrnet.models.plain_head.PlainHead",
    "lgrnet.models.ssformer.SSFormer",
    "lgrnet.models.still_decoders.ProgressiveLocalityDecoder",
    "lgrnet.models.still_decoders.SegFormerDecoder",
    "lgrnet.models.still_decoders.MultiLevelAggregationDecoder",
    "lgrnet.models.still_decoders.ProgressiveUpsamplingDecoder",
    "lgrnet.models.still_decoders.ParallelFusionHead",
    "lgrnet.models.svanet.SvANet",
    "lgrnet.models.deeplabv3.DeepLabV3",
    "lgrnet.models.resnet.ResNetBackbone",
)
"""What the metadata of a weights file may build."""

INPUT_FACTS = ("input_size", "input_resize")
"""Metadata that become attributes of a loaded model."""

_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError)
"""What a class may raise for arguments that it does not know or that mean nothing."""

PACKAGED = {"phantom": "lgrnet_phantom_b0.safetensors"}
"""Weights that come with the package."""


def load(weights: str | Path) -> nn.Module:
    """A model with its weights, in eval mode, built from the description in the file; no config is needed.

    weights  a .safetensors file, a checkpoint's folder, or "phantom", the small model that comes with the package.
    The model's `input_size` is the (height, width) that it was trained at, and its `input_resize` the rule by which
    frames come to that size (see `lgrnet.data.transforms.resize_for_eval`), where the file says so.

    Raises CheckpointError when the file does not fit or does not describe a model, ConfigError when it asks for
    anything but the package's models, or for one that this version of the package cannot build.
    """
    path = resolve(weights)
    state, metadata = read_weights(path)
    if "model" not in metadata:
        raise CheckpointError(
            f"weights {path} do not say which model they are for; use lgrnet.load_model(config_file, weights={path})"
        )
    model = _described(path, metadata)
    load_state(model, state, str(path), metadata)
    return _ready(model, {key: _fact(path, key, metadata[key]) for key in INPUT_FACTS if key in metadata})


def load_model(config_file: str | Path, weights: str | Path | None = None, overrides: Iterable[str] = ()) -> nn.Module:
    """The model of a config file, in eval mode, with random weights of the current seed or those of a file.

    weights    as in `load`; None keeps the initial weights
    overrides  "key=value" strings, for example "model.decoder.num_queries=20"

    Raises ConfigError for the config, CheckpointError for the weights.
    """
    config = load_config(config_file, overrides)
    model = build(config.model)
    if weights is not None:
        load_weights(model, resolve(weights))
    return _ready(model, input_facts(config))


def input_facts(config: DictConfig) -> dict[str, Any]:
    """What a weights file keeps of a config's data section: the size of the model's input and how frames come to it.

    Raises ConfigError for a size that is no list.
    """
    facts = {key: config.data.get(key.removeprefix("input_")) for key in INPUT_FACTS}
    if not isinstance(facts["input_size"], ListConfig | NoneType):
        raise ConfigError(f"data.size is {facts['input_size']}; it must be [height, width] of the model's input")
    return {key: value if isinstance(value, str) else list(value) for key, value in facts.items() if value is not None}


def resolve(weights: str | Path) -> Path:
    """The path of weights: of a packaged file for its name ("phantom"), else what was given.

    Raises CheckpointError for anything but a path or a name.
    """
    if not isinstance(weights, str | Path) or not str(weights):
        raise CheckpointError(
            f"weights are {weights!r}; expected a .safetensors file, a checkpoint's folder, or {' or '.join(PACKAGED)}"
        )
    name = PACKAGED.get(str(weights))
    return Path(weights) if name is None else Path(__file__).parent / name


def _described(path: Path, metadata: Mapping[str, str]) -> nn.Module:
    """The model that a weights file describes, with random weights; the global generator stays as it is."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_json(metadata["model"], ALLOWED)
    except _REFUSALS as error:
        raise ConfigError(_words(path, metadata, str(error))) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(_words(path, metadata, "what they describe is no model"))
    return model


def _words(path: Path, metadata: Mapping[str, str], reason: str) -> str:
    return (
        f"lgrnet {__version__} cannot build the model that weights {path} describe (written by lgrnet "
        f"{metadata.get('version', 'of an unknown version')}): {reason}. Use that version, or a config that fits: "
        f"lgrnet.load_model(config_file, weights={path})"
    )


def _fact(path: Path, key: str, text: str) -> str | list[int]:
    """A fact of a file's metadata: a rule's name, or [height, width]. Raises CheckpointError for anything else."""
    with suppress(ValueError):
        match json.loads(text):
            case str() as rule if key == "input_resize":
                return rule
            case [int() as height, int() as width] if key == "input_size" and min(height, width) > 0:
                return [height, width]
    raise CheckpointError(f"weights {path}: their {key} is {text}, which means nothing; copy or download them again")


def _ready(model: nn.Module, facts: Mapping[str, Any]) -> nn.Module:
    for key, value in facts.items():
        setattr(model, key, value if isinstance(value, str) else tuple(value))
    return model.eval()
