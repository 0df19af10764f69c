"""SvANet's further ablation on SpermHealth: the choices inside its parts; three repeats, averaged as published.

    python tools/run_grid.py configs/grids/svanet_ablation_extra.py --out runs/grids/svanet_ablation_extra \\
        data.root=/data/svanet train.eval_every=E train.steps=100E train.freeze_steps=10E

Data, training, numbers, folds and the epoch E are those of svanet_ablation.py, which says what they mean. Choices
that the release names but cannot build (a third and a fourth attention of the bottleneck, "nostage5", separable
convolutions, an auxiliary head) are not here. Two that it builds are left out: fg1_standard (seg_feature_guide 1,
228,537,694 parameters), of whose structure only its size is known to us; and seghead_vit (fg_seghead_vit,
207,167,350 parameters): by their number an AssembleFormer of 4 blocks with channel attention behind the pyramid, whose
names in the release are not known, so that nothing could show that ours is the same. Three options keep the value of
all its published runs: fg_svattn_divisor 4, fg_resize_stage 0 (the finest map), fg_cat_shuffle off.

Needs weights/resnet18-f37072fd.pth and weights/resnext50_32x4d-1a0047aa.pth, too (torchvision).
"""

from pathlib import Path

from lgrnet.config import run_file
from lgrnet.engine.grid import Cell

first = run_file(Path(__file__).with_name("svanet_ablation.py"))
base, model, whole = first["base"], first["model"], first["whole"]


def backbone(name: str, weights: str):
    """Another encoder with its ImageNet weights."""
    return Cell(base, f"train.backbone_weights=weights/{weights}", model=model(backbone=name))


axes = ["model"]
cells = {
    whole: Cell(base),
    "squeeze attention in bottlenecks": Cell(base, model=model(bottleneck_attention="squeeze")),
    "Monte Carlo attention without order": Cell(base, model=model(shuffle=False)),
    "Monte Carlo pools 1": Cell(base, model=model(pool_sizes=[1])),
    "Monte Carlo pools 1, 2": Cell(base, model=model(pool_sizes=[1, 2])),
    "Monte Carlo attention in AssembleFormers": Cell(
        base, model=model(branch_attention="monte_carlo", link_attention="monte_carlo")
    ),
    "guidance by the source alone": Cell(base, model=model(gate="source")),
    "guidance by average pooling": Cell(base, model=model(gate="average")),
    "guidance by max pooling": Cell(base, model=model(gate="max")),
    "sums in the link decoder": Cell(base, model=model(link="add")),
    "branches from the second stage on": Cell(base, model=model(first_stage=2)),
    "a fifth branch in place of the pyramid": Cell(base, model=model(last_stage=5, branch_depths=[2, 2, 2, 2, 2])),
    "AssembleFormers deep only": Cell(base, model=model(branch_depths=[None, None, 2, 3], link_depth=3)),
    "ResNet-18": backbone("resnet18", "resnet18-f37072fd.pth"),
    "ResNeXt-50 32x4d": backbone("resnext50_32x4d", "resnext50_32x4d-1a0047aa.pth"),
}
metrics, published, repeats = first["metrics"], first["published"], first["repeats"]
checkpoint, folds = first["checkpoint"], first["folds"]
