"""SvANet's ablation on SpermHealth: what each of its parts gives; three repeats, averaged as published.

    python tools/run_grid.py configs/grids/svanet_ablation.py --out runs/grids/svanet_ablation data.root=/data/svanet \\
        train.eval_every=E train.steps=100E train.freeze_steps=10E

Settings are those of configs/svanet/spermhealth.py, which says what it needs. E is the steps of an epoch, a quarter of
the training images: how many SpermHealth has is not published; without these three changes it is 250 steps. For another
of SvANet's sets data.name=PolypGen model.net.num_classes=2. Where the folder of the data set holds split1, split2, ...
in place of train and test, every cell is trained on each (cross-validation).

The numbers are SvANet's, means over classes with background, at the epoch that is best by mIoU on the test split
itself, as published. The last one is the Dice without background. Of the published ablation no number is known to us;
Table III has the whole model.
"""

from functools import partial
from pathlib import Path

from lgrnet.config import read_config, run_file
from lgrnet.data.still_datasets import svanet_folds
from lgrnet.engine.grid import Cell, Metric, Published, Size

configs = Path(__file__).parents[1] / "svanet"
base, svanet = read_config(configs / "spermhealth.py"), run_file(configs / "svanet_r50.py")
model = partial(svanet["svanet"], "SpermHealth")
NO_FORMERS = [None, None, None, None]


def folds(config) -> dict[str, list[str]]:
    """The folders split1, split2, ... of the data set, where it has them."""
    return {f"split{fold}": [f"data.fold={fold}"] for fold in svanet_folds(Path(config.data.root), config.data.name)}


axes = ["model"]
whole = "SvANet"
cells = {
    whole: Cell(base),
    "DeepLabV3": Cell(base, model=svanet["deeplabv3"]("SpermHealth")),
    "no bottlenecks": Cell(base, model=model(bottleneck=False)),
    "no Monte Carlo attention": Cell(base, model=model(bottleneck_attention="none")),
    "no AssembleFormer in branches": Cell(base, model=model(branch_depths=NO_FORMERS, link_depth=0)),
    "no AssembleFormer in the decoder": Cell(base, model=model(link_depth=None)),
    "no AssembleFormer": Cell(base, model=model(branch_depths=NO_FORMERS, link_depth=None)),
    "no guidance": Cell(base, model=model(guidance=False, branch_depths=NO_FORMERS, link_depth=0)),
    "guidance without scale-variant attention": Cell(base, model=model(gate="none")),
    "no link decoder": Cell(base, model=model(link="none")),
}
SCORES = {"mDice, %": "dice", "mIoU, %": "iou", "sensitivity, %": "sensitivity", "F2, %": "f2"}
metrics = [
    Metric(label, f"published_{name}", protocol="svanet-size", set="test", scale=100, digits=2)
    for label, name in SCORES.items()
]
metrics += [
    Metric("Dice of objects, %", "dice", protocol="svanet-size", set="test", scale=100, digits=2),
    Size("parameters"),
]
TABLE_III = {"mDice, %": 72.58, "mIoU, %": 61.44, "sensitivity, %": 72.50, "F2, %": 72.51}
SOURCE = "Table III of SvANet, SpermHealth, read off a figure of its readme"
published = [Published(label, {whole: value}, SOURCE, protocol="svanet-size") for label, value in TABLE_III.items()]
repeats = 3
checkpoint = "best"
