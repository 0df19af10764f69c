"""LGRNet with PVTv2-B2 on UFUV (uterine fibroids in ultrasound video), the published settings.

    python main.py --config_file configs/ufuv/lgrnet_pvtv2_b2.py --trainer_mode train data.root=/path/to/Dataset/temp8

Needs UFUV (DATA.md) and the ImageNet weights weights/pvt_v2_b2.pth (INSTALL.md). For the weak labels, train on boxes:
data.train.records.masks=Box
Expected result: none is known to us; the published configuration cannot be started as it was shipped.

Fibroids are large: the propagation window is dilated by 2, and frame queries gather only where they resemble the
finest level. Ends after 15 epochs, where the published training has no end.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.data.datasets import ClipDataset, ufuv
from lgrnet.data.samplers import LocalGlobal
from lgrnet.data.transforms import published_training
from lgrnet.engine.optim import multi_step
from lgrnet.engine.settings import TrainSettings
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder

EPOCH = 186  # steps of the published schedule, at 4 clips per step

sunseg = read_config(Path(__file__).parents[1] / "sunseg" / "lgrnet_pvtv2_b2.py")

model = builds(
    LGRNet,
    backbone=builds(TimmBackbone, name="pvt_v2_b2", drop_path=0.1),
    encoder=builds(LGREncoder, dim=64, dilation=2, gather_mask=True, zen_partial=True),
    decoder=builds(VideoDecoder, dim=64),
)
criterion = builds(SetCriterion, mask_bce=5.0, mask_dice=2.0, class_ce=2.0)
data = dict(
    root="data/UFUV",
    size=[352, 352],
    train=builds(
        ClipDataset,
        records=builds(ufuv, root="${data.root}", split="train", order="name"),
        sampler=builds(LocalGlobal, num_frames=6),
        transforms=builds(published_training, size="${data.size}"),
        anchor_step=6,
    ),
    eval=dict(test=builds(ufuv, root="${data.root}", split="test", order="name")),
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
