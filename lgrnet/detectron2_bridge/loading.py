"""Names of tensors in files are those of our models; what does not fit a model is an error.

detectron2's checkpointer loads what fits and only logs what does not, so weights of another model would leave this
one as it was. The hooks stand in state_dict and load_state_dict, which every checkpointer calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lgrnet.checkpoint.checkpointer import CheckpointError
from lgrnet.checkpoint.official import backbone_to_ours

_INNER = "model."
_CLASSIFIERS = ("head", "fc")
_COUNTER = "num_batches_tracked"
_SHOWN = 3


def use_model_names(module: nn.Module) -> None:
    """Makes the state dict of `module` that of its part `model`, in both directions, and checks what is loaded."""
    module.register_state_dict_post_hook(_give_names)
    module.register_load_state_dict_pre_hook(_take_names)


def fitted(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a state dict is loaded into a model: all of it, or the weights of its backbone alone.

    The backbone's weights may have the model's names for them or those of official ImageNet files, whose classifier
    is left out. Raises CheckpointError, with how many names fit and the first that do not, for anything else.
    """
    own = model.state_dict()
    # Counters of batch norms are not in old files and not in frozen norms, and nothing depends on them.
    given = {name: tensor for name, tensor in given.items() if name in own or not name.endswith(_COUNTER)}
    needed = {name for name in own if not name.endswith(_COUNTER)}
    fits = {name for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
    if needed <= fits and fits == given.keys():
        return dict(given)
    path, backbone = next(((p, m) for p, m in model.named_modules() if p.split(".")[-1] == "backbone"), ("", None))
    if backbone is not None:
        parts = {name for name in own if name.startswith(f"{path}.")}
        others = given.keys() - fits
        if needed & parts <= fits <= parts and all(_is_classifier(name) for name in others):
            return {name: given[name] for name in fits}
        translated = backbone_to_ours(given, backbone.net.state_dict())
        if fits.isdisjoint(own) and translated.complete:
            return {f"{path}.net.{name}": tensor for name, tensor in translated.state.items()}
    raise CheckpointError(_mismatch(model, own, given, fits))


def _give_names(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    inner = prefix + _INNER
    for name in [name for name in state if name.startswith(inner)]:
        state[prefix + name[len(inner) :]] = state.pop(name)


def _take_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *details: Any) -> None:
    given = {name[len(prefix) :]: state.pop(name) for name in list(state) if name.startswith(prefix)}
    state.update({f"{prefix}{_INNER}{name}": tensor for name, tensor in fitted(module.model, given).items()})


def _is_classifier(name: str) -> bool:
    return any(part in _CLASSIFIERS for part in name.split("."))


def _mismatch(model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor], fits: set[str]) -> str:
    missing, unknown = [name for name in own if name not in fits], [name for name in given if name not in own]
    found = f"{len(fits)} of its {len(own)} tensors are there in their shapes"
    if missing:
        found += f"; not there, or of another shape: {_first(missing)}"
    if unknown:
        found += f"; not part of it: {_first(unknown)}"
    return (
        f"the weights do not fit {type(model).__name__}: {found}. Give the config that they were made with "
        "(MODEL.META_ARCHITECTURE, MODEL.NUM_CLASSES, MODEL.BACKBONE.NAME and the sections of the model), or weights "
        "of this model; ImageNet weights must be all of the backbone's"
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
