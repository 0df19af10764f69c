"""Sizes, places and outlines: the published augmentations of still images by SSFormer, its study and SvANet.

Each is a transform as in `lgrnet.data.transforms`, in two halves: `draw` makes its parameters, `apply` uses them, so
that a published run can be followed with the parameters that it drew. What was published by mistake is only done when
an argument asks for it. The pixels are worked on by Pillow, in the study by PyTorch, because the published ones were.

An object of one pixel is safe in flips, crops that hold it, and enlargements; nearest masks that are made smaller or
turned may lose it (or, turned, show it twice), erosion always loses it, and smooth masks keep a faint trace of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate as rotate_tensor

from lgrnet.data.transforms import PILLOW_FILTERS, Arrays, Size, as_chance, as_size, resize_as_tensor, short_side_sizes

FILTERS = {"nearest": Image.Resampling.NEAREST, **PILLOW_FILTERS}
OUTSIDE = {"background": 0.0, "ignore": float("nan"), "foreground": 1.0}
"""What masks say of pixels that are not in the picture: background, to be ignored by losses, or the one class."""


class Augmentation:
    """A transform whose parameters are drawn in one method and applied in another."""

    def draw(self, rng: random.Random, size: tuple[int, int]) -> Any:
        """The parameters for a clip of this (height, width)."""
        raise NotImplementedError

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: Any) -> Arrays:
        """frames uint8 [T, H, W, 3] and masks float32 [K, T, H, W], changed by parameters as `draw` makes them."""
        raise NotImplementedError

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """`apply` with parameters from `draw`."""
        return self.apply(frames, masks, self.draw(rng, frames.shape[1:3]))


class PillowResize:
    """To a fixed size regardless of the aspect ratio, by Pillow's filters, which antialias.

    frames  "bilinear" (SSFormer), "bicubic" (SvANet) or "nearest"
    masks   "nearest"; "bilinear" and "bicubic" give soft masks of 8 bits (SSFormer trains on such, without a threshold)
    """

    def __init__(self, size: Size, frames: str = "bilinear", masks: str = "nearest"):
        self.height, self.width = as_size(size)
        self.frames, self.masks = _filter(frames), _filter(masks)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """frames [T, height, width, 3] and masks [K, T, height, width]; draws nothing."""
        return _pillow_resized(frames, masks, (self.height, self.width), self.frames, self.masks)


class ShortSideResize:
    """The shorter side to `short` with the aspect ratio kept, then both sides up to multiples: the study's first step,
    and its rule of evaluation ("short_side" of `resize_for_eval`)."""

    def __init__(self, short: int = 352, multiple: int = 32):
        self.short, self.multiple = as_size(short)[0], as_size(multiple)[0]

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """frames [T, h, w, 3] and masks [K, T, h, w]; draws nothing."""
        for size in short_side_sizes(frames.shape[1:3], self.short, self.multiple):
            frames, masks = _tensor_resized(frames, masks, size)
        return frames, masks


class RandomScaleCrop(Augmentation):
    """Larger or smaller by one factor, then the centre at the old size; what is missing is black background (SSFormer).

    scale  smallest and largest factor
    masks  as in PillowResize; published: "bicubic"
    """

    def __init__(self, scale: Sequence[float] = (0.75, 1.25), probability: float = 0.5, masks: str = "nearest"):
        self.scale, self.probability, self.masks = tuple(scale), as_chance(probability), _filter(masks)

    def draw(self, rng: random.Random, size: tuple[int, int]) -> float | None:
        """The factor, None: nothing changes; two draws."""
        scale = rng.uniform(*self.scale)
        return scale if rng.random() < self.probability else None

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: float | None) -> Arrays:
        """Same shapes."""
        if drawn is None:
            return frames, masks
        size = frames.shape[1:3]
        scaled = tuple(max(1, round(side * drawn)) for side in size)
        frames, masks = _pillow_resized(frames, masks, scaled, PILLOW_FILTERS["bicubic"], self.masks)
        return _cut(frames, masks, *((large - side) // 2 for large, side in zip(scaled, size, strict=True)), size)


class RandomScaledCrop(Augmentation):
    """Larger or smaller by one factor, then a crop of a fixed size, filled up at the right and the bottom (the study).

    scale    smallest and largest factor of `size`, which the shorter side is brought to
    outside  a key of `OUTSIDE`; published by mistake: "foreground"
    overrun  True: the crop may lie one pixel beyond the picture, published by mistake
    """

    def __init__(
        self,
        size: Size = 352,
        scale: Sequence[float] = (0.75, 1.25),
        outside: str = "background",
        overrun: bool = False,
    ):
        self.size, self.scale = as_size(size), tuple(scale)
        self.outside, self.overrun = _outside(outside), overrun

    def draw(self, rng: random.Random, size: tuple[int, int]) -> tuple[float, int, int]:
        """The factor, top and left of the crop; three draws."""
        scale = rng.uniform(*self.scale)
        spare = (
            max(0, new - side) + self.overrun for new, side in zip(self.scaled(size, scale), self.size, strict=True)
        )
        top, left = (rng.randint(0, pixels) for pixels in spare)
        return scale, top, left

    def scaled(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """(height, width) of the whole picture before the crop: it just fits into 1 x 4 times the scaled `size`."""
        frame = int(self.size[0] * scale), int(self.size[1] * 4 * scale)
        factor = min(max(frame) / max(size), min(frame) / min(size))
        return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: tuple[float, int, int]) -> Arrays:
        """frames [T, h, w, 3] and masks [K, T, h, w] of the fixed size."""
        scale, top, left = drawn
        frames, masks = _tensor_resized(frames, masks, self.scaled(frames.shape[1:3], scale))
        return _cut(frames, masks, top, left, self.size, mask_fill=_fill(self.outside, masks))


class RandomShortSide(Augmentation):
    """The shorter side to a random length, the aspect ratio kept (SvANet); bicubic frames, nearest masks.

    short    shortest and longest length, both may occur
    longest  the longer side is not made longer than this
    """

    def __init__(self, short: Sequence[int] = (256, 768), longest: int = 1024):
        self.short, self.longest = as_size(short), longest

    def draw(self, rng: random.Random, size: tuple[int, int]) -> tuple[int, int]:
        """The new (height, width); one draw."""
        scale = min(rng.randint(*self.short) / min(size), self.longest / max(size))
        return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: tuple[int, int]) -> Arrays:
        """frames [T, h, w, 3] and masks [K, T, h, w] of the size drawn."""
        return _pillow_resized(frames, masks, drawn, PILLOW_FILTERS["bicubic"], FILTERS["nearest"])


class RandomPaddedCrop(Augmentation):
    """A crop of a fixed size from anywhere; a picture that is too small lies anywhere in it (SvANet).

    outside     a key of `OUTSIDE`
    frame_fill  grey value of frames outside the picture; published: 255
    """

    def __init__(self, size: Size = 512, outside: str = "ignore", frame_fill: int = 0):
        self.size, self.outside, self.frame_fill = as_size(size), _outside(outside), frame_fill

    def draw(self, rng: random.Random, size: tuple[int, int]) -> tuple[int, int]:
        """Top and left of the crop, negative where the picture starts inside of it; two draws."""
        lack = [max(0, crop - side) for crop, side in zip(self.size, size, strict=True)]
        top, left = (
            rng.randint(-less, side + less - crop) for crop, side, less in zip(self.size, size, lack, strict=True)
        )
        return top, left

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: tuple[int, int]) -> Arrays:
        """frames [T, h, w, 3] and masks [K, T, h, w] of the fixed size."""
        return _cut(frames, masks, *drawn, self.size, self.frame_fill, _fill(self.outside, masks))


class RandomRotation(Augmentation):
    """A rotation about the centre; the size stays, corners are cut off and what is missing is black.

    degrees   smallest and largest angle, counter-clockwise
    frames    "bilinear" or "nearest"; masks are always nearest
    outside   a key of `OUTSIDE`
    whole     True: whole degrees
    expand    True: turned on a canvas that holds the whole picture, whose centre is then cut out (SSFormer); False:
              turned in place. They differ by half a pixel at most
    tensors   True: as torchvision turns tensors (the study); False: as Pillow turns pictures
    """

    def __init__(
        self,
        degrees: Sequence[float] = (-10.0, 10.0),
        probability: float = 1.0,
        frames: str = "bilinear",
        outside: str = "background",
        whole: bool = False,
        expand: bool = False,
        tensors: bool = False,
    ):
        if frames not in ("bilinear", "nearest"):
            raise ValueError(f'frames is {frames!r}; expected "bilinear" or "nearest"')
        if tensors and expand:
            raise ValueError("expand is done by Pillow; set tensors=False with it")
        self.degrees, self.probability, self.frames = tuple(degrees), as_chance(probability), frames
        self.outside, self.whole, self.expand, self.tensors = _outside(outside), whole, expand, tensors

    def draw(self, rng: random.Random, size: tuple[int, int]) -> float | None:
        """The angle in degrees, None: nothing changes; two draws."""
        angle = rng.randint(*map(int, self.degrees)) if self.whole else rng.uniform(*self.degrees)
        return angle if rng.random() < self.probability else None

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: float | None) -> Arrays:
        """Same shapes."""
        if drawn is None:
            return frames, masks
        fill = _fill(self.outside, masks)
        if self.tensors:
            return _rotated_tensors(frames, masks, drawn, self.frames, fill)
        size = frames.shape[1:3]
        options = {"angle": drawn, "expand": self.expand}
        frames = each_frame(frames, lambda frame: frame.rotate(resample=FILTERS[self.frames], **options))
        masks = each_mask(masks, lambda mask: np.array(Image.fromarray(mask).rotate(fillcolor=fill, **options)))
        top, left = ((large - side) // 2 for large, side in zip(frames.shape[1:3], size, strict=True))
        return _cut(frames, masks, top, left, size, mask_fill=fill)


class RandomMorphology(Augmentation):
    """Dilates or erodes the masks a little, each with probability 1/3, against sloppy outlines (SSFormer). Frames stay.

    sizes        smallest and largest size of the elliptic kernel
    height_only  True: along the height only, published by mistake in the study

    Made for one class: of several, grown ones may overlap. Pixels to be ignored stay that.
    """

    def __init__(self, sizes: Sequence[int] = (2, 4), height_only: bool = False):
        self.sizes, self.height_only = as_size(sizes), height_only

    def draw(self, rng: random.Random, size: tuple[int, int]) -> tuple[str, int]:
        """("dilate", "erode" or "none", size of the kernel); two draws."""
        return ("dilate", "erode", "none")[int(rng.random() * 3)], rng.randint(*self.sizes)

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: tuple[str, int]) -> Arrays:
        """Same shapes."""
        kind, size = drawn
        if kind == "none":
            return frames, masks
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        kernel = kernel[size // 2, :, None] if self.height_only else kernel
        change = cv2.dilate if kind == "dilate" else cv2.erode
        # As beyond the picture: what is not known adds nothing and takes nothing away.
        known = np.nan_to_num(masks, nan=0.0 if kind == "dilate" else 1.0)
        changed = each_mask(known, lambda mask: change(mask, np.ascontiguousarray(kernel)))
        return frames, np.where(np.isnan(masks), masks, changed)


def each_frame(frames: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """frames [T, H, W, 3], each changed as a picture."""
    return np.stack([np.array(change(Image.fromarray(frame))) for frame in frames])


def each_mask(masks: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """masks [K, T, H, W], each [H, W] changed."""
    return np.stack([np.stack([change(np.ascontiguousarray(mask)) for mask in clip]) for clip in masks])


def _pillow_resized(
    frames: np.ndarray,
    masks: np.ndarray,
    size: tuple[int, int],
    filter: Image.Resampling,
    mask_filter: Image.Resampling,
) -> Arrays:
    shape = size[::-1]
    frames = each_frame(frames, lambda frame: frame.resize(shape, filter))
    near = each_mask(masks, lambda mask: np.array(Image.fromarray(mask).resize(shape, FILTERS["nearest"])))
    if mask_filter == FILTERS["nearest"]:
        return frames, near

    def soft(values: np.ndarray) -> np.ndarray:
        bits = np.rint(values * 255).astype(np.uint8)
        bits = each_mask(bits, lambda mask: np.array(Image.fromarray(mask).resize(shape, mask_filter)))
        return bits / np.float32(255)

    unknown = np.isnan(masks)
    if not unknown.any():
        return frames, soft(masks)
    # The mean over what is known.
    share = soft(np.where(unknown, np.float32(0), np.float32(1)))
    mean = np.minimum(soft(np.nan_to_num(masks)) / np.maximum(share, np.float32(1 / 255)), np.float32(1))
    return frames, np.where(np.isnan(near), near, mean)


def _tensor_resized(frames: np.ndarray, masks: np.ndarray, size: tuple[int, int]) -> Arrays:
    """Masks take the nearest pixel above and to the left, as PyTorch's tensors do."""
    moved = F.interpolate(torch.from_numpy(np.ascontiguousarray(masks)), size, mode="nearest").numpy()
    return np.stack([resize_as_tensor(frame, *size) for frame in frames]), moved


def _rotated_tensors(frames: np.ndarray, masks: np.ndarray, angle: float, frame_filter: str, fill: float) -> Arrays:
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    pixels = rotate_tensor(pixels, angle, InterpolationMode(frame_filter), fill=0)
    there = torch.ones(1, 1, *masks.shape[-2:])
    moved = rotate_tensor(torch.from_numpy(np.ascontiguousarray(masks)), angle, InterpolationMode.NEAREST, fill=0)
    inside = rotate_tensor(there, angle, InterpolationMode.NEAREST, fill=0).numpy() > 0
    return pixels.permute(0, 2, 3, 1).numpy(), np.where(inside, moved.numpy(), np.float32(fill))


def _cut(
    frames: np.ndarray,
    masks: np.ndarray,
    top: int,
    left: int,
    size: tuple[int, int],
    frame_fill: int = 0,
    mask_fill: float = 0.0,
) -> Arrays:
    """The window of this size at (top, left), which may reach beyond the picture on any side."""
    height, width = frames.shape[1:3]
    rows, columns = (max(0, top), min(height, top + size[0])), (max(0, left), min(width, left + size[1]))
    new_frames = np.full((len(frames), *size, 3), frame_fill, np.uint8)
    new_masks = np.full((*masks.shape[:2], *size), mask_fill, np.float32)
    if rows[0] < rows[1] and columns[0] < columns[1]:
        here = slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)
        new_frames[:, here[0], here[1]] = frames[:, slice(*rows), slice(*columns)]
        new_masks[:, :, here[0], here[1]] = masks[:, :, slice(*rows), slice(*columns)]
    return new_frames, new_masks


def _filter(name: str) -> Image.Resampling:
    if name not in FILTERS:
        raise ValueError(f"filter is {name!r}; expected {', '.join(FILTERS)}")
    return FILTERS[name]


def _outside(name: str) -> str:
    if name not in OUTSIDE:
        raise ValueError(f"outside is {name!r}; expected {', '.join(OUTSIDE)}")
    return name


def _fill(outside: str, masks: np.ndarray) -> float:
    if outside == "foreground" and len(masks) > 1:
        raise ValueError(f'outside="foreground" means the one class, but there are {len(masks)}; use "ignore"')
    return OUTSIDE[outside]
