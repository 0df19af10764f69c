"""Grids: what a file may say, which runs it has, and the table of what they gave."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lgrnet import distributed
from lgrnet.checkpoint.checkpointer import CheckpointError
from lgrnet.config import ConfigError, builds, read_config, to_yaml
from lgrnet.engine import run as engine
from lgrnet.engine.grid import RESULT_FILE, Cell, Grid, Metric, Published, Size, fingerprint, plan, read_grid, selected
from lgrnet.engine.grid_run import _reason, run_one
from lgrnet.engine.grid_table import collect, layout, write_table
from lgrnet.evaluation import SvANetSizeProtocol
from lgrnet.records import read_frame
from tests.engine import runs as helpers
from tests.engine.runs import CONFIG, log_text, same_run, write_videos

GRID = Path(__file__).with_name("toy_grid.py")
DICE = Metric("Dice", "dice", protocol="lgrnet", set="toy")


@pytest.fixture(scope="module")
def base():
    return read_config(CONFIG)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("data"), "abc")


def write_result(run, dice, frames=6, meaning="a mean", protocol="lgrnet", part=None, **changes):
    """What a finished run leaves, with a number of the test's own."""
    score = {"protocol": protocol, "meaning": meaning, "set": "toy", "slice": part, "frames": frames}
    score |= {"metric": "dice", "value": dice}
    result = {"config": fingerprint(run.config), "checkpoint": "step_00000008", "chosen": "last", "version": "0"}
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / RESULT_FILE).write_text(json.dumps(result | {"scores": [score]} | changes))


def test_a_file_is_read_with_its_title_and_plain_names():
    grid = read_grid(GRID)
    assert grid.title.startswith("A grid of the toy parts") and grid.axes == ("model",)
    assert list(grid.cells) == [("plain",), ("all dropped",)]
    assert grid.published[0].values == {("plain",): 61.5}
    runs = plan(grid, "out")
    assert [run.name for run in runs] == [
        *("plain/repeat_1", "all_dropped/repeat_1", "plain/repeat_2", "all_dropped/repeat_2")
    ]
    assert [run.seed for run in runs] == [2024, 2024, 2025, 2025]
    assert runs[1].config.model.dropout == 2 and runs[0].folder == Path("out/runs/plain/repeat_1")


@pytest.mark.parametrize(
    "text, says",
    [
        ("cells = {}", "does not define axes, metrics"),
        ("axes = 1 +", "line 2"),
        ("from lgrnet.engine.grid import *\naxes, cells, metrics = ['a'], {}, []", "at least one cell"),
    ],
)
def test_a_file_that_is_no_grid(tmp_path, text, says):
    (tmp_path / "grid.py").write_text('"""T."""\n' + text)
    with pytest.raises(ConfigError, match=says):
        read_grid(tmp_path / "grid.py")
    with pytest.raises(ConfigError, match=r"does not exist.*grid\.py"):
        read_grid(tmp_path / "gird.py")


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(axes=("a", "b")), "1 names for the axes a, b"),
        (dict(metrics=(DICE, DICE)), "two metrics have one label"),
        (dict(repeats=0), "repeats=0"),
        (dict(checkpoint="first"), "'first'"),
        (dict(means=("head",)), "means: there is no 'head'; did you mean model"),
        (dict(published=(Published("Dise", {}, "s"),)), "did you mean Dice"),
        (dict(published=(Published("Dice", {("other",): 1.0}, "s"),)), "no cell of the grid"),
        (dict(published=(Published("Dice", {("mean",): 1.0}, "s"),)), "no cell of the grid"),
    ],
)
def test_a_grid_that_contradicts_itself(base, changes, says):
    with pytest.raises(ConfigError, match=says):
        Grid(**{"title": "t", "axes": ("model",), "cells": {("one",): Cell(base)}, "metrics": (DICE,)} | changes)


def test_cells_take_sections_and_overrides(base):
    cell = Cell(base, "train.steps=5", data=base["data"] | {"root": "elsewhere"})
    config = cell.config(["train.steps=6"])
    assert (config.train.steps, config.data.root) == (6, "elsewhere")
    with pytest.raises(ConfigError, match="no section modle"):
        Cell(base, modle=1)
    with pytest.raises(ConfigError, match="no key 'train.stepps'"):
        plan(Grid("t", ("m",), {("a",): cell}, (DICE,)), "out", ["train.stepps=1"])
    with pytest.raises(ConfigError, match="cell a: data.eval: there is no 'tyo'; did you mean toy"):
        plan(Grid("t", ("m",), {("a",): cell}, (Metric("D", "dice", "lgrnet", "tyo"),)), "out")
    with pytest.raises(ConfigError, match="data.protocols: there is no 'study'; did you mean lgrnet"):
        plan(Grid("t", ("m",), {("a",): cell}, (Metric("D", "dice", "study", "toy"),)), "out")
    with pytest.raises(ConfigError, match="protocol lgrnet: there is no 'dise'; did you mean dice"):
        plan(Grid("t", ("m",), {("a",): cell}, (Metric("D", "dise", "lgrnet", "toy"),)), "out")
    with pytest.raises(ConfigError, match="share the folder"):
        plan(Grid("t", ("m",), {("a b",): cell, ("a_b",): cell}, (DICE,)), "out")


def test_folds_are_overrides_or_found_in_the_config(base):
    cells = {("a",): Cell(base)}
    folds = {"first": ["data.size=[16,24]"], "second": ["data.size=[24,16]"]}
    runs = plan(Grid("t", ("m",), cells, (DICE,), repeats=2, folds=folds), "out")
    assert [run.name for run in runs] == [f"a/{fold}/repeat_{r}" for r in (1, 2) for fold in ("first", "second")]
    assert [list(run.config.data.size) for run in runs[:2]] == [[16, 24], [24, 16]]
    found = plan(Grid("t", ("m",), cells, (DICE,), folds=lambda c: {c.data.root: []}), "out", ["data.root=/x"])
    assert [run.name for run in found] == ["a/x/repeat_1"]
    assert [run.fold for run in plan(Grid("t", ("m",), cells, (DICE,), folds=lambda c: {}), "out")] == [None]


def test_runs_are_chosen_by_name():
    runs = plan(read_grid(GRID), "out")
    assert [run.name for run in selected(runs, ["plain*", "*_2"])] == [runs[i].name for i in (0, 2, 3)]
    assert selected(runs, []) == runs
    with pytest.raises(ConfigError, match="no run fits pl; their names are like plain/repeat_1"):
        selected(runs, ["pl"])


def test_other_settings_are_an_error_that_names_them(base, tmp_path):
    grid = Grid("t", ("m",), {("a",): Cell(base)}, (DICE,))
    (only,) = plan(grid, tmp_path)
    assert only.state() == "to train"
    write_result(only, 0.5)
    (only.folder / "config.yaml").write_text(to_yaml(only.config))
    (tmp_path / "grid.json").write_text('{"overrides": ["train.log_every=7"]}')
    for harmless in ("train.workers=3", "data.root=/elsewhere", "train.device=cpu"):
        assert plan(grid, tmp_path, [harmless])[0].state() == "finished, step_00000008"
    with pytest.raises(ConfigError, match="a/repeat_1 was begun.*train.steps was 8, is 9.*train.log_every=7.*remove"):
        plan(grid, tmp_path, ["train.steps=9"])
    # A key that a newer version brought is named, and can be accepted.
    write_result(only, 0.5, config="of an older version")
    file = only.folder / "config.yaml"
    whole = file.read_text()
    file.write_text("".join(line for line in whole.splitlines(keepends=True) if "clip_norm" not in line))
    with pytest.raises(ConfigError, match="clip_norm was absent, is 0.01.*new in this version of lgrnet: add it to"):
        plan(grid, tmp_path)
    file.write_text(whole)
    assert plan(grid, tmp_path)[0].state() == "finished, step_00000008"


def test_a_run_is_finished_once_and_resumed_exactly(base, data, tmp_path):
    """Two halves, as after a stop, are the whole; the result holds every number with its stamp."""
    grid = Grid("t", ("m",), {("a",): Cell(base)}, (DICE,))
    root = [f"data.root={data}"]
    (whole,) = plan(grid, tmp_path / "whole", root)
    (parts,) = plan(grid, tmp_path / "parts", root)
    with distributed.init("cpu") as context:
        assert run_one(whole, context)
    helpers.run(parts.folder, data, "train.steps=3", "train.eval_last=false")
    (parts.folder / "config.yaml").write_text((whole.folder / "config.yaml").read_text())
    (parts,) = plan(grid, tmp_path / "parts", root)
    assert parts.state() == "to resume at step 3 of 8"
    with distributed.init("cpu") as context:
        assert run_one(parts, context)
    assert same_run(whole.folder, parts.folder)
    result = parts.result()
    assert result == whole.result() and result["seed"] == 2024 and result["checkpoint"] == "step_00000008"
    (score,) = [s for s in result["scores"] if s["metric"] == "dice" and s["slice"] is None]
    last = json.loads(log_text(parts.folder).splitlines()[-1])
    assert score["value"] == last["sets"]["toy"]["dice"]
    assert (score["protocol"], score["set"], score["frames"]) == ("lgrnet", "toy", 9)


@pytest.mark.parametrize("overrides, checkpoint", [([], "best"), (["train.eval_last=false"], "last")])
def test_whose_numbers_count(base, data, tmp_path, overrides, checkpoint):
    grid = Grid("t", ("m",), {("a",): Cell(base, *overrides)}, (DICE,), checkpoint=checkpoint)
    (only,) = plan(grid, tmp_path, [f"data.root={data}", "train.eval_every=2"])
    with distributed.init("cpu") as context:
        assert run_one(only, context)
    lines = [json.loads(line) for line in log_text(only.folder).splitlines()]
    means = {line["step"]: line["mean"]["dice"] for line in lines if line["type"] == "evaluation"}
    expected = max(means, key=means.get) if checkpoint == "best" else 8
    assert only.result()["checkpoint"] == f"step_{expected:08d}"
    report = json.loads((only.folder / f"eval/step_{expected:08d}/report.json").read_text())
    assert only.result()["scores"][0]["value"] == report["sets"][0]["scores"]["lgrnet"]["dice"]
    assert only.result()["chosen"] == ("best by dice" if checkpoint == "best" else "last")


@pytest.fixture
def heads(base, tmp_path):
    """A grid of two axes with repeats, folds and published numbers, and its runs."""
    cells = {(size, head): Cell(base) for size in ("B0", "B1") for head in ("PLD", "SeD")}
    metrics = (
        Metric("mDice", "dice", "lgrnet", "toy", scale=100, digits=2),
        Size("MB", of="state_bytes", scale=1e-6, digits=6),
    )
    published = (
        Published("mDice", {("B0", "PLD"): 95.06, ("mean", "SeD"): 95.54}, "the study", protocol="study"),
        Published("MB", {("B0", "PLD"): 15.463}, "the study"),
    )
    grid = Grid("Heads", ("size", "head"), cells, metrics, repeats=3, published=published, means=("size",))
    return grid, plan(grid, tmp_path), tmp_path


def test_means_and_deviations_over_repeats(heads):
    grid, runs, out = heads
    for run, dice in zip([run for run in runs if run.key == ("B0", "PLD")], (0.90, 0.92, 0.97), strict=True):
        write_result(run, dice)
    write_result(next(run for run in runs if run.key == ("B1", "PLD")), 0.5)
    numbers = collect(grid, runs, out)
    full, part, none = (numbers[key]["mDice"] for key in (("B0", "PLD"), ("B1", "PLD"), ("B0", "SeD")))
    assert full.mean == pytest.approx(93.0) and full.deviation == pytest.approx(13**0.5)
    assert full.words(2) == "93.00 ± 3.61 (n=3)" and full.seeds == (2024, 2025, 2026) and full.frames == 6
    assert part.words(2) == "50.00 (n=1 of 3)" and none.words(2) == "missing"
    assert numbers["mean", "PLD"]["mDice"].words(2) == "71.50" and numbers["mean", "SeD"]["mDice"].mean is None
    header, lines = layout(grid, numbers)
    assert header == [
        *("size", "head", "mDice (protocol lgrnet, toy)", "published mDice (protocol study) [1]", "MB"),
        *("published MB [1]", "frames of toy"),
    ]
    size = f"{lines[0][4]}"
    assert lines[0] == ["B0", "PLD", "93.00 ± 3.61 (n=3)", "95.06", size, "15.463000", "6"]
    assert lines[5] == ["mean", "SeD", "missing", "95.54", "", "", ""]
    # 4 channels of 3 x 9 weights and a bias, norm: 2 x 4, its buffers: 2 x 4 and a counter of 8 bytes, head: 4 and 1
    assert float(size) == pytest.approx((112 + 16 + 5) * 4e-6 + 8e-6)


def test_the_three_files(heads):
    grid, runs, out = heads
    for run in runs[::4]:
        write_result(run, 0.9)
    (runs[1].folder).mkdir(parents=True)
    (runs[1].folder / "failure.json").write_text('{"reason": "a | loss", "status": 2, "step": 0}')
    paths = write_table(grid, runs, out, ["train.steps=3", "data.root=/x"])
    text = paths[0].read_text()
    assert text.startswith("# Heads\n") and "| B0 | PLD | 90.00 ± 0.00 (n=3) | 95.06 |" in text
    assert "| B0 | SeD | failed |" in text and "- failed: B0-SeD/repeat_1: a | loss" in text
    assert "3 of 12 runs are finished" in text and "seeds 2024, 2025, 2026" in text
    assert "- protocol `lgrnet`: a mean" in text and "- [1] the study" in text
    assert "**Not the grid's own settings, but train.steps=3**" in text and "/x" not in text
    with open(paths[1], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6 and all(None not in row and None not in row.values() for row in rows)
    first = rows[0]
    stamp = {"metric": "mDice", "protocol": "lgrnet", "set": "toy", "frames": "6", "n": "3", "planned": "3"}
    assert first.items() >= stamp.items() and first["published_protocol"] == "study" and first["mean"] == "90.0"
    assert first["values"] == "90.0 90.0 90.0" and first["seeds"] == "2024 2025 2026"
    picture = read_frame(paths[2])
    assert picture.shape[0] > 8 * 20 and picture.shape[1] > 400


def test_two_protocols_never_share_a_column(heads):
    grid, runs, out = heads
    write_result(runs[0], 0.9)
    write_result(runs[1], 0.9, meaning="another mean")
    with pytest.raises(ConfigError, match="protocol lgrnet meant something else when B0-PLD/repeat_1 and B0-SeD"):
        write_table(grid, runs, out)
    write_result(runs[1], 0.9, protocol="study")
    with pytest.raises(
        ConfigError, match=r"has no dice of mDice \(protocol lgrnet, toy\); it has dice of toy of study"
    ):
        write_table(grid, runs, out)
    write_result(runs[1], 0.9)
    write_result(runs[4], 0.9, frames=7)
    with pytest.raises(ConfigError, match=r"scored on \[6, 7\] frames"):
        write_table(grid, runs, out)


def test_a_slice_of_a_set_has_a_column_of_its_own(base, tmp_path):
    """Evaluated by a protocol with slices: the small ones are told from all."""
    sizes = dict(base["data"], protocols={"size": builds(SvANetSizeProtocol, limits=(5.0, 100.0))})
    metrics = [Metric(f"Dice {part}", "dice", "svanet-size", "toy", slice=part) for part in (None, "< 100 %")]
    grid = Grid("t", ("m",), {("a",): Cell(base, data=sizes)}, tuple(metrics))
    data = write_videos(tmp_path / "data")
    (only,) = plan(grid, tmp_path, [f"data.root={data}", "train.steps=2"])
    with distributed.init("cpu") as context:
        assert run_one(only, context)
    numbers = collect(grid, [only], tmp_path)[("a",)]
    assert numbers["Dice None"].mean == numbers["Dice < 100 %"].mean and numbers["Dice None"].frames == 6
    header, (line,) = layout(grid, {("a",): numbers})
    assert header[2:] == ["Dice < 100 % (protocol svanet-size, toy < 100 %)", "frames of toy", "frames of toy < 100 %"]
    assert line[3:] == ["6", "6"]


def test_folds_are_counted_together(base, tmp_path):
    folds = {"one": ["data.size=[16,24]"], "two": ["data.size=[24,16]"]}
    grid = Grid("t", ("m",), {("a",): Cell(base)}, (DICE,), repeats=2, folds=folds)
    runs = plan(grid, tmp_path)
    for run, (dice, frames) in zip(runs, [(0.1, 6), (0.3, 7), (0.1, 6), (0.5, 7)], strict=True):
        write_result(run, dice, frames)
    number = collect(grid, runs, tmp_path)[("a",)]["Dice"]
    assert number.words(2) == "0.25 ± 0.19 (n=4)" and number.frames == 13
    assert "Folds: 2; n counts folds and repeats together" in write_table(grid, runs, tmp_path)[0].read_text()


def test_a_stop_in_the_last_step_leaves_its_evaluation_to_the_next_call(base, data, tmp_path, monkeypatch):
    grid = Grid("t", ("m",), {("a",): Cell(base)}, (DICE,), checkpoint="best")
    (only,) = plan(grid, tmp_path, [f"data.root={data}"])
    stop_at(monkeypatch, 8)
    with distributed.init("cpu") as context:
        assert not run_one(only, context) and only.result() is None
    monkeypatch.undo()
    with distributed.init("cpu") as context:
        assert run_one(only, context)
    lines = [json.loads(line) for line in log_text(only.folder).splitlines()]
    means = {line["step"]: line["mean"]["dice"] for line in lines if line["type"] == "evaluation"}
    assert sorted(means) == [4, 8]
    assert only.result()["checkpoint"] == f"step_{max(means, key=means.get):08d}"


def stop_at(monkeypatch, step):
    """A training is asked to stop at this step."""
    made = []

    class Asked(engine.Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(engine, "Trainer", Asked)
    monkeypatch.setattr(engine.StopRequest, "requested", lambda self: bool(made) and made[-1].step + 1 >= step)


def test_a_run_of_damaged_checkpoints_alone_says_what_to_remove(base, data, tmp_path):
    grid = Grid("t", ("m",), {("a",): Cell(base)}, (DICE,))
    (only,) = plan(grid, tmp_path, [f"data.root={data}"])
    helpers.run(only.folder, data, "train.steps=3", "train.eval_last=false")
    (only.folder / "config.yaml").write_text(to_yaml(only.config))
    for path in only.folder.glob("checkpoints/*/weights.safetensors"):
        path.write_bytes(b"cut")
    with (
        distributed.init("cpu") as context,
        pytest.raises(CheckpointError, match="no whole checkpoint; remove .* anew"),
    ):
        run_one(only, context)


@pytest.mark.parametrize(
    "words, reason",
    [
        ("step 1\nerror: no such data\n=====\nelastic page\n=====\n", "no such data"),
        ("step 1\nerror in process 1: no such data\n-----\n", "error in process 1: no such data"),
        ("Traceback (most recent call last):\n  File x\nRuntimeError: odd\n\n", "RuntimeError: odd"),
        ("Killed\n", "Killed"),
        ("", "no output"),
    ],
)
def test_why_a_run_failed(words, reason):
    assert _reason(words) == reason
