"""Test files of tests/ops in a process of their own: what they need is chosen before the first import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def assert_passes(files: list[str], environment: Mapping[str, str], *options: str) -> None:
    """The tests of files of tests/ops; options are pytest's."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    command += [f"tests/ops/{file}" for file in files]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]


def assert_passes_in_interpreter(file: str) -> None:
    """Those of a file in Triton's interpreter; skips where Triton or NumPy cannot do it."""
    pytest.importorskip("triton", reason="triton is not installed")
    if triton_before("3.7") and not _before("numpy", "2.4"):
        pytest.skip("the interpreter of Triton before 3.7 needs NumPy before 2.4")
    assert_passes([file], {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, "-x")


def triton_before(release: str) -> bool:
    """Whether the installed Triton is older than a release such as "3.8"."""
    return _before("triton", release)


def _before(package: str, release: str) -> bool:
    return Version(version(package)) < Version(release)
