"""The whole training augmentations of SSFormer, of its reproduction study, and of SvANet."""

from __future__ import annotations

from lgrnet.data.still_colour import PhotometricDistort, RandomBlur, RandomEnhance
from lgrnet.data.still_transforms import (
    PillowResize,
    RandomMorphology,
    RandomPaddedCrop,
    RandomRotation,
    RandomScaleCrop,
    RandomScaledCrop,
    RandomShortSide,
    ShortSideResize,
)
from lgrnet.data.transforms import Compose, RandomFlip, Size, as_size


def ssformer_training(size: Size = 352, soft_masks: bool = False) -> Compose:
    """SSFormer's training augmentation; its normalisation is the model's.

    soft_masks  as published: masks go through bilinear and bicubic filters and are soft at their edges; give the data
                set label_map="soft" with it
    """
    return Compose(
        (
            PillowResize(size, masks="bilinear" if soft_masks else "nearest"),
            RandomScaleCrop(masks="bicubic" if soft_masks else "nearest"),
            RandomFlip(),
            RandomRotation((0, 358), 0.5, frames="nearest", whole=True, expand=True),
            RandomEnhance(),
            RandomMorphology(),
        )
    )


def study_training(
    size: Size = 352, outside: str = "background", overrun: bool = False, height_only: bool = False
) -> Compose:
    """The training augmentation of SSFormer's reproduction study.

    Its mistakes are asked for by outside="foreground" (padding and corners were trained as polyp), overrun=True (crops
    one pixel beyond the picture) and height_only=True (outlines changed along the height only). Its labels are those
    of label_map="full".
    """
    return Compose(
        (
            ShortSideResize(as_size(size)[0]),
            RandomScaledCrop(size, outside=outside, overrun=overrun),
            RandomFlip(),
            RandomRotation((-359.0, 359.0), 0.3, outside=outside, tensors=True),
            RandomEnhance(),
            RandomMorphology(height_only=height_only),
        )
    )


def svanet_training(size: int = 512, outside: str = "ignore", frame_fill: int = 0) -> Compose:
    """SvANet's training augmentation.

    size        of the square that is cut out
    outside     what masks are where a crop or a turn goes beyond the picture: a key of `still_transforms.OUTSIDE`
    frame_fill  what frames are there; 255, which is white, was published
    """
    shortest, longest, cap = (_multiple_of_4(share) for share in (size // 2, 1.5 * size, 2 * size))
    return Compose(
        (
            RandomShortSide((shortest, longest), cap),
            RandomFlip(0.5, 0.0),
            RandomPaddedCrop(size, outside, frame_fill),
            RandomBlur(),
            PhotometricDistort(),
            RandomRotation((-10.0, 10.0), outside=outside),
        )
    )


def _multiple_of_4(value: float) -> int:
    """The nearest multiple of 4 that is not more than a tenth smaller."""
    nearest = max(4, int(value + 2) // 4 * 4)
    return nearest + 4 if nearest < 0.9 * value else nearest
