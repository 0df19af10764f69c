"""The stages of PVTv2 whose tokens stay where they lie, against timm's own."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from lgrnet.layers.library_block import with_own_blocks
from lgrnet.layers.pyramid_stage import PatchEmbedding, PyramidStage
from lgrnet.models.backbones import OWN_BLOCKS, TimmBackbone
from tests.layers.library_blocks import assert_same_names

FRAMES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    theirs = timm.create_model("pvt_v2_b0", features_only=True).eval()
    return theirs, with_own_blocks(copy.deepcopy(theirs), OWN_BLOCKS)


def kinds(net, kind):
    return sum(type(module) is kind for module in net.modules())


def test_every_stage_and_embedding_is_ours_and_names_stay(nets):
    theirs, ours = nets
    assert (kinds(ours, PyramidStage), kinds(ours, PatchEmbedding)) == (4, 4)
    assert_same_names(ours, theirs)


def test_maps_are_theirs_and_their_channels_lie_together(nets):
    theirs, ours = nets
    with torch.no_grad():
        for got, expected in zip(ours(FRAMES), theirs(FRAMES), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
            assert got.is_contiguous(memory_format=torch.channels_last)
        crooked = FRAMES.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        for got, expected in zip(ours(crooked), ours(FRAMES), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_with_gradients_it_is_the_librarys(nets):
    theirs, ours = nets
    got, expected = ours(FRAMES), theirs(FRAMES)
    assert all(one.is_contiguous() for one in got)
    for maps in (got, expected):
        sum((one * torch.linspace(-1, 1, one[0].numel()).view_as(one[0])).sum() for one in maps).backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3 * float(other.grad.abs().max()))
    ours.zero_grad(), theirs.zero_grad()


def test_hooks_inside_are_called(nets):
    ours, seen = copy.deepcopy(nets[1]), []
    for module in ours.modules():
        if isinstance(module, nn.LayerNorm | nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda module, given, output: seen.append(module))
    with torch.no_grad():
        for got, expected in zip(ours(FRAMES), nets[0](FRAMES), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert {id(m) for m in seen} == {
        id(m) for m in ours.modules() if isinstance(m, nn.LayerNorm | nn.Conv2d | nn.Linear)
    }


def test_the_backbone_gives_the_same_maps_for_one_frame_and_for_several():
    backbone = TimmBackbone("pvt_v2_b0").eval()
    with torch.no_grad():
        together, alone = backbone(FRAMES), backbone(FRAMES[1:])
    for level, maps in together.items():
        torch.testing.assert_close(maps[1:], alone[level], rtol=1e-4, atol=1e-5)


def test_embeddings_of_other_nets_stay_theirs():
    """They look alike, but go another way."""
    torch.manual_seed(0)
    theirs = timm.create_model("twins_pcpvt_small", features_only=True).eval()
    ours = with_own_blocks(copy.deepcopy(theirs), OWN_BLOCKS)
    with torch.no_grad():
        for got, expected in zip(ours(FRAMES), theirs(FRAMES), strict=True):
            assert torch.allclose(got, expected, atol=1e-4)


def test_a_drop_path_that_draws_in_evaluation_draws_without_gradients_too():
    model = TimmBackbone("pvt_v2_b0", drop_path=0.5).eval()
    for layer in model.modules():
        layer.training = isinstance(layer, DropPath)
    with torch.no_grad():
        assert not torch.equal(model(FRAMES)["res5"], model(FRAMES)["res5"])
