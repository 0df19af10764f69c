"""The suite that makes the tables of ops/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    attention,
    backbone,
    deform,
    depthwise,
    heads,
    loss,
    metrics,
    model,
    neighborhood,
    normalization,
    projection,
    report,
    scan,
)
from benchmarks.contest import Case, Op, multiplies_bf16
from benchmarks.runner import Row

OPS: dict[str, Op] = {
    op.name: op
    for op in (
        scan.OP,
        neighborhood.OP,
        deform.OP,
        depthwise.OP,
        attention.OP,
        projection.OP,
        normalization.OP,
        heads.OP,
        loss.OP,
        backbone.OP,
        model.OP,
        model.TRAIN,
        metrics.OP,
    )
}
TITLES = {
    "scan": "Scan block: projection, softplus, scans in K orders, sum",
    "neighborhood": "Neighborhood attention, three levels of 352 x 352, window 5",
    "deform": "Multi-scale deformable attention, three levels of 352 x 352",
    "depthwise": "Depthwise 3x3 convolution, bias and GELU of the tokens in PVTv2-B2, of one frame unless T is given",
    "attention": "Multi-head attention: the stages of PVTv2-B2 and LGRNet's frame queries, 2 frames of 352 x 352",
    "projection": "Linear layers: the stages of PVTv2-B2 and LGRNet's encoder, 8 different ones of 2 frames in turn",
    "normalization": "Layer norm: the stages of PVTv2-B2 and LGRNet's encoder, 2 frames of 352 x 352",
    "heads": "Mask heads: four calls, 10 queries",
    "loss": "Set criterion: four layers, 10 queries, 12,544 points",
    "backbone": "PVTv2-B2, 6 frames of 352 x 352 (peers: the plain net of timm)",
    "model": "LGRNet with PVTv2-B2, inference at 352 x 352",
    "train": "LGRNet with PVTv2-B2, a training step at 352 x 352",
    "metrics": "All numbers of the VPS protocol of one frame",
}


BOTH = ("fp32", "bf16")
HERE = BOTH if multiplies_bf16() else ("fp32",)
"""What a processor is measured with; what it has no instructions for says nothing about kernels."""


@dataclass(frozen=True)
class Part:
    """What the suite measures of an op.

    cases  their exact names; None: all that are not for request only
    """

    op: str
    cases: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] = ("fp32",)

    def of(self, quick: bool) -> list[Case]:
        """The cases; in a quick run the op's quick ones."""
        found = OPS[self.op].cases(quick)
        if quick or self.cases is None:
            return [case for case in found if case.full]
        return [case for case in found if case.name in self.cases]


SUITES = {
    "cpu": (
        Part("scan", ("B=1 K=4 L=120", "B=1 K=4 L=1200", "B=1 K=4 L=6000", "B=1 K=2 L=120")),
        Part("neighborhood", ("T=6",)),
        Part("deform", ("T=6",)),
        Part("depthwise", dtypes=HERE),
        Part("attention", dtypes=HERE),
        Part("projection", dtypes=HERE),
        Part("normalization", dtypes=HERE),
        Part("heads"),
        Part("loss"),
        Part("backbone"),
        Part("model", ("T=6",)),
        Part("train"),
    ),
    "cuda": (
        Part("model", ("T=6", "T=60", "T=300")),
        Part("scan", dtypes=BOTH),
        Part("neighborhood", ("T=6", "T=24", "T=60"), BOTH),
        Part("deform", ("T=6", "T=24", "T=60"), BOTH),
        Part("depthwise", tuple(f"{stage} T=6" for stage in depthwise.STAGES), BOTH),
        Part("heads"),
        Part("loss"),
        Part("train"),
        Part("backbone"),
    ),
}
"""By device; what matters most comes first, since time may end."""


def marks(suite: str) -> tuple[str, str]:
    """The lines of a page between which the suite's tables stand."""
    return f"<!-- {suite} tables: made by tools/benchmark.py -->", f"<!-- end of {suite} tables -->"


def page(rows: Sequence[Row], facts: dict[str, object], command: str, settings: str) -> str:
    """The tables as Markdown."""
    parts = [f"Measured by `{command}`: {settings}.", report.environment_line(facts) + "."]
    for op in dict.fromkeys(row.op for row in rows):
        chosen = [row for row in rows if row.op == op]
        parts += [f"### {TITLES[op]}", report.markdown(chosen)]
        growth = report.frame_growth(chosen)
        parts += ["\n".join(f"- {line}" for line in growth)] * bool(growth)
    return "\n\n".join(parts)


def rewrite(path: Path, suite: str, tables: str) -> None:
    """Puts tables between the suite's marks in a page.

    Raises ValueError when the page has not exactly one pair of marks.
    """
    start, end = marks(suite)
    content = path.read_text(encoding="utf-8")
    if content.count(start) != 1 or content.count(end) != 1 or content.index(start) > content.index(end):
        raise ValueError(f"{path} needs one line {start!r} and after it one line {end!r}; add them where tables belong")
    before, after = content.split(start)[0], content.split(end)[1]
    path.write_text(f"{before}{start}\n\n{tables}\n\n{end}{after}", encoding="utf-8")
