"""Whole sets from disk to scores: what is wrong with files is found before the model has run."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torch import nn

from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.evaluation import LGRNetProtocol, VPSProtocol, read_annotation
from lgrnet.evaluation.protocols import FrameRow, mean_score
from lgrnet.inference.writers import save_overlays
from lgrnet.records import DataError, list_videos, write_frame, write_mask
from tests.data.layout import write_video
from tests.engine.toy import ToyModel


class Never(nn.Module):
    """A model that must not run."""

    stride = 4

    def forward(self, frames):
        raise AssertionError("the model ran before the files were checked")


@pytest.fixture
def root(tmp_path):
    for video in ("a", "b"):
        write_video(tmp_path / "data", video, 3)
    return tmp_path / "data"


def _evaluate(model, records, folder, **options):
    return evaluate_sets(model, {"test": records}, folder / "out", (16, 16), pictures=1, **options)


def test_a_mask_of_another_size_is_named_before_the_model_runs(root, tmp_path):
    write_mask(root / "GT/a/frame2.png", np.ones((10, 24), bool))
    with pytest.raises(DataError, match=r"mask .*GT/a/frame2.png has \(10, 24\) but its frame .*frame2.png has .*20"):
        _evaluate(Never(), list_videos(root), tmp_path)


def test_a_frame_of_another_size_is_named_before_the_model_runs(root, tmp_path):
    write_frame(root / "Frame/a/frame1.png", np.zeros((10, 24, 3)))
    with pytest.raises(DataError, match=r"frames of video 'a' differ: .*frame0.png has \(20, 24\), .*frame1.png"):
        _evaluate(Never(), list_videos(root), tmp_path)


def test_a_damaged_mask_and_unknown_values_are_named_before_the_model_runs(root, tmp_path):
    with pytest.raises(DataError, match=r"GT/a/frame0.png holds the values \[255\], unknown to the label map"):
        _evaluate(Never(), list_videos(root, label_map={7: 1}), tmp_path)
    (root / "GT/a/frame1.png").write_text("no mask")
    with pytest.raises(DataError, match="GT/a/frame1.png cannot be read"):
        _evaluate(Never(), list_videos(root), tmp_path)


def test_sets_that_cannot_be_scored_are_named_before_the_model_runs(root, tmp_path):
    bare = list_videos(root, masks=None)
    with pytest.raises(DataError, match=r"'test': none of its 6 frames in 2 videos is annotated .*Frame/a/frame0.png"):
        _evaluate(Never(), bare, tmp_path)
    with pytest.raises(DataError, match="'test' holds videos twice: a; list"):
        _evaluate(Never(), [*list_videos(root), bare[0]], tmp_path)
    with pytest.raises(DataError, match="'none' holds no video; check data.eval.none"):
        evaluate_sets(Never(), {"test": list_videos(root), "none": []}, tmp_path / "out", (16, 16))


def test_a_video_without_masks_beside_annotated_ones_is_counted(root, tmp_path):
    records = [list_videos(root)[0], list_videos(root, masks=None)[1]]
    assert set(_evaluate(ToyModel(), records, tmp_path)["test"]) == {"dice", "iou"}
    (found,) = json.loads((tmp_path / "out/report.json").read_text())["sets"]
    assert (found["frames"], found["frames_without_annotation"]) == (3, 3)


def test_grey_edges_warn_once_per_set(root, tmp_path):
    raw = np.zeros((20, 24), np.uint8)
    raw[2:8, 2:8], raw[2, 2:8] = 255, 100
    for index in range(2):
        Image.fromarray(raw).save(root / f"GT/b/frame{index}.png")
    with pytest.warns(UserWarning) as caught:
        _evaluate(ToyModel(), list_videos(root), tmp_path)
    told = [str(w.message) for w in caught if "grey edges" in str(w.message)]
    assert len(told) == 1 and "masks of 1 video (b) have grey edges, 12 pixels" in told[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_annotation(list_videos(root)[1])


class Level:
    """A protocol of somebody else."""

    id, meaning, metrics = "level", "Mean probability.", ("mean",)

    def per_frame(self, probability, mask, truth):
        return {"mean": float(probability.mean())}

    def aggregate(self, rows):
        return {"mean": mean_score(row.values["mean"] for row in rows)}


def test_the_first_of_several_protocols_gives_the_scores(root, tmp_path):
    scores = _evaluate(ToyModel(), list_videos(root), tmp_path, protocols=[Level(), LGRNetProtocol()])
    assert set(scores["test"]) == {"mean"}
    (found,) = json.loads((tmp_path / "out/report.json").read_text())["sets"]
    assert set(found["scores"]) == {"level", "lgrnet"} and found["scores"]["level"] == scores["test"]
    assert len(list((tmp_path / "out/test/pictures").glob("worst_1_*.png"))) == 1


def test_slices_of_what_is_known_and_instances_stand_in_the_report(root, tmp_path):
    records = [replace(record, meta={"seen": seen}) for record, seen in zip(list_videos(root), "yn", strict=True)]
    known = {"a": {"location": "C", "SI": True}, "b": {"location": "T"}}
    _evaluate(ToyModel(), records, tmp_path, attributes=known, instances="video")
    (found,) = json.loads((tmp_path / "out/report.json").read_text())["sets"]
    slices = found["slices"]["lgrnet"]
    assert {"seen: y", "seen: n", "location: C", "location: T", "attribute: SI"} <= set(slices)
    assert slices["location: C"]["frames"] == 3
    assert found["instances"]["form"] == "video" and 0 <= found["instances"]["ap"] <= 1
    assert found["instances"]["annotated_objects"] == 2
    text = (tmp_path / "out/report.md").read_text()
    assert "## Instances" in text and "| location: C | 1 | 3 |" in text
    lower, upper = found["intervals"]["lgrnet"]["dice"]
    assert lower <= found["scores"]["lgrnet"]["dice"] <= upper


def test_several_sets_have_their_plain_mean(root, tmp_path):
    """Not where one holds frames of another; a set of seen and unseen clips has the mean of these two."""
    write_video(root, "c", 2, empty=True)
    records = [
        replace(r, meta={"seen": part}) for r, part in zip(list_videos(root), ("seen", "unseen", "unseen"), strict=True)
    ]
    sets = {"easy": records, "hard": [replace(records[0], name="d")], "more": records[1:]}
    found = {}
    for names in (("easy",), ("hard", "more"), tuple(sets)):
        chosen = {name: sets[name] for name in names}
        evaluate_sets(ToyModel(), chosen, tmp_path / "out", (16, 16), pictures=1, protocols=[VPSProtocol(), Level()])
        found[names] = json.loads((tmp_path / "out/report.json").read_text())
    seen = "easy: mean over 2 sets (seen, unseen)"
    assert set(found["easy",]["mean_over_sets"]) == set(found[tuple(sets)]["mean_over_sets"]) == {seen}
    for protocol, metric in (("vps", "MAE"), ("level", "mean")):
        parts = found["easy",]["sets"][0]["slices"][protocol]
        values = [parts[f"seen: {part}"]["scores"][metric] for part in ("seen", "unseen")]
        assert found["easy",]["mean_over_sets"][seen][protocol][metric] == pytest.approx(sum(values) / 2, abs=1e-12)
    apart = found["hard", "more"]
    assert set(apart["mean_over_sets"]) == {"mean over 2 sets (hard, more)"}
    values = [one["scores"]["level"]["mean"] for one in apart["sets"]]
    assert apart["mean_over_sets"]["mean over 2 sets (hard, more)"]["level"]["mean"] == pytest.approx(sum(values) / 2)
    for name in ("report.md", "report.html"):
        assert seen in (tmp_path / "out" / name).read_text()


def test_what_an_earlier_evaluation_left_goes(root, tmp_path):
    """Masks of other videos would be scored with those of this set, pictures of other frames be looked at."""
    records = list_videos(root)
    _evaluate(ToyModel(), records, tmp_path)
    (tmp_path / "out/test/web/note.txt").write_text("mine")
    _evaluate(ToyModel(), records[:1], tmp_path)
    web, pictures = tmp_path / "out/test/web", tmp_path / "out/test/pictures"
    assert sorted(path.name for path in web.iterdir()) == ["a", "note.txt"] and len(list((web / "a").iterdir())) == 3
    shown = [path.name for path in pictures.glob("worst_*")]
    assert shown and all(re.fullmatch(r"worst_\d_a_frame\d.png", name) for name in shown)


def test_of_a_number_that_is_good_when_low_the_high_frames_are_the_worst(root, tmp_path):
    records = list_videos(root)
    _evaluate(ToyModel(), records, tmp_path)
    rows = [FrameRow("lgrnet", "a", f"frame{i}", 1, {"dice": i / 9, "mae": i / 9}) for i in range(3)]
    for metric, worst in (("dice", "frame0"), ("mae", "frame2")):
        first, *_ = save_overlays(rows, records, tmp_path / "out/test/web", tmp_path / metric, "p", metric=metric)
        assert first.name == f"worst_1_a_{worst}.png"
