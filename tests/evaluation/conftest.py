"""What several tests of the evaluation are measured by."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def pairs(golden):
    """pred/<name> and gt/<name>, uint8 [H, W], of the 68 golden pairs."""
    with np.load(golden / "metrics" / "pairs.npz") as stored:
        return dict(stored)
