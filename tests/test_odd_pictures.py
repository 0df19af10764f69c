"""Files of several pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lgrnet.evaluation.mask_trees import read_map
from lgrnet.records import DataError, frame_size, read_frame, read_mask


def pages(path: Path, count: int = 3, **how) -> Path:
    """A file of `count` grey pictures, the first of them black."""
    first, *others = (Image.fromarray(np.full((8, 10), 100 * n, np.uint8)) for n in range(count))
    first.save(path, save_all=True, append_images=others, **how)
    return path


@pytest.mark.parametrize("name", ["stack.tif", "moves.png", "moves.webp"])
def test_a_file_of_several_pictures_is_refused(name, tmp_path):
    path = pages(tmp_path / name)
    for read in (read_frame, read_mask, frame_size, read_map):
        with pytest.raises(DataError, match=rf"{name} holds 3 pictures; expected one.*save each.*of its own") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert frame_size(pages(path, 1)) == (8, 10) and not read_mask(path).any()


def test_the_previews_of_a_camera_are_no_pages(tmp_path):
    path = pages(tmp_path / "camera.jpg", format="MPO")
    assert Image.open(path).n_frames == 3 and read_frame(path).shape == (8, 10, 3)
