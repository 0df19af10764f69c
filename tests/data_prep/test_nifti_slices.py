"""Slices of volumes: small NIfTI files of the documented shape, written here byte by byte."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep import nifti_slices
from lgrnet.data.still_datasets import svanet_set
from lgrnet.records import read_frame, read_mask
from tests.data_prep.layouts import content

needs_nibabel = pytest.mark.skipif(importlib.util.find_spec("nibabel") is None, reason="nibabel is not installed")
CODES = {"uint8": 2, "int16": 4, "float32": 16}


def nifti(volume: np.ndarray) -> bytes:
    """A NIfTI-1 file of an array [X, Y, Z]: 348 bytes of header, 4 of extensions, x fastest."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, volume.ndim, *volume.shape, *[1] * (7 - volume.ndim))
    struct.pack_into("<2h", header, 70, CODES[volume.dtype.name], 8 * volume.dtype.itemsize)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<2f", header, 108, 352.0, 1.0)
    header[344:348] = b"n+1\0"
    return bytes(header) + volume.tobytes("F")


def nifti_2(volume: np.ndarray) -> bytes:
    """A NIfTI-2 file of an array [X, Y, Z]: 540 bytes of header, 4 of extensions."""
    header = bytearray(544)
    struct.pack_into("<i", header, 0, 540)
    header[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into("<2h", header, 12, CODES[volume.dtype.name], 8 * volume.dtype.itemsize)
    struct.pack_into("<8q", header, 16, volume.ndim, *volume.shape, *[1] * (7 - volume.ndim))
    struct.pack_into("<8d", header, 104, *[1.0] * 8)
    struct.pack_into("<q2d", header, 168, 544, 1.0, 0.0)
    return bytes(header) + volume.tobytes("F")


def patched(data: bytes, at: int, piece: bytes, more: int = 0) -> bytes:
    """A packed volume with some bytes of its header changed and `more` at its end."""
    plain = bytearray(gzip.decompress(data))
    plain[at : at + len(piece)] = piece
    return gzip.compress(bytes(plain) + bytes(more))


def write(path: Path, volume: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(nifti(volume)) if path.suffix == ".gz" else nifti(volume))


def atlas(root: Path, cases: int = 5) -> Path:
    for case in range(cases):
        draws = np.random.default_rng(case)
        write(root / f"imagesTr/im{case}.nii.gz", draws.integers(0, 900, (6, 5, 10 + case)).astype(np.int16))
        write(root / f"labelsTr/lb{case}.nii.gz", draws.integers(0, 3, (6, 5, 10 + case)).astype(np.uint8))
    return root


def kits(root: Path) -> Path:
    for case in range(3):
        draws = np.random.default_rng(case)
        write(root / f"case_{case:05d}/imaging.nii.gz", draws.integers(-900, 900, (60, 6, 5)).astype(np.float32))
        write(root / f"case_{case:05d}/segmentation.nii.gz", draws.integers(0, 4, (60, 6, 5)).astype(np.uint8))
    return root


def call(dataset: str, src: Path, dst: Path, *more: str) -> int:
    return nifti_slices.main(["--set", dataset, "--src", str(src), "--dst", str(dst), *more])


def test_slices_as_published():
    assert nifti_slices.chosen_slices("ATLAS", "im0.nii", 10) == [0, 4, 8, 9]
    assert nifti_slices.chosen_slices("ATLAS", "im0.nii", 9) == [0, 4, 8]
    chosen = nifti_slices.chosen_slices("KiTS23", "case_00000", 501)
    assert len(set(chosen)) == 11 and 75 <= min(chosen) and max(chosen) < 425
    assert chosen == nifti_slices.chosen_slices("KiTS23", "case_00000", 501)
    assert chosen != nifti_slices.chosen_slices("KiTS23", "case_00001", 501)
    assert [len(nifti_slices.chosen_slices("KiTS23", "x", count)) for count in (1, 2, 60)] == [1, 1, 2]


def test_grey_values_as_published():
    values = np.array([[-1000.0, 0, 100], [255, 256, np.nan]])
    assert nifti_slices.grey(values, "KiTS23").tolist() == [[0, 0, 100], [255, 255, 0]]
    assert nifti_slices.grey(values, "KiTS23", (-100, 155)).tolist() == [[0, 100, 200], [255, 255, 100]]
    assert nifti_slices.grey(np.array([[0, 5, 10]]), "ATLAS").tolist() == [[0, 127, 255]]
    assert nifti_slices.grey(np.zeros((1, 2)), "ATLAS").tolist() == [[0, 0]]


def test_a_dry_run_needs_no_nibabel(tmp_path, capsys):
    src = atlas(tmp_path / "src/atlas-train-dataset-1.0.1", 2)
    (src / "labelsTr/lb1.nii.gz").unlink()
    assert call("ATLAS", tmp_path / "src", tmp_path / "dst", "--dry_run") == 1
    said = capsys.readouterr().out
    assert "1 of 60 volumes" in said and "missing: mask of im1.nii" in said and not (tmp_path / "dst").exists()


def test_without_nibabel_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert call("ATLAS", atlas(tmp_path / "src", 1), tmp_path / "dst") == 2
    assert "pip install nibabel" in capsys.readouterr().err and not (tmp_path / "dst").exists()


@needs_nibabel
def test_atlas(tmp_path):
    src, dst = atlas(tmp_path / "src"), tmp_path / "svanet/ATLAS"
    before = content(src)
    assert call("ATLAS", src, dst) == 1, "60 volumes are published"
    train, val = (svanet_set(dst.parent, "ATLAS", part) for part in ("train", "test"))
    assert len({r.name.split("_")[0] for r in train}) == 4 and len({r.name.split("_")[0] for r in val}) == 1
    record = next(r for r in [*train, *val] if r.name == "im3.nii_8")
    volume = np.random.default_rng(3).integers(0, 900, (6, 5, 13)).astype(np.int16)
    assert read_frame(record.frames[0]).shape == (5, 6, 3)
    draws = np.random.default_rng(3)
    draws.integers(0, 900, (6, 5, 13))
    labels = draws.integers(0, 3, (6, 5, 13))
    assert np.array_equal(read_mask(record.masks[0]), labels[:, :, 8].T)
    grey = read_frame(record.frames[0])[..., 0]
    assert np.corrcoef(grey.ravel(), volume[:, :, 8].T.ravel())[0, 1] > 0.9, "JPEG blurs such noise"
    assert content(src) == before


@needs_nibabel
def test_kits(tmp_path):
    dst = tmp_path / "svanet/KiTS23"
    assert call("KiTS23", kits(tmp_path / "src"), dst, "--window", "-100", "300") == 1
    found = [*svanet_set(dst.parent, "KiTS23", "train"), *svanet_set(dst.parent, "KiTS23", "val")]
    assert len(found) == 6
    case, index = found[0].name.rsplit("_", 1)
    draws = np.random.default_rng(int(case[5:]))
    draws.integers(-900, 900, (60, 6, 5))
    assert np.array_equal(read_mask(found[0].masks[0]), draws.integers(0, 4, (60, 6, 5))[int(index)])


@needs_nibabel
def test_stopped_and_started_again(tmp_path, monkeypatch, capsys):
    src, dst = atlas(tmp_path / "src"), tmp_path / "dst"
    real, calls = nifti_slices.write_frame, []

    def full_disk(path, frame):
        calls.append(path)
        if len(calls) == 7:
            raise OSError(28, "No space left on device")
        real(path, frame)

    monkeypatch.setattr(nifti_slices, "write_frame", full_disk)
    assert call("ATLAS", src, dst) == 2 and "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    assert call("ATLAS", src, dst) == call("ATLAS", src, tmp_path / "fresh") == 1
    assert content(dst) == content(tmp_path / "fresh")
    for path in sorted((dst / "train").iterdir())[:3]:
        path.unlink()  # by hand: these volumes are cut again
    assert call("ATLAS", src, dst) == 1 and content(dst) == content(tmp_path / "fresh")
    image = src / "imagesTr/im0.nii.gz"
    time = image.stat().st_mtime_ns
    image.write_bytes(b"not read again")
    os.utime(image, ns=(time, time))
    assert call("ATLAS", src, dst) == 1


@needs_nibabel
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[:300], "im0.nii.gz in .* is no NIfTI file, or damaged"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-5]), "it is cut short"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-9000] + bytes(100)), "is no NIfTI file|cut short"),
        (lambda data: b"", "is no NIfTI file"),
        (lambda data: b"x" * 1000, "is no NIfTI file, or damaged"),
        (lambda data: patched(data, 344, b"abcd"), "is no NIfTI file, or damaged"),
        (lambda data: patched(data, 70, struct.pack("<h", 9999)), "is no NIfTI file, or damaged"),
        (lambda data: patched(data, 108, struct.pack("<f", 3)), "is no NIfTI file, or damaged"),
        (lambda data: patched(data, 70, struct.pack("<2h", 128, 24), 9000), "holds .* expected whole or real numbers"),
        (lambda data: patched(data, 70, struct.pack("<2h", 32, 64), 9000), "holds complex64; expected whole or real"),
        (lambda data: patched(data, 46, struct.pack("<h", 0)), r"has the shape \(6, 5, 0\)"),
        (lambda data: gzip.compress(nifti(np.zeros((6, 5, 4), np.int16))), "expected the same 3 sides"),
        (lambda data: gzip.compress(nifti(np.zeros((6, 5), np.int16))), "expected the same 3 sides"),
    ],
)
def test_damaged_volumes(tmp_path, damage, message, capsys):
    file = atlas(tmp_path / "src", 2) / "imagesTr/im0.nii.gz"
    file.write_bytes(damage(file.read_bytes()))
    assert call("ATLAS", tmp_path / "src", tmp_path / "dst") == 2
    assert re.search(message, capsys.readouterr().err)


@needs_nibabel
def test_unknown_labels(tmp_path, capsys):
    src = atlas(tmp_path / "src", 1)
    write(src / "labelsTr/lb0.nii.gz", np.full((6, 5, 10), 7, np.uint8))
    assert call("ATLAS", src, tmp_path / "dst") == 2
    assert "lb0.nii.gz holds the values [7]; expected 0 .. 2" in capsys.readouterr().err


def test_arguments(tmp_path, capsys):
    src = atlas(tmp_path / "src", 1)
    for more, message in ((("--val_share", "1"), "--val_share is 1.0"), (("--window", "0", "9"), "for KiTS23")):
        assert call("ATLAS", src, tmp_path / "dst", *more) == 2
        assert message in capsys.readouterr().err
    assert call("KiTS23", src, tmp_path / "dst") == 2
    assert "no volumes of KiTS23" in capsys.readouterr().err


@needs_nibabel
def test_folders_of_what_was_unpacked(tmp_path):
    src = atlas(tmp_path / "src")
    given = ["--set", "ATLAS", "--dst", str(tmp_path / "dst"), "--src", str(src / "imagesTr"), str(src / "labelsTr")]
    assert nifti_slices.main(given) == 1, "counts are not the published ones"
    call("ATLAS", src, tmp_path / "whole")
    assert content(tmp_path / "dst").keys() == content(tmp_path / "whole").keys()


@needs_nibabel
def test_a_volume_that_changed_is_cut_anew(tmp_path):
    src, dst = atlas(tmp_path / "src"), tmp_path / "dst"
    call("ATLAS", src, dst)
    first = content(dst)
    for folder, name, kind, values in (("imagesTr", "im", "int16", 700), ("labelsTr", "lb", "uint8", 1)):
        path = src / folder / f"{name}2.nii.gz"
        write(path, np.full((6, 5, 6), values).astype(kind))
        os.utime(path, ns=(0, 0))
    call("ATLAS", src, dst)
    second = content(dst)
    assert sorted(name for name in second if name.startswith("mask/im2.nii_")) == [
        f"mask/im2.nii_{index}.png" for index in (0, 4, 5)
    ]
    others = [name for name in first if not name.endswith(".json") and "/im2.nii_" not in name]
    assert all(first[name] == second[name] for name in others) and len(others) > 10
    call("ATLAS", src, dst)
    assert content(dst) == second


@needs_nibabel
def test_the_second_version_of_the_format(tmp_path):
    src = atlas(tmp_path / "src", 2)
    call("ATLAS", src, tmp_path / "first")
    for path in (*src.glob("imagesTr/*"), *src.glob("labelsTr/*")):
        draws = np.random.default_rng(int(path.name[2]))
        image = draws.integers(0, 900, (6, 5, 10 + int(path.name[2]))).astype(np.int16)
        labels = draws.integers(0, 3, image.shape).astype(np.uint8)
        path.write_bytes(gzip.compress(nifti_2(image if path.parent.name == "imagesTr" else labels)))
    call("ATLAS", src, tmp_path / "second")
    first, second = content(tmp_path / "first"), content(tmp_path / "second")
    assert {name for name in first if first[name] != second[name]} <= {"cases.json", "prepared.json"}


@needs_nibabel
def test_image_and_mask_that_lie_apart_are_told(tmp_path, capsys):
    src, dst = atlas(tmp_path / "src", 3), tmp_path / "dst"
    mask = src / "labelsTr/lb1.nii.gz"
    mask.write_bytes(patched(mask.read_bytes(), 80, struct.pack("<f", 1.3)))
    for _ in range(2):
        assert call("ATLAS", src, dst) == 1
        assert (
            "the mask lies beside the image, cut index by index all the same: 1 volume (im1.nii)"
            in capsys.readouterr().out
        )
    assert "im1.nii" in (dst / "prepared.json").read_text()
