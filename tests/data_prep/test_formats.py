"""Files as other programs write them, and as they should not be."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep import convert
from data_prep.formats import label_studio
from data_prep.formats.annotations import pixels, polygons
from data_prep.formats.davis import palette
from lgrnet.records import DataError, list_videos, read_mask, write_frame, write_image
from tests.data_prep.layouts import content, masks_of

SIZE = (20, 30)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("clip/0.png", "clip/1.png", "still.png"):
        write_frame(tmp_path / "images" / name, np.zeros((*SIZE, 3)))
    return tmp_path / "images"


def save(images: Path, data: object, name: str = "file.json") -> Path:
    path = images.parent / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def square(left: int, top: int, right: int, bottom: int) -> list[int]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco() -> dict:
    names = ("clip/0.png", "clip/1.png", "still.png")
    runs = {"size": list(SIZE), "counts": [0, 20, 560, 20]}
    return {
        "images": [{"id": i, "file_name": n, "height": 20, "width": 30} for i, n in enumerate(names, 7)],
        "categories": [{"id": 1, "name": "tumour"}, {"id": 90, "name": "liver"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [square(5, 5, 9, 9)], "bbox": [5, 5, 4, 4]},
            {"id": 2, "image_id": 7, "category_id": 90, "segmentation": [square(2, 2, 20, 18)], "iscrowd": 0},
            {"id": 3, "image_id": 8, "category_id": 90, "segmentation": runs, "iscrowd": 1},
            {"id": 4, "image_id": 8, "category_id": 1, "segmentation": [], "bbox": [1, 1, 2, 2]},
        ],
    }


def imported(kind: str, path: Path, **options: object) -> tuple[dict[str, np.ndarray], object, object]:
    dst = path.parent / "dst"
    counts, found = convert.to_layout(kind, path, dst, **options)
    return masks_of(dst), counts, found


def test_coco_of_others(images, capsys):
    path = save(images, coco())
    masks, counts, found = imported("coco", path)
    expected = np.zeros(SIZE, np.uint8)
    expected[2:18, 2:20], expected[5:9, 5:9] = 2, 1
    assert np.array_equal(masks["clip/0"], expected), "the smaller object is on top, though it comes first"
    edges = np.zeros(SIZE, np.uint8)
    edges[:, [0, 29]] = 2
    assert np.array_equal(masks["clip/1"], edges) and not masks["still/still"].any()
    assert counts.overlap == (16, 1) and counts.objects == {"liver": 2, "tumour": 1}
    assert found.left_out == {"annotations with a box and no mask": 1}
    assert convert.main(["--from", "coco", "--src", str(path), "--dst", str(path.parent / "dst")]) == 0
    said = capsys.readouterr().out
    assert "crowds: 1 regions are said to hold several objects" in said
    assert "overlap: 16 pixels in 1 frames" in said and "left out: 1 annotations with a box" in said


def test_chosen_classes_and_stills(images):
    path = save(images, coco())
    masks, _, _ = imported("coco", path, classes=["liver"], stills=True)
    assert list(masks) == ["clip_0/0", "clip_1/1", "still/still"]
    assert np.unique(masks["clip_0/0"]).tolist() == [0, 255]
    with pytest.raises(DataError, match=r"1 class \(polyp\) not known; there are tumour, liver"):
        convert.to_layout("coco", path, path.parent / "other", classes=["polyp"])


def test_polygons_fill_what_they_enclose():
    for seed in range(10):
        draws = np.random.default_rng(seed)
        angles = np.sort(draws.uniform(0, 2 * np.pi, 24))
        radius = draws.uniform(120, 200, 24)
        points = np.stack([256 + radius * np.cos(angles), 256 + radius * np.sin(angles)], 1)
        fine = np.zeros((512 * 8, 512 * 8), np.uint8)
        cv2.fillPoly(fine, [np.round(points * 8 - 0.5).astype(np.int32)], 1)
        truth = fine.reshape(512, 8, 512, 8).mean((1, 3)) > 0.5
        mask = pixels(polygons("x", [points.ravel().tolist()], (512, 512), "here"))
        assert (mask & truth).sum() / (mask | truth).sum() >= 0.995


def changed(**changes: object) -> dict:
    """COCO with one thing changed: table__index__key=value."""
    data = coco()
    for key, value in changes.items():
        table, index, name = key.split("__")
        data[table][int(index)][name] = value
    return data


BAD_COCO = [
    (changed(images__1__id=7), r"images\[1\] \(id 7\): its id 7 is there twice"),
    (changed(annotations__1__id=1), r"annotations\[1\] \(id 1\): its id 1 is there twice"),
    (changed(categories__1__id=1), r"categories\[1\] .*twice"),
    (changed(categories__1__name="tumour"), "the category 'tumour' is there twice"),
    (changed(annotations__0__image_id=99), "is of image 99, which .* does not list"),
    (changed(annotations__0__category_id=2), r"the unknown category 2; the file lists \[1, 90\]"),
    (changed(annotations__0__segmentation=[[1, 1, 5, 5]]), "a polygon has 4 numbers; expected x and y of 3 points"),
    (changed(annotations__0__segmentation=[[1, 1, 5, 5, 9, float("nan")]]), "expected finite numbers"),
    (changed(annotations__0__segmentation=[[1, 1, 5, 5, 9, 1e9]]), "far outside of the picture of 30 x 20"),
    (changed(annotations__0__segmentation=[["a"] * 6]), "expected finite numbers"),
    (changed(annotations__0__segmentation="M 0 0"), "neither a list of polygons nor run lengths"),
    (changed(annotations__0__bbox=[1, 2, float("nan"), 3]), "its box holds .*nan.*; expected finite numbers"),
    (changed(annotations__0__bbox=[1, 2]), r"its box is \[1, 2\]"),
    (
        changed(annotations__2__segmentation={"size": [30, 20], "counts": [600]}),
        r"\[30, 20\]; the picture has",
    ),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": [10, 20]}), "make up 30 pixels; expected 600"),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": [700, -100]}), "are negative; expected 600"),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": [1.5, 598.5]}), "no whole numbers"),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": "hello\x7f"}), "no string of COCO's"),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": "PPPPPPPPP"}), "no string of COCO's, or cut"),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": "ooooooooo0"}), "more than 32 bits"),
    (changed(annotations__2__segmentation={"size": [20, 30], "counts": "5"}), "make up 5 pixels"),
    (changed(annotations__2__segmentation={"size": [20, 30]}), "has no 'counts'"),
    (changed(images__0__file_name="../secret.png"), "expected a path inside of"),
    (changed(images__0__file_name="/etc/secret.png"), "expected a path inside of"),
    (changed(images__0__file_name="clip/1.png"), "are the same frame: clip/1"),
    (changed(images__0__file_name="clip/1.jpg"), "are the same frame: clip/1"),
    (changed(images__0__file_name="clip/9.png"), r"1 picture \(clip/9.png\) that .*images does not hold"),
    (changed(images__0__file_name="clip/0.txt"), "is no picture"),
    (changed(images__0__file_name="clip/.0.png"), "a name with a dot"),
    (changed(images__0__file_name=""), "expected a path inside of"),
    (changed(images__0__file_name=5), "file_name is 5; expected str"),
    (changed(images__0__file_name="\ud800.png"), "no file can have this name"),
    (changed(categories__0__name="\ud800"), "the class '.ud800' is no text"),
    (changed(images__0__height=0), "the size is 30 x 0"),
    (changed(images__0__height=1e12), "the size is 30 x 1000000000000"),
    (changed(images__0__height=21, annotations__1__iscrowd=0), r"has \(height, width\) \(20, 30\), but was annotated"),
    ({**coco(), "images": []}, "is of image 7"),
    ({"images": [], "annotations": [], "categories": []}, "names no pictures"),
    ({"images": [3], "annotations": [], "categories": []}, r"images\[0\] is 3; expected an object"),
    ({"images": []}, "has no 'categories'; it has 'images'"),
    ([1], "no JSON object"),
    ('{"images": [', "cannot be read as JSON"),
    ("[" * 100_000, "cannot be read as JSON"),
    ("", "cannot be read as JSON"),
]


@pytest.mark.parametrize("data, message", BAD_COCO, ids=[message[:40] for _, message in BAD_COCO])
def test_bad_coco_is_refused_and_nothing_written(images, data, message):
    path = save(images, data)
    with pytest.raises(DataError, match=message):
        convert.to_layout("coco", path, path.parent / "dst")
    assert not (path.parent / "dst").exists()


def test_a_link_that_leads_out_of_the_folder(images, tmp_path):
    write_frame(tmp_path / "secret.png", np.zeros((*SIZE, 3)))
    (images / "clip/0.png").unlink()
    (images / "clip/0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="a link that leads out of"):
        convert.to_layout("coco", save(images, coco()), tmp_path / "dst")


def test_a_damaged_picture(images, tmp_path):
    (images / "clip/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="clip/0.png cannot be read"):
        convert.to_layout("coco", save(images, coco()), tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def youtube_vis(**changes: object) -> dict:
    video = {"id": 1, "height": 20, "width": 30, "length": 2, "file_names": ["clip/0.png", "clip/1.png"]}
    runs = {"size": list(SIZE), "counts": [0, 20, 580]}
    track = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [None, runs], "bboxes": [None, [0, 0, 1, 20]]}
    return {"videos": [video], "categories": [{"id": 1, "name": "polyp"}], "annotations": [{**track, **changes}]}


def test_youtube_vis_of_others(images):
    masks, _, _ = imported("ytvis", save(images, youtube_vis()), images=images)
    assert not masks["clip/0"].any() and masks["clip/1"][:, 0].all() and masks["clip/1"].sum() == 20 * 255


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"segmentations": [None]}, "has 1 segmentations; its video 1 has 2 frames"),
        ({"video_id": 3}, "is of video 3, which"),
        ({"segmentations": [None, {"size": [20, 31], "counts": [620]}]}, r"frame 1: .* \[20, 31\]; the picture has"),
        ({"bboxes": [[0, 0, 1, float("inf")]]}, "its box holds"),
        ({"bboxes": 5}, "bboxes is 5; expected list"),
    ],
)
def test_bad_youtube_vis(images, changes, message):
    with pytest.raises(DataError, match=message):
        convert.to_layout("ytvis", save(images, youtube_vis(**changes)), images.parent / "dst", images)


def davis(root: Path, masks: dict[str, np.ndarray], resolution: str = "480p") -> Path:
    for name, raw in masks.items():
        write_frame(root / "JPEGImages" / resolution / f"{name}.jpg", np.zeros((*raw.shape, 3)))
        picture = Image.fromarray(raw)
        picture.putpalette(palette())
        write_image(root / "Annotations" / resolution / f"{name}.png", picture)
    return root


def test_davis_of_others(tmp_path):
    raw = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    root = davis(tmp_path / "DAVIS", {"bear/00000": raw, "cat/00000": np.where(raw > 1, np.uint8(255), np.uint8(0))})
    write_frame(root / "JPEGImages/480p/bear/00001.jpg", np.zeros((3, 4, 3)))
    convert.to_layout("davis", root, tmp_path / "dst")
    bear, cat = list_videos(tmp_path / "dst", require_masks=False)
    assert np.array_equal(read_mask(bear.masks[0]), np.where(raw > 0, 255, 0)) and bear.masks[1] is None
    assert np.array_equal(read_mask(cat.masks[0]), np.where(raw > 1, 255, 0))


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.array([[0, 9, 255]], np.uint8), r"bear/00001.png holds the values \[255\]"),
        (np.zeros((2, 3), np.uint8), r"bear/00001.png has \(height, width\) \(2, 3\), its frame \(1, 3\)"),
        (np.zeros((1, 3, 3), np.uint8) + np.arange(3, dtype=np.uint8), "bear/00001.png is a colour image"),
    ],
)
def test_nothing_is_written_of_a_davis_tree_with_a_bad_mask(bad, message, tmp_path):
    raw = np.array([[0, 1, 1]], np.uint8)
    root = davis(tmp_path / "DAVIS", {"bear/00000": raw, "bear/00001": raw})
    write_image(root / "Annotations/480p/bear/00001.png", Image.fromarray(bad))
    for dry_run in (True, False):
        with pytest.raises(DataError, match=message):
            convert.to_layout("davis", root, tmp_path / "dst", dry_run=dry_run)
    assert not (tmp_path / "dst").exists()


def test_a_destination_in_the_folder_that_is_read(tmp_path):
    root = davis(tmp_path / "DAVIS", {"bear/00000": np.array([[0, 1, 1]], np.uint8)})
    before = content(root)
    with pytest.raises(DataError, match="is in the source"):
        convert.to_layout("davis", root, root / "out")
    assert content(root) == before


def test_masks_that_changed_since_are_not_taken_for_written(tmp_path):
    raw = np.array([[0, 1, 1]], np.uint8)
    root = davis(tmp_path / "DAVIS", {"bear/00000": raw})
    convert.to_layout("davis", root, tmp_path / "dst")
    convert.to_layout("davis", root, tmp_path / "dst")
    convert.from_layout("davis", tmp_path / "dst", tmp_path / "back")
    convert.from_layout("davis", tmp_path / "dst", tmp_path / "back")
    before = content(tmp_path / "dst"), content(tmp_path / "back")
    write_image(root / "Annotations/480p/bear/00000.png", Image.fromarray(raw[:, ::-1]))
    with pytest.raises(DataError, match="dst/GT/bear/00000.png is another mask than .*480p/bear/00000.png gives now"):
        convert.to_layout("davis", root, tmp_path / "dst")
    assert content(tmp_path / "dst") == before[0]
    write_image(tmp_path / "dst/GT/bear/00000.png", Image.fromarray(raw[:, ::-1] * np.uint8(255)))
    with pytest.raises(DataError, match="00000.png is another mask than the one of bear/00000.jpg is now; choose"):
        convert.from_layout("davis", tmp_path / "dst", tmp_path / "back")
    assert content(tmp_path / "back") == before[1]


def test_bad_davis(tmp_path):
    with pytest.raises(DataError, match="JPEGImages does not exist"):
        convert.to_layout("davis", tmp_path, tmp_path / "dst")
    raw = np.array([[0, 1, 255]], np.uint8)
    root = davis(tmp_path / "DAVIS", {"bear/00000": raw})
    with pytest.raises(DataError, match=r"00000.png holds the values \[255\].*void in DAVIS"):
        convert.to_layout("davis", root, tmp_path / "dst")
    (root / "JPEGImages/1080p").mkdir()
    with pytest.raises(DataError, match="several resolutions or none"):
        convert.to_layout("davis", root, tmp_path / "other")


def brush(value: dict, kind: str = "brushlabels", **changes: object) -> list[dict]:
    result = {"id": "a", "type": kind, "original_width": 30, "original_height": 20, "value": value, **changes}
    return [{"id": 1, "data": {"image": "/data/upload/3/0123abcd-still.png"}, "annotations": [{"result": [result]}]}]


POINTS = {"points": [[10, 10], [50, 10], [50, 60], [10, 60]], "polygonlabels": ["polyp"]}


def test_label_studio_of_others(images):
    tasks = brush(POINTS, "polygonlabels")
    tasks[0]["annotations"].append({"result": [], "was_cancelled": True})
    tasks[0]["annotations"][0]["result"] += [{"type": "rectanglelabels", "value": {}}, {"type": "choices", "value": {}}]
    tasks.append({"id": 2, "data": {"image": "s3://bucket/clip/0.png?x=1"}, "annotations": []})
    (images / "0.png").write_bytes((images / "clip/0.png").read_bytes())
    masks, _, found = imported("labelstudio", save(images, tasks))
    expected = np.zeros(SIZE, np.uint8)
    expected[2:12, 3:15] = 255
    assert np.array_equal(masks["still/still"], expected) and list(masks) == ["still/still"]
    assert +found.left_out == {"results of type rectanglelabels": 1}
    assert [picture.file.name for picture in found.pictures] == ["still.png", "0.png"]


@pytest.mark.parametrize(
    "address",
    [
        "https://studio.org/data/upload/clip/0.png?x=1",
        "s3://bucket/raw/clip/0.png",
        "/data/local-files/?d=home/me/clip/0.png",
        "../elsewhere/clip/0.png",
    ],
)
def test_folders_of_an_address_of_label_studio(images, address):
    (images / "0.png").write_bytes((images / "clip/0.png").read_bytes())
    tasks = brush(POINTS, "polygonlabels")
    tasks[0]["data"]["image"] = address
    assert list(imported("labelstudio", save(images, tasks))[0]) == ["clip/0"]


def test_brush_masks_as_the_browser_packs_them():
    """Colours with an opaque alpha as literal values, other widths of lengths, a run of a hundred thousand."""
    bits = f"{8:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += f"000{3:03b}" + "".join(f"{v:08b}" for v in (9, 8, 7, 255)) + f"110{3:08b}{0:08b}"
    packed = np.packbits([int(b) for b in bits]).tolist()
    assert label_studio.unpacked(packed, 8, "here").tolist() == [9, 8, 7, 255, 0, 0, 0, 0]
    values = np.repeat(np.array([0, 255, 3], np.uint8), [100_000, 1, 65_536])
    assert np.array_equal(label_studio.unpacked(label_studio.packed(values), len(values), "here"), values)


RLE = label_studio.packed(np.zeros(4 * 600, np.uint8))


@pytest.mark.parametrize(
    "tasks, message",
    [
        (brush({"format": "rle", "rle": RLE[:9], "brushlabels": ["a"]}), "cut short"),
        (brush({"format": "rle", "rle": [], "brushlabels": ["a"]}), "no list of bytes"),
        (brush({"format": "rle", "rle": [*RLE, 256], "brushlabels": ["a"]}), "no list of bytes"),
        (brush({"format": "rle", "rle": ["x"], "brushlabels": ["a"]}), "finite numbers"),
        (brush({"format": "rle", "rle": RLE, "brushlabels": ["a"]}, original_width=31), "2400 values of 8 bits"),
        (brush({"format": "rle", "rle": RLE, "brushlabels": ["a", "b"]}), r"labels \['a', 'b'\]; expected one"),
        (brush({"format": "png", "brushlabels": ["a"]}), "format 'png'; expected 'rle'"),
        (brush(POINTS, "polygonlabels", image_rotation=90), "rotated by 90"),
        (brush({**POINTS, "points": [[1, 2], [3, 4]]}, "polygonlabels"), "a polygon has 4 numbers"),
        (brush({**POINTS, "points": [[1, 2], [3, 4], [5]]}, "polygonlabels"), "not two numbers"),
        (brush({}, "bitmasklabels"), "'bitmasklabels', which is not read"),
        (2 * brush(POINTS, "polygonlabels"), r"task 1 \(id 1\): its id is there twice"),
        ([{"id": 1, "data": {"image": "x"}, "annotations": 2 * [{"result": []}]}], "has 2 annotations; mark one"),
        ([{"id": 1, "data": {"image": "../../x.png"}, "annotations": []}], "expected a path inside of"),
        ([{"id": 1, "data": {"n": 3}, "annotations": []}], "name no image"),
        ([{"id": 1, "annotations": []}], "has no 'data'"),
        ([{"id": 1, "data": {"image": "\ud800.png"}, "annotations": []}], "no file can have this name"),
        ([{"id": 1, "data": {"image": "still.png"}, "annotations": [17]}], "17 is no JSON object"),
        (brush({**POINTS, "polygonlabels": ["\ud800"]}, "polygonlabels"), "the class '.ud800' is no text"),
        ({}, "no list of tasks"),
    ],
)
def test_bad_label_studio(images, tasks, message):
    with pytest.raises(DataError, match=message):
        convert.to_layout("labelstudio", save(images, tasks), images.parent / "dst")
    assert not (images.parent / "dst").exists()


def test_videos_of_youtube_vis_have_a_folder_of_their_own(images):
    """Folders tell the videos in the one layout."""
    both = youtube_vis()
    both["videos"].append({**both["videos"][0], "id": 2, "file_names": ["clip/0.png", "clip/1.png"]})
    with pytest.raises(DataError, match="has its frames in clip; expected one folder of its own|are the same frame"):
        convert.to_layout("ytvis", save(images, both), images.parent / "dst", images)
    flat = youtube_vis()
    flat["videos"][0]["file_names"] = ["a.png", "b.png"]
    with pytest.raises(DataError, match="has its frames in a, b; expected one folder of its own"):
        convert.to_layout("ytvis", save(images, flat), images.parent / "dst", images)


@pytest.mark.parametrize("values", [{"x": 2, "y": 9}, {"x": 2, "y": 3}, {"ignore": 255, "x": 5}])
def test_davis_masks_of_a_label_map_have_its_values(tmp_path, values):
    """Not 1, 2, ... in the order of the names."""
    raw = np.zeros(SIZE, np.uint8)
    raw[2:5, 3:9] = values["x"]
    tree = davis(tmp_path / "tree", {"v/0": raw})
    (tree / "label_map.json").write_text(json.dumps({"values": values}))
    masks, _, _ = imported("davis", tree)
    assert np.array_equal(masks["v/0"], raw)
