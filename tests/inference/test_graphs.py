"""Recorded inference: what is kept and when it is forgotten, on any machine; that it is the model's, on a GPU."""

from __future__ import annotations

import contextlib
import itertools
from unittest import mock

import numpy as np
import pytest
import torch

from lgrnet.inference.graphs import GraphedModel, _replay
from lgrnet.inference.predictor import Predictor
from lgrnet.structures import SegOutput
from tests.engine.toy import ToyModel
from tests.models.test_lgrnet import small


class OnGpu(torch.Tensor):
    """Frames that say that they are on a GPU."""

    is_cuda = True


def frames(length: int = 2, side: int = 16) -> torch.Tensor:
    return torch.rand(1, length, 3, side, side).as_subclass(OnGpu)


@pytest.fixture
def recorded(monkeypatch):
    """A GraphedModel whose recordings call the model, and the shapes that were recorded."""
    shapes = []

    def record(self, given, half):
        shapes.append(tuple(given.shape))
        return lambda now: self.model(now.as_subclass(torch.Tensor))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(GraphedModel, "_record", record)
    return lambda shapes_kept=4: GraphedModel(ToyModel(), shapes_kept), shapes


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(ValueError, match="a CUDA graph needs a GPU, but PyTorch sees none here; use the model itself"):
        GraphedModel(ToyModel())


def test_a_shape_is_recorded_once_and_the_oldest_makes_room(recorded):
    make, shapes = recorded
    model = make(2)
    with torch.no_grad():
        for length in (1, 2, 1, 3, 1, 2):
            assert model(frames(length)).mask_logits.shape == (1, 1, length, 4, 4)
        assert [shape[1] for shape in shapes] == [1, 2, 3, 2]
        with torch.inference_mode():
            model(frames(2))
    assert len(shapes) == 5  # tensors of inference mode are of another kind


def test_moving_and_casting_forget_and_new_weights_do_not(recorded):
    make, shapes = recorded
    model = make()
    with torch.no_grad():
        before = model(frames())
        model.load_state_dict({name: 0 * value for name, value in model.state_dict().items()})
        assert len(shapes) == 1 and not torch.equal(model(frames()).mask_logits, before.mask_logits)
        model.float()
        model(frames())
    assert len(shapes) == 2


def test_a_model_that_is_moved_or_changed_inside_is_recorded_anew(recorded):
    make, shapes = recorded
    model = make()
    part = model.model.last
    changes = [
        lambda: None,
        lambda: model.model.double().float(),  # to another place and back
        lambda: part.double().float(),
        lambda: setattr(part, "weight", torch.nn.Parameter(part.weight.detach().clone())),
        lambda: model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True),
        lambda: setattr(model.model.norm, "running_mean", model.model.norm.running_mean.clone()),
    ]
    kept = []  # so that no address is given out twice
    with torch.no_grad():
        for count, change in enumerate(changes, start=1):
            kept += [tensor.detach() for tensor in model.state_dict().values()]
            change()
            model(frames()), model(frames())
            assert len(shapes) == count


def test_each_model_records_on_its_own_stream_and_a_pool_ends_with_its_last_graph(monkeypatch):
    """What torch shares between models may be of another GPU, and a pool without graphs is no pool any more."""
    recordings, nothing = [], contextlib.nullcontext()
    handles, streams = itertools.count(1), itertools.count(1)
    fakes = {
        "is_available": lambda: True,
        "graph_pool_handle": lambda: next(handles),
        "Stream": lambda device=None: mock.Mock(number=next(streams)),
        "device": lambda device: nothing,
        "stream": lambda stream: nothing,
        "current_stream": mock.Mock(),
        "CUDAGraph": mock.Mock,
        "graph": lambda graph, pool, stream, mode: recordings.append((pool, stream)) or nothing,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nothing)
    one, other = GraphedModel(ToyModel(), 2), GraphedModel(ToyModel(), 1)
    one.model.double(), other.model.double()
    with torch.no_grad():
        for model in (one, other):
            for length in (1, 2):
                model(frames(length).double())
        one.double()
        one(frames(1).double())
    pools, used = zip(*recordings, strict=True)
    assert pools == (1, 1, 2, 3, 4)  # two share one; the second of `other` comes when its first is gone
    assert used[0] is used[1] and len({id(stream) for stream in used}) == 4


def test_with_gradients_and_in_training_the_model_itself_runs(recorded):
    make, shapes = recorded
    model = make()
    plain = frames().as_subclass(torch.Tensor)
    assert model(plain).mask_logits.requires_grad
    with torch.no_grad():
        model.train()(plain)
        assert shapes == []
        with pytest.raises(ValueError, match="frames are on cpu, expected a GPU"):
            model.eval()(plain)
    with pytest.raises(ValueError, match="shapes is 0"):
        GraphedModel(ToyModel(), 0)


def test_a_replay_gives_copies_and_what_is_no_tensor():
    class Graph:
        def replay(self):
            own.mul_(2)

    own = torch.zeros(1, 1, 1, 4, 4)
    replay = _replay(Graph(), own, SegOutput(own, activation="softmax", frame_size=(8, 8)))
    first, second = replay(torch.ones_like(own)), replay(torch.full_like(own, 3))
    assert first.mask_logits.unique() == 2 and second.mask_logits.unique() == 6
    assert (second.activation, second.frame_size, second.class_logits) == ("softmax", (8, 8), None)


class TestOnGpu:
    """Replays against the model itself."""

    pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

    @pytest.mark.parametrize("half", [False, True])
    def test_a_replay_is_the_model(self, half):
        model = small().eval().cuda()
        graphed = GraphedModel(model)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=half):
            for _ in range(3):
                clip = torch.rand(1, 3, 3, 64, 64, device="cuda")
                ours, theirs = graphed(clip), model(clip)
                torch.testing.assert_close(ours.mask_logits, theirs.mask_logits, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(ours.class_logits, theirs.class_logits, rtol=1e-4, atol=1e-4)
            kept = ours.mask_logits.clone()
            graphed(torch.rand_like(clip))
        assert torch.equal(ours.mask_logits, kept)

    def test_the_predictor_takes_it(self):
        model = small().eval()
        video = np.random.default_rng(0).integers(0, 256, (4, 60, 70, 3), np.uint8)
        expected = Predictor(model, size=64, device="cuda").predict_frames(video)
        got = Predictor(GraphedModel(model), size=64, device="cuda").predict_frames(video)
        assert (got.mask != expected.mask).mean() < 1e-3 and got.mask.shape == expected.mask.shape
