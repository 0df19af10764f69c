"""The loss of a model that predicts a set of masks, each for a whole clip (Mask2Former, Cheng et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lgrnet.distributed import reduce_mean, world_size
from lgrnet.draws import KeyedDraws, SequentialDraws
from lgrnet.layers.parts import at_least_float32
from lgrnet.layers.points import sample_points, sample_upsampled, uncertain_points
from lgrnet.losses.functional import point_bce, point_dice
from lgrnet.losses.matcher import HungarianMatcher
from lgrnet.structures import SegOutput, Targets

Draws = KeyedDraws | SequentialDraws
Match = tuple[Tensor, Tensor]


class SetCriterion:
    """Matches queries to objects and compares them, for every layer of an output; it has no parameters.

    Only annotated frames count; a clip without one takes part in no term. Masks are compared at points, so no
    mask is ever enlarged. Terms: "mask_bce" and "mask_dice" (the published code has their names swapped) and
    "class_ce".

    The mean over ranks is the loss of one process with all their clips. The published code differs on several ranks
    where these have unequal numbers of objects or clips: each divides "class_ce" by its own sum of class weights (here:
    the mean over ranks), and the number of objects is at least 1 on each (here: at least 1 on all together). With
    equally many objects and clips on each rank, one at least, as in the published trainings, both are the same.

    mask_bce, mask_dice, class_ce  weights of the terms (published: 5, 5, 2 for SUN-SEG with PVTv2, else 5, 2, 2)
    num_points        points per map; as many, shared by all maps of a clip, for the matching
    oversample        candidates per point, of which the uncertain ones are kept (PointRend)
    importance        the share of the points that are uncertain ones; the rest are fresh uniform draws
    no_object_weight  weight of queries without an object in the cross-entropy of classes
    logit_scale       enlargement at which the logits are read: the published loss reads full-size masks, so 4
                      for a model with stride 4; 1 reads the logits as they are
    divide_by         "objects" as published: masks are summed over frames but divided by the number of objects,
                      which makes the mask terms about T times larger; "maps" divides by pairs of object and frame
    aux_weight        weight of every layer but the last; 0 skips them (published: 1, and only tested for 0)
    matcher           None: the published costs 2, 2, 2
    """

    def __init__(
        self,
        mask_bce: float = 5.0,
        mask_dice: float = 5.0,
        class_ce: float = 2.0,
        num_points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        no_object_weight: float = 0.1,
        logit_scale: int = 4,
        divide_by: str = "objects",
        aux_weight: float = 1.0,
        matcher: HungarianMatcher | None = None,
    ):
        if divide_by not in ("objects", "maps"):
            raise ValueError(f'divide_by is {divide_by!r}, expected "objects" (published) or "maps"')
        if num_points < 1 or oversample < 1 or not 0 <= importance <= 1:
            raise ValueError(
                f"num_points {num_points}, oversample {oversample}, importance {importance}: "
                "expected at least 1, at least 1, and 0 to 1"
            )
        self.weights = {"mask_bce": mask_bce, "mask_dice": mask_dice, "class_ce": class_ce}
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample)
        self.num_uncertain = int(num_points * importance)
        self.no_object_weight = no_object_weight
        self.logit_scale = logit_scale
        self.divide_by = divide_by
        self.aux_weight = aux_weight
        self.matcher = matcher or HungarianMatcher()

    def __call__(
        self, output: SegOutput, targets: Sequence[Targets], draws: Draws, whole: Sequence[Targets] | None = None
    ) -> dict[str, Tensor]:
        """The unweighted terms, each a scalar, summed over the layers of the output.

        output   mask_logits [B, Q, T, h, w] and class_logits [B, Q, K + 1], sigmoid masks
        targets  B of them, T frames each; of any size, for points are relative to it
        draws    per layer: one of (1, P, 2) per clip for matching, then candidates, then fresh points
        whole    targets of all clips of this process's step when the output is of a part of them: the mean over equal
                 parts is then the loss of the whole

        Raises ValueError when the output has no class logits or the targets do not fit it.
        """
        if len(targets) != len(output.mask_logits):
            raise ValueError(f"the output has {len(output.mask_logits)} clips, but there are {len(targets)} targets")
        clips = _annotated_parts(output, targets)
        # Half precision sums of thousands of points are not good enough, and products need their full range.
        with torch.autocast(output.mask_logits.device.type, enabled=False):
            counted = clips if whole is None else _annotated_parts(output, whole)
            mask_divisor, class_divisor = self._divisors(output, counted) * (len(clips) / len(counted))
            weights = [1.0 if layer is output else self.aux_weight for layer in output.layers]
            counted_layers = [index for index, weight in enumerate(weights) if weight != 0]
            points = {index: self._draw(output.layers[index], clips, draws, index) for index in counted_layers}
            costs = {index: self._costs(output.layers[index], clips, points[index]) for index in counted_layers}
            # All layers and clips together, so that there is one copy to the host at most.
            pairs = iter(self.matcher.assign_all([cost for index in counted_layers for cost in costs[index]]))
            terms: dict[str, Tensor] = {}
            for index in counted_layers:
                layer, weight = output.layers[index], weights[index]
                matches = [next(pairs) for _ in clips]
                bce, dice = self._mask_terms(layer, clips, matches, points[index])
                classes = self._class_term(layer.class_logits, clips, matches)
                values = {"mask_bce": bce / mask_divisor, "mask_dice": dice / mask_divisor}
                values["class_ce"] = classes / class_divisor
                terms = {name: terms.get(name, 0) + weight * value for name, value in values.items()}
        return terms

    def _divisors(self, output: SegOutput, clips: Sequence[_AnnotatedClip]) -> Tensor:
        """What mask terms and the class term are divided by, [2]: means over ranks of each rank's share.

        They are the same for all layers, since min(Q, N) queries of a clip are matched whichever these are.
        """
        num_queries = output.mask_logits.shape[1]
        shown = at_least_float32(output.mask_logits.new_zeros(()))
        maps, class_weight = 0, 0.0
        for clip in clips:
            matched = min(num_queries, len(clip.labels))
            maps += matched * clip.num_frames
            if clip.num_frames:
                shown = shown + (clip.masks.flatten(1) > 0).any(1).sum()
                class_weight += matched + self.no_object_weight * (num_queries - matched)
        masks = shown if self.divide_by == "objects" else torch.full_like(shown, maps)
        share = reduce_mean(torch.stack((masks, torch.full_like(shown, class_weight))))
        # At least one object among all ranks together, so that the loss does not depend on their number.
        return torch.stack((share[0].clamp(min=1 / world_size()), share[1].clamp(min=1e-6)))

    def _draw(self, layer: SegOutput, clips: Sequence[_AnnotatedClip], draws: Draws, index: int) -> _Points:
        """The points of one layer, in the published order of draws."""
        device, num_queries = layer.mask_logits.device, layer.mask_logits.shape[1]
        shape = (1, self.num_points, 2)
        matching = [draws.sample(f"matching/{index}", number, shape, device) for number in range(len(clips))]
        counts = [min(num_queries, len(clip.labels)) * clip.num_frames for clip in clips]
        candidates = draws.rows(f"candidates/{index}", counts, (self.num_candidates, 2), device)
        fresh = draws.rows(f"fresh/{index}", counts, (self.num_points - self.num_uncertain, 2), device)
        return _Points(matching, candidates, fresh, counts)

    def _costs(self, layer: SegOutput, clips: Sequence[_AnnotatedClip], points: _Points) -> list[Tensor]:
        """What each query of a clip would cost for each of its objects: [Q, N] for each clip."""
        return [
            self.matcher.cost(
                clip.of(layer.mask_logits[number]),
                layer.class_logits[number],
                clip.masks,
                clip.labels,
                points.matching[number],
                self.logit_scale,
                clip.invalid,
            )
            if len(clip.labels)
            else layer.mask_logits.new_zeros(layer.mask_logits.shape[1], 0)
            for number, clip in enumerate(clips)
        ]

    def _mask_terms(
        self, layer: SegOutput, clips: Sequence[_AnnotatedClip], matches: Sequence[Match], points: _Points
    ) -> tuple[Tensor, Tensor]:
        """Sums of BCE and Dice over all maps of matched pairs: one map per object and annotated frame."""
        # Not one by one by its number: each would have a gradient as large as that of all.
        of_clips = zip(clips, layer.mask_logits.unbind(), matches, strict=True)
        queries = [clip.of(logits).index_select(0, match[0]) for clip, logits, match in of_clips]
        logits = torch.cat([rows.flatten(0, 1) for rows in queries])  # [M, h, w]
        usable = _usable(clips, points.candidates, points.counts)
        uncertain = uncertain_points(logits, points.candidates, self.num_uncertain, self.logit_scale, usable)
        places = torch.cat((uncertain, points.fresh), 1)  # [M, P, 2]

        objects = [clip.masks.index_select(0, match[1]) for clip, match in zip(clips, matches, strict=True)]
        parts = zip(objects, places.split(points.counts), strict=True)
        truth = torch.cat([sample_points(masks.flatten(0, 1), at) for masks, at in parts])
        values = sample_upsampled(logits, places, self.logit_scale)
        truth = truth.to(values.dtype)
        usable = _usable(clips, places, points.counts)
        weights = None if usable is None else usable.to(values.dtype)
        return point_bce(values, truth, weights).sum(), point_dice(values, truth, weights).sum()

    def _class_term(self, logits: Tensor, clips: Sequence[_AnnotatedClip], matches: Sequence[Match]) -> Tensor:
        """The weighted sum of cross-entropies of all queries [B, Q, K + 1] of clips with an annotated frame."""
        no_object = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:2], no_object, dtype=torch.int64, device=logits.device)
        for row, clip, (queries, objects) in zip(wanted, clips, matches, strict=True):
            row[queries] = clip.labels[objects]
        logits = at_least_float32(logits)
        weight = torch.ones_like(wanted, dtype=logits.dtype).masked_fill(wanted == no_object, self.no_object_weight)
        for row, clip in zip(weight, clips, strict=True):
            if clip.num_frames == 0:
                row.zero_()
        return (F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none") * weight.flatten()).sum()


@dataclass(frozen=True)
class _Points:
    """Where one layer is looked at; M maps, counts[i] of them of clip i.

    matching    [1, P, 2] of each clip
    candidates  [M, candidates, 2], of which the uncertain ones are kept
    fresh       [M, P - uncertain, 2]
    """

    matching: list[Tensor]
    candidates: Tensor
    fresh: Tensor
    counts: list[int]


@dataclass(frozen=True)
class _AnnotatedClip:
    """The frames of a clip's targets that are counted (`Targets.counted`); T counts only these.

    frames   [T] int64, their places in the clip; None: the clip has no others
    labels   [N] int64; none when no frame is counted
    masks    [N, T, H, W], 0 where a pixel is ignored
    invalid  [T, H, W] float, 1 where a pixel is ignored; None: nothing is
    """

    frames: Tensor | None
    labels: Tensor
    masks: Tensor
    invalid: Tensor | None

    @property
    def num_frames(self) -> int:
        return self.masks.shape[1]

    def of(self, maps: Tensor) -> Tensor:
        """The annotated frames of maps [Q, all frames, h, w]."""
        return maps if self.frames is None else maps.index_select(1, self.frames)


def _annotated_parts(output: SegOutput, targets: Sequence[Targets]) -> list[_AnnotatedClip]:
    """Checks that targets fit the output, and leaves out what takes no part in a loss."""
    if output.class_logits is None or output.activation != "sigmoid":
        raise ValueError("the set criterion needs class logits and sigmoid masks; use a dense criterion for this model")
    num_frames, num_classes = output.mask_logits.shape[2], output.class_logits.shape[-1] - 1
    for target in targets:
        _check_shapes(target, num_frames)
    facts = [_facts(target) for target in targets]
    # One copy from the device for all clips.
    numbers = torch.stack(facts).tolist() if facts else []
    return [_annotated_part(target, *facts, num_classes) for target, facts in zip(targets, numbers, strict=True)]


def _facts(target: Targets) -> Tensor:
    """What decides about a clip: whether all frames are counted, all pixels valid; smallest and largest label."""
    labels = target.labels if len(target.labels) else target.labels.new_zeros(1)
    return torch.stack((target.counted.all().long(), target.valid.all().long(), labels.min(), labels.max()))


def _check_shapes(target: Targets, num_frames: int) -> None:
    labels, masks, valid, annotated = target.labels, target.masks, target.valid, target.annotated
    fits = masks.dim() == 4 and masks.shape[1] == num_frames and tuple(valid.shape) == tuple(masks.shape[1:])
    if not fits or len(annotated) != num_frames or len(labels) != len(masks):
        raise ValueError(
            f"targets with labels {tuple(labels.shape)}, masks {tuple(masks.shape)}, valid {tuple(valid.shape)} and "
            f"annotated {tuple(annotated.shape)} do not fit an output of {num_frames} frames; "
            "expected [N], [N, T, H, W], [T, H, W] and [T]"
        )
    if valid.dtype != torch.bool or annotated.dtype != torch.bool:
        raise ValueError(f"targets have valid of {valid.dtype} and annotated of {annotated.dtype}; expected torch.bool")


def _annotated_part(
    target: Targets, all_counted: int, all_valid: int, lowest: int, highest: int, num_classes: int
) -> _AnnotatedClip:
    """The counted frames of one clip; raises ValueError when it has a class that the output has not."""
    labels, masks, valid = target.labels, target.masks, target.valid
    if not 0 <= lowest <= highest < num_classes:
        raise ValueError(f"targets have labels {labels.tolist()}, but the model has classes 0 to {num_classes - 1}")
    frames = None
    if not all_counted:
        frames = target.counted.nonzero()[:, 0]
        masks, valid = masks.index_select(1, frames), valid.index_select(0, frames)
        if len(frames) == 0:
            labels, masks = labels[:0], masks[:0]
        all_valid = bool(valid.all())
    if all_valid:
        return _AnnotatedClip(frames, labels, masks, None)
    return _AnnotatedClip(frames, labels, masks * valid, (~valid).float())


def _usable(clips: Sequence[_AnnotatedClip], points: Tensor, counts: Sequence[int]) -> Tensor | None:
    """Which points [M, P, 2] read no ignored pixel, [M, P] bool; None when nothing is ignored.

    A map's rows are object by object, frame by frame. Any of the four pixels around a point can spoil it, for the
    mask of an ignored pixel means nothing.
    """
    if all(clip.invalid is None for clip in clips):
        return None
    parts = []
    for clip, at in zip(clips, points.split(list(counts)), strict=True):
        if clip.invalid is None or len(at) == 0:
            parts.append(torch.ones(at.shape[:2], dtype=torch.bool, device=at.device))
        else:
            rows = clip.invalid.repeat(len(at) // clip.num_frames, 1, 1)  # [N*T, H, W]
            parts.append(sample_points(rows, at) == 0)
    return torch.cat(parts)
