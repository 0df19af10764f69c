"""Neighborhood attention between frames in Triton, forward and backward. No figure of it was measured on a GPU.

Design. With 8 channels in a head tensor cores have nothing to multiply: the kernels are plain multiply-adds, bound by
instructions and by reads of the nearest cache. A program owns a tile of tokens of one frame of one clip, of any level:
all levels are one launch. A tile is a run of BLOCK columns of ROWS rows (it goes on in the next rows where a row ends,
so that narrow levels waste nothing), all heads. Four threads hold the queries of four neighbours, eight of them the
eight heads: a warp reads 4 tokens * 64 channels in a row, each thread the 16 bytes of its own head's channels in
bfloat16, and the product of a query and a key needs no other thread. ROWS = 2: a key that is read serves the queries of
two rows, so that keys are read and converted 30 instead of 50 times for two queries of a 5 x 5 window, for a fifth more
products. With dilation the rows of a tile are neighbours among those that share keys.

Triton can read no shared memory at computed places. The halo of a tile (for 352 pixels 8 * 20 tokens * 256 bytes in
bfloat16) stands in the L1 cache instead, and is read by plain loads with all channels of a token in a row.

The frame before is an index: nothing is rolled, repeated or copied; q, k and v may be parts of one projection. Keys
that pad a level shorter than the window are masked loads: zeros, which take part in the softmax. The softmax runs over
rows of the window, with float32 sums in any type.

Backward: one kernel gathers dq over the keys of a query, with the forward's geometry; a second one gathers dk and dv
over the queries whose windows hold a key. Along an axis these are a run of places, too: of `window` places away from
the borders, of up to 2 window - 1 near them. Nothing is added atomically, so that the result is the same in every run.

Letters as in ops/neighborhood/__init__.py; a "place" is the number of a row (or column) among those of its residue
modulo `dilation`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.gpu.triton_kernels import LAUNCH, Build

__all__ = ["neighborhood_attention_triton"]

LOG2_E = tl.constexpr(1.4426950408889634)
ROWS = 2
WARPS = 4
VECTOR = 16
"""Bytes that a thread reads at once."""
UNSPECIALIZED = ["sides", "tiles", "frames", "frame_shift"]
"""Arguments whose values make no kernel of their own: sizes change from step to step. (Of the sides, which are a tuple,
Triton makes one for each pattern of multiples of 16 all the same: a few.)"""


@triton.jit
def _locate(tile, sides, LEVELS: tl.constexpr, DILATION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Height and width of a tile's level, the level's first token, and the tile's number in it."""
    height, width, first_token, first_tile = 1, 1, 0, 0
    tokens, tiles = 0, 0
    for level in tl.static_range(LEVELS):
        h, w = sides[2 * level], sides[2 * level + 1]
        here = tile >= tiles
        height, width = tl.where(here, h, height), tl.where(here, w, width)
        first_token, first_tile = tl.where(here, tokens, first_token), tl.where(here, tiles, first_tile)
        tokens += h * w
        tiles += tl.cdiv(DILATION * tl.cdiv(tl.cdiv(h, DILATION), ROWS) * w, BLOCK)
    return height, width, first_token, tile - first_tile


@triton.jit
def _places(tile, height, width, DILATION: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of each column of a tile [BLOCK]: residue and first place of its rows, residue and place along the width."""
    lane = tile * BLOCK + tl.arange(0, BLOCK)
    strip, x = lane // width, lane % width
    return strip % DILATION, strip // DILATION * ROWS, x % DILATION, x // DILATION


@triton.jit
def _members(side, residue, WINDOW: tl.constexpr, DILATION: tl.constexpr):
    """How many places an axis has, padded."""
    return tl.cdiv(tl.maximum(side, WINDOW * DILATION) - residue, DILATION)


@triton.jit
def _first_key(place, members, WINDOW: tl.constexpr):
    """The first place of a query's window."""
    return tl.minimum(tl.maximum(place - WINDOW // 2, 0), members - WINDOW)


@triton.jit
def _first_query(place, WINDOW: tl.constexpr):
    """The first place whose window holds a key."""
    return tl.where(place >= WINDOW, place - WINDOW // 2, 0)


@triton.jit
def _last_query(place, members, side, residue, WINDOW: tl.constexpr, DILATION: tl.constexpr):
    """The last place whose window holds a key; places that pad the axis are no queries."""
    return tl.where(place < members - WINDOW, place + WINDOW // 2, tl.cdiv(side - residue, DILATION) - 1)


@triton.jit
def _channels(HEADS: tl.constexpr, DIM: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """This program's heads [GROUP], and its channels in a token and whether they are there [GROUP * WIDTH]."""
    first = tl.program_id(1) * GROUP
    heads = first + tl.arange(0, GROUP)
    lanes = tl.arange(0, GROUP * WIDTH)
    # Where nothing is padded this is a plain run, which the compiler reads 16 bytes at a time.
    if WIDTH == DIM:
        return heads, first * DIM + lanes, first * DIM + lanes < HEADS * DIM
    head, channel = first + lanes // WIDTH, lanes % WIDTH
    return heads, head * DIM + channel, (head < HEADS) & (channel < DIM)


@triton.jit
def _tokens(start, residue_y, place_y, residue_x, place_x, height, width, DILATION: tl.constexpr, ROWS: tl.constexpr):
    """Of each row of a tile: its tokens, and whether they are there."""
    x = residue_x + place_x * DILATION
    token, there = (), ()
    for r in tl.static_range(ROWS):
        y = residue_y + (place_y + r) * DILATION
        token = token + (start + y * width + x,)
        there = there + (y < height,)
    return token, there


@triton.jit
def _window_rows(place_y, members, WINDOW: tl.constexpr, ROWS: tl.constexpr):
    """The place of the first row of keys [BLOCK], and of each row by how many rows its window starts later."""
    first = _first_key(place_y, members, WINDOW)
    later = ()
    for r in tl.static_range(ROWS):
        later = later + (_first_key(place_y + r, members, WINDOW) - first,)
    return first, later


@triton.jit
def _read(base, token, stride, there, channel, channel_there, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """The channels of the tokens [BLOCK] in float32: [BLOCK, GROUP, WIDTH], zeros where they are not there."""
    offsets = (token * stride)[:, None] + channel[None, :]
    numbers = tl.load(base + offsets, mask=there[:, None] & channel_there[None, :], other=0.0)
    return tl.reshape(numbers.to(tl.float32), [token.shape[0], GROUP, WIDTH])


@triton.jit
def _write(base, token, stride, there, channel, channel_there, numbers):
    """Numbers [BLOCK, GROUP, WIDTH] to the channels of the tokens [BLOCK]."""
    offsets = (token * stride)[:, None] + channel[None, :]
    numbers = tl.reshape(numbers, [token.shape[0], channel.shape[0]])
    tl.store(base + offsets, numbers.to(base.dtype.element_ty), mask=there[:, None] & channel_there[None, :])


@triton.jit
def _per_head(token, there, heads, HEADS: tl.constexpr):
    """Where the one number of each head of the tokens [BLOCK] is, and whether it is there: [BLOCK, GROUP]."""
    return (token * HEADS)[:, None] + heads[None, :], there[:, None] & (heads < HEADS)[None, :]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def neighborhood_forward_kernel(
    q,
    k,
    v,
    out,
    lse,
    sides,
    tiles,
    frames,
    frame_shift,
    q_clip,
    q_frame,
    q_token,
    k_clip,
    k_frame,
    k_token,
    v_clip,
    v_frame,
    v_token,
    out_frame,
    LEVELS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    DILATION: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,
):
    """out, and with KEEP lse: the logarithm to base 2 of the softmax's sum [B, T, S, heads]."""
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    clip, now = frame // frames, frame % frames
    past = tl.where(now >= frame_shift, now - frame_shift, now - frame_shift + frames)
    height, width, start, tile = _locate(tl.program_id(0) % tiles, sides, LEVELS, DILATION, ROWS, BLOCK)
    residue_y, place_y, residue_x, place_x = _places(tile, height, width, DILATION, ROWS, BLOCK)
    heads, channel, channel_there = _channels(HEADS, DIM, GROUP, WIDTH)
    token, there = _tokens(start, residue_y, place_y, residue_x, place_x, height, width, DILATION, ROWS)
    key_y, later = _window_rows(place_y, _members(height, residue_y, WINDOW, DILATION), WINDOW, ROWS)
    key_x = residue_x + _first_key(place_x, _members(width, residue_x, WINDOW, DILATION), WINDOW) * DILATION
    k += clip * k_clip + past * k_frame
    v += clip * v_clip + past * v_frame
    q += clip * q_clip + now * q_frame
    out += frame * out_frame
    lse += frame * (out_frame // DIM)

    queries, top, total, sums = (), (), (), ()
    for r in tl.static_range(ROWS):
        row = _read(q, token[r], q_token, there[r], channel, channel_there, GROUP, WIDTH)
        queries = queries + (row * LOG2_E,)
        # Below every logit that is no infinity; itself none, as infinity less infinity is no number.
        top = top + (tl.full([BLOCK, GROUP], -3.0e38, tl.float32),)
        total = total + (tl.zeros([BLOCK, GROUP], tl.float32),)
        sums = sums + (tl.zeros([BLOCK, GROUP, WIDTH], tl.float32),)

    for j in range(WINDOW + ROWS - 1):
        at_y = residue_y + (key_y + j) * DILATION
        logits = ()
        highest = top
        for i in tl.static_range(WINDOW):
            at_x = key_x + i * DILATION
            inside = (at_y < height) & (at_x < width)
            keys = _read(k, start + at_y * width + at_x, k_token, inside, channel, channel_there, GROUP, WIDTH)
            higher = ()
            for r in tl.static_range(ROWS):
                seen = (j >= later[r]) & (j < later[r] + WINDOW)
                logit = tl.where(seen[:, None], tl.sum(queries[r] * keys, 2), float("-inf"))
                logits = logits + (logit,)
                higher = higher + (tl.maximum(highest[r], logit),)
            highest = higher
        shrunk_total, shrunk_sums = (), ()
        for r in tl.static_range(ROWS):
            shrink = tl.exp2(top[r] - highest[r])
            shrunk_total = shrunk_total + (total[r] * shrink,)
            shrunk_sums = shrunk_sums + (sums[r] * shrink[:, :, None],)
        top, total, sums = highest, shrunk_total, shrunk_sums
        for i in tl.static_range(WINDOW):
            at_x = key_x + i * DILATION
            inside = (at_y < height) & (at_x < width)
            values = _read(v, start + at_y * width + at_x, v_token, inside, channel, channel_there, GROUP, WIDTH)
            new_total, new_sums = (), ()
            for r in tl.static_range(ROWS):
                # Zero times what is not finite is no zero: a row that is not seen adds nothing.
                seen = (j >= later[r]) & (j < later[r] + WINDOW)
                weight = tl.exp2(logits[i * ROWS + r] - top[r])
                new_total = new_total + (total[r] + weight,)
                new_sums = new_sums + (sums[r] + tl.where(seen[:, None, None], weight[:, :, None] * values, 0.0),)
            total, sums = new_total, new_sums

    for r in tl.static_range(ROWS):
        result = sums[r] / total[r][:, :, None]
        _write(out, token[r], HEADS * DIM, there[r], channel, channel_there, result)
        if KEEP:
            offsets, mask = _per_head(token[r], there[r], heads, HEADS)
            tl.store(lse + offsets, top[r] + tl.log2(total[r]), mask=mask)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def neighborhood_backward_query_kernel(
    q,
    k,
    v,
    out,
    lse,
    dout,
    dq,
    delta,
    sides,
    tiles,
    frames,
    frame_shift,
    q_clip,
    q_frame,
    q_token,
    k_clip,
    k_frame,
    k_token,
    v_clip,
    v_frame,
    v_token,
    out_frame,
    LEVELS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    DILATION: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dq, and delta [B, T, S, heads]: the product of a head's output and its gradient."""
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    clip, now = frame // frames, frame % frames
    past = tl.where(now >= frame_shift, now - frame_shift, now - frame_shift + frames)
    height, width, start, tile = _locate(tl.program_id(0) % tiles, sides, LEVELS, DILATION, ROWS, BLOCK)
    residue_y, place_y, residue_x, place_x = _places(tile, height, width, DILATION, ROWS, BLOCK)
    heads, channel, channel_there = _channels(HEADS, DIM, GROUP, WIDTH)
    token, there = _tokens(start, residue_y, place_y, residue_x, place_x, height, width, DILATION, ROWS)
    key_y, later = _window_rows(place_y, _members(height, residue_y, WINDOW, DILATION), WINDOW, ROWS)
    key_x = residue_x + _first_key(place_x, _members(width, residue_x, WINDOW, DILATION), WINDOW) * DILATION
    k += clip * k_clip + past * k_frame
    v += clip * v_clip + past * v_frame
    q += clip * q_clip + now * q_frame
    out += frame * out_frame
    dout += frame * out_frame
    dq += frame * out_frame
    lse += frame * (out_frame // DIM)
    delta += frame * (out_frame // DIM)

    queries, given, product, log_sum, gradient = (), (), (), (), ()
    for r in tl.static_range(ROWS):
        row = _read(q, token[r], q_token, there[r], channel, channel_there, GROUP, WIDTH)
        queries = queries + (row * LOG2_E,)
        given = given + (_read(dout, token[r], HEADS * DIM, there[r], channel, channel_there, GROUP, WIDTH),)
        result = _read(out, token[r], HEADS * DIM, there[r], channel, channel_there, GROUP, WIDTH)
        product = product + (tl.sum(given[r] * result, 2),)
        offsets, mask = _per_head(token[r], there[r], heads, HEADS)
        tl.store(delta + offsets, product[r], mask=mask)
        log_sum = log_sum + (tl.load(lse + offsets, mask=mask, other=0.0),)
        gradient = gradient + (tl.zeros([BLOCK, GROUP, WIDTH], tl.float32),)

    for j in range(WINDOW + ROWS - 1):
        at_y = residue_y + (key_y + j) * DILATION
        for i in tl.static_range(WINDOW):
            at_x = key_x + i * DILATION
            inside = (at_y < height) & (at_x < width)
            at = start + at_y * width + at_x
            keys = _read(k, at, k_token, inside, channel, channel_there, GROUP, WIDTH)
            values = _read(v, at, v_token, inside, channel, channel_there, GROUP, WIDTH)
            new_gradient = ()
            for r in tl.static_range(ROWS):
                seen = (j >= later[r]) & (j < later[r] + WINDOW)
                logit = tl.sum(queries[r] * keys, 2)
                dlogit = tl.exp2(logit - log_sum[r]) * (tl.sum(given[r] * values, 2) - product[r])
                owed = tl.where(seen[:, None, None], dlogit[:, :, None] * keys, 0.0)
                new_gradient = new_gradient + (gradient[r] + owed,)
            gradient = new_gradient
    for r in tl.static_range(ROWS):
        _write(dq, token[r], HEADS * DIM, there[r], channel, channel_there, gradient[r])


@triton.jit
def _pull(
    q, dout, lse, delta, at, q_token, inside, first_key, place_y, keys, values, dkeys, dvalues,
    heads, channel, channel_there,
    WINDOW: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Adds what the queries `at` [BLOCK] owe to the keys and values of each row; their windows begin at `first_key`."""
    queries = _read(q, at, q_token, inside, channel, channel_there, GROUP, WIDTH)
    given = _read(dout, at, HEADS * DIM, inside, channel, channel_there, GROUP, WIDTH)
    offsets, mask = _per_head(at, inside, heads, HEADS)
    log_sum = tl.load(lse + offsets, mask=mask, other=0.0)
    product = tl.load(delta + offsets, mask=mask, other=0.0)
    new_dkeys, new_dvalues = (), ()
    for r in tl.static_range(ROWS):
        seen = inside & (first_key <= place_y + r) & (place_y + r < first_key + WINDOW)
        logit = tl.sum(queries * keys[r], 2)
        weight = tl.exp2(logit - log_sum)
        dlogit = weight * (tl.sum(given * values[r], 2) - product)
        new_dkeys = new_dkeys + (dkeys[r] + tl.where(seen[:, None, None], dlogit[:, :, None] * queries, 0.0),)
        new_dvalues = new_dvalues + (dvalues[r] + tl.where(seen[:, None, None], weight[:, :, None] * given, 0.0),)
    return new_dkeys, new_dvalues


@triton.jit(do_not_specialize=UNSPECIALIZED)
def neighborhood_backward_key_kernel(
    q,
    k,
    v,
    lse,
    delta,
    dout,
    dk,
    dv,
    sides,
    tiles,
    frames,
    frame_shift,
    q_clip,
    q_frame,
    q_token,
    k_clip,
    k_frame,
    k_token,
    v_clip,
    v_frame,
    v_token,
    out_frame,
    LEVELS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    WINDOW: tl.constexpr,
    DILATION: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dk and dv: a tile of keys gathers from the queries of the frame that looks at it."""
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    clip, now = frame // frames, frame % frames
    then = tl.where(now + frame_shift < frames, now + frame_shift, now + frame_shift - frames)
    height, width, start, tile = _locate(tl.program_id(0) % tiles, sides, LEVELS, DILATION, ROWS, BLOCK)
    residue_y, place_y, residue_x, place_x = _places(tile, height, width, DILATION, ROWS, BLOCK)
    heads, channel, channel_there = _channels(HEADS, DIM, GROUP, WIDTH)
    token, there = _tokens(start, residue_y, place_y, residue_x, place_x, height, width, DILATION, ROWS)
    k += clip * k_clip + now * k_frame
    v += clip * v_clip + now * v_frame
    q += clip * q_clip + then * q_frame
    dout += (clip * frames + then) * out_frame
    lse += (clip * frames + then) * (out_frame // DIM)
    delta += (clip * frames + then) * (out_frame // DIM)

    members = _members(height, residue_y, WINDOW, DILATION)
    keys, values, dkeys, dvalues = (), (), (), ()
    for r in tl.static_range(ROWS):
        # The factor goes with the keys here: their gradient does not see it.
        row = _read(k, token[r], k_token, there[r], channel, channel_there, GROUP, WIDTH)
        keys = keys + (row * LOG2_E,)
        values = values + (_read(v, token[r], v_token, there[r], channel, channel_there, GROUP, WIDTH),)
        dkeys = dkeys + (tl.zeros([BLOCK, GROUP, WIDTH], tl.float32),)
        dvalues = dvalues + (tl.zeros([BLOCK, GROUP, WIDTH], tl.float32),)
    top = _first_query(place_y, WINDOW)
    bottom = _last_query(place_y + ROWS - 1, members, height, residue_y, WINDOW, DILATION)
    left = _first_query(place_x, WINDOW)
    right = _last_query(place_x, _members(width, residue_x, WINDOW, DILATION), width, residue_x, WINDOW, DILATION)

    columns = tl.max(right - left, 0) + 1
    for j in range(tl.max(bottom - top, 0) + 1):
        first_key = _first_key(top + j, members, WINDOW)
        at_y = residue_y + (top + j) * DILATION
        line = start + at_y * width + residue_x
        # Unrolled it takes a third more registers, and with some releases of Triton it spills.
        for i in range(columns):
            inside = (at_y < height) & (left + i <= right)
            dkeys, dvalues = _pull(
                q, dout, lse, delta, line + (left + i) * DILATION, q_token, inside, first_key, place_y, keys,
                values, dkeys, dvalues, heads, channel, channel_there, WINDOW, HEADS, DIM, GROUP, WIDTH, ROWS,
            )  # fmt: skip
    for r in tl.static_range(ROWS):
        _write(dk + frame * out_frame, token[r], HEADS * DIM, there[r], channel, channel_there, dkeys[r])
        _write(dv + frame * out_frame, token[r], HEADS * DIM, there[r], channel, channel_there, dvalues[r])


def neighborhood_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shapes: tuple[tuple[int, int], ...],
    window: int,
    dilation: int,
    frame_shift: int,
) -> Tensor:
    """See `lgrnet.ops.neighborhood_attention`; sums in float32."""
    sides = [side for shape in shapes for side in shape]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    return neighborhood_forward(q, k, v, sides, window, dilation, frame_shift, keep)[0]


@torch.library.custom_op("lgrnet::neighborhood_forward_triton", mutates_args=())
def neighborhood_forward(
    q: Tensor, k: Tensor, v: Tensor, sides: list[int], window: int, dilation: int, frame_shift: int, keep: bool
) -> tuple[Tensor, Tensor]:
    """[B, T, S, heads, d], and what the backward pass needs of the softmax (empty unless `keep`)."""
    out, lse = _like(q), _sums(q, keep)
    if q.numel():
        q, k, v = map(_rows, (q, k, v))
        grid, sizes, options = _launch(q, k, v, sides, window, dilation, frame_shift)
        with torch.cuda.device_of(q):
            neighborhood_forward_kernel[grid](q, k, v, out, lse, *sizes, KEEP=keep, **options)
    return out, lse


@torch.library.custom_op("lgrnet::neighborhood_backward_triton", mutates_args=())
def neighborhood_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    sides: list[int],
    window: int,
    dilation: int,
    frame_shift: int,
) -> list[Tensor]:
    """Gradients of q, k and v."""
    dq, dk, dv = map(_like, (q, k, v))
    if q.numel():
        q, k, v = map(_rows, (q, k, v))
        dout, delta = dout.contiguous(), torch.empty_like(lse)
        grid, sizes, options = _launch(q, k, v, sides, window, dilation, frame_shift)
        with torch.cuda.device_of(q):
            neighborhood_backward_query_kernel[grid](q, k, v, out, lse, dout, dq, delta, *sizes, **options)
            neighborhood_backward_key_kernel[grid](q, k, v, lse, delta, dout, dk, dv, *sizes, **options)
    return [dq, dk, dv]


@neighborhood_forward.register_fake
def _(q, k, v, sides, window, dilation, frame_shift, keep):
    return _like(q), _sums(q, keep)


@neighborhood_backward.register_fake
def _(q, k, v, out, lse, dout, sides, window, dilation, frame_shift):
    return [_like(t) for t in (q, k, v)]


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.sides, ctx.window, ctx.dilation, ctx.frame_shift, _ = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dout, dlse):
    refuse_second_derivatives("neighborhood attention")
    gradients = neighborhood_backward(*ctx.saved_tensors, dout, ctx.sides, ctx.window, ctx.dilation, ctx.frame_shift)
    return *gradients, None, None, None, None, None


neighborhood_forward.register_autograd(_backward, setup_context=_remember)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _sums(q: Tensor, keep: bool) -> Tensor:
    return q.new_empty(q.shape[:-1] if keep else 0, dtype=torch.float32)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself where the channels of a token lie side by side, as in the half of a projection; else a copy."""
    heads, dim = tensor.shape[-2:]
    dense = (heads == 1 or tensor.stride(-2) == dim) and (dim == 1 or tensor.stride(-1) == 1)
    return tensor if dense else tensor.contiguous()


def _launch(q: Tensor, k: Tensor, v: Tensor, sides: list[int], window: int, dilation: int, frame_shift: int):
    """The grid, the sizes that every kernel takes and its constants."""
    clips, frames, tokens, heads, dim = q.shape
    constants = _constants(heads, dim, k.element_size())
    tiles = sum(
        triton.cdiv(dilation * triton.cdiv(triton.cdiv(h, dilation), ROWS) * w, constants["BLOCK"])
        for h, w in zip(sides[::2], sides[1::2], strict=True)
    )
    strides = [stride for t in (q, k, v) for stride in t.stride()[:3]]
    sizes = (tuple(sides), tiles, frames, frame_shift % frames, *strides, tokens * heads * dim)
    of_call = {"LEVELS": len(sides) // 2, "WINDOW": window, "DILATION": dilation}
    grid = (clips * frames * tiles, triton.cdiv(heads, constants["GROUP"]))
    return grid, sizes, constants | of_call | {"num_warps": WARPS, "num_stages": 1, **LAUNCH}


def _constants(heads: int, dim: int, element_size: int) -> dict[str, int]:
    """How much a program takes, of heads and of columns: a row of its tile is one vector for each thread."""
    numbers = WARPS * 32 * VECTOR // element_size
    width = triton.next_power_of_2(dim)
    if width != dim:  # read one by one, which takes more registers
        numbers //= 4
    group = min(triton.next_power_of_2(heads), max(1, numbers // width))
    block = max(1, numbers // (group * width))
    return {"HEADS": heads, "DIM": dim, "GROUP": group, "WIDTH": width, "ROWS": ROWS, "BLOCK": block}


def builds() -> list[Build]:
    """What tools/compile_kernels.py compiles: LGRNet's sizes (8 heads of 8 channels, window 5), and others."""
    found = []
    for kind in ("bf16", "fp32"):
        found += _builds(kind, 8, 8, 5, 1)
    return [*found, *_builds("bf16", 4, 32, 7, 1), *_builds("fp32", 3, 20, 3, 2)]


def _builds(kind: str, heads: int, dim: int, window: int, dilation: int, levels: int = 3) -> list[Build]:
    """Every kernel of the op for inputs of one type and one size."""
    names = "q k v out dout dq dk dv".split()
    types = dict.fromkeys(names, f"*{kind}:16") | {"lse": "*fp32:16", "delta": "*fp32:16"}
    number = "i32:16" if heads * dim % 16 == 0 else "i32"
    strides = [f"{name}_{axis}" for name in "qkv" for axis in ("clip", "frame", "token")]
    types |= dict.fromkeys([*strides, "out_frame"], number) | dict.fromkeys(UNSPECIALIZED, "i32")
    types["sides"] = ("i32",) * (2 * levels)
    constants = _constants(heads, dim, 4 if kind == "fp32" else 2)
    constants |= {"LEVELS": levels, "WINDOW": window, "DILATION": dilation}

    def build(name: str, kernel, **own) -> Build:
        signature = {argument: types[argument] for argument in kernel.arg_names if argument in types}
        label = f"{name} {kind} {heads}x{dim} w{window}"
        return Build(label, kernel, signature, constants | own, WARPS)

    return [
        build("forward", neighborhood_forward_kernel, KEEP=False),
        build("forward, kept", neighborhood_forward_kernel, KEEP=True),
        build("backward q", neighborhood_backward_query_kernel),
        build("backward k v", neighborhood_backward_key_kernel),
    ]
