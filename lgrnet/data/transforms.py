"""What happens to a clip between the disk and the model: one draw for all frames of a clip.

A transform is called with (frames uint8 [T, H, W, 3], masks float32 [K, T, H, W], rng) and returns the same kind.
A pixel whose masks are NaN is to be ignored by losses; with nearest masks it moves as any other value.
All parameters come from the passed `random.Random`, which is keyed by the sample's place in the stream. That is why
torchvision's v2 classes are not used: they draw from the global generator, so a run would depend on the number of
workers and could not be resumed exactly. The pixels are worked on by OpenCV.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lgrnet.records import MAX_PIXELS, DataError

Arrays = tuple[np.ndarray, np.ndarray]
Transform = Callable[[np.ndarray, np.ndarray, random.Random], Arrays]
Size = int | Sequence[int]

PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_MASK_MODES = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR}


class Compose:
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = tuple(transforms)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """frames [T, H, W, 3] and masks [K, T, H, W] after every transform."""
        for transform in self.transforms:
            frames, masks = transform(frames, masks, rng)
        return frames, masks


def check_clip(frames: np.ndarray, masks: np.ndarray, count: int, source: str) -> None:
    """Raises DataError unless a clip of `count` frames came back whole; one frame may have become several."""
    fits = frames.ndim == masks.ndim == 4 and frames.shape[:3] == masks.shape[1:] and frames.shape[3] == 3
    if not fits or len(frames) != count != 1 or (frames.dtype, masks.dtype) != (np.uint8, np.float32):
        raise DataError(
            f"{source} gave frames {frames.dtype} {frames.shape} and masks {masks.dtype} {masks.shape} of {count} "
            "frames; expected uint8 [T, H, W, 3] and float32 [K, T, H, W], of the same frames, height and width"
        )


def published_training(size: Size = 352) -> Compose:
    """LGRNet's training augmentation: resize, flips, quarter turns; bit-equal to the published one for equal draws."""
    return Compose((Resize(size), RandomFlip(), RandomRotate90()))


class Resize:
    """To a fixed size regardless of the aspect ratio, as published for training.

    Frames: OpenCV bilinear without antialiasing on float32, then truncated to uint8 (evaluation differs, see
    `resize_for_eval`). Masks: "nearest" as published, or "linear", which keeps soft masks smooth.
    """

    def __init__(self, size: Size = 352, masks: str = "nearest"):
        self.height, self.width = as_size(size)
        self.mask_mode = _mask_mode(masks)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """frames [T, height, width, 3] and masks [K, T, height, width]; draws nothing."""
        return _resized(frames, masks, self.height, self.width, self.mask_mode)


class RandomFlip:
    """Left-right and top-bottom mirror images, each with its own probability."""

    def __init__(self, horizontal: float = 0.5, vertical: float = 0.5):
        self.horizontal, self.vertical = as_chance(horizontal), as_chance(vertical)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """Same shapes; two draws."""
        across, down = rng.random() < self.horizontal, rng.random() < self.vertical
        return flip_and_turn(frames, masks, across, down, 0)


class RandomRotate90:
    """0 to 3 quarter turns, drawn uniformly. Clips that are not square only make half turns, to keep their shape."""

    def __init__(self, probability: float = 0.5):
        self.probability = as_chance(probability)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """Same shapes; two draws."""
        chosen, turns = rng.random() < self.probability, rng.randint(0, 3)
        if frames.shape[1] != frames.shape[2]:
            turns -= turns % 2
        return flip_and_turn(frames, masks, False, False, turns if chosen else 0)


def flip_and_turn(frames: np.ndarray, masks: np.ndarray, across: bool, down: bool, turns: int) -> Arrays:
    """Mirrors left-right, then top-bottom, then makes `turns` quarter turns counter-clockwise."""
    if across:
        frames, masks = frames[:, :, ::-1], masks[..., ::-1]
    if down:
        frames, masks = frames[:, ::-1], masks[..., ::-1, :]
    return np.rot90(frames, turns, axes=(1, 2)), np.rot90(masks, turns, axes=(2, 3))


class RandomResizedCrop:
    """A random part of the picture, enlarged to a fixed size.

    scale  smallest and largest share of the area
    ratio  smallest and largest stretch of the crop's aspect ratio, relative to that of the whole picture
    """

    def __init__(
        self, size: Size, scale: Sequence[float] = (0.5, 1.0), ratio: Sequence[float] = (0.8, 1.25), masks="nearest"
    ):
        self.height, self.width = as_size(size)
        self.scale, self.ratio = _interval(scale, "scale", 0.0, 1.0), _interval(ratio, "ratio", 0.0, 100.0)
        self.mask_mode = _mask_mode(masks)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """frames [T, height, width, 3] and masks [K, T, height, width]; four draws."""
        height, width = frames.shape[1:3]
        share, stretch = rng.uniform(*self.scale), rng.uniform(*self.ratio)
        h = min(height, max(1, round(height * (share / stretch) ** 0.5)))
        w = min(width, max(1, round(width * (share * stretch) ** 0.5)))
        top, left = int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1))
        frames, masks = frames[:, top : top + h, left : left + w], masks[..., top : top + h, left : left + w]
        return _resized(frames, masks, self.height, self.width, self.mask_mode)


class RandomAffine:
    """A small rotation, scaling and shift about the centre; what comes from outside the picture is black background.

    degrees    largest rotation to either side
    scale      smallest and largest magnification
    translate  largest shift as a share of height and width
    probability  that a clip is changed at all
    masks      "nearest", or "linear" for soft masks
    """

    def __init__(
        self,
        degrees: float = 15.0,
        scale: Sequence[float] = (0.9, 1.1),
        translate: float = 0.05,
        probability: float = 0.5,
        masks: str = "nearest",
    ):
        self.degrees, self.translate, self.probability = degrees, translate, as_chance(probability)
        self.scale, self.mask_mode = _interval(scale, "scale", 0.0, 100.0), _mask_mode(masks)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """Same shapes; five draws."""
        chosen = rng.random() < self.probability
        angle, scale = rng.uniform(-self.degrees, self.degrees), rng.uniform(*self.scale)
        shift = rng.uniform(-self.translate, self.translate), rng.uniform(-self.translate, self.translate)
        if not chosen:
            return frames, masks
        matrix = affine_matrix(*frames.shape[1:3], angle, scale, *shift)
        return warp(frames, masks, matrix, self.mask_mode)


class ColorJitter:
    """Brightness, contrast, saturation and hue, changed alike in all frames of the clip.

    brightness, contrast, saturation  the factor is drawn from 1 - value .. 1 + value
    hue                               the shift is drawn from -value .. value, in turns of the colour circle (0..0.5)
    """

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
        probability: float = 0.8,
    ):
        self.ranges = [as_chance(brightness), as_chance(contrast), as_chance(saturation)]
        self.hue, self.probability = _interval((0.0, hue), "hue", 0.0, 0.5)[1], as_chance(probability)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """Same shapes, masks untouched; five draws."""
        chosen = rng.random() < self.probability
        brightness, contrast, saturation = (rng.uniform(1 - r, 1 + r) for r in self.ranges)
        hue = rng.uniform(-self.hue, self.hue)
        if not chosen:
            return frames, masks
        levels = np.arange(256) * brightness
        middle = frames.mean() * brightness
        table = np.clip(np.rint((levels - middle) * contrast + middle), 0, 255).astype(np.uint8)
        return np.stack([_saturate(table[frame], saturation, hue) for frame in frames]), masks


class GaussianBlur:
    """Blurs all frames of the clip alike; `sigma` is the range of the blur's radius in pixels."""

    def __init__(self, sigma: Sequence[float] = (0.3, 1.5), probability: float = 0.2):
        self.sigma, self.probability = _interval(sigma, "sigma", 0.01, 50.0), as_chance(probability)

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """Same shapes, masks untouched; two draws."""
        chosen, sigma = rng.random() < self.probability, rng.uniform(*self.sigma)
        if not chosen:
            return frames, masks
        return np.stack([cv2.GaussianBlur(np.ascontiguousarray(frame), (0, 0), sigma) for frame in frames]), masks


def resize_for_eval(frame: np.ndarray, size: Size, rule: str = "bilinear") -> np.ndarray:
    """uint8 [H, W, 3] as a model sees it in evaluation: uint8 [h, w, 3], by one of the published rules.

    "bilinear"    to `size`, aspect ratio ignored, Pillow's bilinear filter, which antialiases (LGRNet, SSFormer)
    "bicubic"     to `size`, aspect ratio ignored, Pillow's bicubic filter (SvANet)
    "short_side"  the shorter side to the first number of `size`, then both sides up to multiples of 32, by the
                  antialiased bilinear filter of tensors (SSFormer's reproduction study)

    Raises ValueError for another rule.
    """
    if check_eval_rule(rule) == "short_side":
        for height, width in short_side_sizes(frame.shape[:2], as_size(size)[0]):
            frame = resize_as_tensor(frame, height, width)
        return frame
    height, width = as_size(size)
    return np.array(Image.fromarray(frame).resize((width, height), PILLOW_FILTERS[rule]))


def check_eval_rule(rule: str) -> str:
    """The rule itself, if `resize_for_eval` knows it; raises ValueError for another."""
    if rule not in (*PILLOW_FILTERS, "short_side"):
        raise ValueError(f'resize is {rule!r}; expected "bilinear", "bicubic" or "short_side"')
    return rule


def short_side_sizes(size: tuple[int, int], short: int, multiple: int = 32) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) with the shorter side at `short` and the aspect ratio kept, and that up to multiples."""
    factor = short / min(size)
    height, width = (max(1, round(side * factor)) for side in size)
    return (height, width), (-(-height // multiple) * multiple, -(-width // multiple) * multiple)


def resize_as_tensor(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [height, width, 3]: PyTorch's antialiased bilinear filter in float32, then rounded.

    It differs from Pillow's, which works in integers, by a grey level here and there.
    """
    if frame.shape[:2] == (height, width):
        return frame
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return pixels[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def draw_size(sizes: Sequence[int], rng: random.Random | np.random.RandomState) -> int:
    """One of the training sizes, each equally likely (with numpy's RandomState: the published sequence)."""
    return int(rng.choice(list(sizes)))


def affine_matrix(height: int, width: int, angle: float, scale: float, right: float, down: float) -> np.ndarray:
    """[3, 3] that rotates by `angle` degrees and scales about the centre, then shifts by shares of width and height."""
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    matrix[:2, 2] += right * width, down * height
    return matrix


def warp(frames: np.ndarray, masks: np.ndarray, matrix: np.ndarray, mask_mode: int = cv2.INTER_NEAREST) -> Arrays:
    """Applies one [3, 3] projective map to every frame and mask; outside is black background."""
    size = frames.shape[2], frames.shape[1]
    moved = [cv2.warpPerspective(np.ascontiguousarray(f), matrix, size, flags=cv2.INTER_LINEAR) for f in frames]
    return np.stack(moved), _each_mask(masks, lambda mask: cv2.warpPerspective(mask, matrix, size, flags=mask_mode))


def as_size(size: Size) -> tuple[int, int]:
    """(height, width) of a size given as one number or as two.

    Raises ValueError for anything else, and for more pixels than a frame on disk may have.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Iterable) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"size is {size!r}; expected one positive whole number or (height, width)")
    if pair[0] * pair[1] > MAX_PIXELS:
        raise ValueError(f"size is {pair[0]} x {pair[1]}; expected at most {MAX_PIXELS} pixels")
    return pair


def _resized(frames: np.ndarray, masks: np.ndarray, height: int, width: int, mask_mode: int) -> Arrays:
    unit = (cv2.resize(f.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_LINEAR) for f in frames)
    shrunk = np.stack([(255 * frame).astype(np.uint8) for frame in unit])
    return shrunk, _each_mask(masks, lambda mask: cv2.resize(mask, (width, height), interpolation=mask_mode))


def _each_mask(masks: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([np.stack([change(np.ascontiguousarray(mask)) for mask in clip]) for clip in masks])


def _saturate(frame: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    frame = cv2.addWeighted(frame, saturation, grey, 1 - saturation, 0)
    return shift_hue(frame, round(hue * 180), 0)


def shift_hue(frame: np.ndarray, hue: int, saturation: int) -> np.ndarray:
    """uint8 [H, W, 3] with `hue` (of 180 steps) and `saturation` (of 256) added."""
    if not hue and not saturation:
        return frame
    space = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2HSV)
    space[..., 0] = (space[..., 0].astype(np.int16) + hue) % 180
    space[..., 1] = np.clip(space[..., 1].astype(np.int16) + saturation, 0, 255)
    return cv2.cvtColor(space, cv2.COLOR_HSV2RGB)


def as_chance(value: float) -> float:
    """The probability, or the strength of a change, as a float. Raises ValueError outside of 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f"probability or strength is {value}; expected a number in 0..1")
    return float(value)


def _mask_mode(name: str) -> int:
    if name not in _MASK_MODES:
        raise ValueError(f'masks is {name!r}; expected "nearest" or "linear"')
    return _MASK_MODES[name]


def _interval(values: Sequence[float], name: str, low: float, high: float) -> tuple[float, float]:
    first, last = (float(v) for v in values)
    if not low <= first <= last <= high:
        raise ValueError(f"{name} is {tuple(values)}; expected an interval within {low}..{high}")
    return first, last
