"""What the lazy configs of LGRNet have in common: its published settings, in the names that detectron2's script wants.

A config takes these, changes what is its own, and is run by detectron2's tools/lazyconfig_train_net.py.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig, OmegaConf

from lgrnet.detectron2_bridge.evaluator import ClipEvaluator
from lgrnet.detectron2_bridge.loaders import build_test_loader, build_train_loader
from lgrnet.detectron2_bridge.mapper import ClipMapper
from lgrnet.detectron2_bridge.meta_arch import ClipMetaArch, encoder_of
from lgrnet.detectron2_bridge.solver import adamw
from lgrnet.engine.optim import parameter_groups
from lgrnet.losses.set_criterion import SetCriterion
from lgrnet.models.backbones import TimmBackbone
from lgrnet.models.lgrnet import LGRNet
from lgrnet.models.video_decoder import VideoDecoder


def lock(*nodes: DictConfig) -> None:
    """Makes a key that a finished config does not have an error on the command line, instead of a new key."""
    for node in nodes:
        OmegaConf.set_struct(node, True)


train = dict(
    output_dir="runs/detectron2/lgrnet",
    init_checkpoint="",
    max_iter=15 * 823,
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=8 * 823, max_to_keep=3),
    eval_period=8 * 823,
    log_period=20,
    device="cuda",
    seed=2024,
)
model = L(ClipMetaArch)(
    model=L(LGRNet)(
        backbone=L(TimmBackbone)(name="pvt_v2_b2", drop_path=0.1),
        encoder=L(encoder_of)(dim=64),
        decoder=L(VideoDecoder)(dim=64),
    ),
    criterion=L(SetCriterion)(mask_bce=5.0, mask_dice=5.0, class_ce=2.0),
    seed="${train.seed}",
    sizes=[256, 288, 320, 352, 384, 416, 448],
)
dataloader = dict(
    root="data",  # holds SUN-SEG, MICCAI-VPS, UFUV and phantom
    size=[352, 352],
    train=L(build_train_loader)(
        names=["sunseg_train"],
        mapper=L(ClipMapper)(is_train=True, size="${dataloader.size}", seed="${train.seed}"),
        batch_size=4,
        anchor_step=6,
        num_workers=2,
        root="${dataloader.root}",
    ),
    test=L(build_test_loader)(
        names="sunseg_hard",
        mapper=L(ClipMapper)(is_train=False, size="${dataloader.size}"),
        num_workers=2,
        root="${dataloader.root}",
    ),
    evaluator=L(ClipEvaluator)(dataset_name="${dataloader.test.names}", output_dir="${train.output_dir}/inference"),
)
optimizer = L(adamw)(
    params=L(parameter_groups)(model=None, lr="${optimizer.lr}", backbone_lr_scale=0.1, weight_decay=1e-4),
    lr=1e-3,
    max_norm=0.01,
)
lr_multiplier = L(MultiStepParamScheduler)(
    values=[1.0, 0.5, 0.25, 0.125, 0.0625],
    milestones=[823 * epoch for epoch in (3, 6, 9, 12)],
    num_updates="${train.max_iter}",
)
