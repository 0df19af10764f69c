"""The parts of the HTML report that need no script: tables of numbers, slices, and where the numbers come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from lgrnet.evaluation.average_precision import precisions
from lgrnet.evaluation.protocols import overall
from lgrnet.evaluation.report import frames_of, plain_json
from lgrnet.evaluation.set_means import SetMeans


def title(results: Sequence[Mapping]) -> str:
    """What was evaluated, in a line; plain text."""
    return "Evaluation of " + ", ".join(result["set"] for result in results)


def summary(results: Sequence[Mapping]) -> str:
    """How much was scored and by what."""
    videos, frames, skipped = (
        sum(r[key] for r in results) for key in ("videos", "frames", "frames_without_annotation")
    )
    parts = [_count(videos, "video"), f"{_count(frames, 'frame')} scored"]
    if skipped:
        parts.append(f"{_count(skipped, 'frame')} without annotation left out")
    for weights in sorted({str(r["weights_hash"]) for r in results if r["weights_hash"]}):
        parts.append(f"weights <code>{escape(weights[:12])}</code>")
    return f'<p class="quiet">{" · ".join(parts)}</p>'


def numbers(results: Sequence[Mapping], means: SetMeans | None = None) -> str:
    """One table per protocol, one line per set, and per class where there are several, and one per mean over sets."""
    blocks = []
    for protocol, meaning in _meanings(results).items():
        lines, metrics, intervals = [], {}, False
        for result in results:
            for class_id, cells in _by_class(result["numbers"], protocol, None).items():
                metrics.update(dict.fromkeys(cells))
                intervals |= any(_interval(cell) for cell in cells.values())
                lines.append((result, class_id, cells))
        several = len({class_id for _, class_id, _ in lines}) > 1
        head = ["set", *["class"] * several, "videos", "frames", *metrics]
        rows = [
            _row(
                [_name(result["set"]), *[escape(str(class_id))] * several],
                [str(result["videos"]), str(frames_of(result, protocol)), *(_number(cells.get(m)) for m in metrics)],
            )
            for result, class_id, cells in lines
        ]
        rows += [
            _row(
                [_name(label), *["mean"] * several],
                ["", "", *(_number({"value": of[protocol].get(metric)}) for metric in metrics)],
            )
            for label, of in (means or {}).items()
            if protocol in of
        ]
        note = '<p class="quiet">Below each number: its 95 % interval over videos.</p>' if intervals else ""
        blocks.append(_protocol(protocol, meaning) + _table(head, "".join(rows), 1 + several) + note)
    return "".join(blocks) + _instances(results)


def _instances(results: Sequence[Mapping]) -> str:
    """Average precision of each set that has it, by what is one image."""
    found = [(result["set"], result["instances"]) for result in results if result.get("instances")]
    if not found:
        return ""
    rows = [
        _row(
            [_name(name)],
            [str(one["videos"]), str(one["frames"]), *(_number({"value": v}) for v in precisions(one).values())],
        )
        for name, one in found
    ]
    meaning = f"Average precision by pycocotools, IoU 0.50 to 0.95; one image is a {found[0][1]['form']}."
    table = _table(["set", "videos", "frames", *precisions(found[0][1])], "".join(rows), 1)
    return f"<h3>Instances</h3><p>{escape(meaning)}</p>{table}"


def slices(results: Sequence[Mapping]) -> str:
    """The same per part of each set, with a bar for the first metric; empty where no protocol has parts."""
    blocks = []
    for protocol in _meanings(results):
        for result in results:
            parts = dict.fromkeys(n["slice"] for n in result["numbers"] if n["protocol"] == protocol and n["slice"])
            tables = {part: overall(_by_class(result["numbers"], protocol, part)) for part in parts}
            if not tables:
                continue
            metrics = list(dict.fromkeys(metric for cells in tables.values() for metric in cells))
            groups: dict[str, list[str]] = {}
            for part, cells in tables.items():
                frames = str(max(cell["frames"] for cell in cells.values()))
                values = [frames, _bar(cells.get(metrics[0])), *(_number(cells.get(metric)) for metric in metrics)]
                groups.setdefault(part.split(":")[0] if ":" in part else "", []).append(_row([_name(part)], values))
            rows = "</tbody><tbody>".join("".join(lines) for lines in groups.values())
            head = ["slice", "frames", "", *metrics]
            caption = f"{_name(result['set'])}, protocol <code>{escape(protocol)}</code>"
            blocks.append(f"<h3>{caption}</h3>" + _table(head, rows, 1))
    return "<section><h2>Slices</h2>" + "".join(blocks) + "</section>" if blocks else ""


def origin(results: Sequence[Mapping], facts: Mapping[str, object]) -> str:
    """Hashes and versions of each set, then whatever else is known: short facts in a table, long ones folded."""
    keys = dict.fromkeys(key for result in results for key, value in result.items() if _short(value))
    lines = [
        _row([_name(key.replace("_", " "))], [_code(result.get(key)) for result in results])
        for key in keys
        if key not in ("set", "videos", "frames", "instances") or (key == "set" and len(results) > 1)
    ]
    tables, folded, short = [_facts(lines)], [], []
    for key, value in facts.items():
        label, text = _name(str(key).replace("_", " ")), _plain(value)
        if "\n" in text or len(text) > 200:
            folded.append(f"<details><summary>{label}</summary><pre>{escape(text)}</pre></details>")
        else:
            short.append(_row([label], [f"<code>{escape(text)}</code>"]))
    tables += [_facts(short)] if short else []
    return f"<section><h2>Where this comes from</h2>{''.join([*tables, *folded])}</section>"


def _meanings(results: Sequence[Mapping]) -> dict[str, str]:
    return {protocol: meaning for result in results for protocol, meaning in result["meaning"].items()}


def _by_class(found: Sequence[Mapping], protocol: str, part: str | None) -> dict[object, dict[str, Mapping]]:
    """Class -> metric -> number, of a whole set or a slice of it."""
    table: dict[object, dict[str, Mapping]] = {}
    for number in found:
        if number["protocol"] == protocol and number["video"] is None and number["slice"] == part:
            table.setdefault(number["class_id"], {})[number["metric"]] = number
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _protocol(protocol: str, meaning: str) -> str:
    return f"<h3>Protocol <code>{escape(protocol)}</code></h3><p>{escape(meaning)}</p>"


def _name(text: str) -> str:
    return f'<span class="name">{escape(text)}</span>'


def _value(cell: Mapping | None, key: str = "value") -> float | None:
    return None if cell is None else plain_json(cell.get(key))


def _interval(cell: Mapping | None) -> str:
    lower, upper = _value(cell, "lower"), _value(cell, "upper")
    return "" if lower is None or upper is None else f"{lower:.4f} – {upper:.4f}"


def _number(cell: Mapping | None) -> str:
    value, interval = _value(cell), _interval(cell)
    return ("–" if value is None else f"{value:.4f}") + (f"<small>{interval}</small>" if interval else "")


def _bar(cell: Mapping | None) -> str:
    """A number of 0..1 as a bar; any other has none."""
    value = _value(cell)
    if value is None or not 0 <= value <= 1:
        return ""
    return f'<svg class="bar" aria-hidden="true"><rect width="{100 * value:.1f}%" height="100%"/></svg>'


def _table(head: Sequence[str], rows: str, texts: int) -> str:
    """A table that scrolls by itself where it is wider than the page; its first `texts` columns are no numbers."""
    names = "".join(
        f'<th scope="col"{"" if i < texts else " class=number"}>{escape(text.replace("_", " "))}</th>'
        for i, text in enumerate(head)
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(texts: Sequence[str], values: Sequence[str]) -> str:
    """One line; `texts` and `values` are HTML."""
    cells = [f'<th scope="row">{text}</th>' for text in texts] + [f"<td>{value}</td>" for value in values]
    return f"<tr>{''.join(cells)}</tr>"


def _facts(rows: Sequence[str]) -> str:
    return f'<div class="wide" tabindex="0"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


def _short(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _code(value: object) -> str:
    return f"<code>{escape(_plain(value))}</code>"


def _plain(value: object) -> str:
    if value is None:
        return "unknown"
    if value in ([], {}, ()):
        return "none"
    return value if isinstance(value, str) else json.dumps(plain_json(value), indent=1, ensure_ascii=False, default=str)
