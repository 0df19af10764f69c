"""Whether a config agrees with what a weights file of lgrnet says of its model, beyond the shapes of its tensors."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pydoc import locate
from typing import Any

from detectron2.config import CfgNode

from lgrnet.checkpoint import resolve
from lgrnet.checkpoint.checkpointer import CheckpointError
from lgrnet.checkpoint.described import ALLOWED, INPUT_FACTS
from lgrnet.checkpoint.weights import read_weights
from lgrnet.detectron2_bridge.config import statistics
from lgrnet.detectron2_bridge.paths import SCHEME, TORCH_FILES, plain_path
from lgrnet.detectron2_bridge.weights import description
from lgrnet.models.segmenter import PIXEL_MEAN, PIXEL_STD

_HARMLESS = ("_backend", "chunk", "drop_path", "mask_seed", "scan_init", "pixel_mean", "pixel_std")
"""How keys end that change no prediction, or are compared by themselves."""


def disagreements(cfg: CfgNode) -> list[str]:
    """In words, where a config makes something else of the weights that its MODEL.WEIGHTS names by lgrnet:// than what
    they were trained for: input size and its rule, pixel statistics, settings of the model that have no tensors.

    None for other weights, and for files that do not describe their model. Raises CheckpointError for a file that is
    missing or damaged.
    """
    weights = cfg.MODEL.WEIGHTS.partition("?")[0]
    if not weights.startswith(SCHEME) or plain_path(weights).endswith(TORCH_FILES):
        return []
    metadata, found = read_weights(resolve(plain_path(weights)))[1], []
    for key, given in zip(INPUT_FACTS, (list(cfg.INPUT.CLIP.SIZE), cfg.INPUT.CLIP.RESIZE), strict=True):
        told = _value(metadata.get(key))
        if told is not None and told != given:
            found.append(f"INPUT.CLIP.{key.removeprefix('input_').upper()} is {given}, they were trained at {told}")
    theirs, ours = _value(metadata.get("model")), _value(description(cfg))
    if theirs is None:
        return found
    for (name, given), of_kind in zip(statistics(cfg).items(), (PIXEL_MEAN, PIXEL_STD), strict=True):
        told = theirs.get(name) or of_kind
        if max(abs(a - b) for a, b in zip(told, given, strict=True)) > 1e-4:
            shown = [round(255 * value, 3) for value in told]
            found.append(f"MODEL.{name.upper()} is {list(cfg.MODEL[name.upper()])}, theirs is {shown} (RGB)")
    if ours is not None:
        found += [f"{key} is {given}, theirs is {told}" for key, told, given in _differences(theirs, ours)]
    return found


def _value(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"what the weights say of themselves is no JSON ({error}); get them again") from error


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, their value, ours) where two described parts differ; what one does not say is the part's default."""
    defaults = _defaults(theirs.get("_target_", ""))
    for key in dict.fromkeys((*theirs, *ours)):
        told, given = theirs.get(key, defaults.get(key)), ours.get(key, defaults.get(key))
        name = f"{above}{key}".replace("_target_", "kind")
        if isinstance(told, Mapping) and isinstance(given, Mapping):
            yield from _differences(told, given, f"{name}.")
        elif not key.endswith(_HARMLESS) and _plain(told) != _plain(given):
            yield name, told, given


def _defaults(target: str) -> Mapping[str, Any]:
    """The defaults of one of the package's parts."""
    kind = locate(target) if target in ALLOWED else None
    return {} if kind is None else {name: value.default for name, value in inspect.signature(kind).parameters.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
