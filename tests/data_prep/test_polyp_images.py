"""Polyp images from small archives of the documented shapes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_prep import polyp_images, polypgen
from data_prep.archives import open_source
from data_prep.placing import images_of
from lgrnet.data.still_datasets import cvc_clinicdb, kvasir_seg, polyp_stills, svanet_set
from lgrnet.records import DataError, class_masks, read_mask
from tests.data_prep.downloads import content, mask, picture, write_any, write_folder, write_zip

pytestmark = pytest.mark.filterwarnings("ignore:.*scores do not compare")


def pairs(folder: str, count: int, names=("images", "masks"), endings=("jpg", "jpg")) -> dict[str, bytes]:
    forms = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}
    files = {}
    for n in range(1, count + 1):
        files[f"{folder}{names[0]}/{n}.{endings[0]}"] = picture(n, form=forms[endings[0]])
        files[f"{folder}{names[1]}/{n}.{endings[1]}"] = mask(n, form=forms[endings[1]])
    return files


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    counts = {name: {part: 3 for part in parts} for name, parts in polyp_images.SETS.items()}
    monkeypatch.setattr(polyp_images, "SETS", counts)
    for name, value in {"FRAMES": 24, "POSITIVE": 16, "STILLS": 8}.items():
        monkeypatch.setattr(polypgen, name, value)


def run(name: str, src, dst, *more: str) -> int:
    return polyp_images.main(["--set", name, "--src", *map(str, src), "--dst", str(dst), *more])


@pytest.mark.parametrize("kind", ["zip", "folder", "tar"])
def test_pranets_archives(kind, tmp_path, capsys):
    train = write_any(kind, tmp_path / "train", pairs("TrainDataset/", 3, ("image", "mask"), ("png", "png")))
    tests = {}
    for part in list(polyp_images.SETS["pranet"])[1:]:
        tests.update(pairs(f"{part}/", 3, endings=("png", "png")))
    test = write_any(kind, tmp_path / "test", tests)
    assert run("pranet", [train, test], tmp_path / "dst") == 0
    assert "TestDataset/Kvasir: 3 of 3 images" in capsys.readouterr().out
    for split in ("train", "CVC-300", "Kvasir"):
        assert [record.name for record in polyp_stills(tmp_path / "dst", split)] == ["1", "2", "3"]
    assert run("pranet", [train], tmp_path / "part") == 1


def test_kvasir_seg(tmp_path, capsys):
    src = write_zip(tmp_path / "x.zip", {**pairs("Kvasir-SEG/", 3), "Kvasir-SEG/kavsir_bboxes.json": b"{}"})
    assert run("kvasir_seg", [src], tmp_path / "dst") == 0
    assert sum(len(kvasir_seg(tmp_path / "dst", split)) for split in ("train", "val", "test")) == 3
    assert sorted(content(tmp_path / "dst"))[:2] == ["images/1.jpg", "images/2.jpg"]
    files = pairs("Kvasir-SEG/", 3)
    del files["Kvasir-SEG/masks/2.jpg"]
    assert run("kvasir_seg", [write_zip(tmp_path / "y.zip", files)], tmp_path / "dst2") == 1
    assert "missing: the mask of Kvasir-SEG/images/2.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_cvc_clinicdb(ending, tmp_path):
    src = write_zip(tmp_path / "x.zip", pairs("CVC-ClinicDB/", 3, ("Original", "Ground Truth"), (ending, ending)))
    assert run("cvc_clinicdb", [src], tmp_path / "dst") == 0
    record = cvc_clinicdb(tmp_path / "dst", "test")[0]
    assert np.array_equal(read_mask(record.masks[0]) > 0, np.asarray(Image.open(record.masks[0])) > 0)


def test_png_is_taken_where_there_is_tiff_too(tmp_path):
    names = ("Original", "Ground Truth")
    files = {**pairs("TIF/", 3, names, ("tif", "tif")), **pairs("PNG/", 3, names, ("png", "png"))}
    assert run("cvc_clinicdb", [write_folder(tmp_path / "src", files)], tmp_path / "dst") == 0
    assert {name.rpartition(".")[2] for name in content(tmp_path / "dst")} == {"png", "json"}


def gen() -> dict[str, bytes]:
    """PolypGen: 2 centres of 4 stills, 2 positive sequences of 4, 2 negative ones of 4."""
    files = {}
    for group in ("data_C1/", "data_C6/", "sequenceData/positive/seq1/", "sequenceData/positive/seq2/"):
        name = group.rstrip("/").rpartition("/")[2].removeprefix("data_")
        for n in range(4):
            files[f"v3/{group}images_{name}/{name}_{n}.jpg"] = picture(n)
            files[f"v3/{group}masks_{name}/{name}_{n}_mask.jpg"] = mask(n, form="JPEG")
            files[f"v3/{group}masks_{name}/{name}_{n}.txt"] = b"polyp 1 2 3 4"
            files[f"v3/imagesAll_positive/{name}_{n}.jpg"] = picture(n)
    files["v3/data_C1/images_C1/C1_0_.jpg"] = files.pop("v3/data_C1/images_C1/C1_0.jpg")
    for number in (1, 2):
        files.update({f"v3/sequenceData/negativeOnly/seq{number}_neg/{n}.jpg": picture(n, 20) for n in range(4)})
    return files


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_polypgen(kind, tmp_path, capsys):
    src, dst = write_any(kind, tmp_path / "src", gen()), tmp_path / "svanet/PolypGen"
    assert run("polypgen", [src], dst, "--shares", "0.5", "0", "0.5") == 0
    said = capsys.readouterr().out
    assert "stills: 8 of 8 images" in said and "train 12, val 0, test 12: not a published division" in said
    train, test = (svanet_set(tmp_path / "svanet", "PolypGen", split) for split in ("train", "test"))
    assert len(train) == len(test) == 12
    assert len({record.name.rpartition("_")[0] for record in train} & {r.name.rpartition("_")[0] for r in test}) == 2
    for record in train + test:
        raw = read_mask(record.masks[0])
        assert Image.open(record.masks[0]).mode == "P" and raw.max() == (0 if "neg" in record.name else 1)
        assert class_masks(raw, record.label_map).sum() == (0 if "neg" in record.name else 30)
    assert (dst / "mask/C1_0_.png").is_file()


def test_a_centre_for_the_test_only(tmp_path):
    images, _ = polypgen.find_files(gen_entries(tmp_path))
    parts = polypgen.divide(images, (0.5, 0.25, 0.25), 1, "C6")
    assert {part for key, part in parts.items() if key[0] == "C6"} == {"test"}
    assert parts == polypgen.divide(images, (0.5, 0.25, 0.25), 1, "C6")
    assert all(len({parts[key] for key in parts if key[0] == group}) == 1 for group in ("seq1", "seq2", "seq1_neg"))
    with pytest.raises(DataError, match="the images are of C1, C6, seq1"):
        polypgen.divide(images, (0.8, 0.1, 0.1), 1, "C9")
    with pytest.raises(DataError, match="add up to 1"):
        polypgen.divide(images, (0.8, 0.8, 0.1), 1)


def gen_entries(tmp_path):
    return images_of([open_source(write_folder(tmp_path / "src", gen()))])


@pytest.mark.parametrize("name", [*polyp_images.SETS, "polypgen"])
def test_another_download(name, tmp_path, capsys):
    src = write_zip(tmp_path / "x.zip", {"readme.txt": b"", "holiday.jpg": picture()})
    assert run(name, [src], tmp_path / "dst") == 2
    assert "--src holds no" in capsys.readouterr().err and not (tmp_path / "dst").exists()


def test_more_images_than_at_first_would_be_divided_anew(tmp_path, capsys):
    """Else some would be in two parts: those of the first division stay."""
    files = gen()
    fewer = {name: data for name, data in files.items() if "seq2" not in name}
    shares = ("--shares", "0.5", "0", "0.5")
    assert run("polypgen", [write_folder(tmp_path / "a", fewer)], tmp_path / "dst", *shares) == 1
    before = content(tmp_path / "dst")
    assert run("polypgen", [write_folder(tmp_path / "a", fewer)], tmp_path / "dst", *shares) == 1, "the same again"
    assert run("polypgen", [write_folder(tmp_path / "b", files)], tmp_path / "dst", *shares) == 2
    assert "divided anew, and some be in two parts; choose another --dst" in capsys.readouterr().err
    assert content(tmp_path / "dst") == before
    assert run("polypgen", [tmp_path / "b"], tmp_path / "new", "--shares", "nan", "0.5", "0.5") == 2
    assert "add up to 1" in capsys.readouterr().err


def test_folders_of_what_was_unpacked(tmp_path):
    """Each given by itself: their own names count, too."""
    files = pairs("TrainDataset/", 3, ("image", "mask"), ("png", "png"))
    for part in list(polyp_images.SETS["pranet"])[1:]:
        files.update(pairs(f"{part}/", 3, endings=("png", "png")))
    src = write_folder(tmp_path / "src", files)
    assert run("pranet", [src / "TrainDataset", src / "TestDataset"], tmp_path / "dst") == 0
    kvasir = write_folder(tmp_path / "Kvasir-SEG", pairs("", 3))
    assert run("kvasir_seg", [kvasir / "images", kvasir / "masks"], tmp_path / "two") == 0
