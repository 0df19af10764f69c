"""The MLP of PVTv2 and SegFormer against the libraries' own: value, gradients, names, and what does not fit."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from segmentation_models_pytorch.encoders import mix_transformer
from timm.models import pvt_v2
from torch import nn

from lgrnet.layers import depthwise_mlp
from lgrnet.layers.depthwise_mlp import DepthwiseMlp
from lgrnet.layers.library_block import with_own_blocks
from lgrnet.ops import gpu
from tests.fake_gpu import HostWaits, fake_gpu, moved
from tests.layers.library_blocks import assert_same_names, assert_same_step

SHAPE = (5, 7)
TIMM = (lambda: pvt_v2.MlpWithDepthwiseConv(6, 150), (SHAPE,))
SEGFORMER = (lambda: mix_transformer.Mlp(6, 150), SHAPE)


def both(make):
    torch.manual_seed(0)
    theirs = make()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    return theirs, DepthwiseMlp(copy.deepcopy(theirs)), torch.randn(2, 35, 6)


@pytest.mark.parametrize("most", [1, 35 * 150, 2**23])
@pytest.mark.parametrize(("make", "size"), [TIMM, SEGFORMER])
def test_value_gradients_and_names_are_theirs(make, size, most, monkeypatch):
    """However many images go at once: one, one, and both."""
    monkeypatch.setattr(depthwise_mlp, "MOST", most)
    theirs, ours, x = both(make)
    assert_same_names(ours, theirs)
    assert_same_step(ours, theirs, x, *size)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(("make", "size"), [TIMM, SEGFORMER])
def test_in_inference_the_hidden_channels_come_in_parts(make, size, batch, monkeypatch):
    theirs, ours, _ = both(make)
    x = torch.randn(batch, 35, 6)
    monkeypatch.setattr(depthwise_mlp, "PART", 64 * 35)  # 150 channels: 64, 64, 22
    with torch.no_grad():
        got, expected = ours.eval()(x, *size), theirs.eval()(x, *size)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert ours(x, *size).dtype == theirs(x, *size).dtype
        torch.testing.assert_close(ours.double()(x.double(), *size), theirs.double()(x.double(), *size))


def test_drop_out_in_training_draws_as_theirs(monkeypatch):
    monkeypatch.setattr(depthwise_mlp, "MOST", 1)
    theirs, ours, x = both(lambda: pvt_v2.MlpWithDepthwiseConv(6, 150, drop=0.5))
    results = []
    for mlp in (theirs, ours):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(mlp(x, SHAPE))
    torch.testing.assert_close(*results, rtol=1e-5, atol=3e-5)
    assert int((results[0] == 0).sum()) > 100


@pytest.mark.parametrize(
    "change",
    [
        {"act_layer": nn.ReLU},
        {"act_layer": lambda: nn.GELU("tanh")},
        {"extra_relu": True},
    ],
)
def test_another_mlp_stays_what_it_is(change):
    assert not DepthwiseMlp.fits(pvt_v2.MlpWithDepthwiseConv(6, 8, **change))


@pytest.mark.parametrize(
    "name, layer", [("fc2", nn.Identity()), ("dwconv", nn.Conv2d(8, 8, 3, padding=1)), ("new", nn.ReLU())]
)
def test_an_mlp_of_another_release_stays_what_it_is(name, layer):
    mlp = pvt_v2.MlpWithDepthwiseConv(6, 8)
    assert DepthwiseMlp.fits(mlp)
    setattr(mlp, name, layer)
    assert not DepthwiseMlp.fits(mlp)


def test_every_mlp_of_a_net_and_nothing_else_is_replaced():
    theirs = timm.create_model("pvt_v2_b0", num_classes=0).eval()
    ours = with_own_blocks(copy.deepcopy(theirs), [DepthwiseMlp])
    assert sum(isinstance(m, DepthwiseMlp) for m in ours.modules()) == 8
    assert list(ours.state_dict()) == list(theirs.state_dict())
    other = with_own_blocks(timm.create_model("resnet18"), [DepthwiseMlp])
    assert not any(isinstance(m, DepthwiseMlp) for m in other.modules())
    frames = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(frames), theirs(frames), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_an_exported_graph_has_plain_torch(grad):
    _, ours, x = both(TIMM[0])

    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = ours.eval()

        def forward(self, x):
            return self.mlp(x, SHAPE)

    with torch.set_grad_enabled(grad):
        graph = torch.export.export(Sized(), (x,))
        names = {str(node.target) for node in graph.graph.nodes}
        assert not any("lgrnet" in name for name in names) and any("conv2d" in name for name in names)
        torch.testing.assert_close(graph.module()(x), ours(x, SHAPE), rtol=1e-5, atol=1e-5)


def test_a_hook_on_a_layer_is_called():
    theirs, ours, x = both(TIMM[0])
    seen = []
    handle = ours.act.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert torch.equal(ours(x, SHAPE), theirs(x, SHAPE)) and seen == [(2, 35, 150)]
    handle.remove()
    ours(x, SHAPE)
    assert len(seen) == 1


def test_a_layer_that_was_exchanged_is_called():
    theirs, ours, x = both(TIMM[0])
    for mlp in (theirs, ours):
        mlp.fc1 = nn.Sequential(mlp.fc1, nn.Tanh())
    with torch.no_grad():
        assert torch.equal(ours.eval()(x, SHAPE), theirs.eval()(x, SHAPE))


@pytest.mark.parametrize("grad", [False, True])
def test_torch_compile_takes_it_whole(grad):
    _, ours, x = both(TIMM[0])
    with torch.set_grad_enabled(grad):
        got = torch.compile(ours, backend="aot_eager", fullgraph=True)(x, SHAPE)
        torch.testing.assert_close(got, ours(x, SHAPE), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(gpu.missing() is not None, reason="triton is not installed")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_on_a_gpu_it_is_one_kernel_also_under_autocast(half, grad):
    """The first layer gives bfloat16 there, and the weights stay float32."""
    _, ours, _ = both(TIMM[0])
    with fake_gpu(), torch.set_grad_enabled(grad):
        ours = moved(ours.train(grad))
        x = torch.randn(2, 35, 6, device="cuda")
        with HostWaits() as seen, torch.autocast("cuda", torch.bfloat16, enabled=half):
            out = ours(x, SHAPE)
        assert seen.found == [] and seen.ops["lgrnet::depthwise_forward_triton"] == 1
        assert "convolution" not in seen.ops and "gelu" not in seen.ops
        assert out.dtype == (torch.bfloat16 if half else torch.float32) and out.requires_grad == grad


@pytest.mark.skipif(gpu.missing() is not None, reason="triton is not installed")
def test_on_a_gpu_all_of_it_may_be_in_half_precision():
    ours = both(TIMM[0])[1].bfloat16()
    with fake_gpu(), torch.no_grad():
        ours = moved(ours)
        assert ours(torch.randn(2, 35, 6, device="cuda", dtype=torch.bfloat16), SHAPE).dtype == torch.bfloat16
