"""All sections, in their order."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

from gpu_checks import ops
from gpu_checks.check import Check, Section, Setup


def _of(module: str, function: str = "run") -> Callable[[Setup], Iterator[Check]]:
    """A section that imports models when it begins: without timm or torchvision it alone fails, not the kernels."""
    return lambda setup: getattr(importlib.import_module(f"gpu_checks.{module}"), function)(setup)


SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        Section("scan", "Scan: every kernel against float64", 150, ops.section(ops.scan_cases)),
        Section("odd_scan", "Scan of odd sizes: every kernel against float64", 150, ops.section(ops.odd_scan_cases)),
        Section(
            "neighborhood", "Neighborhood attention: every kernel against float64", 120,
            ops.section(ops.neighborhood_cases),
        ),
        Section(
            "deform", "Deformable attention: every kernel against float64", 120,
            ops.section(ops.deform_cases, ops.DEFORM_VALUE),
        ),
        Section(
            "depthwise", "Depthwise convolution and GELU: every kernel against float64", 120,
            ops.section(ops.depthwise_cases),
        ),
        Section("golden", "Golden tensors of the published LGRNet", 150, _of("golden")),
        Section("gradients", "Gradients", 150, _of("gradients")),
        Section("sequences", "Long sequences", 120, _of("sequences")),
        Section("graph", "Inference from a CUDA graph", 60, _of("clips", "graph"), timed=True),
        Section("training", "Training steps", 75, _of("training"), timed=True),
        Section("memory", "Memory and speed against the length of a clip", 70, _of("clips", "memory"), timed=True),
        Section("speed", "Benchmark", 240, _of("speed"), timed=True),
    )
}  # fmt: skip
"""Those without times run side by side."""
