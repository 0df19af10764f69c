"""The grids of configs/grids: they load, say how they are called, and their models are what they say."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from lgrnet.config import build
from lgrnet.engine.grid import Size, plan, read_grid
from lgrnet.engine.run import settings_of

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "configs/grids").glob("*.py"))}
CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}


@pytest.mark.parametrize("name", FILES)
def test_it_loads_and_its_header_gives_the_command(name, tmp_path):
    grid = read_grid(FILES[name])
    header = ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))
    assert f"tools/run_grid.py configs/grids/{name}.py --out" in header
    runs = plan(grid, tmp_path, [f"data.root={tmp_path}"])
    assert len(runs) >= len(grid.cells) * grid.repeats
    for run in runs:
        settings = settings_of(run.config)
        assert settings.steps > 1 and run.config.data.root == str(tmp_path)
    models = {str(run.config.model) for run in runs}
    assert len(models) > 1 and any(isinstance(metric, Size) for metric in grid.metrics)


def test_every_cell_of_lgrnets_ablation_encodes_a_clip(tmp_path):
    """One thing is changed in each, and what is left out is not there."""
    grid = read_grid(FILES["lgrnet_ablation"])
    features = {k: torch.randn(1, 2, c, 64 // 2**i, 64 // 2**i) for i, (k, c) in enumerate(CHANNELS.items())}
    for key, cell in grid.cells.items():
        encoder = build(cell.config(["model.encoder.scan_hidden=32", "model.encoder.hidden=32"]).model.encoder)(
            CHANNELS
        )
        with torch.no_grad():
            assert encoder.eval()(features)["res2"].shape == (1, 2, 64, 64, 64)
        local, exchange, queries = key
        layer = encoder.layers[0]
        assert (layer.propagation is None) == (local == "none") and (layer.scan is None) == (exchange == "none")
        held = 0 if encoder.frame_queries is None else encoder.frame_queries.content.weight.shape[0]
        assert str(held) == queries.replace("none", "0")
        if "scan" in exchange:
            assert (layer.scan.layers[0].scan.order == "hilbert") == ("Hilbert" in exchange)
        if layer.propagation is not None:
            assert f"window {layer.propagation.attention.window}" in local
            assert layer.propagation.cyclic == local.startswith("cyclic")
