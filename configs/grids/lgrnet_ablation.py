"""LGRNet's ablation on SUN-SEG: local propagation, global exchange, scan order, frame queries; three repeats.

    python tools/run_grid.py configs/grids/lgrnet_ablation.py --out runs/grids/lgrnet_ablation data.root=/data/SUN-SEG

Every cell is configs/sunseg/lgrnet_pvtv2_b2.py with one thing changed, and needs what that needs. To try it on the
phantom clips instead: configs/grids/phantom.py. The published ablation is not known to us; what is published of the
whole model (readme of LGRNet, MICCAI 2024, one run) stands beside it.
"""

from pathlib import Path

from lgrnet.config import read_config
from lgrnet.engine.grid import Cell, Metric, Published, Size

base = read_config(Path(__file__).parents[1] / "sunseg" / "lgrnet_pvtv2_b2.py")
README = "readme of LGRNet (MICCAI 2024), commit e97ab739"


def changed(**settings):
    """The published config with other arguments of the encoder."""
    return Cell(base, *(f"model.encoder.{name}={value}" for name, value in settings.items()))


axes = ["local propagation", "global exchange", "frame queries of a frame"]
whole = ("cyclic, window 5", "Hilbert scan", "20")
cells = {
    whole: Cell(base),
    # What the two halves give
    ("none", "none", "none"): changed(local="false", num_frame_queries=0),
    ("cyclic, window 5", "none", "none"): changed(num_frame_queries=0),
    ("none", "Hilbert scan", "20"): changed(local="false"),
    # Frame queries that gather and give back within their own frame only
    ("cyclic, window 5", "none", "20"): changed(global_mixing="false"),
    # Scan order
    ("cyclic, window 5", "row by row scan", "20"): changed(scan_order="zigzag"),
    # Number of frame queries
    ("cyclic, window 5", "Hilbert scan", "5"): changed(num_frame_queries=5),
    ("cyclic, window 5", "Hilbert scan", "10"): changed(num_frame_queries=10),
    ("cyclic, window 5", "Hilbert scan", "40"): changed(num_frame_queries=40),
    # The propagation itself
    ("cyclic, window 3", "Hilbert scan", "20"): changed(window=3),
    ("cyclic, window 7", "Hilbert scan", "20"): changed(window=7),
    ("first frame on its own, window 5", "Hilbert scan", "20"): changed(cyclic="false"),
}
metrics = [
    Metric("Dice hard", "dice", protocol="lgrnet", set="hard", digits=3),
    Metric("IoU hard", "iou", protocol="lgrnet", set="hard", digits=3),
    Metric("Dice easy", "dice", protocol="lgrnet", set="easy", digits=3),
    Metric("IoU easy", "iou", protocol="lgrnet", set="easy", digits=3),
    Size("parameters"),
]
PUBLISHED = {"Dice hard": 0.876, "IoU hard": 0.805, "Dice easy": 0.875, "IoU easy": 0.810}
published = [Published(label, {whole: value}, README, protocol="lgrnet") for label, value in PUBLISHED.items()]
repeats = 3
