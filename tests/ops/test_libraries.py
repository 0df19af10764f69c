"""Every library passes the tests of the CPU kernels, also those that this processor does not choose or cannot run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lgrnet.ops import cpu
from tests.ops.own_process import ROOT, assert_passes

TESTS = ["test_scan_cpu.py", "test_neighborhood_cpu.py", "test_deform_cpu.py", "test_depthwise.py", "test_attention.py"]

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")


def assert_passes_with(library: Path) -> None:
    assert_passes(TESTS, {"LGRNET_KERNELS": str(library)}, "-p", "tests.ops.one_library")


@pytest.mark.parametrize("name", cpu.LEVELS)
def test_a_library_that_this_processor_runs(name):
    if cpu.LEVELS.index(name) >= cpu.LEVELS.index(cpu.level()):
        pytest.skip(f"{cpu.level()} is the one the other tests run, and the widest this processor can")
    assert_passes_with(Path(cpu.__file__).parent / f"kernels.{name}.so")


def test_avx512_without_such_a_processor(tmp_path):
    """The same sources with the intrinsics of avx512_stand_in.h: the values, not the speed."""
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    if cpu.level() != "avx2":
        pytest.skip("the stand-ins need AVX2, and where there is AVX-512 itself the other tests run it")
    library = tmp_path / "kernels.avx512.so"
    flags = ["-O2", "-std=c++17", "-ffp-contract=fast", "-mavx2", "-mfma", "-pthread", "-fPIC", "-shared", "-w"]
    sources = sorted(str(path) for path in (ROOT / "ops").glob("**/*.cpp"))
    subprocess.run(
        [compiler, *flags, "-include", str(Path(__file__).parent / "avx512_stand_in.h"), *sources, "-o", str(library)],
        check=True,
    )
    assert_passes_with(library)
