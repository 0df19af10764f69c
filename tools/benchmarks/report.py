"""Rows as text, as Markdown and as a picture, and the machine that they were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import lgrnet
from benchmarks.contest import OURS
from benchmarks.runner import Row
from lgrnet.ops import cpu, gpu

ROOT = Path(__file__).resolve().parents[2]
LONG = 60
"""Frames from which on a clip's memory tells what a frame costs."""


def environment(device: str) -> dict[str, object]:
    """Processor, versions, the commit and the load: everything that a time depends on and that can be told."""
    facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "kernels": cpu.level() if cpu.missing() is None else "none: plain torch",
        "lgrnet": lgrnet.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": _version("timm"),
        "numpy": np.__version__,
    }
    if device == "cpu":
        facts |= {"sgemm": f"{_product_rate():.0f} GFLOP/s a thread"}
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "triton": _version("triton")}
        facts |= {"kernels on the GPU": f"none: {reason}" if (reason := gpu.missing()) else "triton"}
    return facts


def _product_rate(size: int = 1024, rounds: int = 20) -> float:
    """Billions of operations a second of processor time in a matrix product of torch: a bound for most of a model."""
    a, b = torch.rand(2, size, size)
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        torch.mm(a, b)
        seconds.append(time.process_time() - start)
    return 2e-9 * size**3 / max(min(seconds), 1e-9)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The kind of processor; families of AMD's servers share one name, so the numbers are added."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    facts: dict[str, str] = {}
    for key, value in lines:
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    if "cpu family" not in facts:
        return name
    return f"{name} (family {facts['cpu family']}, model {facts['model']})"


def _commit() -> str:
    """The commit of the clone, with a plus where files differ from it; "unknown" outside of one."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"

    def run(*arguments: str) -> str:
        done = subprocess.run([git, "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = run("status", "--porcelain", "--untracked-files=no", "--", "lgrnet", "ops", "tools")
    return (run("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


def environment_line(facts: dict[str, object]) -> str:
    """The environment in one line."""
    return ", ".join(f"{key} {value}" for key, value in facts.items())


KERNELS = "kernels ms"
HEAD = ("case", "pass", "type", "peer", "ms", KERNELS, "times ours", "95 %", "memory MB", "error")


def cells(row: Row) -> tuple[str, ...]:
    """The row as the texts of a table, in the order of HEAD."""
    ratio, interval = "", ""
    if row.status != "ok":
        ratio = row.status.upper() if row.status == "wrong" else row.status
    elif row.noisy:
        ratio = "noisy"
    elif row.peer != OURS and row.ratio is not None:
        ratio, interval = three_digits(row.ratio), " to ".join(map(three_digits, row.interval))
    memory = "" if row.peak_bytes is None else three_digits(row.peak_bytes / 1e6)
    error = "" if row.error is None else f"{row.error:.1e}"
    time = "" if row.median_ms is None else three_digits(row.median_ms)
    kernels = "" if row.kernels_ms is None else three_digits(row.kernels_ms)
    return row.case, row.mode, row.dtype, row.peer, time, kernels, ratio, interval, memory, error


def _table(rows: Sequence[Row], shown: Sequence[Row]) -> list[tuple[str, ...]]:
    """HEAD and the cells of the rows to show; times of kernels only where one of all rows has them."""
    lines = [HEAD, *map(cells, shown)]
    if any(row.kernels_ms is not None for row in rows):
        return lines
    left_out = HEAD.index(KERNELS)
    return [line[:left_out] + line[left_out + 1 :] for line in lines]


def three_digits(value: float) -> str:
    """A number with three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def text(rows: Sequence[Row]) -> str:
    """The rows as an aligned table, and under it why some are absent."""
    table = _table(rows, rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, *absences(rows)])


def absences(rows: Sequence[Row]) -> list[str]:
    """One line for each peer and reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.status == "absent":
            places = reasons.setdefault((row.peer, row.note), [])
            place = f"{row.case} {row.mode}"
            places += [place] * (place not in places)
    return [f"absent: {peer} ({', '.join(places)}): {note}" for (peer, note), places in reasons.items()]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table without the absent ones, which a list below it names."""
    head, *body = _table(rows, [row for row in rows if row.status != "absent"])
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(line)} |" for line in body)]
    gone: dict[str, str] = {row.peer: row.note for row in rows if row.status == "absent"}
    present = {row.peer for row in rows if row.status != "absent"}
    notes = [f"- {peer}: absent{' in some rows' * (peer in present)}: {note}" for peer, note in gone.items()]
    return "\n".join(lines + [""] * bool(notes) + notes)


def frame_growth(rows: Sequence[Row]) -> list[str]:
    """By how much the memory of the whole model grows with a frame, from its shortest long clip to its longest."""
    known: dict[tuple[str, str], dict[float, int]] = {}
    for row in rows:
        if row.op == "model" and row.peak_bytes and (row.position or 0) >= LONG:
            known.setdefault((row.peer, row.case.partition("T=")[0]), {})[row.position] = row.peak_bytes
    lines = []
    for (peer, model), peaks in known.items():
        least, most = min(peaks), max(peaks)
        if least < most:
            growth = (peaks[most] - peaks[least]) / (most - least) / 1e6
            span = f"from T = {least:.0f} to T = {most:.0f}"
            lines.append(f"{model}{peer}: {growth:.2f} MB a frame {span}, besides its pixels")
    return lines


def picture(rows: Sequence[Row]) -> np.ndarray | None:
    """Time and memory of each op against length, in powers of ten: uint8 [H, W, 3]; None without two lengths."""
    # Drawing needs OpenCV, measuring does not.
    from lgrnet.visualize import contact_sheet, curves

    charts = []
    for op, mode in dict.fromkeys((row.op, row.mode) for row in rows):
        chosen = [r for r in rows if (r.op, r.mode) == (op, mode) and r.position is not None and r.median_ms]
        if len({row.position for row in chosen}) < 2:
            continue
        for what, read in (("ms", lambda r: r.median_ms), ("MB", lambda r: (r.peak_bytes or 0) / 1e6)):
            lines: dict[str, list[tuple[float, float]]] = {}
            for row in chosen:
                if read(row) > 0:
                    lines.setdefault(row.peer, []).append((math.log10(row.position), math.log10(read(row))))
            unit = "tokens L" if op == "scan" else "frames T"
            charts.append(curves(lines, f"{op}, {mode}", f"log10 of {unit}", f"log10 of {what}"))
    return contact_sheet(charts, columns=2) if charts else None
