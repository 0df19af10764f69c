"""Two videos from frames on disk to Dice, against the published system with generated weights."""

import numpy as np
import pytest
import torch

from lgrnet.data.transforms import resize_for_eval
from lgrnet.evaluation import Evaluator
from lgrnet.inference.predictor import Predictor
from lgrnet.records import Prediction
from tests.models.golden import golden_model

VIDEOS = ("vidA", "vidB")


@pytest.fixture(scope="module")
def stored(shared):
    return torch.load(shared / "golden" / "lgrnet" / "eval_and_train_paths.pt", weights_only=True)


@pytest.fixture(scope="module")
def predictions(stored):
    """The whole walk with the model of configs/sunseg/lgrnet_pvtv2_b2.py."""
    predictor = Predictor(golden_model("sunseg_pvt"), (352, 352), chunk=1)
    frames = {video: stored[video]["frames_uint8"].numpy() for video in VIDEOS}
    return {video: predictor.predict_frames(frames[video], video=video, candidates=True) for video in VIDEOS}


@pytest.mark.parametrize("video", VIDEOS)
def test_frames_are_resized_bit_by_bit_as_published(stored, video):
    case = stored[video]
    small = np.stack([resize_for_eval(frame, 352) for frame in case["frames_uint8"].numpy()])
    unit = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(unit[..., ::8, ::8], case["net_input"][0])
    assert unit.double().mean().item() == pytest.approx(float(case["net_input_mean"]), abs=1e-7)


def test_metric_of_the_stored_masks(stored):
    evaluator = Evaluator()
    for video in VIDEOS:
        _score(evaluator, video, stored[video], stored[video]["chosen_mask_orig_size"].numpy()[None])
    _check(evaluator, stored)


@pytest.mark.parametrize("video", VIDEOS)
def test_query_and_mask_of_the_whole_walk(stored, predictions, video):
    case, prediction = stored[video], predictions[video]
    assert prediction.candidates.scores[:, 0].argmax() == case["selected_query"]
    assert prediction.candidates.scores[:, 0] == pytest.approx(case["pred_class"][0, :, 0].numpy(), abs=2e-5)
    differing = np.count_nonzero(prediction.mask[0] != case["chosen_mask_orig_size"].numpy())
    assert differing <= 2, "only a pixel whose logit is almost 0 may flip"


def test_metric_of_the_whole_walk(stored, predictions):
    evaluator = Evaluator()
    for video in VIDEOS:
        _score(evaluator, video, stored[video], predictions[video].mask)
    _check(evaluator, stored, tolerance=1e-4)


def _score(evaluator, video, case, mask):
    names = tuple(map(str, range(mask.shape[1])))
    truth = [frame * np.uint8(255) for frame in case["gt"].numpy()]
    evaluator.process(Prediction(video, names, np.ones(1), mask.astype(np.uint8) * 255, mask), truth)


def _check(evaluator, stored, tolerance=1e-6):
    for row in evaluator.rows:
        published = stored[row.video]["metrics"][row.frame]
        assert row.values == pytest.approx(dict(published), abs=tolerance)
    assert evaluator.result()["scores"]["lgrnet"] == pytest.approx(dict(stored["aggregate"]), abs=tolerance)
