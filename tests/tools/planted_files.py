"""Defects of files, names and pairs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tools.data_sets import SIZE, disc, frame_of, plant, save, texture, video

F, G = "train/Frame/v1/", "train/GT/v1/"


def rename(root: Path, old: str, new: str) -> None:
    os.rename(root / old, root / new)


def both(root: Path, stem: str) -> None:
    """A further pair of frame and mask in v2, under a name of its own."""
    save(root / "train/Frame/v2" / f"{stem}.jpg", frame_of(90, 0))
    save(root / "train/GT/v2" / f"{stem}.png", disc(7))


def named(code: str, stem: str, *followers: tuple[str, str]) -> None:
    """Registers a name that is worth a word in both folders."""
    paths = f"train/Frame/v2/{stem}.jpg", f"train/GT/v2/{stem}.png"
    mixed = ("D133", paths[0])  # a name of another pattern than its neighbours
    plant(code, *paths, followers=(mixed, *followers))(lambda root: both(root, stem))


named("D030", "a b 7")
named("D031", "it's7")
named("D032", "line\nbreak7")
named("D033", "x" * 247 + "7")
named("D035", "dot7.")
named("D036", "con.7")
named("D037", "-rf7")
named("D040", "a:7")
named("D039", "\udcff7")


@plant("D001", F + "001.jpg")
def empty_file(root):
    (root / F / "001.jpg").write_bytes(b"")


@plant("D003", F + "004.jpg", followers=[("D051", G + "004.png"), ("D132", F[:-1])])
def dangling_link(root):
    (root / F / "004.jpg").unlink()
    (root / F / "004.jpg").symlink_to("nowhere")


@plant("D004", "train/again", "train/self")
def link_loops(root):
    (root / "train/again").symlink_to(root, target_is_directory=True)
    (root / "train/self").symlink_to("self")


@plant("D005", "train/pipe")
def a_pipe(root):
    os.mkfifo(root / "train/pipe")


@plant("D006", F + "._001.jpg")
def apple_double(root):
    (root / F / "._001.jpg").write_bytes(b"\0\5\x16\7")


@plant("D007", ".DS_Store", "train/Thumbs.db")
def file_managers(root):
    (root / ".DS_Store").write_bytes(b"x")
    (root / "train/Thumbs.db").write_bytes(b"x")


@plant("D008", "train/.cache")
def hidden_folder(root):
    (root / "train/.cache").mkdir()


@plant("D009", "train/Frame/v4", followers=[("D053", "train/Frame/v4"), ("D054", "train/Frame/v4")])
def empty_folder(root):
    (root / "train/Frame/v4").mkdir()


@plant("D010", F + "009.jpg.part")
def half_written(root):
    (root / F / "009.jpg.part").write_bytes(b"x")


@plant("D011", "train.zip")
def an_archive(root):
    (root / "train.zip").write_bytes(b"PK")


@plant("D012", F + "notes.doc")
def stray_file(root):
    (root / F / "notes.doc").write_bytes(b"x")


@plant("D013", F + "more")
def nested_folder(root):
    save(root / F / "more/000.jpg", frame_of(91, 0))


@plant("D014", F + "001.jpg")
def wrong_ending(root):
    save(root / F / "001.jpg", frame_of(1, 1), format="PNG", quality=None)


@plant("D015", F + "other.gif", G + "001.png", followers=[])
def other_format(root):
    save(root / F / "other.gif", Image.fromarray(frame_of(92, 0)))
    save(root / G / "001.png", Image.fromarray(disc()), format="GIF")


@plant("D016", F + "001.jpg")
def no_picture(root):
    (root / F / "001.jpg").write_bytes(bytes(range(200)))


@plant("D017", F + "001.jpg", G + "002.png")
def web_page_and_pointer(root):
    (root / F / "001.jpg").write_bytes(b"<!DOCTYPE html><html>")
    (root / G / "002.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n")


@plant("D018", F + "001.jpg", F + "002.jpg", G + "001.png", followers=[("D014", F + "002.jpg")])
def cut_short(root):
    save(root / F / "002.png", frame_of(1, 2))
    os.replace(root / F / "002.png", root / F / "002.jpg")
    for name in (F + "001.jpg", F + "002.jpg", G + "001.png"):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) * 2 // 3])


@plant("D019", G + "001.png")
def damaged(root):
    data = bytearray((root / G / "001.png").read_bytes())
    data[12:16] = b"IHDX"
    (root / G / "001.png").write_bytes(data + bytes(2000))


@plant("D020", F + "001.jpg")
def bomb(root):
    Image.new("L", (9000, 9000)).save(root / F / "001.jpg", format="PNG")


@plant("D034", "train/GT/v2/u\u0308ber7.png", followers=[("D133", "train/Frame/v2/\u00fcber7.jpg")])
def unicode_twins(root):
    both(root, "\u00fcber7")
    rename(root, "train/GT/v2/\u00fcber7.png", "train/GT/v2/u\u0308ber7.png")


@plant(
    "D038",
    "train/Frame/v2/b7.jpg",
    "train/GT/v2/b7.png",
    followers=[("D133", "train/Frame/v2/B7.jpg"), ("D133", "train/Frame/v2/b7.jpg")],
)
def case_twins(root):
    both(root, "B7")
    save(root / "train/Frame/v2/b7.jpg", frame_of(93, 0))
    save(root / "train/GT/v2/b7.png", disc(3))


@plant("D050", F + "001.jpg")
def missing_mask(root):
    (root / G / "001.png").unlink()


@plant("D051", G + "009.png")
def missing_frame(root):
    (root / F / "009.jpg").unlink()


@plant("D052", "train/GT/v9")
def masks_without_frames(root):
    save(root / "train/GT/v9/000.png", disc())


@plant("D053", "train/Frame/v2")
def frames_without_masks(root):
    shutil.rmtree(root / "train/GT/v2")


@plant(
    "D054",
    "train/Frame/v2",
    followers=[("D051", f"train/GT/v2/00{t}.png") for t in range(4)] + [("D009", "train/Frame/v2")],
)
def no_frames(root):
    for path in (root / "train/Frame/v2").iterdir():
        path.unlink()


@plant("D055", *(f"train/GT/v2/X00{t}.png" for t in range(4)))
def name_case(root):
    for t in range(4):
        rename(root, f"train/Frame/v2/00{t}.jpg", f"train/Frame/v2/x00{t}.jpg")
        rename(root, f"train/GT/v2/00{t}.png", f"train/GT/v2/X00{t}.png")


@plant("D056", F + "001.png")
def frame_in_two_formats(root):
    save(root / F / "001.png", frame_of(1, 1))


@plant("D057", G + "001.tif")
def mask_in_two_formats(root):
    save(root / G / "001.tif", disc(1))


@plant("D058", *(f"train/GT/v2/00{t}_mask.png" for t in range(4)))
def added_to_names(root):
    for t in range(4):
        rename(root, f"train/GT/v2/00{t}.png", f"train/GT/v2/00{t}_mask.png")


@plant("D059", *(f"train/GT/v2/{t}.png" for t in range(4)))
def padded_differently(root):
    for t in range(4):
        rename(root, f"train/GT/v2/00{t}.png", f"train/GT/v2/{t}.png")


@plant("D065", "train/GT/v2")
def shifted_numbers(root):
    for t in (3, 2, 1, 0):
        rename(root, f"train/GT/v2/00{t}.png", f"train/GT/v2/00{t + 1}.png")


@plant("D130", "train/Frame/v4")
def not_padded(root):
    for t in range(12):
        save(root / f"train/Frame/v4/f{t}.jpg", frame_of(4, t))
        save(root / f"train/GT/v4/f{t}.png", disc(t))


@plant("D131", F + "004.jpg", followers=[("D130", F[:-1])])
def number_twice(root):
    save(root / F / "0004.jpg", frame_of(94, 0))
    save(root / G / "0004.png", disc())


@plant("D132", F[:-1])
def a_gap(root):
    for t in (4, 5):
        (root / F / f"00{t}.jpg").unlink()
        (root / G / f"00{t}.png").unlink()


@plant("D133", F + "v2_000.jpg")
def mixed_videos(root):
    for t in range(3):
        save(root / F / f"v2_00{t}.jpg", frame_of(95, t))
        save(root / G / f"v2_00{t}.png", disc(t))


@plant("D063", F + "003.jpg")
def size_changes(root):
    save(root / F / "003.jpg", texture(1)[:90, :120])
    save(root / G / "003.png", disc()[:90, :120])


@plant("D135", "train/Frame/v3")
def same_name_in_splits(root):
    video(root / "train", "v3", 96)


@plant("D231", "train/Frame")
def no_masks_at_all(root):
    shutil.rmtree(root / "train/GT")


@plant("D232", "train", followers=[])
def two_nestings(root):
    for t in range(2):
        save(root / f"train/w/Frame/{t}.jpg", frame_of(97, t))
        save(root / f"train/w/GT/{t}.png", disc(t))


@plant("D233", "val/Frame", followers=[("D009", "val/GT")])
def empty_split(root):
    (root / "val/Frame").mkdir(parents=True)
    (root / "val/GT").mkdir(parents=True)


@plant("D064", F + "001.jpg")
def turned_by_exif(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / F / "001.jpg", frame_of(1, 1), exif=exif)


@plant("D060", G + "001.png")
def one_pixel_off(root):
    save(root / G / "001.png", disc()[:-1])


@plant("D061", G + "001.png")
def transposed(root):
    save(root / G / "001.png", np.ascontiguousarray(disc().T))


@plant("D062", G + "001.png")
def other_size(root):
    save(root / G / "001.png", np.kron(disc()[: SIZE[0] // 2, : SIZE[1] // 2], np.ones((3, 3), np.uint8)))
