"""Predictions in detectron2's terms: Instances of every frame, and maps of classes."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from lgrnet.evaluation.average_precision import best, detected
from lgrnet.records import Prediction


def frame_instances(prediction: Prediction, limit: int = 100) -> list[Instances]:
    """The objects in each frame, best first: T Instances at the size of the frames on disk, on the CPU.

    Every query with every class, where its mask is not empty in the frame, and of these the `limit` with the highest
    scores; a prediction without candidates has one for each class. Fields: pred_masks [N, H, W] bool, scores [N]
    float32, pred_classes [N] int64, pred_boxes (round the masks).
    """
    masks, scores = detected(prediction)  # [Q, T, H, W], [Q, K]
    shown = masks.any(axis=(2, 3))  # [Q, T]
    return [_instances(masks[:, t], scores, shown[:, t], limit) for t in range(masks.shape[1])]


def class_maps(prediction: Prediction, exclusive: bool = False) -> Tensor:
    """[T, K + 1, H, W] float32 in 0..1: channel 0 is background, k + 1 is class k.

    Of LGRNet their largest channel is not quite its mask: as published the mask is decided before it is enlarged, and
    the probabilities are enlarged smoothly. The masks are in the instances.

    exclusive  background and classes share each pixel, as by a softmax: background is what the classes leave of 1;
               else 1 minus the largest probability
    """
    maps = torch.from_numpy(prediction.probability).transpose(0, 1).float().div(255)  # [T, K, H, W]
    taken = maps.sum(1, keepdim=True) if exclusive else maps.amax(1, keepdim=True)
    return torch.cat(((1 - taken).clamp(min=0), maps), 1)


def _instances(masks: np.ndarray, scores: np.ndarray, shown: np.ndarray, limit: int) -> Instances:
    """The best objects of a frame: masks [Q, H, W], scores [Q, K], shown [Q] -> Instances."""
    queries, classes = best(shown, scores, limit)
    chosen = torch.from_numpy(masks[queries])  # [N, H, W]
    return Instances(
        tuple(masks.shape[-2:]),
        pred_masks=chosen,
        scores=torch.from_numpy(scores[queries, classes].astype(np.float32)),
        pred_classes=torch.from_numpy(classes.astype(np.int64)),
        pred_boxes=BitMasks(chosen).get_bounding_boxes(),
    )
