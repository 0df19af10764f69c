"""The selective scan in Triton, forward and backward, for GPUs.

No GPU was at hand when this was written: nothing was timed or run on one. Values and gradients were tested in
Triton's interpreter, registers and instructions were read from kernels compiled ahead of time.

What one step does is written in lgrnet/ops/scan/__init__.py. All of it happens in one kernel: a tile of T tokens is
gathered by the order table (rows of neighbouring channels, so reads are coalesced), the time step is projected and goes
through softplus, T steps of the scan run, the states are summed with C, the skip is added, and the rows go back to
where they came from. Decays are exp2 of delta * (A log2 e): one multiplication and one MUFU instruction.

A tile is [T, NS, GB, BD, NF]: tokens, states, directions, channels, states again (state n = ns * NF + nf). Triton gives
the last axes to the lanes of a warp, the middle ones to warps, and leaves the first ones in registers; so T steps run
in registers of one thread without a shuffle, and the two axes of states choose how much of the sums over states (for
y) and over channels (for the gradients of B and C) is done by shuffles: none of the first with NF = 1.

Sequences run in one of two ways:

- short (up to SHORT tokens): one launch. A program takes all directions (one or more warps each) of few channels and
  walks through all tokens; each direction writes its rows to a buffer, and after a barrier the same program sums them.
- long: the clips, directions and channels alone would leave most of a GPU idle, so tokens are cut into chunks. `_ends`
  runs each chunk from a zero state and keeps only its last state and the sum of its time steps; `_carry` goes over the
  chunks, state = exp2(A sum(delta)) state + end; `_forward` runs each chunk again from the state before it; `_merge`
  sums the directions. There are at most as many chunks as fill the GPU, so their memory does not grow with the length.

For the backward pass `_forward` keeps the state before every tile of it (`_interval` tokens: one eighth of the states,
and only with gradients). `_backward` goes through the tiles from the last to the first: the states of a tile are
computed again from the kept one, the adjoints in reverse, and both meet in registers. Long sequences are cut into
chunks there too: `_ends` and `_carry` run on the adjoints. Directions write to buffers of their own that are summed
afterwards, so do blocks of channels (B, C, dt) and chunks (weights): there is no atomic operation, and a result is
the same bits each time on one kind of GPU (how many chunks there are depends on its multiprocessors). A projection of
rank above RANKS is a matrix product outside, in float64: no setting of TF32 reaches that.

Counted in the code for sm_90, bfloat16, N 16, for 32 steps of one state: `_forward` of long sequences 12 to 13
instructions, `_ends` 9 to 10, `_backward` of long ones 48; the arithmetic alone would be 5, 4 and about 22. Sizes of
tiles and of chunks, and how many loads are in flight (`stages`), are guesses to be tuned on a GPU: SHORT and `_*_tile`.

The order is not checked, since that would wait for the GPU: entries outside 0..L-1 are skipped, and the result of an
order that is no permutation is undefined, but no memory outside the tensors is touched.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import torch
import triton
import triton.language as tl
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.gpu import DTYPES
from lgrnet.ops.gpu.triton_kernels import LAUNCH, Build

SHORT = 256
"""Tokens up to which a sequence is one chunk."""
SIDE_BY_SIDE = 8
"""Directions up to which a program takes all of a short sequence: more need more shared memory than an sm_89 has."""
CLIPS = 65535
"""Clips of one launch, which are an axis of the grid: of more, some go at a time."""
RANKS = 16
"""The largest R that is projected inside the kernels; above it a matrix product comes before them."""
LOG2E = tl.constexpr(1.4426950408889634)
CHANGING = ["length", "chunk", "chunks", "count", "size"]
"""Arguments whose values make no kernel of their own: lengths change from clip to clip. (`size`: a thread of `_carry`
then has one element of a row and the whole tile of chunks, and no scan crosses threads.)"""


@triton.jit
def _log1p(e):
    """log(1 + e) for e in 0..1, to a relative error of 1e-7: 2 atanh(e / (2 + e)) by a polynomial (minimax, own fit).

    The hardware's logarithm has an absolute error, which is no good for the small time steps of a scan."""
    s = e / (2.0 + e)
    q = s * s
    p = 1.0 + q * (0.33333158 + q * (0.20012427 + q * (0.13980709 + q * 0.14087329)))
    return 2.0 * s * p


@triton.jit
def _then(a0, b0, a1, b1):
    """h -> a0 h + b0, then h -> a1 h + b1."""
    return a0 * a1, a1 * b0 + b1


@triton.jit
def _then_and_before(a0, b0, p0, q0, a1, b1, p1, q1):
    """As `_then`; p h + q is the state before the last step."""
    return a0 * a1, a1 * b0 + b1, a0 * p1, p1 * b0 + q1


@triton.jit
def _below(index, most, FULL: tl.constexpr):
    """index < most; FULL: known to hold, so that it costs nothing."""
    if FULL:
        return tl.full(index.shape, 1, tl.int1)
    else:
        return index < most


@triton.jit
def _weight(dt_weight, at, ok, R: tl.constexpr, RP: tl.constexpr):
    """dt_weight of the channels at [GB, BD]: [RP, 1, GB, BD], RP in registers."""
    r = tl.arange(0, RP)[:, None, None]
    return tl.load(dt_weight + at[None] * R + r, mask=ok[None] & (r < R), other=0.0).to(tl.float32)[:, None]


@triton.jit
def _project(p, g, d, here, some, dt, weight, bias, dt_l, dt_g, R: tl.constexpr, RP: tl.constexpr):
    """The argument of softplus [T, GB, BD], and dt [RP, T, GB]; with R = 0 dt [L, G, D] is already projected, but for
    the bias."""
    if R == 0:
        rows = p[:, :, None] * dt_l + g[None, :, None] * dt_g + d[None, None, :]
        return tl.load(dt + rows, mask=some, other=0.0).to(tl.float32) + bias[None], 0
    else:
        r = tl.arange(0, RP)[:, None, None]
        rows = p[None] * dt_l + g[None, None, :] * dt_g + r
        value = tl.load(dt + rows, mask=here[None] & _below(r, R, R == RP), other=0.0).to(tl.float32)
        return tl.sum(value[:, :, :, None] * weight, 0) + bias[None], value


@triton.jit
def _rows(source, p, g, n, ok, row, group):
    """B or C of the tokens p [T, GB] for the states n [NS, NF]: [T, NS, GB, 1, NF]."""
    at = p[:, None, :, None] * row + g[None, None, :, None] * group + n[None, :, None, :]
    return tl.load(source + at, mask=ok, other=0.0).to(tl.float32)[:, :, :, None, :]


@triton.jit
def _tokens(start, stop, g, order, length, G: tl.constexpr, GB: tl.constexpr, T: tl.constexpr):
    """Where the tokens start .. start + T - 1 of each direction stand in the grid, [T, GB], and which of them there
    are: before `stop`, and with a place inside the grid."""
    i = start + tl.arange(0, T)
    ok = (i < stop)[:, None] & _below(g, G, G % GB == 0)[None, :]
    p = tl.load(order + g[None, :] * length + i[:, None], mask=ok, other=-1)
    return p, (p >= 0) & (p < length)


@triton.jit
def _decay(A, g, d, n, channels, states, G: tl.constexpr, FULL: tl.constexpr):
    """A log2 e [NS, GB, BD, NF], where each element stands in [G, D, N], and which elements there are."""
    at = (g[None, :, None, None] * channels + d[None, None, :, None]) * states + n[:, None, None, :]
    ok = _below(d, channels, FULL)[None, None, :, None] & _below(n, states, FULL)[:, None, None, :]
    ok = ok & _below(g, G, FULL)[None, :, None, None]
    return tl.load(A + at, mask=ok, other=0.0).to(tl.float32) * LOG2E, at, ok


@triton.jit(do_not_specialize=CHANGING)
def _forward(
    x, dt, B, C, dt_weight, dt_bias, A, skip, order, entries, y, parts, last, kept,
    length, channels, states, chunk,
    dt_b, dt_l, dt_g, B_b, B_l, B_g, C_b, C_l, C_g,
    G: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, FULL: tl.constexpr, STAGES: tl.constexpr,
    T: tl.constexpr, NS: tl.constexpr, GB: tl.constexpr, BD: tl.constexpr, NF: tl.constexpr,
    KEEP: tl.constexpr, MERGE: tl.constexpr, MT: tl.constexpr,
):  # fmt: skip
    """y of a chunk. Grid: chunks, blocks of channels x blocks of directions, clips.

    entries [B, chunks, G, D, N] or None; y [B, L, D]; parts [G, B, L, D] for G > 1; last [B, G, D, N];
    kept [B, tiles of KEEP tokens, G, D, N] for KEEP > 0. MERGE: this program has all directions and all tokens.
    """
    c = tl.program_id(0)
    blocks = tl.cdiv(channels, BD)
    b = tl.program_id(2).to(tl.int64)
    g = tl.program_id(1) // blocks * GB + tl.arange(0, GB)
    d = tl.program_id(1) % blocks * BD + tl.arange(0, BD)
    n = tl.arange(0, NS)[:, None] * NF + tl.arange(0, NF)[None, :]
    decay, at, ok = _decay(A, g, d, n, channels, states, G, FULL)
    size = tl.cast(channels * states * G, tl.int64)
    h = tl.zeros([NS, GB, BD, NF], tl.float32)
    if entries is not None:
        h = tl.load(entries + (b * tl.num_programs(0) + c) * size + at, mask=ok, other=0.0)
    gd = g[:, None] * channels + d[None, :]
    dok = _below(g, G, FULL)[:, None] & _below(d, channels, FULL)[None, :]
    bias = tl.load(dt_bias + gd, mask=dok, other=0.0).to(tl.float32)
    weight = _weight(dt_weight, gd, dok, R, RP) if R > 0 else 0
    skips = tl.load(skip + gd, mask=dok, other=0.0).to(tl.float32)
    t = tl.arange(0, T)
    x += b * length * channels
    dt += b * dt_b
    B += b * B_b
    C += b * C_b
    y += b * length * channels
    clip = tl.num_programs(2).to(tl.int64) * length * channels
    if KEEP > 0:
        kept += b * tl.cdiv(length, KEEP) * size
    stop = tl.minimum(c * chunk + chunk, length)
    for start in tl.range(c * chunk, stop, T, num_stages=STAGES):
        p, here = _tokens(start, stop, g, order, length, G, GB, T)
        some = here[:, :, None] & _below(d, channels, FULL)[None, None, :]
        rows = p[:, :, None] * channels + d[None, None, :]
        u = tl.load(x + rows, mask=some, other=0.0).to(tl.float32)
        z, value = _project(p, g, d, here, some, dt, weight, bias, dt_l, dt_g, R, RP)
        inside = here[:, None, :, None] & _below(n, states, FULL)[None, :, None, :]
        weight_in = _rows(B, p, g, n, inside, B_l, B_g)
        weight_out = _rows(C, p, g, n, inside, C_l, C_g)
        delta = tl.where(some, tl.maximum(z, 0.0) + _log1p(tl.exp2(-tl.abs(z) * LOG2E)), 0.0)
        a = tl.exp2(delta[:, None, :, :, None] * decay[None])
        drive = (delta * u)[:, None, :, :, None] * weight_in
        drive = tl.where((t == 0)[:, None, None, None, None], a * h[None] + drive, drive)
        _, hs = tl.associative_scan((a, drive), 0, _then)
        out = tl.sum(tl.sum(hs * weight_out, 1), 3) + skips[None] * u
        if G == 1:
            tl.store(y + rows, out, mask=some)
        else:
            tl.store(parts + g[None, :, None] * clip + b * length * channels + rows, out, mask=some)
        if KEEP > 0:
            if T <= KEEP:
                if start % KEEP == 0:
                    tl.store(kept + start // KEEP * size + at, h, mask=ok)
            else:
                for s in tl.static_range(T // KEEP):
                    if s == 0:
                        before = h
                    else:
                        before = tl.sum(tl.where((t == s * KEEP - 1)[:, None, None, None, None], hs, 0.0), 0)
                    there = ok & (start + s * KEEP + tl.zeros_like(at) < stop)
                    tl.store(kept + (start // KEEP + s) * size + at, before, mask=there)
        h = tl.sum(tl.where((t == T - 1)[:, None, None, None, None], hs, 0.0), 0)
    if c == tl.num_programs(0) - 1:
        tl.store(last + b * size + at, h, mask=ok)
    if MERGE:
        tl.debug_barrier()  # the rows of the other warps
        for start in range(0, length, MT):
            rows = (start + tl.arange(0, MT))[:, None]
            inside = (rows < length) & (d < channels)[None, :]
            rows = rows * channels + d[None, :]
            total = tl.zeros([MT, BD], tl.float32)
            for i in tl.static_range(G):
                total += tl.load(parts + i * clip + b * length * channels + rows, mask=inside, other=0.0)
            tl.store(y + rows, total, mask=inside)


@triton.jit(do_not_specialize=CHANGING)
def _ends(
    x, dt, V, dt_weight, dt_bias, A, order, ends, totals,
    length, channels, states, chunk, dt_b, dt_l, dt_g, V_b, V_l, V_g,
    G: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, FULL: tl.constexpr, STAGES: tl.constexpr,
    T: tl.constexpr, NS: tl.constexpr, BD: tl.constexpr, NF: tl.constexpr,
    ADJOINT: tl.constexpr,
):  # fmt: skip
    """What a chunk alone adds to the state after it (x and V = B), or to the adjoint of the state before it (x is the
    gradient of y, V = C): ends [B, chunks, G, D, N], in the slot of the next chunk or of the one before; and the sum of
    its time steps, totals [B, chunks, G, D]. Grid as `_forward`'s, one direction a program."""
    c = tl.program_id(0)
    chunks = tl.num_programs(0)
    blocks = tl.cdiv(channels, BD)
    b = tl.program_id(2).to(tl.int64)
    g = tl.program_id(1) // blocks + tl.arange(0, 1)
    d = tl.program_id(1) % blocks * BD + tl.arange(0, BD)
    n = tl.arange(0, NS)[:, None] * NF + tl.arange(0, NF)[None, :]
    decay, at, ok = _decay(A, g, d, n, channels, states, G, FULL)
    h = tl.zeros([NS, 1, BD, NF], tl.float32)
    total = tl.zeros([1, BD], tl.float32)
    gd = g[:, None] * channels + d[None, :]
    dok = _below(g, G, FULL)[:, None] & _below(d, channels, FULL)[None, :]
    bias = tl.load(dt_bias + gd, mask=dok, other=0.0).to(tl.float32)
    weight = _weight(dt_weight, gd, dok, R, RP) if R > 0 else 0
    t = tl.arange(0, T)
    x += b * length * channels
    dt += b * dt_b
    V += b * V_b
    stop = tl.minimum(c * chunk + chunk, length)
    for start in tl.range(c * chunk, stop, T, num_stages=STAGES):
        p, here = _tokens(start, stop, g, order, length, G, 1, T)
        some = here[:, :, None] & _below(d, channels, FULL)[None, None, :]
        u = tl.load(x + p[:, :, None] * channels + d[None, None, :], mask=some, other=0.0).to(tl.float32)
        z, value = _project(p, g, d, here, some, dt, weight, bias, dt_l, dt_g, R, RP)
        weight_in = _rows(V, p, g, n, here[:, None, :, None] & _below(n, states, FULL)[None, :, None, :], V_l, V_g)
        delta = tl.where(some, tl.maximum(z, 0.0) + _log1p(tl.exp2(-tl.abs(z) * LOG2E)), 0.0)
        if ADJOINT:
            since = total[None] + tl.cumsum(delta, 0)
            h += tl.sum(tl.exp2(since[:, None, :, :, None] * decay[None]) * (u[:, None, :, :, None] * weight_in), 0)
        else:
            a = tl.exp2(delta[:, None, :, :, None] * decay[None])
            drive = (delta * u)[:, None, :, :, None] * weight_in
            drive = tl.where((t == 0)[:, None, None, None, None], a * h[None] + drive, drive)
            _, hs = tl.associative_scan((a, drive), 0, _then)
            h = tl.sum(tl.where((t == T - 1)[:, None, None, None, None], hs, 0.0), 0)
        total += tl.sum(delta, 0)
    to = c - 1 if ADJOINT else c + 1
    tl.store(
        ends + (b * chunks + to) * (G * channels * states) + at,
        h,
        mask=ok & (to + tl.zeros_like(at) >= 0) & (to + tl.zeros_like(at) < chunks),
    )
    tl.store(totals + (b * chunks + c) * (G * channels) + gd, total, mask=dok)


@triton.jit(do_not_specialize=CHANGING)
def _carry(
    slots, totals, A, first, chunks, size, states, BLOCK: tl.constexpr, T: tl.constexpr, ADJOINT: tl.constexpr
):  # fmt: skip
    """Carries states over the chunks, in place: slots [B, chunks, G D N] from `_ends`, then the state before each chunk
    (ADJOINT: the adjoint of the state after it, from the last chunk to the first). first [B, G D N] or None: zeros.
    Grid: blocks of G D N elements, clips."""
    b = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = e < size
    decay = tl.load(A + e, mask=ok, other=0.0).to(tl.float32) * LOG2E
    h = tl.zeros([BLOCK], tl.float32)
    if first is not None:
        h = tl.load(first + b * size + e, mask=ok, other=0.0)
    t = tl.arange(0, T)
    slots += b * chunks * size
    totals += b * chunks * (size // states)
    begin = chunks - 1 if ADJOINT else 0
    size = tl.cast(size, tl.int64)
    tl.store(slots + begin * size + e, h, mask=ok)
    for start in tl.range(0, chunks - 1, T, num_stages=3):
        c = chunks - 1 - (start + t) if ADJOINT else start + t
        to = c - 1 if ADJOINT else c + 1
        live = ((start + t) < chunks - 1)[:, None] & ok[None, :]
        total = tl.load(totals + c[:, None] * (size // states) + (e // states)[None, :], mask=live, other=0.0)
        at = to[:, None] * size + e[None, :]
        end = tl.load(slots + at, mask=live, other=0.0)
        a = tl.exp2(total * decay[None])
        end = tl.where((t == 0)[:, None], a * h[None] + end, end)
        _, hs = tl.associative_scan((a, end), 0, _then)
        tl.store(slots + at, hs, mask=live)
        h = tl.sum(tl.where((t == T - 1)[:, None], hs, 0.0), 0)


@triton.jit(do_not_specialize=CHANGING)
def _backward(
    x, dt, B, C, dt_weight, dt_bias, A, skip, order, kept, exits, dy, parts, of_tokens, dz, of_weights, dentry,
    length, channels, states, chunk,
    dt_b, dt_l, dt_g, B_b, B_l, B_g, C_b, C_l, C_g,
    G: tl.constexpr, R: tl.constexpr, RP: tl.constexpr, FULL: tl.constexpr, STAGES: tl.constexpr,
    T: tl.constexpr, NS: tl.constexpr, BD: tl.constexpr, NF: tl.constexpr,
):  # fmt: skip
    """Every gradient of a chunk. Grid: chunks, blocks of channels x directions, clips.

    exits [B, chunks, G, D, N], the adjoint of the state after each chunk; dy [B, L, D]; parts [G, B, L, D] for x;
    of_tokens [blocks, B, L, G, N + N + R] for B, C and dt; dz [B, L, G, D] for the projected dt of R = 0, else None;
    of_weights [B, chunks, G, D, N + R + 2] for A, dt_weight, dt_bias and skip; dentry [B, G, D, N].
    """
    c = tl.program_id(0)
    chunks = tl.num_programs(0)
    blocks = tl.cdiv(channels, BD)
    b = tl.program_id(2).to(tl.int64)
    g = tl.program_id(1) // blocks + tl.arange(0, 1)
    block = tl.program_id(1) % blocks
    d = block * BD + tl.arange(0, BD)
    n = tl.arange(0, NS)[:, None] * NF + tl.arange(0, NF)[None, :]
    decay, at, ok = _decay(A, g, d, n, channels, states, G, FULL)
    size = tl.cast(channels * states * G, tl.int64)
    mu = tl.load(exits + (b * chunks + c) * size + at, mask=ok, other=0.0)
    gd = g[:, None] * channels + d[None, :]
    dok = _below(g, G, FULL)[:, None] & _below(d, channels, FULL)[None, :]
    bias = tl.load(dt_bias + gd, mask=dok, other=0.0).to(tl.float32)
    weight = _weight(dt_weight, gd, dok, R, RP) if R > 0 else 0
    skips = tl.load(skip + gd, mask=dok, other=0.0).to(tl.float32)
    t = tl.arange(0, T)
    first = (t == 0)[:, None, None, None, None]
    x += b * length * channels
    dy += b * length * channels
    dt += b * dt_b
    B += b * B_b
    C += b * C_b
    kept += b * tl.cdiv(length, T) * size
    parts += (tl.program_id(1) // blocks).to(tl.int64) * tl.num_programs(2) * length * channels + b * length * channels
    width = 2 * states + R
    of_tokens += (block.to(tl.int64) * tl.num_programs(2) + b) * length * (G * width)
    r = tl.arange(0, RP)[:, None, None]
    dA = tl.zeros([NS, 1, BD, NF], tl.float32)
    dweight = tl.zeros([RP, 1, BD], tl.float32)
    dbias = tl.zeros([1, BD], tl.float32)
    dskip = tl.zeros([1, BD], tl.float32)
    stop = tl.minimum(c * chunk + chunk, length)
    tiles = tl.cdiv(stop - c * chunk, T)
    for k in tl.range(0, tiles, num_stages=STAGES):
        start = c * chunk + (tiles - 1 - k) * T
        p, here = _tokens(start, stop, g, order, length, G, 1, T)
        some = here[:, :, None] & _below(d, channels, FULL)[None, None, :]
        rows = p[:, :, None] * channels + d[None, None, :]
        u = tl.load(x + rows, mask=some, other=0.0).to(tl.float32)
        gy = tl.load(dy + rows, mask=some, other=0.0).to(tl.float32)
        z, value = _project(p, g, d, here, some, dt, weight, bias, dt_l, dt_g, R, RP)
        inside = here[:, None, :, None] & _below(n, states, FULL)[None, :, None, :]
        weight_in = _rows(B, p, g, n, inside, B_l, B_g)
        weight_out = _rows(C, p, g, n, inside, C_l, C_g)
        h = tl.load(kept + start // T * size + at, mask=ok, other=0.0)
        e = tl.exp2(-tl.abs(z) * LOG2E)
        delta = tl.where(some, tl.maximum(z, 0.0) + _log1p(e), 0.0)
        slope = tl.where(some, tl.where(z >= 0, 1.0, e) / (1.0 + e), 0.0)  # of softplus
        a = tl.exp2(delta[:, None, :, :, None] * decay[None])
        one = tl.full([T, NS, 1, BD, NF], 1.0, tl.float32)
        none = tl.full([T, NS, 1, BD, NF], -0.0, tl.float32)  # -0.0 + q is q in every bit, so it costs nothing

        # the states of the tile, and the one before each
        drive = (delta * u)[:, None, :, :, None] * weight_in
        drive = tl.where(first, a * h[None] + drive, drive)
        _, hs, _, before = tl.associative_scan((a, drive, one, none), 0, _then_and_before)
        before = tl.where(first, h[None], before)
        dC = tl.sum(hs * gy[:, None, :, :, None], 3)  # [T, NS, 1, NF]

        # adjoints in reverse: lam of h_i, mu = a lam of h_{i-1}. Flipping an axis in registers only renames them
        direct = gy[:, None, :, :, None] * weight_out
        back, step = tl.flip(a * direct, 0), tl.flip(a, 0)
        back = tl.where(first, step * mu[None] + back, back)
        _, mus, _, after = tl.associative_scan((step, back, one, none), 0, _then_and_before)
        after = tl.flip(tl.where(first, mu[None], after), 0)
        mus = tl.flip(mus, 0)
        mu = tl.sum(tl.where(first, mus, 0.0), 0)
        lam = direct + after
        dB = tl.sum(lam * (delta * u)[:, None, :, :, None], 3)
        reach = tl.sum(tl.sum(lam * weight_in, 1), 3)  # [T, 1, BD]
        through = mus * before  # lam a h_{i-1}
        dA += tl.sum(through * delta[:, None, :, :, None], 0)
        ddelta = tl.sum(tl.sum(through * decay[None], 1), 3) * (1 / LOG2E) + u * reach
        gz = ddelta * slope

        tl.store(parts + rows, delta * reach + skips[None] * gy, mask=some)
        dskip += tl.sum(gy * u, 0)
        dbias += tl.sum(gz, 0)
        tokens = of_tokens + p * (G * width) + g[None, :] * width  # [T, 1]
        to = tokens[:, None, :, None] + n[None, :, None, :]
        tl.store(to, dB, mask=inside)
        tl.store(to + states, dC, mask=inside)
        if R == 0:
            tl.store(dz + b * length * (G * channels) + p[:, :, None] * (G * channels) + gd[None], gz, mask=some)
        else:
            dweight += tl.sum(value[:, :, :, None] * gz[None], 1)
            ok3 = here[None] & _below(r, R, R == RP)
            tl.store(tokens[None] + 2 * states + r, tl.sum(gz[None] * weight, 3), mask=ok3)
    own = of_weights + ((b * chunks + c) * G * channels + gd) * (states + R + 2)  # [1, BD]
    tl.store(own[None, :, :, None] + n[:, None, None, :], dA, mask=ok)
    if R > 0:
        tl.store(own[None] + states + r, dweight, mask=dok[None] & (r < R))
    tl.store(own + states + R, dbias, mask=dok)
    tl.store(own + states + R + 1, dskip, mask=dok)
    if c == 0:
        tl.store(dentry + b * size + at, mu, mask=ok)


@triton.jit(do_not_specialize=CHANGING)
def _merge(parts, out, count, P: tl.constexpr, BLOCK: tl.constexpr):
    """out [count] = the sum of parts [P, count], always in the same order."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = at < count
    total = tl.zeros([BLOCK], tl.float32)
    for _ in tl.static_range(P):
        total += tl.load(parts + at, mask=ok, other=0.0)
        parts += count
    tl.store(out + at, total, mask=ok)


@dataclass(frozen=True)
class Tile:
    """What a program works on at a time: tokens, states x directions x channels x states, and its warps."""

    tokens: int
    outer: int
    directions: int
    channels: int
    inner: int
    warps: int
    stages: int

    def constants(self, G: int, D: int, N: int, R: int) -> dict[str, int | bool]:
        """The kernels' compile-time arguments for these sizes."""
        full = D % self.channels == 0 and self.outer * self.inner == N and G % self.directions == 0
        sizes = {"T": self.tokens, "NS": self.outer, "BD": self.channels, "NF": self.inner}
        return {"G": G, "R": R, "RP": _power(R), "FULL": full, "STAGES": self.stages, **sizes}

    def launch(self) -> dict[str, int | bool]:
        """The options of a launch."""
        return {"num_warps": self.warps, "num_stages": 1, **LAUNCH}


def _power(n: int) -> int:
    """The power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


@cache
def _short_tile(G: int, D: int, N: int) -> Tile:
    """All directions side by side, 16 tokens of one state in registers: little work for each warp, many at work."""
    inner = min(16, _power(N))
    outer, directions = _power(N) // inner, _power(G)
    channels = max(1, min(_power(D), 128 // (directions * inner)))
    warps = max(1, min(8, directions * channels * inner // 32))
    return Tile(max(1, 16 // outer), outer, directions, channels, inner, warps, 3)


@cache
def _long_tile(D: int, N: int) -> Tile:
    """One warp, one channel in a thread with up to 16 states: no shuffle, the fewest instructions for a step."""
    inner = min(32, max(1, _power(N) // 16))
    outer = _power(N) // inner
    return Tile(max(1, min(4, 64 // outer)), outer, 1, max(1, min(_power(D), 32 // inner)), inner, 1, 1)


@cache
def _backward_tile(D: int, N: int, short: bool) -> Tile:
    """States and channels both spread over lanes, since both are summed over."""
    inner = min(32, max(min(8, _power(N)), _power(N) // 16))
    outer = _power(N) // inner
    channels = min(_power(D), 4 if short else 32 if N <= 32 else 16)
    return Tile(_interval(N), outer, 1, channels, inner, max(1, min(8, channels * inner // 32)), 2 if short else 1)


def _interval(N: int) -> int:
    """Tokens between two states that are kept for the backward pass: its tile."""
    return max(1, min(8, 128 // _power(N)))


def _multiprocessors(like: Tensor) -> int:
    return torch.cuda.get_device_properties(like.device).multi_processor_count if like.is_cuda else 1


def _chunk(x: Tensor, G: int, N: int) -> int:
    """Tokens of a chunk: all of a short sequence; else so that eight warps of `_forward` run on each multiprocessor."""
    clips, length, D = x.shape
    if length <= SHORT:
        return length
    tile = _long_tile(D, N)
    wanted = max(1, 8 * _multiprocessors(x) // (clips * G * triton.cdiv(D, tile.channels)))
    step = max(16, _interval(N))
    return triton.cdiv(triton.cdiv(length, wanted), step) * step


def _rowwise(t: Tensor) -> Tensor:
    """In a type that the kernels load, the elements of the last axis side by side."""
    t = t if t.dtype in DTYPES else t.float()
    return t if t.stride(-1) == 1 else t.contiguous()


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(stride for t in tensors for stride in t.stride()[:3])


def _prepared(x, dt, B, C, dt_weight, dt_bias, A, skip, order):
    """The arguments as the kernels want them: dt, B and C may be parts of one larger tensor."""
    whole = (_rowwise(t).contiguous() for t in (dt_weight, dt_bias, A.float(), skip))
    x, order = _rowwise(x).contiguous(), order.to(torch.int32).contiguous()
    return x, *(_rowwise(t) for t in (dt, B, C)), *whole, order


def _on(like: Tensor):
    """Triton launches on the current device."""
    return torch.cuda.device(like.device) if like.is_cuda else nullcontext()


def _sum(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over the first axis, in a fixed order."""
    if len(parts) > 8 or parts[0].numel() == 0:
        return parts.sum(0).to(dtype)
    out = parts.new_empty(parts.shape[1:], dtype=dtype)
    _merge[(triton.cdiv(out.numel(), 1024),)](parts, out, out.numel(), len(parts), 1024, num_warps=4, **LAUNCH)
    return out


def _carried(x, dt, V, weights, A, order, first, chunk, chunks, tile: Tile, adjoint: bool) -> Tensor:
    """The state before each chunk, or the adjoint of the state after it, [B, chunks, G, D, N]."""
    (clips, length, D), (G, _, N) = x.shape, A.shape
    slots, totals = A.new_empty(clips, chunks, G, D, N), A.new_empty(clips, chunks, G, D)
    rank = weights[0].shape[-1]
    grid = (chunks, triton.cdiv(D, tile.channels) * G, clips)
    sizes = (length, D, N, chunk, *_strides(dt, V))
    constants = tile.constants(G, D, N, rank)
    _ends[grid](
        x, dt, V, *weights, A, order, slots, totals, *sizes, **constants, ADJOINT=adjoint, **tile.launch()
    )  # fmt: skip
    size = G * D * N
    _carry[(triton.cdiv(size, 128), clips)](
        slots, totals, A, first, chunks, size, N, 128, 8, adjoint, num_warps=4, num_stages=1, **LAUNCH
    )
    return slots


def selective_scan_triton(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    skip: Tensor,
    order: Tensor,
    initial_state: Tensor | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """See `lgrnet.ops.selective_scan`; float32 inside, inputs as they are (float64 is rounded to float32)."""
    if len(x) > CLIPS:
        tokens = zip(*(t.split(CLIPS) for t in (x, dt, B, C)), strict=True)
        starts = repeat(None) if initial_state is None else initial_state.split(CLIPS)
        weights = dt_weight, dt_bias, A, skip, order
        parts = [selective_scan_triton(*t, *weights, start, True) for t, start in zip(tokens, starts, strict=False)]
        y, state = map(torch.cat, zip(*parts, strict=True))
        return (y, state) if return_state else y
    given = (x, dt, B, C, dt_weight, dt_bias, A, skip, initial_state)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    if dt_weight.shape[-1] > RANKS:
        with torch.autocast(x.device.type, enabled=False):
            dt = torch.einsum("blgr,gdr->blgd", dt.double(), dt_weight.double()).float()
        dt_weight = dt_weight.new_empty(*dt_weight.shape[:2], 0)
    initial = None if initial_state is None else initial_state.float()
    y, state, _ = scan_forward(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial, keep)
    return (y, state) if return_state else y


@torch.library.custom_op("lgrnet::scan_forward_triton", mutates_args=())
def scan_forward(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    skip: Tensor,
    order: Tensor,
    initial: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y [B, L, D], the last state [B, G, D, N], and the states that the backward pass starts from (empty unless
    `keep`). dt_weight [G, D, 0] says that dt is already projected: [B, L, G, D]."""
    (clips, length, D), (G, _, N), rank = x.shape, A.shape, dt_weight.shape[-1]
    y, state, kept = x.new_empty(x.shape), _state(x, A), _kept(x, A, keep)
    if x.numel() == 0:
        return y, state.zero_() if initial is None else state.copy_(initial), kept.zero_()
    x, dt, B, C, dt_weight, dt_bias, A, skip, order = _prepared(x, dt, B, C, dt_weight, dt_bias, A, skip, order)
    initial = None if initial is None else initial.contiguous()
    merge = length <= SHORT and G <= SIDE_BY_SIDE
    tile = _short_tile(G, D, N) if merge else _long_tile(D, N)
    chunk = _chunk(x, G, N)
    chunks = triton.cdiv(length, chunk)
    parts = A.new_empty(G, *x.shape) if G > 1 else None
    with _on(x):
        entries, weights = initial, (dt_weight, dt_bias)
        if chunks > 1:
            entries = _carried(x, dt, B, weights, A, order, initial, chunk, chunks, tile, False)
        blocks = triton.cdiv(D, tile.channels) * triton.cdiv(G, tile.directions)
        _forward[(chunks, blocks, clips)](
            x, dt, B, C, dt_weight, dt_bias, A, skip, order, entries, y, parts, state, kept if keep else None,
            length, D, N, chunk, *_strides(dt, B, C), **tile.constants(G, D, N, rank), GB=tile.directions,
            KEEP=_interval(N) if keep else 0, MERGE=merge and G > 1, MT=max(1, 32 * tile.warps // tile.channels),
            **tile.launch(),
        )  # fmt: skip
        if G > 1 and not merge:
            y = _sum(parts, y.dtype)
    return y, state, kept


@torch.library.custom_op("lgrnet::scan_backward_triton", mutates_args=())
def scan_backward(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    skip: Tensor,
    order: Tensor,
    kept: Tensor,
    dy: Tensor,
    dstate: Tensor,
) -> list[Tensor]:
    """Gradients of x; B, C and dt in one [B, L, G, N + N + R]; projected dt (R = 0, else empty); A, dt_weight, dt_bias
    and skip in one [G, D, N + R + 2]; the initial state."""
    (clips, length, D), (G, _, N), rank = x.shape, A.shape, dt_weight.shape[-1]
    kind = x.dtype
    types = {t.dtype for t in (dt, B, C)}
    if x.numel() == 0:
        return [t.zero_() for t in _gradients(x, dt, B, C, dt_weight, A)[:-1]] + [dstate.clone()]
    x, dt, B, C, dt_weight, dt_bias, A, skip, order = _prepared(x, dt, B, C, dt_weight, dt_bias, A, skip, order)
    dy, dstate = _rowwise(dy).contiguous(), dstate.contiguous()
    tile, chunk = _backward_tile(D, N, length <= SHORT), _chunk(x, G, N)
    chunks, blocks = triton.cdiv(length, chunk), triton.cdiv(D, tile.channels)
    parts, dz = A.new_empty(G, *x.shape), A.new_empty(clips, length, G, D) if rank == 0 else None
    of_tokens = A.new_empty(blocks, clips, length, G, 2 * N + rank)
    of_weights = A.new_empty(clips * chunks, G, D, N + rank + 2)
    dinitial, weights = torch.empty_like(dstate), (dt_weight, dt_bias)
    with _on(x):
        exits = dstate
        if chunks > 1:
            exits = _carried(dy, dt, C, weights, A, order, dstate, chunk, chunks, _long_tile(D, N), True)
        _backward[(chunks, blocks * G, clips)](
            x, dt, B, C, dt_weight, dt_bias, A, skip, order, kept, exits, dy, parts, of_tokens, dz, of_weights,
            dinitial, length, D, N, chunk, *_strides(dt, B, C), **tile.constants(G, D, N, rank), **tile.launch(),
        )  # fmt: skip
        dx, tokens = _sum(parts, kind), _sum(of_tokens, types.pop() if len(types) == 1 else torch.float32)
    return [dx, tokens, A.new_empty(0) if dz is None else dz, of_weights.sum(0), dinitial]


def _state(x: Tensor, A: Tensor) -> Tensor:
    return x.new_empty(len(x), *A.shape, dtype=torch.float32)


def _kept(x: Tensor, A: Tensor, keep: bool) -> Tensor:
    """[B, tiles of the backward pass, G, D, N]"""
    if not keep:
        return x.new_empty(0, dtype=torch.float32)
    tiles = (x.shape[1] + _interval(A.shape[-1]) - 1) // _interval(A.shape[-1])
    return x.new_empty(len(x), tiles, *A.shape, dtype=torch.float32)


def _gradients(x, dt, B, C, dt_weight, A) -> list[Tensor]:
    """Empty tensors in the shapes and types of `scan_backward`."""
    (clips, length, D), (G, _, N), rank = x.shape, A.shape, dt_weight.shape[-1]
    types = {t.dtype for t in (dt, B, C)}
    tokens = x.new_empty(clips, length, G, 2 * N + rank, dtype=types.pop() if len(types) == 1 else torch.float32)
    projected, of_weights = (clips, length, G, D) if rank == 0 else (0,), (G, D, N + rank + 2)
    floats = (x.new_empty(shape, dtype=torch.float32) for shape in (projected, of_weights, (clips, G, D, N)))
    return [x.new_empty(x.shape), tokens, *floats]


@scan_forward.register_fake
def _(x, dt, B, C, dt_weight, dt_bias, A, skip, order, initial, keep):
    return x.new_empty(x.shape), _state(x, A), _kept(x, A, keep)


@scan_backward.register_fake
def _(x, dt, B, C, dt_weight, dt_bias, A, skip, order, kept, dy, dstate):
    return _gradients(x, dt, B, C, dt_weight, A)


def _remember(ctx, inputs, output) -> None:
    *tensors, initial, _ = inputs
    ctx.has_initial = initial is not None
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)  # that of `kept` would be as large as it


def _gradient(ctx, dy, dstate, dkept):
    refuse_second_derivatives("scan")
    tensors = ctx.saved_tensors  # asked for once: activation checkpointing allows no more
    x, dt, B, C, dt_weight, dt_bias, A, skip, *_ = tensors
    dy = torch.zeros_like(x) if dy is None else dy
    dstate = _state(x, A).zero_() if dstate is None else dstate
    dx, tokens, projected, weights, dinitial = scan_backward(*tensors, dy, dstate)
    N, rank = A.shape[-1], dt_weight.shape[-1]
    dB, dC, ddt = tokens.split((N, N, rank), -1)
    dA, ddt_weight, dbias, dskip = weights.split((N, rank, 1, 1), -1)
    ddt = projected if rank == 0 else ddt
    of_tokens = (grad.to(t.dtype) for grad, t in zip((ddt, dB, dC), (dt, B, C), strict=True))
    of_weights = zip((ddt_weight, dbias[..., 0], dA, dskip[..., 0]), (dt_weight, dt_bias, A, skip), strict=True)
    return dx, *of_tokens, *(g.to(t.dtype) for g, t in of_weights), None, dinitial if ctx.has_initial else None, None


scan_forward.register_autograd(_gradient, setup_context=_remember)


def builds() -> list[Build]:
    """What tools/compile_kernels.py compiles: LGRNet's sizes (D 128, N 16, R 4), and odd ones that need masks."""
    shipped = _builds("bf16", 2, 128, 16, 4)
    wide = _builds("fp32", 4, 128, 16, 4)
    many = [build for name, build in _builds("fp32", SIDE_BY_SIDE, 64, 16, 16).items() if "forward short" in name]
    odd = _builds("fp32", 2, 100, 20, 0) | _builds("bf16", 3, 72, 64, 9)
    chosen = [build for name, build in wide.items() if "kept" in name or "backward" in name]
    return [*shipped.values(), *chosen, *many, *(b for name, b in odd.items() if "kept" in name or "backward" in name)]


def _builds(kind: str, G: int, D: int, N: int, R: int) -> dict[str, Build]:
    """Every kernel of the op for inputs of one type and one size, by name."""
    number = "i32:16" if D % 16 == 0 and N % 16 == 0 else "i32"
    types = dict.fromkeys(("x", "dt", "B", "C", "V", "y", "dy", "out"), f"*{kind}:16") | {"order": "*i32:16"}
    floats = "dt_weight dt_bias A skip entries parts last kept slots totals first ends exits of_tokens dz of_weights"
    types |= dict.fromkeys(f"{floats} dentry".split(), "*fp32:16") | {"channels": number, "states": number}
    types |= dict.fromkeys(CHANGING + [f"{a}_{b}" for a in ("dt", "B", "C", "V") for b in "blg"], "i32")
    long, short, keep = _long_tile(D, N), _short_tile(G, D, N), _interval(N)
    at_once = {"GB": short.directions, "MERGE": True, "MT": max(1, 32 * short.warps // short.channels)}
    chunked = {"GB": 1, "MERGE": False, "MT": 1}
    listed = [
        ("forward short", _forward, short, {"KEEP": 0, **at_once}),
        ("forward short, kept", _forward, short, {"KEEP": keep, **at_once}),
        ("forward long", _forward, long, {"KEEP": 0, **chunked}),
        ("forward long, kept", _forward, long, {"KEEP": keep, **chunked}),
        ("ends", _ends, long, {"ADJOINT": False}),
        ("ends, adjoint", _ends, long, {"ADJOINT": True}),
        ("carry", _carry, None, {"BLOCK": 128, "T": 8, "ADJOINT": False}),
        ("carry, adjoint", _carry, None, {"BLOCK": 128, "T": 8, "ADJOINT": True}),
        ("backward short", _backward, _backward_tile(D, N, True), {"dz": None} if R else {}),
        ("backward long", _backward, _backward_tile(D, N, False), {"dz": None} if R else {}),
        ("merge", _merge, None, {"P": G, "BLOCK": 1024}),
    ]
    found = {}
    for name, kernel, tile, constants in listed:
        constants |= tile.constants(G, D, N, R) if tile else {}
        signature = {argument: types[argument] for argument in kernel.arg_names if argument not in constants}
        name = f"{name} {kind} G{G} D{D} N{N} R{R}"
        found[name] = Build(name, kernel, signature, constants, tile.warps if tile else 4)
    return found
