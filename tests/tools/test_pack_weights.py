"""The packed file is half as large, and a model of its own."""

from pathlib import Path

import pytest
import torch

import lgrnet
from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.checkpoint.weights import WEIGHTS_FILE, save_weights
from lgrnet.config import build, load_config, to_json
from tools.pack_weights import main

CONFIG = Path(__file__).resolve().parents[2] / "configs/demo/phantom.py"


def test_half_the_size_and_still_a_model(tmp_path, capsys):
    config = load_config(CONFIG)
    model = build(config.model).eval()
    source, small, full = (tmp_path / f"{name}.safetensors" for name in ("source", "small", "full"))
    save_weights(source, model.state_dict(), to_json(config.model), {"input_size": [128, 128]})
    assert main([str(source), str(small)]) == 0 and main([str(source), str(full), "--full"]) == 0
    assert small.stat().st_size < 0.55 * source.stat().st_size
    assert f"{small}: " in capsys.readouterr().out
    loaded = lgrnet.load(small)
    assert loaded.input_size == (128, 128)
    assert next(loaded.parameters()).dtype == torch.float32
    frames = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        exact, half = model(frames), loaded(frames)
        assert torch.equal(lgrnet.load(full)(frames).mask_logits, exact.mask_logits)
    scale = exact.mask_logits.abs().max()
    assert 0 < (half.mask_logits - exact.mask_logits).abs().max() < 0.05 * scale


@pytest.mark.parametrize("way", ["itself", "link", "folder"])
def test_the_source_is_never_written_over(way, tmp_path, capsys):
    source = target = tmp_path / "step_1" / WEIGHTS_FILE
    save_weights(source, {"a": torch.rand(300)}, None)
    before = source.read_bytes()
    if way == "link":
        target = tmp_path / "link.safetensors"
        target.symlink_to(source)
    assert main([str(source.parent if way == "folder" else source), str(target)]) == 2
    said = capsys.readouterr().err
    assert f"{target} is the source itself" in said and "choose another name" in said and said.count("\n") == 1
    assert source.read_bytes() == before and (way == "link") == target.is_symlink()


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "no.safetensors"), str(tmp_path / "out.safetensors")]) == 2
    assert "no.safetensors" in capsys.readouterr().err
    assert main(["phantom", str(tmp_path / "out.pth")]) == 2
    assert "ends in .safetensors" in capsys.readouterr().err and not (tmp_path / "out.pth").exists()


def test_numbers_too_large_for_half_precision(tmp_path, capsys):
    save_weights(tmp_path / "w.safetensors", {"a.bias": torch.tensor([1.0, 1e6])}, None)
    given = [str(tmp_path / "w.safetensors"), str(tmp_path / "p.safetensors")]
    assert main(given) == 2
    assert "a.bias hold numbers too large for half precision; give --full" in capsys.readouterr().err
    assert main([*given, "--full"]) == 0


def test_what_holds_no_weights_is_refused(tmp_path, capsys):
    keeper = Checkpointer(tmp_path)
    folder = keeper.save(3, {"w": torch.ones(2)}, {"moments": torch.zeros(2)}).path
    assert main([str(folder / "state.safetensors"), str(tmp_path / "p.safetensors")]) == 2
    assert "holds no weights as lgrnet writes them; give a checkpoint's folder" in capsys.readouterr().err
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-1] + b"x")
    assert main([str(folder), str(tmp_path / "p.safetensors")]) == 2
    assert "was changed after it was written" in capsys.readouterr().err and not (tmp_path / "p.safetensors").exists()
