"""--require-shared turns every way of not running a test that uses ../shared into a failure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
USES = "def test_uses(shared):\n    assert (shared / 'here').exists()\n"
SKIPS = "import pytest\ndef test_skips(shared):\n    pytest.skip('not today')\n"
PLAIN = "def test_plain():\n    pass\n"


def outcome(folder: Path, code: str, with_shared: bool, *options: str) -> subprocess.CompletedProcess:
    """Runs pytest on one test file in a project of its own."""
    tests = folder / "project" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(CONFTEST, tests)
    (tests / "test_it.py").write_text(code)
    if with_shared:
        (folder / "shared").mkdir()
        (folder / "shared" / "here").touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), *options, "."]
    return subprocess.run(command, cwd=tests, capture_output=True, text=True)


@pytest.mark.parametrize(
    "code, with_shared, options, returncode, says",
    [
        (USES, True, ("--require-shared",), 0, "1 passed"),
        (USES, False, (), 0, "1 skipped"),
        (USES, False, ("--require-shared",), 1, "needs ../shared"),
        (SKIPS, True, (), 0, "1 skipped"),
        (SKIPS, True, ("--require-shared",), 1, "was skipped under --require-shared"),
        (PLAIN, True, ("--require-shared",), 4, "no collected test uses ../shared"),
    ],
)
def test_require_shared(tmp_path, code, with_shared, options, returncode, says):
    done = outcome(tmp_path, code, with_shared, *options)
    assert done.returncode == returncode, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
