"""A grid of the toy parts: a config that trains and one that cannot be built, twice each.

python tools/run_grid.py tests/engine/toy_grid.py --out FOLDER data.root=FOLDER
"""

from pathlib import Path

from lgrnet.engine.grid import Cell, Metric, Published, Size

base = Path(__file__).with_name("toy_config.py")

axes = ["model"]
cells = {
    "plain": Cell(base),
    "all dropped": Cell(base, "model.dropout=2"),
}
metrics = [Metric("Dice, %", "dice", protocol="lgrnet", set="toy", scale=100, digits=2), Size("parameters")]
published = [Published("Dice, %", {"plain": 61.5}, "a paper, table 1", protocol="another")]
repeats = 2
