"""The colour and sharpness part of the published augmentations of SSFormer and SvANet. Masks stay as they are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from lgrnet.data.still_transforms import Augmentation
from lgrnet.data.transforms import Arrays, as_chance

Changes = Sequence[tuple[str, float]]
_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


class RandomEnhance(Augmentation):
    """Contrast, brightness and sharpness in random order, each made stronger with probability 1/2 (SSFormer).

    strongest  the factor is drawn from 1 .. strongest
    """

    names = ("contrast", "brightness", "sharpness")

    def __init__(self, strongest: float = 1.1, probability: float = 0.5):
        self.strongest, self.probability = strongest, as_chance(probability)

    def draw(self, rng: random.Random, size: tuple[int, int]) -> list[tuple[str, float]]:
        """(what, factor) of every change, in order."""
        order = rng.sample(self.names, len(self.names))
        drawn = [(name, rng.random() < self.probability, rng.uniform(1.0, self.strongest)) for name in order]
        return [(name, factor) for name, chosen, factor in drawn if chosen]

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: Changes) -> Arrays:
        """Same shapes."""
        return enhance(frames, drawn), masks


class RandomBlur(Augmentation):
    """Pillow's Gaussian blur with a radius drawn from 0 .. `radius` (SvANet; SSFormer has it, but does not use it)."""

    def __init__(self, radius: float = 1.0, probability: float = 0.5):
        self.radius, self.probability = radius, as_chance(probability)

    def draw(self, rng: random.Random, size: tuple[int, int]) -> float | None:
        """The radius in pixels, None: nothing changes."""
        chosen, radius = rng.random() < self.probability, rng.uniform(0.0, self.radius)
        return radius if chosen else None

    def apply(self, frames: np.ndarray, masks: np.ndarray, drawn: float | None) -> Arrays:
        """Same shapes."""
        if drawn is None:
            return frames, masks
        blur = ImageFilter.GaussianBlur(drawn)
        return np.stack([np.array(Image.fromarray(frame).filter(blur)) for frame in frames]), masks


class PhotometricDistort(Augmentation):
    """Brightness, contrast, saturation, hue and order of the colour channels, each changed with probability 1/2;
    the contrast is changed before or after the colours (SvANet).

    brightness, contrast, saturation  the factor is drawn from 1 - value .. 1 + value
    hue                               the shift is drawn from -value .. value, in turns of the colour circle

    Of the two places for the contrast one is drawn, and there it has probability 1/2, as published.
    """

    def __init__(
        self,
        brightness: float = 0.125,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.05,
        probability: float = 0.5,
    ):
        self.ranges = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.hue, self.probability = hue, as_chance(probability)

    def draw(
        self, rng: random.Random, size: tuple[int, int]
    ) -> tuple[list[tuple[str, float]], tuple[int, int, int] | None]:
        """((what, factor or shift) of every change, in order; new order of the channels or None)."""
        early = rng.random() < 0.5
        order = ("brightness", "contrast", "saturation") if early else ("brightness", "saturation")
        factors = {name: rng.uniform(1 - reach, 1 + reach) for name, reach in self.ranges.items()}
        factors["hue"] = rng.uniform(-self.hue, self.hue)
        chosen = {name: rng.random() < self.probability for name in (*factors, "channels")}
        channels = tuple(rng.sample(range(3), 3))
        order = (*order, "hue") if early else (*order, "hue", "contrast")
        return [(name, factors[name]) for name in order if chosen[name]], channels if chosen["channels"] else None

    def apply(
        self, frames: np.ndarray, masks: np.ndarray, drawn: tuple[Changes, tuple[int, int, int] | None]
    ) -> Arrays:
        """Same shapes."""
        frames, channels = enhance(frames, drawn[0]), drawn[1]
        return (frames if channels is None else frames[..., list(channels)]), masks


def enhance(frames: np.ndarray, changes: Changes) -> np.ndarray:
    """frames uint8 [T, H, W, 3] after changes by Pillow, in order, each (what, amount).

    what    "brightness", "contrast", "saturation" or "sharpness" with a factor, or "hue" with a shift in -0.5..0.5
    """
    if not changes:
        return frames
    return np.stack([_enhanced(Image.fromarray(frame), changes) for frame in frames])


def _enhanced(picture: Image.Image, changes: Changes) -> np.ndarray:
    for name, amount in changes:
        picture = _turn_hue(picture, amount) if name == "hue" else _ENHANCERS[name](picture).enhance(amount)
    return np.array(picture)


def _turn_hue(picture: Image.Image, shift: float) -> Image.Image:
    """The hue of 256 steps moved by whole ones, towards zero, around the circle."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = (np.array(hue).astype(np.int32) + int(shift * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")
