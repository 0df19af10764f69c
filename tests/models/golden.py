"""LGRNet in the published settings with the golden weights, and comparison of tensors with the golden ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lgrnet.checkpoint.official import to_official, to_ours
from lgrnet.layers.mask_head import published_masks
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.structures import SegOutput

FOLDER = Path(__file__).resolve().parents[1] / "golden"
SETTINGS = {
    "sunseg_pvt": {"backbone": "pvt_v2_b2", "drop_path": 0.1, "dim": 64},
    "fibroid_pvt": {"backbone": "pvt_v2_b2", "drop_path": 0.1, "dim": 64, "dilation": 2, "gather_mask": True},
    "sunseg_res": {"backbone": "res2net50d", "drop_path": 0.0, "dim": 128},
}
NOT_TENSORS_OF_THE_MODEL = {"meta", "input.videos01", "input.hilbert_curve", "video_projs.res2"}


def seed_weights():
    """The module that makes the golden weights from names and shapes."""
    spec = importlib.util.spec_from_file_location("seed_weights", FOLDER / "seed_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(name: str, drop_path: float | None = None) -> LGRNet:
    """The model of a published config, with random weights."""
    settings = dict(SETTINGS[name])
    published_rate = settings.pop("drop_path")
    rate = published_rate if drop_path is None else drop_path
    backbone = TimmBackbone(settings.pop("backbone"), drop_path=rate)
    return LGRNet(backbone, partial(LGREncoder, **settings), VideoDecoder(dim=settings["dim"]))


def golden_model(name: str, drop_path: float | None = None) -> LGRNet:
    """The model of a published config with its golden weights, in eval mode."""
    model = build(name, drop_path)
    official = to_official(model.state_dict())
    state = to_ours(seed_weights().seeded_state_dict(official), model.state_dict()).state
    model.load_state_dict(state, strict=True)
    return model.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, as a share of the golden tensor's largest value."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {tuple(ours.shape)}, golden {tuple(theirs.shape)}")
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()


def taps(model: LGRNet, frames: Tensor) -> tuple[dict[str, Tensor], SegOutput]:
    """Every intermediate tensor of a forward pass, by its golden name and in its golden layout, and the output."""
    seen: dict[str, Tensor] = {}
    handles = [module.register_forward_hook(hook) for module, hook in _hooks(model, seen)]
    with torch.no_grad():
        features = model.features(model.normalise(frames))
        encoded = model.encoder(features)
        output = model.decoder(encoded)
    for handle in handles:
        handle.remove()
    seen.update({f"backbone.{k}": v.transpose(1, 2) for k, v in features.items()})
    seen.update({f"encoder_out.{k}": v.transpose(1, 2) for k, v in encoded.items()})
    for i, layer in enumerate(output.layers):
        masks = torch.nn.functional.interpolate(layer.mask_logits.flatten(0, 1), scale_factor=4, mode="bilinear")
        seen[f"dec_out{i}.pred_masks"] = masks.unflatten(0, (frames.shape[0], -1)).transpose(1, 2)
        scores = layer.class_logits.softmax(-1)
        seen[f"dec_out{i}.pred_class"] = scores[:, None].expand(-1, frames.shape[1], -1, -1)
    return seen, output


def frames_of(golden: Mapping[str, object]) -> Tensor:
    """The frames [B, T, 3, H, W] of a golden case; small files have them by rule, not by value.

    Raises ValueError for a padded case without frames, since the rule does not know of padding.
    """
    if "input.videos01" in golden:
        return golden["input.videos01"]
    meta = golden["meta"]
    if meta.get("orig") is not None:
        raise ValueError(f"case {meta['case']} is padded, but its file has no input.videos01; store the frames in it")
    shape = (meta["B"], meta["T"], 3, meta["H"], meta["W"])
    return torch.from_numpy(seed_weights().seeded_input(f"video_{meta['case']}", shape, "uniform"))


def pairs(model: LGRNet, frames: Tensor, golden: Mapping[str, object]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, ours, published) of every tensor of a golden case that is one of the model.

    Of sampled masks only the places are given where the logit is not within rounding of 0. Raises ValueError for a
    name that is not known.
    """
    seen, output = taps(model, frames)
    for name, expected in golden.items():
        layer = name.partition(".")[0]
        whole, _, step = name.partition("_stride")  # "<name>_stride8" is every eighth row and column
        if whole in seen:
            yield name, seen[whole][..., :: int(step), :: int(step)] if step else seen[whole], expected
        elif name.endswith("attn_logits"):
            logits = output.layers[int(layer[3:])].mask_logits.transpose(1, 2).flatten(0, 1)
            yield name, nn.functional.interpolate(logits, size=expected.shape[-2:], mode="bilinear"), expected
        elif name.endswith("attn_mask_raw"):
            index = int(layer[3:])
            shape = seen["encoder_out." + ("res5", "res4", "res3")[index % 3]].shape[-2:]
            yield name, model.decoder.low(output.layers[index].mask_logits, shape)[:, 0], expected
        elif name == "sample.pred_masks":
            length, size = len(expected), expected.shape[-2:]  # without padding
            ours = published_masks(output.mask_logits[0, :, :length], size, size).transpose(0, 1).to(expected.device)
            certain = seen["dec_out3.pred_masks"][0, :length, :, : size[0], : size[1]].abs() > 1e-5
            yield name, ours[certain], expected[certain]
        elif name == "sample.pred_class":
            yield name, seen["dec_out3.pred_class"][0, : len(expected)], expected
        elif name not in NOT_TENSORS_OF_THE_MODEL and "margin" not in name and "sample.video" not in name:
            raise ValueError(
                f"golden tensor {name} is not known; say in tests/models/golden.py what it is of the model"
            )


def _hooks(model: LGRNet, seen: dict[str, Tensor]) -> Iterator[tuple[nn.Module, Callable]]:
    """(module, hook) pairs; each hook stores what its module returned, in the golden layout."""

    def store(name, layout):
        return lambda _module, _inputs, out: seen.__setitem__(name, layout(out))

    def queries(x):  # [B, T, N, C] -> [N, B*T, C]
        return x.flatten(0, 1).transpose(0, 1)

    def first(x):
        return x.transpose(0, 1)

    for name, projection in model.encoder.projections.items():
        yield projection, store(f"video_projs.{name}", lambda x: x.transpose(1, 2))
    for i, layer in enumerate(model.encoder.layers):
        yield layer.propagation, store(f"enc{i}.local_cnp", lambda x: x.flatten(0, 1))
        yield layer.gather, store(f"enc{i}.query_cross", first)
        for j, block in enumerate(layer.scan.layers):
            yield block.scan, store(f"enc{i}.scan{j}.homo", lambda x: x)
            yield block, store(f"enc{i}.scan{j}.queries", queries)
        yield layer.scan, store(f"enc{i}.hiss", queries)
        yield layer.distribute, store(f"enc{i}.distribute", first)
        yield layer.deformable.attention, store(f"enc{i}.deform", lambda x: x)
        yield layer, store(f"enc{i}.src", lambda x: x[0].flatten(0, 1))
        yield layer, store(f"enc{i}.queries", lambda x: queries(x[1]))
    for i, layer in enumerate(model.decoder.layers):
        yield layer.cross.norm, store(f"dec{i}.cross", first)
        yield layer.self_attention, store(f"dec{i}.self", first)
        yield layer.ffn, store(f"dec{i}.ffn", first)
