"""Runs side by side on still images: scores of what is on disk, constant masks, and the picture."""

import numpy as np
import pytest

from lgrnet.evaluation.metrics import count, dice, iou
from lgrnet.records import read_frame, write_frame, write_mask
from tests.engine.runs import ROOT
from tools.compare_stills import main

CONFIG = str(ROOT / "tests" / "engine" / "still_config.py")


def rectangle(size, rows):
    mask = np.zeros(size, bool)
    mask[rows[0] : rows[1], : size[1] // 2] = True
    return mask


TRUTHS = {
    "a": rectangle((40, 60), (0, 20)),
    "b": rectangle((40, 60), (0, 20)),
    "c": rectangle((80, 70), (0, 40)),
    "empty": np.zeros((30, 30), bool),
}


@pytest.fixture
def data(tmp_path):
    for name, truth in TRUTHS.items():
        write_frame(tmp_path / "images" / f"{name}.png", np.full((*truth.shape, 3), 90, np.uint8))
        write_mask(tmp_path / "masks" / f"{name}.png", truth)
    return tmp_path


def write_run(folder, answers):
    """A run whose last evaluation found these masks, and an earlier one nothing."""
    for step, found in ((4, {name: mask & False for name, mask in answers.items()}), (12, answers)):
        for name, mask in found.items():
            write_mask(folder / f"eval/step_{step:08d}/test/web/{name}/{name}.png", mask)
    return str(folder)


def test_table_and_picture(data, tmp_path, capsys):
    halves = {name: rectangle(truth.shape, (0, truth.shape[0] // 4)) for name, truth in TRUTHS.items()}
    runs = {"all right": write_run(tmp_path / "right", TRUTHS), "half": write_run(tmp_path / "half", halves)}
    words = [word for name, folder in runs.items() for word in ("--run", name, folder)]
    out = tmp_path / "out.png"
    assert main([CONFIG, f"data.root={data}", "--out", str(out), "--images", "2", *words]) == 0
    said = capsys.readouterr().out
    assert "| all right | 1.000 | 1.000 | 1.000 |" in said
    counts = [count(halves[name], truth) for name, truth in TRUTHS.items()]
    mean, overlap = np.mean([dice(c) for c in counts]), np.mean([iou(c) for c in counts])
    assert f"| half | {mean:.3f} | {overlap:.3f} | {np.mean([dice(c) for c in counts[:3]]):.3f} |" in said
    # The same part of every picture, but one that is empty, which smoothing gives 1 of 226
    constants = [line for line in said.splitlines() if "one mask for all" in line]
    assert len(constants) == 2 and all(line.endswith("| 0.751 | | 1.000 |") for line in constants)
    assert said.splitlines()[0] == "| | Dice, 4 images | IoU | Dice, 3 images that show something |"
    picture = read_frame(out)
    assert picture.shape[0] > 2 * 80 and picture.shape[1] > 3 * 60


def test_mistakes(data, tmp_path, capsys):
    run = write_run(tmp_path / "run", TRUTHS)
    out = ["--out", str(tmp_path / "out.png")]
    assert main([CONFIG, f"data.root={data}", *out, "--run", "a", str(tmp_path / "none")]) == 2
    assert "has no evaluation of the set 'test'" in capsys.readouterr().err
    (tmp_path / "run/eval/step_00000012/test/web/b/b.png").unlink()
    assert main([CONFIG, f"data.root={data}", *out, "--run", "a", run]) == 2
    assert "b.png" in capsys.readouterr().err
    (data / "masks/c.png").unlink()
    options = [f"data.{part}.require_masks=false" for part in ("train.records", "eval.test")]
    assert main([CONFIG, f"data.root={data}", *options, *out, "--run", "a", run]) == 2
    assert "1 images are not annotated (c)" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_arguments_that_mean_nothing(data, tmp_path, capsys):
    run, given = write_run(tmp_path / "run", TRUTHS), [CONFIG, f"data.root={data}"]
    for wrong, says in (
        (["--out", str(tmp_path / "o.png"), "--run", "a", run, "--run", "a", run], "a name of its own"),
        (["--out", str(tmp_path / "o.png"), "--run", "a", run, "--images", "0"], "expected 1 or more"),
        (["--out", str(tmp_path / "o.txt"), "--run", "a", run], "no picture"),
    ):
        with pytest.raises(SystemExit):
            main([*given, *wrong])
        assert says in capsys.readouterr().err
    image = next((data / "images").iterdir())
    before = image.read_bytes()
    assert main([*given, "--out", str(image), "--run", "a", run]) == 2
    assert "is a picture of the data set" in capsys.readouterr().err and image.read_bytes() == before
    (tmp_path / "file").write_text("")
    assert main([*given, "--out", str(tmp_path / "file/o.png"), "--run", "a", run]) == 2
    assert capsys.readouterr().err.startswith("error: cannot use ")
