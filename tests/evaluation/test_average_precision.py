"""Average precision: known by hand, as pycocotools gives it directly, the same for any order and number of ranks."""

import itertools
import json
import math

import numpy as np
import pytest
from pycocotools import mask as rle_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lgrnet.evaluation import AveragePrecision
from lgrnet.records import Candidates, DataError, Prediction

SIZE = (20, 30)
COMMON = ("ap", "ap50", "ap75", "ar")


def box(top, left, height, width, size=SIZE):
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = box(0, 0, 0, 0)
ONE = pytest.approx(1)  # pycocotools adds the smallest number to what it divides by


def predicted(masks, scores, video="a"):
    """masks: per query the masks of its frames; scores [Q, K]."""
    masks, scores = np.array(masks), np.array(scores, np.float32).reshape(len(masks), -1)
    frames, classes = masks.shape[1], scores.shape[1]
    rest = np.zeros((classes, frames, *masks.shape[2:]), bool)
    names = tuple(f"{i:03d}" for i in range(frames))
    candidates = Candidates(masks, scores)
    return Prediction(video, names, scores.max(0), rest.astype(np.uint8), rest, candidates)


def raw(*masks):
    return [None if mask is None else mask.astype(np.uint8) * 255 for mask in masks]


def rated(prediction, truth, label_map="binary", **settings):
    ap = AveragePrecision(**settings)
    ap.process(prediction, truth, label_map)
    return ap.result()


@pytest.mark.parametrize("form", ["frame", "video"])
def test_the_right_mask_has_1_and_the_wrong_one_0(form):
    right, wrong = box(2, 2, 8, 10), box(12, 15, 6, 10)
    assert [rated(predicted([[right]], [0.9]), raw(right), form=form)[name] for name in COMMON] == [ONE] * 4
    assert [rated(predicted([[wrong]], [0.9]), raw(right), form=form)[name] for name in COMMON] == [0, 0, 0, 0]


def test_a_mask_counts_up_to_its_iou():
    result = rated(predicted([[box(0, 0, 9, 10)]], [0.9]), raw(box(0, 0, 12, 10)))  # IoU 0.75
    assert (result["ap50"], result["ap75"]) == (ONE, ONE)
    assert result["ap"] == pytest.approx(0.6)  # at 0.50, 0.55 ... 0.75: 6 of 10 thresholds
    assert rated(predicted([[box(0, 0, 9, 10)]], [0.9]), raw(box(0, 0, 13, 10)))["ap75"] == 0


def test_a_better_scored_wrong_mask_halves_the_precision():
    right, wrong = box(2, 2, 8, 10), box(12, 15, 6, 10)
    assert rated(predicted([[right], [wrong]], [0.8, 0.9]), raw(right))["ap"] == pytest.approx(0.5)
    assert rated(predicted([[right], [wrong]], [0.9, 0.8]), raw(right))["ap"] == ONE
    assert rated(predicted([[right], [right]], [0.9, 0.8]), raw(right))["ap"] == ONE  # a second hit comes too late


def test_a_missed_object_costs_its_share_of_recall():
    mask = box(2, 2, 8, 10)
    result = rated(predicted([[mask, EMPTY]], [0.9]), raw(mask, mask))
    assert result["ap"] == pytest.approx(51 / 101)  # of 101 recalls, 0.00 to 0.50 are reached
    assert result["ar"] == 0.5
    assert (result["annotated_objects"], result["detections"]) == (2, 1)


def test_the_video_form_takes_the_iou_over_all_frames():
    small, large = box(0, 0, 2, 10), box(0, 0, 14, 10)
    # Frame by frame: IoU 0 and 1. Over the video: 140 / (140 + 20 + 20).
    shown = predicted([[box(10, 0, 2, 10), large]], [0.9])
    frame, video = (rated(shown, raw(small, large), form=form) for form in ("frame", "video"))
    assert frame["ap"] == pytest.approx(0.5 * 51 / 101) and frame["ar"] == 0.5
    assert (video["ap50"], video["ap75"], video["ap"]) == (ONE, ONE, pytest.approx(0.6))  # 0.778: thresholds to 0.75
    assert (frame["annotated_objects"], video["annotated_objects"]) == (2, 1)
    assert "ap_small" in frame and "ap_small" not in video


@pytest.mark.parametrize("objects", ["class", "component"])
@pytest.mark.parametrize("classes", [1, 2])
def test_a_video_of_one_frame_is_the_frame(objects, classes):
    forms = [AveragePrecision(form, objects=objects) for form in ("frame", "video")]
    for prediction, truth in drawn(videos=6, frames=1, classes=classes):
        for ap in forms:
            ap.process(prediction, truth, label_map(classes))
    frame, video = (ap.result() for ap in forms)
    assert {name: frame[name] for name in COMMON} == {name: video[name] for name in COMMON}
    assert 0 < frame["ap"] < 1


def label_map(classes):
    return "binary" if classes == 1 else {0: 0, 100: 1, 200: 2}


def drawn(videos=4, frames=5, queries=6, classes=2, seed=0):
    """Videos with boxes that move, queries that follow them badly or not, and a frame without annotation."""
    draw = np.random.default_rng(seed)
    for number in range(videos):
        values, masks = [], np.zeros((queries, frames, *SIZE), bool)
        for t in range(frames):
            value = np.zeros(SIZE, np.uint8)
            for k in range(classes):
                here = box(2 + t, 3 + 12 * k, 4 + 3 * number, 8)
                value[here] = 100 * (k + 1)
                for query in range(k, queries, classes):
                    moved = np.roll(here, draw.integers(-2, 3, 2), (0, 1))
                    masks[query, t] = moved if draw.random() > 0.2 else False
            values.append(value if draw.random() > 0.2 or t == 0 else None)
        scores = draw.random((queries, classes)) * 0.3
        scores[np.arange(queries), np.arange(queries) % classes] += draw.random(queries)
        yield predicted(masks, scores, video=f"v{number}"), values


def direct(cases, classes, max_detections):
    """The same by pycocotools alone, written down as a user of it would: result list, summarize."""
    images, annotations, results = [], [], []
    for prediction, values in cases:
        for t, value in enumerate(values):
            if value is None:
                continue
            images.append({"id": len(images) + 1, "height": SIZE[0], "width": SIZE[1]})
            here = {"image_id": len(images)}
            for k in range(classes):
                mask = value == 100 * (k + 1)
                if mask.any():
                    rle = rle_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
                    more = {"id": len(annotations) + 1, "category_id": k + 1, "iscrowd": 0, "area": int(mask.sum())}
                    annotations.append({**here, **more, "segmentation": rle})
            found = []
            for query, k in itertools.product(range(len(prediction.candidates.masks)), range(classes)):
                mask = prediction.candidates.masks[query, t]
                if mask.any():
                    rle = rle_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
                    score = float(prediction.candidates.scores[query, k])
                    found.append({**here, "category_id": k + 1, "score": score, "segmentation": rle})
            results += sorted(found, key=lambda one: -one["score"])[:max_detections]
    truth = COCO()
    categories = [{"id": k + 1, "name": str(k)} for k in range(classes)]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize(("classes", "max_detections"), [(1, 100), (2, 100), (2, 3)])
def test_it_is_what_pycocotools_gives_directly(classes, max_detections):
    cases = list(drawn(classes=classes))
    ap = AveragePrecision(max_detections=max_detections)
    for prediction, truth in cases:
        ap.process(prediction, truth, label_map(classes))
    result, stats = ap.result(), direct(cases, classes, max_detections)
    assert [result[name] for name in COMMON[:3]] == pytest.approx(stats[:3].tolist(), abs=1e-12)
    assert [result["ap_small"], result["ar"]] == pytest.approx([stats[3], stats[8]], abs=1e-12)
    assert math.isnan(result["ap_large"]) and stats[5] == -1
    assert 0.1 < result["ap"] < 0.9


@pytest.mark.parametrize("form", ["frame", "video"])
def test_order_and_ranks_make_no_difference(form):
    cases = list(drawn(videos=5))
    for _, values in cases:
        values[-1] = None
    cases[1][0].candidates.scores[:] = cases[0][0].candidates.scores  # equal scores in two videos
    whole, ranks = AveragePrecision(form), [AveragePrecision(form) for _ in range(2)]
    for prediction, truth in cases:
        whole.process(prediction, truth, label_map(2))
    for place, (prediction, truth) in enumerate(reversed(cases)):
        ranks[place % 2].process(prediction, truth, label_map(2))
    ranks[1].merge(json.loads(json.dumps(ranks[0].state())))
    assert ranks[1].result() == whole.result() and whole.result()["videos"] == 5


def test_frames_without_annotation_are_left_out_of_both_sides():
    mask, elsewhere = box(2, 2, 8, 10), box(12, 15, 6, 10)
    for form in ("frame", "video"):
        result = rated(predicted([[mask, elsewhere, mask]], [0.9]), raw(mask, None, mask), form=form)
        assert result["ap"] == ONE
        assert (result["frames"], result["frames_without_annotation"]) == (2, 1)


def test_a_mask_that_is_empty_is_no_detection():
    mask = box(2, 2, 8, 10)
    result = rated(predicted([[EMPTY], [mask]], [0.9, 0.1]), raw(mask))
    assert (result["ap"], result["detections"]) == (ONE, 1)


def test_only_the_best_detections_of_all_classes_together_are_kept():
    mask = box(2, 2, 8, 10)
    truth = [mask.astype(np.uint8) * 2]
    shown = predicted([[mask], [mask]], [[0.9, 0.1], [0.8, 0.2]])
    both = {1: 1, 2: 2}
    assert rated(shown, truth, both, max_detections=3)["classes"][2]["ap"] == ONE
    kept = rated(shown, truth, both, max_detections=2)
    assert (kept["detections"], kept["classes"][2]["ap"]) == (2, 0)


def test_without_candidates_the_mask_of_each_class_is_its_detection():
    first, second = box(0, 0, 8, 10), box(10, 0, 8, 10)
    value = first * np.uint8(1) + second * np.uint8(2)
    shown = predicted([[first], [second]], [[0.0, 0.0], [0.0, 0.0]])
    shown.candidates, shown.scores, shown.mask = None, np.array([0.3, 0.6]), np.array([[first], [second]])
    result = rated(shown, [value], {1: 1, 2: 2})
    assert (result["ap"], result["detections"]) == (ONE, 2)


def test_components_are_objects_of_their_own():
    left, right = box(2, 2, 8, 8), box(2, 20, 8, 8)
    shown = predicted([[left, left], [right, right]], [0.9, 0.8])
    for form, count in (("frame", 4), ("video", 2)):
        pieces = rated(shown, raw(left | right, left | right), form=form, objects="component")
        assert (pieces["ap"], pieces["annotated_objects"]) == (ONE, count)
        assert rated(shown, raw(left | right, left | right), form=form)["ap75"] == 0  # each covers half of the whole
    diagonal = box(0, 0, 4, 4) | box(4, 4, 4, 4)
    assert rated(shown, raw(diagonal, EMPTY), objects="component")["annotated_objects"] == 1


def test_soft_masks_count_from_one_half_on():
    value = np.zeros(SIZE, np.uint8)
    value[:10], value[10:] = 128, 127
    assert rated(predicted([[box(0, 0, 10, 30)]], [0.9]), [value], "soft")["ap"] == ONE


def test_a_class_without_objects_is_nan_and_left_out_of_the_mean():
    mask = box(2, 2, 8, 10)
    result = rated(predicted([[mask]], [[0.9, 0.8]]), raw(mask), {255: 1, 1: 2})
    assert result["ap"] == result["classes"][1]["ap"] == ONE
    assert math.isnan(result["classes"][2]["ap"]) and math.isnan(result["classes"][2]["ar"])
    empty = rated(predicted([[mask]], [0.9]), raw(EMPTY))
    assert all(math.isnan(empty[name]) for name in COMMON) and empty["detections"] == 1


def test_nothing_detected_is_0():
    result = rated(predicted([[EMPTY]], [0.9]), raw(box(2, 2, 8, 10)))
    assert [result[name] for name in COMMON] == [0, 0, 0, 0] and result["detections"] == 0


def test_it_prints_nothing(capfd):
    mask = box(2, 2, 8, 10)
    rated(predicted([[mask]], [0.9]), raw(mask))
    assert capfd.readouterr() == ("", "")


def test_errors_of_pycocotools_come_through(monkeypatch):
    def broken(self):
        raise MemoryError("no room")

    monkeypatch.setattr(COCOeval, "evaluate", broken)
    with pytest.raises(MemoryError, match="no room"):
        rated(predicted([[EMPTY]], [0.9]), raw(EMPTY))


def test_what_does_not_fit_is_named(monkeypatch):
    mask = box(2, 2, 8, 10)
    shown, truth = predicted([[mask, mask]], [0.9]), raw(mask, mask)
    with pytest.raises(DataError, match="video 'a' has 2 predicted frames but 1 masks"):
        rated(shown, truth[:1])
    with pytest.raises(DataError, match=r"their scores \(1, 1\); expected \[Q, 2, H, W\] and \[Q, 2\]"):
        rated(shown, truth, {1: 1, 2: 2})
    with pytest.raises(DataError, match=r"frame '001': the prediction has \(height, width\) \(20, 30\) but .*\(5, 5\)"):
        rated(shown, [truth[0], np.zeros((5, 5), np.uint8)])
    with pytest.raises(DataError, match=r"mask of a/000 holds the values \[255\]"):
        rated(shown, truth, {1: 1})
    with pytest.raises(DataError, match="video 'a': scores of detections hold nan"):
        rated(predicted([[mask]], [math.nan]), raw(mask))
    monkeypatch.setattr("lgrnet.evaluation.average_precision._MAX_PIXELS", 1000)
    with pytest.raises(DataError, match='2 frames of 20 x 30 pixels.*take form="frame"'):
        rated(shown, truth, form="video")


def test_a_video_is_taken_in_once_and_ranks_agree_on_settings():
    mask = box(2, 2, 8, 10)
    ap = AveragePrecision(set_name="s")
    ap.process(predicted([[mask]], [0.9]), raw(mask))
    with pytest.raises(DataError, match="'a' was taken in before in set 's'"):
        ap.process(predicted([[mask]], [0.9]), raw(mask))
    with pytest.raises(ValueError, match="taken in twice in set 's': a"):
        ap.merge(ap.state())
    with pytest.raises(ValueError, match="'form': 'frame'.*this one with .*'form': 'video'"):
        AveragePrecision("video", set_name="s").merge(ap.state())


def test_nothing_annotated_is_an_error():
    ap = AveragePrecision(set_name="s")
    ap.process(predicted([[EMPTY]], [0.9]), [None])
    with pytest.raises(DataError, match="set 's': no annotated frame .1 videos, 1 frames without"):
        ap.result()


@pytest.mark.parametrize("settings", [{"form": "clip"}, {"objects": "pixel"}, {"max_detections": 0}])
def test_unknown_settings(settings):
    with pytest.raises(ValueError, match="expected one of frame, video, one of class, component, and 1 or more"):
        AveragePrecision(**settings)
