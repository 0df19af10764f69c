"""What was found, as JSON and as Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import report as tables
from benchmarks import suite
from benchmarks.runner import Row
from gpu_checks.check import Check, Result

FILES = ("gpu_check.json", "gpu_check.md")


def as_json(results: Sequence[Result], facts: Mapping[str, object], command: str) -> dict[str, object]:
    """Everything as plain values; numbers that are not finite become text, since JSON has none."""
    sections = [
        {**asdict(result), "passed": result.passed, "checks": [_plain(asdict(check)) for check in result.checks]}
        for result in results
    ]
    return {"command": command, "environment": dict(facts), "passed": passed(results), "sections": sections}


def _plain(values: dict[str, object]) -> dict[str, object]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def passed(results: Sequence[Result]) -> bool:
    """Whether every section did all of it and nothing failed."""
    return all(result.passed for result in results)


def verdict(result: Result) -> str:
    """One line on a section."""
    bad = sum(check.status == "failed" for check in result.checks)
    skipped = sum(check.status == "skipped" for check in result.checks)
    word = "passed" if result.passed else "FAILED"
    parts = [f"{len(result.checks)} checks"] + [f"{bad} failed"] * bool(bad) + [f"{skipped} skipped"] * bool(skipped)
    error = f"; {result.error}" if result.error else ""
    return f"{result.name}: {word} in {result.seconds:.0f} s, {', '.join(parts)}{error}"


def markdown(results: Sequence[Result], facts: Mapping[str, object], command: str) -> str:
    """A page: where it was run, a line for each section, then the checks of each."""
    card = facts.get("gpu", f"no GPU: {facts.get('processor')}")
    parts = [f"# GPU check: {card}", f"`{command}`", tables.environment_line(dict(facts)) + "."]
    parts.append("\n".join(f"- {verdict(result)}" for result in results))
    for result in results:
        parts += [f"## {result.title}", _table(result.checks)]
        rows = [Row(**row) for row in result.extra.get("rows", ())]
        for op in dict.fromkeys(row.op for row in rows):
            parts += [f"### {suite.TITLES[op]}", tables.markdown([row for row in rows if row.op == op])]
    return "\n\n".join(parts) + "\n"


def _table(checks: Sequence[Check]) -> str:
    lines = ["| check | value | at most | | note |", "| --- | --- | --- | --- | --- |"]
    for check in checks:
        value = "" if check.value is None else f"{check.value:.3g} {check.unit}".strip()
        limit = "" if check.limit is None else f"{check.limit:g}"
        status = check.status.upper() if check.status == "failed" else check.status
        note = check.note.replace("|", "\\|")
        lines.append(f"| {check.name} | {value} | {limit} | {status} | {note} |")
    return "\n".join(lines)


def write(folder: Path, results: Sequence[Result], facts: Mapping[str, object], command: str) -> tuple[Path, Path]:
    """FILES in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = (folder / name for name in FILES)
    data.write_text(json.dumps(as_json(results, facts, command), indent=1), encoding="utf-8")
    page.write_text(markdown(results, facts, command), encoding="utf-8")
    return data, page
