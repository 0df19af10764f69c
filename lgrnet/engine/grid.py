"""A grid: many configs composed in Python, each trained and evaluated as an ordinary run, and one table of them all.

A grid file is a Python file that defines `axes`, `cells` and `metrics`, and as it needs them `repeats`, `folds`,
`published`, `checkpoint` and `means` (see `Grid`). This reads it and says which runs it has; `grid_run` runs them and
`grid_table` writes the table.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lgrnet.checkpoint.checkpointer import Checkpointer
from lgrnet.config import SECTIONS, ConfigError, compose, read_config, run_file
from lgrnet.engine.parts import evaluation_protocols
from lgrnet.engine.resume import ABSENT, BACKEND, CONFIG_FILE, differences, flat_settings, in_words, with_root
from lgrnet.engine.run import CHECKPOINTS

RUNS, RESULT_FILE, FAILURE_FILE, OUTPUT_FILE, GRID_FILE = (
    "runs",
    "result.json",
    "failure.json",
    "output.txt",
    "grid.json",
)
HARMLESS = tuple(
    f"train.{name}"
    for name in ("workers", "device", "log_every", "pictures", "eval_chunk", "keep", "save_every", "out_dir")
)
"""Settings that change no number: a grid may go on with others."""

Key = tuple[str, ...]
"""The names of a cell, one for each axis."""
Folds = Mapping[str, Sequence[str]]
"""Name of a fold -> its overrides."""


@dataclass(frozen=True)
class Metric:
    """A number of every cell.

    label     heads its column; unique in the grid
    metric    as the protocol calls it
    protocol  id of the protocol, see `lgrnet.evaluation.protocols`
    set       evaluation set, an entry of the configs' data.eval
    slice     part of the set, as the protocol names it; None: all frames
    scale     the table shows scale x value: 100 for percent
    digits    behind the point
    """

    label: str
    metric: str
    protocol: str
    set: str
    slice: str | None = None
    scale: float = 1.0
    digits: int = 4


@dataclass(frozen=True)
class Size:
    """A size of every cell's model; see `Metric` for the rest.

    of  "parameters"; "state_bytes": all tensors of its state dict; "file_bytes": its state dict as torch.save writes it
    """

    label: str
    of: str = "parameters"
    scale: float = 1.0
    digits: int = 0


@dataclass(frozen=True)
class Published:
    """Numbers of others beside a column of ours.

    label     of the Metric or Size they stand beside
    values    cell -> number, as the table shows it
    source    where they were read
    protocol  by which they were made; "" for sizes
    """

    label: str
    values: Mapping[Key | str, float]
    source: str
    protocol: str = ""


class Cell:
    """One config of a grid: that of a file (or the six sections), with whole sections or single values changed.

    base       a config file, or what `lgrnet.config.read_config` gives
    overrides  `key=value`, as on the command line
    sections   model, criterion, data, optimizer, schedule or train: instead of those of the base
    """

    def __init__(self, base: str | Path | Mapping[str, Any], *overrides: str, **sections: Any):
        unknown = sorted(set(sections) - set(SECTIONS))
        if unknown:
            raise ConfigError(f"a cell has no section {', '.join(unknown)}; it has {', '.join(SECTIONS)}")
        self.sections = {**(base if isinstance(base, Mapping) else read_config(base)), **sections}
        self.overrides = overrides

    def config(self, overrides: Iterable[str] = (), source: str = "cell") -> DictConfig:
        """Its config with further overrides; errors as those of `lgrnet.config.load_config`."""
        return compose(self.sections, (*self.overrides, *overrides), source)


@dataclass(frozen=True)
class Grid:
    """What a grid file defines.

    title       first line of the file's docstring
    axes        what the names of a cell stand for, for example ("backbone", "head")
    cells       names -> cell, in the order of the table
    metrics     columns of the table: Metric and Size
    repeats     trainings of every cell, with the seeds train.seed, train.seed + 1, ...
    folds       fold -> overrides; every cell is trained on each. Or a function that finds them in a cell's config
    published   numbers of others
    checkpoint  whose numbers count: that of the "last" step, or the "best" by train.metric
    means       axes over which further lines give the mean
    """

    title: str
    axes: tuple[str, ...]
    cells: Mapping[Key, Cell]
    metrics: tuple[Metric | Size, ...]
    repeats: int = 1
    folds: Folds | Callable[[DictConfig], Folds] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    checkpoint: str = "last"
    means: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.cells or not self.metrics:
            raise ConfigError("a grid needs at least one cell and one metric")
        wrong = [key for key in self.cells if len(key) != len(self.axes)]
        if wrong:
            raise ConfigError(f"cell {wrong[0]} has {len(wrong[0])} names for the axes {', '.join(self.axes)}")
        labels = [metric.label for metric in self.metrics]
        if len(set(labels)) < len(labels):
            raise ConfigError(f"two metrics have one label: {', '.join(labels)}")
        if self.repeats < 1 or self.checkpoint not in ("last", "best"):
            raise ConfigError(f"repeats={self.repeats}, checkpoint={self.checkpoint!r}; expected 1.. and last or best")
        _known("means", self.means, self.axes)
        for published in self.published:
            _known("published", [published.label], labels)
            for key in published.values:
                if not self._has_line(key):
                    raise ConfigError(f"published number of {key}, which is no cell of the grid")

    def _has_line(self, key: Key) -> bool:
        """Whether the table has a line of this name: a cell, or a mean over cells."""
        if len(key) != len(self.axes) or any(
            n == "mean" and a not in self.means for a, n in zip(self.axes, key, strict=True)
        ):
            return False
        return any(all(n in ("mean", c) for n, c in zip(key, cell, strict=True)) for cell in self.cells)


@dataclass(frozen=True)
class GridRun:
    """One training of a cell: its place in the grid, its config and its folder."""

    key: Key
    fold: str | None
    repeat: int
    config: DictConfig
    folder: Path
    checkpoint: str

    @property
    def name(self) -> str:
        """<cell>/[<fold>/]repeat_<number>, as on disk and for --only."""
        return _name(self.key, self.fold, self.repeat)

    @property
    def seed(self) -> int:
        """Of this repeat."""
        return self.config.train.seed

    def result(self) -> dict[str, Any] | None:
        """What the finished run gave, None when it is not finished."""
        return _read(self.folder / RESULT_FILE)

    def failure(self) -> dict[str, Any] | None:
        """How the last attempt failed, None when it did not."""
        return _read(self.folder / FAILURE_FILE)

    def step(self) -> int:
        """The step of its newest checkpoint, 0 without one."""
        return max((checkpoint.step for checkpoint in Checkpointer(self.folder / CHECKPOINTS).all()), default=0)

    def state(self) -> str:
        """In words, for people."""
        result, failure, step = self.result(), self.failure(), self.step()
        if result is not None:
            return f"finished, {result['checkpoint']}"
        if failure is not None:
            return f"failed at step {step} of {self.config.train.steps}: {failure['reason']}"
        return f"to resume at step {step} of {self.config.train.steps}" if step else "to train"


def read_grid(path: str | Path) -> Grid:
    """The grid of a file. Raises ConfigError when it is missing, fails to run (with the line), or is no whole grid."""
    names = run_file(path)
    missing = [name for name in ("axes", "cells", "metrics") if name not in names]
    if missing:
        raise ConfigError(f"grid file {path} does not define {', '.join(missing)}; see lgrnet.engine.grid.Grid")
    document = ast.get_docstring(ast.parse(Path(path).read_text(encoding="utf-8"))) or Path(path).stem
    given = {name: names[name] for name in ("repeats", "folds", "checkpoint") if name in names}
    for name in ("axes", "metrics", "means", "published"):
        if name in names:
            given[name] = tuple(names[name])
    given["cells"] = {_as_key(key): cell for key, cell in names["cells"].items()}
    if "published" in given:
        given["published"] = tuple(_with_keys(published) for published in given["published"])
    try:
        return Grid(title=document.splitlines()[0], **given)
    except ConfigError as error:
        raise ConfigError(f"grid file {path}: {error}") from error


def plan(grid: Grid, out: str | Path, overrides: Sequence[str] = ()) -> list[GridRun]:
    """The runs of a grid, first repeats first, each in a folder of its own below `out`; nothing is written.

    overrides  `key=value` for all cells

    Raises ConfigError for an override that does not fit a cell, an evaluation set, protocol or metric that a cell has
    not, names that share a folder, and for a run that was begun with other settings: it says which.
    """
    runs = []
    for repeat in range(1, grid.repeats + 1):
        for key, cell in grid.cells.items():
            source = f"cell {'/'.join(key)}"
            plain = cell.config(overrides, source)
            if repeat == 1:
                _check_metrics(grid, plain, source)
            for fold, changes in _folds(grid, plain).items():
                seed = f"train.seed={plain.train.seed + repeat - 1}"
                config = cell.config((*overrides, *changes, seed), source)
                folder = Path(out, RUNS, _name(key, fold, repeat))
                runs.append(GridRun(key, fold, repeat, config, folder, grid.checkpoint))
    folders = [run.folder for run in runs]
    twice = sorted({str(folder) for folder in folders if folders.count(folder) > 1})
    if twice:
        raise ConfigError(f"two cells share the folder {twice[0]}; give them names that differ in letters or digits")
    for run in runs:
        check_unchanged(run, out)
    return runs


def check_unchanged(run: GridRun, out: str | Path) -> None:
    """Raises ConfigError when the run has something to lose and was begun with settings that give other numbers."""
    result = run.result()
    if result is None and not run.step():
        return
    if result is not None and result["config"] == fingerprint(run.config):
        return
    file = run.folder / CONFIG_FILE
    changes = {key: pair for key, pair in differences(file, run.config).items() if not is_harmless(key)}
    if not changes:
        return
    begun = " ".join((_read(Path(out, GRID_FILE)) or {}).get("overrides", []))
    new = f" A key that was absent may be new in this version of lgrnet: add it to {file} to accept it."
    raise ConfigError(
        f"run {run.name} was begun with other settings: {in_words(changes)}. Go on with the old ones (the last call "
        f"had {begun or 'no overrides'}), give another --out, or remove {run.folder} to train it anew."
        + (new if ABSENT in [then for then, _ in changes.values()] else "")
    )


def fingerprint(config: DictConfig) -> str:
    """SHA-256 of all settings that may change a number; where the data lie is none of them."""
    settings = flat_settings(with_root(config, "ROOT") if "root" in config.data else config)
    decisive = {key: value for key, value in settings.items() if not is_harmless(key)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def is_harmless(key: str) -> bool:
    """Whether a setting changes no number."""
    return key == "data.root" or key in HARMLESS or key.endswith(BACKEND)


def selected(runs: Sequence[GridRun], patterns: Sequence[str]) -> list[GridRun]:
    """The runs whose names fit one of the shell patterns (all without a pattern). Raises ConfigError for none."""
    chosen = [run for run in runs if not patterns or any(fnmatch.fnmatch(run.name, p) for p in patterns)]
    if not chosen:
        names = ", ".join(run.name for run in runs[:5])
        raise ConfigError(f"no run fits {' '.join(patterns)}; their names are like {names}; use * for any text")
    return chosen


def _folds(grid: Grid, config: DictConfig) -> Mapping[str | None, Sequence[str]]:
    folds = grid.folds(config) if callable(grid.folds) else grid.folds
    return folds or {None: ()}


def _check_metrics(grid: Grid, config: DictConfig, source: str) -> None:
    """Raises ConfigError for a set, protocol or metric that the cell's evaluation will not give."""
    protocols = {protocol.id: protocol.metrics for protocol in evaluation_protocols(config)}
    for metric in grid.metrics:
        if isinstance(metric, Metric):
            _known(f"{source}: data.eval", [metric.set], list(config.data.get("eval") or {}))
            _known(f"{source}: data.protocols", [metric.protocol], list(protocols))
            _known(f"{source}: protocol {metric.protocol}", [metric.metric], protocols[metric.protocol])


def _known(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.0))
            raise ConfigError(f"{what}: there is no {name!r}; did you mean {near}?")


def _name(key: Key, fold: str | None, repeat: int) -> str:
    parts = ["-".join(_slug(part) for part in key), *([] if fold is None else [_slug(fold)]), f"repeat_{repeat}"]
    return "/".join(parts)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.") or "_"


def _as_key(key: Key | str) -> Key:
    return (key,) if isinstance(key, str) else tuple(key)


def _with_keys(published: Published) -> Published:
    values = {_as_key(key): value for key, value in published.values.items()}
    return Published(published.label, values, published.source, published.protocol)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file, None when it is not there or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
