"""A small LGRNet on the embedded phantom data, for detectron2's lazy training script, on a CPU.

    python -m lgrnet.data.phantom --root data/phantom
    python <detectron2>/tools/lazyconfig_train_net.py --config-file lgrnet/detectron2_bridge/configs/phantom_lazy.py

The model and the training are those of configs/demo/phantom.py.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from lgrnet.data.samplers import Window
from lgrnet.data.transforms import ColorJitter, RandomFlip, RandomRotate90, Resize

from .base_lazy import dataloader, lock, model, optimizer, train

train.update(output_dir="runs/detectron2/phantom_lazy", max_iter=600, device="cpu")
train.checkpointer.period = 300
train.eval_period = 300

model.sizes = []
model.model.backbone.update(name="pvt_v2_b0", drop_path=0.0)
model.model.encoder.update(depth=1, hidden=256, num_frame_queries=10, scan_depth=1, scan_hidden=256, scan_init="mamba")
model.model.decoder.update(num_queries=5, hidden=256)
model.criterion.num_points = 576

dataloader.size = [96, 96]
dataloader.train.update(names=["phantom_train"], anchor_step=1, num_workers=0)
dataloader.train.mapper.update(
    sampler=L(Window)(size=3),
    transforms=[L(Resize)(size="${dataloader.size}"), L(RandomFlip)(), L(RandomRotate90)(), L(ColorJitter)()],
    require_foreground=False,
)
dataloader.test.update(names="phantom_test", num_workers=0)

optimizer.params.backbone_lr_scale = 1.0
optimizer.max_norm = 1.0
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.05,
    warmup_length=20 / 600,
)
lock(train, model, dataloader, optimizer, lr_multiplier)
