"""Checkpoints: whole or not there, damage is found, a full disk costs nothing, weights say what they are for."""

from __future__ import annotations

import collections
import errno
import json
import math
import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import lgrnet
from lgrnet.checkpoint import checkpointer as module
from lgrnet.checkpoint import disk
from lgrnet.checkpoint.checkpointer import (
    Checkpointer,
    CheckpointError,
    list_weights,
    load_weights,
    read_metadata,
    read_weights,
    save_weights,
    weights_damage,
)
from lgrnet.checkpoint.tree import join_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def keeper(tmp_path):
    """Three checkpoints at steps 1, 2, 3; weights and state tell the step."""
    said = []
    keeper = Checkpointer(tmp_path / "run", keep=3, warn=said.append)
    keeper.said = said
    for step in (1, 2, 3):
        save(keeper, step)
    return keeper


def save(keeper: Checkpointer, step: int, metrics: dict | None = None):
    saved = keeper.save(step, {"w": torch.full((50,), float(step))}, {"step": step, "m": torch.ones(3)})
    if metrics is not None:
        keeper.add_metrics(saved, metrics)
    return saved


def steps(keeper: Checkpointer) -> list[int]:
    return [c.step for c in keeper.all()]


def test_training_state_comes_back_bit_equal_without_pickle(tmp_path):
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], gamma=0.3)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    schedule.step()
    keeper = Checkpointer(tmp_path)
    saved = keeper.save(7, model.state_dict(), {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()})
    assert sorted(p.suffix for p in saved.path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]

    state = keeper.latest().state()
    other = net()
    other.load_state_dict(keeper.latest().weights())
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]) and value.dtype == other.state_dict()[name].dtype
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, state["optimizer"]["state"][number][name])
    assert state["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert state["schedule"] == schedule.state_dict()
    assert isinstance(state["schedule"]["milestones"], collections.Counter)


def test_trees_keep_their_kinds_and_refuse_objects():
    tree = {
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1)},
        3: (1, [2.5, None, True], {"x": math.inf}),
        "__tensor__": "not a tensor",
    }
    data, tensors = split_tree(tree)
    back = join_tree(json.loads(json.dumps(data)), tensors)
    assert back["a.b"].item() == 1 and back["a"]["b"].item() == 0
    assert back[3] == (1, [2.5, None, True], {"x": math.inf}) and back["__tensor__"] == "not a tensor"
    with pytest.raises(TypeError, match="a.1 is a Path|a.1 is a PosixPath|a.1 is a WindowsPath"):
        split_tree({"a": [1, Path("x")]})


def test_newest_and_best_stay(tmp_path):
    keeper = Checkpointer(tmp_path, keep=2, metric="dice")
    for step, dice in enumerate([0.1, 0.9, 0.5, 0.9, 0.2, 0.3], start=1):
        save(keeper, step, {"dice": dice})
    assert steps(keeper) == [2, 5, 6]
    assert keeper.best().step == 2 and keeper.best().metrics == {"dice": 0.9}
    assert keeper.latest().step == 6
    with pytest.raises(ValueError, match="at least 1"):
        Checkpointer(tmp_path, keep=0)


def test_metrics_that_come_later_make_the_best(keeper):
    first, second = keeper.all()[:2]
    assert keeper.best() is None
    keeper.add_metrics(first, {"dice": 0.4})
    keeper.add_metrics(second, {"dice": 0.3})
    assert keeper.best() == first
    for step in (4, 5, 6, 7):
        save(keeper, step)
    assert steps(keeper) == [1, 5, 6, 7]


def test_empty_folder_has_nothing(tmp_path):
    keeper = Checkpointer(tmp_path / "nowhere")
    assert keeper.all() == [] and keeper.latest() is None and keeper.best() is None


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_file_falls_back_and_says_so(keeper, name, share):
    path = keeper.all()[-1].path / name
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    found = keeper.latest()
    assert found.step == 2 and found.weights()["w"][0] == 2 and found.state()["step"] == 2
    assert len(keeper.said) == 1 and "step_00000003 is damaged" in keeper.said[0] and "falling back" in keeper.said[0]


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"])
def test_a_flipped_bit_anywhere_is_found(keeper, name):
    checkpoint = keeper.all()[-1]
    path = checkpoint.path / name
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 40)):
        broken = bytearray(data)
        broken[place] ^= 1
        path.write_bytes(bytes(broken))
        # Not every byte of the manifest carries meaning: white space, format and version.
        meaningless = name == "manifest.json" and checkpoint.damage() is None
        assert meaningless or keeper.latest().step == 2
    path.write_bytes(data)
    assert keeper.latest().step == 3


def test_missing_file_and_two_damaged_ones(keeper):
    (keeper.all()[2].path / "state.safetensors").unlink()
    (keeper.all()[1].path / "weights.safetensors").write_bytes(b"")
    assert keeper.latest().step == 1 and len(keeper.said) == 2
    (keeper.all()[0].path / "manifest.json").unlink()
    assert keeper.latest() is None


def test_damaged_newer_ones_do_not_push_whole_ones_out(tmp_path):
    keeper = Checkpointer(tmp_path, keep=1, warn=lambda text: None)
    save(keeper, 10)
    keeper.keep = 2
    save(keeper, 20)
    keeper.keep = 1
    (keeper.all()[-1].path / "state.json").write_text("{")
    assert keeper.latest().step == 10
    save(keeper, 15)
    assert steps(keeper) == [15] and keeper.latest().step == 15


def test_damaged_one_is_replaced_when_its_step_comes_again(keeper):
    (keeper.all()[-1].path / "weights.safetensors").write_bytes(b"x")
    save(keeper, 3)
    assert keeper.latest().step == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("files_before", [0, 1, 3])
def test_full_disk_while_writing_leaves_the_last_good_one(keeper, monkeypatch, number, files_before):
    written = []

    def write(path: Path, data: bytes) -> None:
        if len(written) == files_before:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(number, os.strerror(number))
        written.append(path)
        path.write_bytes(data)

    monkeypatch.setattr(module, "write_synced", write)
    before = {p: p.read_bytes() for p in keeper.folder.rglob("*") if p.is_file()}
    with pytest.raises(CheckpointError, match=r"[\d,]+ bytes are needed.*train_resume"):
        save(keeper, 4)
    assert {p: p.read_bytes() for p in keeper.folder.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in keeper.folder.iterdir()) == [f"step_0000000{s}" for s in (1, 2, 3)]
    assert keeper.latest().step == 3 and keeper.latest().state()["step"] == 3


def test_full_disk_is_seen_before_writing_and_says_how_much_is_missing(keeper, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(CheckpointError) as caught:
        save(keeper, 4)
    words = str(caught.value).replace(",", "")
    needed = int(words.split(" bytes are needed")[0].split()[-1])
    missing = int(words.split(" bytes are missing")[0].split()[-1])
    assert 500 < needed < 10000 and missing == 2 * needed - 1000
    assert "the disk is full" in words and keeper.latest().step == 3
    with pytest.raises(CheckpointError, match="bytes are missing"):
        save_weights(keeper.folder / "one.safetensors", {"w": torch.ones(999)}, None)
    assert not list(keeper.folder.glob("*one*"))


@pytest.mark.skipif(os.name != "posix", reason="limits on the size of files are set as on Unix")
def test_a_real_limit_on_file_size(keeper):
    script = f"""
        import resource, torch
        from lgrnet.checkpoint.checkpointer import Checkpointer, CheckpointError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            Checkpointer({str(keeper.folder)!r}).save(4, {{"w": torch.ones(100_000)}}, {{}})
        except CheckpointError as error:
            print("told:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "told: cannot save" in done.stdout and "bytes are needed" in done.stdout
    assert steps(keeper) == [1, 2, 3] and keeper.latest().step == 3
    assert not [p for p in keeper.folder.iterdir() if p.name.startswith(".")]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match="cannot write.*--out_dir"):
        save(Checkpointer(tmp_path / "file" / "run"), 1)
    with pytest.raises(CheckpointError, match="cannot write.*--out_dir"):
        save_weights(tmp_path / "file" / "run" / "w.safetensors", {}, None)


def test_litter_of_a_killed_save_is_no_checkpoint_and_goes(keeper):
    litter = keeper.folder / ".tmp_step_00000004"
    litter.mkdir()
    (litter / "weights.safetensors").write_bytes(b"half")
    assert keeper.latest().step == 3
    save(keeper, 4)
    assert not litter.exists() and keeper.latest().step == 4


def test_weights_that_share_memory_or_are_strided_are_saved_as_they_look(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    save_weights(tmp_path / "w.safetensors", {"a": shared, "b": shared, "t": shared.T}, None, {"step": 3})
    state, metadata = read_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["a"], state["b"]) and torch.equal(state["t"], shared.T)
    assert metadata["format"] == "lgrnet" and metadata["version"] == lgrnet.__version__ and metadata["step"] == "3"
    assert read_metadata(tmp_path / "w.safetensors") == metadata


def test_weights_of_another_model_name_what_differs(tmp_path):
    other = nn.Sequential(nn.Linear(3, 5), nn.Identity(), nn.Linear(4, 2, bias=False), nn.Linear(1, 1))
    path = tmp_path / "w.safetensors"
    save_weights(path, other.state_dict(), '{"_target_": "somebody.else"}')
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path)
    words = str(caught.value)
    assert "6 missing, 2 unexpected, 2 misshapen" in words and "1.weight" in words and ", ..." in words
    assert "3.weight" in words and "0.weight (5, 3) instead of (4, 3)" in words and "somebody.else" in words
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("ckpt.pth.tar", b"\x80\x02}", "convert_official"),
        ("w.pth", b"PK\x03\x04", "convert_official"),
        ("w.safetensors", b"PK\x03\x04 a zip under a wrong name", "convert_official"),
        ("w.safetensors", b"<!DOCTYPE html><html>", "web page"),
        ("w.pth", b"<html>", "web page"),
        ("w.safetensors", b"", "cut or damaged"),
        ("w.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "cut or damaged"),
        ("w.bin", b"what", "convert_official"),
    ],
)
def test_unknown_files_say_what_to_do(tmp_path, name, content, advice):
    (tmp_path / name).write_bytes(content)
    for read in (read_weights, read_metadata):
        with pytest.raises(CheckpointError, match=advice):
            read(tmp_path / name)


def test_missing_weights_file(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_weights(tmp_path)


def test_what_eval_path_may_name(keeper, tmp_path):
    folders = [c.path for c in keeper.all()]
    assert list_weights(keeper.folder) == folders
    assert list_weights(folders[1]) == [folders[1]]
    assert list_weights(folders[1] / "weights.safetensors") == [folders[1] / "weights.safetensors"]
    keeper.folder.rename(tmp_path / "checkpoints")
    assert [p.name for p in list_weights(tmp_path)] == [f.name for f in folders]
    (tmp_path / "loose").mkdir()
    for name in ("b", "a"):
        save_weights(tmp_path / "loose" / f"{name}.safetensors", {"w": torch.ones(1)}, None)
    assert [p.name for p in list_weights(tmp_path / "loose")] == ["a.safetensors", "b.safetensors"]
    with pytest.raises(CheckpointError, match="holds no weights"):
        list_weights(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("weights.safetensors", b"cut", "is no whole safetensors file"),
        ("weights.safetensors", None, "does not exist"),
        ("manifest.json", b"{", "manifest.json does not tell whether weights.safetensors is whole"),
        ("manifest.json", b'{"format": "lgrnet"}', "manifest.json does not tell whether weights.safetensors is whole"),
    ],
)
def test_damage_of_weights_alone(keeper, name, content, says):
    first, second, _ = keeper.all()
    (first.path / "state.safetensors").unlink()  # nobody needs it who evaluates
    assert weights_damage(first.path) is None and weights_damage(first.path / "weights.safetensors") is None
    path = second.path / name
    path.unlink() if content is None else path.write_bytes(content)
    assert says in weights_damage(second.path)


def test_weights_that_were_changed_are_damaged(keeper):
    path = keeper.all()[0].path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert f"{path} was changed after it was written" in weights_damage(path)
    for read in (read_weights, lgrnet.load, partial(load_weights, nn.Linear(1, 1))):
        with pytest.raises(CheckpointError, match="weights.safetensors was changed after it was written"):
            read(path.parent)
    save_weights(keeper.folder / "loose.safetensors", {"w": torch.ones(1)}, None)
    assert weights_damage(keeper.folder / "loose.safetensors") is None
    path.with_name("manifest.json").write_text('{"name": "an upload", "files": ["weights.safetensors"]}')
    assert weights_damage(path) is None


def test_import_is_instant_and_lazy():
    code = "import sys, lgrnet; lgrnet.__version__; print([m for m in ('torch', 'numpy', 'timm') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
    assert callable(lgrnet.load_model) and "load" in dir(lgrnet)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = lgrnet.nothing_like_it


@pytest.mark.parametrize("name", ["20261129", "5", "step_²", "step_4_copy", "step_"])
def test_other_folders_are_no_checkpoints_and_stay(keeper, name):
    """Such as a copy that a user keeps there under a number."""
    other = keeper.folder / name
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert steps(keeper) == [1, 2, 3] and keeper.latest().step == 3 and not keeper.said
    save(keeper, 4)
    assert steps(keeper) == [2, 3, 4] and (other / "notes.txt").read_text() == "mine"


def test_folders_that_cannot_be_synced(tmp_path, monkeypatch):
    """As of some file systems of networks: the files are there all the same."""
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    keeper = Checkpointer(tmp_path)
    save(keeper, 1, {"dice": 0.5})
    assert keeper.latest().step == 1 and keeper.best().metrics == {"dice": 0.5}
