"""Numbers that depend on the order of frames take the benchmark's, whatever order the model reads a clip in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from torch import nn

from lgrnet.data.datasets import sunseg
from lgrnet.engine.evaluate import evaluate_sets
from lgrnet.evaluation import AveragePrecision, Evaluator, OverTimeProtocol, VPSProtocol, read_annotation
from lgrnet.evaluation.mask_trees import find_frames, pair_trees
from lgrnet.evaluation.score_files import score_pairs
from lgrnet.records import Prediction, read_frame, read_mask
from tests.data.layout import write_video

STEM = "case_M_20181001100941_0U62372100109341_1_005_001-1_a{}_ayy_image{:04d}"
BENCHMARK = [STEM.format(part, image) for part, image in ((2, 1), (2, 2), (10, 3), (10, 4), (10, 5))]
VIDEOS = ("case1", "case2", "case3_1")
PART = "TestEasyDataset/Unseen"


@pytest.fixture
def sets(tmp_path):
    """The clips, read in the order of names as text and in the benchmark's; their maps are on disk."""
    for place, video in enumerate(VIDEOS):
        write_video(tmp_path / PART, video, BENCHMARK, suffix=".jpg", empty=place == 2)
        (tmp_path / "maps" / video).mkdir(parents=True)
        for index, stem in enumerate(BENCHMARK):
            map_ = np.random.default_rng([place, index]).integers(0, 256, (20, 24), dtype=np.uint8)
            truth = read_mask(tmp_path / PART / "GT" / video / f"{stem}.png")
            Image.fromarray(map_ // 2 + truth // 3).save(tmp_path / "maps" / video / f"{stem}.png")
    with pytest.warns(UserWarning, match="3 videos here"):
        records = {order: sunseg(tmp_path, "easy_unseen", order=order) for order in ("name", "benchmark")}
    assert list(records["benchmark"][0].frame_names) == BENCHMARK != list(records["name"][0].frame_names)
    return records


def _protocols():
    return [VPSProtocol(), OverTimeProtocol(fps=30, flow=True)]


def _processed(records, maps, ranks=1):
    """The numbers of the records' maps, the videos shared by some ranks."""
    evaluators = [Evaluator(_protocols(), "Unseen") for _ in range(ranks)]
    for place, record in enumerate(records):
        found = np.stack([np.array(Image.open(maps / record.name / f"{name}.png")) for name in record.frame_names])[
            None
        ]
        prediction = Prediction(record.name, record.frame_names, np.ones(1, np.float32), found, found > 127)
        frames = [read_frame(path) for path in record.frames]
        evaluators[place % ranks].process(prediction, read_annotation(record), images=frames.__getitem__)
    for other in evaluators[1:]:
        evaluators[0].merge(json.loads(json.dumps(other.state())))
    return evaluators[0]


@pytest.mark.parametrize("order", ["name", "benchmark"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_model_and_a_folder_of_maps_have_the_same_numbers(order, ranks, sets, tmp_path):
    pairs = pair_trees(tmp_path / "maps", tmp_path / PART)
    on_disk = score_pairs(pairs, _protocols(), "Unseen", images=find_frames(tmp_path / PART, pairs))
    processed = _processed(sets[order], tmp_path / "maps", ranks)
    ours, theirs = (
        {(n["protocol"], n["video"], n["slice"], n["metric"]): n["value"] for n in evaluator.result()["numbers"]}
        for evaluator in (processed, on_disk)
    )
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=1e-12, nan_ok=True), key
    assert processed.result()["split_hash"] == on_disk.result()["split_hash"]
    frames, others = ([(row.protocol, row.video, row.frame) for row in e.each_row()] for e in (processed, on_disk))
    assert frames == others


class Grey(nn.Module):
    """What it finds is the frame's own grey; it remembers which frames it saw, in which order."""

    stride = 4

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, frames):
        return frames

    def predict(self, output, info):
        self.shown.append(info.frame_names)
        grey = (output[0].mean(1, keepdim=True).movedim(0, 1) * 255).byte().numpy()
        return Prediction(info.video, info.frame_names, np.ones(1, np.float32), grey, grey > 127)


def test_a_model_sees_the_frames_in_the_order_of_its_data_set(sets, tmp_path):
    found = {}
    for order, records in sets.items():
        model, folder = Grey(), tmp_path / order
        told = {"pictures": 1, "protocols": _protocols(), "instances": "frame"}
        evaluate_sets(model, {"test": records}, folder, (20, 24), **told)
        assert model.shown == [record.frame_names for record in records]
        found[order] = json.loads((folder / "report.json").read_text())
    assert found["name"] == found["benchmark"]


def test_detections_of_one_score_rank_in_the_benchmarks_order():
    """Right in the last two frames, of one score with what is wrong before."""
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[:, 2:6, 2:6] = 255
    found = np.roll(truth, 2, axis=1)
    found[3:] = truth[3:]
    results = []
    for order in (range(5), (2, 3, 4, 0, 1)):
        names, maps = tuple(BENCHMARK[i] for i in order), found[list(order)][None]
        average = AveragePrecision("frame")
        average.process(Prediction("v", names, np.ones(1, np.float32), maps, maps > 127), list(truth[list(order)]))
        results.append(average.result()["ap"])
    assert results == pytest.approx([0.4 * 41 / 101] * 2, abs=1e-9)
