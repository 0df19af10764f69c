"""SSFormer and its relatives beyond the published numbers: sizes, parameters, levels, weights files, clear errors."""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

import lgrnet
from lgrnet.checkpoint.official_stills import to_official
from lgrnet.checkpoint.weights import save_weights
from lgrnet.config import build as build_config
from lgrnet.config import builds, to_json
from lgrnet.data.transforms import resize_for_eval
from lgrnet.inference.predictor import Predictor
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import (
    MultiLevelAggregationDecoder,
    ParallelFusionHead,
    ProgressiveLocalityDecoder,
    ProgressiveUpsamplingDecoder,
    SegFormerDecoder,
)
from lgrnet.structures import ClipInfo, Targets
from tests.models.golden_stills import build, study_backbone, study_model

DEAD = 262_656
"""Parameters of the published `linear_fuse`, which nothing uses and ours does not have."""

LOCALITY = {"B0": 7_516_001, "B1": 18_527_681, "B2": 29_572_545, "B3": 49_448_385, "B4": 66_218_945, "B5": 86_819_265}
# megabytes of the files, as the study tells them
STUDY = {
    "MiT-B0": (3_846_770, 15.462749, 3_714_658, 14.926081),
    "MiT-B1": (13_809_874, 55.315293, 13_677_762, 54.778625),
    "MiT-B2": (28_530_898, 114.261413, 27_348_162, 109.518217),
    "MiT-B3": (48_406_738, 193.848261, 47_224_002, 189.104937),
    "MiT-B4": (65_177_298, 261.020605, 63_994_562, 256.277345),
    "MiT-B5": (85_777_618, 343.498715, 84_594_882, 338.755437),
    "PVTv2-B1": (14_154_450, 56.695803, 14_022_338, 56.159063),
    "PVTv2-B2": (29_184_466, 116.878643, 28_001_730, 112.135311),
    "PVTv2-B5": (86_704_594, 347.212393, 85_521_858, 342.469043),
}
ABLATION = {
    "ssformer_add_b2": (29_375_937, DEAD),
    "official_sed_b2": (30_890_945, 3 * (1536 * 768 + 2 * 768)),
    "official_mla_b2": (25_972_417, 0),
    "official_pup_b2": (27_153_346, 512 * 9 + 1),
}
DECODERS = (
    partial(ProgressiveLocalityDecoder, dim=16),
    partial(ProgressiveLocalityDecoder, dim=16, fusion="add"),
    partial(SegFormerDecoder, dim=16),
    partial(MultiLevelAggregationDecoder, dim=16),
    partial(ProgressiveUpsamplingDecoder, dim=16),
    partial(ParallelFusionHead, dim=16, outputs=2),
)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(decoder=DECODERS[0], **settings) -> SSFormer:
    torch.manual_seed(0)
    return SSFormer(MixTransformer("mit_b0", drop_path=0.0), decoder, **settings)


@pytest.mark.parametrize("size", STUDY)
def test_published_sizes(size, tmp_path):
    """Parameters of SSFormer and of the study's models, and their files under published names."""
    backbone, wide = study_backbone(size), size[-1] not in "01"
    if size.startswith("MiT"):
        model = SSFormer(backbone, partial(ProgressiveLocalityDecoder))
        assert parameters(model) + DEAD == LOCALITY[size[-2:]]
    for i, head in enumerate(("PLD", "SeD")):
        model = study_model(backbone, head, wide)
        count, megabytes = STUDY[size][2 * i : 2 * i + 2]
        assert parameters(model) == count
        path = tmp_path / "archive.pth"  # the name stands in the file, once for each tensor
        with torch.serialization.skip_data():  # the file's size without its gigabytes
            torch.save(as_published(model), path)
        assert path.stat().st_size / 1e6 == pytest.approx(megabytes, abs=0.01)


def as_published(model: nn.Module) -> OrderedDict:
    """What `state_dict` gives for the published model, with the versions of its modules."""
    state = OrderedDict(to_official(model.state_dict()))
    modules = {name.rsplit(".", depth)[0] for name in state for depth in range(1, name.count(".") + 1)}
    state._metadata = OrderedDict((name, {"version": 1}) for name in ("", *sorted(modules)))
    return state


@pytest.mark.parametrize("name", ABLATION)
def test_published_sizes_of_the_ablation(name):
    published, dead = ABLATION[name]
    assert parameters(build(name)) + dead == published


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_no_parameter_is_idle(decoder):
    model = small(decoder, enlarge="input").train()
    model(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
@pytest.mark.parametrize("enlarge", ["corners", "input"])
def test_logits_come_at_the_size_of_the_input(decoder, enlarge):
    model = small(decoder, enlarge=enlarge).eval()
    assert model.mask_stride == 1 and model.stride == model.decoder.stride
    size = (64, 128) if model.stride == 32 else (60, 100) if enlarge == "corners" else (75, 101)
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).shape[-2:] == size


def test_progressive_upsampling_keeps_the_shape_of_the_frame_or_is_square_as_published():
    """Both are the same for square frames, of which the published settings are."""
    own, square = (
        small(partial(ProgressiveUpsamplingDecoder, dim=16, square=s), enlarge="none") for s in (False, True)
    )
    square.load_state_dict(own.state_dict())
    frames = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert own.eval()(frames).shape == (1, 1, 32, 48) and square.eval()(frames).shape == (1, 1, 48, 48)
        assert torch.equal(own(frames[..., :64]), square(frames[..., :64]))


def test_published_logits_of_odd_frames_are_larger_than_the_frames():
    with torch.no_grad():
        assert small().eval()(torch.rand(1, 3, 75, 101)).shape == (1, 1, 76, 104)


@pytest.mark.parametrize("disk", [(75, 101), (60, 130)])
def test_odd_frames_are_predicted_as_published(disk):
    """No padding: sigmoid at the size of the logits, then bilinear to the size on disk."""
    net = small(partial(ProgressiveLocalityDecoder, dim=64)).eval()
    net.decoder.classes.weight.data.mul_(100)
    model, frames = PerFrame(net, decision="sigmoid").eval(), np.random.default_rng(0).integers(0, 255, (2, *disk, 3))
    prediction = Predictor(model, size=(75, 101)).predict_frames(frames.astype(np.uint8))
    small_frames = np.stack([resize_for_eval(frame.astype(np.uint8), (75, 101), "bilinear") for frame in frames])
    with torch.no_grad():
        logits = net(model.normalise(torch.from_numpy(small_frames).permute(0, 3, 1, 2)[None] / 255)[0])
    assert logits.shape == (2, 1, 76, 104)
    probability = F.interpolate(logits.sigmoid(), size=disk, mode="bilinear", align_corners=False)[:, 0].numpy()
    assert probability.min() < 0.3 and probability.max() > 0.7
    assert np.abs(prediction.probability[0] / 255 - probability).max() < 0.5 / 255 + 1e-5
    certain = np.abs(probability - 0.5) > 1e-5
    assert np.array_equal(prediction.mask[0][certain], (probability > 0.5)[certain])


@pytest.mark.parametrize("disk", [(96, 96), (110, 111)])
@pytest.mark.parametrize("size, square", [((96, 96), False), ((64, 96), False), ((64, 96), True)])
def test_half_sized_logits_are_predicted_as_published(size, square, disk):
    """The sigmoid comes first and the way to disk size is one resize, however small the logits are."""
    net = small(partial(ProgressiveUpsamplingDecoder, dim=64, square=square), enlarge="none").eval()
    model, frames = PerFrame(net, decision="sigmoid").eval(), torch.rand(1, 2, 3, *size)
    net.decoder.classes.weight.data.mul_(1000)
    with torch.no_grad():
        net.decoder.classes.bias.data.sub_(model(frames).mask_logits.median())
        output = model(frames)
    assert output.mask_logits.shape[-2:] == (48 if square else size[0] // 2, 48)
    prediction = model.predict(output, ClipInfo("v", ("a", "b"), disk, (2, *size)))
    logits = output.mask_logits[0].transpose(0, 1)
    probability = F.interpolate(logits.sigmoid(), size=disk, mode="bilinear", align_corners=False)[:, 0].numpy()
    assert probability.min() < 0.1 and probability.max() > 0.9
    assert np.abs(prediction.probability[0] / 255 - probability).max() < 0.5 / 255 + 1e-5
    certain = np.abs(probability - 0.5) > 1e-5
    assert np.array_equal(prediction.mask[0][certain], (probability > 0.5)[certain])


def test_odd_frames_train():
    model = PerFrame(small(), decision="sigmoid").train()
    masks = torch.zeros(1, 1, 75, 101)
    masks[..., 40:60, 50:90] = 1
    valid, annotated = torch.ones(1, 75, 101, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    targets = [Targets(torch.tensor([0]), masks, valid, annotated)] * 2
    sum(DenseCriterion()(model(torch.rand(2, 1, 3, 75, 101)), targets).values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_predictions_of_any_size_come_back_at_it(decoder):
    outputs = decoder.keywords.get("outputs", 1)
    model = PerFrame(small(decoder, enlarge="input"), chunk=1, decision="softmax" if outputs == 2 else "sigmoid")
    frames = np.random.default_rng(0).integers(0, 255, (2, 50, 70, 3), np.uint8)
    prediction = Predictor(model, size=(67, 90)).predict_frames(frames)
    assert prediction.mask.shape == prediction.probability.shape == (1, 2, 50, 70)
    assert np.array_equal(prediction.mask, prediction.probability > 127)


class ThreeLevels(nn.Module):
    """What a backbone with three stages gives."""

    channels = {"res2": 8, "res3": 16, "res4": 24}
    levels = list(zip((4, 8, 16), channels.items(), strict=True))

    def forward(self, frames):
        h, w = frames.shape[-2:]
        return {k: torch.ones(len(frames), c, h // s, w // s) for s, (k, c) in self.levels}


@pytest.mark.parametrize("decoder", DECODERS[:4], ids=str)
def test_decoders_take_as_many_levels_as_there_are(decoder):
    model = SSFormer(ThreeLevels(), decoder).eval()
    assert model(torch.rand(1, 3, 64, 96)).shape == (1, 1, 64, 96)


@pytest.mark.parametrize("decoder", DECODERS[4:], ids=str)
def test_decoders_that_need_all_levels_say_so(decoder):
    with pytest.raises(ValueError, match="needs a backbone with levels res2..res5, this one has res2, res3, res4"):
        SSFormer(ThreeLevels(), decoder)


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_levels_before_stride_4_are_refused(decoder):
    """Their masks would be twice as large as the frames."""
    with pytest.raises(ValueError, match="needs a backbone with levels res2..res5, this one has res1, res2"):
        SSFormer(ResNetBackbone("resnet18"), decoder)


def test_frames_smaller_than_the_reduction_say_so():
    net = SSFormer(MixTransformer("mit_b0"), DECODERS[0]).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, 29, 29)).isfinite().all()
        with pytest.raises(ValueError, match="a map of 7 x 8 is smaller .* 8 x 8; give frames of at least 32 x 32"):
            net(torch.rand(1, 3, 28, 32))


def test_parallel_fusion_refuses_sizes_that_do_not_halve():
    with pytest.raises(ValueError, match="expected halves; give frames of multiples of 32"):
        small(DECODERS[-1])(torch.rand(1, 3, 64, 80))


def test_wrong_words_are_told():
    with pytest.raises(ValueError, match='fusion is \'sum\', expected "concat" or "add"'):
        ProgressiveLocalityDecoder({"res2": 4}, fusion="sum")
    with pytest.raises(ValueError, match="enlarge is 'x4', expected one of corners, input, none"):
        small(enlarge="x4")


def test_dropout_of_values_or_of_channels():
    plain, channels = (small(partial(SegFormerDecoder, dim=64, channel_dropout=c)).train() for c in (False, True))
    maps = {"res2": torch.ones(1, 64, 8, 8)}
    single = plain.decoder.dropout(maps["res2"])
    whole = channels.decoder.dropout(maps["res2"])
    assert 0 < (single == 0).float().mean() < 0.3
    assert all(channel.unique().numel() == 1 for channel in whole[0]) and (whole == 0).any()


def test_initial_values_of_the_study():
    torch.manual_seed(0)
    backbone = MixTransformer("mit_b0")
    model = SSFormer(backbone, partial(SegFormerDecoder, dim=256, outputs=2), "input", reinitialise=True)
    depthwise = backbone.net.block4[0].mlp.dwconv.dwconv
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 1024)), rel=0.05)
    assert model.decoder.fusion.conv.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    projection = model.decoder.projections["res5"]
    assert projection.weight.std().item() == pytest.approx(0.02, rel=0.05) and not projection.bias.any()


@pytest.mark.parametrize(
    "decoder",
    [
        builds(ProgressiveLocalityDecoder, dim=8, zen_partial=True),
        builds(SegFormerDecoder, dim=8, zen_partial=True),
        builds(MultiLevelAggregationDecoder, dim=8, zen_partial=True),
        builds(ProgressiveUpsamplingDecoder, dim=8, zen_partial=True),
        builds(ParallelFusionHead, dim=8, outputs=1, zen_partial=True),
    ],
    ids=["locality", "segformer", "aggregation", "upsampling", "parallel"],
)
def test_weights_describe_the_model(decoder, tmp_path):
    backbone = builds(MixTransformer, name="mit_b0", norm_eps=1e-5)
    node = builds(
        PerFrame, net=builds(SSFormer, backbone=backbone, decoder=decoder, enlarge="input"), decision="sigmoid"
    )
    config = OmegaConf.structured(node)
    model = build_config(config)
    save_weights(tmp_path / "still.safetensors", model.state_dict(), to_json(config), {"input_size": [64, 64]})
    loaded = lgrnet.load(tmp_path / "still.safetensors")
    assert loaded.decision == "sigmoid" and loaded.input_size == (64, 64) and loaded.backbone.net.norm1.eps == 1e-5
    frames = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(frames).mask_logits, model.eval()(frames).mask_logits)
