"""Weights of SvANet and of the DeepLabV3 it is compared with: their names in ours, both ways, in the published order.

The published state_dicts have the prefixes `Encoder.` and `SegHead.`; ours belong to a PerFrame around an SvANet or a
DeepLabV3. No weights of SvANet are published; the names are those that its release gives to a state_dict. Its ImageNet
backbone is torchvision's, whose names our backbone has itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from lgrnet.checkpoint.official import OfficialWeightsError, Translation, renamer

_NET = "net"
_STAGES = 5
_WRAPPED = "module."
Rules = tuple[tuple[str, str], ...]


def _put(official: str, ours: str, rules: Rules) -> Rules:
    """The rules of a part at its place in both models."""
    return tuple((f"{official}.{a}", f"{ours}.{b}") for a, b in rules)


def _unit(official: str, ours: str) -> Rules:
    """A convolution with batch norm."""
    return ((f"{official}.Conv.*", f"{ours}.conv.*"), (f"{official}.Bn.*", f"{ours}.norm.*"))


def _bare(official: str, ours: str) -> Rules:
    """A convolution alone."""
    return ((f"{official}.Conv.*", f"{ours}.*"),)


def _channel_attention(official: str, ours: str) -> Rules:
    """Monte Carlo attention numbers its convolutions, squeeze and excitation names them."""
    monte_carlo = *_bare("0", "reduce"), *_bare("1", "expand")
    squeeze = *_bare("fc1", "fc1"), *_bare("fc2", "fc2")
    return _put(f"{official}.SELayer", ours, (*monte_carlo, *squeeze))


_BLOCK = (
    *(rule for n in (1, 2, 3) for rule in ((f"Conv{n}.Conv.*", f"conv{n}.*"), (f"Conv{n}.Bn.*", f"bn{n}.*"))),
    ("Downsample.Conv.*", "downsample.0.*"),
    ("Downsample.Bn.*", "downsample.1.*"),
)
_RESNET = (
    ("Conv1.Conv.*", "conv1.*"),
    ("Conv1.Bn.*", "bn1.*"),
    *_put("Layer1.1.#", "layer1.#", _BLOCK),
    *_put("Layer#.#", "layer#.#", _BLOCK),
)
_FORMER = (
    *_unit("LocalRep.0", "local"),
    *_channel_attention("LocalRep.1", "attention"),
    *_bare("LocalRep.2", "reduce"),
    ("GlobalRep.#.PreNormAttn.0.*", "transformer.#.attention_norm.*"),
    *_bare("GlobalRep.#.PreNormAttn.1.qkv_proj", "transformer.#.attention.query_key_value"),
    *_bare("GlobalRep.#.PreNormAttn.1.out_proj", "transformer.#.attention.output"),
    ("GlobalRep.#.PreNormFfn.0.*", "transformer.#.ffn_norm.*"),
    *_bare("GlobalRep.#.PreNormFfn.1", "transformer.#.ffn.0"),
    *_bare("GlobalRep.#.PreNormFfn.3", "transformer.#.ffn.2"),
    ("GlobalRep.#.*", "transformer.#.*"),
    *_unit("ConvProj", "project"),
)
_BRANCH = (
    *_unit("Bottleneck.0", "bottleneck.expand"),
    *_unit("Bottleneck.1", "bottleneck.spatial"),
    *_channel_attention("Bottleneck.2", "bottleneck.attention"),
    *_unit("Bottleneck.3", "bottleneck.project"),
    *_put("ViTLayer", "former", _FORMER),
)
_PAIR = *_unit("Conv.0", "0"), *_unit("Conv.1", "1")
_PATH = (
    *(rule for n in range(1, _STAGES) for rule in _put(f"Conv{n}", f"steps.{n - 1}", _PAIR)),
    *(rule for n in range(1, _STAGES + 1) for rule in _bare(f"Squeeze{n}", f"gate.squeezes.{n - 1}")),
)
_PYRAMID = (
    *(
        rule
        for n in range(4)
        for rule in ((f"Convs.{n}.Conv.*", f"convs.{n}.0.*"), (f"Convs.{n}.Bn.*", f"convs.{n}.1.*"))
    ),
    ("Convs.4.AsppPool.conv_1x1.Conv.*", "convs.4.1.*"),
    ("Convs.4.AsppPool.conv_1x1.Bn.*", "convs.4.2.*"),
    ("Project.Conv.*", "project.0.*"),
    ("Project.Bn.*", "project.1.*"),
)


def _link(number: int) -> Rules:
    """The decoder's step `number` (from 1, coarsest first)."""
    up = (rule for n in range(3) for rule in _unit(f"TPConv.{n}", f"up.{n}"))
    ours = f"links.{number - 1}"
    return (
        *_put(f"UpLink{number}", ours, tuple(up)),
        *_put(f"CatLinkConv{number}", f"{ours}.join", _PAIR),
        *_put(f"ViTLayer{number}", f"{ours}.former", _FORMER),
    )


_RULES = (
    *_put("Encoder", f"{_NET}.backbone.net", _RESNET),
    *(rule for n in range(1, _STAGES + 1) for rule in _put(f"SegHead.ConvB{n}", f"{_NET}.branches.{n - 1}", _BRANCH)),
    *(
        rule
        for source in range(1, _STAGES)
        for target in range(source + 1, _STAGES + 1)
        for rule in _put(f"SegHead.Convr{source}{target}", f"{_NET}.guidance.paths.{source - 1}_to_{target - 1}", _PATH)
    ),
    *(rule for n in range(1, _STAGES) for rule in _put("SegHead.LinkHead", f"{_NET}.decoder", _link(n))),
    *_put("SegHead.Aspp.aspp_layer", f"{_NET}.context", _PYRAMID),
    *_bare("SegHead.Classifier.Classifier", f"{_NET}.classifier"),
)
official_to_ours = renamer(_RULES, 0)
"""Our name of a tensor of the published SvANet, None where there is none."""
ours_to_official = renamer(_RULES, 1)
"""The published SvANet's name of one of our tensors, None where there is none."""


def is_svanet(state: Mapping[str, Tensor]) -> bool:
    """Whether our state_dict is of a PerFrame around an SvANet or DeepLabV3, whose published names are known here."""
    return f"{_NET}.context.project.0.weight" in state


def to_ours(official: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None) -> Translation:
    """A published state_dict in our names.

    official  of SvANet, with any options of its release that we have, or of its DeepLabV3; where every name begins with
              "module.", as DataParallel saves it, that is taken off
    expected  our model's state_dict; where given, names and shapes are compared with it
    """
    result = Translation()
    wrapped = all(name.startswith(_WRAPPED) for name in official)
    for name, tensor in official.items():
        if wrapped:
            name = name.removeprefix(_WRAPPED)
        ours = official_to_ours(name)
        if ours is None:
            result.unexpected.append(name)
        else:
            result.state[ours] = tensor
    if expected is not None:
        result.check_against(expected)
    return result


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state_dict in the published names and in the published order, which the release's own loaders go by.

    Raises OfficialWeightsError naming the tensors for which the published model has no name.
    """
    named = {name: ours_to_official(name) for name in state}
    unknown = [name for name, official in named.items() if official is None]
    if unknown:
        raise OfficialWeightsError(
            f"{len(unknown)} tensors have no name in the published SvANet, first {', '.join(unknown[:3])}; only a "
            "PerFrame around an SvANet or a DeepLabV3 with a ResNet backbone can be written in its naming"
        )
    return {named[name]: state[name] for name in sorted(state, key=lambda name: _place(named[name]))}


_PATH_PLACE = re.compile(r"SegHead\.Convr(\d)(\d)\.(Conv|Squeeze)(\d)\.")
_BRANCH_PLACE = re.compile(r"SegHead\.ConvB(\d)\.")


def _place(official: str) -> tuple[int | str, ...]:
    """Where a name stands: each branch is followed by its paths, each path's convolutions alternate."""
    branch, path = _BRANCH_PLACE.match(official), _PATH_PLACE.match(official)
    if branch:
        return 1, int(branch[1]), 0
    if path:
        source, target, kind, number = path.groups()
        return 1, int(source), int(target), int(number), kind
    head = official.split(".")[1]
    return (("LinkHead", "Aspp", "Classifier").index(head) + 2,) if official.startswith("SegHead.") else (0,)
