"""Slices: attributes of known masks, users' tables, and which frames and videos a slice holds."""

import numpy as np
import pytest

from lgrnet.evaluation.attributes import (
    check_known,
    frame_shape,
    pathology_of,
    read_attributes,
    read_classification,
    seen_by_case,
    visual_attributes,
)
from lgrnet.evaluation.slices import VideoFacts, holds, slices_of, whole_videos
from lgrnet.records import DataError

SIZE = 100, 200  # 20,000 pixels


def _shape(y=10, x=10, high=20, wide=20):
    mask = np.zeros((2, *SIZE), bool)
    mask[1, y : y + high, x : x + wide] = True
    return frame_shape(mask)


EMPTY = _shape(high=0)


def test_the_shape_of_a_rectangle():
    shape = _shape(y=30, x=50, high=10, wide=21)
    assert (shape.area, shape.box) == (210 / 20000, 210 / 20000)
    assert (shape.x, shape.y) == (60, 34.5)
    assert shape.size == 100 * 9 * 20 / 20000
    assert EMPTY.area == EMPTY.box == EMPTY.size == 0
    assert np.isnan(EMPTY.x)


def _names(shapes):
    return {name for name, there in visual_attributes(shapes).items() if there}


def test_attributes_by_their_definitions():
    assert _names([_shape(), _shape()]) == {"SO"}  # 400 of 20,000 pixels
    assert _names([_shape(high=20, wide=50), _shape(high=20, wide=50)]) == set()  # exactly 0.05 is not small
    assert _names([_shape(high=50, wide=60)] * 2) == set()  # a box of exactly 0.15 is not large
    assert _names([_shape(high=50, wide=61)] * 2) == {"LO"}
    assert _names([_shape(x=40, wide=60), _shape(wide=120)]) == set()  # exactly half
    assert _names([_shape(x=40, wide=59), _shape(wide=120)]) == {"SV"}
    assert _names([_shape(wide=60), _shape(x=30, wide=60)]) == set()  # 20 pixels exactly
    assert _names([_shape(wide=60), _shape(x=31, wide=60)]) == {"FM"}
    assert _names([]) == _names([EMPTY, None]) == set()


def test_motion_is_between_neighbours_only():
    assert _names([_shape(wide=60), None, _shape(x=100, wide=60)]) == set()
    assert _names([_shape(wide=60), EMPTY, _shape(x=100, wide=60)]) == set()


def _facts():
    big, small = _shape(high=50, wide=60), _shape(high=10, wide=10)
    return {
        "case1_1": VideoFacts(("a", "b", "c"), (big, small, EMPTY), {"seen": "seen", "size_mm": 5.0, "SI": True}),
        "case2": VideoFacts(("a", "b"), (None, EMPTY), {"seen": "unseen", "size_mm": 12}),
    }


def test_slices_hold_what_they_say():
    found = slices_of(_facts())
    assert set(found["seen: seen"]) == {"case1_1"}
    assert set(found["size_mm: < 6 mm"]) == {"case1_1"}
    assert set(found["size_mm: >= 10 mm"]) == {"case2"}
    assert set(found["attribute: SI"]) == set(found["attribute: SV"]) == set(found["attribute: FM"]) - {"case2"}
    assert "attribute: GH" not in found
    assert "length: < 100 frames" not in found, "it holds everything"
    assert found["place: first frame"] == {"case1_1": {"a"}, "case2": {"b"}}
    assert found["place: last frame"] == {"case1_1": {"c"}, "case2": {"b"}}
    assert found["frames: without lesion"] == {"case1_1": {"c"}, "case2": {"b"}}
    assert found["size: 10 - 100 %"] == {"case1_1": {"a"}}
    assert found["size: 0 - 0.5 %"] == {"case1_1": {"b"}}
    assert set(found["videos: without lesion"]) == {"case2"}
    assert whole_videos(found["seen: seen"])
    assert not whole_videos(found["place: between"])
    assert holds(found["seen: seen"], "case1_1", "x")
    assert not holds(found["size: 10 - 100 %"], "case1_1", "b")


def test_columns_that_are_called_like_our_groups():
    facts = {f"v{i}": VideoFacts(("a",), (EMPTY,), {"size": "big" if i else "small", "SI": True}) for i in range(3)}
    facts["v0"] = VideoFacts(("a",), (_shape(),), {"size": "small", "attribute": "x"})
    facts["v1"].attributes["attribute"] = "y"
    facts["v2"] = VideoFacts(("a",), (_shape(high=50, wide=60),), {"size": "big", "SI": True})
    found = slices_of(facts)
    assert set(found["own size: big"]) == {"v1", "v2"} and set(found["own attribute: x"]) == {"v0"}
    assert set(found["attribute: SI"]) == {"v1", "v2"} and any(name.startswith("size: ") for name in found)


def test_many_numbers_become_three_parts_and_names_none():
    facts = {f"v{i:02d}": VideoFacts(("a",), (EMPTY,), {"age": i, "note": f"n{i}"}) for i in range(12)}
    found = slices_of(facts)
    assert [len(part) for name, part in found.items() if name.startswith("age")] == [4, 4, 4]
    assert not [name for name in found if name.startswith("note")]


def test_lengths():
    facts = {f"v{n}": VideoFacts(("a",) * n, (EMPTY,) * n) for n in (99, 100, 300)}
    found = {name: list(part) for name, part in slices_of(facts).items() if name.startswith("length")}
    assert found == {
        "length: < 100 frames": ["v99"],
        "length: 100 to < 200 frames": ["v100"],
        "length: >= 300 frames": ["v300"],
    }


TABLE = "video,SI,OCC,location,size_mm\r\ncase1,1,,C,7\r\n\r\n'q\"\u00fc<b>,no,yes,,\r\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeff" + TABLE),
        ("a.csv", TABLE.replace(",", ";")),
        ("a.tsv", TABLE.replace(",", "\t")),
        (
            "a.json",
            '{"case1": {"SI": true, "OCC": null, "location": "C", "size_mm": 7}, '
            '"\'q\\"\u00fc<b>": {"OC": "yes", "SI": 0}}',
        ),
    ],
)
def test_tables_of_users(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    found = read_attributes(tmp_path / name)
    assert found == {
        "case1": {"SI": True, "OC": False, "location": "C", "size_mm": 7.0},
        "'q\"\u00fc<b>": {"SI": False, "OC": True},
    }


def test_an_empty_cell_leaves_what_the_masks_say(tmp_path):
    (tmp_path / "a.csv").write_text("video,SO\na,\nb,no\nc,yes\n")
    known = {**read_attributes(tmp_path / "a.csv"), "d": {"SO": 1}, "e": {"SO": None}, "f": {}}
    assert known["a"] == {} and (known["b"], known["c"]) == ({"SO": False}, {"SO": True})
    shapes = {name: [_shape()] * 2 for name in "abef"} | {name: [_shape(high=20, wide=50)] * 2 for name in "cd"}
    facts = {name: VideoFacts(("0", "1"), tuple(shapes[name]), known[name]) for name in known}
    assert sorted(slices_of(facts)["attribute: SO"]) == ["a", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"PK\x03\x04", "is a spreadsheet, .* export the sheet as CSV"),
        ("a.csv", b"PK\x03\x04....", "export the sheet as CSV"),
        ("a.csv", b"video,SI\na,\0\n", "1 null bytes, the first in line 2"),
        ("a.csv", "video,SI\na,1\n".encode("utf-16"), "null bytes.*save it as UTF-8"),
        ("a.csv", b"video,SI\na\xff,1\n", "not UTF-8"),
        ("a.csv", b"name,SI\na,1\n", "one of them `video`"),
        ("a.csv", b"video,SI,SI\na,1,1\n", "different names"),
        ("a.csv", b"video,SI\na,1,2\n", "line 2: 3 cells under 2 columns"),
        ("a.csv", b'video,site\na,"left\nb,right\n', "line 3: .*; is a quote not closed"),
        ("a.csv", b'video,site\na,"' + b"y" * 200_000 + b'"\n', "line 2: .*; is a quote not closed"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.csv", b"video,SI\na,1\na,0\n", "line 3: video 'a' stands there twice"),
        ("a.csv", b"video,SI\na,perhaps\n", "line 2, video 'a': SI is 'perhaps'; expected yes"),
        ("a.csv", b"video,size_mm\na,nan\n", "size_mm is 'nan'; expected a number"),
        ("a.csv", b"video,SI\n", "names no video"),
        ("a.csv", b"", "the header is"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"[1]", "entry 1: expected"),
        ("a.json", b'{"a": {"b": []}}', "entry 1: b must be"),
        ("a.json", b'{"a": {"SI": 1}, "a": {"SI": 0}}', "'a' stands there twice in one object"),
    ],
)
def test_bad_tables_say_where(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_attributes(tmp_path / name)


def test_classification(tmp_path):
    path = tmp_path / "classification.txt"
    path.write_bytes(b"a_image0001.jpg\tlow_grade_adenoma\r\nb.jpg\thyperplastic_polyp\r\n")
    with pytest.warns(UserWarning, match="CRLF"):
        classes = read_classification(path)
    assert classes == {"a_image0001": "low_grade_adenoma", "b": "hyperplastic_polyp"}
    assert pathology_of(["a_image0001", "c"], classes) == "low_grade_adenoma"
    assert pathology_of(["a_image0001", "b"], classes) == "several"
    assert pathology_of(["c"], classes) is None
    for content, message in (
        (b"a.jpg\tx\n\0\0\n", "2 null bytes, the first in line 2"),
        (b"a.jpg x\n", "line 1: 'a.jpg x'; expected"),
        (b"a.jpg\tx\na.jpg\ty\n", "line 2: 'a' is 'y' here and 'x' before"),
        (b"\n", "names no image"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_classification(path)


def test_seen_is_decided_by_cases():
    assert seen_by_case("case1_2", ["case1_1", "case3"]) == "seen"
    assert seen_by_case("case11", ["case1_1"]) == "unseen"


def test_videos_that_a_table_does_not_know():
    with pytest.raises(DataError, match="a.csv knows none of 1 video .v1.; it holds 1 name .case1."):
        check_known({"case1": {}}, ["v1"], "a.csv")
    with pytest.warns(UserWarning, match="does not know 1 video .v1."):
        check_known({"case1": {}}, ["v1", "case1"], "a.csv")
