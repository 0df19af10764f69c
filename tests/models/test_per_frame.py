"""A still-image network on clips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lgrnet.inference.predictor import Predictor
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PerFrame
from lgrnet.structures import ClipInfo


def model(**settings):
    torch.manual_seed(0)
    return PerFrame(PlainHead(TimmBackbone("pvt_v2_b0", drop_path=0.0), dim=32, **settings), chunk=2).eval()


def test_no_frame_knows_of_another():
    net = model(num_classes=2)
    frames = torch.rand(2, 5, 3, 64, 96)
    with torch.no_grad():
        clip, one = net(frames), net(frames[1:, 3:4])
    assert clip.mask_logits.shape == (2, 2, 5, 16, 24) and clip.class_logits is None
    torch.testing.assert_close(clip.mask_logits[1:, :, 3:4], one.mask_logits, rtol=1e-4, atol=1e-5)


def test_inference_takes_bytes_and_gives_the_same():
    net = model(num_classes=2)
    frames = torch.randint(0, 256, (2, 5, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = net(frames.float() / 255)
    found = net.infer(frames)
    assert found.activation == expected.activation
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, rtol=1e-4, atol=1e-5)


def test_prediction_follows_the_logits():
    net = model()
    with torch.no_grad():
        output = net(torch.rand(1, 3, 3, 64, 64))
    prediction = net.predict(output, ClipInfo("v", ("a", "b", "c"), (64, 64), (3, 64, 64)))
    assert prediction.mask.shape == (1, 3, 64, 64)
    assert np.array_equal(prediction.probability > 127, prediction.mask)
    assert prediction.scores.shape == (1,)


class Contrast(nn.Module):
    """Logits that can be computed by hand: the channels of the frame themselves."""

    def __init__(self, channels, stride=4):
        super().__init__()
        self.channels, self.stride, self.mask_stride = channels, stride, 1

    def forward(self, frames):
        return frames[:, : self.channels]


def predicted(decision, channels, disk, valid=(48, 64)):
    model = PerFrame(Contrast(channels), decision=decision).eval()
    padded = [-(-side // 4) * 4 for side in valid]
    frames = torch.rand(1, 2, 3, *padded, generator=torch.Generator().manual_seed(0))
    frames[..., valid[0] :, :] = frames[..., valid[1] :] = 1  # the padding would be the best of all
    output = model(frames)
    info = ClipInfo("v", ("a", "b"), disk, (2, *valid))
    return output, model.predict(output, info)


def resized(maps, size):
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("disk", [(48, 64), (31, 90)])
def test_sigmoid_resizes_probabilities_not_logits(disk):
    output, prediction = predicted("sigmoid", 2, disk)
    assert output.activation == "sigmoid"
    probability = resized(output.mask_logits[0].sigmoid(), disk).numpy()
    assert np.array_equal(prediction.mask, probability > 0.5)
    assert np.array_equal(prediction.probability > 127, prediction.mask)
    assert np.abs(prediction.probability / 255 - probability).max() < 0.5 / 255 + 1e-6


@pytest.mark.parametrize("disk", [(48, 64), (31, 90)])
def test_softmax_takes_the_largest_class_and_leaves_the_background_out(disk):
    output, prediction = predicted("softmax", 3, disk)
    assert output.activation == "softmax" and output.mask_logits.shape == (1, 3, 2, 48, 64)
    probability = resized(output.mask_logits[0].softmax(0), disk).numpy()
    assert prediction.mask.shape == prediction.probability.shape == (2, 2, *disk)
    assert np.array_equal(prediction.mask, probability.argmax(0)[None] == np.array([1, 2])[:, None, None, None])
    assert np.abs(prediction.probability / 255 - probability[1:]).max() < 0.5 / 255 + 1e-6
    np.testing.assert_allclose(prediction.scores, output.mask_logits[0].softmax(0)[1:].flatten(1).amax(1))


@pytest.mark.parametrize("decision", ["logit", "sigmoid", "softmax"])
def test_padding_is_cut_before_the_resize_and_has_no_score(decision):
    output, prediction = predicted(decision, 2, (45, 61), valid=(45, 61))
    assert output.mask_logits.shape[-2:] == (48, 64)
    inside = output.mask_logits[0, ..., :45, :61]
    if decision == "softmax":
        share, mask = inside.softmax(0)[1:], (inside[1:] > inside[:1])
    else:
        share, mask = inside.sigmoid(), inside > 0
    assert np.array_equal(prediction.mask, mask.numpy())
    np.testing.assert_allclose(prediction.scores, share.flatten(1).amax(1))


class Square(nn.Module):
    """Logits of one size whatever the frames' is, as SvANet's; with edges where they are in the frames."""

    stride, mask_stride = 32, 1

    def __init__(self, channels, side):
        super().__init__()
        self.channels, self.side = channels, side

    def forward(self, frames):
        size = (self.side, self.side)
        return F.interpolate(frames[:, : self.channels], size=size, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("side", [32, 128, 200])
@pytest.mark.parametrize("decision, channels", [("logit", 1), ("softmax", 2), ("sigmoid", 1)])
@pytest.mark.parametrize("valid", [(64, 96), (45, 90)], ids=["fits", "padded"])
def test_logits_of_another_size_than_the_frames_cover_them(side, decision, channels, valid):
    model = PerFrame(Square(channels, side), decision=decision, pixel_mean=(0.5, 0.5, 0.5), pixel_std=(0.1, 0.1, 0.1))
    frames = torch.zeros(1, 2, 3, 64, 96)
    frames[..., valid[0] - 16 : valid[0], valid[1] - 24 : valid[1]] = 1  # an object in the lower right corner
    if decision == "softmax":
        frames[:, :, 0] = 1 - frames[:, :, 1]
    for output in (model.eval()(frames), model.infer(frames)):
        assert output.mask_logits.shape[-2:] == (side, side) and output.frame_size == (64, 96)
        prediction = model.predict(output, ClipInfo("v", ("a", "b"), valid, (2, *valid)))
        truth = frames[0, :, channels - 1, : valid[0], : valid[1]].bool().numpy()
        both, either = (prediction.mask[0] & truth).sum(), (prediction.mask[0] | truth).sum()
        assert both / either > 0.8
        assert prediction.scores[0] > 0.9


@pytest.mark.parametrize("side", [32, 128])
def test_logits_of_another_size_are_resized_to_the_frames_as_logits(side):
    model = PerFrame(Square(3, side), decision="softmax").eval()
    output = model(torch.rand(1, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    prediction = model.predict(output, ClipInfo("v", ("a",), (64, 96), (1, 64, 96)))
    share = resized(output.mask_logits[0].transpose(0, 1), (64, 96)).softmax(1)[0]
    assert np.array_equal(prediction.mask[:, 0], share.argmax(0) == np.array([1, 2])[:, None, None])
    np.testing.assert_allclose(prediction.probability[:, 0] / 255, share[1:], atol=0.5 / 255 + 1e-6)


def test_the_predictor_pads_to_the_stride_of_the_network():
    frames = np.random.default_rng(0).integers(0, 255, (2, 30, 50, 3), np.uint8)
    prediction = Predictor(PerFrame(Contrast(1), decision="sigmoid"), size=(45, 61)).predict_frames(frames)
    assert prediction.mask.shape == (1, 2, 30, 50)
    assert PerFrame(nn.Identity()).stride == 32


def test_the_decision_is_one_of_three():
    with pytest.raises(ValueError, match="decision is 'argmax', expected one of logit, sigmoid, softmax"):
        PerFrame(nn.Identity(), decision="argmax")
