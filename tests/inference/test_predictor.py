"""The walk from frames to a prediction, with a model small enough to know the answer of."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lgrnet.inference.predictor import Predictor, pad_to_stride
from lgrnet.models.lgrnet import LGRNet
from lgrnet.records import DataError, VideoRecord, write_frame
from lgrnet.structures import SegOutput


class Brightness(nn.Module):
    """Query 0 marks dark pixels, query 1, with the higher score, bright ones."""

    stride = 32
    predict = LGRNet.predict

    def __init__(self):
        super().__init__()
        self.frame_chunk, self.seen = 8, []

    def forward(self, frames):
        self.seen.append(frames)
        bright = F.avg_pool2d(frames.mean(2), 4) - 0.5
        scores = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]])
        return SegOutput(torch.stack([-bright, bright], 1) * 20, scores)


@pytest.fixture
def frames():
    """[T, H, W, 3] with a bright box that moves."""
    video = np.zeros((5, 90, 120, 3), np.uint8)
    for index, frame in enumerate(video):
        frame[20 + 5 * index : 60 + 5 * index, 30:80] = 255
    return video


def _dice(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize("count", [1, 2, 5])
def test_masks_lie_where_the_box_is(frames, count):
    prediction = Predictor(Brightness(), (64, 96)).predict_frames(frames[:count], video="v")
    assert prediction.mask.shape == prediction.probability.shape == (1, count, 90, 120)
    assert prediction.mask.dtype == bool and prediction.probability.dtype == np.uint8
    assert prediction.frame_names == tuple(f"{i:06d}" for i in range(count))
    truth = frames[:count, ..., 0] > 0
    assert all(_dice(mask, there) > 0.9 for mask, there in zip(prediction.mask[0], truth, strict=True))
    assert prediction.scores == pytest.approx([torch.tensor([2.0, 0]).softmax(0)[0].item()])


def test_a_still_image_is_a_video_of_one_frame(frames):
    predictor = Predictor(Brightness(), 64)
    still, video = predictor.predict_frames(frames[0]), predictor.predict_frames(frames[:1])
    assert np.array_equal(still.mask, video.mask) and still.mask.shape == (1, 1, 90, 120)


def test_a_list_of_frames_is_a_video(frames):
    predictor = Predictor(Brightness(), 64)
    listed, video = predictor.predict_frames(list(frames)), predictor.predict_frames(frames)
    assert np.array_equal(listed.mask, video.mask) and listed.frame_names == video.frame_names


def test_size_that_is_no_multiple_of_the_stride_is_padded_and_cut(frames):
    model = Brightness()
    prediction = Predictor(model, (72, 100)).predict_frames(255 - frames)
    seen = model.seen[0]
    assert seen.shape == (1, 5, 3, 96, 128)
    assert not seen[..., 72:, :].any() and not seen[..., 100:].any()
    assert prediction.mask.shape == (1, 5, 90, 120)
    assert prediction.mask[0, :, -4:, :20].all() and prediction.mask[0, :, :4, -4:].all(), (
        "the padding's answer must not reach the masks"
    )


def test_frames_reach_the_model_as_published(frames):
    from PIL import Image

    model = Brightness()
    noise = np.random.default_rng(0).integers(0, 256, (2, 50, 77, 3)).astype(np.uint8)
    Predictor(model, (32, 64)).predict_frames(noise)
    for seen, frame in zip(model.seen[0][0], noise, strict=True):
        small = np.asarray(Image.fromarray(frame).resize((64, 32), Image.Resampling.BILINEAR))
        assert torch.equal(seen, torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255)


def test_record_on_disk_equals_frames_in_memory(frames, tmp_path):
    paths = tuple(tmp_path / f"frame{i}.png" for i in range(len(frames)))
    for path, frame in zip(paths, frames, strict=True):
        write_frame(path, frame)
    record = VideoRecord("v", paths, (None,) * len(paths))
    predictor = Predictor(Brightness(), 64)
    prediction = predictor.predict(record)
    assert prediction.video == "v" and prediction.frame_names == record.frame_names
    assert np.array_equal(prediction.mask, predictor.predict_frames(frames).mask)


def test_candidates_on_request(frames):
    predictor = Predictor(Brightness(), 64)
    assert predictor.predict_frames(frames).candidates is None
    kept = predictor.predict_frames(frames, candidates=True).candidates
    assert kept.masks.shape == (2, 5, 90, 120) and kept.scores.shape == (2, 1)


def test_chunk_is_handed_to_the_model():
    model = Brightness()
    Predictor(model, chunk=3)
    assert model.frame_chunk == 3
    with pytest.raises(ValueError, match="chunk is 0"):
        Predictor(model, chunk=0)
    with pytest.raises(ValueError, match="chunk is 2 for a Identity"):
        Predictor(nn.Identity(), chunk=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_device_that_is_not_there():
    with pytest.raises(ValueError, match="device is 'cuda:0', but PyTorch sees no GPU"):
        Predictor(Brightness(), device="cuda:0")


def test_model_is_in_eval_mode_even_when_training_goes_on(frames):
    model = Brightness()
    predictor = Predictor(model, 64)
    model.train()
    predictor.predict_frames(frames)
    assert not model.training


def test_frames_of_two_sizes_name_both(frames):
    stream = [("a", frames[0]), ("b", frames[1]), ("c", frames[2, :80])]
    with pytest.raises(DataError, match="video 'v': frame 'c' is 80 x 120 but frame 'a' is 90 x 120"):
        Predictor(Brightness(), 64).predict_stream(stream, "v")


def test_video_without_frames():
    with pytest.raises(DataError, match="video 'v' has no frames"):
        Predictor(Brightness(), 64).predict_stream([], "v")


def test_frames_of_a_wrong_kind():
    with pytest.raises(ValueError, match="frames are float64"):
        Predictor(Brightness(), 64).predict_frames(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"frame 'b' is float32 \(8, 8, 3\), expected an array uint8 \[H, W, 3\]"):
        stream = [("a", np.zeros((8, 8, 3), np.uint8)), ("b", np.zeros((8, 8, 3), np.float32))]
        Predictor(Brightness(), 64).predict_stream(stream, "v")
    with pytest.raises(ValueError, match=r"frame '000000' is list, expected an array uint8"):
        Predictor(Brightness(), 64).predict_frames([[0, 0, 0]])
    with pytest.raises(ValueError, match=r"frame '000000' is torch.uint8 torch.Size\(\[8, 8, 3\]\), expected an array"):
        Predictor(Brightness(), 64).predict_frames(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="2 frames but 1 names"):
        Predictor(Brightness(), 64).predict_frames(np.zeros((2, 8, 8, 3), np.uint8), ["a"])


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_full_memory_gives_advice(frames, error, monkeypatch):
    model = Brightness()

    def fail(clip):
        raise error

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(MemoryError, match="'v' does not fit in memory: 5 frames at 64 x 64, 90 x 120 on disk.*smaller"):
        Predictor(model, 64).predict_frames(frames, video="v")


def test_full_memory_on_the_way_there_gives_advice(frames, monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr("lgrnet.inference.predictor.resize_for_eval", fail)
    with pytest.raises(MemoryError, match="'v' does not fit in memory: 1 frames at 64 x 64, 90 x 120 on disk"):
        Predictor(Brightness(), 64).predict_frames(frames, video="v")


def test_other_errors_of_the_model_are_not_renamed(frames, monkeypatch):
    model = Brightness()

    def fail(clip):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        Predictor(model, 64).predict_frames(frames)


@pytest.mark.parametrize("of", ["masks", "classes"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_models_that_say_nothing_are_an_error(frames, wrong, of):
    class Broken(Brightness):
        def forward(self, frames):
            output = super().forward(frames)
            masks, classes = output.mask_logits.clone(), output.class_logits.clone()
            (masks if of == "masks" else classes).view(-1)[3] = wrong
            return SegOutput(masks, classes)

    with pytest.raises(DataError, match="video 'v': the model's logits are not finite; look at its weights"):
        Predictor(Broken(), 64).predict_frames(frames, video="v")


def test_padding():
    assert pad_to_stride(torch.ones(3, 33, 64), 32).shape == (3, 64, 64)
    assert pad_to_stride(torch.ones(3, 64, 64), 32).sum() == 3 * 64 * 64


def test_what_is_no_record_says_what_to_take(tmp_path):
    with pytest.raises(ValueError, match="predict got a str, expected a VideoRecord.*predict_stream"):
        Predictor(Brightness()).predict(str(tmp_path))
    with pytest.raises(ValueError, match="size is None; expected"):
        Predictor(Brightness(), size=None)
