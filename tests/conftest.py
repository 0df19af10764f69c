"""Fixtures for every test: where the golden numbers are."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden files that travel with the project."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the larger golden files and real data; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (larger golden files and real data), which is not here")
    return SHARED
