"""Defects of frames and masks, of copies and splits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tools.data_sets import SIZE, disc, frame_of, plant, save, video

F, G = "train/Frame/v1/", "train/GT/v1/"
MASK = G + "001.png"


def put(root: Path, pixels: np.ndarray | Image.Image, name: str = MASK, **how) -> None:
    """A picture in place of one of the set."""
    save(root / name, pixels, **how)


def replace_frame(code: str, pixels: np.ndarray | Image.Image, followers=(), **how) -> None:
    """Registers a frame that is replaced together with its mask's size."""
    path = F + "001.jpg"
    plant(code, path, followers=followers)(lambda root: put(root, pixels, path, **how))


def replace_mask(code: str, pixels: np.ndarray | Image.Image, followers=(), options=None, **how) -> None:
    """Registers a mask that is replaced."""
    plant(code, MASK, followers=followers, **(options or {}))(lambda root: put(root, pixels, **how))


picture = Image.fromarray(frame_of(1, 1))
replace_frame("D070", picture.convert("CMYK"))
replace_frame("D071", picture.convert("L"))
wrong_ending = [("D014", F + "001.jpg")]
replace_frame("D072", np.uint16(np.array(picture.convert("L"))) * 257, wrong_ending, format="PNG", quality=None)
replace_frame("D073", picture.convert("RGBA"), wrong_ending, format="PNG", quality=None)
replace_frame("D074", picture.convert("P"), wrong_ending, format="PNG", quality=None)
replace_frame("D075", np.full((*SIZE, 3), 120, np.uint8))
replace_frame("D076", np.full((*SIZE, 3), 3, np.uint8))
combed = frame_of(1, 1).copy()
combed[::2] = frame_of(9, 1)[::2]
replace_frame("D077", combed)
replace_frame("D083", np.repeat(disc()[..., None], 3, 2))


@plant("D078", "images/p0.png", base="stills")
def long_strip(root):
    save(root / "images/p0.png", frame_of(20, 0)[:32, :129].repeat(2, 1)[:, : 129 * 2])
    save(root / "masks/p0.png", disc()[:32, :].repeat(2, 1))


@plant("D079", "images/p0.png", base="stills")
def tiny(root):
    save(root / "images/p0.png", frame_of(20, 0)[:30, :40])
    save(root / "masks/p0.png", disc()[30:60, 40:80])


@plant("D080", "images/p0.png", base="stills")
def several_pictures(root):
    pages = [Image.fromarray(frame_of(20, t)) for t in range(3)]
    pages[0].save(root / "images/p0.png", save_all=True, append_images=pages[1:])


@plant("D080", "masks/p0.png", base="stills")
def several_masks(root):
    pages = [Image.fromarray(disc(t)).convert("RGB") for t in range(3)]
    pages[0].save(root / "masks/p0.png", save_all=True, append_images=pages[1:])


rng = np.random.default_rng(0)
ones = disc() // 255
edges = disc().copy()
edges[25:30, 55:65] = 90
soft = np.uint8(np.clip(255 - 6 * np.hypot(*np.mgrid[-45:51, -60:68]), 0, 255))
replace_mask("D101", edges)
replace_mask("D102", soft)
replace_mask("D103", ones)
replace_mask("D104", np.repeat(disc()[..., None], 3, 2))
replace_mask("D105", np.stack([disc(), disc(20), disc(40)], 2))
rising = Image.fromarray(disc(1))
rising.putpalette([v for i in range(256) for v in (i, i, i)])
replace_mask("D106", rising)
falling = Image.fromarray(disc(1))
falling.putpalette([v for i in range(256) for v in (255 - i,) * 3])
replace_mask("D107", falling)
replace_mask("D108", np.uint16(disc(1)))
replace_mask("D109", np.uint16(disc(1)) * 3)
veil = np.repeat(disc()[..., None], 4, 2)
replace_mask("D110", veil)
solid = veil.copy()
solid[..., 3] = 255
replace_mask("D111", solid)
replace_mask("D112", 255 - disc(1))
replace_mask("D114", np.full(SIZE, 255, np.uint8))
replace_mask("D115", np.where(disc() > 0, np.uint8(7), np.uint8(0)), options={"label_map": {255: 1}})
replace_mask("D117", np.float32(disc()), [("D014", MASK)], format="TIFF")
replace_mask("D116", np.full(SIZE, np.nan, np.float32), [("D014", MASK)], format="TIFF")
speck = np.zeros(SIZE, np.uint8)
speck[40, 40] = 255
replace_mask("D118", speck)
frame = np.full(SIZE, 255, np.uint8)
frame[10:80, 10:80] = 0
frame[0, :5] = 0
replace_mask("D119", frame)
dust = np.zeros(SIZE, np.uint8)
dust[4:90:4, 4:120:4] = 255
replace_mask("D120", dust)


def array(code: str, values: np.ndarray) -> None:
    """Registers a mask that is replaced by an array file."""

    def make(root: Path) -> None:
        (root / MASK).unlink()
        np.save(root / G / "001.npy", values)

    plant(code, G + "001.npy")(make)


array("D116", np.full(SIZE, np.inf))
array("D117", disc())


@plant("D100", MASK, followers=[("D014", MASK)])
def jpeg_mask(root):
    put(root, disc(), format="JPEG", quality=60)


@plant("D100", MASK.replace(".png", ".webp"), followers=[("D104", MASK.replace(".png", ".webp"))])
def lossy_webp(root):
    put(root, disc(1), MASK.replace(".png", ".webp"), quality=60)
    (root / MASK).unlink()


@plant("D113", "masks/p0.png", base="stills")
def empty_mask(root):
    save(root / "masks/p0.png", np.zeros(SIZE, np.uint8))


@plant("D121", MASK)
def mask_is_frame(root):
    put(root, frame_of(1, 1))


@plant("D121", "masks/p0.png", "masks/p1.png", base="stills")
def mask_is_frame_file(root):
    shutil.copy(root / "images/p0.png", root / "masks/p0.png")
    save(root / "masks/p1.png", Image.open(root / "images/p1.png").convert("L"))


@plant("D122", *(f"masks/p{i}.png" for i in range(4)), base="stills", label_map="binary")
def classes_as_binary(root):
    for i in range(4):
        save(root / f"masks/p{i}.png", disc(i) // 255 * 3)


@plant("D123", *(f"masks/p{i}.png" for i in range(4)), base="stills", label_map={1: 1, 255: "ignore"})
def all_ignored(root):
    pass


@plant("D124", "test")
def empty_split(root):
    for path in (root / "test/GT/v3").iterdir():
        save(path, np.zeros(SIZE, np.uint8))


@plant("D125", G + "000.png")
def frozen_masks(root):
    for t in range(9):
        save(root / G / f"00{t}.png", disc())


@plant("D140", "test/Frame/v3/002.jpg")
def copy_across(root):
    shutil.copy(root / F / "004.jpg", root / "test/Frame/v3/002.jpg")


@plant("D141", "train/Frame/v2/001.jpg")
def copy_within(root):
    shutil.copy(root / F / "001.jpg", root / "train/Frame/v2/001.jpg")


@plant("D142", F + "007.jpg")
def copy_in_video(root):
    shutil.copy(root / F / "001.jpg", root / F / "007.jpg")


@plant("D143", "test/Frame/v3/002.jpg")
def nearly_across(root):
    image = Image.open(root / F / "004.jpg")
    brighter = image.resize((160, 120)).resize(image.size).point(lambda v: min(255, v + 9))
    save(root / "test/Frame/v3/002.jpg", brighter, quality=70)


@plant("D144", "train/Frame/v2/002.jpg")
def nearly_within(root):
    save(root / "train/Frame/v2/002.jpg", Image.open(root / F / "004.jpg"), quality=70)


@plant("D145", "train/Frame/case7_a")
def patient_on_both_sides(root):
    video(root / "train", "case7_a", 98)
    video(root / "test", "case07_b", 99)


BY_NAME = {"split": {"train": ["v1", "v2"], "test": ["v3"]}, "patient_of": "(?P<one>v[13])|(?P<other>v2)"}


@plant("D145", "train/Frame/v1", **BY_NAME)
def patient_by_a_rule(root):
    for name in ("Frame", "GT"):
        os.rename(root / "test" / name / "v3", root / "train" / name / "v3")
    shutil.rmtree(root / "test")


@plant("D147", "test/Frame/v8")
def video_twice(root):
    shutil.copytree(root / "train/Frame/v2", root / "test/Frame/v8")
    shutil.copytree(root / "train/GT/v2", root / "test/GT/v8")
