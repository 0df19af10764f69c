"""The bridge on the real detectron2 where that is installed, else on the stand-in, which takes its name."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import pytest

REAL = importlib.util.find_spec("detectron2") is not None
if not REAL:
    from tests.detectron2_bridge import standin

    # For good, and before the tests are read, so that they import detectron2 and the bridge like everything else.
    standin.install()


@pytest.fixture(scope="session")
def bridge() -> ModuleType:
    """lgrnet.detectron2_bridge."""
    return importlib.import_module("lgrnet.detectron2_bridge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `peer` in this folder need the real detectron2."""
    for item in items:
        if not REAL and "detectron2_bridge" in item.path.parts and item.get_closest_marker("peer"):
            item.add_marker(pytest.mark.skip(reason="needs detectron2, which is not installed (INSTALL.md)"))


@pytest.fixture
def cfg(bridge):
    """A config with our keys, for a CPU, a small LGRNet and clips of any size."""
    from detectron2.config import get_cfg

    made = bridge.add_lgrnet_config(get_cfg())
    small = ["MODEL.DEVICE", "cpu", "MODEL.PVTV2.NAME", "pvt_v2_b0", "MODEL.PVTV2.DROP_PATH", 0.0]
    small += ["MODEL.LGRNET.ENCODER.DEPTH", 1, "MODEL.LGRNET.ENCODER.HIDDEN", 64]
    small += ["MODEL.LGRNET.ENCODER.NUM_FRAME_QUERIES", 4, "MODEL.LGRNET.ENCODER.SCAN_DEPTH", 1]
    small += ["MODEL.LGRNET.ENCODER.SCAN_HIDDEN", 64, "MODEL.LGRNET.DECODER.NUM_QUERIES", 3]
    small += ["MODEL.LGRNET.DECODER.HIDDEN", 64, "MODEL.LGRNET.DECODER.DEPTH", 2]
    small += ["MODEL.CRITERION.NUM_POINTS", 64, "INPUT.CLIP.SIZES", []]
    return bridge.merge_config(made, None, small)
