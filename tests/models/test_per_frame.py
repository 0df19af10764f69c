"""A still-image network on clips."""

import numpy as np
import torch

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


def test_prediction_follows_the_logits():
    net = model()
    with torch.no_grad():
        output = net(torch.rand(1, 3, 3, 64, 64))
    prediction = net.predict(output, ClipInfo("v", ("a", "b", "c"), (64, 64), (3, 64, 64)))
    assert prediction.mask.shape == (1, 3, 64, 64)
    assert np.array_equal(prediction.probability > 127, prediction.mask)
    assert prediction.scores.shape == (1,)
