"""What LGRNet has to beat on vocalfolds: the same backbone with the plainest head, frame by frame, in the same time.

    torchrun --nproc_per_node 2 main.py --config_file configs/vocalfolds/plain_head_pvtv2_b0.py --trainer_mode train

Data, augmentation, backbone, optimizer, frames per step and evaluation are those of lgrnet_pvtv2_b0.py. It takes more
steps in about the same time; RESULTS.md has what was measured.
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import Single
from lgrnet.engine.settings import TrainSettings
from lgrnet.losses.dense_criterion import DenseCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.plain_head import PlainHead
from lgrnet.models.segmenter import PerFrame

base = read_config(Path(__file__).with_name("lgrnet_pvtv2_b0.py"))

model = builds(PerFrame, net=builds(PlainHead, backbone=builds(TimmBackbone, name="pvt_v2_b0", drop_path=0.0)))
criterion = builds(DenseCriterion)
clips = base["data"]["train"]
# Some single frames show no vocal folds; their clips of three do.
changes = dict(sampler=builds(Single), require_foreground=False)
frames = builds(ClipDataset, builds_bases=(clips,), populate_full_signature=False, **changes)
data = {**base["data"], "train": frames}
optimizer, schedule = base["optimizer"], base["schedule"]
train = builds(
    TrainSettings, steps=1800, batch_size=12, save_every=300, eval_every=300, sizes=(), clip_norm=1.0, workers=0
)
