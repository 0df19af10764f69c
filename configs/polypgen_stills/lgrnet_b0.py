"""LGRNet at T = 1 on MiT-B0, otherwise ssformer_b0.py, in the same time: a video model on still images.

    python main.py --config_file configs/polypgen_stills/lgrnet_b0.py --trainer_mode train data.root=/data/polypgen

The small LGRNet of configs/vocalfolds/lgrnet_pvtv2_b0.py with the backbone of the still models. Its loss has the same
two terms, by queries, and that of their classes. RESULTS.md has what was measured.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import MixTransformer
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder

base = read_config(Path(__file__).with_name("ssformer_b0.py"))

model = builds(
    LGRNet,
    backbone=builds(MixTransformer, name="mit_b0", drop_path=0.0),
    encoder=builds(LGREncoder, dim=64, depth=1, scan_init="mamba", zen_partial=True),
    decoder=builds(VideoDecoder, dim=64),
)
criterion = builds(SetCriterion, mask_bce=5.0, mask_dice=5.0, class_ce=2.0, num_points=1024)
data, optimizer, schedule = base["data"], base["optimizer"], base["schedule"]
train = builds(base["train"], steps=2000, save_every=2000, eval_every=500)
