"""SSFormer and SvANet as detectron2's: an image is a clip of one frame, with the losses and masks of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from lgrnet.config import ConfigError, build, builds
from lgrnet.data.loader import collate
from lgrnet.detectron2_bridge.meta_arch import describe_model
from lgrnet.inference.predictor import Predictor
from lgrnet.models.segmenter import PIXEL_MEAN
from tests.detectron2_bridge.test_meta_arch import clip, item


@pytest.fixture(params=["SSFormer", "SvANet"])
def small(request, cfg):
    """A small config of each still model."""
    cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.CLIP.SIZES, cfg.MODEL.DEVICE = request.param, [], "cpu"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.MIT.NAME, cfg.MODEL.MIT.DROP_PATH = "MiT", "mit_b0", 0.0
    cfg.MODEL.SVANET.RESNET, cfg.MODEL.SVANET.IMAGE_SIZE, cfg.MODEL.SVANET.LINK_DEPTH = "resnet18", 64, 1
    if request.param == "SvANet":
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0, 0.0, 0.0], [255.0, 255.0, 255.0]
    return cfg


def test_it_is_registered_and_gives_weighted_losses(small):
    model = build_model(small).train()
    assert type(model) is META_ARCH_REGISTRY.get(small.MODEL.META_ARCHITECTURE)
    clips = [clip(0, (1, 64, 64)), clip(1, (1, 64, 64), seed=1)]
    losses = model([item(one) for one in clips])
    assert set(losses) == {f"loss_{name}" for name in model.criterion.weights}
    total = sum(losses.values())
    total.backward()
    assert total.isfinite() and all(p.grad is not None for p in model.model.net.backbone.parameters() if p.ndim > 3)

    frozen = build_model(small).eval()
    batch = collate(clips, frozen.model.stride)
    with torch.no_grad():
        output = frozen.model(batch.frames)
        terms = frozen.criterion(output, batch.targets)
        # In training mode only the model differs: the terms of one output are the criterion's own.
        frozen.training = True
        bridged = frozen([item(one) for one in clips])
    for name, term in terms.items():
        assert bridged[f"loss_{name}"].item() == pytest.approx(frozen.criterion.weights[name] * term.item(), rel=1e-6)


def test_an_image_and_a_video_are_predicted_as_by_our_predictor(small):
    model = build_model(small).eval()
    made = clip(0)
    frames = (made.frames * 255).round().to(torch.uint8)
    ours = Predictor(model.model, size=frames.shape[-2:]).predict_frames(frames.permute(0, 2, 3, 1).numpy())
    (video,) = model([{"frames": frames}])
    assert (video["prediction"].mask == ours.mask).all() and len(video["instances"]) == 3
    assert (video["prediction"].probability == ours.probability).all()
    assert ((video["sem_seg"].argmax(1) == 1).numpy() == ours.mask[0]).mean() > 0.99
    (image,) = model([{"image": frames[1]}])
    assert image["sem_seg"].shape == (2, 64, 64)
    assert (image["prediction"].mask[:, 0] == ours.mask[:, 1]).all()


def test_the_model_can_be_described_without_detectron2(small):
    state = build_model(small).state_dict()
    described = build(describe_model(small, builds))
    described.load_state_dict(state)
    decision = {"SSFormer": "sigmoid", "SvANet": "softmax"}[small.MODEL.META_ARCHITECTURE]
    assert described.decision == decision


@pytest.mark.parametrize("name, decision", [("ssformer", "sigmoid"), ("svanet", "softmax")])
def test_shipped_configs_build(bridge, name, decision):
    cfg = bridge.add_lgrnet_config(get_cfg())
    file = Path(bridge.__file__).parent / "configs" / f"phantom_{name}.yaml"
    model = build_model(bridge.merge_config(cfg, file))
    assert model.model.decision == decision
    mean = [0, 0, 0] if name == "svanet" else PIXEL_MEAN
    assert model.model.pixel_mean.flatten().tolist() == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("decoder", ["SegFormerDecoder", "MultiLevelAggregationDecoder"])
def test_decoders_of_the_ablation(cfg, decoder):
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.DEVICE = "SSFormer", "MiT", "cpu"
    cfg.MODEL.MIT.NAME, cfg.MODEL.SSFORMER.DECODER, cfg.MODEL.SSFORMER.ENLARGE = "mit_b0", decoder, "input"
    assert type(build_model(cfg).model.net.decoder).__name__ == decoder


def test_the_square_logits_of_progressive_upsampling(cfg):
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME, cfg.MODEL.DEVICE = "SSFormer", "MiT", "cpu"
    cfg.MODEL.MIT.NAME, cfg.MODEL.SSFORMER.ENLARGE = "mit_b0", "none"
    cfg.MODEL.SSFORMER.DECODER = "ProgressiveUpsamplingDecoder"
    assert build_model(cfg).model.net.decoder.square is False
    cfg.MODEL.SSFORMER.SQUARE = True
    made = build_model(cfg).eval(), build(describe_model(cfg, builds)).eval()
    for net in (made[0].model.net, made[1].net):
        with torch.no_grad():
            assert net(torch.rand(1, 3, 64, 96)).shape == (1, 1, 48, 48)
    cfg.MODEL.SSFORMER.DECODER = "SegFormerDecoder"
    with pytest.raises(ConfigError, match="SQUARE is True, but SegFormerDecoder has none; expected DECODER Progress"):
        build_model(cfg)


def test_the_mask_seed_of_svanet_follows_the_seed(cfg):
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SVANET.RESNET, cfg.MODEL.DEVICE = "SvANet", "resnet18", "cpu"

    def seed(**changes):
        cfg.SEED, cfg.MODEL.SVANET.MASK_SEED = changes.get("SEED", 2024), changes.get("MASK_SEED", default)
        return describe_model(cfg, builds).net.mask_seed

    default = cfg.MODEL.SVANET.MASK_SEED
    assert (seed(), seed(SEED=7), seed(SEED=7, MASK_SEED=0), seed(SEED=-1)) == (2024, 7, 0, 0)


def test_an_unknown_decoder_is_told(cfg):
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME = "SSFormer", "MiT"
    cfg.MODEL.SSFORMER.DECODER = "PLD"
    with pytest.raises(ConfigError, match="'PLD'; expected one of ProgressiveLocalityDecoder"):
        build_model(cfg)
