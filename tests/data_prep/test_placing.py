"""Files are placed whole or not at all, sources stay as they are, and what is missing is said."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_prep import placing
from data_prep.archives import open_source
from data_prep.placing import Entry, Part, Report, convert_files, is_there, place
from data_prep.stamp import claim, finish
from lgrnet.records import DataError
from lgrnet.records.drafts import drafted
from tests.data_prep.downloads import content, write_any, write_folder, write_zip

ROOT = Path(__file__).resolve().parents[2]
FILES = {f"in/{n}.bin": bytes([n]) * (1000 + n) for n in range(5)}
ODD = ("a b", "qu\"ote's", "new\nline", "日本 ü", "x" * 251, "-rf", "%00 $(true) `id`")


def no_link(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def plan_for(source) -> dict:
    return {f"out/{name}": Entry(source, name) for name in source.files}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_files_are_placed_and_the_source_stays(kind, tmp_path):
    path = write_any(kind, tmp_path / "src", {**FILES, **{f"odd/{name}.bin": name.encode() for name in ODD}})
    before = content(tmp_path)
    source, dst = open_source(path), tmp_path / "dst"
    for _ in range(2):
        claim(dst, [source], {"source": "x"}, ("out",))
        place(plan_for(source), dst)
        assert {n: d for n, d in content(dst).items() if n != "prepared.json"} == {
            f"out/{name}": source.read(name) for name in source.files
        }
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("dst/")} == before
    assert (dst / "out/in/0.bin").stat().st_nlink == (2 if kind == "folder" else 1)


def test_a_file_of_another_size_is_placed_again_and_never_written_through(tmp_path):
    source, dst = open_source(write_folder(tmp_path / "src", FILES)), tmp_path / "dst"
    claim(dst, [source], {}, ("out",))
    place(plan_for(source), dst)
    other = dst / "out/in/1.bin"
    other.unlink()
    other.symlink_to(tmp_path / "src/in/2.bin")
    (dst / "out/in/3.bin").unlink()
    (dst / "out/in/3.bin").write_bytes(b"half")
    os.link(tmp_path / "src/in/4.bin", dst / "out/in/.77")  # a draft that was left is a link to a source
    place(plan_for(source), dst)
    claim(dst, [source], {}, ("out",))
    assert content(dst / "out") == FILES == content(tmp_path / "src")


@pytest.mark.parametrize("kind", ["link", "copy", "zip", "tar"])
def test_sources_that_changed_and_kept_their_size_are_taken_anew(kind, tmp_path, monkeypatch):
    if kind == "copy":
        monkeypatch.setattr("os.link", no_link)
    placed, made, write = [], [], placing._write
    monkeypatch.setattr(placing, "_write", lambda entry, *more: placed.append(entry.name) or write(entry, *more))

    def convert(data, target):
        made.append(data.entry.name)
        write_folder(target.parent, {target.name: data.read()[::-1]})

    form, path, dst = kind if kind in ("zip", "tar") else "folder", tmp_path / "src", tmp_path / "dst"
    changed = {**FILES, "in/3.bin": b"?" * len(FILES["in/3.bin"])}
    news = {"in/3.bin": changed["in/3.bin"]} if form == "folder" else changed
    for files, new in ((FILES, FILES), (changed, news), (changed, {})):
        if new:
            (path / "in/3.bin" if form == "folder" else path).unlink(missing_ok=True)
            write_any(form, path, new)
            os.utime(path / "in/3.bin" if form == "folder" else path, (0, 99 if new is news else 9))
        source = open_source(path)
        claim(dst, [source], {}, ())
        place(plan_for(source), dst)
        convert_files({f"made/{name}": Entry(source, name) for name in source.files}, dst, convert)
        assert content(dst / "out") == files
        assert content(dst / "made") == {name: data[::-1] for name, data in files.items()}
        assert placed == made == list(new), "and no others"
        placed.clear(), made.clear()


def test_disks_that_round_times_down(tmp_path):
    (tmp_path / "file").write_bytes(b"12")
    source, time = open_source(write_folder(tmp_path / "src", {"a": b"34", "b": b"5"})), 1_700_000_001_234_567_891
    os.utime(tmp_path / "src/a", ns=(time, time))
    for kept in (time, time // 100 * 100, time // 10**9 * 10**9, time // (2 * 10**9) * 2 * 10**9):
        os.utime(tmp_path / "file", ns=(kept, kept))
        assert is_there(tmp_path / "file", Entry(source, "a")) and not is_there(tmp_path / "file", Entry(source, "b"))
    for other in (time - 1, time + 100, time - 10**9):
        os.utime(tmp_path / "file", ns=(other, other))
        assert not is_there(tmp_path / "file", Entry(source, "a"))


def test_several_names_of_one_file(tmp_path):
    source, dst = open_source(write_zip(tmp_path / "x.zip", FILES)), tmp_path / "dst"
    claim(dst, [source], {}, ())
    place({"a/0": Entry(source, "in/0.bin"), "b/0": Entry(source, "in/0.bin")}, dst)
    assert (dst / "a/0").samefile(dst / "b/0")


def test_copies_where_links_are_not_possible(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", no_link)
    source, dst = open_source(write_folder(tmp_path / "src", FILES)), tmp_path / "dst"
    claim(dst, [source], {}, ())
    place(plan_for(source), dst)
    assert content(dst / "out") == FILES and (dst / "out/in/0.bin").stat().st_nlink == 1


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    source, dst = open_source(write_zip(tmp_path / "x.zip", FILES)), tmp_path / "dst"
    claim(dst, [source], {}, ())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(DataError, match="needs 5010 bytes more but its disk has 5000: 10 bytes are missing"):
        place(plan_for(source), dst)
    assert not (dst / "out").exists()


LIMITED = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from data_prep import placing
from data_prep.archives import open_source
from data_prep.placing import Entry, place
from data_prep.stamp import claim
source, dst = open_source(sys.argv[1]), Path(sys.argv[2])
claim(dst, [source], {}, ())
resource.setrlimit(resource.RLIMIT_FSIZE, (1002, 1002))
place({f"out/{name}": Entry(source, name) for name in source.files}, dst)
"""


def test_a_limit_of_the_system_is_met_in_the_middle(tmp_path):
    path, dst = write_zip(tmp_path / "x.zip", FILES), tmp_path / "dst"
    done = subprocess.run([sys.executable, "-c", LIMITED, path, dst], cwd=ROOT, capture_output=True, text=True)
    assert "2007 bytes were still to be written" in done.stderr and "goes on with in/3.bin" in done.stderr
    assert sorted(content(dst / "out")) == ["in/0.bin", "in/1.bin", "in/2.bin"]
    place(plan_for(open_source(path)), dst)
    assert content(dst / "out") == FILES


def test_converting_meets_a_full_disk(tmp_path):
    source, dst, wrote = open_source(write_zip(tmp_path / "x.zip", FILES)), tmp_path / "dst", []

    def write(data, target):
        if len(wrote) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        wrote.append(str(data))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.read()[::-1])

    claim(dst, [source], {}, ())
    with pytest.raises(DataError, match="No space left.*goes on with in/2.bin"):
        convert_files(plan_for(source), dst, write)
    assert wrote == [f"in/{n}.bin in {tmp_path / 'x.zip'}" for n in range(2)]
    wrote.clear()
    with pytest.raises(DataError, match="goes on with in/4.bin"):
        convert_files(plan_for(source), dst, write)


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(PermissionError), drafted(tmp_path / "x") as draft:
        draft.write_bytes(b"half")
        raise PermissionError(errno.EACCES, "Permission denied")
    assert content(tmp_path) == {}


def test_threads_may_write_one_file(tmp_path):
    def write(number):
        with drafted(tmp_path / "x.txt", ".txt") as draft:
            draft.write_text(str(number) * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [number % 8 for number in range(200)]))
    (text,) = content(tmp_path).values()
    assert len(text) == 1000 and len(set(text)) == 1


def test_hidden_files_of_the_user_stay(tmp_path):
    source, dst = open_source(write_folder(tmp_path / "src", FILES)), tmp_path / "dst"
    mine = {".2024.txt": b"1", "notes/.12": b"2", "notes/deep/.3.png": b"3"}
    write_folder(dst, mine)
    claim(dst, [source], {"source": "a"}, ("Frame", "GT"))
    assert all(content(dst)[name] == data for name, data in mine.items())
    write_folder(dst, {"Frame/v/.77.jpg": b"draft", "GT/.78": b"draft", ".79.json": b"draft"})
    claim(dst, [source], {"source": "a"}, ("Frame", "GT"))
    left = content(dst)
    assert left["notes/.12"] == b"2" and left["notes/deep/.3.png"] == b"3"
    assert not {"Frame/v/.77.jpg", "GT/.78", ".79.json"} & set(left)


def test_folders_that_are_refused(tmp_path):
    source = open_source(write_folder(tmp_path / "src", FILES))
    for dst in (tmp_path / "src", tmp_path, tmp_path / "src/in", tmp_path / "src/new"):
        with pytest.raises(DataError, match="is the source or holds it|is in the source"):
            claim(dst, [source], {}, ())
    (tmp_path / "dst/Frame").mkdir(parents=True)
    with pytest.raises(DataError, match="holds Frame that this program did not write"):
        claim(tmp_path / "dst", [source], {}, ("Frame", "GT"))
    (tmp_path / "file").write_text("mine")
    for dst in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(DataError, match="file is a file; choose a folder as --dst"):
            claim(dst, [source], {}, ())
    claim(tmp_path / "new", [source], {"source": "a"}, ())
    with pytest.raises(DataError, match="holds source a, not b"):
        claim(tmp_path / "new", [source], {"source": "b"}, ())
    for broken in ("[]", "{", "\xff"):
        (tmp_path / "new/prepared.json").write_text(broken)
        with pytest.raises(DataError, match="not what this program writes"):
            claim(tmp_path / "new", [source], {"source": "a"}, ())


def test_an_archive_may_lie_in_the_folder_that_is_written(tmp_path):
    source = open_source(write_zip(tmp_path / "x.zip", FILES))
    claim(tmp_path, [source], {}, ("out",))
    place(plan_for(source), tmp_path)
    assert content(tmp_path / "out") == FILES


def test_what_is_missing_is_said(tmp_path):
    missing = [f"frame {n}\n" for n in range(7)]
    report = Report([Part("train", {"a": 3, "b": 4}, 3, 14, missing), Part("stills", {"": 9}, None, 9, noun=None)])
    lines = list(report.lines())
    assert lines[0] == "train: 2 of 3 videos, 7 of 14 frames  INCOMPLETE"
    assert lines[1] == r"    missing: 'frame 0\n'" and lines[6] == "    ... and 2 more"
    assert lines[7] == "stills: 9 of 9 images"
    finish(tmp_path, {"source": "x"}, report)
    stamp = json.loads((tmp_path / "prepared.json").read_text())
    assert stamp["source"] == "x" and not stamp["complete"] and len(stamp["parts"][0]["missing"]) == 7
