"""Triton itself, as far as every op needs it: whether it interprets, how kernels are launched, and compiling ahead.

An op's triton_kernels.py says what is to be compiled with a function `builds() -> list[Build]`, one entry for each
kernel and each set of constants that stands for a real shape; tools/compile_kernels.py compiles them all.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.errors import TritonError  # noqa: F401  the face of triton for others

LAUNCH = {"enable_fp_fusion": True}
"""Options of every launch. Triton 3.10 no longer fuses multiply and add by itself."""
ALIGNED = (("tt.divisibility", 16),)


@dataclass(frozen=True)
class Build:
    """One kernel with the types and constants that it is compiled for.

    signature  every argument that is no constant: "*fp32", "*bf16", "*i32", "i32", "fp32"; or "*bf16:16" and "i32:16"
               for an address or number known to be a multiple of 16, as it mostly is at a launch; ("i32", "i32") for
               a tuple
    constants  the arguments that are tl.constexpr, or None
    """

    name: str
    kernel: object
    signature: Mapping[str, str | tuple[str, ...]]
    constants: Mapping[str, object] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers of a thread, bytes of shared memory of a program, spilled bytes."""

    registers: int
    shared: int
    spilled: int


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors."""
    return bool(triton.knobs.runtime.interpret)


def load_driver() -> None:
    """Makes what launches kernels; Triton before 3.8 compiles it with a C compiler, and raises what that raises."""
    triton.runtime.driver.active  # noqa: B018  made when it is asked for


def compiled(build: Build, capability: int) -> triton.compiler.CompiledKernel:
    """The kernel for compute capability 80, 89, 90, ...; needs no GPU, and takes Triton's own ptxas.

    Raises TypeError for a kernel that was loaded while Triton interprets, and ValueError for arguments without a type.
    """
    if not isinstance(build.kernel, triton.JITFunction):
        raise TypeError(f"{build.name} was loaded in Triton's interpreter; compile where TRITON_INTERPRET is not set")
    names = build.kernel.arg_names
    if unknown := (set(build.signature) | set(build.constants)) ^ set(names):
        raise ValueError(f"{build.name}: signature and constants must name the kernel's arguments; check {unknown}")
    types = {name: build.signature.get(name, "constexpr") for name in names}
    aligned = {(i,): [list(a) for a in ALIGNED] for i, name in enumerate(names) if types[name][-3:] == ":16"}
    types = {name: kind[:-3] if kind[-3:] == ":16" else kind for name, kind in types.items()}
    source = ASTSource(build.kernel, types, dict(build.constants), aligned)
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages, **LAUNCH}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(build: Build, capability: int) -> Resources:
    """What the kernel takes on this compute capability, read from the machine code.

    Raises RuntimeError where cuobjdump's answer cannot be read.
    """
    kernel = compiled(build, capability)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    if not {"REG", "STACK", "LOCAL"} <= set(found):
        raise RuntimeError(f"cuobjdump -res-usage says nothing about registers of {build.name}: {text!r}")
    return Resources(found["REG"], kernel.metadata.shared, found["STACK"] + found["LOCAL"])
