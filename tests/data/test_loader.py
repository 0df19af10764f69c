"""The order of samples, collation, and a loader whose batches depend on seed and step alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lgrnet.data.datasets import ClipDataset
from lgrnet.data.loader import ClipLoader, SampleStream, collate
from lgrnet.data.samplers import LocalGlobal, Single
from lgrnet.data.transforms import published_training
from lgrnet.draws import python_generator
from lgrnet.records import DataError, list_videos
from lgrnet.structures import Clip, ClipInfo, Targets
from tests.data.layout import write_video


def clip_of(frames: torch.Tensor, masks: torch.Tensor, labels: torch.Tensor) -> Clip:
    t, _, h, w = frames.shape
    valid, annotated = torch.ones(t, h, w, dtype=torch.bool), torch.ones(t, dtype=torch.bool)
    info = ClipInfo("v", ("f",) * t, (h, w), (t, h, w))
    return Clip(frames, Targets(labels, masks.float(), valid, annotated), info)


@pytest.fixture
def dataset(tmp_path: Path) -> ClipDataset:
    for name in ("a", "b"):
        write_video(tmp_path, name, 5)
    return ClipDataset(list_videos(tmp_path), LocalGlobal(4), published_training(32))


def take(loader: ClipLoader, start: int, count: int) -> list:
    batches = loader.batches(start)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def same(first, second) -> bool:
    tensors = zip(first.targets, second.targets, strict=True)
    return (
        first.infos == second.infos
        and torch.equal(first.frames, second.frames)
        and first.frames.stride() == second.frames.stride()
        and all(torch.equal(x, y) for a, b in tensors for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    )


def test_stream_is_the_published_one(golden):
    expected = json.loads((golden / "data/sequences.json").read_text())["stream_seed2024_len3292_bs4"]
    stream = SampleStream(3292, 2024)
    assert [stream.index(position) for position in range(len(expected))] == expected


def test_stream_goes_on_anywhere():
    whole = [SampleStream(7, 3).index(position) for position in range(40)]
    stream = SampleStream(7, 3)
    assert [stream.index(position) for position in (39, 0, 13, 14, 6, 7)] == [whole[i] for i in (39, 0, 13, 14, 6, 7)]
    epochs = [tuple(whole[i : i + 7]) for i in range(0, 35, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) > 1


def test_stream_costs_one_permutation_per_epoch(monkeypatch):
    calls, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **kw: calls.append(n) or randperm(n, **kw))
    stream = SampleStream(1000, 0)
    for position in range(50_000, 50_900):
        stream.index(position)
    assert len(calls) == 51


def test_streams_that_cannot_start():
    with pytest.raises(DataError, match="data set is empty"):
        SampleStream(0, 1)
    with pytest.raises(ValueError, match="position -1"):
        SampleStream(3, 1).index(-1)


def test_collate_is_the_published_one(golden):
    case = np.load(golden / "data/collate_and_eval.npz")
    videos = torch.from_numpy(case["videos"])
    clips = []
    for i, (t, h, w) in enumerate(case["sizes"].tolist()):
        masks = torch.from_numpy(case[f"masks{i}"])[..., :h, :w]
        clips.append(clip_of(videos[i, :t, :, :h, :w], masks, torch.tensor([0])))
    batch = collate(clips)
    assert torch.equal(batch.frames, videos) and batch.frames.is_contiguous()
    assert torch.equal(torch.stack([t.annotated for t in batch.targets]), torch.from_numpy(case["has_ann"]))
    for i, targets in enumerate(batch.targets):
        t = case[f"masks{i}"].shape[1]
        assert np.array_equal(targets.masks[:, :t].bool().numpy(), case[f"masks{i}"])
        assert not targets.masks[:, t:].any() and targets.valid.all()
        assert targets.masks.shape[1:] == targets.valid.shape == (3, 64, 64)


def test_collate_pads_to_the_stride_and_keeps_clips_without_objects():
    clip = clip_of(torch.ones(2, 3, 33, 20), torch.zeros(0, 2, 33, 20), torch.zeros(0, dtype=torch.long))
    batch = collate([clip], stride=16)
    assert batch.frames.shape == (1, 2, 3, 48, 32) and batch.frames.sum() == 2 * 3 * 33 * 20
    assert batch.targets[0].masks.shape == (0, 2, 48, 32)
    assert batch.infos[0].valid_size == (2, 33, 20)
    assert collate([clip], stride=1).frames.shape == (1, 2, 3, 33, 20)
    with pytest.raises(ValueError, match="no clips"):
        collate([])


def test_batches_follow_the_stream(dataset):
    stream = SampleStream(len(dataset), 5)
    for step, batch in enumerate(take(ClipLoader(dataset, 4, seed=5), 0, 5)):
        assert batch.positions == tuple(range(4 * step, 4 * step + 4))
        assert [i.video for i in batch.infos] == [dataset.anchor(stream.index(p))[0].name for p in batch.positions]


def test_each_position_has_its_own_draws_keyed_as_promised(dataset):
    stream, draws = SampleStream(len(dataset), 5), {}
    for position, batch in enumerate(take(ClipLoader(dataset, 1, seed=5), 0, 40)):
        expected = dataset.sample(stream.index(position), python_generator(5, position, "sample"), position)
        assert same(batch, collate([expected]))
        draws.setdefault(stream.index(position), set()).add(batch.infos[0].frame_names)
    assert max(len(found) for found in draws.values()) > 1


def test_resumed_batches_are_the_same(dataset):
    whole = take(ClipLoader(dataset, 4, seed=5), 0, 6)
    assert all(same(a, b) for a, b in zip(whole[3:], take(ClipLoader(dataset, 4, seed=5), 3, 3), strict=True))
    other = take(ClipLoader(dataset, 4, seed=6), 0, 1)[0]
    assert not same(whole[0], other)


def test_workers_change_nothing(dataset):
    cv2.resize(np.zeros((512, 512, 3), np.float32), (160, 160))  # OpenCV's threads are running in this process
    alone = take(ClipLoader(dataset, 4, seed=5), 2, 4)
    before = torch.get_rng_state()
    shared_out = take(ClipLoader(dataset, 4, seed=5, workers=2), 2, 4)
    assert all(same(a, b) for a, b in zip(alone, shared_out, strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_batches_are_pinned_for_a_gpu(dataset, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: pinned.append(tensor) or tensor)
    (batch,) = take(ClipLoader(dataset, 2, 7, pin_memory=True), 0, 1)
    tensors = [batch.frames, *(tensor for target in batch.targets for tensor in vars(target).values())]
    assert {id(tensor) for tensor in tensors} <= set(map(id, pinned))
    assert same(batch, take(ClipLoader(dataset, 2, 7), 0, 1)[0])


def test_ranks_share_a_step_among_them(dataset):
    whole = take(ClipLoader(dataset, 4, seed=5), 0, 3)
    parts = [take(ClipLoader(dataset, 4, seed=5, rank=rank, world=2), 0, 3) for rank in range(2)]
    for step in range(3):
        first, second = parts[0][step], parts[1][step]
        assert first.positions == (4 * step, 4 * step + 2) and second.positions == (4 * step + 1, 4 * step + 3)
        assert torch.equal(first.frames, whole[step].frames[::2])
        assert torch.equal(second.frames, whole[step].frames[1::2])


KILLED = """
import sys, time
from lgrnet.data.datasets import ClipDataset, video_folder
from lgrnet.data.loader import ClipLoader
from lgrnet.data.samplers import Single

if __name__ == "__main__":
    batches = ClipLoader(ClipDataset(video_folder(sys.argv[1]), Single()), 2, seed=0, workers=2).batches()
    next(batches)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_training(tmp_path):
    write_video(tmp_path, "v", 4)
    (tmp_path / "train.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as training:
        assert training.stdout.readline() == b"ready\n"
        assert len(members(training.pid)) >= 3
        training.kill()
    deadline = time.monotonic() + 30
    while members(training.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members(training.pid)


def members(session: int) -> list[str]:
    """The processes of a session that are not yet gone."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(numbers[2]) == session and state != "Z":
            found.append(status.parent.name)
    return found


class _Signalled:
    """Samples of a worker that gets a signal meanwhile, as Ctrl-C and batch systems send them to all processes."""

    def __init__(self, name: str):
        self.name = name

    def __len__(self) -> int:
        return 2

    def sample(self, index, rng, position) -> Clip:
        if position == 0:
            os.kill(os.getpid(), getattr(signal, self.name))
        return clip_of(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_request_to_stop_is_for_the_training_and_not_for_its_workers(name):
    batches = ClipLoader(_Signalled(name), 1, seed=0, workers=1, stride=1).batches()
    assert next(batches).frames.shape == (1, 1, 3, 4, 4)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_workers_name_the_file(tmp_path, workers):
    write_video(tmp_path, "v", 4)
    broken = tmp_path / "Frame/v/frame2.png"
    broken.write_bytes(broken.read_bytes()[:100])
    loader = ClipLoader(ClipDataset(list_videos(tmp_path), Single()), 2, seed=0, workers=workers)
    with pytest.raises(DataError, match=r"frame2.png cannot be read .* \(sample 2 at position \d of the stream\)"):
        take(loader, 0, 3)


def test_loaders_that_cannot_be():
    with pytest.raises(ValueError, match="batch_size 3 .* multiple of 2 ranks"):
        ClipLoader([], 3, seed=0, world=2)
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        ClipLoader([], 4, seed=0, rank=2, world=2)
    with pytest.raises(DataError, match="empty"):
        next(ClipLoader([], 4, seed=0).batches())


class Ends:
    """A data set of somebody else, with a mistake in it."""

    def __len__(self):
        return 3

    def sample(self, index, rng, position):
        return next(iter(()))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_ends_an_iterator_does_not_end_the_stream(workers):
    with pytest.raises(RuntimeError, match="sample . at position 0 of the stream ended an iterator"):
        next(ClipLoader(Ends(), 1, seed=0, workers=workers).batches())
