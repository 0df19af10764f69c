"""Sections in this process, or each in one of its own, so that an illegal access on the GPU ends one section only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from gpu_checks.check import Check, Result, Section, Setup, failures, in_words

START_S = 25.0
"""What a process may take to import torch and to find the GPU, on top of its section."""
TOGETHER = min(8, max(2, os.cpu_count() or 1))
"""Sections without times that run side by side: most of their time is spent compiling kernels, a core for each."""


def in_here(section: Section, setup: Setup, note: Callable[[dict], None] = lambda line: None) -> Result:
    """Runs a section; every finding is noted as plain values as soon as it is there."""
    result, begun = Result(section.name, section.title), time.monotonic()
    try:
        for found in section.run(setup):
            if isinstance(found, Check):
                line = {"check": asdict(found)}
            else:
                line = {"rows": [row.as_json() for row in found]}
            _take(line, result)
            note(line)
    except failures() as error:
        result.error = in_words(error)
    result.seconds = time.monotonic() - begun
    return result


def apart(section: Section, setup: Setup, command: Sequence[str], notes: Path) -> Result:
    """Runs a section in a process of its own, which writes its findings to `notes`, and stops it when its time is up.

    command  starts this program; the section, its notes and its seconds are added
    """
    result, begun = Result(section.name, section.title), time.monotonic()
    seconds = min(section.budget_s, setup.left_s - START_S)
    if seconds <= 0:
        result.error = "not begun: no time was left"
        return result
    notes.unlink(missing_ok=True)
    arguments = ["--section", section.name, "--notes", str(notes), "--seconds", f"{seconds:.0f}"]
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, timeout=seconds + START_S, check=False)
        said = _text(done.stderr)
        if done.returncode != 0:
            lines = said.strip().splitlines()
            result.error = f"ended with {done.returncode}: {lines[-1][:300] if lines else 'it said nothing'}"
    except subprocess.TimeoutExpired as late:
        said, result.error = _text(late.stderr), f"stopped after {seconds + START_S:.0f} s"
    if result.error and said:
        result.extra["stderr"] = said[-4000:]
    for line in _lines(notes):
        _take(line, result)
    result.seconds = time.monotonic() - begun
    return result


def _text(said: bytes | None) -> str:
    return (said or b"").decode("utf-8", errors="replace")


def _take(line: dict, result: Result) -> None:
    """Adds what was noted."""
    if "check" in line:
        result.checks.append(Check(**line["check"]))
    else:
        result.extra.setdefault("rows", []).extend(line["rows"])


def _lines(notes: Path) -> Iterator[dict]:
    """What a process noted; the last line may have been cut."""
    if not notes.is_file():
        return
    for text in notes.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            return


def all_apart(
    sections: Sequence[Section], setup: Setup, script: Path, folder: Path, say: Callable[[Result], None]
) -> list[Result]:
    """First those without times, side by side, then the others one after the other.

    folder  for the notes of the processes
    """
    command = [sys.executable, str(script), "--device", setup.device, *["--quick"] * setup.quick]

    def one(section: Section) -> Result:
        result = apart(section, setup, command, folder / f"{section.name}.jsonl")
        say(result)
        return result

    with ThreadPoolExecutor(TOGETHER) as pool:
        results = {s.name: future for s in sections if not s.timed for future in [pool.submit(one, s)]}
        done = {name: future.result() for name, future in results.items()}
    done |= {s.name: one(s) for s in sections if s.timed}
    return [done[s.name] for s in sections]
