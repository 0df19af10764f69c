"""Downloads that lie together with others, and what was made of earlier ones: nothing is paired or kept by mistake."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data_prep import polyp_images, polypgen, spermhealth, sunseg, ufuv
from data_prep.archives import open_source
from data_prep.placing import Content, Entry, convert_files
from lgrnet.records import DataError
from tests.data_prep.downloads import mask, picture, write_folder


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def content_of(name: str, data: bytes, tmp_path) -> Content:
    return Content(data, Entry(open_source(write_folder(tmp_path / "src", {name: data})), name))


def test_polypgen_masks_of_ones_are_no_empty_ones(tmp_path):
    shown = np.zeros((20, 30), np.uint8)
    shown[4:9, 4:9] = 1
    with pytest.raises(DataError, match="values up to 1; expected a mask of 0 and 255"):
        polypgen.write_class_mask(content_of("a/masks/m.png", png(shown), tmp_path), tmp_path / "out.png")
    polypgen.write_class_mask(content_of("a/masks/m.png", png(255 * shown), tmp_path), tmp_path / "out.png")
    assert np.asarray(Image.open(tmp_path / "out.png")).sum() == 25


def test_images_of_one_download_have_no_masks_of_another(tmp_path, capsys):
    first = write_folder(tmp_path / "a", {f"images/{n}.jpg": picture(n) for n in range(3)})
    files = {f"images/{n}.jpg": picture(50 + n, 40) for n in range(3)} | {f"masks/{n}.jpg": mask(n) for n in range(3)}
    arguments = ["--set", "kvasir_seg", "--src", str(first), str(write_folder(tmp_path / "b", files))]
    assert polyp_images.main([*arguments, "--dst", str(tmp_path / "dst")]) == 2
    assert "images/0.jpg is another file in" in capsys.readouterr().err and not (tmp_path / "dst").exists()


@pytest.mark.parametrize("same", [True, False])
def test_two_pictures_of_one_stem_have_no_mask_in_common(tmp_path, same, capsys):
    files = {
        "SpermHealth/train/x.jpg": picture(1),
        "SpermHealth/val/x.jpg": picture(1) if same else picture(2, 40),
        "SpermHealth/mask/x.png": png(np.ones((20, 30))),
    }
    status = spermhealth.main(
        ["--src", str(write_folder(tmp_path / "src", files)), "--dst", str(tmp_path / "dst/SpermHealth")]
    )
    said = capsys.readouterr().err
    assert ("x.jpg is there twice, in val or another part" in said) is not same and (status == 2) is not same


def test_what_was_made_of_another_file_of_the_same_time_is_made_anew(tmp_path):
    written = []

    def write(content, path):
        written.append(content.read())
        path.write_bytes(b"made")

    (tmp_path / "dst").mkdir()
    for data in (b"first", b"second one", b"second one"):
        source = write_folder(tmp_path / "src", {"a.bin": data})
        os.utime(source / "a.bin", (315532800, 315532800))
        opened = open_source(source)
        convert_files({"a.txt": Entry(opened, "a.bin")}, tmp_path / "dst", write)
    assert written == [b"first", b"second one"]


def ufuv_files(*variants: str) -> dict[str, bytes]:
    return {
        f"{variant}/{split}/{kind}/{video} of {variant}/0.png": picture(1, form="PNG") if kind == "Frame" else mask(1)
        for variant in variants
        for split, video in (("train", "v1"), ("test", "v2"))
        for kind in ("Frame", "GT")
    }


def test_a_copy_by_another_name_is_no_variant(tmp_path, capsys):
    src = write_folder(tmp_path / "src", ufuv_files("temp8", "temp8_old"))
    ufuv.main(["--src", str(src), "--dst", str(tmp_path / "dst")])
    assert [path.name for path in (tmp_path / "dst/train/Frame").iterdir()] == ["v1 of temp8"]
    other = write_folder(tmp_path / "other", ufuv_files("new", "old"))
    assert ufuv.main(["--src", str(other), "--dst", str(tmp_path / "no")]) == 2
    assert "train/Frame is in new and in old; give one of these folders" in capsys.readouterr().err


def test_clips_of_one_case_keep_their_frames():
    names = [f"TrainDataset/Frame/{clip}/image1.jpg" for clip in ("case1_1", "case1_2")]
    entries = [SimpleNamespace(name=n, size=1, folder=n.split("/")[2], stem="image1") for n in names]
    frames = sunseg.find_frames(entries)
    assert [frames[clip, "image1"].name for clip in ("case1_1", "case1_2")] == names
