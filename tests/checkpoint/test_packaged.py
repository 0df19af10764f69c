"""The small trained model in the package: small, whole, and able to find a lesion that it has not seen."""

import numpy as np
import pytest

import lgrnet
from lgrnet.checkpoint import PACKAGED, resolve
from lgrnet.data.phantom import render_clip
from lgrnet.evaluation.metrics import count, dice
from lgrnet.inference.predictor import Predictor


@pytest.mark.parametrize("name", PACKAGED)
def test_it_is_small_and_finds_unseen_lesions(name):
    assert resolve(name).stat().st_size < 13e6
    model = lgrnet.load(name)
    predictor = Predictor(model, size=model.input_size)
    scores = []
    for index in range(2):
        frames, masks = render_clip(seed=99, index=index, num_frames=8, size=128)
        prediction = predictor.predict_frames(frames)
        pairs = zip(prediction.mask[0], masks > 0, strict=True)
        scores += [dice(count(mask, truth)) for mask, truth in pairs if truth.any()]
        assert prediction.scores[0] > 0.5
    assert np.mean(scores) > 0.75
