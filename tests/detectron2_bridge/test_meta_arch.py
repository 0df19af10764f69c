"""Our models in detectron2's contract: the same losses and masks as lgrnet's own trainer and predictor."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from lgrnet.data.loader import collate
from lgrnet.detectron2_bridge import ClipMetaArch, LGRNet, PlainHead, meta_arch
from lgrnet.detectron2_bridge.outputs import class_maps, frame_instances
from lgrnet.draws import python_generator
from lgrnet.engine.optim import adamw, constant
from lgrnet.engine.settings import TrainSettings
from lgrnet.engine.trainer import Trainer
from lgrnet.inference import predictor
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.records import Candidates, Prediction
from lgrnet.structures import Clip, ClipInfo, Targets

SIZE = (3, 64, 64)


def clip(position: int, size=SIZE, seed: int = 0) -> Clip:
    """A clip with two blocks of foreground, one in each half of the picture, of class 0."""
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.integers(0, 256, (size[0], 3, *size[1:]), np.uint8)).float().div(255)
    masks = torch.zeros(1, *size)
    masks[0, :, 10 + seed : 30, 8:40] = 1
    masks[0, 0, 40:50, 8:40] = 1
    targets = Targets(torch.tensor([0]), masks, torch.ones(size, dtype=torch.bool), torch.ones(size[0]).bool())
    return Clip(frames, targets, ClipInfo(f"v{seed}", tuple(map(str, range(size[0]))), size[1:], size, position))


def item(made: Clip, masks=lambda m: BitMasks(m > 0)) -> dict:
    """The clip as detectron2's dict."""
    frames = (made.frames * 255).round().to(torch.uint8)
    instances = [
        Instances(
            tuple(made.frames.shape[-2:]), gt_classes=made.targets.labels, gt_masks=masks(made.targets.masks[:, t])
        )
        for t in range(len(made.frames))
    ]
    return {"frames": frames, "instances": instances, "video_name": made.info.video}


class Batches:
    """A loader of ready batches."""

    dataset = range(10)

    def __init__(self, batches):
        self.ready = batches

    def batches(self, start_step):
        return iter(self.ready[start_step:])


@pytest.mark.parametrize("name", ["LGRNet", "PlainHead"])
@pytest.mark.parametrize("drop_path, sizes", [(0.0, ()), (0.3, (32, 96))])
def test_losses_are_those_of_our_own_trainer(cfg, name, drop_path, sizes):
    """Two steps from the same weights: every draw (points, size, drop path) is the same."""
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PVTV2.DROP_PATH, cfg.INPUT.CLIP.SIZES = name, drop_path, list(sizes)
    bridged = build_model(cfg).train()
    clips = [[clip(2 * step + i, seed=2 * step + i) for i in range(2)] for step in range(2)]
    settings = TrainSettings(steps=2, batch_size=2, save_every=2, sizes=sizes, seed=cfg.SEED, clip_norm=1.0)
    model = copy.deepcopy(bridged.model)
    optimizer = adamw(model, lr=1e-3)
    loader = Batches([collate(c, 32) for c in clips])
    trainer = Trainer(model, own_criterion(name), optimizer, constant(optimizer), loader, settings)
    for step, given in enumerate(clips):
        bridged.load_state_dict(model.state_dict())
        with EventStorage(step):
            losses = bridged([item(c) for c in given])
        record = trainer.train_step(collate(given, 32))
        weights = bridged.criterion.weights
        assert {k: v.item() for k, v in losses.items()} == pytest.approx(
            {f"loss_{k}": weights[k] * v for k, v in record.losses.items()}, rel=1e-6
        )
        assert sum(losses.values()).item() == pytest.approx(record.total, rel=1e-6)


def own_criterion(name):
    return SetCriterion(num_points=64) if name == "LGRNet" else DenseCriterion()


def test_given_positions_are_the_keys_of_the_draws(cfg):
    model = build_model(cfg).train()
    made = item(clip(5))
    with EventStorage(7):
        seventh = model([made])
        named = model([{**made, "position": 7}])
        other = model([{**made, "position": 8}])
    assert seventh["loss_mask_bce"] == named["loss_mask_bce"] != other["loss_mask_bce"]
    assert model([{**made, "position": 7}])["loss_mask_bce"] == named["loss_mask_bce"]  # without a storage


def test_training_moves_every_part_and_leaves_the_global_generator(cfg):
    model = build_model(cfg).train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    losses = model([item(clip(0))])
    assert torch.equal(torch.rand(1), expected) and set(losses) == {
        "loss_mask_bce",
        "loss_mask_dice",
        "loss_class_ce",
    }
    sum(losses.values()).backward()
    parts = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert parts == {"backbone", "encoder", "decoder"}


@pytest.mark.parametrize("name", ["LGRNet", "PlainHead"])
@pytest.mark.parametrize("frames", [1, 3])
def test_masks_are_those_of_the_predictor(cfg, name, frames):
    """Frames already of the predictor's size, so that its resize does nothing; output at another size."""
    cfg.MODEL.META_ARCHITECTURE = name
    model = build_model(cfg).eval()
    given = np.random.default_rng(1).integers(0, 256, (frames, 50, 70, 3), np.uint8)
    own = predictor.Predictor(copy.deepcopy(model.model), size=(50, 70))
    expected = own.predict_frames(given, candidates=name == "LGRNet") if name == "LGRNet" else own.predict_frames(given)
    pixels = torch.from_numpy(given).permute(0, 3, 1, 2)
    found = model([{"frames": pixels}])[0]
    assert np.array_equal(found["prediction"].mask, expected.mask)
    assert np.array_equal(found["prediction"].probability, expected.probability)
    assert np.array_equal(found["prediction"].scores, expected.scores)
    assert found["prediction"].frame_names == expected.frame_names
    assert found["sem_seg"].shape == (frames, 2, 50, 70) and len(found["instances"]) == frames
    if name == "LGRNet":
        assert np.array_equal(found["prediction"].candidates.masks, expected.candidates.masks)
    large = model([{"frames": pixels, "height": 100, "width": 35, "video_name": "x"}])[0]
    assert large["prediction"].mask.shape == (1, frames, 100, 35) and large["prediction"].video == "x"
    assert large["instances"][0].image_size == (100, 35)


def test_an_image_is_a_clip_of_one(cfg):
    model = build_model(cfg)
    frames = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    still, video = model.eval()([{"image": frames[0]}, {"frames": frames}])
    assert isinstance(still["instances"], Instances) and still["sem_seg"].shape == (2, 64, 64)
    assert torch.equal(still["sem_seg"], video["sem_seg"][0])
    assert torch.equal(still["instances"].pred_masks, video["instances"][0].pred_masks)
    assert np.array_equal(still["prediction"].mask, video["prediction"].mask)
    truth = torch.zeros(64, 64, dtype=torch.long)
    truth[10:40, 10:40] = 1
    with EventStorage(0):
        by_map = model.train()([{"image": frames[0], "sem_seg": truth}])
        instances = Instances((64, 64), gt_classes=torch.tensor([0]), gt_masks=BitMasks((truth == 1)[None]))
        by_object = model([{"image": frames[0].float(), "instances": instances}])
    assert by_map == by_object


def test_bgr_frames_are_turned(cfg):
    frames = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    rgb = build_model(cfg).eval()
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = (
        "BGR",
        cfg.MODEL.PIXEL_MEAN[::-1],
        cfg.MODEL.PIXEL_STD[::-1],
    )
    bgr = build_model(cfg).eval()
    bgr.load_state_dict(rgb.state_dict())
    assert torch.equal(rgb([{"frames": frames}])[0]["sem_seg"], bgr([{"frames": frames.flip(1)}])[0]["sem_seg"])
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    other = build_model(cfg).eval()
    assert other.model.pixel_mean.abs().max() == 0 and torch.equal(other.model.pixel_std, rgb.model.pixel_std)


def test_clips_of_any_size_share_a_batch(cfg):
    model = build_model(cfg).train()
    with EventStorage(0):
        losses = model([item(clip(0, (3, 64, 64))), item(clip(1, (2, 40, 96)))])
    assert all(torch.isfinite(term) for term in losses.values())


def test_outputs_can_be_left_out(cfg):
    cfg.TEST.SEMANTIC_ON = cfg.TEST.INSTANCE_ON = False
    found = build_model(cfg).eval()([{"image": torch.zeros(3, 32, 32)}])[0]
    assert set(found) == {"prediction"} and found["prediction"].candidates is None


def prediction(candidates: bool = True) -> Prediction:
    """Two queries, two classes, two frames of 4 x 6; query 1 shows only in frame 0."""
    masks = np.zeros((2, 2, 4, 6), bool)
    masks[0, :, 1:3, 2:5] = True
    masks[1, 0, 0, 0] = True
    scores = np.array([[0.2, 0.6], [0.4, 0.1]], np.float32)
    probability = np.zeros((2, 2, 4, 6), np.uint8)
    probability[0, 0, 0, 0], probability[1, 0, 0, 0] = 51, 204
    kept = Candidates(masks, scores) if candidates else None
    return Prediction("v", ("0", "1"), np.array([0.4, 0.6], np.float32), probability, masks, kept)


def test_instances_of_a_frame_are_its_best_queries():
    first, second = frame_instances(prediction())
    assert first.image_size == (4, 6) and first.pred_masks.dtype == torch.bool
    assert first.scores.tolist() == pytest.approx([0.6, 0.4, 0.2, 0.1])
    assert first.pred_classes.tolist() == [1, 0, 0, 1]
    assert first.pred_boxes.tensor.tolist() == [[2, 1, 5, 3], [0, 0, 1, 1], [2, 1, 5, 3], [0, 0, 1, 1]]
    assert second.scores.tolist() == pytest.approx([0.6, 0.2])
    assert frame_instances(prediction(), 1)[0].scores.tolist() == pytest.approx([0.6])
    plain = frame_instances(prediction(candidates=False))
    assert plain[0].scores.tolist() == pytest.approx([0.6, 0.4]) and plain[0].pred_classes.tolist() == [1, 0]
    assert plain[1].pred_classes.tolist() == [0] and plain[0].pred_masks[0].sum() == 1


def test_a_frame_without_objects_has_empty_instances():
    nothing = prediction(candidates=False)
    nothing.mask[:] = False
    empty = frame_instances(nothing)[0]
    assert len(empty) == 0 and empty.pred_masks.shape == (0, 4, 6) and len(empty.pred_boxes) == 0


def test_class_maps_have_background_first():
    maps = class_maps(prediction())
    assert maps.shape == (2, 3, 4, 6)
    assert maps[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.2, 0.8]) and maps[1, 0].min() == 1


def test_background_is_what_classes_leave_where_they_share_a_pixel():
    probability = np.full((2, 1, 2, 2), 102, np.uint8)  # 0.4 and 0.3 of class, 0.3 of background
    probability[1] = 76
    made = Prediction("v", ("0",), np.ones(2, np.float32), probability, np.zeros((2, 1, 2, 2), bool))
    assert class_maps(made)[0, :, 0, 0].argmax() == 0 and class_maps(made, exclusive=True)[0, :, 0, 0].argmax() == 1
    assert class_maps(made, exclusive=True)[0].sum(0).numpy() == pytest.approx(1)


@pytest.mark.parametrize("size", [0, -32, 48, 64.0, "a"])
def test_training_sizes_that_no_model_takes_are_refused(size, cfg):
    cfg.INPUT.CLIP.SIZES = [64, size]
    with pytest.raises(ValueError, match="INPUT.CLIP.SIZES"):
        build_model(cfg)


def test_the_size_follows_the_loaders_step_where_it_says_one(cfg, monkeypatch):
    """detectron2's PreciseBN has a storage of its own, whose step stays at 0."""
    cfg.INPUT.CLIP.SIZES = [32, 64, 96, 128]
    model, seen = build_model(cfg).train(), []
    monkeypatch.setattr(meta_arch, "resized", lambda frames, size: seen.append(size) or frames)
    expected = [meta_arch.draw_size(model.sizes, python_generator(model.seed, step, "size")) for step in range(4)]
    for step in range(4):
        with EventStorage(0), torch.no_grad():
            model([{**item(clip(0)), "position": 2 * step}, {**item(clip(0)), "position": 2 * step + 1}])
    assert seen == expected and len(set(seen)) > 1


def test_registered_and_copied(cfg):
    assert META_ARCH_REGISTRY.get("LGRNet") is LGRNet and META_ARCH_REGISTRY.get("PlainHead") is PlainHead
    model = build_model(cfg)
    twin = copy.deepcopy(model)
    assert list(twin.state_dict()) == list(model.model.state_dict())
    twin.load_state_dict(model.state_dict())
    assert twin.backbone is twin.model.backbone and model.device.type == "cpu"
    with pytest.raises(AttributeError, match="nothing"):
        _ = model.nothing


def test_arguments_that_mean_nothing(cfg):
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match="input_format is 'L'"):
        build_model(cfg)
    cfg.INPUT.FORMAT = "RGB"
    model = build_model(cfg).model
    with pytest.raises(ValueError, match="no criterion"):
        ClipMetaArch(model=model).train()([item(clip(0))])
    with pytest.raises(ValueError, match="max_instances is 0"):
        ClipMetaArch(model=model, max_instances=0)
    with pytest.raises(ValueError, match="pixel_std"):
        ClipMetaArch(model=model, pixel_std=[1, 1, 0])
    with pytest.raises(ValueError, match="list of dicts"):
        ClipMetaArch(model=model).eval()([])
