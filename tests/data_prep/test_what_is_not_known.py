"""Lesions whose place nobody drew, frames that a file does not speak of, pictures of earlier runs: never a silent 0."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import convert, ufuv
from lgrnet.data.datasets import ufuv as read_ufuv
from lgrnet.records import DataError, list_videos, write_frame, write_mask
from tests.data_prep.downloads import write_folder
from tests.data_prep.layouts import masks_of
from tests.data_prep.test_ufuv import archive

TRACK = '<track id="0" label="liver">{}</track>'
SHAPE = '<polygon frame="{0}" outside="0" points="{0},5;9,5;9,9;{0},9"/>'
LABELS = "<labels><label><name>liver</name></label></labels>"


def video(folder: Path, names, about="", drawn=(3, 4)) -> Path:
    """A CVAT file for video of the pictures of that name, the object in some frames; its place tells the frame."""
    for name in names:
        write_frame(folder / "frames" / f"{name}.png", np.zeros((20, 30, 3)))
    body = TRACK.format("".join(map(SHAPE.format, drawn)))
    task = f"<meta><task><name>clip</name>{about}{LABELS}</task></meta>"
    (folder / "a.xml").write_text(f"<annotations>{task}{body}</annotations>")
    return folder / "a.xml"


def imported(path: Path) -> dict:
    convert.to_layout("cvat", path, path.parent / "dst", path.parent / "frames")
    return {
        name: (mask > 0).any(0).argmax() if mask.any() else None for name, mask in masks_of(path.parent / "dst").items()
    }


def about(start: int, stop: int, step: int = 1) -> str:
    more = "" if step == 1 else f"<frame_filter>step={step}</frame_filter>"
    return f"<size>9</size><start_frame>{start}</start_frame><stop_frame>{stop}</stop_frame>{more}"


def test_pictures_as_ffmpeg_numbers_them_are_taken_in_order(tmp_path):
    found = imported(video(tmp_path, [f"frame_{n:04d}" for n in range(1, 11)], about(0, 9)))
    assert [name for name, place in found.items() if place is not None] == ["clip/frame_0004", "clip/frame_0005"]
    assert found["clip/frame_0004"] == 3 and len(found) == 10


def test_frames_beyond_those_of_the_task_are_not_annotated(tmp_path):
    found = imported(video(tmp_path, [f"frame_{n:06d}" for n in range(10)], about(2, 6)))
    assert list(found) == [f"clip/frame_{n:06d}" for n in range(2, 7)] and found["clip/frame_000003"] == 3
    (record,) = list_videos(tmp_path / "dst", require_masks=False)
    assert record.annotated == (False,) * 2 + (True,) * 5 + (False,) * 3


def test_every_third_frame(tmp_path):
    found = imported(video(tmp_path, ["a", "b", "c"], about(0, 8, 3), drawn=(3, 6)))
    assert found == {"clip/a": None, "clip/b": 3, "clip/c": 6}


def test_pictures_that_do_not_fit_the_frames_are_refused(tmp_path):
    path = video(tmp_path, [f"frame_{n:04d}" for n in range(5, 15)], about(0, 9))
    with pytest.raises(DataError, match=r"the 10 frames 0 .. 9, but .* has 10 pictures with the numbers 5 .. 14"):
        imported(path)


def test_frames_that_were_deleted_from_a_task(tmp_path):
    found = imported(video(tmp_path, [f"frame_{n:06d}" for n in (0, 1, 3, 4)], about(0, 4)))
    assert [name for name, place in found.items() if place is not None] == ["clip/frame_000003", "clip/frame_000004"]
    assert found["clip/frame_000003"] == 3


def test_a_picture_with_a_box_alone_is_not_annotated(tmp_path):
    image = '<image id="{}" name="{}.png" width="30" height="20">{}</image>'
    box = '<box label="liver" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    polygon = '<polygon label="liver" points="1,1;9,1;9,9"/>'
    bodies = {"none": "", "box": box, "both": box + polygon}
    for name in bodies:
        write_frame(tmp_path / "in/v" / f"{name}.png", np.zeros((20, 30, 3)))
    text = "".join(image.format(i, f"v/{name}", body) for i, (name, body) in enumerate(bodies.items()))
    (tmp_path / "a.xml").write_text(f"<annotations><meta>{LABELS}</meta>{text}</annotations>")
    convert.to_layout("cvat", tmp_path / "a.xml", tmp_path / "cvat", tmp_path / "in")
    boxed = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8]}
    drawn = {"id": 2, "image_id": 2, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    images = [{"id": i, "file_name": f"v/{n}.png", "height": 20, "width": 30} for i, n in enumerate(bodies)]
    coco = {"images": images, "categories": [{"id": 1, "name": "liver"}], "annotations": [boxed, drawn]}
    (tmp_path / "a.json").write_text(json.dumps(coco))
    convert.to_layout("coco", tmp_path / "a.json", tmp_path / "coco", tmp_path / "in")
    studio = [{"id": i, "data": {"image": f"v/{n}.png"}, "annotations": [{"result": []}]} for i, n in enumerate(bodies)]
    for task in studio[1:]:
        task["annotations"][0]["result"].append({"type": "rectanglelabels", "value": {}})
    points = {"points": [[1, 1], [30, 1], [30, 40]], "polygonlabels": ["liver"]}
    side = {"original_width": 30, "original_height": 20}
    studio[2]["annotations"][0]["result"].append({"type": "polygonlabels", "value": points, **side})
    (tmp_path / "b.json").write_text(json.dumps(studio))
    convert.to_layout("labelstudio", tmp_path / "b.json", tmp_path / "studio", tmp_path / "in")
    for name in ("cvat", "coco", "studio"):
        (record,) = list_videos(tmp_path / name, require_masks=False)
        assert dict(zip(record.frame_names, record.annotated, strict=True)) == {
            "none": True,
            "box": False,
            "both": True,
        }


@pytest.mark.parametrize("orientation, size, refused", [(3, (40, 60), True), (6, (40, 60), False), (6, (40, 40), True)])
def test_pictures_that_viewers_turn(tmp_path, orientation, size, refused):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "in/v").mkdir(parents=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "in/v/0.jpg", exif=exif)
    image = {"id": 1, "file_name": "v/0.jpg", "height": size[0], "width": size[1]}
    drawn = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    coco = {"images": [image], "categories": [{"id": 1, "name": "liver"}], "annotations": [drawn]}
    (tmp_path / "a.json").write_text(json.dumps(coco))
    arguments = "coco", tmp_path / "a.json", tmp_path / "dst", tmp_path / "in"
    if refused:
        with pytest.raises(DataError, match=f"0.jpg says that it is to be turned .EXIF orientation {orientation}."):
            convert.to_layout(*arguments)
    else:  # it was annotated as it is stored
        convert.to_layout(*arguments)


def _coco_of(tmp_path, frame, polygon):
    """A COCO file about one picture of 40 x 40, and the arguments that convert it."""
    (tmp_path / "in/v").mkdir(parents=True)
    Image.fromarray(frame).save(tmp_path / "in/v/0.png")
    image = {"id": 1, "file_name": "v/0.png", "height": 40, "width": 40}
    drawn = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [polygon]}
    coco = {"images": [image], "categories": [{"id": 1, "name": "liver"}], "annotations": [drawn]}
    (tmp_path / "a.json").write_text(json.dumps(coco))
    return "coco", tmp_path / "a.json", tmp_path / "dst", tmp_path / "in"


def test_polygons_in_shares_of_the_sides_are_no_pixels(tmp_path):
    arguments = _coco_of(tmp_path, np.zeros((40, 40, 3), np.uint8), [0.1, 0.1, 0.6, 0.1, 0.6, 1])
    with pytest.raises(DataError, match="lie in 0 .. 1, the first pixel of 40 x 40: they look like shares"):
        convert.to_layout(*arguments)
    assert not (tmp_path / "dst").exists()


def test_a_spot_in_the_first_pixel_is_one(tmp_path):
    """Its outline by OpenCV; whole numbers are pixels."""
    convert.to_layout(*_coco_of(tmp_path, np.zeros((40, 40, 3), np.uint8), [0, 0, 0, 1, 1, 1, 1, 0]))
    assert (tmp_path / "dst/GT/v/0.png").is_file()


def test_frames_of_16_bits_are_told_before_anything_is_written(tmp_path):
    arguments = _coco_of(tmp_path, np.zeros((40, 40), np.uint16), [1, 1, 9, 1, 9, 9])
    with pytest.raises(DataError, match="0.png has more than 8 bits per channel .I;16.; convert it to 8 bits"):
        convert.to_layout(*arguments)
    assert not (tmp_path / "dst").exists()


def test_grey_edges_are_no_classes(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[4:12, 4:12], mask[4, 4:12] = 255, 130
    write_frame(tmp_path / "src/Frame/v/0.png", np.zeros((20, 30, 3)))
    (tmp_path / "src/GT/v").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "src/GT/v/0.png")
    with pytest.raises(DataError, match="255 and 1 values such as 130, which look like grey edges"):
        convert.from_layout("coco", tmp_path / "src", tmp_path / "dst")


def test_an_export_of_other_frames_is_not_mixed_in(tmp_path):
    for name in "ab":
        write_frame(tmp_path / f"{name}/Frame/{name}/0.png", np.zeros((20, 30, 3)))
        write_mask(tmp_path / f"{name}/GT/{name}/0.png", np.eye(20, 30) > 0)
    for kind in ("davis", "coco", "cvat"):
        for _ in range(2):
            convert.from_layout(kind, tmp_path / "a", tmp_path / kind)
        with pytest.raises(DataError, match="holds source folder .*/a, not .*/b; choose another --dst"):
            convert.from_layout(kind, tmp_path / "b", tmp_path / kind)


def test_a_video_that_has_moved_to_the_other_part_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ufuv, "VARIANTS", {"temp8": (3, 1)})
    source = write_folder(tmp_path / "src", archive(("temp8",)))
    call = ["--src", str(source), "--dst", str(tmp_path / "dst")]
    assert ufuv.main(call) == ufuv.main(call) == 0
    base = next(source.rglob("temp8"))
    for kind in ("Frame", "GT", "Box"):
        (base / "train" / kind / "video 2").rename(base / "test" / kind / "video 2")
    capsys.readouterr()
    assert ufuv.main(call) == 1
    assert "NOT OF THIS SOURCE: 6 pictures (train/Box/video 2/0.png, " in capsys.readouterr().out
    stray = json.loads((tmp_path / "dst/prepared.json").read_text())["not_of_this_source"]
    assert len(stray) == 6 and [record.name for record in read_ufuv(tmp_path / "dst", "train")][-1] == "video 2"
