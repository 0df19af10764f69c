"""Weights of the published systems: their names in ours, and how their files are read.

A published LGRNet checkpoint, an ImageNet PVTv2 file and an ImageNet Res2Net file hold the tensors that our modules
hold, under other names. One table says which name is which; it is read in both directions, so that the way back is
never written twice. Files are read with `weights_only=True`: besides tensors only the NumPy types that hold the
published random states and metrics are let through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lgrnet.checkpoint.disk import is_web_page

# "#" stands for a number, a final "*" for the rest of the name; both sides hold them in the same order. First match
# wins, in either direction.
PVT = (
    ("block1.#.mlp.dwconv.dwconv.*", "stages.0.blocks.#.mlp.dwconv.*"),
    ("block2.#.mlp.dwconv.dwconv.*", "stages.1.blocks.#.mlp.dwconv.*"),
    ("block3.#.mlp.dwconv.dwconv.*", "stages.2.blocks.#.mlp.dwconv.*"),
    ("block4.#.mlp.dwconv.dwconv.*", "stages.3.blocks.#.mlp.dwconv.*"),
    ("block1.#.*", "stages.0.blocks.#.*"),
    ("block2.#.*", "stages.1.blocks.#.*"),
    ("block3.#.*", "stages.2.blocks.#.*"),
    ("block4.#.*", "stages.3.blocks.#.*"),
    ("patch_embed1.*", "patch_embed.*"),
    ("patch_embed2.*", "stages.1.downsample.*"),
    ("patch_embed3.*", "stages.2.downsample.*"),
    ("patch_embed4.*", "stages.3.downsample.*"),
    ("norm1.*", "stages.0.norm.*"),
    ("norm2.*", "stages.1.norm.*"),
    ("norm3.*", "stages.2.norm.*"),
    ("norm4.*", "stages.3.norm.*"),
)
_RES2NET = (("conv1.*", "conv1.*"), ("bn1.*", "bn1.*"), ("layer#.*", "layer#.*"))
_ENCODER_LAYER = (
    ("local_cnp.self_attn.q_linear.*", "propagation.attention.query.*"),
    ("local_cnp.self_attn.kv_linear.*", "propagation.attention.key_value.*"),
    ("local_cnp.self_attn.proj.*", "propagation.attention.output.*"),
    ("local_cnp.norm.*", "propagation.norm.*"),
    ("frame_query_cross_multiscale.multihead_attn.*", "gather.attention.*"),
    ("frame_query_cross_multiscale.norm.*", "gather.norm.*"),
    ("global_hiss.self_attn.#.homo.x_proj_weight", "scan.layers.#.scan.input_weight"),
    ("global_hiss.self_attn.#.homo.dt_projs_weight", "scan.layers.#.scan.dt_weight"),
    ("global_hiss.self_attn.#.homo.dt_projs_bias", "scan.layers.#.scan.dt_bias"),
    ("global_hiss.self_attn.#.homo.A_logs", "scan.layers.#.scan.log_decay"),
    ("global_hiss.self_attn.#.homo.Ds", "scan.layers.#.scan.skip"),
    ("global_hiss.self_attn.#.homo.conv2d.*", "scan.layers.#.scan.conv.*"),
    ("global_hiss.self_attn.#.homo.in_proj.*", "scan.layers.#.scan.in_proj.*"),
    ("global_hiss.self_attn.#.homo.out_norm.*", "scan.layers.#.scan.out_norm.*"),
    ("global_hiss.self_attn.#.homo.out_proj.*", "scan.layers.#.scan.out_proj.*"),
    ("global_hiss.self_attn.#.norm.*", "scan.layers.#.norm.*"),
    ("global_hiss.ffn.*", "scan.ffn.*"),
    ("multiscale_cross_query.multihead_attn.*", "distribute.attention.*"),
    ("multiscale_cross_query.norm.*", "distribute.norm.*"),
    ("self_attn.*", "deformable.attention.*"),
    ("norm1.*", "deformable.norm.*"),
    ("linear1.*", "ffn.linear1.*"),
    ("linear2.*", "ffn.linear2.*"),
    ("norm2.*", "ffn.norm.*"),
)
_PROJECTION = ("video_projs.multiscale_projs.res#.weight", "projections.res#.conv.weight")
_ENCODER = (
    _PROJECTION,
    ("video_projs.multiscale_projs.res#.norm.*", "projections.res#.norm.*"),
    ("transformer.level_embed", "level_embed"),
    ("transformer.encoder.frame_query_feats.*", "frame_queries.content.*"),
    ("transformer.encoder.frame_query_poses.*", "frame_queries.position.*"),
    *((f"transformer.encoder.layers.#.{a}", f"layers.#.{b}") for a, b in _ENCODER_LAYER),
    ("adapter_1.weight", "fpn.lateral.conv.weight"),
    ("adapter_1.norm.*", "fpn.lateral.norm.*"),
    ("layer_1.weight", "fpn.output.conv.weight"),
    ("layer_1.norm.*", "fpn.output.norm.*"),
)
_DECODER = (
    ("level_embeds.*", "level_embed.*"),
    ("cross_layers.#.multihead_attn.*", "layers.#.cross.attention.*"),
    ("cross_layers.#.norm.*", "layers.#.cross.norm.*"),
    ("self_layers.#.self_attn.*", "layers.#.self_attention.attention.*"),
    ("self_layers.#.norm.*", "layers.#.self_attention.norm.*"),
    ("ffn_layers.#.*", "layers.#.ffn.*"),
    ("temporal_query_poses.*", "queries.position.*"),
    ("temporal_query_feats.*", "queries.content.*"),
    ("temporal_query_norm.*", "norm.*"),
    ("query_mask.layers.#.*", "mask_embed.layers.#.*"),
    ("query_class.*", "class_head.*"),
)
_LGRNET = (
    *((f"video_backbone.image_homo.pvt_v2.{a}", f"backbone.net.{b}") for a, b in PVT),
    *((f"video_backbone.res2net.{a}", f"backbone.net.{b}") for a, b in _RES2NET),
    *((f"fusion_encoder.{a}", f"encoder.{b}") for a, b in _ENCODER),
    *((f"decoder.{a}", f"decoder.{b}") for a, b in _DECODER),
)
# Buffers of the published criterion, stored with its model. Ours are arguments of the criterion.
_LOSS_BUFFERS = ("decoder.loss_module.empty_weight", "decoder.loss_module._iter")
_NO_OBJECT_WEIGHT = 0.1

_WHERE_FROM = {
    "mit_": "the ImageNet weights of github.com/NVlabs/SegFormer (file {name}.pth)",
    "pvt_v2": "the release page of github.com/whai362/PVT (file {name}.pth)",
    "res2net": "the Res2Net-PretrainedModels project page (file res2net50_v1b_26w_4s-3cf99910.pth)",
    "resne": "torchvision's models (SvANet: resnet50-11ad3fa6.pth, the IMAGENET1K_V2 weights of resnet50)",
}


class OfficialWeightsError(ValueError):
    """A weights file of a published system is unusable; the message says why and what to do."""


@dataclass
class Translation:
    """What became of a state that was translated.

    state       the translated tensors
    missing     names that the model has and the file has not (in the model's naming)
    unexpected  names of the file that nothing in the model corresponds to
    reshaped    names of the file whose tensor changed shape, with both shapes (same numbers, an axis of size 1 less)
    misshapen   names of the model whose tensor has another size in the file, with both shapes
    dropped     names of the file that are accounted for but not needed (buffers of the published criterion)
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every name on both sides is accounted for."""
        return not (self.missing or self.unexpected or self.misshapen)

    def check_against(self, expected: Mapping[str, Tensor]) -> None:
        """Fills missing, unexpected and misshapen by comparing with a model's state_dict.

        BatchNorm's counters may be missing: old files lack them and nothing reads them.
        """
        self.missing += [k for k in expected if k not in self.state and not k.endswith("num_batches_tracked")]
        self.unexpected += [k for k in self.state if k not in expected]
        for name, tensor in self.state.items():
            if name in expected and expected[name].shape != tensor.shape:
                self.misshapen.append(f"{name}: {tuple(tensor.shape)}, the model has {tuple(expected[name].shape)}")

    def lines(self) -> list[str]:
        """The report, one line for each name that is not simply renamed."""
        kinds = ("missing", "unexpected", "misshapen", "reshaped", "dropped")
        return [f"{kind:10s} {name}" for kind in kinds for name in getattr(self, kind)]


def to_ours(official: Mapping[str, Tensor], expected: Mapping[str, Tensor] | None = None) -> Translation:
    """The state_dict of a published LGRNet in our names.

    official  the published state_dict (the entry "model" of its checkpoint)
    expected  our model's state_dict; where given, names and shapes are compared with it
    """
    result = Translation()
    for name, tensor in official.items():
        ours = official_to_ours(name)
        if name in _LOSS_BUFFERS:
            result.dropped.append(name)
        elif ours is None:
            result.unexpected.append(name)
        else:
            if _is_projection(ours) and tensor.dim() == 5 and tensor.shape[-1] == 1:
                # a published projection is a Conv3d of kernel 1, ours works per frame
                result.reshaped.append(f"{name}: {tuple(tensor.shape)} -> {tuple(tensor.shape[:4])}")
                tensor = tensor.squeeze(-1)  # [C, C_in, 1, 1]
            result.state[ours] = tensor
    if expected is not None:
        result.check_against(expected)
    return result


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our LGRNet state_dict in the published names, with the published criterion's two buffers added.

    Raises OfficialWeightsError naming the tensors for which the published model has no name.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        official = ours_to_official(name)
        if official is None:
            unknown.append(name)
            continue
        result[official] = tensor.unsqueeze(-1) if _is_projection(name) else tensor
    if unknown:
        raise OfficialWeightsError(
            f"{len(unknown)} tensors have no name in the published LGRNet, first {', '.join(unknown[:3])}; "
            "only models with a PVTv2 or Res2Net backbone can be written in its naming"
        )
    class_bias = state.get("decoder.class_head.bias")
    weight = torch.ones(2 if class_bias is None else len(class_bias))
    weight[-1] = _NO_OBJECT_WEIGHT
    result[_LOSS_BUFFERS[0]] = weight
    result[_LOSS_BUFFERS[1]] = torch.zeros(1)
    return result


def read_official(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a published file: LGRNet's `ckpt.pth.tar`, a `.pth` state_dict, or safetensors.

    Raises OfficialWeightsError as `read_checkpoint`, and for a file that holds no state_dict.
    """
    return _state_of(read_checkpoint(path), Path(path))


def read_checkpoint(path: str | Path) -> Any:
    """All that a published file holds; of LGRNet's `ckpt.pth.tar` a dict with "model", "optimizer" and more.

    Nothing in the file is run: only tensors, plain containers and the NumPy types of `allowed_types` are read.
    Raises OfficialWeightsError for a missing, damaged or refused file.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise OfficialWeightsError(f"weights file {path} {what}; give the path of a downloaded file")
    if is_web_page(path):
        raise OfficialWeightsError(f"{path} is a web page, not a download: use the link to the raw file")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with torch.serialization.safe_globals(allowed_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        # torch's own text advises to load without the check; what it refused is all that a user needs of it
        asked = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks to run {asked[1]}" if asked else "is no torch file, or holds objects of other types"
        raise OfficialWeightsError(
            f"{path} is refused: it {what}; a published file holds only tensors and numbers, get it again from its "
            "own project"
        ) from error
    except OfficialWeightsError:
        raise
    except (RuntimeError, OSError, EOFError, ValueError, LookupError) as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    # Names are translated where safetensors is not installed, too.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> OfficialWeightsError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OfficialWeightsError(f"{path} is damaged or no torch file ({reason[:200]}); download it again")


def load_backbone(model: nn.Module, path: str | Path) -> Translation:
    """Loads ImageNet weights into `model.backbone.net`; PVTv2 files may have the official names or timm's.

    The classifier of the file (head.*, fc.*) is dropped; everything else must fit, name by name and shape by shape.
    Raises OfficialWeightsError for a file that is missing (with the place to get it) or does not fit.
    """
    path, net = Path(path), model.backbone.net
    if not path.is_file():
        raise OfficialWeightsError(_missing_backbone(path, net))
    result = backbone_to_ours(read_official(path), net.state_dict())
    if not result.complete:
        raise OfficialWeightsError(
            f"{path} does not fit the backbone: {len(result.missing)} names missing, {len(result.unexpected)} "
            f"unexpected, {len(result.misshapen)} of another shape; first: {'; '.join(result.lines()[:3])}. "
            "Give the file of the backbone that the config names (model.backbone.name)"
        )
    net.load_state_dict(result.state | _counters(net, result.state), strict=True)
    return result


def backbone_to_ours(official: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Translation:
    """An ImageNet state_dict in the names of a backbone's own network.

    official  PVTv2 in its official or in timm's names, or any network in its own names
    expected  the network's state_dict
    """
    result = Translation()
    for name, tensor in official.items():
        if name.startswith(("head.", "fc.")) and name not in expected:
            result.dropped.append(name)
            continue
        renamed = None if name in expected else _BACKBONE_NAMES(name)
        result.state[renamed or name] = tensor
    result.check_against(expected)
    return result


def allowed_types() -> list[Any]:
    """What a published checkpoint holds besides tensors: NumPy arrays and scalars of its random states and metrics.

    NumPy 1 and 2 keep the two functions that rebuild them under different module names; files name either.
    """
    rebuild_array = np.empty(0).__reduce__()[0]
    rebuild_scalar = np.float64(0).__reduce__()[0]
    functions = [
        (function, f"numpy.{core}.multiarray.{name}")
        for function, name in ((rebuild_array, "_reconstruct"), (rebuild_scalar, "scalar"))
        for core in ("core", "_core")
    ]
    dtypes = {type(np.dtype(name)) for name in ("uint32", "int64", "float32", "float64")}
    return [*functions, np.ndarray, np.dtype, *dtypes]


def renamer(rules: tuple[tuple[str, str], ...], source: int) -> Callable[[str], str | None]:
    """A function from names on side `source` (0 or 1) of the rules to the other side's, None where there is none.

    rules  pairs as at the top of this module: "#" is a number, a final "*" the rest of the name, the first match wins
    """
    compiled = []
    for rule in rules:
        pattern = re.escape(rule[source]).replace(r"\#", r"(\d+)").replace(r"\*", r"(.+)")
        parts = iter(range(1, 10))
        target = re.sub(r"[#*]", lambda _, parts=parts: rf"\g<{next(parts)}>", rule[1 - source])
        compiled.append((re.compile(pattern), target))

    def rename(name: str) -> str | None:
        for pattern, target in compiled:
            match = pattern.fullmatch(name)
            if match:
                return match.expand(target)
        return None

    return rename


official_to_ours = renamer(_LGRNET, 0)
"""Our name of a tensor of the published LGRNet, None where there is none."""
ours_to_official = renamer(_LGRNET, 1)
"""The published LGRNet's name of one of our tensors, None where there is none."""
_BACKBONE_NAMES = renamer(PVT, 0)
_PROJECTION_NAME = re.compile(r"encoder\.projections\.res\d+\.conv\.weight")


def _is_projection(name: str) -> bool:
    return _PROJECTION_NAME.fullmatch(name) is not None


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The state_dict in what a file holds: itself, or its entry "model" or "state_dict"."""
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise OfficialWeightsError(f"{path} holds no state_dict (it holds: {held}); expected names with tensors")
    return dict(content)


def _counters(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BatchNorm's counters that an old file lacks, as the network has them."""
    return {k: v for k, v in net.state_dict().items() if k not in state and k.endswith("num_batches_tracked")}


def _missing_backbone(path: Path, net: nn.Module) -> str:
    name = getattr(net, "pretrained_cfg", {}).get("architecture", "")
    source = next((text for family, text in _WHERE_FROM.items() if name.startswith(family)), None)
    where = source.format(name=name) if source else "; ".join(t.format(name="pvt_v2_b2") for t in _WHERE_FROM.values())
    return (
        f"backbone weights {path} do not exist. Download them from {where} and put the file at that path, or give its "
        "path with train.backbone_weights=PATH; train.backbone_weights=null trains from random weights"
    )
