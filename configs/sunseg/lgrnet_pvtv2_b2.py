"""LGRNet with PVTv2-B2 on SUN-SEG, the published settings.

    python main.py --config_file configs/sunseg/lgrnet_pvtv2_b2.py --trainer_mode train data.root=/path/to/SUN-SEG

Needs SUN-SEG (DATA.md) and the ImageNet weights weights/pvt_v2_b2.pth (INSTALL.md). Published on 2 GPUs of 24 GB.
Expected Dice / IoU (readme of LGRNet, MICCAI 2024): hard 0.876 / 0.805, easy 0.875 / 0.810, hard_unseen
0.865 / 0.792, easy_unseen 0.853 / 0.783.

The published training has no end: its user stops it. Here it ends after 15 epochs, three beyond the last milestone.
The published run evaluates hard_unseen and easy_unseen; the pooled sets are here because the table reports them. Their
numbers are of the protocol `lgrnet`; reports have those of SUN-SEG's own toolbox, `vps`, beside them.
"""

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset, sunseg
from lgrnet.data.samplers import LocalGlobal
from lgrnet.data.transforms import published_training
from lgrnet.engine.optim import adamw, multi_step
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import LGRNetProtocol, OverTimeProtocol, VPSProtocol
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder

EPOCH = 823  # steps: 3292 clips (every 6th frame of 112 videos) / 4 clips per step


def split(name: str):
    """A split of SUN-SEG; frames in the order of their names as text, as published."""
    return builds(sunseg, root="${data.root}", split=name, order="name")


model = builds(
    LGRNet,
    backbone=builds(TimmBackbone, name="pvt_v2_b2", drop_path=0.1),
    encoder=builds(LGREncoder, dim=64, zen_partial=True),
    decoder=builds(VideoDecoder, dim=64),
)
criterion = builds(SetCriterion, mask_bce=5.0, mask_dice=5.0, class_ce=2.0)
data = dict(
    root="data/SUN-SEG",
    size=[352, 352],
    train=builds(
        ClipDataset,
        records=split("train"),
        sampler=builds(LocalGlobal, num_frames=6),
        transforms=builds(published_training, size="${data.size}"),
        anchor_step=6,
    ),
    eval={name: split(name) for name in ("hard_unseen", "easy_unseen", "hard", "easy")},
    protocols=dict(lgrnet=builds(LGRNetProtocol), vps=builds(VPSProtocol), over_time=builds(OverTimeProtocol, fps=30)),
    attributes=None,  # a table of what is known of the clips, for slices (DATA.md)
    instances=None,  # "frame" or "video": average precision, too; it holds every query's masks of a clip in memory
)
optimizer = builds(adamw, lr=1e-3, backbone_lr_scale=0.1, weight_decay=1e-4, zen_partial=True)
schedule = builds(multi_step, milestones=[EPOCH * k for k in (3, 6, 9, 12)], gamma=0.5, zen_partial=True)
train = builds(
    TrainSettings,
    steps=15 * EPOCH,
    batch_size=4,
    save_every=8 * EPOCH,
    eval_every=8 * EPOCH,
    backbone_weights="weights/pvt_v2_b2.pth",
)
