"""The phantom: the same bits always, one lesion that comes and goes, the one layout, safe to run again."""

import json
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from lgrnet.data import phantom
from lgrnet.data.phantom import render_clip, write
from lgrnet.data.phantom_render import Instrument, Optics
from lgrnet.data.phantom_scene import generator
from lgrnet.records import list_videos, read_frame, read_mask


@pytest.fixture(scope="module")
def clips() -> list[tuple[np.ndarray, np.ndarray]]:
    """Six clips at a small size."""
    return [render_clip(2024, index, 24, 64) for index in range(6)]


def test_shapes_and_values(clips):
    for frames, masks in clips:
        assert frames.shape == (24, 64, 64, 3) and frames.dtype == np.uint8
        assert masks.shape == (24, 64, 64) and masks.dtype == np.uint8
        assert set(np.unique(masks)) == {0, 255}


def test_same_bits_in_any_order_and_with_any_number_of_threads(clips):
    threads = cv2.getNumThreads()
    try:
        for number in (1, 4):
            cv2.setNumThreads(number)
            for index in (5, 0):
                frames, masks = render_clip(2024, index, 24, 64)
                assert (frames == clips[index][0]).all() and (masks == clips[index][1]).all()
    finally:
        cv2.setNumThreads(threads)


def test_same_bits_at_full_size_with_any_number_of_threads():
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = render_clip(7, 3, 2, 256)
        cv2.setNumThreads(4)
        together = render_clip(7, 3, 2, 256)
    finally:
        cv2.setNumThreads(threads)
    assert (alone[0] == together[0]).all() and (alone[1] == together[1]).all()


def test_same_bits_in_another_process(clips):
    code = (
        "import sys, zlib; from lgrnet.data.phantom import render_clip; assert 'torch' not in sys.modules;"
        "frames, masks = render_clip(2024, 1, 24, 64); print(zlib.crc32(frames.tobytes()), zlib.crc32(masks.tobytes()))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == [str(zlib.crc32(array.tobytes())) for array in clips[1]]


def test_rendering_leaves_global_state_alone():
    state, threads = np.random.get_state()[1].copy(), cv2.getNumThreads()
    render_clip(0, 0, 1, 32)
    assert (np.random.get_state()[1] == state).all() and cv2.getNumThreads() == threads


def test_clips_and_seeds_differ(clips):
    other_seed = render_clip(2025, 0, 2, 64)[0]
    assert np.abs(clips[0][0][:2].astype(int) - other_seed).mean() > 10
    assert np.abs(clips[0][0].astype(int) - clips[1][0]).mean() > 10


def test_the_lesion_is_a_visible_part_of_the_frame(clips):
    shares = np.concatenate([(masks > 0).mean(axis=(1, 2)) for _, masks in clips])
    seen = shares[shares > 0]
    assert 0.04 < np.median(seen) < 0.12
    assert ((seen > 0.02) & (seen < 0.25)).mean() > 0.9
    assert seen.max() < 0.4


def test_the_lesion_leaves_and_returns(clips):
    shares = np.stack([(masks > 0).mean(axis=(1, 2)) for _, masks in clips])
    assert 0.07 < (shares == 0).mean() < 0.22
    for share in shares:
        absent = np.flatnonzero(share == 0)
        assert len(absent) >= 1
        assert share[: absent[0]].max() > 0.01 and share[absent[-1] + 1 :].max() > 0.01


def test_the_lesion_moves_and_changes_its_shape(clips):
    for _, masks in clips:
        first, later = masks[0] > 0, masks[7] > 0
        assert not (first == later).all()


def test_there_is_one_lesion(monkeypatch):
    monkeypatch.setattr(Instrument, "draw", lambda *_: None)  # one may cut the lesion in two
    for index in range(6):
        for mask in render_clip(2024, index, 12, 64)[1]:
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            # a fold may hide a piece between two others, but what remains is one large part
            assert count == 1 or stats[1:, cv2.CC_STAT_AREA].max() > 0.9 * stats[1:, cv2.CC_STAT_AREA].sum()


def test_the_instrument_hides_the_lesion(monkeypatch):
    def draw(instrument: Instrument, optics: Optics, time: float):
        cover = np.zeros(optics.x.shape, np.float32)
        cover[:, :32] = 1
        return cover, np.zeros((*cover.shape, 3), np.float32), np.ones_like(cover)

    monkeypatch.setattr(Instrument, "draw", lambda *_: None)
    with_one = next(i for i in range(20) if Optics(generator(2024, i, 3), 64, 64, 24).instrument)
    bare = render_clip(2024, with_one, 6, 64)[1]
    monkeypatch.setattr(Instrument, "draw", draw)
    frames, masks = render_clip(2024, with_one, 6, 64)
    assert bare[:, :, :32].any() and not masks[:, :, :32].any()
    assert (masks[:, :, 32:] == bare[:, :, 32:]).all()
    assert frames[:, 20:40, 20:28].mean() < 15


def test_some_clips_have_an_instrument_that_comes_and_goes():
    present = []
    for index in range(24):
        optics = Optics(generator(2024, index, 3), 64, 64, 24)
        if optics.instrument:
            present.append([optics.instrument.draw(optics, t / 24) is not None for t in range(24)])
    assert 4 <= len(present) <= 18
    assert all(any(row) and not all(row) for row in present)


def test_colours_are_those_of_tissue(clips):
    pixels = np.concatenate([frames.reshape(-1, 3) for frames, _ in clips]).astype(float)
    mean, deviation = pixels.mean(axis=0), pixels.std(axis=0)
    # real colonoscopy stills: mean 140, 93, 70 and deviation 73, 55, 46
    assert np.abs(mean - [140, 93, 70]).max() < 20
    assert (deviation > [45, 35, 28]).all() and (deviation < [80, 65, 55]).all()


def test_the_lesion_is_not_told_by_brightness_or_redness_alone(clips):
    accuracies = []
    for frames, masks in clips:
        red = frames[..., 0].astype(float) / (frames.sum(axis=3) + 1)
        for value in (red, frames.mean(axis=3)):
            inside, outside = np.median(value[masks > 0]), np.median(value[masks == 0])
            guess = (value > (inside + outside) / 2) == (inside > outside)
            overlap = 2 * (guess & (masks > 0)).sum() / (guess.sum() + (masks > 0).sum())
            accuracies.append(overlap)
    assert max(accuracies) < 0.75


@pytest.mark.parametrize("size", [32, 33, 100, (48, 80), (90, 40)])
def test_any_size(size):
    frames, masks = render_clip(3, 1, 3, size)
    height, width = (size, size) if isinstance(size, int) else size
    assert frames.shape == (3, height, width, 3) and masks.shape == (3, height, width)
    assert frames.std() > 20 and masks.any()


@pytest.mark.parametrize("num_frames", [1, 2, 40])
def test_any_length(num_frames):
    frames, masks = render_clip(3, 1, num_frames, 32)
    assert len(frames) == len(masks) == num_frames and np.isfinite(frames).all()


@pytest.mark.parametrize("wrong", [{"size": 31}, {"num_frames": 0}, {"seed": -1}, {"index": -2}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        render_clip(**{"seed": 0, "index": 0, "num_frames": 1, "size": 32, **wrong})


def test_one_clip_is_fast_enough():
    begin = time.process_time()
    render_clip(1, 1, 4, 256)
    assert time.process_time() - begin < 10, "24 clips of 24 frames are promised in 60 s"


def test_the_layout(tmp_path: Path):
    root = write(tmp_path / "phantom", num_clips=3, num_frames=2, size=32, seed=5)
    train, test = list_videos(root / "train"), list_videos(root / "test")
    assert [video.name for video in train] == ["clip000", "clip001"]
    assert [video.name for video in test] == ["clip002"]
    assert test[0].frame_names == ("000", "001")
    frames, masks = render_clip(5, 2, 2, 32)
    assert (read_mask(test[0].masks[1]) == masks[1]).all()
    assert np.abs(read_frame(test[0].frames[1]).astype(int) - frames[1]).mean() < 6
    assert json.loads((root / "phantom.json").read_text())["seed"] == 5


def test_a_second_run_does_nothing(tmp_path: Path, monkeypatch):
    write(tmp_path / "a", num_clips=2, num_frames=1, size=32)
    monkeypatch.setattr(phantom, "render_clip", lambda *_: pytest.fail("nothing is to be rendered"))
    write(tmp_path / "a", num_clips=2, num_frames=1, size=32)


def test_an_interrupted_run_is_finished(tmp_path: Path):
    parameters = {"num_clips": 3, "num_frames": 2, "size": 32}
    whole, cut = write(tmp_path / "whole", **parameters), tmp_path / "cut"

    def interrupt(line: str) -> None:
        if line.startswith("2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(cut, **parameters, progress=interrupt)
    (cut / "train" / "GT" / "clip001" / "001.png").unlink()
    lines = []
    write(cut, **parameters, progress=lines.append)
    assert [line.split()[0] for line in lines] == ["2/3", "3/3"]
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(cut) for path in cut.rglob("*") if path.is_file())
    assert all((whole / name).read_bytes() == (cut / name).read_bytes() for name in files)


def test_foreign_folders_are_refused(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(FileExistsError, match="holds no phantom data set"):
        write(tmp_path / "mine", num_clips=2, num_frames=1, size=32)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    write(tmp_path / "small", num_clips=2, num_frames=1, size=32)
    with pytest.raises(FileExistsError, match="size 32 instead of 64"):
        write(tmp_path / "small", num_clips=2, num_frames=1, size=64)
    (tmp_path / "small" / "phantom.json").write_text("{")
    with pytest.raises(FileExistsError, match="not readable"):
        write(tmp_path / "small", num_clips=2, num_frames=1, size=32)


def test_wrong_numbers_leave_no_folder(tmp_path: Path):
    for wrong in ({"num_clips": 1}, {"num_clips": 4, "num_test": 4}, {"size": 8}, {"num_frames": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="at least"):
            write(tmp_path / "none", **{"num_clips": 2, "num_frames": 1, "size": 32, **wrong})
        assert not (tmp_path / "none").exists()


def test_the_command(tmp_path: Path, capsys):
    arguments = ["--root", str(tmp_path / "p"), "--clips", "2", "--frames", "1", "--size", "32", "--seed", "9"]
    phantom.main(arguments)
    assert "2 clips" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        phantom.main([*arguments[:-1], "10"])
    assert "seed 9 instead of 10" in capsys.readouterr().err
