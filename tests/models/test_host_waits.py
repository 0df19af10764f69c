"""On a GPU the host hands over a forward pass and its loss without waiting; shown with tensors that hold no numbers."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder
from lgrnet.ops import gpu
from lgrnet.structures import SegOutput, Targets
from tests.fake_gpu import HostWaits, fake_gpu, moved

QUERIES, FRAMES, SIDE = 10, 6, 16
MLPS = 8
"""Of PVTv2-B0."""
KERNELS = {f"lgrnet::{op}_forward_triton": 1 for op in ("scan", "neighborhood", "deform")}
KERNELS["lgrnet::depthwise_forward_triton"] = MLPS


def model(**encoder) -> LGRNet:
    """One layer of everything, for every layer is the same code."""
    return LGRNet(
        TimmBackbone("pvt_v2_b0", drop_path=0.1),
        partial(LGREncoder, depth=1, scan_depth=1, **encoder),
        VideoDecoder(depth=1),
    )


class Draws:
    """Points as `KeyedDraws` gives them, without a generator, which only a real GPU has."""

    def sample(self, purpose, clip, shape, device):
        return torch.rand(shape, device=device)

    def rows(self, purpose, counts, tail, device):
        return torch.rand((sum(counts), *tail), device=device)


@pytest.mark.skipif(gpu.missing() is not None, reason="triton is not installed")
@pytest.mark.parametrize(("training", "half"), [(False, False), (True, True)], ids=["inference", "training in bf16"])
def test_a_forward_pass_waits_for_nothing_and_takes_the_kernels(training, half):
    net = model(dilation=2, gather_mask=True).train(training)
    with fake_gpu(), torch.autocast("cuda", torch.bfloat16, enabled=half), torch.set_grad_enabled(training):
        net, frames = moved(net), torch.rand(1, FRAMES, 3, 64, 96, device="cuda")
        with HostWaits() as first:
            net(frames)
        # Of a new size only the order of the scan is made on the host.
        assert all("layers/scan.py" in place for place in first.found)
        with HostWaits() as waits:
            output = net(frames)
        assert waits.found == []
        assert {name: count for name, count in waits.ops.items() if name.startswith("lgrnet::")} == KERNELS
        assert output.mask_logits.dtype == (torch.bfloat16 if half else torch.float32)
        assert output.mask_logits.device.type == "cuda" and output.mask_logits.shape == (1, QUERIES, FRAMES, 16, 24)


@pytest.mark.skipif(gpu.missing() is not None, reason="triton is not installed")
def test_a_video_in_chunks_waits_for_nothing():
    net = model(gather_mask=True).eval()
    net.frame_chunk = 2
    with fake_gpu():
        net, frames = moved(net), torch.rand(1, 5, 3, 64, 64, device="cuda")
        net.infer(frames)
        with HostWaits() as waits:
            output = net.infer(frames)
    assert waits.found == [] and output.mask_logits.shape == (1, QUERIES, 5, 16, 16)


def test_without_triton_it_waits_for_nothing_either():
    """The references make their index tables on the device."""
    backends = {f"{op}_backend": "reference" for op in ("scan", "neighborhood", "deform")}
    net = model(**backends).eval()
    with fake_gpu(), torch.no_grad():
        net, frames = moved(net), torch.rand(1, 2, 3, 64, 64, device="cuda")
        net(frames)
        with HostWaits() as waits:
            net(frames)
    assert waits.found == []


def targets(objects: int = 1) -> Targets:
    masks = torch.rand(objects, FRAMES, 4 * SIDE, 4 * SIDE, device="cuda")
    valid = torch.ones(FRAMES, 4 * SIDE, 4 * SIDE, dtype=torch.bool, device="cuda")
    return Targets(torch.zeros(objects, dtype=torch.int64, device="cuda"), masks, valid, valid[:, 0, 0])


def test_the_criterion_reads_one_line_of_facts_for_all_clips():
    """With one object in each clip that is all: matching stays on the device."""
    with fake_gpu():
        layers = [
            SegOutput(
                torch.rand(2, QUERIES, FRAMES, SIDE, SIDE, device="cuda"), torch.rand(2, QUERIES, 2, device="cuda")
            )
            for _ in range(4)
        ]
        output = SegOutput(layers[-1].mask_logits, layers[-1].class_logits, aux=tuple(layers[:-1]))
        clips = (targets(), targets())
        # all frames annotated, all pixels valid, smallest and largest label
        with HostWaits(answers=[[[1, 1, 0, 0], [1, 1, 0, 0]]]) as waits:
            terms = SetCriterion(num_points=128)(output, clips, Draws())
        assert [place.split(":")[0] for place in waits.found] == ["tolist at lgrnet/losses/set_criterion.py"]
        assert set(terms) == {"mask_bce", "mask_dice", "class_ce"}


def test_what_waits_is_found():
    with fake_gpu():
        x = torch.rand(3, device="cuda")
        with HostWaits() as waits:
            x + torch.tensor([1.0, 2.0, 3.0]).to("cuda")
            x.cpu()
            x[:2] * 2
        assert {place.split(" at ")[0] for place in waits.found} == {"lift_fresh", "_to_copy"}
        assert all("test_host_waits.py" in place for place in waits.found)
        with pytest.raises(Exception, match="_local_scalar_dense"), HostWaits():
            x.sum().item()
