"""Reading and writing the one layout, and what is said about data that cannot be used."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgrnet.evaluation import read_annotation
from lgrnet.records import (
    DataError,
    VideoRecord,
    benchmark_key,
    check_label_map,
    class_masks,
    frame_size,
    list_videos,
    natural_key,
    read_clip,
    read_frame,
    read_mask,
    warn_of_grey,
    write_frame,
    write_image,
    write_mask,
)
from tests.data.layout import write_video


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_video(tmp_path, "a10", 2)
    write_video(tmp_path, "a2", [f"x{i}" for i in (1, 2, 10)])
    return tmp_path


def save(path: Path, array: np.ndarray, mode: str | None = None, palette: list[int] | None = None) -> Path:
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    if palette:
        image = Image.fromarray(array, "P")
        image.putpalette(palette)
    image.save(path)
    return path


def test_no_torch():
    code = "import sys, lgrnet.records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_listing_orders_numbers_as_numbers_or_as_strings(root):
    assert [r.name for r in list_videos(root)] == ["a2", "a10"]
    assert list_videos(root)[0].frame_names == ("x1", "x2", "x10")
    by_name = list_videos(root, order="name")
    assert [r.name for r in by_name] == ["a10", "a2"]
    assert by_name[1].frame_names == ("x1", "x10", "x2")
    with pytest.raises(DataError, match='"natural", "name" or "benchmark"'):
        list_videos(root, order="size")


def test_the_benchmarks_order_of_sun_seg_names():
    names = ["M_2019_1_001-1_a2_ayy_image9", "M_2018_1_001-1_a10_image1", "M_2018_1_002-1_a1_image1", "x2", "x10"]
    assert sorted(reversed(names), key=benchmark_key) == names


def test_natural_order_of_sun_seg_names():
    stem = "case_M_20181001100941_0U62372100109341_1_005_001-1_a{}_ayy_image{:04d}"
    names = [stem.format(a, i) for a in (2, 10) for i in (1, 9, 123)]
    assert sorted(reversed(names), key=natural_key) == names
    assert sorted(names) != names


def test_records_know_what_they_are(root):
    record = list_videos(root, meta={"split": "train"}, label_map={1: 1, 255: 2})[0]
    assert (record.num_frames, record.num_classes, record.meta["split"]) == (3, 2, "train")
    assert [p.name for p in record.masks] == ["x1.png", "x2.png", "x10.png"]
    assert list_videos(root, masks=None)[0].masks == (None, None, None)


def test_chosen_videos_come_in_the_order_given(root):
    assert [r.name for r in list_videos(root, videos=["a10", "a2"])] == ["a10", "a2"]
    with pytest.raises(DataError, match=r"1 video \(b\) chosen, but .*Frame holds 2 videos \(a2, a10\)"):
        list_videos(root, videos=["b", "a2"])
    with pytest.raises(DataError, match="0 videos"):
        list_videos(root, videos=[])
    for given in ("a2", 12):
        with pytest.raises(DataError, match=rf"videos is .*{given}.*; expected a list of names, such as \[{given}\]"):
            list_videos(root, videos=given)


def test_hidden_files_and_other_files_are_no_frames(root):
    (root / "Frame/a2/._x1.png").write_bytes(b"mac")
    (root / "Frame/a2/notes.txt").write_text("")
    (root / "Frame/.DS_Store").write_text("")
    assert list_videos(root)[0].num_frames == 3


def test_a_missing_mask(root):
    (root / "GT/a2/x2.png").unlink()
    with pytest.raises(DataError, match=r"1 frame \(.*a2/x2\.png\) without a mask.*require_masks=False"):
        list_videos(root)
    record = list_videos(root, require_masks=False)[0]
    assert [mask is None for mask in record.masks] == [False, True, False]
    frames, raw = read_clip(record)
    assert len(frames) == 3 and raw[1] is None


def test_many_missing_masks_name_five(tmp_path):
    write_video(tmp_path, "v", 9)
    for i in range(7):
        (tmp_path / f"GT/v/frame{i}.png").unlink()
    with pytest.raises(DataError, match="7 frames") as caught:
        list_videos(tmp_path)
    assert str(caught.value).count("Frame/v/frame") == 5 and ", ..." in str(caught.value)


def test_an_extra_mask(root):
    write_mask(root / "GT/a2/x3.png", np.ones((20, 24), bool))
    with pytest.raises(DataError, match=r"1 mask \(.*x3\.png\) without a frame"):
        list_videos(root)
    with pytest.raises(DataError, match="x3.png"):
        list_videos(root, require_masks=False)


def test_masks_of_a_video_that_is_not_there(root):
    write_mask(root / "GT/a11/x1.png", np.ones((20, 24), bool))
    with pytest.raises(DataError, match=r"1 folder \(a11\) of masks"):
        list_videos(root)
    assert len(list_videos(root, videos=["a2"])) == 1


def test_a_video_without_frames(root):
    (root / "Frame/a3").mkdir()
    with pytest.raises(DataError, match=r"1 video \(.*a3\) without frames"):
        list_videos(root)
    with pytest.raises(DataError, match="no frames"):
        VideoRecord("v", (), ())


def test_an_empty_data_set(tmp_path):
    with pytest.raises(DataError, match="does not exist; expected"):
        list_videos(tmp_path)
    (tmp_path / "Frame").mkdir()
    with pytest.raises(DataError, match="holds no videos"):
        list_videos(tmp_path)
    write_frame(tmp_path / "Frame/v/1.png", np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="masks=None"):
        list_videos(tmp_path)


def test_a_frame_twice(root):
    write_frame(root / "Frame/a2/x1.jpg", np.zeros((20, 24, 3)))
    with pytest.raises(DataError, match="same frame twice"):
        list_videos(root)


def test_masks_and_frames_must_be_as_many():
    with pytest.raises(DataError, match="1 frames but 2 masks"):
        VideoRecord("v", (Path("a"),), (None, None))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("keep", [0, 30, 0.6])
def test_a_truncated_frame_is_named(tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    write_frame(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    for read in (read_frame, read_mask):
        with pytest.raises(DataError, match=f"cut{suffix} cannot be read"):
            read(path)


def test_damaged_bytes_are_an_error_or_a_picture_never_another_exception(tmp_path):
    path = tmp_path / "damaged.png"
    write_frame(path, np.random.default_rng(0).integers(0, 256, (16, 16, 3)))
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        data[rng.integers(8, len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read_frame(path)
        except DataError:
            refused += 1
    assert refused > 100


def test_a_missing_file_and_a_file_that_is_no_image(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    for name in ("text.png", "nowhere.png"):
        with pytest.raises(DataError, match=name):
            read_frame(tmp_path / name)


def test_the_pixel_cap_is_checked_before_decoding(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (9000, 9000)).save(path)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="9000 x 9000 pixels, more than the 64000000"):
        read_mask(path)
    with pytest.raises(DataError, match="more than the 10"):
        read_frame(save(tmp_path / "small.png", np.zeros((4, 4), np.uint8)), max_pixels=10)


def test_frames_of_any_mode_become_rgb(tmp_path):
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert (read_frame(save(tmp_path / "l.png", grey)) == grey[..., None]).all()
    assert (read_frame(save(tmp_path / "a.png", grey, "RGBA")) == grey[..., None]).all()
    with pytest.raises(DataError, match="more than 8 bits"):
        read_frame(save(tmp_path / "16.png", grey.astype(np.uint16) * 1000))


def test_mask_modes(tmp_path):
    raw = np.array([[0, 1], [2, 6]], np.uint8)
    palette = [0, 0, 0, 200, 0, 0, 0, 200, 0] + [9, 50, 7] * 6
    assert (read_mask(save(tmp_path / "p.png", raw, palette=palette)) == raw).all()
    beyond = np.array([[0, 1, 3]], np.uint8)  # a value without a colour
    assert (read_mask(save(tmp_path / "q.png", beyond, palette=palette[:9])) == beyond).all()
    assert (read_mask(save(tmp_path / "rgb.png", np.stack([raw] * 3, -1))) == raw).all()
    assert (read_mask(save(tmp_path / "la.png", raw, "LA")) == raw).all()
    assert (read_mask(save(tmp_path / "16.png", raw.astype(np.uint16))) == raw).all()
    assert (read_mask(save(tmp_path / "257.png", raw.astype(np.uint16) * 257)) == raw).all()
    assert read_mask(save(tmp_path / "1.png", raw > 1, "1")).tolist() == [[0, 0], [255, 255]]


def test_masks_that_have_no_clear_values(tmp_path):
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0] = 255, 0, 0
    with pytest.raises(DataError, match="rgb.png is a colour image"):
        read_mask(save(tmp_path / "rgb.png", colour))
    with pytest.raises(DataError, match="16.png has mode I;16 and values 0..1000"):
        read_mask(save(tmp_path / "16.png", np.array([[0, 1000]], np.uint16)))
    with pytest.raises(DataError, match="partly transparent"):
        read_mask(save(tmp_path / "a.png", np.zeros((2, 2, 4), np.uint8)))
    inside_out = np.array([[0, 1]], np.uint8)
    with pytest.raises(DataError, match="grey palette"):
        read_mask(save(tmp_path / "p.png", inside_out, palette=[255, 255, 255, 0, 0, 0]))


def grey_palette(**greys: int) -> list[int]:
    """Colours of indices that are given as i0=..., others black."""
    values = [0] * 256
    for name, grey in greys.items():
        values[int(name[1:])] = grey
    return [value for value in values for _ in range(3)]


def test_grey_palettes_whose_indices_are_class_values(tmp_path):
    """Indices count; a palette in no rising order is taken where its colours cannot be what is meant."""
    ignoring = {1: 1, 255: "ignore"}
    raw = np.array([[0, 1, 1, 255]], np.uint8)
    path = save(tmp_path / "twice.png", raw, palette=grey_palette(i1=255))
    assert (read_mask(path) == raw).all(), "two indices of one colour"
    assert (read_mask(path, label_map=ignoring) == raw).all()
    for wrong in ("binary", "half", {1: 1}, {1: 1, 2: 2}):
        with pytest.raises(DataError, match="twice.png has a grey palette"):
            read_mask(path, label_map=wrong)
    raw = np.array([[0, 1, 2, 2]], np.uint8)
    path = save(tmp_path / "three.png", raw, palette=grey_palette(i1=200, i2=100))
    assert (read_mask(path, label_map={1: 1, 2: 2}) == raw).all(), "greys that the label map does not know"
    for wrong in (None, "binary", "soft", {1: 1}, {100: 1, 200: 2}, {1: 1, 2: 2, 100: 1, 200: 2}):
        with pytest.raises(DataError, match="three.png has a grey palette"):
            read_mask(path, label_map=wrong)
    record = VideoRecord("v", (save(tmp_path / "f.png", np.zeros((1, 4, 3), np.uint8)),), (path,), {1: 1, 2: 2})
    assert (read_clip(record)[1][0] == raw).all() and (read_annotation(record)[0] == raw).all()


def test_class_masks():
    raw = np.array([[0, 1, 128, 255]], np.uint8)
    assert class_masks(raw).tolist() == [[[0, 1, 1, 1]]]
    soft = class_masks(raw, "soft")
    assert soft.dtype == np.float32 and soft[0, 0, 3] == 1 and soft[0, 0, 2] == np.float32(128) / 255
    indexed = class_masks(raw, {1: 2, 128: 1, 255: 0})
    assert indexed.tolist() == [[[0, 0, 1, 0]], [[0, 1, 0, 0]]]


def test_a_raw_value_that_the_label_map_does_not_know():
    with pytest.raises(DataError, match=r"GT/7.png holds the values \[3, 9\], unknown to the label map"):
        class_masks(np.array([[0, 1, 3, 9, 9]], np.uint8), {1: 1}, "GT/7.png")


@pytest.mark.parametrize("label_map", ["grey", {}, {1: 0}, {1: 2}, {300: 1}, {"a": 1}, {1: -1, 2: 1}, 5])
def test_label_maps_that_are_none(label_map):
    with pytest.raises(DataError, match="label_map"):
        check_label_map(label_map)


def test_label_maps_from_a_config_have_whole_numbers():
    assert check_label_map({"1": "1", 2.0: 1}) == {1: 1, 2: 1}


def grey_edged(root: Path) -> VideoRecord:
    write_video(root, "v", 2)
    raw = np.zeros((20, 24), np.uint8)
    raw[2:8, 2:8], raw[2, 2:8] = 255, 100
    save(root / "GT/v/frame1.png", raw)
    return list_videos(root)[0]


def test_grey_edges_warn_once_per_video(tmp_path):
    record, warned = grey_edged(tmp_path), set()
    with pytest.warns(UserWarning, match='6 pixels in 2 masks.*label_map="soft"'):
        read_clip(record, warned=warned)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_clip(record, warned=warned)
        read_clip(record, [0])
        soft = list_videos(tmp_path, label_map="soft")[0]
        read_clip(soft)


def test_masks_of_two_values_are_not_grey(root):
    record = list_videos(root)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_grey(record, [np.array([[0, 1], [1, 0]], np.uint8), np.zeros((2, 2), np.uint8), None])
    with pytest.warns(UserWarning, match="1 pixels in 1 masks"):
        warn_of_grey(record, [np.array([[0, 1], [2, 0]], np.uint8)])


def test_a_clip_repeats_frames_and_keeps_their_order(root):
    frames, raw = read_clip(list_videos(root)[0], [2, 0, 2])
    assert frames[:, 0, 0, 0].tolist() == [2, 0, 2]
    assert frames.dtype == np.uint8 and raw[0] is raw[2]


def test_sizes_that_differ(root):
    write_mask(root / "GT/a2/x2.png", np.ones((10, 24), bool))
    with pytest.raises(DataError, match=r"GT/a2/x2.png has \(10, 24\) but its frame .*x2.png has \(height"):
        read_clip(list_videos(root)[0])
    write_frame(root / "Frame/a2/x2.png", np.zeros((10, 24, 3)))
    with pytest.raises(DataError, match="frames of video 'a2' differ"):
        read_clip(list_videos(root)[0])
    read_clip(list_videos(root)[0], [1])


def test_masks_are_written_as_0_and_255(tmp_path):
    write_mask(tmp_path / "new/m.png", np.array([[True, False]]))
    assert read_mask(tmp_path / "new/m.png").tolist() == [[255, 0]]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_disk_that_is_full_leaves_no_half_picture(tmp_path, monkeypatch, suffix):
    old, new = np.full((8, 8, 3), 7, np.uint8), np.full((8, 8, 3), 200, np.uint8)
    path = tmp_path / f"f{suffix}"
    write_frame(path, old)

    def fails(image, draft, **options):
        Path(draft).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="No space left"):
        write_frame(path, new)
    with pytest.raises(OSError, match="No space left"):
        write_mask(tmp_path / "m.png", new[..., 0] > 0)
    monkeypatch.undo()
    assert np.array_equal(read_frame(path), old)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_process_that_is_killed_leaves_no_half_picture(tmp_path):
    """The draft that stays has a hidden name: listings of videos pass over it."""
    write_video(tmp_path, "v", 1)
    code = (
        "import os, sys, numpy as np; from PIL import Image; from lgrnet.records import write_mask\n"
        "def dies(image, draft, **options):\n    open(draft, 'wb').write(b'half'); os._exit(9)\n"
        "Image.Image.save = dies; write_mask(sys.argv[1], np.ones((20, 24)))"
    )
    path = tmp_path / "GT/v/frame0.png"
    before = path.read_bytes()
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 2
    assert list_videos(tmp_path)[0].masks == (path,)


def test_pictures_replace_each_other(tmp_path):
    for value in (1, 2):
        write_image(tmp_path / "new/p.png", Image.fromarray(np.full((3, 4), value, np.uint8)))
    assert (read_mask(tmp_path / "new/p.png") == 2).all()


def test_the_size_of_a_frame_without_its_pixels(tmp_path):
    write_frame(tmp_path / "f.jpg", np.random.default_rng(0).integers(0, 256, (30, 50, 3)))
    (tmp_path / "f.jpg").write_bytes((tmp_path / "f.jpg").read_bytes()[:-500])
    assert frame_size(tmp_path / "f.jpg") == (30, 50)
    (tmp_path / "g.jpg").write_text("no image")
    with pytest.raises(DataError, match="g.jpg cannot be read"):
        frame_size(tmp_path / "g.jpg")
