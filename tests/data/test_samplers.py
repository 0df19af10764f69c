"""Which frames make a clip: the published sequence exactly, and every sampler on videos of any length."""

from __future__ import annotations

import json
import random

import pytest

from lgrnet.data.samplers import Dense, LocalGlobal, Single, Window


@pytest.fixture(scope="module")
def sequence(golden):
    return json.loads((golden / "data/sequences.json").read_text())["frame_sampler_seed2024_sequential"]


def test_local_global_is_the_published_sampler(sequence):
    sampler, rng = LocalGlobal(single_frame="error"), random.Random(2024)
    assert len(sequence) == 90
    for video_len, anchor, expected in sequence:
        if expected is None:
            with pytest.raises(ValueError, match="one frame"):
                sampler(video_len, anchor, rng)
        else:
            assert sampler(video_len, anchor, rng) == expected


def test_repeating_one_frame_videos_leaves_the_other_draws_alone(sequence):
    sampler, rng = LocalGlobal(), random.Random(2024)
    for video_len, anchor, expected in sequence:
        assert sampler(video_len, anchor, rng) == (expected or [0] * 6)


@pytest.mark.parametrize(
    "sampler, length",
    [
        (LocalGlobal(), 6),
        (LocalGlobal(3), 3),
        (LocalGlobal(9, reach=5), 9),
        (Dense(4, 3), 4),
        (Window(5), 5),
        (Single(), 1),
    ],
)
def test_indices_are_ascending_frames_of_the_video(sampler, length):
    rng = random.Random(0)
    for video_len in (1, 2, 3, 4, 5, 7, 30):
        for anchor in range(video_len):
            indices = sampler(video_len, anchor, rng)
            assert len(indices) == length and indices == sorted(indices)
            assert 0 <= indices[0] and indices[-1] < video_len
            assert anchor in indices


def test_near_frames_are_near_and_far_ones_outside():
    rng = random.Random(1)
    for _ in range(200):
        indices = LocalGlobal()(100, 50, rng)
        assert any(47 <= i <= 49 for i in indices) and any(51 <= i <= 53 for i in indices)


def test_the_last_near_frame_comes_again_as_published_or_not():
    """In the middle of a long video nothing else can repeat."""
    for repeat in (True, False):
        sampler, rng = LocalGlobal(repeat_last_near=repeat), random.Random(0)
        clips = [sampler(12, 5, rng) for _ in range(200)]
        assert any(len(set(clip)) < 6 for clip in clips) is repeat
        assert all(max(clip) <= 11 and 5 in clip for clip in clips)


def test_dense_moves_back_at_the_end_by_whole_strides():
    rng = random.Random(0)
    assert Dense(3, 2)(10, 0, rng) == [0, 2, 4]
    assert Dense(3, 2)(10, 9, rng) == [5, 7, 9]
    assert Dense(4, 2)(3, 1, rng) == [1, 2, 2, 2]
    assert [Dense(3, 5)(12, anchor, rng) for anchor in (1, 4, 8, 11)] == [
        [1, 6, 11],
        [4, 9, 11],
        [3, 8, 11],
        [1, 6, 11],
    ]


def test_window_places_the_anchor_anywhere():
    rng = random.Random(0)
    starts = {Window(4)(50, 20, rng)[0] for _ in range(200)}
    assert starts == {17, 18, 19, 20}
    assert Window(4)(2, 1, rng) == [0, 1, 1, 1]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least 3"):
        LocalGlobal(2)
    with pytest.raises(ValueError, match='"repeat" or "error"'):
        LocalGlobal(single_frame="skip")
    with pytest.raises(ValueError, match="stride is 0"):
        Dense(3, 0)
    with pytest.raises(ValueError, match=r"anchor 5 is no frame of a video of 5 frames \(0..4\)"):
        Single()(5, 5, random.Random(0))
