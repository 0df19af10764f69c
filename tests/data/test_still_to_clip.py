"""What the distortions of a still are drawn from, beside what imgaug documents of the published augmenters."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lgrnet.data import still_to_clip
from lgrnet.data.transforms import shift_hue


def _brighter(frame, step):
    return np.clip(frame.astype(int) + step, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def picture():
    """Colours of which some leave the range of a byte when brightened, so that the order of two changes shows."""
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_colours_change_as_imgaug_does_by_default(picture):
    """SomeOf keeps the order of its children; AddToHueAndSaturation draws one value, of which hue takes 180 / 255."""
    shifts = {step: (int(step / 255 * 180), step) for step in range(-5, 6)}
    assert shifts[-5] == (-3, -5) and shifts[4] == (2, 4)
    bright = {_brighter(picture, step).tobytes() for step in range(-40, 41)}
    tinted = {shift_hue(picture, *shift).tobytes(): step for step, shift in shifts.items()}
    both = {
        shift_hue(_brighter(picture, step), *shift).tobytes() for step in range(-40, 41) for shift in shifts.values()
    }
    kinds, steps = [], set()
    for seed in range(600):
        found = still_to_clip._recolour(picture, random.Random(seed)).tobytes()
        assert found in bright | set(tinted) | both, seed
        kinds.append("bright" if found in bright else "tinted" if found in tinted else "both")
        steps |= {tinted[found]} if found in tinted else set()
    assert steps == set(shifts)
    assert all(abs(kinds.count(kind) / 600 - share) < 0.1 for kind, share in (("bright", 0.3), ("both", 0.45)))


def test_a_motion_blur_has_a_direction():
    """The weights along the line rise or fall evenly, as imgaug's do by default."""
    upright = still_to_clip._motion_kernel(9, 0.0, 0.25)
    line = np.linspace(0.25, 0.75, 9)
    assert upright.sum() == pytest.approx(1) and upright[4] == pytest.approx(line / line.sum(), abs=1e-6)
    assert np.count_nonzero(np.delete(upright, 4, axis=0)) == 0
    assert still_to_clip._motion_kernel(11, 90.0, 1.0)[:, 5].argmax() in (0, 10)
    assert still_to_clip._motion_kernel(11, 33.0, 0.5).sum() == pytest.approx(1)
