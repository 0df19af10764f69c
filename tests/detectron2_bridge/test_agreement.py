"""What a config, a catalog and the files of a data set say of each other: nothing is taken for something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from lgrnet.data.samplers import Single
from lgrnet.detectron2_bridge import add_lgrnet_config, merge_config
from lgrnet.detectron2_bridge.agreement import disagreements
from lgrnet.detectron2_bridge.catalog import clip_dicts, register_folder, register_records
from lgrnet.detectron2_bridge.config import statistics
from lgrnet.detectron2_bridge.frames import FrameEvaluator, frame_dicts
from lgrnet.detectron2_bridge.inputs import read_clip, read_targets
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.detectron2_bridge.meta_arch import model_class
from lgrnet.detectron2_bridge.solver import build_optimizer
from lgrnet.records import DataError, VideoRecord, write_frame, write_mask

PHANTOM = "lgrnet/detectron2_bridge/configs/phantom.yaml"


@pytest.fixture
def folder(tmp_path):
    """A video of 6 frames, each of a grey of its own."""
    for t in range(6):
        write_frame(tmp_path / "Frame/v" / f"{t}.png", np.full((32, 40, 3), 40 * t, np.uint8))
        write_mask(tmp_path / "GT/v" / f"{t}.png", np.ones((32, 40), bool))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], []),
        (["INPUT.CLIP.SIZE", [64, 64]], ["INPUT.CLIP.SIZE is [64, 64], they were trained at [96, 96]"]),
        (["MODEL.LGRNET.ENCODER.DILATION", 2], ["encoder.dilation is 2, theirs is 1"]),
        (["MODEL.LGRNET.ENCODER.CYCLIC", False], ["encoder.cyclic is False, theirs is True"]),
        (["MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]], ["MODEL.PIXEL_MEAN is [0.0, 0.0, 0.0], theirs is [123.675"]),
        (["MODEL.PVTV2.DROP_PATH", 0.2], []),
    ],
)
def test_what_weights_say_of_their_model(given, said):
    cfg = merge_config(add_lgrnet_config(get_cfg()), PHANTOM, ["MODEL.WEIGHTS", "lgrnet://phantom", *given])
    found = disagreements(cfg)
    assert len(found) == len(said) and all(one.startswith(part) for one, part in zip(found, said, strict=True))


def test_other_weights_say_nothing(cfg):
    for weights in ("", "model_final.pth", "lgrnet://pvt_v2_b2.pth", "detectron2://a/b.pkl"):
        assert disagreements(merge_config(cfg, None, ["MODEL.WEIGHTS", weights])) == []


def test_a_part_of_a_video_is_not_taken_for_another(folder):
    register_folder("agreement_parts", folder)
    (video,) = clip_dicts("agreement_parts")
    mapper = ClipMapper(True, size=(32, 64), sampler=Single(), transforms=[])
    for first in (0, 3):
        part = {key: video[key][first : first + 3] for key in ("file_names", "mask_file_names")}
        clip = mapper({**video, **part, "num_frames": 3, "frame_index": 1})
        assert clip["frame_names"] == (str(first + 1),) and (clip["frames"] == 40 * (first + 1)).all()


def test_two_videos_of_one_name_are_refused(folder):
    frames, masks = (tuple(sorted((folder / kind / "v").iterdir())) for kind in ("Frame", "GT"))
    records = [VideoRecord("v", frames[:3], masks[:3]), VideoRecord("v", frames[3:], masks[3:])]
    register_records("agreement_twice", lambda: records)
    with pytest.raises(DataError, match="two videos named 'v'"):
        clip_dicts("agreement_twice")


def test_names_of_others_are_left_alone(folder):
    MetadataCatalog.get("agreement_meta").set(thing_classes=["cat"])
    with pytest.raises(ValueError, match=r"MetadataCatalog has thing_classes \['cat'\] for 'agreement_meta' already"):
        register_folder("agreement_meta", folder)
    assert "agreement_meta" not in DatasetCatalog
    register_folder("agreement_theirs", folder)
    DatasetCatalog.remove("agreement_theirs")
    DatasetCatalog.register("agreement_theirs", list)
    with pytest.raises(ValueError, match="is registered by another package"):
        register_folder("agreement_theirs", folder)
    assert DatasetCatalog.get("agreement_theirs") == []


def test_frames_that_only_detectron2_would_turn_are_refused(folder):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(folder / "Frame/v/2.png", exif=exif)
    register_folder("agreement_exif", folder)
    with pytest.raises(DataError, match="2.png says that it is to be turned .EXIF orientation 3."):
        frame_dicts("agreement_exif")


@pytest.mark.parametrize("output", [{"sem_seg": 1}, {"instances": []}])
def test_predictions_that_are_none_of_the_data_set(folder, output):
    register_folder("agreement_images", folder)

    class Nothing:
        def reset(self):
            pass

    video = "v" if "sem_seg" in output else "w"
    with pytest.raises(DataError, match=f"video '{video}' has {next(iter(output))}; expected instances"):
        FrameEvaluator(Nothing(), "agreement_images").process([{"video_name": video}], [output])


def test_ignored_pixels_of_a_map_beside_instances():
    instances = Instances((4, 6), gt_classes=torch.tensor([0]), gt_masks=torch.ones(1, 4, 6, dtype=torch.bool))
    maps = np.ones((4, 6), np.uint16)
    maps[:2] = 255
    item = {"image": torch.zeros(3, 4, 6, dtype=torch.uint8), "instances": instances, "frame_names": np.array(["a"])}
    clip = read_clip(item)
    assert clip.info.frame_names == ("a",)
    assert read_targets({**item, "sem_seg": maps}, clip).valid.tolist() == [[[False] * 6] * 2 + [[True] * 6] * 2]
    assert read_targets(item, clip).valid.all()
    alone = read_targets({"image": item["image"], "sem_seg": maps}, clip)
    assert alone.valid.sum() == 12 and alone.masks.sum() == 12


def test_statistics_in_the_wrong_order_are_told(cfg):
    with pytest.warns(UserWarning, match="INPUT.FORMAT is BGR, and MODEL.PIXEL_MEAN .* is ImageNet's in the order RGB"):
        statistics(merge_config(cfg, None, ["INPUT.FORMAT", "BGR"]))
    with pytest.warns(UserWarning, match="SvANet is published without normalisation"):
        svanet = ["INPUT.FORMAT", "RGB", "MODEL.META_ARCHITECTURE", "SvANet", "MODEL.SVANET.RESNET", "resnet18"]
        merged = merge_config(cfg, None, svanet)
        model_class(merged).from_config(merged)


@pytest.mark.parametrize(("keys", "spared"), [([], {"norm"}), (["SOLVER.DECAY_NORMS", True], set())])
def test_what_weight_decay_spares(cfg, keys, spared):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = build_optimizer(merge_config(cfg, None, keys), model)
    free = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert free == ({id(p) for p in model[1].parameters()} if spared else set())


@pytest.mark.peer
def test_augmentation_of_tests_is_refused():
    from lgrnet.detectron2_bridge.train_net import setup

    with pytest.raises(ValueError, match="TEST.AUG.ENABLED is True"):
        setup(PHANTOM, ["TEST.AUG.ENABLED", "True", "MODEL.DEVICE", "cpu"])
