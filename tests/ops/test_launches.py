"""Every launch of the Triton kernels through Triton's own way to them, on a driver that launches nothing.

What compiling ahead of time does not see: sizes of 1 that become constants, views at odd addresses, tuples, kernels
that ask for more shared memory than a card has, and grids with more programs than a launch can have.
"""

from __future__ import annotations

import sys
import time

import pytest
import torch

from lgrnet.ops import depthwise_gelu, gpu, ms_deform_attn, neighborhood_attention, selective_scan
from tools import gpu_check  # noqa: F401  finds the next ones

shared = pytest.importorskip("lgrnet.ops.gpu.triton_kernels", reason="triton is not installed")
pytestmark = [
    pytest.mark.skipif(shared.interpreting(), reason="Triton interprets its kernels here"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU; kernels that were not loaded would stay"),
]
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402

cases_of, Setup = sys.modules["gpu_checks.ops"], sys.modules["gpu_checks.check"].Setup
SHARED_MEMORY = 227 * 1024
MOST = (2**31 - 1, 65535, 65535)
"""Programs along the three axes of a grid."""


class Launches(list):
    """What would have been launched, as (kernel, its grid): a driver for a card of compute capability 9.0."""

    def __init__(self):
        super().__init__()
        self.utils, launches = self, self

        class Launcher:
            def __init__(self, source, metadata):
                self.name = metadata.name

            def __call__(self, x, y, z, *others):
                launches.append((self.name, (x, y, z)))

        self.launcher_cls = Launcher

    def load_binary(self, name, binary, memory, device):
        """Module, function, registers, spills, threads of a program at most."""
        return 1, 1, 32, 0, 1024

    def get_device_properties(self, device):
        return {"max_shared_mem": SHARED_MEMORY, "multiprocessor_count": 132, "warpSize": 32}

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


@pytest.fixture
def launches(monkeypatch):
    """What the kernels of this test launch."""
    from lgrnet.ops.scan import triton_kernels

    made = Launches()
    monkeypatch.setattr(gpu, "_interpreting", lambda: True)
    monkeypatch.setattr(gpu, "_tried", lambda: None)
    monkeypatch.setattr(triton_kernels, "_multiprocessors", lambda like: 132)
    monkeypatch.setattr(driver, "_active", made)
    return made


@pytest.mark.parametrize("op", ["scan", "neighborhood", "deform", "depthwise"])
def test_odd_sizes(op, launches):
    for case in getattr(cases_of, f"{op}_cases")(Setup("cpu", True, time.monotonic() + 600)):
        inputs = [t.float().requires_grad_(t.is_floating_point()) for t in case.inputs]
        sum(part.float().sum() for part in case.call("triton", *inputs)).backward()
        assert launches and all(t.grad is None or t.grad.shape == t.shape for t in inputs)
    assert_launchable(launches)


def assert_launchable(launches):
    too_many = [made for made in launches if not all(1 <= n <= most for n, most in zip(made[1], MOST, strict=True))]
    assert launches and not too_many


def test_more_clips_and_frames_than_an_axis_of_a_grid_has(launches):
    many = 70_000

    def normal(*shape):
        return torch.zeros(shape, requires_grad=True)

    q = normal(1, many, 1, 1, 8)
    neighborhood_attention(q, q, q, ((1, 1),), 3, backend="triton").sum().backward()
    reference = torch.full((1, 1, 1, 2), 0.5)
    value, offsets, logits = normal(many, 1, 1, 8), normal(many, 1, 1, 1, 1, 2), normal(many, 1, 1, 1)
    ms_deform_attn(value, offsets, logits, reference, ((1, 1),), backend="triton").sum().backward()
    depthwise_gelu(normal(many, 1, 8), normal(8, 1, 3, 3), normal(8), (1, 1), backend="triton").sum().backward()
    for clips, length in ((many, 1), (1, 20 * many)):
        inputs = [t.requires_grad_() for t in cases_of.scan_inputs(clips, length, 4, 2, 2, 1)]
        selective_scan(*inputs, torch.arange(length)[None], backend="triton").sum().backward()
    assert_launchable(launches)
    assert max(grid[0] for _, grid in launches) >= many
