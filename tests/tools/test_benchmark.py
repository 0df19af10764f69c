"""The benchmark with toy peers whose time and value are known, and every op in its smallest case."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from tools import benchmark

report, runner, suite, Op = benchmark.report, benchmark.runner, benchmark.suite, benchmark.contest.Op
contest, clock, deform = benchmark.contest, sys.modules["benchmarks.clock"], sys.modules["benchmarks.deform"]
FIELDS = {"op", "case", "mode", "dtype", "device", "threads", "peer", "median_ms", "ratio", "interval", "peak_bytes"}
FIELDS |= {"error", "status", "note", "noisy", "spread", "rounds", "position", "environment", "kernels_ms"}
ROOT = Path(__file__).resolve().parents[2]
FIVE = runner.Settings(rounds=5, budget_s=5)


class Day:
    """Time that passes only where a peer sleeps, and a little differently each time."""

    now, draw = 0.0, random.Random(0)

    def sleep(self, ms):
        self.now += ms / 1000 * self.draw.uniform(0.98, 1.02)

    def time(self):
        return self.now


DAY = Day()


@pytest.fixture
def day(monkeypatch):
    """The benchmark's clock shows how long peers have slept: a loaded machine would not let them wake up in time."""
    for name in ("process_time", "perf_counter"):
        monkeypatch.setattr(clock.time, name, DAY.time)


def sleeping(ms):
    """A peer that squares its input and takes `ms`."""

    def square(x):
        DAY.sleep(ms)
        return x * x

    return lambda problem: square


def missing(problem):
    import a_package_that_is_not_there

    return a_package_that_is_not_there.square


def refused(problem):
    raise contest.Absent("it wants another processor")


def broken(problem):
    def call(x):
        raise RuntimeError("no compiler\nmore lines")

    return call


def toy(*peers, ours=10, position=(None,)):
    cases = [contest.Case(f"n={i}", {}, at) for i, at in enumerate(position)]
    problem = contest.Problem((torch.arange(1.0, 9.0),), lambda x: x * x)
    return Op(
        "toy", lambda quick: cases, lambda case, device: problem, (contest.Peer("lgrnet", sleeping(ours)), *peers)
    )


def rows_of(op, mode="fwdbwd", dtype="fp32", settings=FIVE, **options):
    return {row.peer: row for row in runner.measure(op, op.cases(True)[0], mode, dtype, settings, **options)}


def test_twice_as_long_is_a_ratio_of_two(day):
    row = rows_of(toy(contest.Peer("slow", sleeping(20)), contest.Peer("fast", sleeping(5))), "fwd")
    assert row["slow"].ratio == pytest.approx(2, rel=0.05) and row["fast"].ratio == pytest.approx(0.5, rel=0.05)
    low, high = row["slow"].interval
    assert low <= row["slow"].ratio <= high
    assert row["lgrnet"].ratio == 1 and row["lgrnet"].median_ms == pytest.approx(10, rel=0.05)
    assert all(r.status == "ok" and r.rounds == 5 for r in row.values())


@pytest.mark.parametrize("mode", ["fwd", "fwdbwd", "step"])
def test_a_wrong_value_is_marked_and_not_timed(mode):
    row = rows_of(toy(contest.Peer("wrong", lambda p: lambda x: 1.01 * x * x), ours=0), mode)["wrong"]
    assert row.status == "wrong" and row.error == pytest.approx(0.01, rel=1e-3)
    assert row.median_ms is None and row.ratio is None and "WRONG" in report.cells(row)


def test_what_is_wrong_with_ours_is_shown_and_the_others_have_no_ratio():
    wrong = contest.Peer("lgrnet", lambda p: lambda x: 1.01 * x * x)
    rows = rows_of(replace(toy(), peers=(wrong, contest.Peer("right", sleeping(0)))))
    assert rows["lgrnet"].status == "wrong" and rows["lgrnet"].median_ms is None
    assert "WRONG" in report.cells(rows["lgrnet"])
    assert rows["right"].status == "ok" and rows["right"].median_ms is not None
    assert rows["right"].ratio is None and rows["right"].interval is None and not rows["right"].noisy
    assert report.cells(rows["right"])[5:7] == ("", "")


def test_a_wrong_gradient_is_found_and_only_there():
    peer = contest.Peer("detached", lambda p: lambda x: x * x.detach())
    op = toy(peer, ours=0)
    assert rows_of(op, "fwd")["detached"].status == "ok"
    assert rows_of(op, "fwdbwd")["detached"].error == pytest.approx(0.5)
    assert rows_of(toy(replace(peer, values_only=True), ours=0), "fwdbwd")["detached"].status == "ok"


@pytest.mark.parametrize("result", [lambda x: x * math.nan, lambda x: x[:3]])
def test_nan_and_other_shapes_are_wrong(result):
    row = rows_of(toy(contest.Peer("wrong", lambda p: result), ours=0), "fwd")["wrong"]
    assert row.status == "wrong" and row.error == math.inf
    written = json.dumps(row.as_json(), allow_nan=False)
    assert "not finite" in written


@pytest.mark.parametrize(
    ("peer", "says"),
    [
        (contest.Peer("away", missing, "pip install it"), "pip install it (No module named 'a_package"),
        (contest.Peer("away", refused), "it wants another processor"),
        (contest.Peer("away", broken, "a compiler"), "a compiler (no compiler)"),
        (contest.Peer("away", sleeping(0), refuses=contest.only_on("cuda")), "runs on cuda only"),
    ],
)
def test_what_is_not_there_is_absent_and_says_how_to_get_it(peer, says):
    rows = rows_of(toy(peer, ours=0), "fwd")
    assert rows["away"].status == "absent" and says in rows["away"].note and "\n" not in rows["away"].note
    assert rows["lgrnet"].status == "ok"
    assert f"absent: away (n=0 fwd): {rows['away'].note}" in report.text(list(rows.values()))


def test_our_own_mistakes_are_not_hidden():
    op = replace(toy(), peers=(contest.Peer("lgrnet", broken),))
    with pytest.raises(RuntimeError, match="no compiler"):
        rows_of(op)


def test_a_peer_of_its_own_type_is_checked_in_it():
    rows = rows_of(toy(contest.Peer("half", sleeping(0), dtype="bf16"), ours=0), "fwd")
    assert rows["half"].dtype == "bf16" and rows["half"].status == "ok"
    assert rows["lgrnet"].dtype == "fp32" and rows["lgrnet"].error < 1e-6


def test_bits_are_compared_by_their_share():
    a, b = torch.tensor([True, True, False, True]), torch.tensor([True, False, False, True])
    assert runner.error_of([a], [b], 1) == 0.25


def test_noise_hides_a_ratio():
    steady = clock.compare([20.0, 21, 20, 22, 21], [10.0, 10, 10, 11, 10])
    assert not steady.noisy and steady.value == 2.0
    wild = clock.compare([20.0, 40, 10, 60, 21], [10.0, 10, 10, 10, 10])
    assert wild.noisy and clock.compare([20.0], [10.0]).noisy
    row = runner.Row("toy", "n", "fwd", "fp32", "cpu", 1, "peer", status="ok")
    runner._fill(row, [20.0, 40, 10, 60, 21], [10.0] * 5, 0)
    assert row.noisy and row.ratio is None and row.interval is None and row.median_ms == 21
    assert "noisy" in report.cells(row)


def test_rounds_are_interleaved_and_slow_peers_sit_out():
    called = []
    ms = {"a": 20.0, "slow": 2000.0, "glacial": 90000.0}
    works = {name: (lambda name=name: called.append(name)) for name in ms}

    def told(work, calls):
        work()
        return ms[called[-1]]

    samples = clock.interleave(works, told, rounds=7, budget_s=10)
    assert {name: len(values) for name, values in samples.items()} == {"a": 7, "slow": 5, "glacial": 1}
    assert samples["glacial"] == [ms["glacial"]]
    timed = called[len(ms) :]
    orders = {tuple(timed[i : i + 2]) for i in range(0, 10, 2)}
    assert orders == {("a", "slow"), ("slow", "a")}


def test_short_calls_are_repeated():
    asked = []
    clock.interleave({"short": lambda: None}, lambda work, calls: asked.append(calls) or 0.1, rounds=2, budget_s=1)
    assert asked == [1, 100, 100]


PEAKS = """
import sys, torch
sys.path.insert(0, "tools")
from benchmarks.clock import peak_bytes
def work():
    held = torch.ones(20_000_000)
    del held
    return torch.ones(10_000_000)
cpu = torch.device("cpu")
print(peak_bytes(work, cpu), peak_bytes(lambda: None, cpu))
"""


@pytest.mark.skipif(not clock.CLEAR.exists(), reason="the resident set is read from /proc")
def test_memory_is_the_peak_of_one_call():
    """In a process of its own: what other tests have left to the allocator would serve the second tensor."""
    printed = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    of_work, of_nothing = map(int, printed.split())
    assert of_work == pytest.approx(80e6, rel=0.1) and of_nothing < 2e6


def test_json_markdown_and_picture(day, monkeypatch, tmp_path, capsys):
    op = toy(contest.Peer("peer", sleeping(4)), contest.Peer("away", refused), ours=2, position=(10, 100))
    monkeypatch.setitem(suite.OPS, "toy", op)
    monkeypatch.setitem(suite.TITLES, "toy", "A toy")
    monkeypatch.setitem(suite.SUITES, "cpu", (suite.Part("toy"),))
    page = tmp_path / "page.md"
    start, end = suite.marks("cpu")
    page.write_text(f"Before\n{start}\nold\n{end}\nAfter\n")
    arguments = ["--suite", "cpu", "--rounds", "3", "--page", str(page)]
    arguments += ["--json", str(tmp_path / "out/rows.json"), "--picture", str(tmp_path / "out/rows.png")]
    assert benchmark.main(arguments) == 0
    rows = json.loads((tmp_path / "out/rows.json").read_text())
    assert len(rows) == 2 * 2 * 3 and all(set(row) == FIELDS for row in rows)
    assert {row["status"] for row in rows} == {"ok", "absent"} and rows[0]["environment"]["torch"] == torch.__version__
    assert {"processor", "load", "commit", "kernels"} <= set(rows[0]["environment"])
    assert (tmp_path / "out/rows.png").stat().st_size > 1000
    text = page.read_text()
    assert text.startswith("Before\n") and text.endswith("After\n") and "old" not in text
    assert "### A toy" in text and "| n=0 | fwd | fp32 | peer |" in text and "- away: absent: it wants" in text
    assert benchmark.main(arguments) == 0 and page.read_text().count("### A toy") == 1
    assert "toy" in capsys.readouterr().out
    page.write_text("no marks")
    assert benchmark.main(arguments) == 2 and "needs one line" in capsys.readouterr().err


def test_a_gpus_kernels_are_summed_and_have_a_column_of_their_own(monkeypatch):
    def event(kind, microseconds, annotation=False):
        span = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(device_type=kind, time_range=span, is_user_annotation=annotation)

    kinds = torch.autograd.DeviceType
    seen = [event(kinds.CUDA, 1500), event(kinds.CPU, 9000), event(kinds.CUDA, 500), event(kinds.CUDA, 2000, True)]
    profiler = mock.MagicMock()
    profiler.return_value.__enter__.return_value.events.side_effect = lambda: seen
    monkeypatch.setattr(torch.profiler, "profile", profiler)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    work = mock.Mock()
    assert clock.kernel_ms(work) == 2.0 and work.call_count == 1
    row = runner.Row("scan", "L=1", "fwd", "fp32", "cuda", 1, "lgrnet", median_ms=3.0, kernels_ms=clock.kernel_ms(work))
    other = replace(row, peer="peer", kernels_ms=None)
    assert "| ms | kernels ms | times ours |" in report.markdown([row, other]) and "3.00  2.00" in report.text([row])
    assert "kernels ms" not in report.markdown([other]) + report.text([other])
    seen.clear()
    assert clock.kernel_ms(work) is None


def test_growth_with_every_frame():
    row = runner.Row("model", "T=6", "fwd", "fp32", "cpu", 1, "lgrnet", position=6, peak_bytes=10**9)
    later = [replace(row, position=60, peak_bytes=100_000_000), replace(row, position=160, peak_bytes=600_000_000)]
    assert report.frame_growth([row, *later]) == ["lgrnet: 5.00 MB a frame from T = 60 to T = 160, besides its pixels"]
    assert report.frame_growth([row, later[0]]) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--op", "scan", "--against", "abacus"], "expected some of: our reference, plain mamba"),
        (["--op", "heads", "--mode", "fwdbwd"], "expected some of: fwd"),
        (["--op", "scan", "--case", "L=7", "--quick"], "expected some of: K=2 L=40"),
        (["--op", "scan", "--rounds", "0"], "expected at least one of each"),
    ],
)
def test_mistakes_are_one_line(arguments, says, capsys):
    assert benchmark.main(arguments) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


EAGER = {
    "scan": ["our reference", "plain mamba", "chunked torch"],
    "neighborhood": ["gather", "unfold", "masked SDPA"],
    "deform": ["grid_sample"],
    "depthwise": ["as timm", "channels_last"],
    "attention": ["SDPA", "explicit softmax"],
    "projection": ["torch"],
    "normalization": ["torch"],
    "heads": ["ours and last masks x4", "torch's products", "published way"],
    "loss": ["full-size masks"],
    "backbone": ["ours frame by frame", "plain timm", "plain timm frame by frame", "channels_last", "eager bf16"],
    "model": ["reference ops", "ours bf16", "reference ops bf16"],
    "train": ["reference ops", "ours bf16"],
    "metrics": ["256 passes", "256 passes by counts"],
}


@pytest.mark.parametrize("name", suite.OPS)
def test_every_peer_that_needs_no_compiler_is_right(name):
    op = suite.OPS[name]
    settings = runner.Settings(rounds=1, budget_s=1)
    for mode, dtype in itertools.product(op.modes, op.dtypes):
        rows = runner.measure(op, op.cases(True)[0], mode, dtype, settings, EAGER[name])
        assert [row.peer for row in rows] == ["lgrnet", *EAGER[name]]
        assert [(row.peer, row.error) for row in rows if row.status != "ok"] == []
        assert all(row.error is not None and row.peak_bytes is not None for row in rows)


GPU_PEERS = (("scan", "mamba_ssm"), ("neighborhood", "natten"), ("neighborhood", "flex attention"))
GPU_PEERS += (("deform", "mmcv MSDeformAttn"), ("deform", "transformers"))


@pytest.mark.parametrize(("op", "name"), GPU_PEERS)
def test_on_a_gpu_its_peers_take_part_at_every_size(op, name):
    peer = next(peer for peer in suite.OPS[op].peers if peer.name == name)
    refused = [peer.refuses(case, mode, "cuda") for case in suite.OPS[op].cases(False) for mode in suite.OPS[op].modes]
    assert set(refused) == {None}


def test_the_suite_of_a_gpu_names_cases_that_are_there_and_needs_a_gpu(capsys):
    for part in suite.SUITES["cuda"]:
        assert len(part.of(False)) >= len(part.cases or ()) and part.of(False)
    assert benchmark.main(["--suite", "cuda", "--device", "cpu"]) == 2
    assert "suite cuda is measured on cuda, not on cpu" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert benchmark.main(["--suite", "cuda"]) == 2
        assert "PyTorch sees no GPU here" in capsys.readouterr().err


def test_every_peer_has_a_name_of_its_own_and_ours_comes_first():
    for op in suite.OPS.values():
        names = [peer.name for peer in op.peers]
        assert names[0] == contest.OURS and len(set(names)) == len(names)
        assert "all" not in names and not any("," in name for name in names), "--against could not name it"
        assert not any("," in case.name for case in op.cases(False)), "--case could not name it"


def test_no_place_of_the_deformable_problem_has_two_gradients():
    """Nor of another: offsets up to what bfloat16 knows to half a pixel, exact zeros, and multiples of a quarter."""
    op = suite.OPS["deform"]
    problem = op.problem(op.cases(True)[0], "cpu")
    shapes, reference = problem.fixed["shapes"], problem.fixed["reference"]
    sizes = torch.tensor([(w, h) for h, w in shapes]).double()
    like = torch.randn(problem.inputs[1].shape, generator=torch.Generator().manual_seed(1))
    far = like.mul(20).clamp(-100, 100)
    wide, coarse = deform.clear(far, reference, shapes), deform.clear(like.mul(8).round() / 4, reference, shapes)
    for offsets in (problem.inputs[1], wide, coarse):
        places = (reference.double() * sizes - 0.5)[:, :, None, :, None] + offsets.double()
        assert float((places - places.round()).abs().min()) > 0.99e-3
        assert torch.equal(offsets.bfloat16().float(), offsets)
    assert float((wide - far).abs().max()) < 0.8, "moved by a step and a rounding at most"
