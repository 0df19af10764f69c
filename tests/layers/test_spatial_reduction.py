"""The attention of PVTv2 and SegFormer against the libraries' own: value, gradients, names, and what does not fit."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from segmentation_models_pytorch.encoders import mix_transformer
from timm.models import pvt_v2
from torch import nn

from lgrnet.layers.library_block import with_own_blocks
from lgrnet.layers.spatial_reduction import SpatialReductionAttention
from lgrnet.models.backbones import MixTransformer, TimmBackbone
from tests.layers.library_blocks import assert_same_names, assert_same_step

SHAPE = (6, 9)
LIBRARIES = {
    "timm": (lambda ratio, **options: pvt_v2.Attention(12, 2, sr_ratio=ratio, **options), (SHAPE,)),
    "SegFormer": (lambda ratio, **options: mix_transformer.Attention(12, 2, True, sr_ratio=ratio, **options), SHAPE),
}


def both(library, ratio=4, **options):
    torch.manual_seed(0)
    make, size = LIBRARIES[library]
    theirs = make(ratio, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = SpatialReductionAttention(copy.deepcopy(theirs))
    return theirs, ours, torch.randn(2, SHAPE[0] * SHAPE[1], 12), size


@pytest.mark.parametrize("ratio", [1, 2, 4])
@pytest.mark.parametrize("library", LIBRARIES)
def test_value_gradients_and_names_are_theirs(library, ratio):
    """Also where the map is no multiple of the ratio, and where nothing is reduced."""
    theirs, ours, x, size = both(library, ratio)
    assert_same_names(ours, theirs)
    expected = assert_same_step(ours, theirs, x, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x, *size), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_drop_out_in_training_draws_as_theirs(library):
    theirs, ours, x, size = both(library, attn_drop=0.5, proj_drop=0.5)
    assert int((assert_same_step(ours, theirs, x, *size) == 0).sum()) > 100


def test_another_attention_stays_what_it_is():
    fits = SpatialReductionAttention.fits
    assert fits(LIBRARIES["timm"][0](2)) and fits(LIBRARIES["SegFormer"][0](2))
    assert not fits(pvt_v2.Attention(12, 2, linear_attn=True))
    assert not fits(mix_transformer.Attention(12, 2, qk_scale=0.3))
    changed = LIBRARIES["timm"][0](2)
    changed.norm = nn.BatchNorm1d(12)
    assert not fits(changed) and not fits(nn.Linear(2, 2))


def test_a_hook_on_a_layer_is_called_and_an_exchanged_layer_runs():
    theirs, ours, x, size = both("timm")
    seen = []
    handle = ours.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(1))
    ours.fused_attn = theirs.fused_attn = False  # timm's own form calls this layer
    torch.testing.assert_close(ours(x, *size), theirs(x, *size))
    assert seen == [1]
    handle.remove()
    ours(x, *size)
    assert seen == [1]
    for attention in (theirs, ours):
        attention.q = nn.Sequential(attention.q, nn.Tanh())
    assert torch.equal(ours(x, *size), theirs(x, *size))


@pytest.mark.parametrize("make, count", [(lambda: TimmBackbone("pvt_v2_b0"), 8), (lambda: MixTransformer("mit_b0"), 8)])
def test_every_attention_of_a_backbone_is_replaced(make, count):
    backbone = make()
    assert sum(isinstance(m, SpatialReductionAttention) for m in backbone.modules()) == count
    again = copy.deepcopy(backbone).eval()
    frames = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for name, values in backbone.eval()(frames).items():
            assert torch.equal(again(frames)[name], values)


def test_a_net_is_the_same_to_the_last_digits():
    theirs = timm.create_model("pvt_v2_b0", num_classes=0).eval()
    ours = with_own_blocks(copy.deepcopy(theirs), [SpatialReductionAttention])
    frames = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(frames), theirs(frames), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_torch_compile_takes_it_whole_and_an_exported_graph_has_plain_torch(grad):
    _, ours, x, size = both("timm")
    ours.eval()
    with torch.set_grad_enabled(grad):
        got = torch.compile(ours, backend="aot_eager", fullgraph=True)(x, *size)
        torch.testing.assert_close(got, ours(x, *size), rtol=1e-5, atol=1e-5)

        class Sized(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = ours

            def forward(self, x):
                return self.attention(x, SHAPE)

        graph = torch.export.export(Sized(), (x,))
        assert not any("lgrnet" in str(node.target) for node in graph.graph.nodes)
        torch.testing.assert_close(graph.module()(x), ours(x, *size), rtol=1e-5, atol=1e-5)
