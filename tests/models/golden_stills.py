"""SSFormer, its ablation and its reproduction study in the published settings, with the golden weights and inputs."""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lgrnet.checkpoint.official_stills import to_official, to_ours
from lgrnet.models.backbones import MixTransformer, TimmBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import (
    MultiLevelAggregationDecoder,
    ParallelFusionHead,
    ProgressiveLocalityDecoder,
    ProgressiveUpsamplingDecoder,
    SegFormerDecoder,
)

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "ssformer"
INPUTS = {"sq": (2, 352, 352), "rect": (1, 256, 384), "small": (1, 64, 96), "odd": (1, 75, 101)}
RECIPES = {"std02": None, "fanin": 1.0}
# largest error of a logit; a tanh instead of an exact GELU is 2e-8 in the first and 1e-4 in the second
TOLERANCE = {"std02": 3e-6, "fanin": 2e-5}

OFFICIAL = {
    "ssformer_S": ("mit_b2", partial(ProgressiveLocalityDecoder), "corners"),
    "ssformer_L": ("mit_b4", partial(ProgressiveLocalityDecoder), "corners"),
    "ssformer_add_b2": ("mit_b2", partial(ProgressiveLocalityDecoder, fusion="add"), "corners"),
    "official_sed_b2": ("mit_b2", partial(SegFormerDecoder), "corners"),
    "official_mla_b2": ("mit_b2", partial(MultiLevelAggregationDecoder), "input"),
    "official_pup_b2": ("mit_b2", partial(ProgressiveUpsamplingDecoder, square=True), "none"),
}
STUDY_BACKBONES = {f"MiT-B{i}": f"mit_b{i}" for i in range(6)} | {f"PVTv2-B{i}": f"pvt_v2_b{i}" for i in range(1, 6)}


def build(name: str) -> PerFrame:
    """A published model by the name of its golden file, with random weights."""
    if name in OFFICIAL:
        backbone, decoder, enlarge = OFFICIAL[name]
        return PerFrame(SSFormer(MixTransformer(backbone), decoder, enlarge), decision="sigmoid")
    _, head, size = name.split("_", 2)
    return study_model(study_backbone(size), head, wide=size[-1] not in "01")


def study_backbone(size: str) -> MixTransformer | TimmBackbone:
    """A backbone of the reproduction study, by the study's name: "MiT-B0", "PVTv2-B5"."""
    name = STUDY_BACKBONES[size]
    if size.startswith("MiT"):
        return MixTransformer(name, norm_eps=1e-5)
    return TimmBackbone(name, norm_eps=1e-5, mlp_ratios=(8, 8, 4, 4))


def study_model(backbone: MixTransformer | TimmBackbone, head: str, wide: bool) -> PerFrame:
    """A model of the study; its "PLD" is the head of an older model, its "SeD" SegFormer's."""
    kinds = {"PLD": ParallelFusionHead, "SeD": partial(SegFormerDecoder, channel_dropout=True)}
    decoder = partial(kinds[head], dim=768 if wide else 256, outputs=2)
    return PerFrame(SSFormer(backbone, decoder, "input"), decision="softmax")


@cache
def seed_weights():
    """The module that makes golden weights and inputs from names and shapes."""
    spec = importlib.util.spec_from_file_location("seed_weights_ssf", FOLDER / "seed_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=2)
def _seeded(name: str, recipe: str) -> PerFrame:
    model = build(name)
    official = seed_weights().seeded_state_dict(to_official(model.state_dict()), RECIPES[recipe])
    model.load_state_dict(to_ours(official, model.state_dict()).state, strict=True)
    return model


def golden_model(name: str, recipe: str = "fanin") -> PerFrame:
    """A published model with its golden weights, in eval mode; callers share it and must leave it as it is."""
    return _seeded(name, recipe).eval()


def golden_input(name: str) -> Tensor:
    """Normalised frames [batch, 3, H, W] of a golden case."""
    return torch.from_numpy(seed_weights().normalise(seed_weights().image_u8(name, *INPUTS[name])))


@torch.no_grad()
def logits_error(name: str, recipe: str, case: str, golden: np.ndarray) -> float:
    """The largest difference of a model's logits from golden ones; they must have the same shape and argmax."""
    logits = golden_model(name, recipe).net(golden_input(case)).numpy()
    if logits.shape != golden.shape:
        raise ValueError(f"logits have shape {logits.shape}, golden {golden.shape}")
    if logits.shape[1] > 1 and (logits.argmax(1) != golden.argmax(1)).any():
        raise ValueError(f"{(logits.argmax(1) != golden.argmax(1)).sum()} pixels have another class")
    return float(np.abs(logits - golden).max())


def module_by_published_name(model: PerFrame, name: str) -> torch.nn.Module | None:
    """Our module with the output of a published one, None where ours has no module of its own for it."""
    known = {"decode_head": "net.decoder"}
    state = model.state_dict()
    # "linear_c1" is a module around "linear_c1.proj", "linear_fuse1" one around a convolution and a norm
    for inner, cut in ((name, 0), (f"{name}.proj", 0), (f"{name}.conv", 1)):
        renamed = to_ours({f"{inner}.*": torch.zeros(0)}, state).state
        found = known.get(name) or next(iter(renamed), "").removesuffix(".*")
        found = found.rsplit(".", cut)[0]
        if found and found in dict(model.named_modules()):
            return model.get_submodule(found)
    return None
