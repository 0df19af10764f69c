"""An evaluation as large as that of SUN-SEG: time and memory, with masks that are made on the way.

    python tools/benchmarks/evaluation_run.py --frames 30000 --protocol vps,lgrnet

Each clip is a disc that moves, found as a noisy map; nothing is read from disk. Prints the time of the scoring alone,
and the highest resident memory after every tenth, and at the end with the tables made and the report written.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lgrnet.evaluation import Evaluator, choose_protocols, write_report  # noqa: E402

CLIP = 171
"""Frames of a clip: 29,592 frames of 173 clips in the four test sets of SUN-SEG."""


def clip(number: int, frames: int, side: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Map and mask of every frame, uint8 [side, side] each."""
    generator = np.random.default_rng(number)
    noise = generator.integers(0, 40, (2 * side, 2 * side), np.uint8)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    radius, x, y = generator.uniform((0.15, -0.4, -0.4), (0.5, 0.4, 0.4))
    for index in range(frames):
        at_x = x + 0.2 * np.sin(index / 20)
        distance = np.sqrt((axis - at_x) ** 2 + (axis[:, None] - y) ** 2)
        found = np.clip((radius * 1.1 - distance) * 600 + 120, 0, 215).astype(np.uint8)
        row, column = generator.integers(0, side, 2)
        yield found + noise[row : row + side, column : column + side], (distance < radius) * np.uint8(255)


def peak_mb() -> float:
    """The highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30000)
    parser.add_argument("--side", type=int, default=352)
    parser.add_argument("--protocol", default="vps,lgrnet")
    options = parser.parse_args(arguments)
    try:
        evaluator = Evaluator(choose_protocols(options.protocol), "synthetic")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    scoring, done, told = 0.0, 0, 0
    print(f"before: {peak_mb():.0f} MB", flush=True)
    for number, start in enumerate(range(0, options.frames, CLIP)):
        scorer = evaluator.begin(f"case{number}")
        for index, (found, truth) in enumerate(clip(number, min(CLIP, options.frames - start), options.side)):
            begun = time.process_time()
            scorer.add(f"{index:04d}", found, raw=truth)
            scoring += time.process_time() - begun
            done += 1
        evaluator.end(scorer)
        if done * 10 // options.frames > told:
            told = done * 10 // options.frames
            print(f"{done} frames: {scoring:.0f} s of scoring, peak {peak_mb():.0f} MB", flush=True)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        write_report(evaluator, folder)
    print(
        f"report: {time.process_time() - begun:.0f} s, peak {peak_mb():.0f} MB; {1000 * scoring / done:.1f} ms a frame"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
