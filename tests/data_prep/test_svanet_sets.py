"""FIVES, ISIC 2018, SpermHealth and TissueNet: small downloads of the documented shape into what svanet_set reads."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import fives, isic2018, spermhealth, tissuenet
from lgrnet.data.still_datasets import svanet_folds, svanet_set
from lgrnet.records import read_frame, read_mask, write_frame, write_image, write_mask
from tests.data_prep.layouts import content

MASK = np.eye(8, 10, dtype=bool)


def still(image: Path, mask: Path | None, raw: np.ndarray | None = None) -> None:
    write_frame(image, np.full((8, 10, 3), len(image.stem), np.uint8))
    if mask is not None and raw is None:
        write_mask(mask, MASK)
    elif mask is not None:
        write_image(mask, Image.fromarray(raw))


def fives_source(root: Path) -> Path:
    for part, names in (("train", ("1_A", "2_D", "150_G", "151_N")), ("test", ("1_A", "2_N"))):
        for name in names:
            folder = root / "FIVES A Fundus" / part
            still(folder / f"Original/{name}.png", folder / f"Ground truth/{name}.png")
    (root / "FIVES A Fundus/train/Original/._1_A.png").write_bytes(b"junk")
    (root / "FIVES A Fundus/train/Original/Thumbs.db").write_bytes(b"junk")
    return root


def isic_source(root: Path) -> Path:
    for part, numbers in (("Training", (0, 1)), ("Validation", (2,)), ("Test", (3,))):
        for number in numbers:
            image = root / f"ISIC2018_Task1-2_{part}_Input/ISIC_{number:07d}.jpg"
            still(image, root / f"ISIC2018_Task1_{part}_GroundTruth/ISIC_{number:07d}_segmentation.png")
        (root / f"ISIC2018_Task1-2_{part}_Input/LICENSE.txt").write_text("CC-0")
    return root


def sperm_source(root: Path, count: int = 10) -> Path:
    for index in range(count):
        name = f"sperm {index} 'é'"
        still(root / f"images/{name}.png", root / f"masks/{name}.png", MASK.astype(np.uint8) * (1 + index % 2))
    return root


def tissue_source(root: Path, **changes: np.ndarray) -> Path:
    root.mkdir(parents=True)
    draws = np.random.default_rng(3)
    for part, side in (("train", 16), ("val", 8), ("test", 8)):
        arrays = {
            "X": draws.random((3, side, side, 2), np.float32),
            "y": draws.integers(0, 2, (3, side, side, 2)) * 300,
            "meta": np.array(["text"]),
        }
        np.savez_compressed(root / f"tissuenet_v1.1_{part}.npz", **{**arrays, **changes})
    return root


SCRIPTS = {
    "FIVES": (fives, fives_source, 6),
    "ISIC2018T1": (isic2018, isic_source, 4),
    "SpermHealth": (spermhealth, sperm_source, 10),
    "TissueNet": (tissuenet, tissue_source, 9),
}


@pytest.fixture(params=SCRIPTS)
def case(request, tmp_path):
    script, make, count = SCRIPTS[request.param]
    return script, make(tmp_path / "src"), tmp_path / "svanet" / request.param, count


def call(script, src: Path, dst: Path, *more: str) -> int:
    return script.main(["--src", str(src), "--dst", str(dst), *more])


def records(dst: Path) -> dict[str, list]:
    parts = [p for p in ("train", "val", "test") if (dst / p).is_dir()]
    return {part: svanet_set(dst.parent, dst.name, part) for part in parts}


def test_the_reader_takes_what_is_written(case):
    script, src, dst, count = case
    before = content(src)
    assert call(script, src, dst) == (0 if script is spermhealth else 1), "counts are not the published ones"
    assert sum(map(len, records(dst).values())) == count
    for record in (r for part in records(dst).values() for r in part):
        assert read_frame(record.frames[0]).shape[:2] == read_mask(record.masks[0]).shape
        assert Image.open(record.masks[0]).mode == "P"
    assert content(src) == before


def test_a_dry_run_counts_and_writes_nothing(case, capsys):
    script, src, dst, count = case
    call(script, src, dst, "--dry_run")
    assert f"nothing written, would make {count} frames" in capsys.readouterr().out and not dst.exists()


def test_killed_and_started_again(case, tmp_path):
    script, src, dst, _ = case
    call(script, src, dst)
    expected = content(dst)
    again = tmp_path / "svanet/again"
    command = [sys.executable, script.__file__, "--src", str(src), "--dst", str(again)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait, give_up = random.Random(script.__name__).randrange(1, 8), time.monotonic() + 60
    while len(list(again.glob("*/*.png"))) < wait and run.poll() is None and time.monotonic() < give_up:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    if (again / "prepared.json").is_file():
        (again / "mask").mkdir(exist_ok=True)
        (again / "mask/.4711.png").write_bytes(b"half")
    for _ in range(2):
        assert call(script, src, again) < 2
        assert content(again) == expected


def test_an_empty_source_and_a_foreign_destination(case, tmp_path, capsys):
    script, src, dst, _ = case
    (tmp_path / "empty").mkdir()
    assert call(script, tmp_path / "empty", dst) == 2
    assert "error: no " in capsys.readouterr().err
    write_frame(dst / "train/mine.png", np.zeros((2, 2, 3)))
    assert call(script, src, dst) == 2
    assert "did not write" in capsys.readouterr().err


def test_fives_classes_come_from_the_group_and_numbers_do_not_meet(tmp_path, capsys):
    call(fives, fives_source(tmp_path / "src"), tmp_path / "svanet/FIVES")
    found = records(tmp_path / "svanet/FIVES")
    values = {r.name: read_mask(r.masks[0]).max() for part in found.values() for r in part}
    assert values == {"train_1_A": 1, "train_2_D": 2, "train_150_G": 3, "train_151_N": 4, "test_1_A": 1, "test_2_N": 4}
    assert "train: 4 of 600 images" in capsys.readouterr().out


def test_from_archives(tmp_path):
    src = isic_source(tmp_path / "src")
    archives = []
    for folder in sorted(src.iterdir()):
        archives.append(str(tmp_path / f"{folder.name}.zip"))
        with zipfile.ZipFile(archives[-1], "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.relative_to(src))
    for name, sources in (("a", archives), ("b", [str(p) for p in sorted(src.iterdir())]), ("c", [str(src)])):
        assert isic2018.main(["--src", *sources, "--dst", str(tmp_path / name)]) == 1
    files = [{name: data for name, data in content(tmp_path / n).items() if name != "prepared.json"} for n in "abc"]
    assert files[0] == files[1] == files[2] and len(files[0]) == 8


def test_missing_halves_are_named_and_left_out(tmp_path, capsys):
    src = isic_source(tmp_path / "src")
    (src / "ISIC2018_Task1_Test_GroundTruth/ISIC_0000003_segmentation.png").unlink()
    (src / "ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg").unlink()
    assert call(isic2018, src, tmp_path / "dst") == 1
    said = capsys.readouterr().out
    assert "missing: mask of ISIC2018_Task1-2_Test_Input/ISIC_0000003.jpg" in said
    assert "missing: image of ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png" in said
    assert sorted(p.name for p in (tmp_path / "dst/mask").iterdir()) == ["ISIC_0000000.png", "ISIC_0000002.png"]


@pytest.mark.parametrize("values, message", [((0, 1), "values up to 1; expected a mask of 0"), ((9,), "up to 9")])
def test_masks_that_are_no_lesion_masks(tmp_path, values, message, capsys):
    src = isic_source(tmp_path / "src")
    raw = np.resize(np.array(values, np.uint8), (8, 10))
    write_image(src / "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png", Image.fromarray(raw))
    assert call(isic2018, src, tmp_path / "dst") == 2
    error = capsys.readouterr().err
    assert message in error and "ISIC_0000000_segmentation.png" in error


def test_damaged_masks_are_named(tmp_path, capsys):
    src = fives_source(tmp_path / "src")
    (src / "FIVES A Fundus/test/Ground truth/1_A.png").write_bytes(b"no picture")
    assert call(fives, src, tmp_path / "dst") == 2
    assert "1_A.png" in (error := capsys.readouterr().err) and "cannot be read" in error


def test_what_is_no_picture_is_named_once(tmp_path, capsys):
    src = sperm_source(tmp_path / "src")
    mask = next((src / "masks").iterdir())
    mask.write_bytes(b"no picture")
    assert call(spermhealth, src, tmp_path / "sets/SpermHealth") == 2
    error = capsys.readouterr().err
    assert f"masks/{mask.name} in {src} cannot be read" in error and "object at" not in error


def test_spermhealth_folds(tmp_path):
    dst = tmp_path / "svanet/SpermHealth"
    assert call(spermhealth, sperm_source(tmp_path / "src"), dst, "--folds", "5") == 0
    assert svanet_folds(dst.parent, "SpermHealth") == [1, 2, 3, 4, 5]
    tested = []
    for fold in range(1, 6):
        train, val = (svanet_set(dst.parent, "SpermHealth", part, fold) for part in ("train", "test"))
        assert len(train) == 8 and not {r.name for r in train} & {r.name for r in val}
        tested += [r.name for r in val]
    assert len(set(tested)) == len(tested) == 10


@pytest.mark.parametrize("count, folds", [(6, 4), (7, 5), (11, 4), (10, 10)])
def test_folds_are_equal_but_for_one_picture(count, folds, tmp_path):
    src, dst = sperm_source(tmp_path / "src", count), tmp_path / "sets/SpermHealth"
    assert call(spermhealth, src, dst, "--folds", str(folds)) == 0
    tested = [sorted(p.name for p in (dst / f"split{fold}/val").glob("*")) for fold in range(1, folds + 1)]
    assert sum(map(len, tested)) == len({name for names in tested for name in names}) == count
    assert {len(names) for names in tested} <= {count // folds, -(-count // folds)}


def test_more_folds_than_pictures(tmp_path, capsys):
    src, dst = sperm_source(tmp_path / "src"), tmp_path / "sets/SpermHealth"
    count = len(list((src / "images").iterdir()))
    assert call(spermhealth, src, dst, "--folds", str(count + 1)) == 2
    assert f"--folds is {count + 1}, but there are {count} pictures" in capsys.readouterr().err and not dst.exists()
    assert call(spermhealth, src, dst, "--folds", str(count)) == 0
    assert all(len(list((dst / f"split{fold}/val").iterdir())) == 1 for fold in range(1, count + 1))


def test_spermhealth_that_is_split_stays_so(tmp_path, capsys):
    src = tmp_path / "src/SpermHealth"
    for part, name in (("train", "a"), ("train", "b"), ("test", "c")):
        still(src / part / f"{name}.jpg", src / "mask" / f"{name}.png", MASK.astype(np.uint8))
    still(src / "extra/x.jpg", src / "mask/x.png", MASK.astype(np.uint8))
    assert call(spermhealth, tmp_path / "src", tmp_path / "svanet/SpermHealth") == 0
    assert "1 masks without an image left out" in capsys.readouterr().out
    assert {k: len(v) for k, v in records(tmp_path / "svanet/SpermHealth").items()} == {"train": 2, "test": 1}
    assert call(spermhealth, tmp_path / "src", tmp_path / "other", "--folds", "3") == 2
    assert "these are split already" in capsys.readouterr().err


@pytest.mark.parametrize("raw, message", [(MASK * 255, "255 is ignored"), (MASK * 3, r"values [3]")])
def test_spermhealth_values(tmp_path, raw, message, capsys):
    src = sperm_source(tmp_path / "src", 3)
    write_image(src / "masks/sperm 1 'é'.png", Image.fromarray(raw.astype(np.uint8)))
    assert call(spermhealth, src, tmp_path / "dst") == 2
    assert message in capsys.readouterr().err


def test_tissuenet_pictures_and_classes(tmp_path):
    src = tissue_source(tmp_path / "src")
    call(tissuenet, src, tmp_path / "svanet/TissueNet")
    found = records(tmp_path / "svanet/TissueNet")
    assert {part: [r.name for r in rows][-1] for part, rows in found.items()} == {
        "train": "train_00002",
        "val": "val_00002",
        "test": "test_00002",
    }
    data = np.load(src / "tissuenet_v1.1_val.npz")
    record = found["val"][1]
    expected = np.where(data["y"][1, ..., 1] > 0, 2, data["y"][1, ..., 0] > 0)
    assert np.array_equal(read_mask(record.masks[0]), expected)
    frame = read_frame(record.frames[0])
    assert not frame[..., 0].any() and frame[..., 1].min() == 0 and frame[..., 1].max() == 255
    order = np.argsort(data["X"][1, ..., 0].ravel())
    assert (np.diff(frame[..., 1].ravel()[order].astype(int)) >= 0).all()


def test_a_tissuenet_file_that_changed_is_written_anew(tmp_path):
    src, dst = tissue_source(tmp_path / "src"), tmp_path / "dst"
    call(tissuenet, src, dst)
    first, file = content(dst), src / "tissuenet_v1.1_val.npz"
    data = dict(np.load(file))
    np.savez_compressed(file, **{**data, "y": np.roll(data["y"], 1, axis=1), "X": 1 - data["X"]})
    call(tissuenet, src, dst)
    names = {name for name, data in content(dst).items() if data != first[name]}
    assert names == {f"{part}/val_0000{n}.png" for part in ("val", "mask") for n in range(3)}
    times = {path: path.stat().st_ino for path in dst.rglob("*.png")}
    call(tissuenet, src, dst)
    assert times == {path: path.stat().st_ino for path in dst.rglob("*.png")}
    np.savez_compressed(file, **{name: array[:2] for name, array in data.items()})
    assert call(tissuenet, src, dst) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"X": np.zeros((3, 8, 8, 3))}, "expected both [N, H, W, 2]"),
        ({"X": np.array([{}], object)}, "expected an array of numbers"),
        ({"X": np.asfortranarray(np.zeros((3, 8, 8, 2)))}, "in C order"),
        ({"X": np.full((3, 8, 8, 2), np.nan), "y": np.zeros((3, 8, 8, 2))}, "values that are no numbers"),
        (
            {"X": np.zeros((1, 8, 8, 2)), "y": np.arange(128).reshape(1, 8, 8, 2) - 3},
            "item 0 of y in {src}/tissuenet_v1.1_test.npz holds the label -3; expected 0 and the numbers of cells and",
        ),
        ({"X": np.zeros((1, 8, 8, 2)), "y": np.full((1, 8, 8, 2), np.nan)}, "holds the label nan; expected 0"),
    ],
)
def test_bad_tissuenet_arrays(tmp_path, changes, message, capsys):
    assert call(tissuenet, tissue_source(tmp_path / "src", **changes), tmp_path / "dst") == 2
    assert message.format(src=tmp_path / "src") in capsys.readouterr().err


def test_bad_tissuenet_files(tmp_path, capsys):
    src = tissue_source(tmp_path / "src")
    whole = (src / "tissuenet_v1.1_val.npz").read_bytes()
    for damaged, message in ((whole[:-200], "cannot be read"), (b"", "cannot be read")):
        (src / "tissuenet_v1.1_val.npz").write_bytes(damaged)
        assert call(tissuenet, src, tmp_path / "dst") == 2
        assert message in capsys.readouterr().err
    np.savez(src / "tissuenet_v1.1_val.npz", X=np.zeros((1, 2, 2, 2)))
    assert call(tissuenet, src, tmp_path / "dst") == 2
    assert "has no array y" in capsys.readouterr().err
    (src / "more.npz").write_bytes(whole)
    assert call(tissuenet, src, tmp_path / "dst") == 2
    assert "not named for train, val or test" in capsys.readouterr().err


def test_fives_folder_by_folder(tmp_path):
    src = fives_source(tmp_path / "src") / "FIVES A Fundus"
    command = ["--src", str(src / "train"), str(src / "test"), "--dst"]
    assert fives.main([*command, str(tmp_path / "parts")]) == 1, "counts are not the published ones"
    assert fives.main(["--src", str(tmp_path / "src"), "--dst", str(tmp_path / "whole")]) == 1
    parts, whole = (content(tmp_path / name) for name in ("parts", "whole"))
    assert parts.keys() == whole.keys() and len(parts) > 10
