"""Which implementation runs, and what a user is told when it cannot."""

from __future__ import annotations

import ctypes
from importlib.metadata import distributions

import pytest
import torch

from lgrnet.ops import cpu, depthwise_gelu, ms_deform_attn, neighborhood_attention, selective_scan
from lgrnet.ops.backends import Backend, BackendError, choose, exporting
from lgrnet.ops.neighborhood.cpu import neighborhood_attention_cpu

LIKE = torch.zeros(1)


def refuse(reason):
    return Backend(max, lambda like: reason)


def test_auto_takes_the_first_that_can():
    assert choose({"fast": refuse("it is Sunday"), "reference": Backend(min)}, "auto", LIKE) is min
    assert choose({"fast": refuse(None), "reference": Backend(min)}, "auto", LIKE) is max


def test_a_forced_backend_that_cannot_says_why_and_what_else_there_is():
    with pytest.raises(BackendError, match="'fast' cannot be used because it is Sunday; choose auto or reference"):
        choose({"fast": refuse("it is Sunday"), "reference": Backend(min)}, "fast", LIKE)


@pytest.mark.parametrize(
    "like, reason",
    [
        (torch.zeros(1, dtype=torch.float64), "computes in float32, not in torch.float64"),
        (torch.zeros(1, device="meta"), "works on CPU tensors, not on meta"),
    ],
)
def test_what_the_cpu_kernels_do_not_do(like, reason):
    assert reason in cpu.cannot_run(like)


def test_an_exported_graph_takes_the_reference(monkeypatch):
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    assert "exported graph" in cpu.cannot_run(LIKE)


@pytest.mark.parametrize("strict", [False, True])
def test_what_torch_compile_records_is_no_exported_graph(strict):
    class Plus(torch.nn.Module):
        def forward(self, x):
            return x + 1 if exporting() else x

    assert not torch.compile(Plus(), backend="eager", fullgraph=True)(LIKE)
    assert torch.export.export(Plus(), (LIKE,), strict=strict).module()(LIKE)


def test_torch_compile_takes_the_cpu_kernels():
    backend = "cpu" if cpu.missing() is None else "reference"
    given = torch.randn(1, 6, 8), torch.randn(8, 1, 3, 3), torch.randn(8), (2, 3)
    found = torch.compile(depthwise_gelu, backend="eager", fullgraph=True)(*given, backend=backend)
    assert torch.allclose(found, depthwise_gelu(*given, backend="reference"), atol=1e-6)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder for libraries in place of the real one, with nothing loaded or remembered yet."""
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(cpu, "distributions", lambda name: ())
    for remembered in (cpu.library, cpu.missing):
        remembered.cache_clear()
    yield tmp_path
    for remembered in (cpu.library, cpu.missing):
        remembered.cache_clear()


def test_without_libraries_it_is_said_once_and_the_reference_works(folder):
    with pytest.warns(UserWarning, match="not compiled .* where a C\\+\\+ compiler .* plain torch") as seen:
        reasons = {cpu.cannot_run(LIKE) for _ in range(3)}
    assert len(seen) == 1 and len(reasons) == 1


def test_a_library_for_another_machine_is_refused(folder):
    (folder / "kernels.portable.so").write_bytes(b"\x7fELF of another kind")
    with pytest.raises(cpu.LibraryError, match="cannot be loaded on this machine .*; install lgrnet again where a C"):
        cpu.library()


def test_a_clone_takes_the_libraries_of_an_installed_package(folder, monkeypatch):
    """Whose folder comes behind the clone's on Python's path."""
    site = folder / "site-packages"
    (site / "lgrnet-0.1.0.dist-info").mkdir(parents=True)
    (site / "lgrnet-0.1.0.dist-info" / "METADATA").write_text("Name: lgrnet")
    (site / "lgrnet/ops/cpu").mkdir(parents=True)
    for name in cpu.LEVELS:
        (site / f"lgrnet/ops/cpu/kernels.{name}.so").touch()
    monkeypatch.setattr(cpu, "distributions", lambda name: distributions(name=name, path=[str(folder), str(site)]))
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Library(path, level=1))
    assert cpu.library()._name == str(site / "lgrnet/ops/cpu/kernels.avx2.so")
    (folder / "kernels.portable.so").touch()
    (folder / "kernels.avx2.so").touch()
    cpu.library.cache_clear()
    assert cpu.library()._name == str(folder / "kernels.avx2.so")


class Library:
    """What ctypes would load: its version, and the best level of the processor."""

    def __init__(self, path, version=cpu.VERSION, level=0):
        self._name = path
        self.lgrnet_version, self.lgrnet_level = lambda: version, lambda: level


@pytest.mark.parametrize("level, expected", [(0, "portable"), (1, "avx2"), (2, "avx512")])
def test_the_processor_decides(folder, monkeypatch, level, expected):
    for name in cpu.LEVELS:
        (folder / f"kernels.{name}.so").touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Library(path, level=level))
    assert cpu.level() == expected


def test_the_next_best_library_stands_in_for_one_that_was_not_built(folder, monkeypatch):
    for name in ("portable", "avx2"):
        (folder / f"kernels.{name}.so").touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Library(path, level=2))
    assert cpu.level() == "avx2"


def test_a_library_of_another_release_is_refused(folder, monkeypatch):
    (folder / "kernels.portable.so").touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Library(path, version=0))
    with pytest.raises(cpu.LibraryError, match=f"of version 0, this lgrnet needs {cpu.VERSION}"):
        cpu.library()


def tokens(*shape, **kind):
    return torch.rand(shape, **kind)


def scan_arguments(**changes):
    given = {"x": tokens(1, 6, 4), "dt": tokens(1, 6, 1, 2), "B": tokens(1, 6, 1, 3), "C": tokens(1, 6, 1, 3)}
    given |= {"dt_weight": tokens(1, 4, 2), "dt_bias": tokens(1, 4), "A": -tokens(1, 4, 3), "skip": tokens(1, 4)}
    return given | {"order": torch.arange(6)[None]} | changes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selective_scan(**scan_arguments(A=tokens(1, 4, 3, device="meta"))), "A is on meta, x on cpu"),
        (lambda: selective_scan(**scan_arguments(order=torch.arange(6, device="meta")[None])), "order is on meta"),
        (lambda: selective_scan(**scan_arguments(dt=torch.ones(1, 6, 1, 2, dtype=torch.int64))), "dt is torch.int64"),
        (lambda: selective_scan(**scan_arguments(order=torch.ones(1, 6, dtype=torch.bool))), "order is torch.bool"),
        (
            lambda: neighborhood_attention(
                *(tokens(1, 2, 9, 2, 4, device=d) for d in ("cpu", "meta", "cpu")), [(3, 3)], 3
            ),
            "k is on meta, q on cpu",
        ),
        (
            lambda: ms_deform_attn(
                tokens(1, 9, 2, 4), tokens(1, 5, 2, 1, 2, 2), tokens(1, 5, 2, 2).int(), tokens(1, 5, 1, 2), [(3, 3)]
            ),
            "weight_logits is torch.int32",
        ),
        (
            lambda: depthwise_gelu(tokens(1, 9, 4), tokens(4, 1, 3, 3), tokens(4, device="meta"), (3, 3)),
            "bias is on meta, x on cpu",
        ),
    ],
)
def test_types_and_devices_that_do_not_fit_are_named(call, message):
    """A kernel would read memory that is not there."""
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")
@pytest.mark.parametrize("threads", [1, 3])
def test_memory_that_a_kernel_cannot_get_is_an_error(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    q = torch.zeros(1, 2, 26, 2, 4)
    with pytest.raises(MemoryError, match="the kernel lgrnet_neighborhood_forward got no memory for its work"):
        neighborhood_attention_cpu(q, q, q, ((4, 5), (2, 3)), 5, 10**7, 0)  # farther than the op allows
