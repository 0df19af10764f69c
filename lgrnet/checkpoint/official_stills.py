"""Weights of SSFormer, of its ablation and of its reproduction study: their names in ours, both ways.

The published state_dicts have the prefixes `backbone.` and `decode_head.`; ours belong to a PerFrame around an
SSFormer. Which decoder and which backbone a state is of is read from our names, since the published ones mean
different things in different models. Some published decoders hold layers that nothing uses: these names are known,
dropped on the way to ours, and added with fresh values on the way back, so that a strict loader finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lgrnet.checkpoint.official import PVT, OfficialWeightsError, Translation, renamer

_HEAD, _NET, _DECODER = "decode_head", "net.backbone.net", "net.decoder"
_LEVELS = ("res2", "res3", "res4", "res5")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
Rules = tuple[tuple[str, str], ...]


def _conv_norm(official: str, ours: str) -> Rules:
    return ((f"{official}.conv.*", f"{ours}.conv.*"), (f"{official}.bn.*", f"{ours}.norm.*"))


def _each_level(official: str, ours: str) -> Rules:
    """A rule for each level; {i} and {n} are its number from 0 and from 1, {level} its name."""
    return tuple(
        (official.format(i=i, n=i + 1), ours.format(level=level, i=i, n=i + 1)) for i, level in enumerate(_LEVELS)
    )


@dataclass(frozen=True)
class _Decoder:
    """One kind of decoder.

    mark   one of its names in ours, without prefix; no other kind has it
    rules  published name -> ours, both without prefix, as in lgrnet.checkpoint.official
    dead   the state_dict of its unused layers, of our state_dict
    """

    mark: str
    rules: Rules
    dead: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = lambda state: {}


def _unused_fusions(state: Mapping[str, Tensor], names: Iterable[str], like: str, inputs: int) -> dict[str, Tensor]:
    """Unused 1x1 fusions of `inputs` times the width of the layer `like`."""
    weight = state[f"{_DECODER}.{like}"]
    width = weight.shape[0]
    fresh = (torch.ones(width), torch.zeros(width), torch.zeros(width), torch.ones(width), torch.tensor(0))
    dead = {}
    for name in names:
        dead[f"{_HEAD}.{name}.conv.weight"] = torch.zeros(width, inputs * width, 1, 1)
        dead |= {f"{_HEAD}.{name}.bn.{part}": value.clone() for part, value in zip(_NORM, fresh, strict=True)}
    return dead


def _unused_prediction(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PUP keeps MLA's last layer: 3x3 over 4 * 128 channels."""
    outputs = state[f"{_DECODER}.classes.weight"].shape[0]
    return {
        f"{_HEAD}.linear_pred.weight": torch.zeros(outputs, 512, 3, 3),
        f"{_HEAD}.linear_pred.bias": torch.zeros(outputs),
    }


_DECODERS = {
    "progressive locality": _Decoder(
        "emphasis.res2.0.weight",
        (
            *_each_level("linear_c{n}.proj.*", "emphasis.{level}.*"),
            *_conv_norm("linear_fuse34", "steps.res4"),
            *_conv_norm("linear_fuse2", "steps.res3"),
            *_conv_norm("linear_fuse1", "steps.res2"),
            ("linear_pred.*", "classes.*"),
        ),
        lambda state: _unused_fusions(state, ("linear_fuse",), "emphasis.res2.0.weight", 4),
    ),
    "SegFormer": _Decoder(
        "fusion.conv.weight",
        (
            *_each_level("linear_c{n}.proj.*", "projections.{level}.*"),
            *_conv_norm("linear_fuse", "fusion"),
            ("linear_pred.*", "classes.*"),
        ),
        lambda state: (
            _unused_fusions(state, ("linear_fuse34", "linear_fuse2", "linear_fuse1"), "fusion.conv.weight", 2)
            # the study has two outputs and no unused layers
            if state[f"{_DECODER}.classes.weight"].shape[0] == 1
            else {}
        ),
    ),
    "multi-level aggregation": _Decoder(
        "branches.res2.0.0.weight",
        (
            *_each_level("linear_c{n}.proj.0.*", "branches.{level}.0.0.*"),
            *_each_level("linear_c{n}.proj.1.*", "branches.{level}.0.1.*"),
            *_each_level("linear_c{n}.proj.3.*", "branches.{level}.1.0.*"),
            *_each_level("linear_c{n}.proj.4.*", "branches.{level}.1.1.*"),
            ("linear_pred.*", "classes.*"),
        ),
    ),
    "progressive upsampling": _Decoder(
        "convs.0.weight",
        (("conv_4.*", "classes.*"), ("conv_#.*", "convs.#.*"), ("syncbn_fc_#.*", "norms.#.*")),
        _unused_prediction,
    ),
    "parallel fusion": _Decoder(
        "fine.0.conv.weight",
        (
            *_each_level("layers.{i}.0.*", "projections.{level}.*"),
            *_conv_norm("conv_fuse_12", "fine.0"),
            *_conv_norm("conv1", "fine.1"),
            *_conv_norm("conv_fuse", "all.0"),
            *_conv_norm("conv2", "all.1"),
            ("Conv2d.*", "classes.*"),
        ),
    ),
}


def is_still(state: Mapping[str, Tensor]) -> bool:
    """Whether our state_dict is of a model whose published names are known here."""
    return _decoder_of(state) is not None


def to_ours(official: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Translation:
    """A published state_dict in our names.

    official  of SSFormer-S or -L, of its ablation, or of the reproduction study
    expected  the state_dict of our model; it says which decoder and backbone the names are of, and names and shapes
              are compared with it

    Raises OfficialWeightsError for a model of another kind.
    """
    rules, dead = _names(expected)
    rename, result = renamer(rules, 0), Translation()
    for name, tensor in official.items():
        ours = rename(name)
        if name in dead:
            result.dropped.append(name)
        elif ours is None:
            result.unexpected.append(name)
        else:
            result.state[ours] = tensor
    result.check_against(expected)
    return result


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state_dict in the published names, with fresh values for the layers that the published model does not use.

    Raises OfficialWeightsError for a model of another kind, or naming the tensors without a published name.
    """
    rules, dead = _names(state)
    rename = renamer(rules, 1)
    named = {name: rename(name) for name in state}
    unknown = [name for name, official in named.items() if official is None]
    if unknown:
        raise OfficialWeightsError(
            f"{len(unknown)} tensors have no published name, first {', '.join(unknown[:3])}; only models with a mix "
            "transformer or a PVTv2 can be written in the published naming"
        )
    return {named[name]: tensor for name, tensor in state.items()} | dead


def _names(state: Mapping[str, Tensor]) -> tuple[Rules, dict[str, Tensor]]:
    """The rules for a model with our state_dict, and its unused published layers."""
    decoder = _decoder_of(state)
    if decoder is None:
        raise OfficialWeightsError(
            "the model is no PerFrame around an SSFormer with a published decoder, so its names have no published "
            f"counterpart; its first tensors are {', '.join(list(state)[:3])}"
        )
    timm = any(name.startswith(f"{_NET}.stages.") for name in state)
    backbone = PVT if timm else (("block#.*", "block#.*"), ("patch_embed#.*", "patch_embed#.*"), ("norm#.*", "norm#.*"))
    rules = (
        *((f"backbone.{a}", f"{_NET}.{b}") for a, b in backbone),
        *((f"{_HEAD}.{a}", f"{_DECODER}.{b}") for a, b in decoder.rules),
    )
    return rules, decoder.dead(state)


def _decoder_of(state: Mapping[str, Tensor]) -> _Decoder | None:
    return next((kind for kind in _DECODERS.values() if f"{_DECODER}.{kind.mark}" in state), None)
