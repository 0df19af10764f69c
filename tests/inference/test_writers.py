"""Masks and pictures on disk, and names that try to leave their folder."""

import numpy as np
import pytest
from PIL import Image

from lgrnet.evaluation import Evaluator, SvANetSizeProtocol
from lgrnet.inference.writers import save_frames_sheet, save_masks, save_overlays, save_video_overlays
from lgrnet.records import Prediction, VideoRecord, read_frame, read_mask, write_frame, write_mask
from lgrnet.visualize import INVENTED, MISSED, RIGHT


def _prediction(mask, video="case1", names=None, probability=None):
    names = names or tuple(f"f{i}" for i in range(mask.shape[1]))
    probability = mask.astype(np.uint8) * 255 if probability is None else probability
    return Prediction(video, names, np.ones(len(mask), np.float32), probability, mask)


def _random_mask(*shape, seed=0):
    return np.random.default_rng(seed).random(shape) > 0.5


def test_masks_are_saved_as_published(tmp_path):
    mask = _random_mask(1, 3, 20, 30)
    paths = save_masks(_prediction(mask), tmp_path / "web")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [f"web/case1/f{i}.png" for i in range(3)]
    for index, path in enumerate(paths):
        image = Image.open(path)
        assert image.mode == "L" and set(np.unique(image)) == {0, 255}
        assert np.array_equal(np.asarray(image) > 0, mask[0, index])
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["f0.png", "f1.png", "f2.png"], "no drafts stay"


def test_two_frames_of_one_name_would_be_one_file(tmp_path):
    with pytest.raises(ValueError, match="two frames named 'b', whose masks would be one file"):
        save_masks(_prediction(_random_mask(1, 3, 20, 30), names=("a", "b", "b")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_several_classes_are_indexed_and_the_surer_one_wins(tmp_path):
    mask = np.zeros((2, 1, 2, 3), bool)
    mask[0, 0, :, :2] = True
    mask[1, 0, :, 1:] = True
    probability = np.zeros(mask.shape, np.uint8)
    probability[0, 0, 0], probability[1, 0, 1] = 200, 200
    (path,) = save_masks(_prediction(mask, probability=probability), tmp_path)
    assert read_mask(path).tolist() == [[1, 1, 2], [1, 2, 2]]
    assert Image.open(path).mode == "P"


@pytest.mark.parametrize("video", ["..", "../other", "a/../../b", "/tmp/elsewhere", "", ".", "a\0b"])
def test_names_of_videos_cannot_leave_the_folder(tmp_path, video):
    with pytest.raises(ValueError, match="would be written outside"):
        save_masks(_prediction(_random_mask(1, 1, 4, 4), video), tmp_path / "web")
    assert not list(tmp_path.rglob("*.png"))


def test_a_link_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "web" / "case1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="would be written outside"):
        save_masks(_prediction(_random_mask(1, 1, 4, 4)), tmp_path / "web")


@pytest.mark.parametrize("name", ["../f", "a/b", "..", ""])
def test_names_of_frames_are_file_names(tmp_path, name):
    with pytest.raises(ValueError, match="is no file name"):
        save_masks(_prediction(_random_mask(1, 1, 4, 4), names=(name,)), tmp_path)


def test_odd_names_are_kept(tmp_path):
    names = ('a "quoted" <b>', "zwei\nzeilen", "\u5185\u8996\u93e1", "x" * 251)
    paths = save_masks(_prediction(_random_mask(1, 4, 4, 4), "Seen/case 1", names), tmp_path)
    assert [p.stem for p in paths] == list(names)
    assert all(p.is_file() and p.parent == (tmp_path / "Seen" / "case 1").resolve() for p in paths)


@pytest.fixture
def scored(tmp_path):
    """Two videos of four frames with a predicted box that is more and more beside the true one."""
    evaluator, records = Evaluator(set_name="easy"), []
    for number, video in enumerate(("a", "b")):
        truth, mask = np.zeros((4, 40, 60), bool), np.zeros((1, 4, 40, 60), bool)
        for index in range(3):
            shift = 4 * index + 2 * number
            truth[index, 10:30, 10:30] = True
            mask[0, index, 10:30, 10 + shift : 30 + shift] = True
        frames = tuple(tmp_path / "Frame" / video / f"{i}.png" for i in range(4))
        masks = tuple(tmp_path / "GT" / video / f"{i}.png" for i in range(4))
        for index in range(4):
            write_frame(frames[index], np.full((40, 60, 3), 100, np.uint8))
            write_mask(masks[index], truth[index])
        records.append(VideoRecord(video, frames, masks))
        prediction = _prediction(mask, video, tuple("0123"))
        save_masks(prediction, tmp_path / "web")
        evaluator.process(prediction, [read_mask(path) for path in masks])
    return evaluator, records


def test_worst_and_best_frames_in_order(scored, tmp_path):
    evaluator, records = scored
    paths = save_overlays(evaluator.rows, records, tmp_path / "web", tmp_path / "pictures", "easy", count=2)
    expected = ["worst_1_b_2.png", "worst_2_a_2.png", "best_1_a_0.png", "best_2_b_0.png", "sheet.png"]
    assert [p.name for p in paths] == expected, "frame 3 is empty and right: nothing to look at"
    picture = read_frame(paths[0])
    assert picture.shape == (40, 60, 3)
    centre = {"invented": picture[20, 36], "missed": picture[20, 14], "right": picture[20, 25]}
    assert centre["invented"].argmax() == 0 and centre["missed"].argmax() == 2 and centre["right"].argmax() == 1
    sheet = read_frame(paths[-1])
    assert sheet.shape[1] > 2 * 60
    assert all((sheet == colour).all(2).sum() > 100 for colour in (RIGHT, INVENTED, MISSED)), "the legend's swatches"


def test_the_frames_of_a_sheet_are_spread_and_the_same_each_time(scored, tmp_path):
    _, records = scored
    web, out = tmp_path / "web", tmp_path / "pictures"
    path = save_frames_sheet(records, web, out, "easy", count=3)
    sheet = read_frame(path)
    assert path == (out / "easy" / "frames.png").resolve() and sheet.shape[1] >= 3 * 60
    assert (read_frame(save_frames_sheet(records, web, out, "easy", count=3)) == sheet).all()
    assert read_frame(save_frames_sheet(records, web, out, "all", count=50)).shape[0] > sheet.shape[0]
    nothing = [VideoRecord("a", records[0].frames, (None,) * 4)]
    assert save_frames_sheet(nothing, web, out, "none") is None
    assert save_frames_sheet(records, web, out, "none", count=0) is None


def test_frames_of_a_protocol_that_sees_all_classes(scored, tmp_path):
    evaluator, records = scored
    by_size = Evaluator([SvANetSizeProtocol()], "easy")
    for record in records:
        mask = np.stack([read_mask(tmp_path / "web" / record.name / f"{name}.png") > 0 for name in record.frame_names])
        by_size.process(_prediction(mask[None], record.name, record.frame_names), [*map(read_mask, record.masks)])
    chosen = {"count": 2, "protocol": "svanet-size", "metric": "dice"}
    paths = save_overlays(by_size.rows, records, tmp_path / "web", tmp_path / "pictures", "size", **chosen)
    expected = save_overlays(evaluator.rows, records, tmp_path / "web", tmp_path / "pictures", "easy", count=2)
    assert [path.name for path in paths] == [path.name for path in expected], "frames without objects have no number"
    assert (read_frame(paths[0]) == read_frame(expected[0])).all()


def test_no_frame_is_both_worst_and_best(scored, tmp_path):
    evaluator, records = scored
    paths = save_overlays(evaluator.rows, records, tmp_path / "web", tmp_path / "pictures", "easy", count=50)
    assert len([p for p in paths if p.name.startswith("worst")]) == 8
    assert len(paths) == 9
    assert save_overlays([], records, tmp_path / "web", tmp_path / "none", "easy") == []


def test_overlays_of_a_whole_video(tmp_path):
    mask = _random_mask(1, 5, 16, 24)
    frames = [(f"f{i}", np.full((16, 24, 3), 90, np.uint8)) for i in range(5)]
    paths = save_video_overlays(frames, _prediction(mask), tmp_path, sheet_frames=3)
    names = [p.relative_to(tmp_path.resolve()).as_posix() for p in paths]
    assert names == [*(f"case1/f{i}.jpg" for i in range(5)), "case1_sheet.png"]
    assert all(p.is_file() for p in paths)
    assert (read_frame(paths[-1])[:24] == RIGHT).all(2).sum() > 100, "the legend's swatch"
    with pytest.raises(ValueError, match="frame 0 of video 'case1' is 'g0', which was not predicted there"):
        save_video_overlays([("g0", frames[0][1])], _prediction(mask), tmp_path)
