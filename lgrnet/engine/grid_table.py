"""The table of a grid: means over its runs beside published numbers, each stamped with what it is.

A column holds numbers of one metric by one protocol on one evaluation set; what is published stands in a column of its
own, headed by its own protocol.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lgrnet.checkpoint.disk import write_atomic
from lgrnet.config import ConfigError, to_json
from lgrnet.engine.grid import Grid, GridRun, Key, Metric, Published, Size, is_harmless
from lgrnet.engine.parts import build_part, evaluation_protocols
from lgrnet.engine.run import USER_ERRORS
from lgrnet.records import write_frame
from lgrnet.visualize import table

SIZES_FILE = "sizes.json"
SIZES = {
    "parameters": "all parameters of the model",
    "state_bytes": "bytes of all tensors of the state dict",
    "file_bytes": "bytes of the state dict as torch.save writes it, which depend a little on the names of tensors",
}
MISSING = "missing"
_NO_MODEL = (*USER_ERRORS, RuntimeError, LookupError, AttributeError, ArithmeticError)
PUBLISHED_TINT, MISSING_TINT = (229, 238, 250), (240, 240, 240)
COLUMNS = (
    *(
        "metric",
        "protocol",
        "set",
        "slice",
        "frames",
        "mean",
        "deviation",
        "n",
        "planned",
        "values",
        "seeds",
        "checkpoint",
    ),
    *("published", "published_protocol", "source"),
)


@dataclass(frozen=True)
class Number:
    """One place of the table, in the unit of the table.

    values      of the finished runs, in order of `seeds`; a line of means has those of its cells
    planned     how many runs it takes; 0: there is no such number
    frames      the scored frames that they come from, None without a run
    checkpoint  whose numbers they are
    failed      how many of the runs failed
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...]
    planned: int
    frames: int | None
    checkpoint: str
    failed: int = 0

    @property
    def mean(self) -> float | None:
        """Over the finished runs."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1) over the finished runs."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def words(self, digits: int) -> str:
        """As the table shows it."""
        if self.planned == 0:
            return ""
        if self.mean is None:
            return "failed" if self.failed else MISSING
        text = f"{self.mean:,.{digits}f}"
        if self.deviation is not None:
            text += f" ± {self.deviation:.{digits}f}"
        some = (
            f"n={len(self.values)}" if len(self.values) == self.planned else f"n={len(self.values)} of {self.planned}"
        )
        return f"{text} ({some})" if self.planned > 1 else text


Table = dict[Key, dict[str, Number]]
"""Cell -> label of the metric -> its number."""


def write_table(grid: Grid, runs: Sequence[GridRun], out: Path, overrides: Sequence[str] = ()) -> list[Path]:
    """Writes table.md, table.csv and table.png from what is finished; returns their paths.

    runs       all runs of the grid
    overrides  of this call, they stand under the table

    Raises ConfigError when the runs of a column were scored by another protocol, or have no such metric.
    """
    numbers = collect(grid, runs, out)
    header, lines = layout(grid, numbers)
    paths = [out / f"table.{suffix}" for suffix in ("md", "csv", "png")]
    write_atomic(paths[0], markdown(grid, runs, header, lines, overrides).encode())
    write_atomic(paths[1], as_csv(grid, numbers).encode())
    tints = {i: PUBLISHED_TINT for i, text in enumerate(header) if text.startswith("published")}
    words = ". ".join([grid.title.rstrip("."), _progress(runs), *_foreign(overrides)])
    write_frame(paths[2], table([header, *lines], tints, {MISSING: MISSING_TINT, "failed": MISSING_TINT}, words))
    return paths


def collect(grid: Grid, runs: Sequence[GridRun], out: Path) -> Table:
    """The numbers of every cell, then those of the lines of means."""
    numbers: Table = {}
    for key in grid.cells:
        own = [run for run in runs if run.key == key]
        done = [(run, result) for run in own if (result := run.result()) is not None]
        failed = sum(run.failure() is not None for run in own)
        numbers[key] = {
            metric.label: _score(metric, done, len(own), failed)
            if isinstance(metric, Metric)
            else _size(metric, own[0].config, out)
            for metric in grid.metrics
        }
    _check_meanings(grid, runs)
    for axis in grid.means:
        numbers |= _means(grid, numbers, axis)
    return numbers


def layout(grid: Grid, numbers: Table) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table as text."""
    sets = list(dict.fromkeys(_place(metric) for metric in grid.metrics if isinstance(metric, Metric)))
    sources = _sources(grid)
    header = [*grid.axes]
    for metric in grid.metrics:
        header.append(_head(metric))
        header += [_published_head(p, sources) for p in _beside(grid, metric)]
    header += [f"frames of {name}" for name in sets]
    lines = []
    for key, cell in numbers.items():
        line = [*key]
        for metric in grid.metrics:
            line.append(cell[metric.label].words(metric.digits))
            line += [_digits(p.values.get(key), metric.digits) for p in _beside(grid, metric)]
        lines.append(line + [_frames(grid, cell, name) for name in sets])
    return header, lines


def markdown(
    grid: Grid, runs: Sequence[GridRun], header: Sequence[str], lines: Sequence[Sequence[str]], overrides: Sequence[str]
) -> str:
    """The table and under it what its numbers are."""
    results = [result for run in runs if (result := run.result()) is not None]
    text = [f"# {grid.title}", "", _line(header), "|" + " --- |" * len(header), *map(_line, lines), ""]
    text.append(f"{_progress(runs)}. {_counting(grid, runs)}")
    for run in runs:
        if run.result() is None and run.failure() is not None:
            text.append(f"- failed: {run.name}: {run.failure()['reason']}")
    text.append("")
    meanings = {protocol.id: protocol.meaning for protocol in evaluation_protocols(runs[0].config)}
    meanings |= {score["protocol"]: score["meaning"] for result in results for score in result["scores"]}
    for protocol in dict.fromkeys(metric.protocol for metric in grid.metrics if isinstance(metric, Metric)):
        text.append(f"- protocol `{protocol}`: {meanings[protocol]}")
    text += [f"- [{number}] {source}" for source, number in _sources(grid).items()]
    text += [f"- {metric.label}: {SIZES[metric.of]}" for metric in grid.metrics if isinstance(metric, Size)]
    text += [f"- **{words}**" for words in _foreign(overrides)]
    versions = sorted({result["version"] for result in results})
    return "\n".join([*text, "", f"lgrnet {', '.join(versions)}" if versions else "", ""])


def as_csv(grid: Grid, numbers: Table) -> str:
    """One number a line, with all that belongs to it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*grid.axes, *COLUMNS])
    for key, cell in numbers.items():
        for metric in grid.metrics:
            number = cell[metric.label]
            scored = isinstance(metric, Metric)
            stamp = [metric.protocol, metric.set, metric.slice] if scored else [None] * 3
            found = [number.frames, number.mean, number.deviation, len(number.values), number.planned]
            origin = [" ".join(map(repr, number.values)), " ".join(map(str, number.seeds)), number.checkpoint]
            for published in _beside(grid, metric) or [None]:
                own = [published.values.get(key), published.protocol, published.source] if published else [None] * 3
                row = [*key, metric.label, *stamp, *found, *origin, *own]
                writer.writerow(["" if value is None else value for value in row])
    return file.getvalue()


def model_size(config: DictConfig) -> dict[str, int]:
    """The `SIZES` of the config's model; it is built for that."""
    model, counter = build_part(config, "model"), _Counter()
    state = model.state_dict()
    torch.save(state, counter)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "state_bytes": sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        "file_bytes": counter.total,
    }


class _Counter(io.RawIOBase):
    """A file that keeps nothing but its size."""

    total = 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.total += len(data)
        return len(data)


def _score(metric: Metric, done: Sequence[tuple[GridRun, Mapping[str, Any]]], planned: int, failed: int) -> Number:
    found = [(run, result, _entry(metric, run, result)) for run, result in done]
    values = tuple(metric.scale * entry["value"] for _, _, entry in found if entry["value"] is not None)
    frames = sorted({entry["frames"] for *_, entry in found})
    if len(frames) > 1 and len({run.fold for run, *_ in found}) == 1:
        raise ConfigError(f"{metric.label} of {found[0][0].key}: its runs were scored on {frames} frames")
    # Folds differ in size: together they are scored on so many frames.
    total = sum({run.fold: entry["frames"] for run, _, entry in found}.values()) if found else None
    chosen = ", ".join(sorted({result["chosen"] for _, result, _ in found}))
    return Number(values, tuple(run.seed for run, *_ in found), planned, total, chosen, failed)


def _entry(metric: Metric, run: GridRun, result: Mapping[str, Any]) -> Mapping[str, Any]:
    wanted = {name: getattr(metric, name) for name in ("protocol", "set", "slice", "metric")}
    for score in result["scores"]:
        if all(score[name] == value for name, value in wanted.items()):
            return score
    there = [{name: score[name] for name in wanted if score[name] is not None} for score in result["scores"]]
    names = sorted({" of ".join(reversed(score.values())) for score in there})
    raise ConfigError(f"run {run.name} has no {metric.metric} of {_head(metric)}; it has {', '.join(names)}")


def _check_meanings(grid: Grid, runs: Sequence[GridRun]) -> None:
    """Raises ConfigError when one protocol's id stands for two things in runs of different versions."""
    meanings: dict[str, dict[str, str]] = {}
    for run in runs:
        for score in (run.result() or {"scores": []})["scores"]:
            meanings.setdefault(score["protocol"], {}).setdefault(score["meaning"], run.name)
    for protocol, found in meanings.items():
        if len(found) > 1 and protocol in {metric.protocol for metric in grid.metrics if isinstance(metric, Metric)}:
            raise ConfigError(
                f"protocol {protocol} meant something else when {' and '.join(found.values())} were scored; one table "
                "cannot hold both: remove the older runs' result.json and eval folders to score them again"
            )


def _size(size: Size, config: DictConfig, out: Path) -> Number:
    """A model's size; measured once for each model."""
    path, name = out / SIZES_FILE, hashlib.sha256(to_json(config.model).encode()).hexdigest()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if name not in known:
        try:
            known[name] = model_size(config)
        except _NO_MODEL:  # its runs say why
            return Number((), (), 1, None, "", failed=1)
        write_atomic(path, json.dumps(known, indent=1).encode())
    return Number((size.scale * known[name][size.of],), (), 1, None, "")


def _means(grid: Grid, numbers: Table, axis: str) -> Table:
    """Lines with "mean" for the names of one axis; missing while one of their cells is."""
    place = grid.axes.index(axis)
    groups: dict[Key, list[Key]] = {}
    for key in grid.cells:
        groups.setdefault((*key[:place], "mean", *key[place + 1 :]), []).append(key)
    lines: Table = {}
    for name, keys in groups.items():
        lines[name] = {}
        for metric in grid.metrics:
            parts = [numbers[key][metric.label] for key in keys]
            means = [part.mean for part in parts if part.mean is not None]
            mean = (statistics.fmean(means),) if len(means) == len(keys) else ()
            lines[name][metric.label] = Number(mean, (), int(isinstance(metric, Metric)), None, "")
    return lines


def _beside(grid: Grid, metric: Metric | Size) -> list[Published]:
    return [published for published in grid.published if published.label == metric.label]


def _sources(grid: Grid) -> dict[str, int]:
    """Source -> its number under the table."""
    sources = dict.fromkeys(published.source for published in grid.published)
    return {source: number for number, source in enumerate(sources, start=1)}


def _head(metric: Metric | Size) -> str:
    return (
        f"{metric.label} (protocol {metric.protocol}, {_place(metric)})" if isinstance(metric, Metric) else metric.label
    )


def _place(metric: Metric) -> str:
    """The frames that a number comes from, in words."""
    return metric.set if metric.slice is None else f"{metric.set} {metric.slice}"


def _published_head(published: Published, sources: Mapping[str, int]) -> str:
    protocol = f" (protocol {published.protocol})" if published.protocol else ""
    return f"published {published.label}{protocol} [{sources[published.source]}]"


def _frames(grid: Grid, cell: Mapping[str, Number], name: str) -> str:
    metrics = (metric for metric in grid.metrics if isinstance(metric, Metric) and _place(metric) == name)
    found = [number for metric in metrics if (number := cell[metric.label].frames) is not None]
    return str(found[0]) if found else ""


def _progress(runs: Sequence[GridRun]) -> str:
    return f"{sum(run.result() is not None for run in runs)} of {len(runs)} runs are finished"


def _foreign(overrides: Sequence[str]) -> list[str]:
    """Says that these are other numbers than those of the grid, where they are."""
    decisive = [text for text in overrides if not is_harmless(text.partition("=")[0])]
    return [f"Not the grid's own settings, but {' '.join(decisive)}"] if decisive else []


def _counting(grid: Grid, runs: Sequence[GridRun]) -> str:
    """What was averaged."""
    folds = len({run.fold for run in runs})
    seeds = sorted({run.seed for run in runs})
    words = f"Checkpoint: {grid.checkpoint}. Repeats: {grid.repeats}, with the seeds {', '.join(map(str, seeds))}."
    if folds > 1:
        words += f" Folds: {folds}; n counts folds and repeats together, frames are those of all folds."
    return words + " Behind ± stands the sample standard deviation over the n finished runs."


def _digits(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
