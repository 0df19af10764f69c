"""The known data sets in every shape they come in, and clips out of records."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lgrnet.config import build, builds
from lgrnet.data.datasets import ClipDataset, MixedDataset, miccai_vps, sunseg, ufuv, video_folder
from lgrnet.data.samplers import Dense, LocalGlobal, Single, Window
from lgrnet.data.still_to_clip import StillToClip
from lgrnet.data.transforms import RandomFlip, Resize, published_training
from lgrnet.draws import python_generator
from lgrnet.records import DataError, list_videos, write_frame, write_mask
from tests.data.layout import blob, write_video

pytestmark = pytest.mark.filterwarnings("ignore:.*do not compare with published ones")


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def names(records):
    return [record.name for record in records]


@pytest.fixture
def sun(tmp_path: Path) -> Path:
    clips = {
        "TrainDataset": ("case1_1", "case1_3", "case2"),
        "TestEasyDataset/Seen": ("case1_2",),
        "TestEasyDataset/Unseen": ("case7_1", "case7_2"),
        "TestHardDataset/Seen": ("case2_1",),
        "TestHardDataset/Unseen": ("case10",),
    }
    for folder, videos in clips.items():
        for video in videos:
            write_video(tmp_path / folder, video, 2, suffix=".jpg")
    return tmp_path


def combine(sun: Path, name: str) -> None:
    """What the published script does to Easy: Seen and Unseen are moved into one folder."""
    easy = sun / "TestEasyDataset"
    for part in ("Seen", "Unseen"):
        for kind in ("Frame", "GT"):
            (easy / name / kind).mkdir(parents=True, exist_ok=True)
            for video in sorted((easy / part / kind).iterdir()):
                video.rename(easy / name / kind / video.name)


def test_sunseg_splits_and_pools(sun):
    assert names(sunseg(sun, "train")) == ["case1_1", "case1_3", "case2"]
    assert names(sunseg(sun, "easy_seen")) == ["case1_2"]
    assert names(sunseg(sun, "easy")) == ["case1_2", "case7_1", "case7_2"]
    assert names(sunseg(sun, "hard_unseen")) == ["case10"]
    assert names(sunseg(sun, "hard")) == ["case2_1", "case10"]
    record = sunseg(sun, "hard")[0]
    assert record.meta == {"dataset": "sunseg", "split": "hard", "patient": "case2", "seen": "seen"}


@pytest.mark.parametrize("below", ["SUN-SEG", "SUN-SEG-Annotation", "SUN-SEG/SUN-SEG-Annotation"])
def test_sunseg_below_its_parents(sun, below, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    (parent / below).parent.mkdir(exist_ok=True)
    (parent / below).symlink_to(sun)
    assert names(sunseg(parent, "easy")) == ["case1_2", "case7_1", "case7_2"]


@pytest.mark.parametrize("name", ["combine", "Combine"])
def test_sunseg_after_the_published_script(sun, name):
    combine(sun, name)
    assert names(sunseg(sun, "easy")) == ["case1_2", "case7_1", "case7_2"]
    assert names(sunseg(sun, "easy_seen")) == ["case1_2"]
    assert names(sunseg(sun, "easy_unseen")) == ["case7_1", "case7_2"]
    assert names(sunseg(sun, "hard")) == ["case2_1", "case10"]
    assert [record.meta["seen"] for record in sunseg(sun, "easy")] == ["seen", "unseen", "unseen"]


def test_sunseg_pool_without_training_data(sun):
    combine(sun, "combine")
    (sun / "TrainDataset").rename(sun / "elsewhere")
    assert ["seen" in record.meta for record in sunseg(sun, "easy")] == [False] * 3
    with pytest.raises(DataError, match="to tell them apart .*TrainDataset"):
        sunseg(sun, "easy_seen")


def test_sunseg_names_stay_unique(sun):
    write_video(sun / "TestEasyDataset/Unseen", "case1_2", 2)
    assert names(sunseg(sun, "easy")) == ["case1_2", "Unseen_case1_2", "case7_1", "case7_2"]


def test_sunseg_says_when_it_is_not_the_published_split(sun):
    with pytest.warns(UserWarning, match="split 'easy' has 3 videos here, the published one 119"):
        sunseg(sun, "easy")


def test_sunseg_splits_that_are_not_there(sun):
    with pytest.raises(DataError, match=r"no split 'validation'; it has train, easy_seen.*found: train, easy_seen"):
        sunseg(sun, "validation")
    (sun / "TestHardDataset").rename(sun / "elsewhere")
    with pytest.raises(DataError, match="splits found there: train, easy_seen, easy_unseen, easy$"):
        sunseg(sun, "hard")
    with pytest.raises(DataError, match="splits found there: none"):
        sunseg(sun / "nowhere", "train")


def as_downloaded(folder: Path, video: str, **options) -> None:
    """<video>/Frame/*.png instead of Frame/<video>/*.png."""
    write_video(folder, "x", **options)
    for kind in ("Frame", "GT"):
        (folder / video).mkdir(parents=True, exist_ok=True)
        (folder / kind / "x").rename(folder / video / kind)
        if not any((folder / kind).iterdir()):
            (folder / kind).rmdir()


def test_miccai_vps_in_both_nestings(tmp_path):
    raw, done = tmp_path / "VPS-TrainSet/ASU-Mayo_Clinic/Train", tmp_path / "VPS-TrainSet/CVC-ColonDB-300/Train"
    as_downloaded(raw, "2")
    as_downloaded(raw, "10")
    write_video(done, "1")
    write_video(tmp_path / "VPS-TestSet/CVC-ColonDB-300", "5")
    assert names(miccai_vps(tmp_path, "mayo_train")) == ["2", "10"]
    assert names(miccai_vps(tmp_path, "cvc300_train")) == ["1"]
    assert names(miccai_vps(tmp_path, "cvc300_tv")) == ["5"]
    as_downloaded(done, "1")
    assert names(miccai_vps(tmp_path, "cvc300_train")) == ["1"]
    with pytest.raises(DataError, match="found there: mayo_train, cvc300_train, cvc300_tv"):
        miccai_vps(tmp_path, "cvc612_val")
    with pytest.raises(DataError, match="it has kvasir_train, mayo_train"):
        miccai_vps(tmp_path, "train")


def test_miccai_vps_leaves_empty_masks_out_as_published(tmp_path):
    raw = tmp_path / "VPS-TrainSet/CVC-ClinicDB-612/Train"
    as_downloaded(raw, "1", frames=4)
    as_downloaded(raw, "2", frames=3, empty=True)
    write_mask(raw / "1/GT/frame2.png", np.zeros((20, 24), bool))
    records = miccai_vps(tmp_path, "cvc612_train")
    assert names(records) == ["1"] and records[0].frame_names == ("frame0", "frame1", "frame3")
    assert len(miccai_vps(tmp_path, "cvc612_train", drop_empty=False)) == 2
    assert len(list((raw / "1/Frame").iterdir())) == 4
    as_downloaded(tmp_path / "VPS-TestSet/CVC-ClinicDB-612-Valid", "1", frames=3, empty=True)
    assert miccai_vps(tmp_path, "cvc612_val")[0].num_frames == 3


def test_kvasir_prepared_or_as_downloaded(tmp_path):
    stills = tmp_path / "IVPS-TrainSet"
    for index, stem in enumerate(("K1", "K2", "CVC_1")):
        write_frame(stills / f"Frame/{stem}.png", np.full((20, 24, 3), index))
        write_mask(stills / f"GT/{stem}.png", blob((20, 24)))
    (record,) = miccai_vps(tmp_path, "kvasir_train")
    assert record.frame_names == ("K1", "K2")
    write_video(tmp_path / "Kvasir-SEG", "1", 5)
    assert miccai_vps(tmp_path, "kvasir_train")[0].num_frames == 5


def test_ufuv_masks_and_boxes(tmp_path):
    write_video(tmp_path / "train", "a")
    write_video(tmp_path / "train", "a", masks="Box", empty=True)
    write_video(tmp_path / "test", "b")
    assert ufuv(tmp_path, "train")[0].masks[0].parent.parent.name == "GT"
    assert ufuv(tmp_path, "train", masks="Box")[0].masks[0].parent.parent.name == "Box"
    with pytest.raises(DataError, match="Box, which does not exist"):
        ufuv(tmp_path, "test", masks="Box")
    with pytest.raises(DataError, match='"GT" .masks. and "Box"'):
        ufuv(tmp_path, "test", masks="Scribble")
    with pytest.raises(DataError, match=r"no split 'val'; it has test, train"):
        ufuv(tmp_path, "val")


def test_a_folder_of_that_shape(tmp_path):
    write_video(tmp_path / "train", "v")
    write_video(tmp_path / "test", "w")
    assert names(video_folder(tmp_path / "test")) == ["w"]
    with pytest.raises(DataError, match="folders that have one: .*/test, .*/train"):
        video_folder(tmp_path / "validation")
    with pytest.raises(DataError, match="/train"):
        video_folder(tmp_path)


def test_one_sample_per_anchor(tmp_path):
    write_video(tmp_path, "a", 13)
    write_video(tmp_path, "b", 1)
    write_video(tmp_path, "c", 6)
    dataset = ClipDataset(list_videos(tmp_path), Single(), anchor_step=6)
    assert len(dataset) == 3 + 1 + 1
    anchors = [dataset.anchor(i) for i in range(5)]
    assert [(r.name, frame) for r, frame in anchors] == [("a", 0), ("a", 6), ("a", 12), ("b", 0), ("c", 0)]
    for index in (-1, 5):
        with pytest.raises(IndexError, match="data set of 5"):
            dataset.sample(index, rng())


def test_a_clip_is_what_is_on_disk(tmp_path):
    write_video(tmp_path, "v", 8)
    clip = ClipDataset(list_videos(tmp_path), Dense(3, 2)).sample(1, rng(), position=77)
    assert clip.frames.shape == (3, 3, 20, 24) and clip.frames.dtype == torch.float32
    assert (clip.frames[:, 0, 0, 0] * 255).round().tolist() == [1, 3, 5]
    assert clip.info.frame_names == ("frame1", "frame3", "frame5") and clip.info.position == 77
    assert clip.info.disk_size == (20, 24) and clip.info.valid_size == (3, 20, 24)
    assert clip.targets.labels.tolist() == [0] and clip.targets.labels.dtype == torch.int64
    assert np.array_equal(clip.targets.masks[0, 1].bool().numpy(), blob((20, 24), 3))
    assert clip.targets.valid.all() and clip.targets.annotated.tolist() == [True] * 3


def test_transforms_change_size_but_not_the_size_on_disk(tmp_path):
    write_video(tmp_path, "v", 8)
    clip = ClipDataset(list_videos(tmp_path), LocalGlobal(), published_training(32)).sample(0, rng())
    assert clip.frames.shape == (6, 3, 32, 32) and clip.targets.masks.shape == (1, 6, 32, 32)
    assert clip.info.disk_size == (20, 24) and clip.info.valid_size == (6, 32, 32)


def test_one_object_per_class_that_is_seen(tmp_path):
    for index, values in enumerate(((1, 4), (4,), (9,))):
        write_frame(tmp_path / f"Frame/v/{index}.png", np.zeros((8, 8, 3)))
        raw = np.zeros((8, 8), np.uint8)
        for row, value in enumerate(values):
            raw[row] = value
        (tmp_path / "GT/v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(raw).save(tmp_path / f"GT/v/{index}.png")
    records = list_videos(tmp_path, label_map={1: 1, 4: 3, 9: 2})
    clip = ClipDataset(records, Window(3)).sample(0, rng())
    assert clip.targets.labels.tolist() == [0, 1, 2]
    clip = ClipDataset(records, Single()).sample(1, rng())
    assert clip.targets.labels.tolist() == [2] and clip.targets.masks.sum() == 8
    unknown = ClipDataset(list_videos(tmp_path, label_map={1: 1}), Single())
    with pytest.raises(DataError, match=r"GT/v/2.png holds the values \[9\]"):
        unknown.sample(2, rng())


def test_soft_masks(tmp_path):
    write_video(tmp_path, "v", 1)
    Image.fromarray(np.full((20, 24), 51, np.uint8)).save(tmp_path / "GT/v/frame0.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = ClipDataset(list_videos(tmp_path, label_map="soft"), Single()).sample(0, rng())
    assert clip.targets.masks.unique().tolist() == pytest.approx([0.2])


def test_clips_without_foreground(tmp_path):
    write_video(tmp_path, "v", 4, empty=True)
    records = list_videos(tmp_path)
    with pytest.raises(DataError, match=r"no foreground in 2 clips .*frame1.png; set require_foreground=False"):
        ClipDataset(records, Window(2)).sample(1, rng())
    clip = ClipDataset(records, Window(2), require_foreground=False).sample(1, rng())
    assert clip.targets.labels.shape == (0,) and clip.targets.masks.shape == (0, 2, 20, 24)
    assert clip.targets.annotated.all()


def recorder(draws: list, clips: list):
    """A sampler that notes its calls and gives prepared clips."""

    def sampler(video_len, anchor, generator):
        draws.append(anchor)
        return clips[len(draws) - 1]

    return sampler


def test_drawn_again_until_there_is_foreground(tmp_path):
    write_video(tmp_path, "v", 3)
    write_mask(tmp_path / "GT/v/frame0.png", np.zeros((20, 24), bool))
    records = list_videos(tmp_path)
    draws: list[int] = []
    clip = ClipDataset(records, recorder(draws, [[0], [1]])).sample(0, rng())
    assert draws == [0, 0] and clip.info.frame_names == ("frame1",)
    draws.clear()
    third_shows_some = [[0], [0], [1]]
    with pytest.raises(DataError, match="no foreground in 2"):
        ClipDataset(records, recorder(draws, third_shows_some)).sample(0, rng())
    draws.clear()
    assert ClipDataset(records, recorder(draws, third_shows_some), max_draws=3).sample(0, rng())
    draws.clear()
    ClipDataset(records, recorder(draws, third_shows_some), require_foreground=False).sample(0, rng())
    assert draws == [0]


def test_frames_without_annotation(tmp_path):
    write_video(tmp_path, "v", 3)
    (tmp_path / "GT/v/frame1.png").unlink()
    clip = ClipDataset(list_videos(tmp_path, require_masks=False), Window(3)).sample(0, rng())
    assert clip.targets.annotated.tolist() == [True, False, True]
    assert clip.targets.masks[0, 1].sum() == 0


def test_stills_become_clips(tmp_path):
    write_video(tmp_path, "stills", 2, size=(40, 48))
    dataset = ClipDataset(list_videos(tmp_path), Single(), [StillToClip(6), Resize(32)])
    clip = dataset.sample(1, rng())
    assert clip.frames.shape == (6, 3, 32, 32)
    assert clip.info.frame_names == ("frame1",) * 6 and clip.targets.annotated.tolist() == [True] * 6


def test_grey_edges_warn_once_per_video(tmp_path):
    write_video(tmp_path, "v", 2)
    raw = blob((20, 24)).astype(np.uint8) * 255
    raw[0, 6] = 90
    Image.fromarray(raw).save(tmp_path / "GT/v/frame0.png")
    dataset = ClipDataset(list_videos(tmp_path), Window(2))
    with pytest.warns(UserWarning, match="grey edges: 1 pixels") as caught:
        for _ in range(3):
            dataset.sample(0, rng())
    assert len(caught) == 1


def test_mixed_data_sets(tmp_path):
    write_video(tmp_path / "a", "v", 3)
    write_video(tmp_path / "b", "w", 2)
    first = ClipDataset(list_videos(tmp_path / "a"), Single())
    second = ClipDataset(list_videos(tmp_path / "b"), Single(), [Resize(16)])
    mixed = MixedDataset([first, second])
    clips = [mixed.sample(i, rng(), i) for i in range(len(mixed))]
    assert [clip.info.video for clip in clips] == ["v", "v", "v", "w", "w"]
    assert [clip.info.frame_names[0] for clip in clips][3:] == ["frame0", "frame1"]
    assert clips[4].frames.shape[-1] == 16 and clips[4].info.position == 4
    for index in (-1, 5):
        with pytest.raises(IndexError):
            mixed.sample(index, rng())


def test_data_sets_that_cannot_be_used(tmp_path):
    write_video(tmp_path, "v")
    records = list_videos(tmp_path)
    with pytest.raises(DataError, match="the data set is empty"):
        ClipDataset([], Single())
    with pytest.raises(DataError, match="the data set is empty"):
        MixedDataset([])
    with pytest.raises(DataError, match=r"\[1, 2\] classes"):
        ClipDataset(records + list_videos(tmp_path, label_map={1: 1, 2: 2}), Single())
    with pytest.raises(ValueError, match="sampler is None; expected what chooses frames"):
        ClipDataset(records, None)
    with pytest.raises(ValueError, match="anchor_step 0"):
        ClipDataset(records, Single(), anchor_step=0)


@pytest.mark.parametrize("chosen", [[], [0, 8], [-1, 0], [0.0], ["0"]])
def test_samplers_that_choose_what_is_not_there(tmp_path, chosen):
    write_video(tmp_path, "v", 8)
    dataset = ClipDataset(list_videos(tmp_path), lambda frames, anchor, rng: chosen)
    with pytest.raises(DataError, match=r"chose the frames \[.*\] around frame 2 of video 'v'; expected some of 0..7"):
        dataset.sample(2, rng())


def test_masks_and_frames_of_other_kinds_are_taken(tmp_path):
    write_video(tmp_path, "v", 8)
    expected = ClipDataset(list_videos(tmp_path), Dense(3, 2)).sample(0, rng())
    for change in (lambda m: m > 0, lambda m: m.astype(np.float64), torch.from_numpy):
        dataset = ClipDataset(
            list_videos(tmp_path),
            lambda frames, anchor, rng: torch.arange(0, 5, 2),
            lambda frames, masks, rng, change=change: (frames, change(masks)),
        )
        found = dataset.sample(0, rng())
        assert found.targets.masks.dtype == torch.float32 and found.info == expected.info
        assert torch.equal(found.targets.masks, expected.targets.masks)


@pytest.mark.parametrize(
    "transform",
    [
        lambda frames, masks, rng: (frames.astype(np.float32) / 255, masks),
        lambda frames, masks, rng: (frames[:, :10], masks),
        lambda frames, masks, rng: (frames, masks[:, :2]),
        lambda frames, masks, rng: (frames[:2], masks[:, :2]),
        lambda frames, masks, rng: (frames, (masks * 255).astype(np.uint8)),
        lambda frames, masks, rng: (frames.transpose(0, 3, 1, 2), masks),
    ],
)
def test_transforms_that_take_a_clip_apart(tmp_path, transform):
    write_video(tmp_path, "v", 8)
    dataset = ClipDataset(list_videos(tmp_path), Dense(3, 1), transform)
    with pytest.raises(
        DataError, match=r"video 'v' gave frames .* and masks .* of 3 frames; expected uint8 \[T, H, W, 3\]"
    ):
        dataset.sample(0, rng())


def test_built_from_a_config(tmp_path):
    write_video(tmp_path, "v", 4)
    node = builds(
        ClipDataset,
        records=builds(video_folder, root=str(tmp_path), label_map={255: 1}),
        sampler=builds(Window, size=2),
        transforms=[builds(Resize, size=[16, 24]), builds(RandomFlip)],
    )
    clip = build(node).sample(0, python_generator(1, 0, "sample"), 0)
    assert clip.frames.shape == (2, 3, 16, 24) and clip.targets.labels.tolist() == [0]
