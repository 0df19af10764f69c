"""Fixtures for every test: where the golden numbers are; one thread unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is loaded, as `make test` has it: what several processes compute is compared bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-shared",
        action="store_true",
        help="fail, instead of skipping, every test that uses ../shared and does not run",
    )
    parser.addoption("--screenshots", type=Path, help="folder for the pictures that the browser tests take")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden files that travel with the project."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> Path:
    """The folder with the larger golden files and real data; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        reason = "needs ../shared (larger golden files and real data), which is not here"
        if request.config.getoption("--require-shared"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --require-shared a run in which no test uses ../shared is an error."""
    if config.getoption("--require-shared") and not any("shared" in getattr(i, "fixturenames", ()) for i in items):
        raise pytest.UsageError("--require-shared: no collected test uses ../shared")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """With --require-shared a test that uses ../shared and skips has failed."""
    report = yield
    required = item.config.getoption("--require-shared") and "shared" in getattr(item, "fixturenames", ())
    if required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} uses ../shared and was skipped under --require-shared: {call.excinfo}"
    return report
