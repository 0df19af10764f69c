"""All sections, in their order."""

from __future__ import annotations

from gpu_checks import clips, golden, gradients, ops, sequences, speed, training
from gpu_checks.check import Section

SECTIONS: dict[str, Section] = {
    section.name: section
    for section in (
        Section("scan", "Scan: every kernel against float64", 150, ops.section(ops.scan_cases)),
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
        Section("golden", "Golden tensors of the published LGRNet", 150, golden.run),
        Section("gradients", "Gradients", 120, gradients.run),
        Section("sequences", "Long sequences", 120, sequences.run),
        Section("graph", "Inference from a CUDA graph", 60, clips.graph, timed=True),
        Section("training", "Training steps", 75, training.run, timed=True),
        Section("memory", "Memory and speed against the length of a clip", 45, clips.memory, timed=True),
        Section("speed", "Benchmark", 240, speed.run, timed=True),
    )
}  # fmt: skip
"""Those without times run side by side."""
