"""detectron2's predictor runs our models, and its Visualizer draws what they find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lgrnet
from lgrnet.data import phantom
from lgrnet.detectron2_bridge.catalog import clip_dicts, register_layouts
from lgrnet.detectron2_bridge.config import add_lgrnet_config, merge_config
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.detectron2_bridge.meta_arch import ClipMetaArch
from lgrnet.inference.predictor import Predictor
from lgrnet.records import read_frame, write_frame

CONFIG = Path(__file__).resolve().parents[2] / "lgrnet/detectron2_bridge/configs/phantom.yaml"


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> dict:
    """The dict of a phantom clip of two frames."""
    root = tmp_path_factory.mktemp("visualizer")
    phantom.write(root / "phantom", num_clips=2, num_frames=2, size=256)
    register_layouts(root)
    return clip_dicts("phantom_test")[0]


@pytest.mark.peer
def test_the_visualizer_draws_what_was_found(video, tmp_path):
    from detectron2.data import MetadataCatalog
    from detectron2.utils.visualizer import ColorMode, Visualizer

    model = ClipMetaArch(model=lgrnet.load("phantom")).eval()
    (found,) = model([ClipMapper(False, size=96)(video)])
    frame, metadata = read_frame(video["file_names"][0]), MetadataCatalog.get("phantom_test")
    instances = found["instances"][0]
    instances = instances[instances.scores > 0.5]
    inside = instances.pred_masks.any(0).numpy()
    assert len(instances) and 500 < inside.sum() < inside.size / 2

    drawn = Visualizer(frame, metadata, instance_mode=ColorMode.SEGMENTATION).draw_instance_predictions(instances)
    changed = np.abs(drawn.get_image().astype(int) - frame).sum(2) > 10
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    far = np.ones_like(inside)  # the label stands beside the box
    far[max(rows[0] - 30, 0) : rows[-1] + 30, max(columns[0] - 30, 0) : columns[-1] + 90] = False
    assert drawn.get_image().shape == frame.shape
    assert changed[inside].mean() > 0.9 and changed[far].mean() < 0.01

    classes = found["sem_seg"][0].argmax(0)
    assert np.array_equal(classes.numpy() == 1, found["prediction"].probability[0, 0] > 127.5)
    regions = Visualizer(frame, metadata).draw_sem_seg(classes)
    assert (np.abs(regions.get_image().astype(int) - frame).sum(2) > 10)[classes.numpy() == 1].mean() > 0.9
    for name, picture in (("instances", drawn), ("classes", regions)):
        write_frame(tmp_path / f"{name}.png", picture.get_image())


@pytest.mark.peer
def test_detectron2s_predictor_sees_an_image_as_ours_does(video):
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    cfg = merge_config(add_lgrnet_config(get_cfg()), CONFIG, ["MODEL.WEIGHTS", "lgrnet://phantom"])
    frame = read_frame(video["file_names"][0])
    found = DefaultPredictor(cfg)(frame[..., ::-1])  # BGR
    expected = Predictor(lgrnet.load("phantom"), size=96).predict_frames(frame)
    assert expected.mask.any() and np.array_equal(found["prediction"].mask, expected.mask)
    assert np.array_equal(found["instances"].pred_masks[0].numpy(), expected.mask[0, 0])
