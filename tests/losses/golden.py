"""The published losses: outputs of a training step, targets, recorded draws, and what came of them.

`python -m tests.losses.golden SOURCE TARGET` makes the file that travels with the project from the larger one
(../shared/golden/lgrnet/loss_sunseg_pvt.pt): 256 points only, and mask logits at stride 4.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.draws import SequentialDraws
from lgrnet.structures import SegOutput, Targets

KINDS = ("single", "multi_partial", "one_empty")
NUM_LAYERS = 4
# The published code stores the cross-entropy under "mask_dice" and the Dice loss under "mask_ce".
PUBLISHED_NAMES = {"mask_bce": "mask_dice", "mask_dice": "mask_ce", "class_ce": "class_ce"}
SUBSET = Path(__file__).resolve().parents[1] / "golden" / "lgrnet" / "loss_sunseg_pvt_p256.pt"
LARGE = Path("golden/lgrnet/loss_sunseg_pvt.pt")


def load(path: Path) -> dict[str, Any]:
    """A golden file as a flat dict; SUBSET, or shared / LARGE."""
    return torch.load(path, weights_only=True)


def output_of(golden: dict[str, Any], scale: int) -> SegOutput:
    """The stored outputs of all layers, masks at full size (scale 1) or at stride 4 (scale 4)."""
    layers = []
    for index in range(NUM_LAYERS):
        if scale == 1:
            masks = golden[f"train_out{index}.pred_masks"].transpose(1, 2)
        else:
            masks = golden[f"train_out{index}.mask_logits_stride4"]
        layers.append(SegOutput(masks, golden[f"train_out{index}.pred_class"]))
    last = layers.pop()
    return SegOutput(last.mask_logits, last.class_logits, aux=tuple(layers))


def targets_of(golden: dict[str, Any], kind: str) -> list[Targets]:
    """The targets of a kind; the stored masks hold annotated frames only, the others get zeros here."""
    stored = golden[f"{kind}.targets"]
    targets = []
    for given, annotated, labels in zip(stored["masks"], stored["has_ann"], stored["classes"], strict=True):
        masks = torch.zeros(len(labels), len(annotated), *given.shape[-2:])
        masks[:, annotated] = given.float()
        targets.append(Targets(labels, masks, torch.ones(masks.shape[1:], dtype=torch.bool), annotated))
    return targets


def draws_of(golden: dict[str, Any], kind: str, num_points: int) -> SequentialDraws:
    """The draws of the published run: recorded for 256 points, from one generator for 12544."""
    if num_points == 256:
        return SequentialDraws(golden[f"{kind}.np256.rands"])
    return SequentialDraws(torch.Generator().manual_seed(777))


def losses_of(golden: dict[str, Any], kind: str, num_points: int) -> dict[str, float]:
    """The published unweighted terms, summed over layers, under their honest names."""
    stored = golden[f"{kind}.np{num_points}.loss"]
    return {ours: stored[theirs] for ours, theirs in PUBLISHED_NAMES.items()}


def stride4(masks: Tensor) -> Tensor:
    """The maps [..., H / 4, W / 4] whose x4 bilinear enlargement is `masks` [..., H, W], to rounding.

    The enlargement of an axis is a matrix of full column rank, so its pseudo-inverse undoes it.
    """

    def undo(size: int) -> Tensor:
        eye = torch.eye(size // 4, dtype=torch.float64)
        enlarge = F.interpolate(eye[:, None], scale_factor=4, mode="linear", align_corners=False)[:, 0].T
        return torch.linalg.pinv(enlarge)

    height, width = masks.shape[-2:]
    return (undo(height) @ masks.double() @ undo(width).T).float()


def write_subset(source: Path, target: Path) -> None:
    """Writes the part of the golden file that travels with the project."""
    golden = load(source)
    skipped = ("input.", "train_out")
    kept = {k: v for k, v in golden.items() if not k.startswith(skipped) and ".np12544." not in k}
    for index in range(NUM_LAYERS):
        masks = stride4(golden[f"train_out{index}.pred_masks"])
        kept[f"train_out{index}.mask_logits_stride4"] = masks.transpose(1, 2).contiguous()
        kept[f"train_out{index}.pred_class"] = golden[f"train_out{index}.pred_class"]
    torch.save(kept, target)


if __name__ == "__main__":
    write_subset(Path(sys.argv[1]), Path(sys.argv[2]))
