"""A video a few frames at a time: the values of the whole clip, and memory that hardly grows."""

import subprocess
import sys

import pytest
import torch
from torch.nn.utils import prune

from lgrnet.layers.attention import free_rows
from tests.models.test_lgrnet import small

ABLATIONS = (
    {},
    {"local": False},
    {"global_mixing": False},
    {"num_frame_queries": 0},
    {"gather_mask": True},
    {"propagation_steps": 2},
    {"propagation_steps": 4},  # looks back further than a chunk, and than a short video is long
    {"cyclic": False, "propagation_steps": 2},
    {"norm_per_clip": False},
)


@pytest.mark.parametrize("frames", [1, 3, 7])
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_a_few_frames_at_a_time_equal_the_whole_clip(ablation, frames):
    model = small(**ablation).eval()
    video = torch.rand(2, frames, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(video)
    chunked = model.infer(video)
    assert chunked.aux == () and not chunked.mask_logits.requires_grad
    torch.testing.assert_close(chunked.mask_logits, whole.mask_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chunked.class_logits, whole.class_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_size_of_the_chunks_changes_no_value(chunk):
    model = small().eval()
    video = torch.rand(1, 5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = model.infer(video).mask_logits
    model.frame_chunk = chunk
    torch.testing.assert_close(model.infer(video).mask_logits, expected, rtol=1e-4, atol=1e-4)


def test_a_query_that_may_look_nowhere_in_the_whole_video_looks_everywhere():
    """Blocked in all frames of one chunk only, a query must not be freed there."""
    model = small().eval()
    video = torch.rand(1, 6, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(video).layers[0].mask_logits
        # a threshold between the largest logits of the two halves: some query is blocked in one of them alone
        peaks = logits.unflatten(2, (2, 3)).flatten(3).amax(3)[0]  # [Q, 2]
        model.decoder.attention_threshold = peaks.mean(1).median().item()
        blocked = model.decoder.low(logits, (16, 16)).unflatten(-1, (2, -1)).all(-1)
        assert (blocked[..., 0] != blocked[..., 1]).any()
        whole = model(video).mask_logits
        model.decoder.attention_threshold = 1e9
        assert free_rows(model.decoder.low(logits, (2, 2))).logical_not().all()
        everywhere = model(video).mask_logits
    torch.testing.assert_close(model.infer(video).mask_logits, everywhere, rtol=1e-4, atol=1e-4)
    model.decoder.attention_threshold = peaks.mean(1).median().item()
    torch.testing.assert_close(model.infer(video).mask_logits, whole, rtol=1e-4, atol=1e-4)


def test_frames_of_bytes_are_those_in_0_to_1():
    model = small().eval()
    video = torch.randint(0, 256, (1, 4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.infer(video).mask_logits, model.infer(video.float() / 255).mask_logits)


def test_bad_frames_are_named_before_anything_is_cut():
    with pytest.raises(ValueError, match="at least one frame"):
        small().infer(torch.rand(1, 0, 3, 64, 64))
    with pytest.raises(ValueError, match=r"\[B, 1, 3, H, W\]"):
        small().infer(torch.rand(1, 3, 64, 64))


def test_all_in_bfloat16():
    exact, half = small().eval(), small().eval().bfloat16()
    errors = []
    for seed in range(1, 8):
        video = torch.rand(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        expected = exact.infer(video).mask_logits
        with torch.no_grad():
            outputs = half(video.bfloat16()), half.infer(video.bfloat16()), half.infer(video)
        assert all(o.mask_logits.dtype == o.class_logits.dtype == torch.bfloat16 for o in outputs)
        errors.append([(o.mask_logits - expected).norm() / expected.norm() for o in outputs])
    # Where rounding moves a bit of an attention mask across its threshold, all that follows moves: not in every video.
    errors = torch.tensor(errors)
    assert (errors.kthvalue(2, 0).values < 0.02).all() and (errors < 0.2).all()


def test_layers_that_have_hooks_are_called():
    """As pruning has them."""
    model = small().eval()
    video = torch.rand(1, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    attention = model.decoder.layers[0].cross.attention
    prune.l1_unstructured(attention, "in_proj_weight", 0.5)
    with torch.no_grad():
        attention.in_proj_weight_orig.mul_(-3)
        found, expected = model.infer(video), model(video)
    assert found.aux == () and torch.equal(found.mask_logits, expected.mask_logits)


def test_pixel_statistics_keep_their_digits():
    model, video = small().eval(), torch.rand(1, 2, 3, 64, 64)
    exact = model.normalise(video)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert model.bfloat16().pixel_mean.dtype == torch.float32 and model.normalise(video).dtype == torch.bfloat16
    assert torch.equal(model.normalise(video), exact.bfloat16())
    model.float().load_state_dict(kept)
    assert torch.equal(model.normalise(video), exact)
    model.pixel_mean = torch.full((3, 1, 1), 0.3)
    assert torch.equal(model.bfloat16().pixel_mean, torch.full((3, 1, 1), 0.3))
    assert model.to("meta").pixel_std.device.type == "meta"


MEMORY = """
import resource, torch
from tests.models.test_lgrnet import small
torch.set_num_threads(1)
model = small(depth=1).eval()
model.infer(torch.rand(1, 16, 3, 128, 128))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
video = torch.rand(1, 144, 3, 128, 128)
output = model.infer(video)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 128)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs between systems")
def test_a_frame_costs_its_pixels_one_fine_map_its_tokens_and_its_masks():
    pixels, fine, tokens, masks = 3 * 128**2, 32 * 32**2, 32 * (4**2 + 8**2 + 16**2), 4 * 32**2
    more = float(subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout)
    assert more < 1.25 * 4 * (pixels + fine + tokens + masks)
