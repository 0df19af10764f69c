"""SvANet with its frozen start, schedule, optimizer and loss, on a small ResNet and small frames, for a test.

python main.py --config_file tests/engine/svanet_config.py --trainer_mode train data.root=FOLDER
"""

from pathlib import Path

from lgrnet.config import builds, read_config
from lgrnet.engine.optim import adamw, restarted_cosine
from lgrnet.engine.settings import TrainSettings
from lgrnet.losses.softmax_criterion import SoftmaxCriterion
from lgrnet.models.resnet import ResNetBackbone
from lgrnet.models.segmenter import PerFrame
from lgrnet.models.svanet import SvANet

base = read_config(Path(__file__).resolve().parents[2] / "configs" / "demo" / "phantom.py")

net = builds(SvANet, backbone=builds(ResNetBackbone, name="resnet18"), image_size=64, first_stage=2, link="none")
model = builds(PerFrame, net=net, decision="softmax", pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
criterion = builds(SoftmaxCriterion)
data = {**base["data"], "size": [64, 64]}
whole = dict(backbone_lr_scale=1.0, weight_decay=0.03, decay_norms=True)
optimizer = builds(adamw, lr=5e-4, **whole, zen_partial=True)
schedule = builds(restarted_cosine, epochs=5, steps_per_epoch=1, warmup_epochs=2, zen_partial=True)
options = dict(sizes=(), clip_norm=0.0, freeze_steps=2, workers=0, eval_last=False)
train = builds(TrainSettings, steps=3, batch_size=2, save_every=100, **options)
