"""Data sets of still images: layouts, the published split, and pairing by name."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from lgrnet.config import build, builds
from lgrnet.data.datasets import ClipDataset
from lgrnet.data.samplers import LocalGlobal, Single
from lgrnet.data.still_datasets import (
    POLYP_SPLITS,
    SVANET_CLASSES,
    cvc_clinicdb,
    image_folder,
    kvasir_seg,
    polyp_stills,
    split_stills,
    svanet_set,
)
from lgrnet.data.still_to_clip import StillToClip
from lgrnet.data.still_training import ssformer_training, study_training, svanet_training
from lgrnet.records import DataError, VideoRecord, write_frame
from tests.data.still_layout import listed, mask_of, write_still, write_svanet


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("C3_2.jpg", "C3_10.jpg", "EndoCV_C5_1.png", "102OLCV1.png"):
        write_still(tmp_path / "images", tmp_path / "masks", name)
    return tmp_path


def test_an_image_is_a_video_of_one_frame(folder):
    records = listed(folder, meta={"split": "train"})
    assert [record.name for record in records] == ["102OLCV1", "C3_2", "C3_10", "EndoCV_C5_1"]
    assert all(record.num_frames == 1 for record in records)
    assert records[1].frames[0].name == "C3_2.jpg" and records[1].masks[0].name == "C3_2.png"
    assert records[0].meta == {"dataset": folder.name, "split": "train"}
    assert [record.name for record in listed(folder, order="name")][1:3] == ["C3_10", "C3_2"]


def test_parts_by_name_and_by_pattern(folder):
    assert [record.name for record in listed(folder, names=["C3_*", "102OLCV1"])] == ["102OLCV1", "C3_2", "C3_10"]
    assert [record.name for record in listed(folder, leave_out=["C3_*"])] == ["102OLCV1", "EndoCV_C5_1"]
    with pytest.raises(DataError, match=r"1 name \(C4_\*\) fit nothing in .*images, which holds 4 images"):
        listed(folder, names=["C4_*"])
    with pytest.raises(DataError, match="no image of .* is left"):
        listed(folder, leave_out=["*"])


def test_pairs_are_made_by_name_never_by_place(folder):
    (folder / "masks/C3_2.png").rename(folder / "masks/C3_3.png")
    with pytest.raises(DataError, match=r"1 image \(.*C3_2.jpg\) without a mask.*require_masks=False"):
        listed(folder)
    with pytest.raises(DataError, match=r"1 mask \(.*C3_3.png\) without an image"):
        listed(folder, require_masks=False)
    (folder / "masks/C3_3.png").unlink()
    records = listed(folder, require_masks=False)
    assert [record.masks[0] is None for record in records] == [False, True, False, False]
    assert all(record.masks == (None,) for record in image_folder(folder / "images", None))


def test_two_files_of_one_stem(folder):
    write_frame(folder / "images/C3_2.png", np.zeros((20, 24, 3)))
    with pytest.raises(DataError, match=r"C3_2.jpg and .*C3_2.png are the same frame twice"):
        listed(folder)
    (folder / "images/C3_2.png").unlink()
    write_frame(folder / "masks/C3_2.bmp", np.zeros((20, 24, 3)))
    with pytest.raises(DataError, match="same frame twice"):
        listed(folder)


def test_folders_that_are_missing_or_empty(tmp_path):
    with pytest.raises(DataError, match="images does not exist"):
        listed(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="images holds no images"):
        listed(tmp_path)


def stills(count: int) -> list[VideoRecord]:
    return [VideoRecord(str(i), (Path(f"{i}.png"),), (None,)) for i in range(1, count + 1)]


def test_the_published_split_of_clinicdb(shared):
    case = json.loads((shared / "golden/ssformer/split_cvcclinicdb_seed1337.json").read_text())
    for split, names in case["splits"].items():
        assert [record.frames[0].name for record in split_stills(stills(612), split)] == names
    shuffled = sorted(f"{i}.png" for i in range(1, 613))
    random.Random(1337).shuffle(shuffled)
    assert shuffled[:10] == case["order_after_shuffle_first10"]


def test_the_split_is_by_name_as_text_and_does_not_depend_on_the_order_given():
    order = ("169", "601", "205", "194", "479", "15", "347", "28", "6", "260")  # the first of the published shuffle
    parts = {split: split_stills(stills(612), split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 489, "val": 61, "test": 62}
    assert set(order) <= {record.name for record in parts["train"]}
    assert len({record.name for part in parts.values() for record in part}) == 612
    mixed = stills(612)
    random.Random(3).shuffle(mixed)
    assert all(split_stills(mixed, split) == part for split, part in parts.items())
    assert [len(split_stills(stills(1000), split)) for split in parts] == [800, 100, 100]
    with pytest.raises(ValueError, match="split is 'eval'"):
        split_stills(stills(3), "eval")


@pytest.mark.parametrize(
    "names", [("images", "masks"), ("Original", "Ground Truth"), ("PNG/Original", "PNG/Ground Truth")]
)
def test_clinicdb_as_downloaded_is_split(tmp_path, names):
    for i in range(1, 11):
        write_still(tmp_path / names[0], tmp_path / names[1], f"{i}.png")
    with pytest.warns(
        UserWarning, match="CVC-ClinicDB split 'train, val, test' has 10 images here, the published one 612"
    ):
        parts = {split: cvc_clinicdb(tmp_path, split) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [8, 1, 1]
    assert parts["val"][0].meta == {"dataset": "CVC-ClinicDB", "split": "val"}
    with pytest.raises(DataError, match=r"no split 'easy'; it has train, val, test"):
        cvc_clinicdb(tmp_path, "easy")


def test_kvasir_that_was_split_before(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for i in range(count):
            write_still(tmp_path / split / "images", tmp_path / split / "masks", f"{split}{i}.jpg", suffix=".jpg")
    with pytest.warns(UserWarning, match="4 images here, the published one 1000"):
        assert [record.name for record in kvasir_seg(tmp_path, "train")] == ["train0", "train1", "train2"]
    with pytest.raises(DataError, match=r"split 'test' of Kvasir-SEG is not in .*; splits found there: train, val"):
        kvasir_seg(tmp_path, "test")


def test_polyp_stills(shared):
    root = shared / "golden/ssformer/e2e"
    for split in list(POLYP_SPLITS)[1:]:
        with pytest.warns(UserWarning, match=f"split '{split}' has 2 images here"):
            records = polyp_stills(root, split)
        clip = ClipDataset(records, Single()).sample(0, rng())
        assert clip.frames.shape[0] == 1 and clip.targets.masks.shape[1:] == clip.targets.valid.shape
    with pytest.raises(DataError, match="splits found there: CVC-300, CVC-ClinicDB"):
        polyp_stills(root, "train")


def test_polyp_training_folder(tmp_path):
    write_still(tmp_path / "TrainDataset/image", tmp_path / "TrainDataset/mask", "1.png")
    with pytest.warns(UserWarning, match="1 images here, the published one 1450"):
        (record,) = polyp_stills(tmp_path, "train", label_map="soft")
    assert record.label_map == "soft" and record.meta["split"] == "train"


@pytest.mark.parametrize("name", SVANET_CLASSES)
def test_the_sets_of_svanet(tmp_path, name):
    classes = len(SVANET_CLASSES[name])
    write_svanet(tmp_path / name, (*range(1, classes + 1), 255))
    for split in ("train", "test"):
        (record,) = svanet_set(tmp_path, name, split)
        assert (record.name, record.num_classes) == (f"{split}_1", classes)
        assert record.meta == {"dataset": name, "split": split, "classes": SVANET_CLASSES[name]}
        targets = ClipDataset([record], Single()).sample(0, rng()).targets
        assert targets.labels.tolist() == list(range(classes)) and targets.masks.isfinite().all()
        ignored = slice(2 * classes + 2, 2 * classes + 4)
        assert not targets.valid[:, ignored].any() and (~targets.valid).sum() == 2 * 24
        assert not targets.masks[:, :, ignored].any()
    assert svanet_set(tmp_path / name, name.lower(), "train")[0].name == "train_1"


def test_svanet_test_is_val_where_there_is_no_test(tmp_path):
    write_svanet(tmp_path / "ISIC2018", (1,), ("train", "val"))
    (record,) = svanet_set(tmp_path, "ISIC2018T1", "test")
    assert (record.name, record.meta["split"]) == ("val_1", "test")
    write_svanet(tmp_path / "ISIC2018", (1,), ("test",))
    assert svanet_set(tmp_path, "ISIC2018T1", "test")[0].name == "test_1"
    assert svanet_set(tmp_path, "ISIC2018T1", "val")[0].name == "val_1"


@pytest.mark.parametrize("inside", [True, False])
def test_svanet_cross_validation(tmp_path, inside):
    base = tmp_path / "SpermHealth"
    for fold in (1, 2, 10):
        place = base / f"split{fold}"
        for part in ("train", "val"):
            write_still(place / part, (place if inside else base) / "mask", f"{part}{fold}.png", mask_of((1, 2)), True)
    assert svanet_set(tmp_path, "SpermHealth", "train", fold=10)[0].name == "train10"
    assert svanet_set(tmp_path, "SpermHealth", "test", fold=2)[0].name == "val2"
    for fold in (None, 3):
        with pytest.raises(DataError, match=f"fold is {fold}, folds 1..N found: 1, 2, 10"):
            svanet_set(tmp_path, "SpermHealth", "train", fold=fold)


def test_svanet_sets_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="no data set 'Cells'; it has FIVES, ISIC2018T1"):
        svanet_set(tmp_path, "Cells", "train")
    with pytest.raises(DataError, match="ATLAS is not in .*ATLAS or"):
        svanet_set(tmp_path, "ATLAS", "train")
    write_svanet(tmp_path / "ATLAS", (1, 2), ("train",))
    with pytest.raises(DataError, match="splits found there: train"):
        svanet_set(tmp_path, "ATLAS", "test")
    with pytest.raises(DataError, match="fold is 1, folds 1..N found: none"):
        svanet_set(tmp_path, "ATLAS", "train", fold=1)
    (tmp_path / "ATLAS/mask/train_1.png").rename(tmp_path / "ATLAS/mask/other.png")
    with pytest.raises(DataError, match="without a mask"):
        svanet_set(tmp_path, "ATLAS", "train")
    with pytest.raises(DataError, match=r"1 mask \(.*other.png\) without an image"):
        svanet_set(tmp_path, "ATLAS", "train", require_masks=False)


@pytest.mark.parametrize("training", [ssformer_training, study_training, svanet_training])
def test_stills_train_still_and_video_models(folder, training):
    records = listed(folder)
    still = ClipDataset(records, Single(), training(64), require_foreground=False).sample(0, rng())
    clip = ClipDataset(records, Single(), [StillToClip(6), training(64)], require_foreground=False).sample(0, rng())
    again = ClipDataset(records, LocalGlobal(6), training(64), require_foreground=False).sample(0, rng())
    assert still.frames.shape == (1, 3, 64, 64) and clip.frames.shape == again.frames.shape == (6, 3, 64, 64)
    assert (again.frames == again.frames[:1]).all(), "one draw for all frames"


def test_built_from_a_config(tmp_path):
    write_svanet(tmp_path / "TissueNet", (1, 2))
    records = build(builds(svanet_set, root=str(tmp_path), name="TissueNet", split="train"))
    assert records[0].label_map == {1: 1, 2: 2, 255: "ignore"}
    folder = dict(images=str(tmp_path / "TissueNet/train"), masks=None, label_map={1: 1, 2: 2, 255: "ignore"})
    node = builds(ClipDataset, records=builds(image_folder, **folder), sampler=builds(Single))
    assert build(node).num_classes == 2
