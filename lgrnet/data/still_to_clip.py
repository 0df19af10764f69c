"""A clip made from a still image, so that data sets of single pictures train a video model."""

from __future__ import annotations

import random

import cv2
import numpy as np

from lgrnet.data.transforms import Arrays, affine_matrix, shift_hue, warp


class StillToClip:
    """One picture and num_frames - 1 distorted versions of it, in random order (LGRNet's clips from Kvasir stills).

    Each version is made from the original: one or both of a brightness change (-40..40) and then a shift of saturation
    (-5..5) and of hue by the same value (-5..5 of 255, so -3..3 of 180 steps); a change of perspective (corners move
    inwards by |N(0, 0.08)| of the sides); a shift by up to 10 % and a rotation by up to 20 degrees; with probability
    0.25 a motion blur of 9 or 11 pixels, whose weights rise or fall along its line.

    The published one is imgaug's SomeOf, Add, AddToHueAndSaturation, PerspectiveTransform, Affine and MotionBlur, with
    the defaults of imgaug 0.4 for what is not said above. It is seeded from the clock, so it can be followed in
    distribution only. Perspective and rotation are one interpolation here.
    """

    def __init__(self, num_frames: int = 6, perspective: float = 0.08, degrees: float = 20.0, translate: float = 0.1):
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}; expected at least 1")
        self.num_frames, self.perspective, self.degrees, self.translate = num_frames, perspective, degrees, translate

    def __call__(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        """frames [1, H, W, 3] and masks [K, 1, H, W] as [T, H, W, 3] and [K, T, H, W].

        Raises ValueError for clips that have more than one frame.
        """
        if len(frames) != 1:
            raise ValueError(f"StillToClip got a clip of {len(frames)} frames, expected 1; use the sampler Single()")
        versions = [(frames, masks)] + [self._distort(frames, masks, rng) for _ in range(self.num_frames - 1)]
        rng.shuffle(versions)
        return np.concatenate([f for f, _ in versions]), np.concatenate([m for _, m in versions], axis=1)

    def _distort(self, frames: np.ndarray, masks: np.ndarray, rng: random.Random) -> Arrays:
        frames = _recolour(frames[0], rng)[None]
        height, width = frames.shape[1:3]
        angle = rng.uniform(-self.degrees, self.degrees)
        right, down = (rng.uniform(-self.translate, self.translate) for _ in range(2))
        matrix = affine_matrix(height, width, angle, 1.0, right, down) @ self._perspective(height, width, rng)
        frames, masks = warp(frames, masks, matrix)
        if rng.random() < 0.25:
            kernel = _motion_kernel(rng.choice((9, 11)), rng.uniform(0, 360), rng.random())
            frames = cv2.filter2D(frames[0], -1, kernel)[None]
        return frames, masks

    def _perspective(self, height: int, width: int, rng: random.Random) -> np.ndarray:
        """[3, 3] that blows a slightly irregular inner quadrilateral up to the whole picture."""
        whole = np.float32([(0, 0), (1, 0), (1, 1), (0, 1)])
        inwards = np.float32([[min(abs(rng.gauss(0, self.perspective)), 0.4) for _ in range(2)] for _ in range(4)])
        if min(height, width) < 2:
            return np.eye(3)  # a line has no quadrilateral
        side = np.float32([width - 1, height - 1])
        return cv2.getPerspectiveTransform((whole + inwards * np.sign(0.5 - whole)) * side, whole * side)


def _recolour(frame: np.ndarray, rng: random.Random) -> np.ndarray:
    changes = rng.sample(("brightness", "hue"), rng.randint(1, 2))
    if "brightness" in changes:
        frame = np.clip(frame.astype(np.int16) + rng.randint(-40, 40), 0, 255).astype(np.uint8)
    if "hue" in changes:
        step = rng.randint(-5, 5)
        frame = shift_hue(frame, int(step / 255 * 180), step)
    return frame


def _motion_kernel(size: int, angle: float, start: float) -> np.ndarray:
    """[size, size] of sum 1: a line through the centre at `angle` degrees, with weights from `start` to 1 - `start`."""
    line = np.zeros((size, size), np.float32)
    line[size // 2] = np.linspace(start, 1 - start, size)
    turn = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, 1.0)
    line = cv2.warpAffine(line, turn, (size, size))
    return line / line.sum()
