"""Folders of maps whose numbers would be wrong without a word: narrow scales, noisy masks, pictures of many sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.tools.map_files import run, save


def disc(size=(40, 48), value=255):
    y, x = np.mgrid[: size[0], : size[1]]
    return ((y - 18) ** 2 + (x - 20) ** 2 < 90).astype(np.uint8) * np.uint8(value)


@pytest.mark.parametrize("level", [2, 100, 127])
def test_maps_in_a_narrow_scale_are_warned_of(tmp_path, level):
    for index in range(3):
        save(tmp_path / f"gt/v/{index}.png", disc())
        save(tmp_path / f"pred/v/{index}.png", disc(value=level))
    with pytest.warns(UserWarning, match=f"no predicted map has a value above {level}.*percents.*0..255"):
        assert run(tmp_path, "--protocol", "plain") == 0


@pytest.mark.parametrize("choice", [("--foreground", "255"), ("--classes", "255")])
def test_chosen_values_of_masks_with_noise_are_refused(tmp_path, capsys, choice):
    (tmp_path / "gt/v").mkdir(parents=True)
    for index in range(3):
        Image.fromarray(disc()).save(tmp_path / f"gt/v/{index}.jpg", quality=70)
        save(tmp_path / f"pred/v/{index}.png", disc())
    assert run(tmp_path, *choice, "--protocol", "plain") == 2
    assert "0.jpg is stored with loss, so that its values are noisy" in capsys.readouterr().err
    assert run(tmp_path, "--protocol", "plain", "--json", tmp_path / "o.json") == 0
    assert json.loads((tmp_path / "o.json").read_text())["sets"][0]["scores"]["plain"]["dice"] > 0.99


def test_objects_of_pictures_of_several_sizes(tmp_path, capsys):
    for index, size in enumerate(((40, 48), (60, 44))):
        save(tmp_path / f"gt/v/{index}.png", disc(size))
        save(tmp_path / f"pred/v/{index}.png", disc(size))
    assert run(tmp_path, "--protocol", "plain", "--instances", "frame") == 2
    assert "the frames of 'v' have 2 sizes, as (40, 48) and (60, 44); --instances" in capsys.readouterr().err


def test_tables_tell_the_frames_of_each_protocol(tmp_path):
    """Of a clip vps leaves out the ends."""
    for index in range(5):
        save(tmp_path / f"gt/v/{index}.png", disc())
        save(tmp_path / f"pred/v/{index}.png", disc())
    assert run(tmp_path, "--protocol", "vps,plain", "--out", tmp_path / "report", "--set", "s") == 0
    text = (tmp_path / "report/report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| s |")]
    assert [line.split("|")[3].strip() for line in lines] == ["3", "5"]
    assert "<td>3</td>" in (tmp_path / "report/report.html").read_text().replace(' class="number"', "")
