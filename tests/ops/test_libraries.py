"""Every library passes the tests of the CPU kernels, also those that this processor does not choose or cannot run."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from lgrnet.ops import cpu
from tests.ops.own_process import ROOT, assert_passes

TESTS = ["test_scan_cpu.py", "test_neighborhood_cpu.py", "test_deform_cpu.py"]
TESTS += ["test_depthwise.py", "test_attention.py", "test_projection.py", "test_normalization.py"]

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")


AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
FLAGS = ["-std=c++17", "-ffp-contract=fast", "-mavx2", "-mfma", "-pthread", "-fPIC", "-shared", "-w"]


def assert_passes_with(library: Path, **environment: str) -> None:
    assert_passes(TESTS, {"LGRNET_KERNELS": str(library), **environment}, "-s", "-p", "tests.ops.one_library")


def built(folder: Path, *flags: str) -> Path:
    """A library of all kernels for AVX2, with more flags."""
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    if cpu.level() == "portable":
        pytest.skip("this processor has no AVX2")
    library = folder / "kernels.so"
    sources = sorted(str(path) for path in (ROOT / "ops").glob("**/*.cpp"))
    subprocess.run([compiler, *FLAGS, *flags, *sources, "-ldl", "-o", str(library)], check=True)
    return library


@pytest.mark.parametrize("name", cpu.LEVELS)
def test_a_library_that_this_processor_runs(name):
    if cpu.LEVELS.index(name) >= cpu.LEVELS.index(cpu.level()):
        pytest.skip(f"{cpu.level()} is the one the other tests run, and the widest this processor can")
    assert_passes_with(Path(cpu.__file__).parent / f"kernels.{name}.so")


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="for x86")
def test_no_library_has_instructions_of_a_wider_one():
    """They are compiled side by side from the same sources: an object of one must not end up in another."""
    reader = shutil.which("objdump") or pytest.skip("there is no objdump")
    folder, found = Path(cpu.__file__).parent, {}
    for name in cpu.LEVELS:
        listing = subprocess.run(
            [reader, "-d", f"{folder}/kernels.{name}.so"], capture_output=True, text=True, check=True
        )
        found[name] = {register for register in ("%ymm", "%zmm") if register in listing.stdout}
    assert found == {"portable": set(), "avx2": {"%ymm"}, "avx512": {"%ymm", "%zmm"}}


def test_avx512_without_such_a_processor(tmp_path):
    """The same sources with the intrinsics of avx512_stand_in.h: the values, not the speed."""
    if cpu.level() == "avx512":
        pytest.skip("the other tests run it")
    assert_passes_with(built(tmp_path, "-O2", "-include", str(Path(__file__).parent / "avx512_stand_in.h")))


def test_no_memory_of_others_is_touched_and_nothing_is_undefined(tmp_path):
    """With the address and undefined-behaviour sanitizers of the compiler, which end the process at the first fault."""
    wide = AVX512 if cpu.level() == "avx512" else []
    library = built(tmp_path, *wide, "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    # Before Python: what it allocates must be theirs. That of C++ because they look for it when they start.
    runtimes = [_path_of(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    if None in runtimes:
        pytest.skip("the compiler comes without its sanitizers")
    assert_passes_with(library, LD_PRELOAD=" ".join(runtimes), ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0")


def _path_of(name: str) -> str | None:
    """Where the compiler has a library; it answers the bare name where it has none."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return path if (path := found.stdout.strip()) != name else None
