"""Writes what an evaluation found: JSON for programs, CSV for spreadsheets, Markdown for people."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lgrnet.evaluation.average_precision import precisions
from lgrnet.evaluation.evaluator import Evaluator
from lgrnet.evaluation.intervals import RESAMPLES
from lgrnet.evaluation.protocols import mean_scores, overall
from lgrnet.evaluation.set_means import SetMeans
from lgrnet.records.drafts import drafted

NUMBER_COLUMNS = (
    "protocol",
    "set",
    "video",
    "slice",
    "class_id",
    "metric",
    "value",
    "lower",
    "upper",
    "frames",
    "weights_hash",
    "split_hash",
    "version",
)
FRAME_COLUMNS = tuple(
    "frame" if name == "frames" else name for name in NUMBER_COLUMNS if name not in ("slice", "lower", "upper")
)


def write_report(
    evaluators: Evaluator | Sequence[Evaluator], folder: str | Path, extra: Mapping[str, object] | None = None
) -> dict[str, Path]:
    """Writes the results of one or several sets and returns name -> path of the files.

    folder  is made where needed: report.json (sets, slices and videos), scores.csv (the same, one number a line),
            frames.csv (one number a line, of frames), report.md (a table per protocol)
    extra   more to keep in report.json: config file, step, command; `mean_over_sets`, of `means_over_sets`, stands in
            the tables, too

    A number that is not defined is null in JSON and empty in CSV. Raises DataError when a set has no scored frame.
    """
    evaluators = [evaluators] if isinstance(evaluators, Evaluator) else list(evaluators)
    results = [evaluator.result() for evaluator in evaluators]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / name for name in ("report.json", "scores.csv", "frames.csv", "report.md")}
    write_json(paths["report.json"], results, extra)
    _write_csv(paths["scores.csv"], NUMBER_COLUMNS, (number for result in results for number in result["numbers"]))
    _write_csv(paths["frames.csv"], FRAME_COLUMNS, _frame_numbers(evaluators, results))
    write_whole(paths["report.md"], [markdown(results, (extra or {}).get("mean_over_sets"))])
    return paths


def write_json(path: Path, results: Sequence[Mapping], extra: Mapping[str, object] | None = None) -> None:
    """Writes results of sets as report.json has them, see `write_report`."""
    text = json.dumps(plain_json({**(extra or {}), "sets": list(results)}), indent=1, allow_nan=False)
    write_whole(path, [text, "\n"])


def write_whole(path: str | Path, parts: Iterable[str]) -> None:
    """Writes a text as `drafted_text` does."""
    with drafted_text(Path(path)) as file:
        file.writelines(parts)


def published_table(result: Mapping, protocol: str, method: str) -> str:
    """The numbers of a set as the text that the VPS toolbox prints: a line of three decimals, in a frame.

    method  name of what predicted
    """
    scores = result["scores"][protocol]
    values = ["nan" if _undefined(value) else f"{value:.3f}" for value in scores.values()]
    rows = [["Dataset", "Method", *scores], [result["set"], method, *values]]
    rows = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = ["| " + " | ".join(map(_centred, row, widths)) + " |" for row in rows]
    return "\n".join([rule, lines[0], rule, lines[1], rule])


def mean_over_videos(result: Mapping, protocol: str) -> dict[str, float]:
    """Metric -> mean over the videos of a set, each of the same weight; see `mean_scores`."""
    videos: dict[str, dict[int | str, dict[str, float]]] = {}
    for number in result["numbers"]:
        if number["protocol"] == protocol and number["video"] is not None:
            of_class = videos.setdefault(number["video"], {}).setdefault(number["class_id"], {})
            of_class[number["metric"]] = number["value"]
    return mean_scores({video: overall(by_class) for video, by_class in videos.items()})


def _centred(text: str, width: int) -> str:
    """In the middle; of an odd number of blanks the one more stands after a text of odd length, else before it."""
    blanks = width - len(text)
    left = blanks // 2 + (blanks % 2 if len(text) % 2 == 0 else 0)
    return " " * left + text + " " * (blanks - left)


def markdown(results: Sequence[Mapping], means: SetMeans | None = None) -> str:
    """One table per protocol, one line per set and mean over sets, and per set its slices and its videos from the worst
    to the best."""
    lines = ["# Evaluation", ""]
    if any(bounds for result in results for bounds in result["intervals"].values()):
        lines += [f"In brackets: 95 % intervals, from {RESAMPLES} draws of as many videos as there are.", ""]
    for name, meaning in _meanings(results).items():
        metrics = list(results[0]["scores"][name])
        lines += [f"## Protocol `{name}`", "", meaning, ""]
        lines += table_header(["set", "videos", "frames", "without annotation", *metrics])
        for result in results:
            counts = [result["videos"], frames_of(result, name), result["frames_without_annotation"]]
            bounds = result["intervals"].get(name)
            values = [_with_interval(result["scores"][name], bounds, metric) for metric in metrics]
            lines.append(table_line([result["set"], *map(str, counts), *values]))
        for label, of in (means or {}).items():
            if name in of:
                lines.append(table_line([label, "", "", "", *(_digits(of[name].get(metric)) for metric in metrics)]))
        for result in results:
            if result["slices"].get(name):
                lines += ["", f"### {_cell(result['set'])}, per slice", ""]
                lines += table_header(["slice", "videos", "frames", *metrics]) + _slice_lines(
                    result["slices"][name], metrics
                )
            lines += ["", f"### {_cell(result['set'])}, per video", ""]
            lines += table_header(["video", "class", "frames", *metrics]) + _video_lines(result, name, metrics)
        lines.append("")
    lines += _instance_lines([result for result in results if result["instances"]])
    origin = [
        f"{_cell(r['set'])}: lgrnet {r['version']}, weights {r['weights_hash'] or 'unknown'}, split {r['split_hash']}"
        for r in results
    ]
    return "\n".join([*lines, *(f"- {line}" for line in origin), ""])


def frames_of(result: Mapping, protocol: str) -> int:
    """How many frames of a set a protocol's numbers are of, the most of any; all annotated ones where it has none."""
    own = [n for n in result["numbers"] if n["protocol"] == protocol and n["video"] is None and n["slice"] is None]
    return max((number["frames"] for number in own), default=result["frames"])


def _instance_lines(results: Sequence[Mapping]) -> list[str]:
    """Average precision of the sets that have it; it has no intervals."""
    lines = []
    if results:
        first = results[0]["instances"]
        lines += ["## Instances", "", f"Average precision by pycocotools, an image is a {first['form']}.", ""]
        lines += table_header(["set", "objects", "detections", *precisions(first)])
        for found in (result["instances"] for result in results):
            counts = [str(found[key]) for key in ("annotated_objects", "detections")]
            lines.append(table_line([found["set"], *counts, *map(_digits, precisions(found).values())]))
        lines.append("")
    return lines


def _slice_lines(slices: Mapping[str, Mapping], metrics: Sequence[str]) -> list[str]:
    lines = []
    for part, found in slices.items():
        scores, bounds = found["scores"], found["intervals"]
        values = [_with_interval(scores, bounds, metric) if scores else "no images" for metric in metrics]
        lines.append(table_line([part, str(found["videos"]), str(found["frames"]), *values]))
    return lines


def _video_lines(result: Mapping, protocol: str, metrics: Sequence[str]) -> list[str]:
    table: dict[tuple, dict] = {}
    for number in result["numbers"]:
        if number["protocol"] == protocol and number["video"] is not None:
            table.setdefault((number["video"], number["class_id"]), {})[number["metric"]] = number
    ordered = sorted(table.items(), key=lambda item: (_rank(item[1][metrics[0]]["value"]), str(item[0])))
    return [
        table_line([video, str(k), str(cells[metrics[0]]["frames"]), *(_digits(cells[m]["value"]) for m in metrics)])
        for (video, k), cells in ordered
    ]


def _frame_numbers(evaluators: Sequence[Evaluator], results: Sequence[Mapping]) -> Iterable[dict]:
    for evaluator, result in zip(evaluators, results, strict=True):
        common = {key: result[key] for key in ("set", "weights_hash", "split_hash", "version")}
        for row in evaluator.each_row():
            place = {"protocol": row.protocol, "video": row.video, "frame": row.frame, "class_id": row.class_id}
            for metric, value in row.values.items():
                yield {**common, **place, "metric": metric, "value": value}


@contextmanager
def drafted_text(path: Path) -> Iterator[TextIO]:
    """A text file to write, which is then at `path` whole, or there as it was. Names that are no text (lone surrogates,
    which UTF-8 refuses) become escapes."""
    with (
        drafted(path) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        yield file


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    with drafted_text(path) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "" if _undefined(value) else value for key, value in row.items()})


def _meanings(results: Sequence[Mapping]) -> dict[str, str]:
    protocols = [result["meaning"] for result in results]
    if any(list(other) != list(protocols[0]) for other in protocols):
        raise ValueError(
            f"the sets were scored by different protocols: {[list(p) for p in protocols]}; report them apart"
        )
    return protocols[0]


def _rank(value: float) -> tuple[bool, float]:
    """Sorts numbers, those that are not defined last."""
    return (True, 0.0) if _undefined(value) else (False, value)


def _undefined(value: object) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def plain_json(value: object) -> object:
    """A tree that JSON can hold: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(entry) for entry in value]
    return None if _undefined(value) else value


def _digits(value: float) -> str:
    return "-" if _undefined(value) else f"{value:.4f}"


def _with_interval(scores: Mapping[str, float], intervals: Mapping[str, Sequence] | None, metric: str) -> str:
    """`0.8350 [0.8011, 0.8643]`, without the brackets where the interval is unknown."""
    if intervals is None or _undefined(intervals[metric][0]):
        return _digits(scores[metric])
    return f"{_digits(scores[metric])} [{', '.join(map(_digits, intervals[metric]))}]"


def _cell(text: str) -> str:
    """Text that cannot break out of a table cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table; no text breaks out of its cell."""
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def table_header(cells: Sequence[str]) -> list[str]:
    """The two lines that begin a Markdown table."""
    return [table_line(cells), "|" + " --- |" * len(cells)]
