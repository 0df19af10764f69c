"""A small LGRNet on the embedded phantom data: a whole run, from nothing to pictures, in minutes on two cores.

    make demo

or, step by step,

    python -m lgrnet.data.phantom --root data/phantom
    python main.py --config_file configs/demo/phantom.py --trainer_mode train

Needs no download. One encoder layer, few queries and narrow feed-forward blocks, so that it learns in minutes.
Expected Dice on unseen phantom clips: 0.85 at least; RESULTS.md has what was measured.
"""

from lgrnet.config import builds
from lgrnet.data.datasets import ClipDataset, video_folder
from lgrnet.data.samplers import Window
from lgrnet.data.transforms import ColorJitter, RandomFlip, RandomRotate90, Resize
from lgrnet.engine.optim import adamw, cosine
from lgrnet.engine.settings import TrainSettings
from lgrnet.evaluation import LGRNetProtocol, OverTimeProtocol, VPSProtocol
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgr_encoder import LGREncoder
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder

model = builds(
    LGRNet,
    backbone=builds(TimmBackbone, name="pvt_v2_b0", drop_path=0.0),
    encoder=builds(
        LGREncoder,
        dim=64,
        depth=1,
        hidden=256,
        num_frame_queries=10,
        scan_depth=1,
        scan_hidden=256,
        scan_init="mamba",
        zen_partial=True,
    ),
    decoder=builds(VideoDecoder, dim=64, num_queries=5, hidden=256),
)
criterion = builds(SetCriterion, mask_bce=5.0, mask_dice=5.0, class_ce=2.0, num_points=576)
data = dict(
    root="data/phantom",
    size=[96, 96],
    train=builds(
        ClipDataset,
        records=builds(video_folder, root="${data.root}/train"),
        sampler=builds(Window, size=3),
        transforms=[
            builds(Resize, size="${data.size}"),
            builds(RandomFlip),
            builds(RandomRotate90),
            builds(ColorJitter),
        ],
        require_foreground=False,
    ),
    eval=dict(test=builds(video_folder, root="${data.root}/test")),
    protocols=dict(lgrnet=builds(LGRNetProtocol), vps=builds(VPSProtocol), over_time=builds(OverTimeProtocol)),
    attributes=None,
    instances="video",
)
optimizer = builds(adamw, lr=1e-3, backbone_lr_scale=1.0, weight_decay=1e-4, zen_partial=True)
schedule = builds(cosine, total_steps="${train.steps}", warmup_steps=20, zen_partial=True)
train = builds(
    TrainSettings, steps=600, batch_size=4, save_every=300, eval_first=True, sizes=(), clip_norm=1.0, log_every=50
)
