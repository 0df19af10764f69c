"""The mix transformer: official names and norms, drop path, any size of input, and LGRNet on top of it."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from lgrnet.models.backbones import LEVELS, MixTransformer
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(ValueError, match="no mix transformer 'mitb2'; the nearest names are mit_b2"):
        MixTransformer("mitb2")


def test_official_epsilons_are_mixed_and_a_number_sets_all():
    official = {k: m.eps for k, m in MixTransformer().net.named_modules() if isinstance(m, nn.LayerNorm)}
    coarse = {k for k, eps in official.items() if eps == 1e-5}
    assert coarse == {k for k in official if k.startswith("patch_embed") or k.endswith("attn.norm")}
    assert {eps for k, eps in official.items() if k not in coarse} == {1e-6}
    assert len(official) == 30 and len(coarse) == 10
    study = MixTransformer(norm_eps=1e-5).net
    assert {m.eps for m in study.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_fresh_weights_are_drawn_as_published():
    """Normal with variance 2 / fan_out in attention and MLPs; the convolutions of patches keep PyTorch's own."""
    torch.manual_seed(0)
    for name, module in MixTransformer("mit_b1").net.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        taps = math.prod(module.kernel_size)
        if name.startswith("patch_embed"):
            bound = 1 / math.sqrt(taps * module.in_channels)
            assert module.weight.abs().max() <= bound and module.bias.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02), name
            assert module.bias.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.3), name
        else:
            deviation = math.sqrt(2 * module.groups / (taps * module.out_channels))
            assert module.weight.std().item() == pytest.approx(deviation, rel=0.1), name
            assert not module.bias.any(), name


def test_drop_path_rises_linearly_and_spares_the_first_block():
    blocks = [block for i in range(1, 5) for block in getattr(MixTransformer("mit_b0").net, f"block{i}")]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])
    assert isinstance(blocks[0].drop_path, nn.Identity)
    none = MixTransformer("mit_b0", drop_path=0.0).net
    assert all(isinstance(block.drop_path, nn.Identity) for i in range(1, 5) for block in getattr(none, f"block{i}"))


def test_odd_sizes_round_up():
    net = MixTransformer().eval()
    assert sum(p.numel() for p in net.parameters()) == 3_319_392
    with torch.no_grad():
        maps = net(torch.rand(2, 3, 75, 101))
    assert net.channels == {"res2": 32, "res3": 64, "res4": 160, "res5": 256}
    sizes = {"res2": (19, 26), "res3": (10, 13), "res4": (5, 7), "res5": (3, 4)}
    assert list(maps) == list(LEVELS)
    assert {k: m.shape for k, m in maps.items()} == {k: (2, net.channels[k], *size) for k, size in sizes.items()}


def test_lgrnet_runs_and_trains_on_it():
    encoder = partial(LGREncoder, dim=32, depth=1, hidden=64, scan_hidden=64, num_frame_queries=5)
    model = LGRNet(MixTransformer(drop_path=0.0), encoder, VideoDecoder(dim=32, hidden=64, num_queries=4))
    output = model(torch.rand(1, 2, 3, 64, 96))
    assert output.mask_logits.shape == (1, 4, 2, 16, 24)
    sum(layer.mask_logits.square().mean() for layer in output.layers).backward()
    assert [name for name, p in model.backbone.named_parameters() if p.grad is None] == []
