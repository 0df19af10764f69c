"""One HTML file per evaluation, to look at: it opens from disk and loads nothing, from nowhere.

Names of sets, videos and frames come from files of others. In the tables they are escaped; to the script they go as
JSON, and it shows them as text only. A Content-Security-Policy allows this very script and style, and pictures within
the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TextIO

from lgrnet.evaluation import html_tables
from lgrnet.evaluation.html_pictures import Album, Picture, Pictures, Wanted
from lgrnet.evaluation.protocols import LOW_IS_GOOD, FrameRow
from lgrnet.evaluation.report import drafted_text, plain_json

BUDGET = 30_000_000
"""Bytes of pictures in one file."""
SIDE = 256
"""Longer side of a picture, in pixels."""
EXTREME = 12
"""Worst and best frames, so many each."""
AREAS = {"truth_area": "truth", "predicted_area": "found", "confidence": "sure"}
"""Numbers of frames, of any protocol, that are drawn in percent: areas, and how sure the prediction is in its mask."""

_PAGE = Path(__file__).parent / "page"
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


@dataclass(frozen=True)
class ScoredSet:
    """What is known of one evaluated set.

    result    of `Evaluator.result`
    rows      of the evaluator, read once; frames in the order of the video
    pictures  gives the picture of (video, frame); None: the page has no pictures
    """

    result: Mapping
    rows: Iterable[FrameRow]
    pictures: Pictures | None = None


def write_html(
    path: str | Path,
    sets: Sequence[ScoredSet],
    facts: Mapping[str, object] | None = None,
    budget: int = BUDGET,
    side: int = SIDE,
) -> Path:
    """Writes the page of an evaluation and returns its path; the file is there whole or not at all.

    sets    tables and videos appear in this order; the first metric of a set's first protocol says which frames are
            its worst and best
    facts   where the numbers come from: command, config, versions; any names, texts and JSON-like values;
            `mean_over_sets`, of `means_over_sets`, stands in the tables of numbers, too
    budget  bytes of all pictures together. The worst and best frames come first, then the worst of every video, then
            frames spread evenly over every video, as many as fit; the page says which frames have none
    side    longer side of a picture in pixels

    Pictures are asked for and written one by one. Raises ValueError without a set, for a negative budget or no side,
    and what `pictures` raises.
    """
    if not sets or budget < 0 or side < 1:
        raise ValueError(
            f"a page of {len(sets)} sets with {budget} bytes of pictures of {side} pixels; expected at least one set, "
            "0 bytes or more, and 1 pixel or more"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with drafted_text(path) as file:
        _write_page(file, sets, facts or {}, budget, side)
    return path


def _write_page(file: TextIO, sets: Sequence[ScoredSet], facts: Mapping[str, object], budget: int, side: int) -> None:
    style, script = (_text(name) for name in ("page.css", "page.js"))
    results = [one.result for one in sets]
    parts = {
        "policy": "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        "style": style,
        "title": escape(html_tables.title(results)),
        "summary": html_tables.summary(results),
        "numbers": html_tables.numbers(results, facts.get("mean_over_sets")),
        "slices": html_tables.slices(results),
        "origin": html_tables.origin(results, facts),
    }
    head, tail = _text("page.html").split("{data}")
    file.write(_filled(head, parts))
    for chunk in _data(sets, budget, side):
        file.write(chunk)
    file.write(_filled(tail, {"script": script}))


def _data(sets: Sequence[ScoredSet], budget: int, side: int) -> Iterator[str]:
    """The data of the page as JSON that is safe in a script element, in pieces."""
    measures = list(dict.fromkeys(m for one in sets for m in _measures(one.result)))
    tables = [_videos(one, measures) for one in sets]
    rankings = [_ranking(one.result, table, measures) for one, table in zip(sets, tables, strict=True)]
    wanted = [
        Wanted({video: list(known["frames"]) for video, known in table.items()}, ranks, one.pictures or _no)
        for one, table, (_, ranks) in zip(sets, tables, rankings, strict=True)
    ]
    album = Album(wanted, budget, side, EXTREME)
    yield '{"pictures":['
    for number, entry in enumerate(album.entries()):
        yield ("," if number else "") + safe_json(entry)
    yield '],"measures":' + safe_json(_json(measures)) + ',"sets":['
    for place, number in enumerate(number for number, table in enumerate(tables) if table):
        known = {"name": sets[number].result["set"], "ranking": rankings[number][0]}
        text = _json({**known, **_set_data(number, tables[number], album, _sign(known["ranking"]))})
        yield ("," if place else "") + safe_json(text)
    yield "]}"


def safe_json(text: str) -> str:
    """JSON that a script element can hold: nothing in it ends the element or starts another."""
    return text.translate(_ESCAPES)


def _json(value: object) -> str:
    # ASCII only, so that U+2028 and U+2029 are escaped, too.
    return json.dumps(plain_json(value), separators=(",", ":"), allow_nan=False)


def _no(video: str, frame: str) -> Picture | None:
    return None


def _measures(result: Mapping) -> Iterator[tuple[str, str, int | str]]:
    """Protocol, metric and class of every number that videos have."""
    for number in result["numbers"]:
        if number["video"] is not None:
            yield number["protocol"], number["metric"], number["class_id"]


def _videos(one: ScoredSet, measures: Sequence[tuple]) -> dict[str, dict]:
    """Video -> frames (name -> place), scores (number of a measure -> value), values (the same -> one per frame), areas
    (class -> of what -> one per frame)."""
    places = {measure: number for number, measure in enumerate(measures)}
    videos: dict[str, dict] = {}
    for row in one.rows:
        video = videos.setdefault(row.video, {"frames": {}, "scores": {}, "values": {}, "areas": {}})
        place = video["frames"].setdefault(row.frame, len(video["frames"]))
        for metric, value in row.values.items():
            measure = places.get((row.protocol, metric, row.class_id))
            if measure is not None:
                _put(video["values"].setdefault(measure, []), place, value)
            if metric in AREAS:
                of_class = video["areas"].setdefault(row.class_id, {what: [] for what in AREAS.values()})
                _put(of_class[AREAS[metric]], place, 100 * value)
    for number in one.result["numbers"]:
        if number["video"] in videos:
            measure = places[number["protocol"], number["metric"], number["class_id"]]
            videos[number["video"]]["scores"][measure] = number["value"]
    return videos


def _put(values: list[float | None], place: int, value: float) -> None:
    """Sets a place of a list that may be too short; six digits are more than a page shows."""
    values += [None] * (place + 1 - len(values))
    values[place] = float(f"{value:.6g}") if math.isfinite(value) else None


def _ranking(
    result: Mapping, videos: Mapping[str, dict], measures: Sequence[tuple]
) -> tuple[tuple[str, str] | None, dict[tuple[str, str], float]]:
    """Protocol and metric that say which frames are the worst: the first ones that frames have; and
    (video, frame) -> its worst value over classes, with the other sign where a low one is good."""
    for protocol, scores in result["scores"].items():
        for metric in scores:
            chosen = [number for number, measure in enumerate(measures) if measure[:2] == (protocol, metric)]
            sign, ranks = _sign((protocol, metric)), {}
            for name, video in videos.items():
                for frame, place in video["frames"].items():
                    series = [video["values"].get(number, []) for number in chosen]
                    values = [sign * one[place] for one in series if place < len(one) and one[place] is not None]
                    if values:
                        ranks[name, frame] = min(values)
            if ranks:
                return (protocol, metric), ranks
    return None, {}


def _sign(ranking: tuple[str, str] | None) -> int:
    """-1 for protocol and metric of which a low value is good."""
    return -1 if ranking is not None and ranking[1] in LOW_IS_GOOD else 1


def _set_data(number: int, videos: Mapping[str, dict], album: Album, sign: int) -> dict[str, object]:
    """What the script is told of a set: its extreme frames as [place of video, place of frame, value], its videos.

    sign  of the values among the ranks, see `_ranking`
    """
    order = {name: place for place, name in enumerate(videos)}

    def extremes(places: Sequence[tuple[str, str]]) -> list[list]:
        ranks = album.sets[number].scores
        return [[order[video], videos[video]["frames"][frame], sign * ranks[video, frame]] for video, frame in places]

    return {
        "worst": extremes(album.worst[number]),
        "best": extremes(album.best[number]),
        "videos": [
            {
                "name": name,
                "frames": list(video["frames"]),
                "pictures": [album.places.get((number, name, frame)) for frame in video["frames"]],
                "scores": video["scores"],
                "values": video["values"],
                "areas": video["areas"],
            }
            for name, video in videos.items()
        ],
    }


def _text(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every {name} replaced; what is put in is not looked at again."""
    out, rest = "", template
    while (start := rest.find("{")) >= 0:
        end = rest.index("}", start)
        out += rest[:start] + parts[rest[start + 1 : end]]
        rest = rest[end + 1 :]
    return out + rest
