"""Compiles every Triton kernel ahead of time, without a GPU, and prints what it takes.

A register spill is an error, and so is a kernel that does not fit into a multiprocessor.

    python tools/compile_kernels.py                        all ops, for sm_80, sm_89 and sm_90
    python tools/compile_kernels.py scan --arch 90 --only backward
    python tools/compile_kernels.py --spills 24            what Triton before 3.8 spills at most is no error

Columns: registers of a thread, bytes of shared memory of a program, bytes spilled (stack and local memory), warps of a
program, and the warps that one multiprocessor holds by registers and shared memory.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ARCHITECTURES = (80, 89, 90)
REGISTERS = 65536
"""32-bit registers of a multiprocessor."""
LIMITS = {80: (64, 163), 89: (48, 99), 90: (64, 227)}
"""Warps, and kB of shared memory that kernels can have, of a multiprocessor."""


def operators() -> list[str]:
    """The ops with Triton kernels to compile."""
    return sorted(path.parent.name for path in (ROOT / "ops").glob("*/triton_kernels.py") if path.parent.name != "gpu")


def builds_of(name: str) -> list:
    """What an op wants compiled: the `Build`s of its triton_kernels.py."""
    return importlib.import_module(f"lgrnet.ops.{name}.triton_kernels").builds()


def warps_held(architecture: int, registers: int, shared: int, warps: int) -> int:
    """Warps of one kernel that a multiprocessor holds: registers come in units of 8 a thread, 1 kB of shared memory a
    program is the system's."""
    most, kilobytes = LIMITS.get(architecture, LIMITS[90])
    by_registers = REGISTERS // (-(-max(registers, 1) // 8) * 8 * 32) // warps
    by_memory = kilobytes * 1024 // (shared + 1024)
    return min(most // warps, by_registers, by_memory) * warps


def row(name: str, build, architecture: int, most: int) -> tuple[str, bool]:
    """One line of the table, and whether the kernel spills more bytes than `most` or cannot be launched."""
    takes = importlib.import_module("lgrnet.ops.gpu.triton_kernels").resources(build, architecture)
    held = warps_held(architecture, takes.registers, takes.shared, build.num_warps)
    text = (
        f"{name:<13} {build.name:<44} sm_{architecture}  {takes.registers:>4} {takes.shared:>7} {takes.spilled:>6} "
        f"{build.num_warps:>5} {held:>8}"
    )
    text += (" SPILLS" if takes.spilled else "") + ("" if held else " DOES NOT FIT")
    return text, takes.spilled > most or not held


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 1 when a kernel spills too much or does not fit, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ops", nargs="*", help=f"of {', '.join(operators())}; all when none is named")
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities (80 89 90)")
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    parser.add_argument("--spills", type=int, default=0, help="bytes that a kernel may spill (0)")
    arguments = parser.parse_args(argv)
    if unknown := sorted(set(arguments.ops) - set(operators())):
        parser.error(f"no Triton kernels in {', '.join(unknown)}; expected some of {', '.join(operators())}")
    print(f"{'op':<13} {'kernel':<44} arch    regs  shared spills warps warps/SM")
    faulty = False
    for name in arguments.ops or operators():
        for build in builds_of(name):
            for architecture in arguments.arch if arguments.only in build.name else ():
                line, fault = row(name, build, architecture, arguments.spills)
                print(line, flush=True)
                faulty |= fault
    return int(faulty)


if __name__ == "__main__":
    sys.exit(main())
