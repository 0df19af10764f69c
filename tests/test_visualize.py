"""Pictures: right pixels in the right place, and words for wrong input."""

import subprocess
import sys

import numpy as np
import pytest

from lgrnet.visualize import INVENTED, LINE_COLOURS, MISSED, RIGHT, contact_sheet, curves, overlay, table, with_legend


def grey(height: int, width: int, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def blend(value: int, colour: tuple, alpha: float = 0.35) -> list[int]:
    return [round((1 - alpha) * value + alpha * c) for c in colour]


def has_colour(image: np.ndarray, colour: tuple) -> int:
    return int((image == np.array(colour, np.uint8)).all(axis=2).sum())


def test_overlay_fills_outlines_and_leaves_the_rest():
    frame = grey(64, 64)
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:30] = True
    painted = overlay(frame, mask)
    assert painted[20, 20].tolist() == blend(100, RIGHT)
    assert painted[10, 20].tolist() == list(RIGHT)
    assert (painted[40:, 40:] == 100).all()
    assert (frame == 100).all(), "the input must not be painted on"


def test_overlay_tells_right_invented_and_missed_apart():
    mask, truth = np.zeros((2, 64, 64), bool)
    mask[10:50, 5:35] = True
    truth[10:50, 20:55] = True
    painted = overlay(grey(64, 64), mask, truth)
    assert painted[30, 28].tolist() == blend(100, RIGHT)
    assert painted[30, 12].tolist() == blend(100, INVENTED)
    assert painted[30, 45].tolist() == blend(100, MISSED)


def test_overlay_of_an_empty_mask_is_the_frame():
    frame = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert (overlay(frame, np.zeros((33, 47), bool)) == frame).all()


def test_overlay_takes_masks_of_0_and_255():
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:30] = 255
    assert (overlay(grey(64, 64), mask) == overlay(grey(64, 64), mask > 0)).all()


def test_overlay_takes_tensors():
    torch = pytest.importorskip("torch")
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:30] = True
    assert (overlay(grey(64, 64), torch.from_numpy(mask)) == overlay(grey(64, 64), mask)).all()


def test_overlay_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"mask has shape \[32, 32\]"):
        overlay(grey(64, 64), np.zeros((32, 32), bool))
    with pytest.raises(ValueError, match="expected uint8"):
        overlay(grey(64, 64).astype(float), np.zeros((64, 64), bool))


def test_contact_sheet_places_every_image():
    sheet = contact_sheet([grey(20, 30, value) for value in (10, 20, 30)], columns=2, gap=2)
    assert sheet.shape == (2 * 22 + 2, 2 * 32 + 2, 3)
    assert [int(sheet[5, 5, 0]), int(sheet[5, 37, 0]), int(sheet[27, 5, 0])] == [10, 20, 30]
    assert (sheet[26:, 36:] == 255).all(), "the empty cell stays white"


def test_a_legend_names_its_colours_above_the_image():
    image = grey(30, 500, 90)
    framed = with_legend(image, {"right": RIGHT, "invented": INVENTED})
    strip = framed[:-30]
    assert framed.shape == (30 + 24, 500, 3) and np.array_equal(framed[-30:], image)
    first, second = (np.nonzero((strip == colour).all(2))[1] for colour in (RIGHT, INVENTED))
    assert len(first) == len(second) > 100 and first.max() < second.min()
    ink = np.nonzero(strip.max(2) < 120)[1]
    assert ((first.max() < ink) & (ink < second.min())).any() and (ink > second.max()).any(), "a word beside each"


def test_a_legend_takes_a_line_each_where_the_image_is_narrow():
    framed = with_legend(grey(30, 20, 90), {"right": RIGHT, "invented": INVENTED, "missed": MISSED})
    assert framed.shape[0] == 30 + 3 * 24 and framed.shape[1] > 80
    assert (framed[-30:, 20:] == 255).all() and (framed[-30:, :20] == 90).all()
    with pytest.raises(ValueError, match="no colour"):
        with_legend(grey(30, 20), {})


def test_captions_stay_in_their_cell():
    plain = contact_sheet([grey(64, 64)] * 2, columns=2, captions=["", ""])
    long = contact_sheet([grey(64, 64)] * 2, columns=2, captions=["a very long caption " * 5, ""])
    assert plain.shape == long.shape
    assert (plain[:, :72] != long[:, :72]).any()
    assert (plain[:, 72:] == long[:, 72:]).all()
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        contact_sheet([grey(8, 8)] * 2, columns=2, captions=["one"])


def test_curves_draw_each_line_in_its_colour_and_place():
    chart = curves({"rising": [(0, 0), (10, 1)], "flat": [(0, 0.5), (10, 0.5)]}, "title", "step", "Dice", (300, 400))
    assert chart.shape == (300, 400, 3) and chart.dtype == np.uint8
    rows, columns = np.nonzero((chart == np.array(LINE_COLOURS[1])).all(axis=2))
    rows = rows[columns > 250]  # right of the legend
    assert abs(np.median(rows) - (44 + 300 - 58) / 2) < 2, "y = 0.5 lies midway between the ticks 0 and 1"
    rising = (chart[:, 340:380] == np.array(LINE_COLOURS[0])).all(axis=2).nonzero()[0]
    assert 40 < rising.min() and rising.max() < 80, "the line that rises ends at the top"


def test_curves_break_at_nan_and_survive_odd_series():
    whole = curves({"a": [(x, 1.0 + x) for x in range(60)]})
    holed = curves({"a": [(x, float("nan") if 20 < x < 40 else 1.0 + x) for x in range(60)]})
    assert 0 < has_colour(holed, LINE_COLOURS[0]) < 0.8 * has_colour(whole, LINE_COLOURS[0])
    assert has_colour(curves({"a": [(3, 7)]}), LINE_COLOURS[0]) > 10
    assert has_colour(curves({"a": [(0, 1e-12), (1e9, 1e-12)]}), LINE_COLOURS[0]) > 100
    for nothing in ({}, {"a": []}, {"a": [(0, float("inf"))]}):
        assert has_colour(curves(nothing), LINE_COLOURS[0]) == 0
    with pytest.raises(ValueError, match="200 x 300"):
        curves({}, size=(100, 100))


def test_many_and_long_names_fit_into_the_legend():
    names = {f"a very long name of a run, number {i} " * 4: [(0, i), (1, i)] for i in range(30)}
    assert curves(names, size=(200, 300)).shape == (200, 300, 3)


def test_no_torch_is_imported():
    code = "import sys, lgrnet.visualize; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_table_has_a_place_for_every_text():
    rows = [["size", "published mDice (protocol study)"], ["B0", "95.06 ± 0.11 (n=3)"], ["B1", "missing"]]
    plain = table(rows)
    tinted = table(rows, {1: (229, 238, 250)}, {"missing": (10, 20, 30)})
    assert plain.dtype == np.uint8 and plain.shape == tinted.shape
    assert plain.shape[1] > 150 and 90 < plain.shape[0] < 160
    colours = {tuple(colour) for colour in tinted.reshape(-1, 3)}
    assert {(229, 238, 250), (10, 20, 30)} <= colours and (10, 20, 30) not in {tuple(c) for c in plain.reshape(-1, 3)}
    # More text makes more lines, and a title stands above.
    assert table([["a" * 10 + " " + "b" * 10] * 2]).shape[0] > table([["a" * 10] * 2]).shape[0]
    titled = table(rows, title="a title that needs more than the width of the table has, " * 3)
    assert titled.shape[1] == plain.shape[1] and titled.shape[0] > plain.shape[0] + 40
    np.testing.assert_array_equal(titled[-plain.shape[0] :], plain)


@pytest.mark.parametrize("rows", [[], [[]], [["a", "b"], ["c"]]])
def test_table_of_no_shape_is_refused(rows):
    with pytest.raises(ValueError, match="expected one length"):
        table(rows)
