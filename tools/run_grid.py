"""Trains and evaluates a grid of configs, and writes one table of it.

    python tools/run_grid.py configs/grids/phantom.py --out runs/grids/phantom data.root=data/phantom
    python tools/run_grid.py GRID --out DIR --dry_run        # the runs, and how far each is
    python tools/run_grid.py GRID --out DIR --only '*B0*'    # some of them
    python tools/run_grid.py GRID --out DIR --table          # the table of what is there
    python tools/run_grid.py GRID --out DIR train.steps=60   # any change, for all cells

The same command goes on where it was stopped or killed: a finished run is never done twice, a begun one resumes from
its checkpoint. Several calls at once, one for each GPU, share the runs between them. Every run is an ordinary run
folder DIR/runs/<run>; the table is DIR/table.md, .csv and .png. Ends with 1 when a run failed, with 2 for a mistake.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="a file of configs/grids")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="runs by name, * for any text; may be repeated"
    )
    parser.add_argument("--processes", type=int, default=1, help="processes of each run, started by torchrun")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry_run", action="store_true", help="list the runs, do nothing")
    what.add_argument("--table", action="store_true", help="write the table, train nothing")
    what.add_argument("--one", metavar="NAME", help="do this one run in this process")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of all configs")
    options = parser.parse_intermixed_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes is {options.processes}; it must be at least 1")
    return options


def command(options: argparse.Namespace, name: str) -> list[str]:
    """The command of one run."""
    many = ["-m", "torch.distributed.run", "--nproc_per_node", str(options.processes)] * (options.processes > 1)
    place = [str(Path(__file__).resolve()), str(options.grid), "--out", str(options.out), "--one", name]
    return [sys.executable, *many, *place, *options.overrides]


def work(options: argparse.Namespace) -> int:
    """What the command line asks for; the exit status."""
    from lgrnet.engine.grid import plan, read_grid, selected
    from lgrnet.engine.grid_run import run_all
    from lgrnet.engine.grid_table import write_table

    grid = read_grid(options.grid)
    runs = plan(grid, options.out, options.overrides)
    if options.one is not None:
        return work_on_one(next((run for run in runs if run.name == options.one), None), options.one)
    chosen = selected(runs, options.only)
    if options.dry_run:
        for run in chosen:
            print(f"{run.name}, seed {run.seed}: {run.state()}")
        return 0

    def table() -> None:
        write_table(grid, runs, options.out, options.overrides)

    good = True
    if not options.table:
        good = run_all(chosen, options.out, lambda run: command(options, run.name), options.overrides, table)
    for path in write_table(grid, runs, options.out, options.overrides):
        print(path)
    return 0 if good else 1


def work_on_one(run, name: str) -> int:
    """Does one run in this process (or in one of several, under torchrun); the exit status."""
    from lgrnet.config import ConfigError
    from lgrnet.engine.command import status_in_group
    from lgrnet.engine.grid_run import run_one

    if run is None:
        raise ConfigError(f"the grid has no run {name!r}; --dry_run lists them")
    if run.result() is not None:
        print(f"{name}: {run.state()}")
        return 0
    return status_in_group(partial(run_one, run), run.config.train.device, run.folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; mistakes that a user can mend end in one line instead of a traceback."""
    options = parse(arguments)
    from lgrnet.engine.command import status_of

    try:
        return status_of(partial(work, options), options.out)
    except KeyboardInterrupt:
        print("error: stopped by a second Ctrl-C; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
