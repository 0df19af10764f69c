"""LGRNet with PVTv2-B2 on MICCAI-VPS (Kvasir stills, Mayo, CVC-300, CVC-612), the published settings.

    python main.py --config_file configs/cvc/lgrnet_pvtv2_b2.py --trainer_mode train data.root=/path/to/MICCAI-VPS

Needs MICCAI-VPS (DATA.md) and the ImageNet weights weights/pvt_v2_b2.pth (INSTALL.md).
Expected Dice / IoU (readme of LGRNet, MICCAI 2024): cvc612_val 0.933 / 0.877, cvc300_tv 0.916 / 0.852, cvc612_test
0.875 / 0.814. These are of the protocol `lgrnet`; reports have those of MICCAI-VPS's own program, `miccai-vps`, beside
them, each of the three sets averaged by itself as there.

Kvasir has stills only; each becomes a clip of six distorted versions. Ends after 15 epochs, where the published
training has no end.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.data.datasets import ClipDataset, MixedDataset, miccai_vps
from lgrnet.data.samplers import LocalGlobal, Single
from lgrnet.data.still_to_clip import StillToClip
from lgrnet.data.transforms import published_training
from lgrnet.engine.optim import multi_step
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import LGRNetProtocol, VPSProtocol
from lgrnet.losses.set_criterion import SetCriterion

EPOCH = 1260  # steps of the published schedule, at 4 clips per step

sunseg = read_config(Path(__file__).parents[1] / "sunseg" / "lgrnet_pvtv2_b2.py")


def split(name: str):
    """A split of MICCAI-VPS; frames in the order of their names as text, as published."""
    return builds(miccai_vps, root="${data.root}", split=name, order="name")


def clips(name: str):
    """Training clips from the videos of a split: every 6th frame is an anchor."""
    return builds(
        ClipDataset,
        records=split(name),
        sampler=builds(LocalGlobal, num_frames=6),
        transforms=builds(published_training, size="${data.size}"),
        anchor_step=6,
    )


stills = builds(
    ClipDataset,
    records=split("kvasir_train"),
    sampler=builds(Single),
    transforms=[builds(StillToClip, num_frames=6), builds(published_training, size="${data.size}")],
)

model = sunseg["model"]
criterion = builds(SetCriterion, mask_bce=5.0, mask_dice=2.0, class_ce=2.0)
data = dict(
    root="data/MICCAI-VPS",
    size=[352, 352],
    train=builds(MixedDataset, [stills, clips("mayo_train"), clips("cvc300_train"), clips("cvc612_train")]),
    eval={name: split(name) for name in ("cvc300_tv", "cvc612_test", "cvc612_val")},
    protocols=dict(lgrnet=builds(LGRNetProtocol), miccai_vps=builds(VPSProtocol, resize="imresize")),
)
optimizer = sunseg["optimizer"]
schedule = builds(multi_step, milestones=[EPOCH * k for k in (3, 6, 9, 12)], gamma=0.5, zen_partial=True)
train = builds(
    TrainSettings,
    steps=15 * EPOCH,
    batch_size=4,
    save_every=EPOCH,
    eval_every=EPOCH,
    backbone_weights="weights/pvt_v2_b2.pth",
)
