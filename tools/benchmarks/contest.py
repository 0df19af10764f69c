"""What is compared: an op's cases, the problem that a case poses, and the peers that solve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from torch import Tensor

OURS = "lgrnet"
"""The name of the peer that all others are compared with."""

Outputs = Tensor | tuple[Tensor, ...]


class Absent(Exception):
    """A peer cannot take part here; the message says why, or how to get it."""


@dataclass(frozen=True)
class Case:
    """A size that an op is measured at.

    name      as the tables show it
    sizes     what the op's `problem` makes it from
    position  length or number of frames, the x of a picture; None: no point of a curve
    full      False: left out unless it is asked for by name (minutes, or gigabytes)
    """

    name: str
    sizes: Mapping[str, int]
    position: float | None = None
    full: bool = True


@dataclass(frozen=True)
class Problem:
    """A case with its numbers.

    inputs   float32 tensors on the device; gradients of all of them are taken where a mode has a backward pass
    truth    called with the inputs in float64; None: too large to be known, peers are not checked
    fixed    what else the peers need: index tables, shapes, modules, by name
    """

    inputs: tuple[Tensor, ...]
    truth: Callable[..., Outputs] | None
    fixed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """One way to solve a problem.

    build            problem -> function of the inputs that gives the outputs. Raises Absent, ImportError or
                     BackendError where the peer is not installed or cannot do this
    how              how to get it
    refuses          (case, mode, device type) -> why it does not take part there, or None
    dtype            its own type instead of the one that was asked for: "fp32" or "bf16"
    tolerance        its own largest error; None: that of its type
    values_only      True: gradients are not checked (the peer draws its own random points)
    first_call       True: its memory is that of the first call (it keeps what it has taken)
    """

    name: str
    build: Callable[[Problem], Callable[..., Outputs]]
    how: str = ""
    refuses: Callable[[Case, str, str], str | None] = lambda case, mode, device: None
    dtype: str | None = None
    tolerance: float | None = None
    values_only: bool = False
    first_call: bool = False


@dataclass(frozen=True)
class Op:
    """Everything that is measured of one op.

    cases    quick (a bool) -> its cases
    problem  case, device -> the problem, the same for the same case
    peers    ours first
    modes    of "fwd" (no gradients), "fwdbwd" (gradients of all inputs) and "step" (the function does all by itself)
    dtypes   of "fp32" and "bf16"; the first is what is measured where nothing is asked for
    """

    name: str
    cases: Callable[[bool], list[Case]]
    problem: Callable[[Case, str], Problem]
    peers: tuple[Peer, ...]
    modes: tuple[str, ...] = ("fwd", "fwdbwd")
    dtypes: tuple[str, ...] = ("fp32", "bf16")


def emulated_bf16(case: Case, mode: str, device: str) -> str | None:
    """A `refuses` for networks in bf16: without instructions for it a processor takes ten times as long as in fp32.

    Small cases run all the same, and those with PVTv2-B0, whose memory is of interest.
    """
    if device != "cpu" or case.sizes.get("small") or multiplies_bf16():
        return None
    return "this processor computes bfloat16 by software only"


@cache
def multiplies_bf16() -> bool:
    """Whether the processor says that it has instructions for bf16; False where Linux does not tell."""
    path = Path("/proc/cpuinfo")
    return path.exists() and "bf16" in path.read_text(encoding="utf-8")


def only_on(device_type: str) -> Callable[[Case, str, str], str | None]:
    """A `refuses` for peers that run on one kind of device."""
    return lambda case, mode, device: None if device == device_type else f"runs on {device_type} only"
