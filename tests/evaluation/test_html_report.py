"""The HTML report as a file: well-formed, whole, closed to the outside, and within its budget."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import weakref
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.evaluation import Evaluator, LGRNetProtocol, OverTimeProtocol, Picture, ScoredSet, write_html
from lgrnet.evaluation.html_pictures import encode, outline, spread
from lgrnet.inference.writers import report_pictures
from lgrnet.records import Prediction, list_videos, write_image
from tests.data.layout import write_video
from tests.engine.toy import ToyModel
from tests.evaluation.pages import HOSTILE, masks, scored

VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """The elements of a page; raises when they are not nested well."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self._open = [], [], {}, []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, text):
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(text)

    @property
    def data(self):
        return json.loads(self.texts["script"][0])


def _page(tmp_path, *sets, **options):
    return Page(write_html(tmp_path / "new folder" / "report.html", sets, **options).read_text(encoding="utf-8"))


def test_one_file_closed_to_the_outside(tmp_path):
    page = _page(tmp_path, scored(["a", "b"]), facts={"command": ["main.py", "--x"], "config": "a: 1\nb: 2"})
    assert page.tags.count("style") == 1 and page.tags.count("script") == 2
    assert [value for _, name, value in page.attributes if name in ("src", "href", "style", "onclick", "action")] == []
    (policy,) = [value for tag, name, value in page.attributes if tag == "meta" and (value or "").startswith("default")]
    for kind, text in (("style", page.texts["style"][0]), ("script", page.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "a: 1\nb: 2" in page.texts["pre"] and "config" in page.texts["span"]
    assert "http" not in page.texts["script"][1].replace("http://www.w3.org/2000/svg", "") + page.texts["style"][0]


def test_numbers_go_in_and_come_out(tmp_path):
    one = scored(["a", "b"])
    data = _page(tmp_path, one).data
    (found,) = data["sets"]
    assert [video["name"] for video in found["videos"]] == ["a", "b"]
    for number in one.result["numbers"]:
        if number["video"] is not None:
            measure = data["measures"].index([number["protocol"], number["metric"], number["class_id"]])
            video = found["videos"]["ab".index(number["video"])]
            assert video["scores"][str(measure)] == number["value"]
    for row in one.rows:
        video = found["videos"]["ab".index(row.video)]
        place = video["frames"].index(row.frame)
        if row.protocol == "lgrnet":
            measure = data["measures"].index(["lgrnet", "iou", 1])
            assert video["values"][str(measure)][place] == pytest.approx(row.values["iou"], rel=1e-5)
        if row.protocol == "over-time":
            truth = masks(6, "ab".index(row.video))[0][place]
            assert video["areas"]["1"]["truth"][place] == pytest.approx(100 * truth.mean(), rel=1e-5)
    dice = [(row.values["dice"], row.video, row.frame) for row in one.rows if row.protocol == "lgrnet"]
    place, frame, value = found["worst"][0]
    assert ("ab"[place], found["videos"][place]["frames"][frame]) == min(dice)[1:]
    assert value == pytest.approx(min(dice)[0], rel=1e-5)


def test_hostile_names_stay_text(tmp_path):
    tame = _page(tmp_path, scored([f"v{i}" for i in range(len(HOSTILE))]), facts={"a": "b"})
    page = _page(tmp_path, scored(HOSTILE, set_name=HOSTILE[1]), facts={HOSTILE[0]: HOSTILE[1]})
    assert page.tags == tame.tags
    assert sorted(video["name"] for video in page.data["sets"][0]["videos"]) == sorted(HOSTILE)
    assert page.data["sets"][0]["name"] == HOSTILE[1]
    assert HOSTILE[0] in page.texts["span"] and HOSTILE[1] in page.texts["code"]
    assert f"Evaluation of {HOSTILE[1]}" in page.texts["title"]
    assert not set("<>&\u2028\u2029") & set(page.texts["script"][0])


def test_two_protocols_never_share_a_table(tmp_path):
    path = write_html(tmp_path / "report.html", [scored(["a"], set_name="x"), scored(["b"], set_name="y")])
    text = path.read_text(encoding="utf-8")
    numbers = text[text.index("<h2>Numbers") : text.index("<noscript>")]
    blocks = numbers.split("<h3>Protocol <code>")[1:]
    assert [block.split("<")[0] for block in blocks] == ["lgrnet", "study"]
    assert all(block.count("<table>") == 1 and block.count("<tr>") == 3 for block in blocks)


def test_what_is_not_known_is_left_out(tmp_path):
    old = scored(["a"], areas=False, pictures=False)
    old.result["numbers"] = [number for number in old.result["numbers"] if number["slice"] is None]
    bare = _page(tmp_path, old)
    assert bare.data["pictures"] == [] and bare.data["sets"][0]["videos"][0]["areas"] == {}
    assert "Slices" not in bare.texts["h2"] and "95 %" not in " ".join(bare.texts["p"])
    one = scored(["a"])
    for number in one.result["numbers"]:
        if number["video"] is None and number["metric"] == "dice":
            number |= {"lower": 0.25, "upper": 0.75}
    one.result["numbers"] += [
        {**one.result["numbers"][0], "slice": "size: <b>", "value": value, "frames": 0}
        for value in (None, float("nan"))
    ]
    page = _page(tmp_path, one)
    assert "0.2500 – 0.7500" in page.texts["small"] and "95 %" in " ".join(page.texts["p"])
    assert "Slices" in page.texts["h2"] and "size: <b>" in page.texts["span"] and "–" in page.texts["td"]


def test_of_a_number_that_is_good_when_low_the_high_frames_are_the_worst(tmp_path):
    evaluator = Evaluator([OverTimeProtocol()], "test")
    names = tuple(f"{t:02d}" for t in range(30))
    for video in "abcdef":
        found = np.arange(900).reshape(30, 30) < np.random.default_rng(ord(video)).integers(100, 800, (30, 1, 1))
        evaluator.process(
            Prediction(video, names, np.ones(1, np.float32), found[None] * np.uint8(255), found[None]),
            list(found * np.uint8(255)),
        )
    rows = list(evaluator.rows)
    picture = Picture(None, None, np.ones((1, 9, 9), bool))
    (known,) = _page(tmp_path, ScoredSet(evaluator.result(), rows, lambda *_: picture)).data["sets"]
    assert known["ranking"] == ["over-time", "area_flicker"]
    worst, best = ([value for *_, value in known[kind]] for kind in ("worst", "best"))
    flicker = [row.values["area_flicker"] for row in rows if "area_flicker" in row.values]
    flicker = [value for value in flicker if value == value]
    assert worst == sorted(worst, reverse=True) and best == sorted(best) and min(worst) > max(best)
    assert worst[0] == pytest.approx(max(flicker), rel=1e-5) and best[0] == pytest.approx(min(flicker), rel=1e-5)


@pytest.mark.parametrize("budget", [0, 1500, 6000, 10**9])
def test_the_budget_of_pictures_is_kept(tmp_path, budget):
    data = _page(tmp_path, scored(["a", "b"], frames=40), budget=budget).data
    spent = [len(json.dumps(entry, separators=(",", ":"))) for entry in data["pictures"]]
    assert sum(spent) <= budget
    places = [place for video in data["sets"][0]["videos"] for place in video["pictures"] if place is not None]
    assert sorted(places) == list(range(len(spent)))
    assert len(places) == 80 if budget == 10**9 else sum(spent) + 2000 > budget
    for video, frame, _ in data["sets"][0]["worst"] + data["sets"][0]["best"]:
        assert data["sets"][0]["videos"][video]["pictures"][frame] is not None


def test_pictures_are_small_and_have_both_outlines(tmp_path):
    truth, found = np.zeros((2, 2, 300, 600), bool)
    truth[0, 50:100, 50:100], truth[1, 299, 599], found[0, 60:90, 60:90] = True, True, True
    entry = encode(Picture(np.full((300, 600, 3), 200, np.uint8), truth, found), side=200)
    assert entry["size"] == (200, 100)
    image = Image.open(io.BytesIO(base64.b64decode(entry["frame"].removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (200, 100) and abs(np.asarray(image).astype(int) - 200).max() < 3
    assert entry["truth"][0] == "M16.8 16.8L16.8 33.2L33.2 33.2L33.2 16.8Z"
    assert entry["truth"][1] == "M199.8 99.8Z" and entry["found"][1] == ""
    bare = encode(Picture(None, None, found[:1, ::2, ::2]), side=200)
    assert bare["frame"] is None and bare["truth"] == [] and len(bare["found"]) == 1


def test_an_outline_is_drawn_at_its_place_whatever_the_size_of_its_mask():
    large, small = np.zeros((100, 200), bool), np.zeros((50, 100), bool)
    large[20:40, 20:60], small[10:20, 10:30] = True, True
    corners = [np.array([p.split() for p in outline(m, (200, 100))[1:-1].split("L")], float) for m in (large, small)]
    assert np.abs(corners[0] - corners[1]).max() <= 0.5


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 97])
def test_spread_takes_all_and_evenly(count):
    order = spread(count)
    assert sorted(order) == list(range(count))
    for some in (5, 9, 17):
        if count > some:
            assert max(np.diff(sorted(order[:some]))) <= 2 * (count - 1) / (some - 1) + 1


def test_pictures_are_not_held(tmp_path):
    alive, most = weakref.WeakSet(), 0
    one = scored(["a", "b"], frames=30)

    def picture(video, frame):
        nonlocal most
        given = one.pictures(video, frame)
        alive.add(given)
        most = max(most, len(alive))
        return given

    assert len(_page(tmp_path, ScoredSet(one.result, one.rows, picture)).data["pictures"]) == 60
    assert most <= 2


def test_several_classes_and_empty_frames(tmp_path):
    evaluator = Evaluator([LGRNetProtocol()], "test")
    mask = np.zeros((2, 3, 8, 8), bool)
    mask[0, 0, :4], mask[1, 1, 4:] = True, True
    raw = [
        np.where(mask[0, t], 10, 0).astype(np.uint8) + np.where(mask[1, t], 20, 0).astype(np.uint8) for t in range(3)
    ]
    labels = {10: 1, 20: 2}
    evaluator.process(Prediction("v", tuple("abc"), np.ones(2), mask * np.uint8(255), mask), raw, labels)
    one = ScoredSet(evaluator.result(), evaluator.rows, lambda v, f: Picture(None, *2 * [mask[:, "abc".index(f)]]))
    data = _page(tmp_path, one).data
    assert {tuple(measure) for measure in data["measures"]} >= {("lgrnet", "dice", 1), ("lgrnet", "dice", "mean")}
    shown = {data["sets"][0]["videos"][0]["frames"][frame] for _, frame, _ in data["sets"][0]["best"]}
    assert "c" not in shown  # nothing is there, and nothing was found


def test_a_page_is_there_whole_or_as_it_was(tmp_path):
    path = write_html(tmp_path / "report.html", [scored(["a"])])
    before = path.read_bytes()
    one = scored(["a"])

    def fails(video, frame):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_html(path, [ScoredSet(one.result, one.rows, fails)])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    for bad in ({"sets": []}, {"sets": [one], "budget": -1}, {"sets": [one], "side": 0}):
        with pytest.raises(ValueError, match="expected at least one set"):
            write_html(path, **bad)


def test_an_evaluation_of_a_model_writes_the_page(tmp_path):
    for video in ("a", "b"):
        write_video(tmp_path / "data", video, 3)
    records = [list_videos(tmp_path / "data")[0], list_videos(tmp_path / "data", masks=None)[1]]
    evaluate_sets(ToyModel(), {"test": records}, tmp_path, (16, 16), facts={"step": 3}, origin={"config": "x: 1\ny: 2"})
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "x: 1\ny: 2" in page.texts["pre"] and "3" in page.texts["code"]
    assert "3 frames without annotation left out" in page.texts["p"][0]
    assert [video["frames"] for video in page.data["sets"][0]["videos"]] == [["frame0", "frame1", "frame2"]]
    assert len(page.data["pictures"]) == 3 and all(picture["frame"] for picture in page.data["pictures"])
    bare = report_pictures(records, tmp_path / "test/web")("b", "frame1")
    assert bare.truth is None and bare.frame.shape == (20, 24, 3) and bare.found.shape == (1, 20, 24)


def test_pictures_of_classes_come_from_indexed_masks(tmp_path):
    write_video(tmp_path, "v", 1)
    raw = np.zeros((20, 24), np.uint8)
    raw[2:6, 2:6], raw[10:14, 10:14] = 10, 20
    write_image(tmp_path / "GT/v/frame0.png", Image.fromarray(raw))
    write_image(tmp_path / "web/v/frame0.png", Image.fromarray(np.where(raw == 10, 2, raw // 20).astype(np.uint8)))
    (record,) = list_videos(tmp_path, label_map={10: 1, 20: 2})
    picture = report_pictures([record], tmp_path / "web")("v", "frame0")
    assert np.array_equal(picture.truth, [raw == 10, raw == 20])
    assert np.array_equal(picture.found, [raw == 20, raw == 10])


def test_average_precision_has_a_table(tmp_path):
    one = scored(["a"])
    one.result["instances"] = {"ap": 0.5, "ap50": 0.75, "ar": None, "form": "video", "videos": 1, "frames": 6}
    page = _page(tmp_path, one)
    assert "Instances" in page.texts["h3"] and {"0.5000", "0.7500"} <= set(page.texts["td"])
    assert any("one image is a video" in text for text in page.texts["p"])
