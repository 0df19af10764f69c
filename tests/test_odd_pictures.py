"""Files of several pictures, and files that are stored with loss."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgrnet.evaluation.mask_trees import read_map
from lgrnet.records import DataError, check_values, frame_size, read_frame, read_mask
from lgrnet.records.pictures import is_lossy


def pages(path: Path, count: int = 3, **how) -> Path:
    """A file of `count` grey pictures, the first of them black."""
    first, *others = (Image.fromarray(np.full((8, 10), 100 * n, np.uint8)) for n in range(count))
    first.save(path, save_all=True, append_images=others, **how)
    return path


@pytest.mark.parametrize("name", ["stack.tif", "moves.png", "moves.webp"])
def test_a_file_of_several_pictures_is_refused(name, tmp_path):
    path = pages(tmp_path / name)
    for read in (read_frame, read_mask, frame_size, read_map):
        with pytest.raises(DataError, match=rf"{name} holds 3 pictures; expected one.*save each.*of its own") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert frame_size(pages(path, 1)) == (8, 10) and not read_mask(path).any()


def test_the_previews_of_a_camera_are_no_pages(tmp_path):
    path = pages(tmp_path / "camera.jpg", format="MPO")
    assert Image.open(path).n_frames == 3 and read_frame(path).shape == (8, 10, 3)


LOSSY = [("m.jpg", {}), ("m.JPEG", {}), ("m.webp", {}), ("m.WebP", {"icc_profile": b"odd"})]


@pytest.mark.parametrize("name, how", LOSSY)
def test_channels_of_a_lossy_mask_are_equal_but_for_rounding(name, how, tmp_path):
    truth = np.random.default_rng(0).integers(0, 2, (96, 128)).astype(np.uint8) * 255
    Image.fromarray(truth).save(tmp_path / name, quality=80, **how)
    raw = read_mask(tmp_path / name)
    assert np.array_equal(raw > 127, truth > 127)
    assert np.array_equal(raw, np.array(Image.open(tmp_path / name).convert("L")))
    if name.lower().endswith("webp"):
        assert np.ptp(np.array(Image.open(tmp_path / name)), axis=-1).max() == 1
    Image.fromarray(np.stack([truth, truth, truth // 2], -1)).save(tmp_path / name, quality=80, **how)
    with pytest.raises(DataError, match="is a colour image"):
        read_mask(tmp_path / name)


@pytest.mark.parametrize("name, how", LOSSY)
def test_small_values_of_a_lossy_mask_are_its_noise(name, how, tmp_path):
    values = np.zeros((48, 48), np.uint8)
    values[8:16, 8:16] = 3
    Image.fromarray(values).save(tmp_path / name, quality=60, **how)
    raw = read_mask(tmp_path / name)
    assert is_lossy(tmp_path / name) and 0 < raw.max() <= 31
    for label_map in ("binary", "half"):
        check_values(raw, label_map, tmp_path / name)


@pytest.mark.parametrize("how", [{}, {"icc_profile": b"odd"}])
def test_a_webp_without_loss_is_as_a_png(how, tmp_path):
    values = np.zeros((48, 48), np.uint8)
    values[8:16, 8:16] = 3
    Image.fromarray(values).save(tmp_path / "m.webp", lossless=True, **how)
    assert not is_lossy(tmp_path / "m.webp") and np.array_equal(read_mask(tmp_path / "m.webp"), values)
    with pytest.raises(DataError, match="look like class indices"):
        check_values(values, "binary", tmp_path / "m.webp")


def test_what_is_no_webp_is_not_stored_with_loss(tmp_path):
    for data in (b"", b"RIFF", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X\xff\xff\xff\xff", b"\x89PNG" * 9):
        (tmp_path / "m.webp").write_bytes(data)
        assert not is_lossy(tmp_path / "m.webp")
    assert not any(map(is_lossy, ("mask", tmp_path / "nowhere.webp", tmp_path)))


def deep_png(path: Path, values: np.ndarray) -> Path:
    """An RGB picture [H, W, 3] of 16 bits; Pillow writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def test_colours_of_16_bits_would_lose_half_of_them(tmp_path):
    path = deep_png(tmp_path / "deep.png", np.ones((8, 10, 3), int))
    assert Image.open(path).mode == "RGB"
    for read in (read_frame, read_mask, frame_size):
        with pytest.raises(DataError, match=r"deep.png has colours or transparency with 16 bits.*save it with 8 bits"):
            read(path)


def test_a_palette_of_many_greys_is_not_taken_for_its_indices(tmp_path):
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([value for index in range(64) for value in [4 * index + 3] * 3])
    image.save(tmp_path / "m.png")
    for label_map in ("binary", "half", "full", "soft"):
        with pytest.raises(DataError, match="grey palette that is not in rising order or not that of its indices"):
            read_mask(tmp_path / "m.png", label_map=label_map)
    known = {index: 1 for index in range(1, 64)}
    assert np.array_equal(read_mask(tmp_path / "m.png", label_map=known), indices)
