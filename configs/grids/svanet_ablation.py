"""SvANet's ablation on SpermHealth: what each of its parts gives; three repeats, averaged as published.

    python tools/run_grid.py configs/grids/svanet_ablation.py --out runs/grids/svanet_ablation data.root=/data \\
        train.eval_every=E train.steps=100E train.freeze_steps=10E

E is the steps of an epoch, a quarter of the training images: how many SpermHealth has is not published, and without
these three changes an epoch is 250 steps. data.name=PolypGen (or another of its seven sets) takes other images; then
set model.net.num_classes, too. Where the folder of the data set holds split1, split2, ... in place of train and test,
every cell is trained on each (cross-validation). Needs weights/resnet50-11ad3fa6.pth (INSTALL.md).

The numbers are SvANet's, means over classes with background, at the epoch that is best by mIoU on the test split
itself, as published. The last one is the Dice without background. Of the published ablation no number is known to us;
Table III has the whole model.
"""

from pathlib import Path

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import svanet_folds, svanet_set
from lgrnet.data.still_training import svanet_training
from lgrnet.engine.grid import Cell, Metric, Published, Size
from lgrnet.engine.optim import adamw, restarted_cosine
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import SvANetSizeProtocol
from lgrnet.losses.softmax_criterion import SoftmaxCriterion
from lgrnet.models.deeplabv3 import DeepLabV3
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.svanet import SvANet

EPOCH, EPOCHS = 250, 100
CLASSES = 3  # of SpermHealth, with background
NO_FORMERS = [None, None, None, None]


def still(net):
    """A network on frames in 0..1 as they are, softmax over background and classes."""
    return builds(PerFrame, net=net, decision="softmax", pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))


def model(backbone: str = "resnet50", **settings):
    """The published model with other settings."""
    encoder = builds(ResNetBackbone, name=backbone)
    return still(builds(SvANet, backbone=encoder, num_classes=CLASSES, image_size="${data.size[0]}", **settings))


def split(name: str):
    """Images of one of SvANet's sets."""
    return builds(svanet_set, root="${data.root}", name="${data.name}", split=name, fold="${data.fold}")


base = dict(
    model=model(),
    criterion=builds(SoftmaxCriterion),
    data=dict(
        root="data",
        name="SpermHealth",
        fold=None,
        size=[512, 512],
        resize="bicubic",
        protocols=dict(size=builds(SvANetSizeProtocol)),
        train=builds(
            ClipDataset,
            records=split("train"),
            sampler=builds(Single),
            transforms=builds(svanet_training, size="${data.size[0]}"),
            require_foreground=False,
        ),
        eval=dict(test=split("test")),
    ),
    optimizer=builds(adamw, lr=5e-4, backbone_lr_scale=1.0, weight_decay=0.03, decay_norms=True, zen_partial=True),
    schedule=builds(restarted_cosine, epochs=EPOCHS, steps_per_epoch="${train.eval_every}", zen_partial=True),
    train=builds(
        TrainSettings,
        steps=EPOCHS * EPOCH,
        batch_size=4,
        save_every="${train.eval_every}",
        eval_every=EPOCH,
        freeze_steps=10 * EPOCH,
        keep=1,
        metric="published_iou",
        sizes=(),
        clip_norm=0.0,
        backbone_weights="weights/resnet50-11ad3fa6.pth",
    ),
)


def folds(config) -> dict[str, list[str]]:
    """The folders split1, split2, ... of the data set, where it has them."""
    return {f"split{fold}": [f"data.fold={fold}"] for fold in svanet_folds(Path(config.data.root), config.data.name)}


axes = ["model"]
whole = "SvANet"
cells = {
    whole: Cell(base),
    "DeepLabV3": Cell(base, model=still(builds(DeepLabV3, backbone=builds(ResNetBackbone), num_classes=CLASSES))),
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
