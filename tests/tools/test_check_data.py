"""The data check: every kind of defect planted in a clean set and found there, and nothing in clean sets."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lgrnet.data import phantom
from tests.tools import data_sets
from tests.tools.data_sets import COUNTS, PLANTS, SIZE, disc, frame_of, save
from tools import check_data

for module in ("planted_files", "planted_pictures", "planted_texts"):
    importlib.import_module(f"tests.tools.{module}")

run, report = check_data.run, check_data.report
kinds, pictures = sys.modules["data_checks.kinds"], sys.modules["data_checks.pictures"]
ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {"D002"}  # tests of their own below


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return data_sets.copies(tmp_path_factory.mktemp("clean"))


def said(root: Path, **options) -> list[tuple[str, str]]:
    return sorted((f.code, f.path) for f in run.check(root, run.Options(workers=1, **options)).findings)


@pytest.mark.parametrize("planted", PLANTS, ids=lambda p: f"{p.code}-{p.make.__name__.strip('<>')}")
def test_what_is_planted_is_found_and_nothing_else(planted, copy, tmp_path):
    root = copy(planted.base, tmp_path / "set")
    planted.make(root)
    found = said(root, **planted.options)
    assert found == planted.expected


def test_every_kind_is_planted():
    assert len(kinds.KINDS) >= 80
    assert {p.code for p in PLANTS} | ELSEWHERE == set(kinds.KINDS)
    assert not {p.code for p in PLANTS} & ELSEWHERE


@pytest.mark.parametrize("base", sorted(data_sets.BASES))
def test_clean_sets_are_clean(base, copy, tmp_path):
    assert said(copy(base, tmp_path / "set")) == (COUNTS if base == "sunseg" else [])


def as_class_values(root: Path) -> None:
    for path in root.rglob("GT/*/*.png"):
        save(path, disc(int(path.stem)) // 255 * 2 + np.uint8(disc(40) > 0))


def as_png(root: Path) -> None:
    for path in list(root.rglob("Frame/*/*.jpg")):
        save(path.with_suffix(".png"), frame_of(sum(map(ord, path.parent.name)), int(path.stem)))
        path.unlink()


def sampled_on_purpose(root: Path) -> None:
    for kind in ("Frame", "GT"):
        for number, path in enumerate(sorted((root / "train" / kind / "v1").iterdir(), reverse=True)):
            path.rename(path.with_stem(f"{900 - 7 * number * number:04d}"))


def lesion_comes_and_goes(root: Path) -> None:
    for t in (0, 1, 2, 7):
        save(root / f"train/GT/v1/00{t}.png", np.zeros(SIZE, np.uint8))


def linked(root: Path) -> None:
    shutil.move(root / "test", root.parent / "elsewhere")
    (root / "test").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    (root / "README.txt").write_text("Windows\r\n")


VARIANTS = (as_class_values, as_png, sampled_on_purpose, lesion_comes_and_goes, linked)


@pytest.mark.parametrize("change", VARIANTS, ids=lambda change: change.__name__)
def test_what_only_looks_odd_is_no_alarm(change, copy, tmp_path):
    root = copy("videos", tmp_path / "set")
    change(root)
    assert said(root) == []


def test_phantom_is_clean(tmp_path):
    assert said(phantom.write(tmp_path / "phantom", 4, 10, 64)) == []


def test_a_file_that_may_not_be_read(copy, tmp_path, monkeypatch):
    root = copy("videos", tmp_path / "set")
    secret = root / "train/Frame/v2/000.jpg"
    secret.chmod(0)
    plain = Path.read_bytes

    def read_bytes(path):  # for root, who may read everything
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert said(root) == [("D002", "train/Frame/v2/000.jpg")]


def test_a_few_masks_may_show_nothing_but_ignored_pixels(copy, tmp_path):
    root = copy("stills", tmp_path / "set")
    ignoring = {1: 1, 255: "ignore"}
    for i in (1, 2, 3):
        save(root / f"masks/p{i}.png", disc(i) // 255)
        found = [path for code, path in said(root, label_map=ignoring) if code == "D123"]
        assert len(found) == (3, 0, 0)[i - 1]


def test_vocalfolds_patients_stand_on_both_sides(tmp_path):
    """By the note of data_prep, without an option: sequences 1-4 and 5-8 are of one patient each."""
    for number in (1, 2, 4, 5, 8):
        data_sets.video(tmp_path, f"seq{number}", number, 2)
    (tmp_path / "prepared.json").write_text(json.dumps({"source": "imesluh/vocalfolds (CC BY 4.0)"}))
    assert said(tmp_path) == [("D145", "Frame/seq1"), ("D145", "Frame/seq5")]
    (tmp_path / "prepared.json").write_text(json.dumps({"source": "TissueNet", "images": {"train": 2}}))
    assert not [found for found in said(tmp_path) if found[1] == "prepared.json"], "no annotations of COCO"
    (tmp_path / "prepared.json").write_text("[1")
    assert ("D158", "prepared.json") in said(tmp_path)


def test_real_sets(shared):
    """Only what is true: PolypGen has empty masks, and one scene twice; vocalfolds has both patients on both sides."""
    polypgen = said(shared / "data/polypgen_stills")
    assert {code for code, _ in polypgen} <= {"D113", "D144"} and len(polypgen) == 15
    vocalfolds = said(shared / "data/vocalfolds")
    assert vocalfolds == [("D145", "Frame/seq1"), ("D145", "Frame/seq5")]


def test_random_bytes_break_nothing(copy, tmp_path):
    """Pictures, JSON and videos with random bytes changed, cut or doubled: always findings or none, never an error."""
    draw = random.Random(7)
    for base, rounds in (("videos", 6), ("stills", 8), ("coco", 12), ("tracks", 12), ("films", 8), ("nested", 4)):
        for number in range(rounds):
            root = copy(base, tmp_path / f"{base}{number}")
            for path in [p for p in sorted(root.rglob("*")) if p.is_file()][:6]:
                data = bytearray(path.read_bytes())
                for _ in range(draw.choice((1, 3, 30))):
                    data[draw.randrange(min(len(data), draw.choice((64, len(data)))))] = draw.randrange(256)
                path.write_bytes(
                    data[: draw.choice((len(data), len(data), draw.randrange(len(data))))] * draw.choice((1, 1, 2))
                )
            found = run.check(root, run.Options(workers=1))
            assert report.as_json(found)
            shutil.rmtree(root)


JUNK = (None, True, -1, 1e308, float("inf"), "x", [], [None], {}, {"size": [1, 2], "counts": "~~"}, [[1, "a"]])


@pytest.mark.parametrize("base", ["coco", "tracks"])
def test_any_value_in_json_breaks_nothing(base, copy, tmp_path):
    root = copy(base, tmp_path / "set")
    (name,) = root.glob("*.json")
    whole = json.loads(name.read_text())
    for part, entries in whole.items():
        for key in [None, *entries[0]]:
            for junk in JUNK:
                changed = json.loads(json.dumps(whole))
                if key is None:
                    changed[part] = junk
                else:
                    changed[part][0][key] = junk
                name.write_text(json.dumps(changed))
                run.check(root, run.Options(workers=1))


def test_the_command(copy, tmp_path, capsys):
    root = copy("videos", tmp_path / "set")
    assert check_data.main([str(root), "--workers", "1"]) == 0
    assert "nothing found" in capsys.readouterr().out
    (root / "train/GT/v1/001.png").unlink()
    (root / "train/Frame/v1/002.jpg").rename(root / "train/Frame/v1/\udcff\x1b[31m[red].jpg")
    found, sheet = tmp_path / "new/found.json", tmp_path / "new/sheet.png"
    assert check_data.main([str(root), "--json", str(found), "--sheet", str(sheet)]) == 1
    out = capsys.readouterr().out
    assert "D050" in out and "\x1b" not in out and "[red]" in out
    said_there = json.loads(found.read_text())
    assert said_there["status"] == 1 and said_there["frames"] == 18 and said_there["levels"]["error"] >= 2
    assert {f["code"] for f in said_there["findings"]} >= {"D050", "D051", "D039"}
    assert pictures.look_at_frame(str(sheet)).size[1] > 100
    assert check_data.main([str(root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["masks"] == 17


def test_only_notes_are_no_failure(copy, tmp_path):
    root = copy("videos", tmp_path / "set")
    (root / ".DS_Store").write_bytes(b"x")
    assert check_data.main([str(root)]) == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], "not a folder"),
        (["empty"], "holds no data"),
        (["set", "--split", "train"], "NAME=VIDEO"),
        (["set", "--split", "train=v1", "test=w2"], "--split has 'w2', which no video fits; there are"),
        (["set", "--split", "train=v1,v2", "test=v2"], "--split has the video 'v2' in train and in test"),
        (["set", "--patient_of", "("], "regular expression"),
        (["set", "--label_map", "1:2"], "label_map"),
        (["set", "--label_map", "blue"], "label_map"),
    ],
)
def test_what_cannot_run_says_why(arguments, words, copy, tmp_path, capsys):
    copy("videos", tmp_path / "set")
    (tmp_path / "empty").mkdir()
    assert check_data.main([str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error


def test_files_that_cannot_be_written_are_told_before_the_check(copy, tmp_path, monkeypatch, capsys):
    root = copy("videos", tmp_path / "set")
    monkeypatch.setattr(check_data, "_checked", lambda *_: pytest.fail("looked at the data first"))
    for more in (["--json", str(tmp_path)], ["--sheet", str(root / "train/GT/v1/001.png/sheet.png")]):
        assert check_data.main([str(root), *more]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_processes_find_the_same(copy, tmp_path, monkeypatch):
    root = copy("videos", tmp_path / "set")
    (root / "train/GT/v1/001.png").write_bytes(b"")
    alone = said(root)
    monkeypatch.setattr(run, "_INLINE", 1)
    assert (
        sorted((f.code, f.path) for f in run.check(root, run.Options(workers=2)).findings)
        == alone
        == [("D001", "train/GT/v1/001.png")]
    )


def test_from_a_clone_without_torch_and_with_codes():
    lines = (
        "import runpy, sys",
        "sys.argv = ['check_data.py', '--codes']",
        "try: runpy.run_path('tools/check_data.py', run_name='__main__')",
        "except SystemExit as end: assert not end.code",
        "assert 'torch' not in sys.modules",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and all(kind in done.stdout for kind in kinds.KINDS), done.stderr


def test_a_role_is_that_of_the_innermost_folder_that_has_one():
    role = sys.modules["data_checks.sets"].role_of
    assert [role(name) for name in ("train_test/train", "train_test/test", "TestHardDataset/Unseen")] == [
        *("train", "test", "test")
    ]
    assert [role(name) for name in ("latest", "strain/a", "x/Seen", "data/validation", "MyTrain")] == [
        *("", "", "", "val", "train")
    ]


def test_files_of_a_json_are_looked_for_where_it_says(copy, tmp_path):
    """Names like 00001.jpg are in every video; another video's does not stand for a missing one."""
    coco = sys.modules["data_checks.coco"]
    names = {"v1/00001.jpg": "v1/00001.jpg", "v2/00001.jpg": "v2/00001.jpg", "00001.jpg": "v1/00001.jpg"}
    names |= {"v1/only.jpg": "v1/only.jpg", "only.jpg": "v1/only.jpg"}
    files = coco.Files(names, {"only.jpg": "v1/only.jpg"}, lambda path: None)
    images = [{"id": i, "file_name": name} for i, name in enumerate(("v3/00001.jpg", "v2/00001.jpg", "x/only.jpg"))]
    text = json.dumps({"images": images, "annotations": [], "categories": []})
    found = [(f.code, f.detail) for f in coco.check_json("a.json", text, files)]
    assert [code for code, detail in found if "00001" in detail or "only" in detail] == ["D172"]
    assert ("D172", "v3/00001.jpg") in found


def test_masks_of_more_classes_than_31(copy, tmp_path):
    root = copy("videos", tmp_path / "set")
    rng = np.random.default_rng(0)
    for path in root.rglob("GT/*/*.png"):
        top = 20 if int(path.stem) % 2 else 45
        save(path, (disc(int(path.stem)) > 0) * rng.integers(1, top, disc(40).shape).astype(np.uint8))
    assert not {"D101", "D102", "D103"} & {code for code, _ in said(root)}
