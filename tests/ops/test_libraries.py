"""Every library passes the tests of the CPU kernels, also those that this processor does not choose or cannot run."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lgrnet.ops import cpu
from tests.ops.own_process import ROOT, assert_passes

TESTS = ["test_scan_cpu.py", "test_neighborhood_cpu.py", "test_deform_cpu.py"]
TESTS += ["test_depthwise.py", "test_attention.py", "test_projection.py", "test_normalization.py", "test_masks.py"]
TESTS += ["test_layouts.py"]

PRODUCTS = ["test_attention.py", "test_projection.py"]

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")


AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
STAND_IN = ["-include", str(Path(__file__).parent / "avx512_stand_in.h")]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c++17", "-ffp-contract=fast", "-mavx2", "-mfma", "-pthread", "-fPIC", "-shared", "-w"]


def assert_passes_with(library: Path, tests: list[str] = TESTS, **environment: str) -> None:
    assert_passes(tests, {"LGRNET_KERNELS": str(library), **environment}, "-s", "-p", "tests.ops.one_library")


def built(folder: Path, *flags: str, ops: Sequence[str] = ("*",)) -> Path:
    """A library of the kernels of these ops for AVX2, with more flags."""
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    if cpu.level() == "portable":
        pytest.skip("this processor has no AVX2")
    library = folder / "kernels.so"
    sources = [str(path) for op in ops for path in (ROOT / "ops").glob(f"{op}/cpu/*.cpp")]
    sources.append(str(ROOT / "ops/cpu/level.cpp"))
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
    assert_passes_with(built(tmp_path, "-O2", *STAND_IN))


def test_no_memory_of_others_is_touched_and_nothing_is_undefined(tmp_path):
    """With the address and undefined-behaviour sanitizers of the compiler, which end the process at the first fault."""
    wide = AVX512 if cpu.level() == "avx512" else []
    assert_passes_with(built(tmp_path, *wide, "-O0", *SANITIZERS), **runtimes())


@pytest.mark.skipif(
    cpu.missing() is not None or cpu.library().lgrnet_bfloat16() != 3, reason="the other tests multiply pairs"
)
def test_products_of_pairs_where_those_of_matrices_would_be_taken():
    library = Path(cpu.__file__).parent / f"kernels.{cpu.level()}.so"
    assert_passes_with(library, PRODUCTS, LGRNET_PAIRS="1")


def test_products_of_matrices_touch_no_memory_of_others(tmp_path):
    """Those of AMX in plain C++, on any processor: the sanitizers cannot see what its instructions read."""
    library = built(tmp_path, "-O1", *STAND_IN, "-DLGRNET_EMULATED=3", *SANITIZERS, ops=["attention", "projection"])
    assert_passes_with(library, PRODUCTS, **runtimes())


def runtimes() -> dict[str, str]:
    """What a process needs that loads a library with sanitizers."""
    # Before Python: what it allocates must be theirs. That of C++ because they look for it when they start.
    found = [_path_of(name) for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    if None in found:
        pytest.skip("the compiler comes without its sanitizers")
    return {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0"}


def _path_of(name: str) -> str | None:
    """Where the compiler has a library; it answers the bare name where it has none."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return path if (path := found.stdout.strip()) != name else None
