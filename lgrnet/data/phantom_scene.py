"""The scene of one phantom clip: a folded tube with vessels, one lesion on its wall, and the camera's way through it.

Lengths are in mean radii of the tube. The wall is a function radius(z, angle) over the unrolled tube, z along the
centre line and the angle around it; all maps are [rows along z, columns around], and the angle is periodic.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

TURN = 2 * np.pi
LENGTH = 2 * TURN  # of the tube; twice its circumference, so that a map has twice as many rows as columns
TISSUES = ((0.86, 0.42, 0.28), (0.88, 0.46, 0.26), (0.82, 0.38, 0.27), (0.88, 0.52, 0.31), (0.80, 0.32, 0.21))


@dataclass(frozen=True)
class Lesion:
    """A rounded bump on the wall at (z, angle pi); sizes are half axes in radii, `pulse` its slow deformation."""

    z: float
    axes: tuple[float, float]
    height: float
    turn: float
    lobes: tuple[float, float, float]
    pulse: tuple[float, float]
    tint: np.ndarray

    def moment(self, time: float) -> tuple[float, float, float, float]:
        """(z, half axis along, half axis around, height) at `time` in 0..1 of the clip."""
        wave = np.sin(TURN * (self.pulse[0] * time + self.pulse[1]))
        return (
            self.z + 0.05 * wave,
            self.axes[0] * (1 + 0.12 * wave),
            self.axes[1] * (1 - 0.10 * wave),
            self.height * (1 + 0.15 * np.sin(TURN * (1.7 * self.pulse[0] * time + 2 * self.pulse[1]))),
        )

    def distance(self, z: np.ndarray, angle: np.ndarray, time: float) -> np.ndarray:
        """How far wall points are from the lesion's middle, 1 on its border. [H, W] float32 each."""
        middle, along, around, _ = self.moment(time)
        u, v = (z - np.float32(middle)) / np.float32(along), (angle - np.float32(np.pi)) / np.float32(around)
        length, turn = cv2.cartToPolar(u, v)
        a, b, phase = (np.float32(x) for x in self.lobes)
        return length / (1 + a * np.cos(2 * turn + np.float32(self.turn)) + b * np.cos(3 * turn + phase))


@dataclass(frozen=True)
class Camera:
    """Where the camera is and where it looks: position [T, 3], rotation [T, 3, 3] (columns right, down, forward)."""

    position: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True)
class Scene:
    """Everything about a clip that does not change from frame to frame.

    radius  [r, c] float32, the wall without its lesion
    albedo  [R, C, 3] float32 in 0..1, RGB
    tissue  [3] float32, the wall's mean colour
    relief  [R, C, 4] float32: slopes of the fine relief along z and around, wetness, grain of the lesion's surface
    bend    amplitudes, wave numbers and phases of the centre line, [3, 2]
    """

    radius: np.ndarray
    albedo: np.ndarray
    tissue: np.ndarray
    relief: np.ndarray
    bend: np.ndarray
    lesion: Lesion
    camera: Camera

    def centre(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The centre line's (x, y) at z."""
        (ax, ay), (kx, ky), (px, py) = self.bend.astype(np.float32)
        return ax * np.sin(kx * z + px), ay * np.sin(ky * z + py)


def generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    """Random numbers that depend on the data set's seed, the clip and what they are for, and on nothing else."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, purpose])))


def build_scene(seed: int, index: int, num_frames: int, size: int) -> Scene:
    """The scene of clip `index`. `size` sets how fine the maps are, not what is on them."""
    rng = generator(seed, index, 0)
    columns = 192 * int(np.clip(round(size / 64), 1, 8))
    bend = np.array([rng.uniform(0.1, 0.3, 2), rng.uniform(0.3, 0.7, 2), rng.uniform(0, TURN, 2)])
    lesion = _lesion(rng)
    camera = _camera(rng, lesion, bend, num_frames)
    radius = _radius(generator(seed, index, 1), columns // 2, lesion)
    albedo, relief = _surface(generator(seed, index, 2), columns, lesion)
    tissue = albedo[::8, ::8].mean(axis=(0, 1))
    return Scene(radius, albedo, tissue, relief, bend, lesion, camera)


def _lesion(rng: np.random.Generator) -> Lesion:
    size = rng.uniform(0.30, 0.46)
    stretch = rng.uniform(0.85, 1.2)
    # redder, paler or browner than the wall around it
    tints = ((1.02, 0.76, 0.77), (1.06, 1.14, 1.18), (0.93, 0.72, 0.70), (1.05, 0.83, 0.84))
    return Lesion(
        z=float(rng.uniform(4.9, 5.1)),
        axes=(size * stretch, size / stretch),
        height=size * rng.uniform(0.65, 0.95),
        turn=float(rng.uniform(0, TURN)),
        lobes=(float(rng.uniform(0, 0.14)), float(rng.uniform(0, 0.09)), float(rng.uniform(0, TURN))),
        pulse=(float(rng.uniform(0.8, 1.8)), float(rng.uniform(0, 1))),
        tint=np.array(tints[rng.integers(len(tints))], np.float32),
    )


def _away(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """How far the view has left the lesion at each frame, 0..1: one absence, somewhere inside the clip. [T]"""
    time = (np.arange(num_frames) + 0.5) / num_frames
    middle, half = rng.uniform(0.3, 0.75), rng.uniform(0.02, 0.045)
    ramp = 0.09
    x = np.clip((half + ramp - np.abs(time - middle)) / ramp, 0, 1)
    return x * x * (3 - 2 * x)


def _wander(rng: np.random.Generator, time: np.ndarray, amplitude: float) -> np.ndarray:
    """A smooth random motion. [T]"""
    speeds, phases = rng.uniform(0.4, 1.6, 3), rng.uniform(0, TURN, 3)
    return amplitude * np.sin(TURN * speeds[:, None] * time + phases[:, None]).mean(axis=0) * 1.5


def _camera(rng: np.random.Generator, lesion: Lesion, bend: np.ndarray, num_frames: int) -> Camera:
    """Approach, look at the lesion beside the lumen, lose it (turned away or driven past it), come back."""
    time = np.arange(num_frames) / max(num_frames, 24)
    away = _away(rng, num_frames)
    past = rng.random() < 0.4
    depth = rng.uniform(0.6, 0.95) + _wander(rng, time, 0.25)
    z = lesion.z - depth + away * (depth + 0.55 if past else 0.0)
    side = np.stack([_wander(rng, time, 0.22) - (0.25 if past else 0.0) * -away, _wander(rng, time, 0.22)], 1)
    centre = bend[0] * np.sin(bend[1] * z[:, None] + bend[2])
    position = np.concatenate([centre + side, z[:, None]], 1)
    spot = bend[0] * np.sin(bend[1] * lesion.z + bend[2]) + [-(1 - 0.5 * lesion.height), 0]
    to_lesion = _unit(np.append(spot, lesion.z) - position)
    ahead = z[:, None] + 2.2
    to_lumen = _unit(np.concatenate([bend[0] * np.sin(bend[1] * ahead + bend[2]), ahead], 1) - position)
    share = np.clip(rng.uniform(0.5, 0.95) + _wander(rng, time, 0.2), 0.35, 1.0)[:, None]
    aside = to_lumen if past else _unit(to_lumen * 0.7 + [0.9, 0, 0])
    forward = _unit(to_lesion * share + to_lumen * (1 - share)) * (1 - away[:, None]) + aside * away[:, None]
    forward = _unit(forward + np.stack([_wander(rng, time, 0.12) for _ in range(3)], 1))
    roll = rng.uniform(0, TURN) + _wander(rng, time, 0.25)
    up = np.stack([np.cos(roll), np.sin(roll), np.zeros_like(roll)], 1)
    right = _unit(np.cross(up, forward))
    return Camera(position, np.stack([right, np.cross(forward, right), forward], 2))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _noise(rng: np.random.Generator, columns: int, cells: int) -> np.ndarray:
    """Smooth noise with `cells` cells around the tube, mean 0, deviation about 1. [2 * columns, columns] float32"""
    grid = rng.standard_normal((2 * cells, cells), dtype=np.float32)
    if cells >= columns:
        return cv2.resize(grid, (columns, 2 * columns), interpolation=cv2.INTER_AREA)
    factor = columns // cells
    grid = np.pad(np.pad(grid, ((0, 0), (2, 2)), mode="wrap"), ((2, 2), (0, 0)), mode="edge")
    fine = cv2.resize(grid, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return fine[2 * factor : -2 * factor, 2 * factor : -2 * factor] * np.float32(1.3)


def _radius(rng: np.random.Generator, columns: int, lesion: Lesion) -> np.ndarray:
    """Haustra and the folds between them: crescents that take a part of the circumference each."""
    z = (np.arange(2 * columns, dtype=np.float32)[:, None] + 0.5) * np.float32(TURN / columns)
    angle = (np.arange(columns, dtype=np.float32)[None] + 0.5) * np.float32(TURN / columns)
    radius = 1.04 + 0.035 * _noise(rng, columns, 6) + 0.012 * _noise(rng, columns, 24)
    sides = rng.uniform(0, TURN)
    place = rng.uniform(0, 0.5)
    while place < LENGTH:
        tilt, lean = rng.uniform(0.05, 0.35), rng.uniform(0, TURN)
        height, width = rng.uniform(0.18, 0.5), rng.uniform(0.12, 0.26)
        # three bands of muscle run along the colon: folds are high between them
        reach = 0.55 + 0.45 * np.cos(3 * angle + sides + rng.uniform(-0.6, 0.6))
        reach = reach * (0.62 + 0.38 * np.cos(angle + rng.uniform(0, TURN)))
        offset = z - place - tilt * np.cos(angle + lean) - 0.06 * np.cos(4 * angle + 2 * lean)
        # the side that faces the camera is steeper
        slope = np.where(offset < 0, 1.0, 0.6).astype(np.float32)
        radius -= height * reach * np.exp(-(np.abs(offset * slope / width) ** 2.4))
        place += rng.uniform(0.5, 1.3)
    # the lesion sits beside the folds, hardly on them: on a crest its sides would meet in an edge
    level = np.exp(-(((z - lesion.z) / 0.6) ** 2 + ((angle - np.pi) / 0.65) ** 2)).astype(np.float32)
    radius += np.float32(0.85) * level * (1 - radius)
    return np.maximum(radius, 0.35).astype(np.float32)


def _vessels(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Branching vessels, drawn as random walks. [2 * columns, columns] float32 in 0..1"""
    drawn = np.zeros((2 * columns, columns), np.uint8)
    pixel = columns / TURN
    for _ in range(int(rng.integers(90, 220))):
        start = rng.uniform(0, 1, 2) * [TURN, LENGTH]
        branches = [(start, rng.uniform(0, TURN), rng.uniform(0.006, 0.026))]
        while branches:
            place, heading, width = branches.pop()
            steps = int(rng.integers(8, 22))
            turns = heading + np.cumsum(rng.normal(0, 0.22, steps))
            path = place + np.cumsum(0.055 * np.stack([np.cos(turns), np.sin(turns)], 1), 0)
            for shift in (-TURN, 0, TURN):
                points = np.rint(((path + [shift, 0]) * pixel) * 16).astype(np.int32)
                thick = max(1, round(width * pixel))
                cv2.polylines(drawn, [points], False, int(min(255, 9000 * width)), thick, cv2.LINE_AA, 4)
            if width > 0.006:
                for _ in range(2):
                    fork = int(rng.integers(steps // 3, steps))
                    branches.append((path[fork], turns[fork] + rng.choice([-0.8, 0.8]), width * 0.62))
    return cv2.GaussianBlur(drawn, (0, 0), 0.006 * pixel + 0.3).astype(np.float32) / 255


def _bubbles(rng: np.random.Generator, columns: int) -> np.ndarray:
    """Heights of clustered bubbles that stick to the wall. [2 * columns, columns] float32"""
    pixel = columns / TURN
    height = np.zeros((2 * columns, columns), np.float32)
    for _ in range(int(rng.integers(0, 12))):
        middle = rng.uniform(0.2, 0.8, 2) * [TURN, LENGTH]
        for _ in range(int(rng.integers(3, 14))):
            x, y = (middle + rng.normal(0, 0.12, 2)) * pixel
            reach = rng.uniform(0.015, 0.05) * pixel
            left, top = int(x - reach), int(y - reach)
            box = height[max(top, 0) : max(int(y + reach) + 2, 0), max(left, 0) : max(int(x + reach) + 2, 0)]
            rows, cols = np.indices(box.shape)
            inside = 1 - ((cols + max(left, 0) - x) ** 2 + (rows + max(top, 0) - y) ** 2) / reach**2
            np.maximum(box, np.sqrt(np.maximum(inside, 0)) * reach / pixel * 0.8, out=box, casting="unsafe")
    return height


def _surface(rng: np.random.Generator, columns: int, lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """Colour and fine relief of the wall: `albedo` and `relief` of the Scene."""
    tissue = np.array(TISSUES[rng.integers(len(TISSUES))]) * rng.uniform(0.93, 1.07, 3)
    blotch = 0.6 * _noise(rng, columns, 6) + 0.4 * _noise(rng, columns, 24)
    speck = 0.6 * _noise(rng, columns, 96) + 0.4 * _noise(rng, columns, 192)
    vessels = _vessels(rng, columns) * np.clip(
        0.6 + 0.5 * _noise(rng, columns, 12) + 0.25 * _noise(rng, columns, 48), 0, 1
    )
    bubbles = _bubbles(rng, columns)
    red = 0.07 * blotch + 0.035 * speck
    albedo = np.empty((2 * columns, columns, 3), np.float32)
    strength = rng.uniform(0.4, 1.0)
    for channel, (blush, vein) in enumerate(((0.25, 0.22), (-1.0, 0.62), (-0.9, 0.5))):
        albedo[..., channel] = tissue[channel] * (1 + blush * red) * (1 - strength * vein * vessels)
    mucus = (
        np.clip(_noise(rng, columns, 12) + 0.4 * _noise(rng, columns, 48) - rng.uniform(1.3, 3.0), 0, 1) ** 1.3 * 0.7
    )
    albedo += mucus[..., None] * (np.array([0.90, 0.60, 0.24], np.float32) - albedo)
    albedo += np.clip(bubbles * 8, 0, 0.12)[..., None] * (np.float32(0.9) - albedo)
    grain = 0.4 * _noise(rng, columns, 192) + 0.5 * _noise(rng, columns, 96) + 0.4 * _noise(rng, columns, 48)
    height = 0.014 * _noise(rng, columns, 24) + 0.009 * _noise(rng, columns, 48) + 0.0022 * speck
    height += bubbles + 0.004 * vessels
    scale = np.float32(columns / TURN / 2)
    relief = np.empty((2 * columns, columns, 4), np.float32)
    relief[..., 0] = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1) * scale
    relief[..., 1] = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1) * scale
    relief[..., 2] = np.clip(0.45 + 0.6 * _noise(rng, columns, 24), 0.02, 1.4)
    relief[..., 3] = grain
    return np.clip(albedo, 0.02, 1), relief
