"""LGRNet's ablation on the embedded phantom clips, to try the grid tool: half an hour on two cores, or minutes.

    python -m lgrnet.data.phantom --root data/phantom
    python tools/run_grid.py configs/grids/phantom.py --out runs/grids/phantom
    python tools/run_grid.py configs/grids/phantom.py --out runs/grids/phantom_short train.steps=60

The small model of configs/demo/phantom.py without its local propagation, without its global exchange, and whole; two
repeats. The clips are few and made of few kinds: what helps here need not help elsewhere.
"""

from pathlib import Path

from lgrnet.config import read_config
from lgrnet.engine.grid import Cell, Metric, Size

base = read_config(Path(__file__).parents[1] / "demo" / "phantom.py")

axes = ["model"]
cells = {
    "LGRNet, small": Cell(base),
    "no local propagation": Cell(base, "model.encoder.local=false"),
    "no global exchange": Cell(base, "model.encoder.global_mixing=false"),
}
metrics = [
    Metric("Dice", "dice", protocol="lgrnet", set="test"),
    Metric("IoU", "iou", protocol="lgrnet", set="test"),
    Size("parameters"),
    Size("state dict, MB", of="state_bytes", scale=1e-6, digits=2),
]
repeats = 2
