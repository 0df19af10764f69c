"""From an op, a case and a mode to rows: every peer checked, then timed against ours, with its memory."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmarks.clock import Clock, compare, interleave, kernel_ms, peak_bytes, spread
from benchmarks.contest import OURS, Absent, Case, Op, Outputs, Peer, Problem
from lgrnet.ops.backends import BackendError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest error: of values relative to the largest one, of gradients in the L2 norm, of bits the share that differs."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    rounds    in which every peer takes its turn; budget_s  what one peer may take in all its rounds of a case
    clock     "cpu", "wall" or "cuda", see `Clock`
    """

    device: str = "cpu"
    threads: int = 1
    clock: str = "cpu"
    rounds: int = 11
    budget_s: float = 20.0
    seed: int = 0


@dataclass
class Row:
    """One peer in one case.

    kernels_ms  see `kernel_ms`; None: there is no GPU, or the profiler does not tell
    ratio     its time over ours, with the 95 % `interval`; both None when they would say too little (`noisy`), or when
              ours is wrong
    error     against the float64 reference, see TOLERANCE; None: not checked
    status    "ok", "wrong" (not timed) or "absent" (`note` says why, or how to get it)
    """

    op: str
    case: str
    mode: str
    dtype: str
    device: str
    threads: int
    peer: str
    position: float | None = None
    median_ms: float | None = None
    kernels_ms: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    spread: float | None = None
    noisy: bool = False
    rounds: int = 0
    peak_bytes: int | None = None
    error: float | None = None
    status: str = "ok"
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """The row as plain values; an error that is not finite is None, since JSON has no infinity."""
        values = asdict(self)
        if self.error is not None and not math.isfinite(self.error):
            values["error"], values["note"] = None, "its result is not finite, or has another shape"
        return values


def without_tf32() -> None:
    """fp32 means fp32: matrix products and convolutions on GPUs keep all their digits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def measure(
    op: Op,
    case: Case,
    mode: str,
    dtype: str,
    settings: Settings,
    against: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """The rows of all peers of a case, ours first.

    against  names of the peers that ours is compared with; None: all
    say      is told what is being done

    Raises what our own function raises; what a peer raises makes it absent.
    """
    # What was made before stays: leaving it out makes the collections between rounds short.
    gc.freeze()
    try:
        return _measure(op, case, mode, dtype, settings, against, say)
    finally:
        gc.unfreeze()


def _measure(op, case, mode, dtype, settings, against, say) -> list[Row]:
    problem = op.problem(case, settings.device)
    truths: dict[str, list[Tensor] | None] = {}
    works, rows = {}, []
    for peer in op.peers:
        if against is not None and peer.name not in (OURS, *against):
            continue
        kind = peer.dtype or dtype
        row = Row(op.name, case.name, mode, kind, settings.device, settings.threads, peer.name, case.position)
        rows.append(row)
        if kind not in truths:
            say(f"{op.name} {case.name} {mode} {kind}: the float64 reference")
            truths[kind] = _truth(problem, mode, DTYPES[kind])
        say(f"{op.name} {case.name} {mode} {kind}: {peer.name}")
        work = _prepare(peer, problem, case, mode, row, truths[kind], settings)
        if work is not None:
            works[peer.name] = work
    say(f"{op.name} {case.name} {mode} {dtype}: {len(works)} peers, {settings.rounds} rounds")
    samples = interleave(works, Clock(settings.clock), settings.rounds, settings.budget_s, settings.seed)
    for row in rows:
        if row.peer in samples:
            _fill(row, samples[row.peer], samples.get(OURS), settings.seed)
            if settings.device == "cuda":
                row.kernels_ms = kernel_ms(works[row.peer])
    # On a GPU there are more shapes than torch.compile keeps; those of this case are not needed again.
    if settings.device == "cuda" and "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    return rows


def _fill(row: Row, theirs: list[float], ours: list[float] | None, seed: int) -> None:
    """ours  None where our own result is wrong, so that there is nothing to compare with"""
    row.median_ms, row.rounds = float(torch.tensor(theirs).double().median()), len(theirs)
    if row.peer == OURS:
        row.ratio, row.interval, row.spread = 1.0, (1.0, 1.0), spread(theirs)
        return
    if ours is None:
        row.spread = spread(theirs)
        return
    ratio = compare(theirs, ours, seed=seed)
    row.spread, row.noisy = ratio.spread, ratio.noisy
    if not ratio.noisy:
        row.ratio, row.interval = ratio.value, ratio.interval


def _prepare(
    peer: Peer, problem: Problem, case: Case, mode: str, row: Row, truth: list[Tensor] | None, settings: Settings
) -> Callable[[], object] | None:
    """The peer's work, checked and warm; None when it is absent or wrong, which the row then says."""
    device = torch.device(settings.device)
    refusal = peer.refuses(case, mode, device.type)
    if refusal is not None:
        row.status, row.note = "absent", refusal
        return None
    inputs = [t.detach().to(DTYPES[row.dtype]) for t in problem.inputs]
    first: list[list[Tensor]] = []
    begun = time.monotonic()
    try:
        work = work_of(peer.build(problem), inputs, mode)
        row.peak_bytes = peak_bytes(lambda: first.append(work()), device)
    # A peer that is not installed, not compiled or not made for this device fails in each of these ways.
    except (Absent, ImportError, BackendError, RuntimeError, NotImplementedError) as error:
        if peer.name == OURS:
            raise
        row.status, row.note = "absent", _reason(error, peer.how)
        return None
    if truth is not None:
        values = len(first[0]) - (len(inputs) if mode == "fwdbwd" else 0)
        kept = values if peer.values_only else None
        row.error = error_of(first[0][:kept], truth[:kept], values)
        if not row.error <= (peer.tolerance or TOLERANCE[row.dtype]):
            row.status = "wrong"
            return None
    first.clear()
    # What a first call takes at a GPU is also what it makes there for good.
    if not peer.first_call and (device.type == "cuda" or time.monotonic() - begun < settings.budget_s):
        row.peak_bytes = peak_bytes(work, device)
    return work


def _reason(error: Exception, how: str) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if not how or how in text else f"{how} ({text})"


def work_of(function: Callable[..., Outputs], inputs: Sequence[Tensor], mode: str) -> Callable[[], list[Tensor]]:
    """What is timed: it gives the outputs and, for "fwdbwd", the gradients of all inputs after them."""
    if mode == "step":
        return lambda: listed(function(*inputs))
    if mode == "fwd":

        def forward() -> list[Tensor]:
            with torch.no_grad():
                return listed(function(*inputs))

        return forward
    leaves = [t.clone().requires_grad_() for t in inputs]
    weights: list[Tensor] = []

    def both() -> list[Tensor]:
        outputs = listed(function(*leaves))
        if not weights:
            weights.extend(_weights(outputs))
        gradients = torch.autograd.grad(outputs, leaves, weights, allow_unused=True)
        return [t.detach() for t in outputs] + [
            torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)
        ]

    return both


def _weights(outputs: Sequence[Tensor]) -> list[Tensor]:
    """What arrives at the outputs in the backward pass: the same for every peer."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(t.shape, generator=generator, dtype=torch.float32) for t in outputs]
    return [d.to(t.device, t.dtype) for d, t in zip(drawn, outputs, strict=True)]


def listed(outputs: Outputs) -> list[Tensor]:
    """One tensor or several, as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _truth(problem: Problem, mode: str, dtype: torch.dtype) -> list[Tensor] | None:
    """Outputs and gradients in float64, of inputs as exact as `dtype` holds them."""
    if problem.truth is None:
        return None
    return work_of(problem.truth, [t.detach().to(dtype).double() for t in problem.inputs], mode)()


def error_of(found: Sequence[Tensor], truth: Sequence[Tensor], values: int) -> float:
    """The largest error of all tensors: the first `values` are outputs, the others gradients.

    Outputs relative to their largest value; bits by the share that differs; gradients in the L2 norm, because a point
    that lies on a kink of the function has two right gradients. NaN and another shape are infinite errors.
    """
    errors = []
    for index, (a, b) in enumerate(zip(found, truth, strict=True)):
        if a.shape != b.shape:
            return float("inf")
        if a.dtype == torch.bool:
            errors.append((a != b).double().mean().item())
            continue
        difference, b = a.double() - b.double(), b.double()
        if index < values:
            error = difference.abs().amax() / b.abs().amax().clamp(min=1e-30)
        else:
            error = difference.norm() / b.norm().clamp(min=1e-30)
        errors.append(error.item() if torch.isfinite(error) else float("inf"))
    return max(errors, default=0.0)
