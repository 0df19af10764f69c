"""Small clean data sets, and a register of what is planted in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

SIZE = (96, 128)  # height, width


@dataclass(frozen=True)
class Planted:
    """A defect: what is done to a clean set, and what is to be found.

    base     which clean set
    paths    of the code; followers: (code, path) of what comes with it
    options  of `run.check`
    """

    code: str
    make: Callable[[Path], None]
    paths: tuple[str, ...]
    base: str = "videos"
    followers: tuple[tuple[str, str], ...] = ()
    options: dict = field(default_factory=dict)

    @property
    def expected(self) -> list[tuple[str, str]]:
        return sorted([*((self.code, path) for path in self.paths), *self.followers])


PLANTS: list[Planted] = []


def plant(code: str, *paths: str, base: str = "videos", followers=(), **options):
    """Registers a function as what plants `code`."""

    def register(make):
        PLANTS.append(Planted(code, make, paths, base, tuple(followers), options))
        return make

    return register


def texture(seed: int, height: int = 200, width: int = 300) -> np.ndarray:
    """A smooth random picture uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5)
    return np.uint8(np.clip(110 + 60 * smooth / smooth.std(), 0, 255))


def frame_of(seed: int, t: int) -> np.ndarray:
    """Frame t of a slow pan over a texture."""
    return texture(seed)[t : t + SIZE[0], 2 * t : 2 * t + SIZE[1]]


def disc(t: int = 0) -> np.ndarray:
    """A mask of 0 and 255."""
    mask = np.zeros(SIZE, np.uint8)
    return cv2.circle(mask, (60 + t, 45), 18, 255, -1)


def save(path: Path, pixels: np.ndarray | Image.Image, **how) -> None:
    """A picture in the format of its ending; JPEG at quality 95."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}) | how)


def video(split: Path, name: str, seed: int, frames: int = 4, ending: str = ".jpg") -> None:
    """One video of the layout."""
    for t in range(frames):
        save(split / "Frame" / name / f"{t:03d}{ending}", frame_of(seed, t))
        save(split / "GT" / name / f"{t:03d}.png", disc(t))


def videos(root: Path) -> None:
    """Two splits of three videos."""
    video(root / "train", "v1", 1, 10)
    video(root / "train", "v2", 2)
    video(root / "test", "v3", 3)


def stills(root: Path) -> None:
    """Images and masks, with an empty mask in none of them."""
    for i in range(4):
        save(root / "images" / f"p{i}.png", frame_of(20 + i, 0))
        save(root / "masks" / f"p{i}.png", disc(i))


def nested(root: Path) -> None:
    """<video>/Frame and <video>/GT, masks as palette pictures of class values."""
    for name in ("one", "two"):
        for t in range(3):
            save(root / name / "Frame" / f"{t:02d}.jpg", frame_of(30 + len(name) + ord(name[0]), t))
            image = Image.fromarray(disc(t) // 255 * 2 + np.uint8(disc(t + 40) > 0))
            image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
            save(root / name / "GT" / f"{t:02d}.png", image)


def sunseg(root: Path) -> None:
    """The folders of SUN-SEG with a clip or two each; only the numbers of clips differ from the published ones."""
    for split, clips in (
        ("TrainDataset", ("case1_1", "case2")),
        ("TestEasyDataset/Seen", ("case1_2",)),
        ("TestEasyDataset/Unseen", ("case3",)),
    ):
        for clip in clips:
            for t in range(3):
                name = f"case_M_2018_a2_ayy_image{t:04d}"
                save(root / split / "Frame" / clip / f"{clip}{name}.jpg", frame_of(sum(map(ord, clip)), t))
                save(root / split / "GT" / clip / f"{clip}{name}.png", disc(t))


COUNTS = [("D224", p) for p in ("TestEasyDataset/Seen", "TestEasyDataset/Unseen", "TrainDataset")]
"""What is said of `sunseg`, which has fewer clips than the published set."""


def coco(root: Path) -> None:
    """Pictures with a COCO file that has a polygon and a run-length mask."""
    for i in range(3):
        save(root / "images" / f"p{i}.jpg", frame_of(40 + i, 0))
    images = [{"id": i, "file_name": f"p{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(3)]
    polygon = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 10, 20, 20]}
    polygon["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]
    runs = {"size": list(SIZE), "counts": [100, 50, SIZE[0] * SIZE[1] - 150]}
    rle = {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 4, 1, 50], "segmentation": runs}
    data = {"images": images, "annotations": [polygon, rle], "categories": [{"id": 1, "name": "polyp"}]}
    (root / "annotations.json").write_text(json.dumps(data))


def tracks(root: Path) -> None:
    """Two frames with a YouTube-VIS file."""
    for t in range(2):
        save(root / "JPEGImages/v" / f"{t:05d}.jpg", frame_of(50, t))
    data = {
        "videos": [{"id": 1, "height": 96, "width": 128, "file_names": ["v/00000.jpg", "v/00001.jpg"]}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [None, None], "bboxes": [None] * 2}
        ],
        "categories": [{"id": 1, "name": "polyp"}],
    }
    (root / "instances.json").write_text(json.dumps(data))


def write_film(path: Path, sizes=(SIZE,) * 12, codec: str = "mpeg4", rate: int = 12) -> None:
    """A video file with a frame of each of these sizes; the codec takes what fits the first."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = sizes[0]
        stream.pix_fmt = "yuv420p"
        for t, size in enumerate(sizes):
            pixels = cv2.resize(frame_of(60, t), size[::-1])
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def films(root: Path) -> None:
    """One video file."""
    root.mkdir(parents=True, exist_ok=True)
    write_film(root / "film.avi")


BASES = {f.__name__: f for f in (videos, stills, nested, sunseg, coco, tracks, films)}


def copies(tmp: Path) -> Callable[[str, Path], Path]:
    """Gives copies of clean sets, each of which is made once in `tmp`."""

    def copy(base: str, to: Path) -> Path:
        if not (tmp / base).exists():
            BASES[base](tmp / base)
        return Path(shutil.copytree(tmp / base, to))

    return copy
