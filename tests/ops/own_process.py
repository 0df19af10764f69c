"""Test files of tests/ops in a process of their own: what they need is chosen before the first import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def assert_passes(files: list[str], environment: Mapping[str, str], *options: str) -> None:
    """The tests of files of tests/ops; options are pytest's."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    command += [f"tests/ops/{file}" for file in files]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]


def assert_passes_in_interpreter(file: str) -> None:
    """Those of a file in Triton's interpreter; skips where Triton is not installed."""
    pytest.importorskip("triton", reason="triton is not installed")
    assert_passes([file], {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, "-x")
