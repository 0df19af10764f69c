"""The GPU check without a GPU: every section in tiny shapes, and what it does with failures, crashes and late ones."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch

from tools import gpu_check

schedule, report, machine = gpu_check.schedule, gpu_check.report, gpu_check.machine
check = sys.modules["gpu_checks.check"]
ROOT = Path(__file__).resolve().parents[2]
HIDDEN = {"cv2", "hydra", "hydra_zen", "omegaconf", "pycocotools", "segmentation_models_pytorch", "av", "safetensors"}
HIDDEN |= {"rich", "mambapy", "transformers", "onnx", "onnxruntime", "pytest", "natten", "mamba_ssm"}
AS_IF_NOT_INSTALLED = f"""
import runpy, sys

class Finder:
    others = list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HIDDEN}:
            return None
        return next((s for f in self.others if (s := f.find_spec(name, path, target)) is not None), None)

    def find_distributions(self, *context):
        return [d for f in self.others if hasattr(f, "find_distributions") for d in f.find_distributions(*context)]

sys.meta_path[:] = [Finder()]
sys.argv = ["tools/gpu_check.py", *sys.argv[1:]]
runpy.run_path("tools/gpu_check.py", run_name="__main__")
"""


def test_every_section_on_a_cpu_with_torch_timm_and_scipy_alone(tmp_path):
    command = [sys.executable, "-c", AS_IF_NOT_INSTALLED, "--device", "cpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["passed"] and [s["name"] for s in found["sections"]] == list(gpu_check.SECTIONS)
    assert all(section["passed"] and len(section["checks"]) > 1 for section in found["sections"])
    assert {"commit", "torch", "processor"} <= set(found["environment"])
    rows = found["sections"][-1]["extra"]["rows"]
    assert {row["op"] for row in rows} == {"scan", "neighborhood", "deform", "depthwise", "heads", "loss"}
    assert {row["status"] for row in rows} == {"ok"}
    page = (tmp_path / "gpu_check.md").read_text()
    assert page.startswith("# GPU check: no GPU: ") and "`python tools/gpu_check.py --device cpu --quick" in page
    assert all(f"## {section.title}" in page for section in gpu_check.SECTIONS.values())
    assert "| case | pass | type | peer | ms | times ours |" in page


def test_the_environment_tells_whether_triton_works_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for reason, told in ((None, "triton"), ("triton cannot be used", "none: triton cannot be used")):
        monkeypatch.setattr(machine.gpu, "missing", lambda reason=reason: reason)
        assert machine.environment("cuda")["kernels on the GPU"] == told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_sentence(capsys):
    assert gpu_check.main([]) == 2
    said = capsys.readouterr()
    assert said.err == "error: PyTorch sees no GPU here; without one, try --device cpu --quick\n" and said.out == ""


def section(name, *findings, budget=60, timed=False):
    """A section that gives these findings; an exception is raised."""

    def run(setup):
        for finding in findings:
            if isinstance(finding, Exception):
                raise finding
            yield finding

    return check.Section(name, f"The {name}", budget, run, timed)


def toy(monkeypatch, *sections):
    for key in list(gpu_check.SECTIONS):
        monkeypatch.delitem(gpu_check.SECTIONS, key)
    for one in sections:
        monkeypatch.setitem(gpu_check.SECTIONS, one.name, one)


GOOD, BAD = check.bounded("fine", 1.0, 2.0), check.bounded("too large", 3.0, 2.0, "mm")


def test_a_failure_is_reported_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    broken = section("broken", GOOD, ValueError("no such thing\nmore"))
    toy(monkeypatch, section("bad", BAD, GOOD), broken, section("good", GOOD), section("empty"))
    assert gpu_check.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "bad: FAILED" in said and "good: passed" in said and "FAILED bad, too large: 3.0 > 2.0" in said
    assert "broken: FAILED in 0 s, 1 checks; ValueError: no such thing" in said
    sections = {s["name"]: s for s in json.loads((tmp_path / "gpu_check.json").read_text())["sections"]}
    assert [s["passed"] for s in sections.values()] == [False, False, True, False]
    assert len(sections["bad"]["checks"]) == 2 and sections["broken"]["checks"][0]["name"] == "fine"
    assert "| too large | 3 mm | 2 | FAILED |" in (tmp_path / "gpu_check.md").read_text()


def test_what_is_there_is_written_when_it_is_interrupted(monkeypatch, tmp_path):
    stopped = section("stopped")
    object.__setattr__(stopped, "run", mock.Mock(side_effect=KeyboardInterrupt))
    toy(monkeypatch, section("good", GOOD), stopped, section("never", GOOD))
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main(["--device", "cpu", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert not found["passed"] and [s["passed"] for s in found["sections"]] == [True, False, False]
    assert [s["error"] for s in found["sections"]] == ["", "not finished", "not finished"]


def test_one_part_alone(monkeypatch, tmp_path):
    toy(monkeypatch, section("bad", BAD), section("good", GOOD))
    assert gpu_check.main(["--device", "cpu", "--section", "good", "--out", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "gpu_check.json").read_text())["sections"]) == 1


def test_a_value_that_is_no_number_fails_and_can_be_written(tmp_path):
    wrong = check.bounded("nothing", float("nan"), 1.0)
    result = check.Result("toy", "Toy", checks=[wrong])
    assert wrong.status == "failed" and not result.passed
    data, _ = report.write(tmp_path / "new", [result], {"processor": "abacus"}, "command")
    assert json.loads(data.read_text())["sections"][0]["checks"][0]["value"] == "nan"


def test_a_failing_case_is_a_check_and_the_next_one_is_tried():
    def cases():
        yield GOOD
        raise RuntimeError("an illegal memory access\nwas encountered")

    found = [*check.attempt("a case", cases), *check.attempt("another", lambda: [GOOD])]
    assert [c.status for c in found] == ["ok", "failed", "ok"]
    assert found[1].note == "RuntimeError: an illegal memory access"


class TestApart:
    """Sections in processes of their own; the processes are small scripts here."""

    def result(self, tmp_path, code, budget=60.0, left=100.0):
        script = f"import sys, json; notes = sys.argv[sys.argv.index('--notes') + 1]\n{code}"
        setup = check.Setup("cpu", True, time.monotonic() + left)
        command = [sys.executable, "-c", script]
        return schedule.apart(section("toy", budget=budget), setup, command, tmp_path / "toy.jsonl")

    def test_a_crash_keeps_what_was_found(self, tmp_path):
        line = json.dumps({"check": {"name": "fine", "value": 1.0}})
        code = f"open(notes, 'w').write({line!r} + chr(10) + '{{cut'); print('so long', file=sys.stderr); sys.exit(7)"
        result = self.result(tmp_path, code)
        assert result.error == "ended with 7: so long" and [c.name for c in result.checks] == ["fine"]
        assert not result.passed

    def test_a_late_one_is_stopped(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schedule, "START_S", 0.3)
        result = self.result(tmp_path, "import time; time.sleep(60)", budget=0.2)
        assert "stopped after" in result.error and result.seconds < 30

    def test_what_a_late_one_said_is_kept_whatever_its_bytes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(schedule, "START_S", 0.3)
        code = "import time; sys.stderr.buffer.write(b'waits for \\xff'); sys.stderr.flush(); time.sleep(60)"
        result = self.result(tmp_path, code, budget=5.0)
        assert "stopped after" in result.error and result.extra["stderr"] == "waits for \ufffd"

    def test_it_is_told_its_section_and_its_seconds(self, tmp_path):
        code = "open(notes, 'w').write(json.dumps({'check': {'name': ' '.join(sys.argv[1:])}}))"
        result = self.result(tmp_path, code, budget=60, left=45)
        assert result.passed and "--section toy" in result.checks[0].name and "--seconds 20" in result.checks[0].name

    def test_without_time_it_is_not_begun(self, tmp_path):
        result = self.result(tmp_path, "open(notes, 'w').write('no')", left=schedule.START_S - 1)
        assert "no time was left" in result.error and not (tmp_path / "toy.jsonl").exists() and not result.passed

    def test_the_program_itself_takes_part(self, tmp_path):
        setup = check.Setup("cpu", True, time.monotonic() + 300)
        chosen, said = [gpu_check.SECTIONS["neighborhood"]], []
        results = schedule.all_apart(chosen, setup, ROOT / "tools/gpu_check.py", tmp_path, said.append)
        assert results == said and results[0].passed and len(results[0].checks) == 12, results[0].error


def test_a_clip_that_would_take_too_long_is_passed_over():
    setup = check.Setup("cpu", True, time.monotonic() + 60)
    clips = importlib.import_module("gpu_checks.clips")
    (found,) = clips._length(None, 600, setup, [10.0])
    assert found.status == check.SKIPPED and "no time left, at 10 frames/s" in found.note


def test_kernels_that_no_time_was_left_for_are_no_pass():
    late = gpu_check.Setup("cpu", True, time.monotonic() - 1)
    found = list(gpu_check.SECTIONS["scan"].run(late))
    assert found and {(check.status, check.note) for check in found} == {("failed", "not checked: no time was left")}
