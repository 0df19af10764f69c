"""The blocks of PVTv2 and SegFormer that add in place, against the libraries' own."""

from __future__ import annotations

import copy

import pytest
import torch
from segmentation_models_pytorch.encoders import mix_transformer
from timm.models import pvt_v2
from torch import nn

from lgrnet.layers.library_block import with_own_blocks
from lgrnet.layers.residual_block import ResidualBlock
from lgrnet.models.backbones import OWN_BLOCKS
from tests.layers.library_blocks import assert_same_names, assert_same_step

TOKENS, MAP = torch.randn(2, 30, 12), torch.randn(2, 12, 5, 6)
LIBRARIES = {
    "timm": (lambda **options: pvt_v2.Block(12, 2, sr_ratio=2, qkv_bias=True, **options), (TOKENS, (5, 6))),
    "SegFormer": (lambda **options: mix_transformer.Block(12, 2, sr_ratio=2, qkv_bias=True, **options), (MAP,)),
}


def both(library, **options):
    torch.manual_seed(0)
    make, inputs = LIBRARIES[library]
    theirs = nn.Sequential(make(**options)).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = with_own_blocks(copy.deepcopy(theirs), OWN_BLOCKS)
    assert type(ours[0]) is ResidualBlock
    assert_same_names(ours, theirs)
    return theirs[0], ours[0], inputs


@pytest.mark.parametrize("library", LIBRARIES)
def test_value_is_theirs_and_the_input_stays(library):
    theirs, ours, inputs = both(library)
    before = inputs[0].clone()
    with torch.no_grad():
        got, expected = ours(*inputs), theirs(*inputs)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(inputs[0], before)
        strange = inputs[0].transpose(0, 1).contiguous().transpose(0, 1)
        torch.testing.assert_close(ours(strange, *inputs[1:]), expected, rtol=1e-5, atol=1e-5)
        high = ours.double()(inputs[0].double(), *inputs[1:])
        torch.testing.assert_close(high.float(), expected, rtol=1e-5, atol=1e-5)


def test_no_image_gives_none():
    _, ours, inputs = both("timm")
    with torch.no_grad():
        assert ours(inputs[0][:0], *inputs[1:]).shape == (0, 30, 12)


def test_an_attention_without_biases():
    theirs, ours, inputs = both("timm")
    for block in (theirs, ours):
        block.attn.proj.bias = block.attn.q.bias = None
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), theirs(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_in_training_it_is_theirs_with_its_drop_path(library):
    theirs, ours, inputs = both(library, drop_path=0.5)
    assert_same_step(ours.train(), theirs.train(), *inputs, seed=3)


@pytest.mark.parametrize("name", ["attn", "mlp", "norm2", "attn.proj"])
def test_a_hook_on_a_layer_is_called(name):
    theirs, ours, inputs = both("timm")
    seen = []
    ours.get_submodule(name).register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), theirs(*inputs), rtol=1e-5, atol=1e-5)
    assert seen == [TOKENS.shape]


class Half(nn.LayerNorm):
    """A norm of somebody else."""

    def forward(self, x):
        return 0.5 * super().forward(x)


@pytest.mark.parametrize("name", ["norm1", "norm2"])
def test_a_norm_that_was_exchanged_is_called(name):
    theirs, ours, inputs = both("timm")
    for block in (theirs, ours):
        norm = Half(getattr(block, name).normalized_shape)
        norm.load_state_dict(getattr(block, name).state_dict())
        setattr(block, name, norm)
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), theirs(*inputs), rtol=1e-5, atol=1e-5)


def test_a_block_with_other_parts_stays_what_it_is():
    block = LIBRARIES["timm"][0]()
    assert not ResidualBlock.fits(block)  # its parts are the library's
    inner = with_own_blocks(block, OWN_BLOCKS)
    assert ResidualBlock.fits(inner)
    inner.extra = nn.Linear(2, 2)
    assert not ResidualBlock.fits(inner)
