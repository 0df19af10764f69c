"""Layout -> format -> layout gives the same masks; the command line; stopped and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import convert, vocalfolds
from lgrnet.records import DataError, list_videos, write_frame, write_image
from tests.data_prep.downloads import write_folder
from tests.data_prep.layouts import ODD, content, masks_of, write_layout

SCRIPT = Path(convert.__file__)


def there_and_back(kind: str, src: Path, tmp_path: Path) -> Path:
    assert convert.main(["--to", kind, "--src", str(src), "--dst", str(tmp_path / "export")]) == 0
    assert convert.main(["--from", kind, "--src", str(tmp_path / "export"), "--dst", str(tmp_path / "back")]) == 0
    return tmp_path / "back"


def odd_names(kind: str) -> tuple[str, ...]:
    """DAVIS lists its videos line by line."""
    return tuple(name for name in ODD if kind != "davis" or "\n" not in name)


@pytest.mark.parametrize("values", [(255,), (1,), (1, 2, 7), (3, 255)])
@pytest.mark.parametrize("kind", convert.FORMATS)
def test_masks_come_back_bit_for_bit(kind, values, tmp_path):
    src = tmp_path / "src"
    masks = write_layout(src, values, odd_names(kind))
    before = content(src)
    back = there_and_back(kind, src, tmp_path)
    found = masks_of(back)
    assert found.keys() == masks.keys() and all(np.array_equal(found[k], masks[k]) for k in masks)
    ours, theirs = list_videos(src, require_masks=False), list_videos(back, require_masks=False)
    assert [(r.name, r.frame_names) for r in ours] == [(r.name, r.frame_names) for r in theirs]
    assert content(src) == before
    assert [a.read_bytes() for r in ours for a in r.frames] == [b.read_bytes() for r in theirs for b in r.frames]


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_full_and_one_pixel_masks_come_back(kind, tmp_path):
    masks = [np.ones((9, 5), bool), np.eye(9, 5, dtype=bool), np.zeros((9, 5), bool)]
    masks += [np.pad([[True]], ((r, 8 - r), (c, 4 - c))) for r, c in ((0, 0), (8, 4), (4, 0))]
    for index, mask in enumerate(masks):
        write_frame(tmp_path / f"src/Frame/v/{index}.png", np.zeros((9, 5, 3)))
        write_image(tmp_path / f"src/GT/v/{index}.png", Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))))
    found = masks_of(there_and_back(kind, tmp_path / "src", tmp_path))
    assert all(np.array_equal(found[f"v/{index}"] == 255, mask) for index, mask in enumerate(masks))


def test_label_map_says_what_a_config_needs(tmp_path):
    write_layout(tmp_path / "src", (3, 255), ("v",))
    back = there_and_back("coco", tmp_path / "src", tmp_path)
    said = json.loads((back / "label_map.json").read_text())
    assert said == {"values": {"class_3": 3, "ignore": 255}, "label_map": {"3": 1, "255": "ignore"}}
    records = list_videos(back, label_map=said["label_map"], require_masks=False)
    assert records[0].num_classes == 1


def test_names_of_classes_go_along(tmp_path):
    write_layout(tmp_path / "src", (4, 9), ("v",))
    (tmp_path / "src/label_map.json").write_text(json.dumps({"values": {"tumour": 9, "liver": 4}}))
    there_and_back("cvat", tmp_path / "src", tmp_path)
    text = (tmp_path / "export/annotations.xml").read_text()
    assert text.index("<name>liver") < text.index("<name>tumour") and 'label="tumour"' in text


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_a_dry_run_writes_nothing(kind, tmp_path, capsys):
    write_layout(tmp_path / "src", (1, 2), ("v", "w"))
    there_and_back(kind, tmp_path / "src", tmp_path)
    capsys.readouterr()
    for arguments in (["--to", kind, "--src", "src"], ["--from", kind, "--src", "export"]):
        paths = [str(tmp_path / a) if a in ("src", "export") else a for a in arguments]
        assert convert.main([*paths, "--dst", str(tmp_path / "dry"), "--dry_run"]) == 0
        assert "would write 2 videos, 6 frames, 4 of them annotated" in capsys.readouterr().out
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_killed_and_started_again(kind, tmp_path):
    write_layout(tmp_path / "src", (1, 2), tuple(f"video{i}" for i in range(12)))
    there_and_back(kind, tmp_path / "src", tmp_path)
    expected = content(tmp_path / "back")
    command = [sys.executable, str(SCRIPT), "--from", kind, "--src", str(tmp_path / "export")]
    command += ["--dst", str(tmp_path / "again")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    give_up, wait = time.monotonic() + 60, random.Random(kind).randrange(1, 20)
    while len(list(tmp_path.glob("again/GT/*/*"))) < wait and run.poll() is None and time.monotonic() < give_up:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    (tmp_path / "again/GT/video0").mkdir(parents=True, exist_ok=True)
    (tmp_path / "again/GT/video0/.4711.png").write_bytes(b"half")
    assert convert.main(command[2:]) == 0
    assert content(tmp_path / "again") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 are legal on Linux")
def test_names_that_are_no_text_are_printed(tmp_path):
    write_frame(tmp_path / "src/Frame/v\udcff/0.png", np.zeros((4, 4, 3)))
    (tmp_path / "src/GT").mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for way in (
        ("--to", "coco", "--src", "src", "--dst", "ex\udcff"),
        ("--from", "coco", "--src", "ex\udcff", "--dst", "b"),
    ):
        done = subprocess.run([sys.executable, SCRIPT, *way], capture_output=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0 and b"\\udcff" in done.stdout, done.stderr
    src = write_folder(tmp_path / "x\udcff", {"temp8/train/Frame/a/0.jpg": b"1", "temp8/train/GT/a/0.png": b"2"})
    ufuv = [sys.executable, SCRIPT.with_name("ufuv.py"), "--src", src, "--dst", "d\udcff"]
    done = subprocess.run(ufuv, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1 and b"1 frames in d\\udcff" in done.stdout, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="such names are legal on Linux")
@pytest.mark.parametrize("name", ["b\nc", "v\udcff"])
def test_names_that_the_list_of_davis_cannot_hold(name, tmp_path):
    write_layout(tmp_path / "src", videos=("a",))
    write_frame(tmp_path / "src/Frame" / name / "0.png", np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match="which the list of DAVIS cannot hold; rename"):
        convert.from_layout("davis", tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", convert.FORMATS)
def test_bad_files_are_found_before_anything_is_written_and_all_are_named(kind, named, tmp_path, capsys):
    src, dst = tmp_path / "src", tmp_path / "dst"
    write_layout(src, (1, 2), ("v", "w", "x"))
    if named:
        (src / "label_map.json").write_text(json.dumps({"values": {"a": 1, "b": 2}}))
    masks = [record.masks for record in list_videos(src, require_masks=False)]
    good = {path: path.read_bytes() for path in (masks[1][0], masks[1][1], masks[2][0])}
    masks[1][0].write_bytes(b"no picture")
    write_image(masks[1][1], Image.fromarray(np.zeros((5, 5), np.uint8)))
    write_image(masks[2][0], Image.fromarray(np.full((23, 37, 3), (1, 2, 3), np.uint8)))
    for more in ([], ["--dry_run"]):
        assert convert.main(["--to", kind, "--src", str(src), "--dst", str(dst), *more]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "error: 3 frames cannot be converted, nothing was written; correct them and run it again:"
        whys = ("cannot be read", "has (height, width) (5, 5), its frame (23, 37)", "is a colour image")
        for line, path, why in zip(lines[1:], good, whys, strict=True):
            assert str(path) in line and why in line
        assert not dst.exists()
    for path, data in good.items():
        path.write_bytes(data)
    assert convert.main(["--to", kind, "--src", str(src), "--dst", str(dst)]) == 0


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_all_bad_pictures_of_an_export_are_named(kind, tmp_path, capsys):
    write_layout(tmp_path / "src", (1, 2), ("v", "w"))
    export, back = tmp_path / "export", tmp_path / "back"
    assert convert.main(["--to", kind, "--src", str(tmp_path / "src"), "--dst", str(export)]) == 0
    pictures = sorted(path for path in export.rglob("*.png") if "Annotations" not in path.parts)
    pictures[0].unlink()  # may be a link to the source
    pictures[0].write_bytes(b"no picture")
    pictures[-1].unlink()
    write_frame(pictures[-1], np.zeros((5, 5, 3)))
    capsys.readouterr()
    for more in ([], ["--dry_run"]):
        assert convert.main(["--from", kind, "--src", str(export), "--dst", str(back), *more]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "error: 2 frames cannot be converted, nothing was written; correct them and run it again:"
        for line, path, why in zip(lines[1:], (pictures[0], pictures[-1]), ("cannot be read", "(5, 5)"), strict=True):
            assert str(path) in line and why in line
        assert not back.exists()


def test_all_bad_masks_of_davis_are_named(tmp_path, capsys):
    write_layout(tmp_path / "src", (1, 2), ("v", "w"))
    export, back = tmp_path / "export", tmp_path / "back"
    assert convert.main(["--to", "davis", "--src", str(tmp_path / "src"), "--dst", str(export)]) == 0
    masks = sorted(path for path in export.rglob("*.png") if "Annotations" in path.parts)
    for mask in masks[:2]:
        write_image(mask, Image.fromarray(np.zeros((5, 5), np.uint8)))
    capsys.readouterr()
    assert convert.main(["--from", "davis", "--src", str(export), "--dst", str(back)]) == 2
    said = capsys.readouterr().err
    assert "error: 2 frames" in said and all(f"{mask} has (height, width) (5, 5)" in said for mask in masks[:2])
    assert not back.exists()


def test_values_that_the_label_map_does_not_know_are_found_before_anything_is_written(tmp_path, capsys):
    write_layout(tmp_path / "src", (1, 2), ("v", "w"))
    (tmp_path / "src/label_map.json").write_text(json.dumps({"values": {"a": 1}}))
    assert convert.main(["--to", "coco", "--src", str(tmp_path / "src"), "--dst", str(tmp_path / "dst")]) == 2
    said = capsys.readouterr().err
    assert "2 frames" in said and said.count("has the values [2], unknown to label_map.json ({'a': 1})") == 2
    assert not (tmp_path / "dst").exists()


def test_more_classes_than_davis_holds_are_found_before_anything_is_written(tmp_path):
    values = {f"class {value}": value for value in range(1, 256)}
    write_layout(tmp_path / "src", (1,), ("v",))
    (tmp_path / "src/label_map.json").write_text(json.dumps({"values": values}))
    with pytest.raises(DataError, match="254 classes at most, not 255"):
        convert.from_layout("davis", tmp_path / "src", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("program", [convert, vocalfolds])
def test_an_interrupt_is_told_in_one_line(program, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "to_layout" if program is convert else "convert", interrupted)
    way = ["--from", "coco"] if program is convert else []
    assert program.main([*way, "--src", str(tmp_path), "--dst", str(tmp_path / "dst")]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"


def test_a_folder_that_holds_something_else_is_refused(tmp_path, capsys):
    write_layout(tmp_path / "src", (1, 2), ("v",))
    there_and_back("coco", tmp_path / "src", tmp_path)
    file = tmp_path / "export/annotations.json"
    data = json.loads(file.read_text())
    data["annotations"].pop()
    file.write_text(json.dumps(data))
    again = ["--from", "coco", "--src", str(tmp_path / "export"), "--dst"]
    for place, message in (
        ("back", "holds sha256"),
        ("src", "did not write"),
        ("export/images", "is in the source"),
        (".", "is the source or holds it"),
    ):
        assert convert.main([*again, str(tmp_path / place)]) == 2
        assert message in capsys.readouterr().err


def test_the_real_frames(shared, tmp_path):
    src = tmp_path / "src"
    for name, target in (("Frame", "Frame"), ("annot", "GT")):
        (src / target).mkdir(parents=True)
        for video in ("seq5",):
            (src / target / video).symlink_to(shared / "data/vocalfolds" / name / video)
    before = masks_of(src)
    for kind in convert.FORMATS:
        after = masks_of(there_and_back(kind, src, tmp_path / kind))
        assert len(after) == 26 and all(np.array_equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_annotations_of_the_user_are_not_written_over(kind, tmp_path, capsys):
    write_layout(tmp_path / "src", (1, 2), ("v",))
    mine = ["label_map.json", *([convert.READERS[kind][1]] if kind in convert.READERS else [])]
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        assert convert.main(["--to", kind, "--src", str(tmp_path / "src"), "--dst", str(tmp_path / name)]) == 2
        assert f"holds {name} that this program did not write" in capsys.readouterr().err
        assert content(tmp_path / name) == {name: b"mine"}


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_pictures_of_another_source_are_not_mixed_in(kind, tmp_path, capsys):
    """Videos and frames of the same names, as many exports have."""
    write_layout(tmp_path / "a", (1, 2), ("v",))
    write_layout(tmp_path / "b", (1, 2), ("v",))
    for path in (tmp_path / "b").rglob("Frame/*/*.png"):
        write_frame(path, np.random.default_rng(0).integers(0, 256, (23, 37, 3)))
    assert convert.main(["--to", kind, "--src", str(tmp_path / "a"), "--dst", str(tmp_path / "out")]) == 0
    before = content(tmp_path / "out")
    assert convert.main(["--to", kind, "--src", str(tmp_path / "b"), "--dst", str(tmp_path / "out")]) == 2
    assert "/a, not " in capsys.readouterr().err
    for name in ("a", "b"):  # others in the place of the first ones
        (tmp_path / name).rename(tmp_path / ("c" if name == "a" else "a"))
    assert convert.main(["--to", kind, "--src", str(tmp_path / "a"), "--dst", str(tmp_path / "out")]) == 2
    assert "is another picture than" in capsys.readouterr().err
    assert content(tmp_path / "out") == before


def test_a_video_of_two_sizes_is_none_of_youtube_vis(tmp_path, capsys):
    src = tmp_path / "src"
    for name, side in (("0", 20), ("1", 20), ("2", 24)):
        write_frame(src / f"Frame/clip/{name}.png", np.zeros((side, 30, 3)))
        write_image(src / f"GT/clip/{name}.png", Image.fromarray(np.zeros((side, 30), np.uint8)))
    dst = tmp_path / "dst"
    assert convert.main(["--to", "ytvis", "--src", str(src), "--dst", str(dst)]) == 2
    assert "1 video (clip) with frames of several sizes" in capsys.readouterr().err and not dst.exists()
    assert convert.main(["--to", "coco", "--src", str(src), "--dst", str(dst)]) == 0
