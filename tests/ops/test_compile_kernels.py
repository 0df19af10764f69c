"""Every Triton kernel compiles for three generations of GPUs without a register spill; no GPU is needed."""

from __future__ import annotations

import subprocess

import pytest
import torch

from lgrnet.ops import gpu
from tests.ops.own_process import triton_before
from tools import compile_kernels

shared = pytest.importorskip("lgrnet.ops.gpu.triton_kernels", reason="triton is not installed")
pytestmark = pytest.mark.skipif(shared.interpreting(), reason="Triton interprets its kernels here")

KERNEL = """
import triton
import triton.language as tl

@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, 2 * tl.load(x + at, mask=at < n), mask=at < n)
"""
SIGNATURE = {"x": "*fp32:16", "y": "*bf16:16", "n": "i32"}


@pytest.fixture
def build(tmp_path, monkeypatch):
    (tmp_path / "double_kernel.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    import double_kernel

    return shared.Build("double", double_kernel.double, SIGNATURE, {"BLOCK": 128})


@pytest.mark.parametrize("architecture", compile_kernels.ARCHITECTURES)
@pytest.mark.parametrize("name", compile_kernels.operators())
def test_every_kernel_compiles_without_a_spill(name, architecture, capsys):
    few = ["--spills", "24"] if triton_before("3.8") else []  # ops/README.md
    assert compile_kernels.main([name, "--arch", str(architecture), *few]) == 0
    assert capsys.readouterr().out.count(f"sm_{architecture}") == len(compile_kernels.builds_of(name)) > 0


def test_a_spill_is_an_error_and_the_table_says_where(build, monkeypatch, capsys):
    monkeypatch.setattr(compile_kernels, "operators", lambda: ["toy"])
    monkeypatch.setattr(compile_kernels, "builds_of", lambda name: [build])
    assert compile_kernels.main(["--arch", "80", "90"]) == 0
    assert capsys.readouterr().out.count("toy") == 2
    monkeypatch.setattr(shared, "resources", lambda build, architecture: shared.Resources(255, 1024, 8))
    assert compile_kernels.main(["--arch", "89"]) == 1
    assert "SPILLS" in capsys.readouterr().out
    assert compile_kernels.main(["--arch", "89", "--spills", "8"]) == 0


def test_a_kernel_that_does_not_fit_is_an_error(build, monkeypatch, capsys):
    monkeypatch.setattr(compile_kernels, "operators", lambda: ["toy"])
    monkeypatch.setattr(compile_kernels, "builds_of", lambda name: [build])
    monkeypatch.setattr(shared, "resources", lambda build, architecture: shared.Resources(32, 103424, 0))
    assert compile_kernels.main(["--arch", "90"]) == 0
    assert compile_kernels.main(["--arch", "89"]) == 1
    assert capsys.readouterr().out.count("DOES NOT FIT") == 1


def test_an_argument_without_a_type_is_named(build):
    with pytest.raises(ValueError, match="double: signature and constants .* check {'BLOCK'}"):
        shared.compiled(shared.Build("double", build.kernel, SIGNATURE), 80)


def test_an_unknown_op_is_refused(capsys):
    with pytest.raises(SystemExit):
        compile_kernels.main(["abacus"])
    assert "no Triton kernels in abacus" in capsys.readouterr().err


@pytest.mark.parametrize(
    "registers, shared_bytes, warps, held", [(255, 0, 4, 8), (32, 0, 4, 64), (64, 50 * 1024, 4, 16), (1, 0, 8, 64)]
)
def test_warps_that_a_multiprocessor_holds(registers, shared_bytes, warps, held):
    assert compile_kernels.warps_held(90, registers, shared_bytes, warps) == held


@pytest.mark.parametrize(
    "like, reason",
    [
        (torch.zeros(1), "works on CUDA tensors, not on cpu"),
        (torch.zeros(1, device="meta"), "works on CUDA tensors, not on meta"),
        (torch.zeros(1, dtype=torch.float64), "computes in float32, not in torch.float64"),
    ],
)
def test_what_the_kernels_do_not_do(like, reason):
    assert reason in gpu.cannot_run(like)


def test_without_triton_the_reason_says_how_to_get_it(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError("No module named 'triton'")

    gpu._tried.cache_clear()
    monkeypatch.setattr(gpu.importlib, "import_module", absent)
    try:
        assert "No module named 'triton'); install it with pip install triton" in gpu.cannot_run(torch.zeros(1))
    finally:
        gpu._tried.cache_clear()


@pytest.mark.parametrize(
    "error", [subprocess.CalledProcessError(1, ["gcc", "main.c"]), AssertionError("libcuda.so cannot found!")]
)
def test_without_a_c_compiler_or_driver_on_a_gpu_it_warns_and_the_reason_says_what_is_missing(error, monkeypatch):
    def no_driver():
        raise error

    gpu._tried.cache_clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(shared, "load_driver", no_driver)
    try:
        with pytest.warns(UserWarning, match="triton cannot be used .*a C compiler and Python's headers. Until then"):
            assert type(error).__name__ in gpu.missing()
        assert gpu.missing().endswith("headers") and gpu.kernel_errors() == (RuntimeError,)
    finally:
        gpu._tried.cache_clear()
