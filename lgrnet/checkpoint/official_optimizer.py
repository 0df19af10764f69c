"""AdamW's moments of a published LGRNet checkpoint, for an optimizer of ours.

The published optimizer has a group for every parameter and knows it by its number. Numbers follow the order of
named_modules, which is that of the names in the checkpoint's own "model" entry without buffers; so the file itself says
which number is which name. Ours has one group for all parameters of equal settings (`lgrnet.engine.optim`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lgrnet.checkpoint.official import OfficialWeightsError, official_to_ours

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "loss_module.empty_weight", "loss_module._iter")


def optimizer_to_ours(checkpoint: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state_dict of `optimizer` with moments and step counts of a published checkpoint; load it to go on.

    checkpoint  as `read_checkpoint` gives it, with the entries "model" and "optimizer"
    model       our LGRNet, whose parameters `optimizer` holds; parameters of the checkpoint that it does not hold,
                because they are frozen, are left out

    Learning rates and all other settings stay those of `optimizer`: the place in the schedule is the caller's to set.
    Raises OfficialWeightsError for a checkpoint without optimizer, and for one of another model.
    """
    entries = _entries(checkpoint)
    parameters = dict(model.named_parameters())
    places = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    unfit, state = [], {}
    for official, entry in entries.items():
        name = official_to_ours(official)
        if name not in parameters:
            unfit.append(f"{official}, which the model has not")
        elif not _fits(entry, checkpoint["model"][official], parameters[name]):
            unfit.append(f"{official}, whose moments have another shape")
        elif entry and parameters[name] in places:
            moments = {k: v.reshape_as(parameters[name]) if _is_moment(v) else v for k, v in entry.items()}
            state[places[parameters[name]]] = moments
    known = {official_to_ours(official) for official in entries}
    unfit += [f"{name}, which the file has not" for name, p in parameters.items() if p in places and name not in known]
    if unfit:
        raise OfficialWeightsError(
            f"the optimizer of the checkpoint is that of another model: {len(unfit)} parameters do not fit, first "
            f"{'; '.join(unfit[:3])}. Build the model of the config that the checkpoint was trained with"
        )
    return {**optimizer.state_dict(), "state": state}


def _entries(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Published name -> what the published optimizer keeps of the parameter; empty where it made no step."""
    for key, parts in (("model", ()), ("optimizer", ("state", "param_groups"))):
        content = checkpoint.get(key)
        if not isinstance(content, Mapping) or any(part not in content for part in parts):
            held = ", ".join(map(str, list(checkpoint)[:5]))
            raise OfficialWeightsError(
                f"the checkpoint holds no {key} (it holds: {held}); expected a published ckpt.pth.tar, not bare weights"
            )
    names = [name for name in checkpoint["model"] if not name.endswith(_BUFFERS)]
    numbers = [number for group in checkpoint["optimizer"]["param_groups"] for number in group["params"]]
    if len(names) != len(numbers):
        raise OfficialWeightsError(
            f"the checkpoint's model has {len(names)} parameters, but its optimizer {len(numbers)}; expected as many"
        )
    state = checkpoint["optimizer"]["state"]
    return {name: state.get(number, {}) for name, number in zip(names, numbers, strict=True)}


def _fits(entry: Mapping[str, Any], weight: Tensor, parameter: nn.Parameter) -> bool:
    """Whether moments have the shape of the published weight, and as many numbers as our parameter.

    A published projection has an axis of size 1 that ours does not have.
    """
    shapes = {tuple(value.shape) for value in entry.values() if _is_moment(value)}
    return shapes <= {tuple(weight.shape)} and weight.numel() == parameter.numel()


def _is_moment(value: Any) -> bool:
    """A tensor of the parameter's shape, unlike the number of steps."""
    return isinstance(value, Tensor) and value.ndim > 0
