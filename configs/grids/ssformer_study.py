"""The reproduction study of SSFormer: MiT-B0 to B5, three heads, CVC-ClinicDB and Kvasir-SEG; mIoU, mDice and sizes.

    python tools/run_grid.py configs/grids/ssformer_study.py --out runs/grids/ssformer_study data.root=/data

Needs /data/Kvasir-SEG and /data/CVC-ClinicDB (DATA.md) and the ImageNet weights weights/mit_b0.pth to mit_b5.pth
(INSTALL.md). Without a GPU add train.precision=fp32. The study trained in fp16, for 200 epochs, with its settings and
its slips: padding and corners are polyp, crops run one pixel over, outlines change along the height only.

Its mDice is a mean over background and polyp, so it stands about half for background; the last column is the Dice of
the polyps alone. Numbers are those of the best of 200 evaluations on the very split that is reported, as in the study,
whose numbers are single runs at the resized resolution. Its "PLD" is not SSFormer's decoder; that is the third head,
which the study has no numbers of.
"""

from itertools import product

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.data.still_datasets import cvc_clinicdb, kvasir_seg
from lgrnet.data.still_training import study_training
from lgrnet.engine.grid import Cell, Metric, Published, Size
from lgrnet.engine.optim import adamw, plrd
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import StudyProtocol
from lgrnet.losses.softmax_criterion import study_criterion
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.ssformer import SSFormer
from lgrnet.models.still_decoders import ParallelFusionHead, ProgressiveLocalityDecoder, SegFormerDecoder

EPOCHS = 200
BACKBONES = [f"MiT-B{number}" for number in range(6)]
SETS = {
    # records, folder, steps of an epoch: training images / 16 per step, the rest dropped
    "CVC-ClinicDB": (cvc_clinicdb, "CVC-ClinicDB", 489 // 16),
    "Kvasir-SEG": (kvasir_seg, "Kvasir-SEG", 800 // 16),
}
HEADS = {
    "study's PLD": lambda dim: builds(ParallelFusionHead, dim=dim, outputs=2, zen_partial=True),
    "SeD": lambda dim: builds(SegFormerDecoder, dim=dim, outputs=2, channel_dropout=True, zen_partial=True),
    "SSFormer's PLD": lambda dim: builds(ProgressiveLocalityDecoder, outputs=2, zen_partial=True),
}


def model(backbone: str, head: str):
    """A model of the study, softmax over background and polyp."""
    width = 256 if backbone in ("MiT-B0", "MiT-B1") else 768
    name = backbone.lower().replace("-", "_")
    net = builds(
        SSFormer,
        backbone=builds(MixTransformer, name=name, drop_path=0.1, norm_eps=1e-5),
        decoder=HEADS[head](width),
        enlarge="input",
        reinitialise=True,
    )
    return builds(PerFrame, net=net, decision="softmax")


def data(name: str) -> dict:
    """The study's split of a data set, and its augmentation; evaluated on the validation split."""
    records, folder, _ = SETS[name]
    parts = {
        split: builds(records, root=f"${{data.root}}/{folder}", split=split, label_map="full")
        for split in ("train", "val")
    }
    slips = dict(outside="foreground", overrun=True, height_only=True)
    return dict(
        root="data",
        size=[352, 352],
        resize="short_side",
        protocols=dict(study=builds(StudyProtocol)),
        train=builds(
            ClipDataset,
            records=parts["train"],
            sampler=builds(Single),
            transforms=builds(study_training, size="${data.size}", **slips),
            require_foreground=False,
        ),
        eval=dict(val=parts["val"]),
    )


def cell(name: str, head: str, backbone: str) -> Cell:
    """One training of the study."""
    epoch = SETS[name][2]
    decay = dict(weight_decay=0.1, decay_biases=False, decay_norms=True)
    train = builds(
        TrainSettings,
        steps=EPOCHS * epoch,
        batch_size=16,
        save_every=epoch,
        eval_every=epoch,
        keep=1,
        metric="mean_iou",
        seed=42,
        sizes=(),
        clip_norm=0.0,
        precision="fp16",
        pictures=2,
        backbone_weights=f"weights/{backbone.lower().replace('-', '_')}.pth",
    )
    sections = dict(
        model=model(backbone, head),
        criterion=builds(study_criterion),
        data=data(name),
        optimizer=builds(adamw, lr=1.49e-4, backbone_lr_scale=1.0, **decay, zen_partial=True),
        schedule=builds(plrd, steps_per_epoch=epoch, zen_partial=True),
        train=train,
    )
    return Cell(sections)


axes = ["data set", "head", "backbone"]
places = list(product(SETS, HEADS, BACKBONES))
cells = {place: cell(*place) for place in places}
metrics = [
    Metric("mIoU, %", "mean_iou", protocol="study", set="val", scale=100, digits=2),
    Metric("mDice, %", "mean_dice", protocol="study", set="val", scale=100, digits=2),
    Metric("Dice of polyps, %", "foreground_dice", protocol="study", set="val", scale=100, digits=2),
    Size("parameters"),
    Size("MB", of="file_bytes", scale=1e-6, digits=3),
]
checkpoint = "best"
means = ["backbone"]

# mIoU and mDice of B0 to B5 and their mean, as the study prints them
TABLE = {
    ("CVC-ClinicDB", "study's PLD"): """
        90.59 95.06  91.41 95.51  92.11 95.89  91.98 95.82  91.82 95.74  91.91 95.79  91.64 95.64""",
    ("CVC-ClinicDB", "SeD"): """
        90.01 94.74  90.71 95.13  91.61 95.62  92.11 95.90  92.03 95.85  92.35 96.02  91.47 95.54""",
    ("Kvasir-SEG", "study's PLD"): """
        84.02 91.31  84.37 91.52  85.68 92.29  86.41 92.71  85.34 92.09  86.62 92.83  85.41 92.13""",
    ("Kvasir-SEG", "SeD"): """
        84.77 91.76  84.91 91.84  85.38 92.12  86.30 92.65  86.04 92.50  86.59 92.81  85.67 92.28""",
}
FILE_MB = {
    "study's PLD": (15.462749, 55.315293, 114.261413, 193.848261, 261.020605, 343.498715),
    "SeD": (14.926081, 54.778625, 109.518217, 189.104937, 256.277345, 338.755437),
}
numbers = {
    (*key, backbone): tuple(map(float, line.split()[2 * i : 2 * i + 2]))
    for key, line in TABLE.items()
    for i, backbone in enumerate([*BACKBONES, "mean"])
}
sizes = {
    (name, head, backbone): size
    for name in SETS
    for head, line in FILE_MB.items()
    for backbone, size in zip(BACKBONES, line, strict=True)
}
SCORES, FILES = "the study's table of results, single runs", "the study's table of model sizes: files of torch.save"
published = [
    Published("mIoU, %", {key: pair[0] for key, pair in numbers.items()}, SCORES, protocol="study"),
    Published("mDice, %", {key: pair[1] for key, pair in numbers.items()}, SCORES, protocol="study"),
    Published("MB", sizes, FILES),
]
