"""Pictures of results: arrays in, arrays out; nothing is read, written or shown here.

All images are uint8 [H, W, 3] in RGB order, all masks are [H, W] with any non-zero value as foreground.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

RIGHT = (60, 220, 90)  # found and there
INVENTED = (240, 70, 60)  # found, but not there
MISSED = (70, 140, 255)  # there, but not found
# Okabe and Ito's palette (2008): told apart by colour-blind readers too.
LINE_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _HEAD_INK = (20, 20, 20), (0, 60, 120)


def overlay(frame: np.ndarray, mask: np.ndarray, truth: np.ndarray | None = None, alpha: float = 0.35) -> np.ndarray:
    """Paint a mask on a frame: filled regions with a solid outline.

    frame  uint8 [H, W, 3]; mask [H, W]; truth [H, W] or None
    alpha  strength of the filling in 0..1

    Without `truth` the mask is green. With it, green is what both have, red what only `mask` has, blue what only
    `truth` has. Returns a new uint8 [H, W, 3]. Raises ValueError when the shapes do not fit.
    """
    _check_image(frame)
    found = _as_mask(mask, frame, "mask")
    there = found if truth is None else _as_mask(truth, frame, "truth")
    painted = frame.copy()
    for region, colour in ((found & there, RIGHT), (found & ~there, INVENTED), (there & ~found, MISSED)):
        painted[region] = np.rint((1 - alpha) * frame[region] + alpha * np.array(colour)).astype(np.uint8)
    width = max(1, round(min(frame.shape[:2]) / 256))
    for region, colour in ((there, RIGHT if truth is None else MISSED), (found, RIGHT)):
        outlines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, colour, width)
    return painted


def contact_sheet(
    images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None, gap: int = 4
) -> np.ndarray:
    """Images in rows of `columns`, each in a cell of the largest image's size, on white.

    images    uint8 [H_i, W_i, 3]; smaller ones keep their size and are centred
    captions  one short text per image, drawn under it and cut where the cell ends; None: no captions

    Returns uint8 [H, W, 3]. Raises ValueError when there is no image, no column, or another number of captions.
    """
    if not images or columns < 1:
        raise ValueError(f"contact_sheet got {len(images)} images and {columns} columns, expected at least one of each")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"contact_sheet got {len(images)} images but {len(captions)} captions, expected one each")
    for image in images:
        _check_image(image)
    cell_h = max(image.shape[0] for image in images)
    cell_w = max(image.shape[1] for image in images)
    scale = min(0.6, max(0.33, cell_w / 500))
    text_h = 0 if captions is None else round(30 * scale) + 6
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_h, step_w = cell_h + text_h + gap, cell_w + gap
    sheet = np.full((rows * step_h + gap, columns * step_w + gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = gap + number // columns * step_h, gap + number % columns * step_w
        y, x = top + (cell_h - image.shape[0]) // 2, left + (cell_w - image.shape[1]) // 2
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
        if captions is not None:
            cell = sheet[top + cell_h : top + cell_h + text_h, left : left + cell_w]
            cell[:] = _text_strip(captions[number], cell.shape[0], cell.shape[1], scale)
    return sheet


def with_legend(image: np.ndarray, colours: Mapping[str, tuple[int, int, int]]) -> np.ndarray:
    """An image under a white strip that says what its colours mean: in one line where it fits, else a line each.

    image    uint8 [H, W, 3]; where it is narrower than the text, white is added at its right
    colours  what stands for what, in order

    Returns uint8 [H + strip, max(W, text), 3]. Raises ValueError without a colour or for an image that is none.
    """
    _check_image(image)
    if not colours:
        raise ValueError("with_legend got no colour, expected at least one")
    scale, line, swatch = 0.5, 24, 28
    widths = [swatch + 20 + _text_width(text, scale) for text in colours]
    one_line = sum(widths) <= image.shape[1]
    height, width = (line if one_line else line * len(colours)), max(image.shape[1], max(widths))
    framed = np.full((height + image.shape[0], width, 3), 255, np.uint8)
    framed[height:, : image.shape[1]] = image
    for number, (text, colour) in enumerate(colours.items()):
        x, y = (sum(widths[:number]), 0) if one_line else (0, line * number)
        framed[y + 6 : y + line - 4, x + 6 : x + swatch] = colour
        _text(framed, text, (x + swatch + 6, y + line - 7), scale)
    return framed


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    size: tuple[int, int] = (480, 800),
) -> np.ndarray:
    """A line chart with axes, round tick values, a grid and a legend.

    series  name -> points (x, y) in the order they are joined; a point that is not finite breaks its line
    size    (height, width) of the chart in pixels, at least (200, 300)

    Returns uint8 [height, width, 3]. A chart without any finite point says "no data". Raises ValueError for a
    smaller size.
    """
    height, width = size
    if height < 200 or width < 300:
        raise ValueError(f"a chart of {height} x {width} pixels is not readable, expected at least 200 x 300")
    chart = np.full((height, width, 3), 255, np.uint8)
    box = (70, 44, width - 20, height - 58)  # left, top, right, bottom of the plot in pixels
    _text(chart, title, (width // 2, 26), 0.6, centred=True)
    _text(chart, xlabel, ((box[0] + box[2]) // 2, height - 14), 0.5, centred=True)
    _vertical_text(chart, ylabel, (box[1] + box[3]) // 2)
    lines = {name: np.asarray(points, float).reshape(-1, 2) for name, points in series.items()}
    points = np.concatenate([*lines.values(), np.zeros((0, 2))])
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) == 0:
        _text(chart, "no data", ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2), 0.6, centred=True)
        return chart
    x_ticks = _round_ticks(points[:, 0].min(), points[:, 0].max(), max(2, (box[2] - box[0]) // 90))
    y_ticks = _round_ticks(points[:, 1].min(), points[:, 1].max(), max(2, (box[3] - box[1]) // 50))
    _draw_axes(chart, box, x_ticks, y_ticks)
    low = np.array([x_ticks[0], y_ticks[0]])
    span = np.array([x_ticks[-1], y_ticks[-1]]) - low
    for number, line in enumerate(lines.values()):
        places = (line - low) / span * [box[2] - box[0], box[1] - box[3]] + [box[0], box[3]]
        _draw_line(chart, places, LINE_COLOURS[number % len(LINE_COLOURS)])
    _draw_legend(chart, box, list(lines))
    return chart


def table(
    rows: Sequence[Sequence[str]],
    column_tints: Mapping[int, tuple[int, int, int]] | None = None,
    text_tints: Mapping[str, tuple[int, int, int]] | None = None,
    title: str = "",
    wrap: int = 18,
) -> np.ndarray:
    """A table as a picture.

    rows          texts, the head first, all of one length; letters beyond Latin-1 may show as boxes
    column_tints  background of columns, by their index
    text_tints    background of cells that hold this text, before that of their column
    title         stands above, in as many lines as it needs
    wrap          words of the head go to a new line after so many letters

    Returns uint8 [H, W, 3]. Raises ValueError for rows of different lengths, and without a row or a column.
    """
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(f"a table of rows of {sorted({len(row) for row in rows})} cells; expected one length, above 0")
    head = ["\n".join(textwrap.wrap(text, wrap)) for text in rows[0]]
    font, pad = ImageFont.load_default(15), 8
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [[measure.multiline_textbbox((0, 0), text, font) for text in row] for row in (head, *rows[1:])]
    widths = [int(max(row[i][2] for row in boxes)) + 2 * pad for i in range(len(head))]
    heights = [int(max(max(box[3] for box in row), 15)) + 2 * pad for row in boxes]
    above = "\n".join(textwrap.wrap(title, max(20, sum(widths) // 8)))
    top = int(measure.multiline_textbbox((0, 0), above, font)[3]) + 2 * pad if above else 0
    image = Image.new("RGB", (sum(widths) + 1, top + sum(heights) + 1), "white")
    draw = ImageDraw.Draw(image)
    draw.multiline_text((pad, pad), above, _INK, font)
    for number, (row, height) in enumerate(zip((head, *rows[1:]), heights, strict=True)):
        left = 0
        for i, (text, width) in enumerate(zip(row, widths, strict=True)):
            tint = (text_tints or {}).get(text) or (column_tints or {}).get(i, (255, 255, 255))
            draw.rectangle((left, top, left + width, top + height), tint, (200, 200, 200), width=1)
            draw.multiline_text((left + pad, top + pad), text, _INK if number else _HEAD_INK, font)
            left += width
        top += height
    return np.asarray(image)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3] in RGB order")


def _as_mask(mask: np.ndarray, frame: np.ndarray, name: str) -> np.ndarray:
    if mask.shape != frame.shape[:2]:
        raise ValueError(f"{name} has shape {list(mask.shape)}, expected the frame's [H, W] {list(frame.shape[:2])}")
    return np.asarray(mask) != 0  # a tensor, too


def _text(image: np.ndarray, text: str, place: tuple[int, int], scale: float, centred: bool = False) -> None:
    """Draw `text` on `image`; `place` is its left (or centred: middle) end on the base line, in pixels."""
    x = place[0] - _text_width(text, scale) // 2 if centred else place[0]
    cv2.putText(image, _drawable(text), (x, place[1]), FONT, scale, (40, 40, 40), 1, cv2.LINE_AA)


def _text_width(text: str, scale: float) -> int:
    return cv2.getTextSize(_drawable(text), FONT, scale, 1)[0][0]


def _drawable(text: str) -> str:
    """Without the parts of file names that are no UTF-8: OpenCV ends the process at them."""
    return text.encode("utf-8", "replace").decode()


def _text_strip(text: str, height: int, width: int, scale: float) -> np.ndarray:
    """A white uint8 [height, width, 3] with `text`, shortened by ".." when it is too long."""
    strip = np.full((height, width, 3), 255, np.uint8)
    shown = text
    while len(shown) > 2 and _text_width(shown, scale) > width - 4:
        shown = shown.removesuffix("..")[:-1] + ".."
    _text(strip, shown, (2, height - 5), scale)
    return strip


def _vertical_text(chart: np.ndarray, text: str, middle: int) -> None:
    """Draw `text` at the left edge, read from below, centred at row `middle`."""
    strip = np.full((20, chart.shape[0], 3), 255, np.uint8)
    _text(strip, text, (chart.shape[0] - middle, 15), 0.5, centred=True)
    chart[:, 2:22] = np.rot90(strip)


def _round_ticks(low: float, high: float, most: int) -> np.ndarray:
    """At most about `most` + 1 evenly spaced ticks at 1, 2 or 5 times a power of ten that enclose low..high."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / most
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = np.floor(low / step + 1e-9), np.ceil(high / step - 1e-9)
    return np.arange(first, last + 1) * step


def _draw_axes(chart: np.ndarray, box: tuple[int, int, int, int], x_ticks: np.ndarray, y_ticks: np.ndarray) -> None:
    """Frame, grid and tick values; the ticks span the box."""
    left, top, right, bottom = box
    for x, place in zip(x_ticks, np.linspace(left, right, len(x_ticks)), strict=True):
        cv2.line(chart, (round(place), top), (round(place), bottom), (225, 225, 225), 1)
        _text(chart, f"{x:.6g}", (round(place), bottom + 18), 0.42, centred=True)
    for y, place in zip(y_ticks, np.linspace(bottom, top, len(y_ticks)), strict=True):
        cv2.line(chart, (left, round(place)), (right, round(place)), (225, 225, 225), 1)
        text = f"{y:.4g}"
        _text(chart, text, (left - 6 - _text_width(text, 0.42), round(place) + 5), 0.42)
    cv2.rectangle(chart, (left, top), (right, bottom), (90, 90, 90), 1)


def _draw_line(chart: np.ndarray, places: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Join pixel places [N, 2]; gaps where a place is not finite; a dot on each point while they are few."""
    finite = np.isfinite(places).all(axis=1)
    whole = [(round(x), round(y)) if ok else None for (x, y), ok in zip(places.tolist(), finite, strict=True)]
    for a, b in zip(whole, whole[1:], strict=False):
        if a and b:
            cv2.line(chart, a, b, colour, 2, cv2.LINE_AA)
    alone = [i for i in range(len(whole)) if whole[i] and not any(whole[max(0, i - 1) : i] + whole[i + 1 : i + 2])]
    for i in range(len(whole)) if len(whole) <= 40 else alone:
        if whole[i]:
            cv2.circle(chart, whole[i], 3, colour, -1, cv2.LINE_AA)


def _draw_legend(chart: np.ndarray, box: tuple[int, int, int, int], names: Sequence[str]) -> None:
    """Names with their colours in the corner of the box where the fewest pixels are drawn."""
    width = min(box[2] - box[0] - 16, 46 + max(_text_width(n, 0.45) for n in names))
    height = min(box[3] - box[1] - 16, 8 + 20 * len(names))
    corners = [(x, y) for y in (box[1] + 8, box[3] - 8 - height) for x in (box[2] - 8 - width, box[0] + 8)]
    ink = [int((chart[y : y + height, x : x + width].min(axis=2) < 200).sum()) for x, y in corners]
    x, y = corners[ink.index(min(ink))]
    field = chart[y : y + height, x : x + width]
    field[:] = 255
    for number, name in enumerate(names):
        row = 18 + 20 * number
        cv2.line(field, (6, row - 4), (30, row - 4), LINE_COLOURS[number % len(LINE_COLOURS)], 2, cv2.LINE_AA)
        _text(field, name, (38, row), 0.45)
    cv2.rectangle(field, (0, 0), (width - 1, height - 1), (180, 180, 180), 1)
