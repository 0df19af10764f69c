"""From the scene of a phantom clip to its pictures: rays to the wall, light on wet tissue, and what the endoscope adds.

Pictures are float32 [H, W, 3] in 0..1, RGB, until the end. Rays are unit vectors; lengths are radii of the tube.
"""

from __future__ import annotations

import cv2
import numpy as np

from lgrnet.data.phantom_scene import LENGTH, TURN, Scene

FAR = 9.0  # what is farther is black


class Optics:
    """What belongs to the endoscope of a clip: rays, edge of the picture, light, noise, instrument.

    rays [3, H, W] float32, unit vectors in the camera's frame (right, down, forward)
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, num_frames: int):
        self.num_frames = num_frames
        self.scale = max(height, width)
        y, x = np.indices((height, width), dtype=np.float32)
        x = (x + np.float32(0.5 - width / 2)) / np.float32(self.scale / 2)
        y = (y + np.float32(0.5 - height / 2)) / np.float32(self.scale / 2)
        self.x, self.y = x, y
        # equidistant wide-angle lens: the angle to the axis grows with the distance from the middle
        reach = np.hypot(x, y)
        view = reach * np.float32(np.deg2rad(rng.uniform(50, 60)))
        side = np.sin(view) / np.maximum(reach, np.float32(1e-6))
        self.rays = np.stack([x * side, y * side, np.cos(view)])
        self.window = self._window(rng, reach)
        self.light = rng.uniform(0.85, 1.4)
        self.tone = np.array([1.0, rng.uniform(0.92, 1.03), rng.uniform(0.88, 1.05)], np.float32)
        self.sharpening = rng.uniform(0.3, 1.1)
        self.noise = rng.uniform(0.006, 0.016)
        self.instrument = Instrument(rng) if rng.random() < 0.45 else None
        self.bubbles = rng.uniform(-0.8, 0.8, (int(rng.integers(0, 4)), 6))

    def _window(self, rng: np.random.Generator, reach: np.ndarray) -> np.ndarray:
        """Brightness of the picture's field: darker outwards, and often black corners. [H, W] in 0..1"""
        fade = 1 - np.float32(rng.uniform(0.1, 0.35)) * reach**2 / 2
        kind = rng.choice(["full", "octagon", "circle"])
        if kind == "full":
            return fade
        edge = reach - 1.2 if kind == "circle" else (np.abs(self.x) + np.abs(self.y) - 1.72) / np.sqrt(2)
        inside = np.clip(0.5 - edge * (self.scale / 2), 0, 1).astype(np.float32)
        return fade * inside


class Instrument:
    """A sheath with two jaws that enters from the edge, passes over the wall and leaves."""

    def __init__(self, rng: np.random.Generator):
        self.heading = rng.uniform(0, TURN)
        self.middle = rng.uniform(0.15, 0.9)
        self.half = rng.uniform(0.12, 0.25)
        self.depth = rng.uniform(-0.25, 0.45)
        self.offset = rng.uniform(-0.3, 0.3)
        self.width = rng.uniform(0.08, 0.14)
        colours = ((0.75, 0.76, 0.80), (0.92, 0.92, 0.90), (0.25, 0.42, 0.70), (0.30, 0.30, 0.32))
        self.colour = np.array(colours[rng.integers(len(colours))], np.float32)

    def draw(self, optics: Optics, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(coverage [H, W], colour [H, W, 3], shadow [H, W]), or None when it is out of the picture."""
        push = 1 - ((time - self.middle) / self.half) ** 2
        if push <= 0:
            return None
        tip = 1.5 - (1.5 - self.depth) * np.sqrt(push)
        along, across = np.cos(self.heading), np.sin(self.heading)
        u = optics.x * np.float32(along) + optics.y * np.float32(across) - np.float32(tip)
        v = optics.y * np.float32(along) - optics.x * np.float32(across) - np.float32(self.offset)
        v = v + np.float32(0.08 * np.sin(3 * time)) * u
        soft = np.float32(optics.scale / 2)
        width = np.float32(self.width) * (0.85 + 0.35 * np.clip(u, 0, 2))
        jaw = np.clip(-u / 0.16, 0, 1)  # 0 on the sheath, 1 at the tip of the jaws
        gap = np.abs(v) - jaw * np.float32(0.05 + 0.03 * np.sin(9 * time))
        blade = np.float32(self.width) * 0.45 * np.sqrt(np.clip(1 - jaw, 0, 1))
        inside = np.where(u > 0, width - np.abs(v), np.where(u > -0.16, blade - np.abs(gap), -1))
        round_ = np.clip(np.where(u > 0, v / width, gap / np.maximum(blade, 1e-3)), -1, 1)
        shade = 0.25 + 0.75 * np.sqrt(1 - round_**2) * (0.9 + 0.1 * np.sin(u * 90) * (u > 0.05))
        gloss = np.exp(-(((round_ + 0.3) / 0.13) ** 2)) * 0.5
        falloff = 0.65 + 0.35 * np.clip(u + 0.2, 0, 1)
        colour = (shade[..., None] * self.colour + gloss[..., None]) * falloff[..., None]
        shadow = 1 - 0.35 * np.clip(1 - np.abs(v + 0.09) / (width * 1.4), 0, 1) * (u > -0.1)
        return np.clip(inside * soft + 0.5, 0, 1), colour, shadow


def render_frame(scene: Scene, optics: Optics, t: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frame `t`: uint8 [H, W, 3] and its mask uint8 [H, W] of 0 and 255."""
    time = t / max(optics.num_frames, 24)
    turn = scene.camera.rotation[t].astype(np.float32)
    # written out, because a matrix product may round differently with another number of threads
    rays = np.stack([row[0] * optics.rays[0] + row[1] * optics.rays[1] + row[2] * optics.rays[2] for row in turn])
    hit = Hit(scene, time, scene.camera.position[t].astype(np.float32), rays)
    image = _shade(scene, optics, hit)
    mask = hit.lesion <= 1
    drawn = optics.instrument.draw(optics, time) if optics.instrument else None
    if drawn:
        cover, colour, shadow = drawn
        image *= shadow[..., None].astype(np.float32)
        image += cover[..., None].astype(np.float32) * (colour.astype(np.float32) - image)
        mask &= cover < 0.5
    image = cv2.filter2D(image, -1, _blur_kernel(scene, optics, t), borderType=cv2.BORDER_REPLICATE)
    _add_bubbles(image, optics, time)
    # edge enhancement, which endoscopes have switched on
    soft = cv2.GaussianBlur(image, (0, 0), 0.5 + optics.scale / 200)
    image += np.float32(optics.sharpening) * (image - soft)
    image *= optics.window[..., None]
    mask &= optics.window > 0.3
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    image += grain * (np.float32(optics.noise) * (np.float32(1.3) - np.minimum(image, 1)))
    return (np.clip(image, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8), mask.astype(np.uint8) * 255


class Hit:
    """Where each pixel's ray meets the wall.

    distance [H, W] from the camera; z, angle [H, W] on the wall; lesion [H, W]: up to 1 inside of it
    facing   [H, W] cosine between the wall's normal, without fine relief, and the way back to the camera
    glint    [H, W] the same with fine relief, which is what highlights follow
    """

    def __init__(self, scene: Scene, time: float, origin: np.ndarray, rays: np.ndarray):
        wall = _wall(scene, time)
        coarse = np.ascontiguousarray(rays[:, ::2, ::2])
        start = _follow(scene, wall[..., 0], origin, coarse, np.float32(0.05), 40)
        # a pixel beside the edge of a fold must not start behind it
        start = cv2.erode(start, np.ones((3, 3), np.uint8)) * np.float32(0.97)
        start = cv2.resize(start, rays.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
        self.distance = _follow(scene, wall[..., 0], origin, rays, start, 12)
        x, y, self.z = (origin[i] + self.distance * rays[i] for i in range(3))
        cx, cy = scene.centre(self.z)
        x, y = x - cx, y - cy
        axial, self.angle = cv2.cartToPolar(x, y)
        axial = np.maximum(axial, np.float32(1e-3))
        x, y = x / axial, y / axial
        self.lesion = scene.lesion.distance(self.z, self.angle, time)
        slopes = _sample(wall, self.z, self.angle)
        self.relief = _sample(scene.relief, self.z, self.angle)
        outward = x * rays[0] + y * rays[1]
        around = (y * rays[0] - x * rays[1]) / axial
        self.facing = _cosine(outward, around, rays[2], slopes[..., 1], slopes[..., 2], axial)
        rough = 1 + np.clip((1 - self.lesion) * 3, 0, 1)  # a lesion's surface is coarser
        steep_z, steep_angle = (slopes[..., 1 + i] - rough * self.relief[..., i] for i in range(2))
        self.glint = _cosine(outward, around, rays[2], steep_z, steep_angle, axial)


def _cosine(outward, around, along, slope_z, slope_angle, axial) -> np.ndarray:
    """Cosine between the wall's inward normal (-1, slope_angle / axial, slope_z) and the reversed ray. [H, W]"""
    length = np.sqrt(1 + (slope_angle / axial) ** 2 + slope_z**2)
    return (outward + around * slope_angle - along * slope_z) / length


def _wall(scene: Scene, time: float) -> np.ndarray:
    """Radius and its slopes along z and around, with the lesion of this moment. [r, c, 3] float32"""
    radius = scene.radius.copy()
    rows, columns = radius.shape
    cell = np.float32(TURN / columns)
    top, bottom = (int((scene.lesion.z + side) / LENGTH * rows) for side in (-0.9, 0.9))
    left, right = (int((np.pi + side) / TURN * columns) for side in (-0.9, 0.9))
    z = np.repeat((np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5) * cell, right - left, 1)
    angle = np.repeat((np.arange(left, right, dtype=np.float32)[None] + 0.5) * cell, bottom - top, 0)
    inward = np.clip((1 - scene.lesion.distance(z, angle, time)) / np.float32(0.85), 0, 1)
    bump = np.sqrt(1 - (1 - inward) ** 2) ** np.float32(1.2) * np.float32(scene.lesion.moment(time)[3])
    radius[top:bottom, left:right] -= bump
    wall = np.empty((rows, columns, 3), np.float32)
    wall[..., 0] = radius
    wall[..., 1] = cv2.Sobel(radius, cv2.CV_32F, 0, 1, ksize=1) / (2 * cell)
    wall[..., 2] = cv2.Sobel(radius, cv2.CV_32F, 1, 0, ksize=1) / (2 * cell)
    return wall


def _sample(wall_map: np.ndarray, z: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Read a map of the wall [R, C(, N)] at points [H, W], bilinearly."""
    rows, columns = wall_map.shape[:2]
    x = angle * np.float32(columns / TURN) - np.float32(0.5)
    y = np.clip(z * np.float32(rows / LENGTH) - np.float32(0.5), 0, rows - 1)
    return cv2.remap(wall_map, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _follow(scene: Scene, radius: np.ndarray, origin: np.ndarray, rays: np.ndarray, start, steps: int) -> np.ndarray:
    """Sphere tracing (Hart 1996): the room to the wall bounds the step; 0.45 because the wall is steep. [H, W]"""
    distance = np.zeros(rays.shape[1:], np.float32) + start
    for _ in range(steps):
        x, y, z = (origin[i] + distance * rays[i] for i in range(3))
        cx, cy = scene.centre(z)
        axial, angle = cv2.cartToPolar(x - cx, y - cy)
        distance += np.float32(0.45) * (_sample(radius, z, angle) - axial)
        np.clip(distance, 0.02, FAR, out=distance)
    return distance


def _shade(scene: Scene, optics: Optics, hit: Hit) -> np.ndarray:
    """Light from the camera on wet tissue. [H, W, 3]"""
    albedo = _sample(scene.albedo, hit.z, hit.angle)
    # little but red comes back from the depth of the tube
    albedo[..., 1:] *= (np.float32(0.72) + np.float32(0.28) * np.exp(np.float32(-0.45) * hit.distance))[..., None]
    grain = hit.relief[..., 3:]
    inside = np.clip((np.float32(1.08) - hit.lesion) / np.float32(0.4), 0, 1)[..., None]
    tissue = albedo * np.float32(0.5) + scene.tissue * np.float32(0.5)
    albedo += inside * (tissue * scene.lesion.tint * (1 + np.array([0.07, 0.16, 0.16], np.float32) * grain) - albedo)
    crease = 1 - np.float32(0.15) * np.exp(-(((hit.lesion - np.float32(1.05)) / np.float32(0.12)) ** 2))
    falloff = 1 / (np.float32(0.15) + hit.distance ** np.float32(1.75))
    facing = np.clip(hit.facing * np.float32(0.55) + hit.glint * np.float32(0.45), 0, 1)
    # light that wanders through the tube reaches the crests of folds, and less the pockets between them
    pocket = np.exp(np.float32(1.3) * (np.float32(0.88) - _sample(scene.radius, hit.z, hit.angle)))
    light = (np.float32(0.4) + np.float32(0.6) * facing ** np.float32(0.8)) * falloff * crease * pocket
    # automatic gain: the endoscope keeps the picture's mean brightness, but not wholly
    gain = np.float32(optics.light * 1.15) / (light.mean() + np.float32(0.25)) * np.float32(1.3)
    image = 1 - np.exp(-(gain * light)[..., None] * albedo * optics.tone * np.float32(1.25))
    image = image ** np.float32(0.85)
    wet = np.clip(hit.glint, 0, 1)
    shine = (wet ** np.float32(420) * 2.6 + wet ** np.float32(30) * 0.07) * hit.relief[..., 2]
    shine *= np.sqrt(np.minimum(gain * falloff, np.float32(4)))
    image += np.minimum(shine, 1)[..., None] * (np.array([1.0, 0.98, 0.95], np.float32) - image)
    return image


def _blur_kernel(scene: Scene, optics: Optics, t: int) -> np.ndarray:
    """A line along the picture's motion during a quarter of the frame time, softened by the lens."""
    rotation = scene.camera.rotation
    change = rotation[min(t + 1, len(rotation) - 1), :, 2] - rotation[max(t - 1, 0), :, 2]
    pixels = change @ rotation[t][:, :2] / 2 * optics.scale * 0.1
    length = np.linalg.norm(pixels)
    pixels *= min(1.0, 0.025 * optics.scale / max(length, 1e-9)) / 2
    soft = 0.3 + 0.0008 * optics.scale
    reach = int(np.ceil(np.abs(pixels).max() + 2 * soft))
    y, x = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    nearest = np.clip((x * pixels[0] + y * pixels[1]) / max((pixels**2).sum(), 1e-9), -1, 1)
    kernel = np.exp(-((x - nearest * pixels[0]) ** 2 + (y - nearest * pixels[1]) ** 2) / (2 * soft**2))
    return (kernel / kernel.sum()).astype(np.float32)


def _add_bubbles(image: np.ndarray, optics: Optics, time: float) -> None:
    """Bubbles that drift in front of the wall: a bright rim, a highlight, hardly anything between. In place."""
    for x, y, drift_x, drift_y, sway, size in optics.bubbles:
        x = x + drift_x * time + 0.05 * np.sin(TURN * (time + sway))
        y = y + drift_y * time
        size = 0.03 + 0.05 * abs(size)
        away = np.hypot(optics.x - np.float32(x), optics.y - np.float32(y)) / np.float32(size)
        rim = 0.45 * np.exp(-(((away - 0.88) / 0.1) ** 2)) * (0.6 + 0.4 * np.sign(optics.y - np.float32(y)))
        spot = np.hypot(optics.x - np.float32(x + 0.35 * size), optics.y - np.float32(y + 0.3 * size))
        cover = np.maximum(rim, 0.9 * np.exp(-((spot / np.float32(0.16 * size)) ** 2))) + 0.06 * (away < 0.9)
        image += cover[..., None].astype(np.float32) * (np.float32(0.95) - image)
