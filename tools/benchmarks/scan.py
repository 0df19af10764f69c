"""The scan block: x in grid order -> dt, B, C by one projection -> scans in K orders -> their sum.

Inputs, of lgrnet's GridScan between its convolution and its norm (after VMamba's SS2D, arXiv 2401.10166): x [B, L, D],
projection [K, R + 2 N, D], dt_weight [K, D, R], dt_bias [K, D], A [K, D, N], skip [K, D].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contest import OURS, Case, Op, Peer, Problem
from lgrnet.layers.hilbert import hilbert_order
from lgrnet.ops import selective_scan

CHANNELS, STATES, RANK, QUERIES = 128, 16, 4, 20
LONGEST_QUADRATIC = 120
UNROLLED = 16
"""Steps of the loop that are compiled together."""


def cases(quick: bool) -> list[Case]:
    """Clips of 6, 60 and 300 frames with 20 frame queries each; K = 4 as in VMamba, K = 2 as in LGRNet."""
    if quick:
        return [Case("K=2 L=40", {"batch": 1, "directions": 2, "frames": 2}, 40)]
    sizes = [(1, 4, 6), (4, 4, 6), (1, 4, 60), (1, 4, 300), (1, 2, 6), (1, 2, 60), (1, 2, 300)]
    return [
        Case(
            f"B={batch} K={directions} L={frames * QUERIES}",
            {"batch": batch, "directions": directions, "frames": frames},
            frames * QUERIES if batch == 1 and directions == 4 else None,
        )
        for batch, directions, frames in sizes
    ]


def problem(case: Case, device: str) -> Problem:
    """Values as at the start of a training: dt = softplus(-6..-2 + about 1), A = -(1..16) times about 1."""
    batch, directions, frames = (case.sizes[k] for k in ("batch", "directions", "frames"))
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows = RANK + 2 * STATES
    bias = -6 + 4 * torch.rand(directions, CHANNELS, generator=generator)
    decay = torch.arange(1, STATES + 1) * (1 + 0.1 * torch.rand(directions, CHANNELS, STATES, generator=generator))
    inputs = (
        normal(batch, frames * QUERIES, CHANNELS),
        normal(directions, rows, CHANNELS) * CHANNELS**-0.5,
        normal(directions, CHANNELS, RANK) * RANK**-0.5,
        bias,
        -decay,
        normal(directions, CHANNELS),
    )
    order = _orders(frames, directions).to(device)
    return Problem(tuple(t.to(device) for t in inputs), _block("reference")(order), {"order": order})


def _orders(frames: int, directions: int) -> Tensor:
    """[K, L] int32: the Hilbert curve, the other way round, and for K = 4 the columns in both ways."""
    curve = torch.from_numpy(hilbert_order(frames, QUERIES).copy())
    ways = [curve, curve.flip(0)]
    if directions == 4:
        columns = torch.arange(frames * QUERIES, dtype=torch.int32).view(frames, QUERIES).T.flatten()
        ways += [columns, columns.flip(0)]
    return torch.stack(ways)


def _block(backend: str) -> Callable[[Tensor], Callable[..., Tensor]]:
    def with_order(order: Tensor) -> Callable[..., Tensor]:
        def block(x, projection, dt_weight, dt_bias, A, skip):
            mixed = F.linear(x, projection.flatten(0, 1)).unflatten(2, (len(projection), -1))
            parts = mixed.split((RANK, STATES, STATES), dim=-1)
            return selective_scan(x, *parts, dt_weight, dt_bias, A, skip, order, backend=backend)

        return block

    return with_order


def _through(scan: Callable[..., Tensor]) -> Callable[[Problem], Callable[..., Tensor]]:
    """The way of VMamba around a scan of sequences: permuted copies of x, projections of each, copies back, sum.

    scan  u, delta [B, K, L, D], A [K, D, N], weights in and out [B, K, L, N] -> [B, K, L, D]
    """

    def build(problem: Problem) -> Callable[..., Tensor]:
        order = problem.fixed["order"].long()
        back = order.argsort(dim=1)

        def block(x, projection, dt_weight, dt_bias, A, skip):
            copies = x[:, order]  # [B, K, L, D]
            mixed = torch.einsum("bkld,kcd->bklc", copies, projection)
            step, enters, leaves = mixed.split((RANK, STATES, STATES), dim=-1)
            delta = F.softplus(torch.einsum("bklr,kdr->bkld", step, dt_weight) + dt_bias[:, None])
            y = scan(copies, delta, A, enters, leaves) + skip[:, None] * copies
            return y.gather(2, back[None, :, :, None].expand_as(y)).sum(1)

        return block

    return build


def mamba_scan(u: Tensor, delta: Tensor, A: Tensor, enters: Tensor, leaves: Tensor) -> Tensor:
    """Mamba's recurrence (arXiv 2312.00752, equation 2) in the plain form and layout that mamba-ssm's reference has.

    Channels of all groups come first, time after them, and B and C are repeated for each channel. All decays and inputs
    are made at once; then every step picks its slice of the whole tensors, so that the backward pass writes a whole
    tensor of zeros per step: it is quadratic in L.
    """
    batch, directions, length, dim = u.shape
    channels = directions * dim
    x, step = (t.transpose(2, 3).reshape(batch, channels, length) for t in (u, delta))
    inward, outward = (
        t.transpose(2, 3)[:, :, None].expand(-1, -1, dim, -1, -1).reshape(batch, channels, -1, length)
        for t in (enters, leaves)
    )
    decay = torch.exp(torch.einsum("bcl,cn->bcln", step, A.flatten(0, 1)))
    drive = torch.einsum("bcl,bcnl,bcl->bcln", step, inward, x)
    state, outputs = torch.zeros_like(decay[:, :, 0]), []
    for i in range(length):
        state = decay[:, :, i] * state + drive[:, :, i]
        outputs.append(torch.einsum("bcn,bcn->bc", state, outward[..., i]))
    return torch.stack(outputs, dim=2).unflatten(1, (directions, dim)).transpose(2, 3)


def mambapy_scan(u: Tensor, delta: Tensor, A: Tensor, enters: Tensor, leaves: Tensor) -> Tensor:
    """The same by mamba.py's parallel scan (github.com/alxndrTL/mamba.py)."""
    from mambapy.pscan import pscan

    batch, directions = u.shape[:2]
    decay = torch.exp(delta[..., None] * A[:, None]).flatten(0, 1)  # [B*K, L, D, N]
    drive = ((delta * u)[..., None] * enters[..., None, :]).flatten(0, 1)
    states = pscan(decay, drive).unflatten(0, (batch, directions))
    return (states @ leaves[..., None]).squeeze(-1)


def chunked_scan(u: Tensor, delta: Tensor, A: Tensor, enters: Tensor, leaves: Tensor) -> Tensor:
    """The same in about sqrt(L) chunks of as many steps: all chunks step together, then their ends are carried on."""
    length = u.shape[2]
    size = max(1, round(length**0.5))
    missing = -length % size
    # No time passes in the padding: the state stays.
    u, delta, enters, leaves = (
        F.pad(t, (0, 0, 0, missing)).unflatten(2, (-1, size)) for t in (u, delta, enters, leaves)
    )
    logs = delta[..., None] * A[:, None, None]  # [B, K, chunks, size, D, N]
    drive = (delta * u)[..., None] * enters[..., None, :]
    state, inside = torch.zeros_like(drive[:, :, :, 0]), []
    for decay_i, drive_i in zip(torch.exp(logs).unbind(3), drive.unbind(3), strict=True):
        state = torch.addcmul(drive_i, decay_i, state)
        inside.append(state)
    since = torch.exp(logs.cumsum(3))  # decay since the chunk began
    carried, before = torch.zeros_like(state[:, :, 0]), []
    for end, whole in zip(state.unbind(2), since[:, :, :, -1].unbind(2), strict=True):
        before.append(carried)
        carried = end + whole * carried
    states = torch.stack(inside, 3) + since * torch.stack(before, 2)[:, :, :, None]
    return (states @ leaves[..., None]).squeeze(-1).flatten(2, 3)[:, :, :length]


def _steps(state: Tensor, u: Tensor, delta: Tensor, A: Tensor, enters: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for i in range(u.shape[2]):
        decay = torch.exp(delta[:, :, i, :, None] * A)
        state = decay * state + (delta[:, :, i] * u[:, :, i])[..., None] * enters[:, :, i, None]
        outputs.append((state * leaves[:, :, i, None]).sum(-1))
    return state, torch.stack(outputs, dim=2)


@cache
def _compiled_steps() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_steps, dynamic=False)


def compiled_scan(u: Tensor, delta: Tensor, A: Tensor, enters: Tensor, leaves: Tensor) -> Tensor:
    """The same as a loop over torch.compile of 16 steps."""
    state = u.new_zeros(*u.shape[:2], *A.shape[1:])
    missing = -u.shape[2] % UNROLLED
    parts = [F.pad(t, (0, 0, 0, missing)).split(UNROLLED, dim=2) for t in (u, delta, enters, leaves)]
    outputs = []
    for u_, delta_, enters_, leaves_ in zip(*parts, strict=True):
        # One compilation must serve every part of every length.
        chunk = [t.contiguous() for t in (u_, delta_, enters_, leaves_)]
        state, y = _compiled_steps()(state, chunk[0], chunk[1], A, *chunk[2:])
        outputs.append(y)
    return torch.cat(outputs, 2)[:, :, : u.shape[2]]


def _quadratic(case: Case, mode: str, device: str) -> str | None:
    if mode == "fwdbwd" and case.sizes["frames"] * QUERIES > LONGEST_QUADRATIC:
        return f"its backward pass is quadratic in L: measured up to L = {LONGEST_QUADRATIC}"
    return None


def _its_reference(case: Case, mode: str, device: str) -> str | None:
    """On a CPU mamba-ssm has its plain form only; on a GPU its kernel goes to any length."""
    return _quadratic(case, mode, device) if device == "cpu" else None


OP = Op(
    "scan",
    cases,
    problem,
    (
        Peer(OURS, lambda problem: _block("auto")(problem.fixed["order"])),
        Peer("our reference", lambda problem: _block("reference")(problem.fixed["order"])),
        Peer("plain mamba", _through(mamba_scan), refuses=_quadratic),
        Peer("mambapy", _through(mambapy_scan), "pip install mambapy"),
        Peer("chunked torch", _through(chunked_scan)),
        Peer("compiled loop", _through(compiled_scan), "a C++ compiler for torch.compile"),
        Peer("mamba_ssm", lambda problem: _block("mamba_ssm")(problem.fixed["order"]), refuses=_its_reference),
    ),
)
