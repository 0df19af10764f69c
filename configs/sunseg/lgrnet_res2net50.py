"""LGRNet with Res2Net-50 (26w x 4s, v1b) on SUN-SEG, the published settings.

    python main.py --config_file configs/sunseg/lgrnet_res2net50.py --trainer_mode train data.root=/path/to/SUN-SEG

Needs SUN-SEG (DATA.md) and the ImageNet weights named below in weights/ (INSTALL.md).
Expected Dice / IoU (readme of LGRNet, MICCAI 2024): hard 0.841 / 0.765, easy 0.843 / 0.774.

Besides the backbone, 128 instead of 64 channels, Dice weighted 2 instead of 5, and an evaluation in every epoch. Ends
after 15 epochs, where the published training has no end.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.engine.settings import TrainSettings
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder

EPOCH = 823  # steps: 3292 clips / 4 clips per step

pvt = read_config(Path(__file__).with_name("lgrnet_pvtv2_b2.py"))

model = builds(
    LGRNet,
    backbone=builds(TimmBackbone, name="res2net50d", drop_path=0.0),
    encoder=builds(LGREncoder, dim=128, zen_partial=True),
    decoder=builds(VideoDecoder, dim=128),
)
criterion = builds(SetCriterion, mask_bce=5.0, mask_dice=2.0, class_ce=2.0)
data = pvt["data"] | dict(eval={name: pvt["data"]["eval"][name] for name in ("hard", "easy")})
optimizer = pvt["optimizer"]
schedule = pvt["schedule"]
train = builds(
    TrainSettings,
    steps=15 * EPOCH,
    batch_size=4,
    save_every=EPOCH,
    eval_every=EPOCH,
    backbone_weights="weights/res2net50_v1b_26w_4s-3cf99910.pth",
)
