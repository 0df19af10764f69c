"""What LGRNet promises beyond the published numbers: any clip, ablations, stages, clear errors."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lgrnet.data.loader import collate
from lgrnet.draws import KeyedDraws
from lgrnet.layers.conv import ClipProjection
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.structures import Clip, ClipInfo, SegOutput, Targets


def small(backbone="pvt_v2_b0", decoder=None, **encoder) -> LGRNet:
    torch.manual_seed(0)
    settings = {"dim": 32, "depth": 2, "hidden": 64, "scan_hidden": 64, "num_frame_queries": 5, **encoder}
    decoder = decoder or VideoDecoder(dim=32, hidden=64, num_queries=4)
    return LGRNet(TimmBackbone(backbone, drop_path=0.0), partial(LGREncoder, **settings), decoder, frame_chunk=3)


def run(model, *shape):
    with torch.no_grad():
        return model.eval()(torch.rand(*shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (1, 2, 64, 96), (1, 23, 32, 64), (2, 3, 96, 32)])
def test_any_clip_runs(shape):
    batch, frames, height, width = shape
    output = run(small(), batch, frames, 3, height, width)
    assert output.mask_logits.shape == (batch, 4, frames, height // 4, width // 4)
    assert output.class_logits.shape == (batch, 4, 2)
    assert len(output.aux) == 3 and output.layers[-1] is output
    assert all(torch.isfinite(layer.mask_logits).all() for layer in output.layers)


def test_clips_of_a_batch_do_not_mix():
    model = small().eval()
    frames = torch.rand(2, 3, 3, 64, 64)
    with torch.no_grad():
        both, second = model(frames), model(frames[1:])
    torch.testing.assert_close(both.mask_logits[1:], second.mask_logits, rtol=1e-4, atol=1e-5)


def test_the_backbone_runs_in_chunks_of_the_same_value():
    model = small().eval()
    frames = torch.rand(1, 7, 3, 64, 64)
    chunked = model.features(frames)
    model.frame_chunk = 100
    whole = model.features(frames)
    for level in whole:
        torch.testing.assert_close(chunked[level], whole[level], rtol=1e-4, atol=1e-5)


def test_clips_of_different_length_in_one_batch():
    """The shorter one is padded; its padding is seen by the model, as published, but costs nothing."""
    generator = torch.Generator().manual_seed(3)
    clips = []
    for frames in (2, 5):
        masks = torch.zeros(1, frames, 64, 64)
        masks[..., 10:40, 20:50] = 1
        everywhere = torch.ones(frames, 64, 64, dtype=torch.bool)
        targets = Targets(torch.zeros(1, dtype=torch.long), masks, everywhere, torch.ones(frames, dtype=torch.bool))
        info = ClipInfo(str(frames), tuple(map(str, range(frames))), (64, 64), (frames, 64, 64), position=frames)
        clips.append(Clip(torch.rand(frames, 3, 64, 64, generator=generator), targets, info))
    batch = collate(clips)
    model = small().train()
    output = model(batch.frames)
    assert output.mask_logits.shape == (2, 4, 5, 16, 16)
    output.mask_logits.retain_grad()
    terms = SetCriterion(num_points=64)(output, batch.targets, KeyedDraws(0, batch.positions))
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert output.mask_logits.grad[0, :, :2].abs().sum() > 0
    assert output.mask_logits.grad[0, :, 2:].abs().sum() == 0


def test_half_precision_keeps_the_scan_and_the_statistics_exact():
    model = small().eval()
    frames = torch.rand(1, 4, 3, 64, 64)
    with torch.no_grad():
        exact = model(frames).mask_logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(frames).mask_logits
    assert (half.float() - exact).abs().max() < 0.1 * exact.abs().max()
    projection = model.encoder.projections["res3"]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        kept = projection.statistics(projection.project(torch.rand(1, 4, 64, 8, 8)))
    assert kept.mean.dtype == torch.float32


def test_clip_projection_is_group_norm_over_the_clip():
    projection = ClipProjection(6, 32, groups=4)
    nn.init.normal_(projection.norm.weight)
    nn.init.normal_(projection.norm.bias)
    x = torch.randn(2, 5, 6, 3, 4) + 3
    clip_first = projection.project(x).transpose(1, 2)
    expected = nn.functional.group_norm(clip_first, 4, projection.norm.weight, projection.norm.bias).transpose(1, 2)
    torch.testing.assert_close(projection(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "ablation",
    [
        {"local": False},
        {"global_mixing": False},
        {"num_frame_queries": 0},
        {"scan_order": "zigzag"},
        {"window": 3},
        {"dilation": 2},
        {"gather_mask": True},
        {"propagation_steps": 2},
        {"scan_init": "mamba"},
        {"cyclic": False},
        {"norm_per_clip": False},
    ],
    ids=str,
)
def test_ablations_change_the_result_and_train_every_parameter(ablation):
    plain = run(small(), 1, 3, 3, 64, 64).mask_logits
    model = small(**ablation).train()
    output = model(torch.rand(1, 3, 3, 64, 64))
    sum(layer.mask_logits.square().mean() + layer.class_logits.sum() for layer in output.layers).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []
    assert not torch.equal(run(model, 1, 3, 3, 64, 64).mask_logits, plain)


def test_ablated_parts_hold_no_parameters():
    names = {name.split(".")[3] for name, _ in small(num_frame_queries=0).named_parameters() if ".layers." in name}
    assert not names & {"gather", "scan", "distribute"}
    names = [name for name, _ in small(local=False, global_mixing=False).named_parameters()]
    assert not any("propagation" in name or ".scan." in name for name in names)


def test_mamba_initialisation_survives_where_asked_for():
    scan = small(scan_init="mamba").encoder.layers[1].scan.layers[0].scan
    torch.testing.assert_close(scan.log_decay[0].exp(), torch.arange(1.0, 17.0))
    steps = nn.functional.softplus(scan.dt_bias)
    assert 9e-5 < steps.min() and steps.max() < 0.11


@pytest.mark.parametrize("name", ["res2net50d", "resnet18", "convnext_atto"])
def test_any_timm_model_with_feature_maps(name):
    model = small(backbone=name)
    assert run(model, 1, 2, 3, 64, 64).mask_logits.shape == (1, 4, 2, 16, 16)


def test_several_classes_are_predicted_each_by_its_best_query():
    model = small(decoder=VideoDecoder(dim=32, hidden=64, num_queries=4, num_classes=3))
    output = run(model, 1, 2, 3, 64, 64)
    info = ClipInfo("v", ("a", "b"), (50, 70), (2, 64, 64))
    prediction = model.predict(output, info, candidates=True)
    assert prediction.mask.shape == (3, 2, 50, 70) and prediction.mask.dtype == bool
    assert prediction.probability.shape == (3, 2, 50, 70) and prediction.probability.dtype == np.uint8
    scores = output.class_logits[0].softmax(-1)[:, :3]
    assert prediction.scores == pytest.approx(scores.amax(0).numpy())
    assert prediction.candidates.masks.shape == (4, 2, 50, 70)
    for k in range(3):
        assert np.array_equal(prediction.mask[k], prediction.candidates.masks[scores[:, k].argmax()])
        assert np.array_equal(prediction.probability[k] > 127, prediction.mask[k]) or (50, 70) != (64, 64)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (torch.rand(1, 0, 3, 64, 64), "at least one frame"),
        (torch.rand(1, 3, 64, 64), r"\[B, 1, 3, H, W\]"),
        (torch.rand(1, 1, 4, 64, 64), "expected"),
        (torch.rand(1, 1, 3, 60, 64), "multiples of 32"),
        (torch.zeros(1, 1, 3, 64, 64, dtype=torch.uint8), "divide uint8 frames by 255"),
    ],
)
def test_bad_frames(frames, words):
    with pytest.raises(ValueError, match=words):
        small()(frames)


def test_floats_in_0_to_255_are_told():
    frames, model = torch.rand(1, 1, 3, 64, 64), small()
    with pytest.warns(UserWarning, match=r"frames reach from \S+ to 25\S+, expected 0..1; divide by 255"):
        model(255 * frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(frames)
        model.infer((255 * frames).to(torch.uint8))
        model(model.normalise(frames))  # twice: odd, and no other scale


def test_bad_settings():
    with pytest.raises(ValueError, match="encoder has dim 32, decoder 64"):
        small(decoder=VideoDecoder(dim=64))
    with pytest.raises(ValueError, match="scan order is 'spiral', expected one of hilbert, zigzag"):
        small(scan_order="spiral")
    with pytest.raises(ValueError, match="no feature maps at strides"):
        TimmBackbone("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="odd window"):
        small(window=4)
    batch = SegOutput(torch.zeros(2, 4, 1, 8, 8), torch.zeros(2, 4, 2))
    with pytest.raises(ValueError, match="one video at a time"):
        small().predict(batch, ClipInfo("v", ("a",), (8, 8), (1, 32, 32)))


def test_level_embedding_in_the_keys_alone():
    torch.manual_seed(0)
    decoder = VideoDecoder(dim=32, hidden=64, level_in_value=False)
    (key, value), *_ = decoder.memory({k: torch.zeros(1, 2, 32, 4, 4) for k in ("res5", "res4", "res3")})
    assert value.abs().sum() == 0 and key.abs().sum() > 0


@pytest.mark.parametrize("shape", [(44, 44), (22, 22), (11, 11), (30, 30), (88, 44), (29, 29)])
def test_attention_masks_are_those_of_masks_at_full_size(shape):
    """Enlarged four times and shrunk again, as LGRNet was published, for the first three: the levels of 88 x 88."""
    decoder = VideoDecoder(dim=32, hidden=64, num_queries=4)
    logits = torch.randn(1, 4, 3, 88, 88, generator=torch.Generator().manual_seed(0))
    full = nn.functional.interpolate(logits[0], scale_factor=4, mode="bilinear")
    small = nn.functional.interpolate(full, size=shape, mode="bilinear").flatten(1)
    weak = decoder.low(logits, shape)[0, 0]
    if shape in ((44, 44), (22, 22), (11, 11)):
        sure = (small - decoder.attention_threshold).abs() > 1e-6
        assert torch.equal(weak[sure], (small < decoder.attention_threshold)[sure])
    direct = nn.functional.interpolate(logits[0], size=shape, mode="bilinear").flatten(1)
    sure = (direct - decoder.attention_threshold).abs() > 1e-6
    assert torch.equal(weak[sure], (direct < decoder.attention_threshold)[sure]) and sure.float().mean() > 0.99


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": -1}, "depth is -1, expected at least 0"),
        ({"points": 0}, "points is 0, expected at least 1"),
        ({"scan_states": 0}, "states is 0, expected at least 1"),
        ({"scan_depth": -1}, "depth is -1, expected at least 0"),
        ({"hidden": 0}, "hidden is 0, expected at least 1"),
        ({"num_frame_queries": -1}, "num_frame_queries is -1"),
        ({"heads": 6, "num_frame_queries": 0, "local": False}, "dim is 32, expected a multiple of heads = 6"),
        ({"heads": 6, "num_frame_queries": 0}, "dim is 32, expected a multiple of heads = 6"),
        ({"heads": 0}, "multiple of heads = 0"),
    ],
)
def test_numbers_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        small(**settings)


@pytest.mark.parametrize("settings", [{"depth": -1}, {"heads": 0}, {"heads": 5}])
def test_numbers_of_the_decoder_out_of_range(settings):
    with pytest.raises(ValueError, match="expected (at least|a multiple)"):
        VideoDecoder(dim=32, **settings)


@pytest.mark.parametrize("chunk", [0, -1])
def test_no_frames_at_once(chunk):
    model = small().eval()
    model.frame_chunk = chunk
    for call in (model, model.infer):
        with pytest.raises(ValueError, match=f"frames at once are {chunk}; expected at least 1, or None"):
            call(torch.rand(1, 2, 3, 32, 32))


def test_frames_that_are_no_tensor():
    with pytest.raises(ValueError, match="frames are a ndarray, expected a tensor; use torch.from_numpy"):
        small()(np.zeros((1, 1, 3, 32, 32), np.float32))


def test_an_export_and_fake_tensors_leave_the_model_as_it_was():
    """The curve of a clip's length is kept: one without numbers would stay in every later clip."""
    model, frames = small().eval(), torch.rand(1, 13, 3, 32, 64)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        assert isinstance(model(mode.from_tensor(frames)).mask_logits, FakeTensor)
    exported = torch.export.export(Masks(model), (frames,)).module()
    with torch.no_grad():
        masks = model(frames).mask_logits
        assert type(masks) is torch.Tensor and torch.allclose(exported(frames), masks, atol=1e-3)


def test_a_trace_has_the_same_numbers():
    model, frames = Masks(small().eval()), torch.rand(1, 14, 3, 32, 64)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        assert torch.allclose(torch.jit.trace(model, frames, check_trace=False)(frames), model(frames), atol=1e-3)


class Masks(nn.Module):
    """The mask logits alone: a SegOutput is none of what graphs can return."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, frames):
        return self.model(frames).mask_logits


def test_a_backbone_of_other_strides_is_refused():
    model = small()
    plain = model.backbone.forward
    model.backbone.forward = lambda x: {
        k: v.repeat_interleave(2, 2).repeat_interleave(2, 3) for k, v in plain(x).items()
    }
    with pytest.raises(
        ValueError, match="finest map is .32, 32. of frames of .64, 64.; LGRNet needs maps of strides 4"
    ):
        run(model, 1, 2, 3, 64, 64)
