"""CVAT XML as CVAT writes it for images and for video, and as it should not be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep import convert
from lgrnet.records import DataError, write_frame
from tests.data_prep.layouts import masks_of

LABELS = "<labels><label><name>liver</name></label><label><name>tumour</name></label></labels>"
META = f"<meta><task><name>a case</name>{LABELS}<original_size><width>30</width><height>20</height></original_size>"
META += "</task></meta>"
STILL = '<image id="0" name="still.png" width="30" height="20">{}</image>'
SMALL = '<polygon label="tumour" points="5.0,5.0;9,5;9,9;5,9" z_order="{}"/>'
LARGE = '<mask label="liver" rle="0, 288" left="2" top="2" width="18" height="16" z_order="{}"/>'


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("still.png", *(f"frame_{number:06d}.png" for number in (3, 4, 10))):
        folder = tmp_path / ("images" if name == "still.png" else "frames")
        write_frame(folder / name, np.zeros((20, 30, 3)))
    return tmp_path / "images"


def save(images: Path, body: str, head: str = "") -> Path:
    path = images.parent / "annotations.xml"
    path.write_text(f"{head}<annotations><version>1.1</version>{META}{body}</annotations>", encoding="utf-8")
    return path


@pytest.mark.parametrize("layers, inside", [((0, 0), 2), ((0, 1), 1), ((1, 0), 2)])
def test_for_images_the_higher_layer_then_the_smaller_object_is_on_top(images, layers, inside):
    path = save(images, STILL.format(SMALL.format(layers[0]) + LARGE.format(layers[1]) + '<box label="liver"/>'))
    counts, found = convert.to_layout("cvat", path, images.parent / "dst")
    expected = np.zeros((20, 30), np.uint8)
    expected[2:18, 2:20], expected[5:9, 5:9] = 1, inside
    assert np.array_equal(masks_of(images.parent / "dst")["still/still"], expected)
    assert counts.overlap[1] == 1 and found.left_out == {"shapes of kind box": 1}


def test_for_video(images):
    shapes = '<polygon frame="3" outside="0" keyframe="1" points="5,5;9,5;9,9;5,9"/>'
    shapes += '<polygon frame="10" outside="1" points="5,5;9,5;9,9;5,9"/>'
    masks = '<mask frame="10" outside="0" rle="1, 2, 1" left="3" top="4" width="2" height="2"/>'
    body = f'<track id="0" label="liver">{shapes}</track><track id="1" label="tumour">{masks}</track>'
    convert.to_layout("cvat", save(images, body), images.parent / "dst", images.parent / "frames")
    found = masks_of(images.parent / "dst")
    assert list(found) == [f"a case/frame_{number:06d}" for number in (3, 4, 10)]
    assert found["a case/frame_000003"].sum() == 16 and not found["a case/frame_000004"].any()
    assert np.argwhere(found["a case/frame_000010"] == 2).tolist() == [[4, 4], [5, 3]]


TRACK = '<track id="0" label="liver"><polygon frame="{}" outside="0" points="5,5;9,5;9,9"/></track>'
MASK = '<mask label="liver" rle="{}" left="{}" top="2" width="18" height="16"/>'
LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "body, head, message",
    [
        ("", LAUGHS, "has a DOCTYPE"),
        ("", '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "has a DOCTYPE"),
        ("<image>", "", "cannot be read as CVAT XML"),
        ("&b;", "", "cannot be read as CVAT XML"),
        ("", "", "names no pictures"),
        (2 * STILL.format(""), "", "its id '0' is there twice"),
        (STILL.format(MASK.format("0, 288", 13)), "", "is not inside of the picture of 30 x 20"),
        (STILL.format(MASK.format("0, 288", -1)), "", "is not inside"),
        (STILL.format(MASK.format("0, 287", 1)), "", "make up 287 pixels; expected 288"),
        (STILL.format(MASK.format("", 1)), "", "expected finite numbers"),
        (STILL.format(MASK.format("300, -12", 1)), "", "are negative"),
        (STILL.format(MASK.format("0, 288", "nan")), "", "left holds .*nan.*finite"),
        (STILL.format('<polygon label="liver" points="1,1;2,2"/>'), "", "a polygon has 4 numbers"),
        (STILL.format('<polygon label="liver" points="1,1;2,nan;3,3"/>'), "", "finite numbers"),
        (STILL.format('<polygon label="liver"/>'), "", "finite numbers"),
        (STILL.format('<polygon label="liver" points="1,1;2;2,9,4;3,3"/>'), "", "point '2' of its polygon"),
        (STILL.format('<polygon label="cat" points="1,1;2,2;3,5"/>'), "", "unknown label 'cat'; the file lists liver"),
        (STILL.format("").replace("still", "../still"), "", "expected a path inside of"),
        (STILL.format("").replace("still", "gone"), "", r"1 picture \(gone.png\) that"),
        (STILL.format("").replace('"20"', '"21"'), "", "but was annotated as"),
        (TRACK.format(7), "", "is in frame 7, but .* has the frames 0 .. 0"),
        (TRACK.format("x"), "", "finite numbers"),
        (2 * TRACK.format(0), "", "its id is there twice"),
    ],
)
def test_bad_cvat(images, body, head, message):
    with pytest.raises(DataError, match=message):
        convert.to_layout("cvat", save(images, body, head), images.parent / "dst")
    assert not (images.parent / "dst").exists()


def test_another_xml(images):
    path = images.parent / "voc.xml"
    path.write_text("<annotation/>")
    with pytest.raises(DataError, match="is <annotation>; expected <annotations>"):
        convert.to_layout("cvat", path, images.parent / "dst")


def test_names_that_xml_cannot_hold(tmp_path, capsys):
    write_frame(tmp_path / "src/Frame/v\x01/0.png", np.zeros((4, 4, 3)))
    (tmp_path / "src/GT").mkdir()
    assert convert.main(["--to", "cvat", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "dst")]) == 2
    assert "characters that XML cannot" in capsys.readouterr().err


def test_tracks_of_several_tasks_are_not_one_video(images):
    body = TRACK.format(3).replace("<track", '<track task_id="1"')
    body += TRACK.format(4).replace('<track id="0"', '<track id="1" task_id="2"')
    with pytest.raises(DataError, match="has tracks of the tasks 1, 2; export every task by itself"):
        convert.to_layout("cvat", save(images, body), images.parent / "dst", images.parent / "frames")
