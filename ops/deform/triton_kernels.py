"""Multi-scale deformable attention in Triton, forward and backward. No figure of it was measured on a GPU.

Forward and the gradients of offsets and logits. A thread owns one sample of one query and head in every level: the
points of a query and head are neighbours in a warp, and so are heads and queries. Offsets and logits are read in the
order of memory; place, softmax and corner weights are computed once for a sample, not once for a channel; a corner's
channels are one read of 16 bytes (8 in bfloat16), products over channels need no other thread, and the sum over the
points is two shuffles at the end. Softmax and reference points are inside: nothing but the inputs is read and nothing
but the results is written.

The value map of a (frame, head), 41 kB in bfloat16 at 352 pixels, would fit into shared memory, but Triton cannot read
it there at computed places: `tl.gather` (3.6 and 3.9) turns into shuffles between all registers that hold the map, 512
for a map of 512 pixels, and for 4096 it did not compile in five minutes. The L1 cache serves the 16-byte reads instead;
all heads of a few neighbouring queries are in one program, because their samples lie near each other and the heads of a
token share its cache line.

The gradient of the values has no atomics and is the same in every run. A first kernel lays out the samples by (frame,
head, level): x, y and weight, and the box around each 32 of them, a few queries or a part of one. In a second one a
program owns a tile of TALL x WIDE pixels of one (frame, head). It looks through the boxes, 32 at a time, and takes the
samples of those that touch its tile: with 32 of them as the inner dimension, the gradient of the tile is the product of
a matrix of bilinear weights along y [TALL, samples] and one of weights along x times the output's gradient [samples,
WIDE * channels]. That is a tensor-core product (tf32, for float32 inputs three of them), because the weight of a sample
for a pixel is separable and zero beyond one pixel. Sums stay in registers and are written once. What a tile does not
see it never reads, but samples scattered over the whole map make every tile read most of them: it is made for offsets
of some pixels. A gradient dout that is no number spoils its tile instead of its pixels.

Letters as in ops/deform/__init__.py; a "row" is query * heads + head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.gpu.triton_kernels import LAUNCH, Build

__all__ = ["ms_deform_attn_triton"]

LOG2_E = tl.constexpr(1.4426950408889634)
FAR = tl.constexpr(1.0e30)
WARPS = 4
LANES = 32 * WARPS
"""Samples of each level in a program: one for each thread, so that the compiler has one way to deal them out."""
VECTOR = 16
"""Bytes that a thread reads at once."""
SAMPLES = 32
"""Samples under one box, and inner dimension of the products."""
TALL = 16
"""Height of a tile of the values' gradient: what a tensor-core product has at least."""
COLUMNS = 64
"""Width times channels of such a tile."""
UNSPECIALIZED = ["sides", "tiles", "queries", "blocks"]
"""Arguments whose values make no kernel of their own: sizes change from step to step. (Of the sides, which are a tuple,
Triton makes one for each pattern of multiples of 16 all the same: a few.)"""


@triton.jit
def _over_points(numbers, combine_max: tl.constexpr, PADDED: tl.constexpr):
    """The sum or maximum over the points of a row, for every one of them: [LANES]."""
    grouped = tl.reshape(numbers, [numbers.shape[0] // PADDED, PADDED])
    combined = tl.max(grouped, 1) if combine_max else tl.sum(grouped, 1)
    return tl.reshape(tl.broadcast_to(combined[:, None], grouped.shape), [numbers.shape[0]])


@triton.jit
def _logit(logits, row, point, there, level: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr):
    """To base 2; minus infinity where there is none."""
    place = (row * LEVELS + level) * POINTS + point
    return tl.load(logits + place, mask=there, other=float("-inf")).to(tl.float32) * LOG2_E


@triton.jit
def _softmax(logits, row, point, there, LEVELS: tl.constexpr, POINTS: tl.constexpr, PADDED: tl.constexpr):
    """Of each row: the highest logit, and the sum of the exponentials after it is taken off."""
    top = tl.full([row.shape[0]], -3.0e38, tl.float32)
    for level in tl.static_range(LEVELS):
        top = tl.maximum(top, _logit(logits, row, point, there, level, LEVELS, POINTS))
    top = _over_points(top, True, PADDED)
    total = tl.zeros([row.shape[0]], tl.float32)
    for level in tl.static_range(LEVELS):
        total += tl.exp2(_logit(logits, row, point, there, level, LEVELS, POINTS) - top)
    return top, _over_points(total, False, PADDED)


@triton.jit
def _place(
    offsets, reference, row, query, point, there, height, width, level: tl.constexpr,
    LEVELS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """x and y in pixels, 0 the centre of the first; at most two outside, where no corner is in the map."""
    axis = tl.arange(0, 2)[None, :]
    at = ((row * LEVELS + level) * POINTS + point)[:, None] * 2 + axis
    offset_x, offset_y = tl.split(tl.load(offsets + at, mask=there[:, None], other=0.0).to(tl.float32))
    at = (query * LEVELS + level)[:, None] * 2 + axis
    reference_x, reference_y = tl.split(tl.load(reference + at, mask=there[:, None], other=0.0).to(tl.float32))
    x = reference_x * width + offset_x - 0.5
    y = reference_y * height + offset_y - 0.5
    return _clamped(x, width), _clamped(y, height)


@triton.jit
def _clamped(x, side):
    return tl.clamp(x, -2.0, side + 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _corner(value, head, start, y, x, height, width, HEADS: tl.constexpr, DIM: tl.constexpr):
    """Where a corner's channels begin [LANES], and whether it is in the map."""
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return value + (start + y * width + x) * (HEADS * DIM) + head * DIM, inside


@triton.jit
def _read(base, there, chunk, DIM: tl.constexpr, VECTOR: tl.constexpr):
    """Channels of one chunk in float32: [LANES, VECTOR]."""
    channel = chunk * VECTOR + tl.arange(0, VECTOR)[None, :]
    return tl.load(base[:, None] + channel, mask=there[:, None] & (channel < DIM), other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def deform_forward_kernel(
    value,
    offsets,
    logits,
    reference,
    out,
    sides,
    tiles,
    queries,
    value_clip,
    reference_clip,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    VECTOR: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
):
    """out [B, Q, heads, d], CHUNKS chunks of channels"""
    first_chunk = tl.program_id(1) * CHUNKS
    clip = (tl.program_id(0) // tiles).to(tl.int64)
    lane = tl.arange(0, LANES)
    row = (tl.program_id(0) % tiles) * (LANES // PADDED) + lane // PADDED
    point, query, head = lane % PADDED, row // HEADS, row % HEADS
    there = (row < queries * HEADS) & (point < POINTS)
    rows = clip * queries * HEADS
    value += clip * value_clip
    offsets += rows * (LEVELS * POINTS * 2)
    logits += rows * (LEVELS * POINTS)
    reference += clip * reference_clip

    top, total = _softmax(logits, row, point, there, LEVELS, POINTS, PADDED)
    sums = ()
    for _ in tl.static_range(CHUNKS):
        sums = sums + (tl.zeros([LANES, VECTOR], tl.float32),)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sides[2 * level], sides[2 * level + 1]
        x, y = _place(offsets, reference, row, query, point, there, height, width, level, LEVELS, POINTS)
        left, above = tl.floor(x), tl.floor(y)
        weight = tl.exp2(_logit(logits, row, point, there, level, LEVELS, POINTS) - top) / total
        for j in tl.static_range(2):
            weight_y = weight * (y - above if j else 1.0 - (y - above))
            for i in tl.static_range(2):
                share = weight_y * (x - left if i else 1.0 - (x - left))
                at_y, at_x = above.to(tl.int32) + j, left.to(tl.int32) + i
                base, inside = _corner(value, head, start, at_y, at_x, height, width, HEADS, DIM)
                added = ()
                for chunk in tl.static_range(CHUNKS):
                    numbers = _read(base, inside & there, first_chunk + chunk, DIM, VECTOR)
                    added = added + (sums[chunk] + share[:, None] * numbers,)
                sums = added
        start += height * width

    first = tl.program_id(0) % tiles * (LANES // PADDED)
    of_tile = first + tl.arange(0, LANES // PADDED)
    for chunk in tl.static_range(CHUNKS):
        channel = (first_chunk + chunk) * VECTOR + tl.arange(0, VECTOR)[None, :]
        numbers = tl.sum(tl.reshape(sums[chunk], [LANES // PADDED, PADDED, VECTOR]), 1)
        mask = (of_tile < queries * HEADS)[:, None] & (channel < DIM)
        tl.store(out + rows * DIM + of_tile[:, None] * DIM + channel, numbers.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def deform_backward_query_kernel(
    value,
    offsets,
    logits,
    reference,
    dout,
    doffsets,
    dlogits,
    sides,
    tiles,
    queries,
    value_clip,
    reference_clip,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    VECTOR: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
):
    """doffsets and dlogits, as the forward reads the offsets and logits."""
    clip = (tl.program_id(0) // tiles).to(tl.int64)
    lane = tl.arange(0, LANES)
    row = (tl.program_id(0) % tiles) * (LANES // PADDED) + lane // PADDED
    point, query, head = lane % PADDED, row // HEADS, row % HEADS
    there = (row < queries * HEADS) & (point < POINTS)
    rows = clip * queries * HEADS
    value += clip * value_clip
    offsets += rows * (LEVELS * POINTS * 2)
    doffsets += rows * (LEVELS * POINTS * 2)
    logits += rows * (LEVELS * POINTS)
    dlogits += rows * (LEVELS * POINTS)
    reference += clip * reference_clip
    dout += rows * DIM

    top, total = _softmax(logits, row, point, there, LEVELS, POINTS, PADDED)
    weights, slopes = (), ()
    mean = tl.zeros([LANES], tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = sides[2 * level], sides[2 * level + 1]
        x, y = _place(offsets, reference, row, query, point, there, height, width, level, LEVELS, POINTS)
        left, above = tl.floor(x), tl.floor(y)
        right_share, lower_share = x - left, y - above
        weight = tl.exp2(_logit(logits, row, point, there, level, LEVELS, POINTS) - top) / total
        bases, insides, products = (), (), ()
        for corner in tl.static_range(4):
            at_y, at_x = above.to(tl.int32) + corner // 2, left.to(tl.int32) + corner % 2
            base, inside = _corner(value, head, start, at_y, at_x, height, width, HEADS, DIM)
            bases, insides = bases + (base,), insides + (inside & there,)
            products = products + (tl.zeros([LANES], tl.float32),)
        for chunk in range(CHUNKS):
            given = _read(dout + row * DIM, there, chunk, DIM, VECTOR)
            added = ()
            for corner in tl.static_range(4):
                numbers = _read(bases[corner], insides[corner], chunk, DIM, VECTOR)
                added = added + (products[corner] + tl.sum(numbers * given, 1),)
            products = added
        upper_step, lower_step = products[1] - products[0], products[3] - products[2]
        upper = products[0] + right_share * upper_step
        lower = products[2] + right_share * lower_step
        slope_x = (1.0 - lower_share) * upper_step + lower_share * lower_step
        slope = upper + lower_share * (lower - upper)
        at = ((row * LEVELS + level) * POINTS + point)[:, None] * 2 + tl.arange(0, 2)[None, :]
        slopes_xy = tl.join(weight * slope_x, weight * (lower - upper))
        tl.store(doffsets + at, slopes_xy.to(doffsets.dtype.element_ty), mask=there[:, None])
        # Lanes beyond the last point weigh nothing.
        mean += tl.where(there, weight * slope, 0.0)
        weights, slopes = weights + (weight,), slopes + (slope,)
        start += height * width
    mean = _over_points(mean, False, PADDED)
    for level in tl.static_range(LEVELS):
        dlogit = weights[level] * (slopes[level] - mean)
        place = (row * LEVELS + level) * POINTS + point
        tl.store(dlogits + place, dlogit.to(dlogits.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def deform_samples_kernel(
    offsets,
    logits,
    reference,
    samples,
    boxes,
    sides,
    tiles,
    queries,
    blocks,
    reference_clip,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    HEADS: tl.constexpr,
    PADDED: tl.constexpr,
    SAMPLES: tl.constexpr,
    LANES: tl.constexpr,
):
    """samples [B, heads, levels, 3, blocks, SAMPLES] with x, y and weight, and of those of a block that touch the map
    boxes [B, heads, levels, 4, blocks] with the least and greatest x, the least and greatest y."""
    clip = (tl.program_id(0) // tiles).to(tl.int64)
    head = tl.program_id(1)
    first = (tl.program_id(0) % tiles) * LANES
    lane = tl.arange(0, LANES)
    query, point = (first + lane) // PADDED, lane % PADDED
    row = query * HEADS + head
    there = (query < queries) & (point < POINTS)
    rows = clip * queries * HEADS
    offsets += rows * (LEVELS * POINTS * 2)
    logits += rows * (LEVELS * POINTS)
    reference += clip * reference_clip
    plane = (clip * HEADS + head) * LEVELS
    samples += plane * 3 * blocks * SAMPLES + first + lane
    boxes += plane * 4 * blocks + first // SAMPLES + tl.arange(0, LANES // SAMPLES)

    top, total = _softmax(logits, row, point, there, LEVELS, POINTS, PADDED)
    for level in tl.static_range(LEVELS):
        height, width = sides[2 * level], sides[2 * level + 1]
        x, y = _place(offsets, reference, row, query, point, there, height, width, level, LEVELS, POINTS)
        weight = tl.exp2(_logit(logits, row, point, there, level, LEVELS, POINTS) - top) / total
        touches = there & (x > -1.0) & (x < width) & (y > -1.0) & (y < height)
        tl.store(samples + (level * 3 + 0) * blocks * SAMPLES, x)
        tl.store(samples + (level * 3 + 1) * blocks * SAMPLES, y)
        tl.store(samples + (level * 3 + 2) * blocks * SAMPLES, tl.where(touches, weight, 0.0))
        for axis in tl.static_range(2):
            place = y if axis else x
            low = tl.reshape(tl.where(touches, place, FAR), [LANES // SAMPLES, SAMPLES])
            high = tl.reshape(tl.where(touches, place, -FAR), [LANES // SAMPLES, SAMPLES])
            tl.store(boxes + (level * 4 + 2 * axis) * blocks, tl.min(low, 1))
            tl.store(boxes + (level * 4 + 2 * axis + 1) * blocks, tl.max(high, 1))


@triton.jit
def _locate(tile, sides, LEVELS: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr):
    """A tile's level, its height, width and first token, and the tile's first row and column."""
    level, height, width, first_token, first_tile = 0, 1, 1, 0, 0
    tokens, tiles = 0, 0
    for i in tl.static_range(LEVELS):
        h, w = sides[2 * i], sides[2 * i + 1]
        here = tile >= tiles
        level, height, width = tl.where(here, i, level), tl.where(here, h, height), tl.where(here, w, width)
        first_token, first_tile = tl.where(here, tokens, first_token), tl.where(here, tiles, first_tile)
        tokens += h * w
        tiles += tl.cdiv(h, TALL) * tl.cdiv(w, WIDE)
    across = tl.cdiv(width, WIDE)
    inner = tile - first_tile
    return level, height, width, first_token, inner // across * TALL, inner % across * WIDE


@triton.jit(do_not_specialize=UNSPECIALIZED)
def deform_backward_value_kernel(
    samples,
    boxes,
    dout,
    dvalue,
    sides,
    tiles,
    queries,
    blocks,
    value_clip,
    LEVELS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    SAMPLES: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dvalue: a tile of pixels gathers from the samples that touch it."""
    clip = (tl.program_id(0) // tiles).to(tl.int64)
    head = tl.program_id(1)
    level, height, width, start, top, left = _locate(tl.program_id(0) % tiles, sides, LEVELS, TALL, WIDE)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    rows, columns = top + tl.arange(0, TALL), left + tl.arange(0, WIDE)
    plane = (clip * HEADS + head) * LEVELS + level
    samples += plane * 3 * blocks * SAMPLES
    boxes += plane * 4 * blocks
    dout += (clip * queries * HEADS + head) * DIM
    sample, box = tl.arange(0, SAMPLES), tl.arange(0, 32)

    sums = tl.zeros([TALL, WIDE * CHANNELS], tl.float32)
    for group in range(tl.cdiv(blocks, 32)):
        block = group * 32 + box
        known = block < blocks
        hit = known & (tl.load(boxes + block, mask=known, other=FAR) < left + WIDE)
        hit &= tl.load(boxes + blocks + block, mask=known, other=-FAR) > left - 1
        hit &= tl.load(boxes + 2 * blocks + block, mask=known, other=FAR) < top + TALL
        hit &= tl.load(boxes + 3 * blocks + block, mask=known, other=-FAR) > top - 1
        number = tl.cumsum(hit.to(tl.int32), 0)
        for wanted in range(tl.sum(hit.to(tl.int32), 0)):
            taken = group * 32 + tl.sum(tl.where(hit & (number == wanted + 1), box, 0), 0)
            at = taken * SAMPLES + sample
            x, y = tl.load(samples + at), tl.load(samples + blocks * SAMPLES + at)
            weight = tl.load(samples + 2 * blocks * SAMPLES + at)
            share_y = weight[:, None] * tl.maximum(1.0 - tl.abs(y[:, None] - rows[None, :]), 0.0)
            share_x = tl.maximum(1.0 - tl.abs(x[:, None] - columns[None, :]), 0.0)  # [SAMPLES, WIDE]
            query = at // PADDED
            place = (query * (HEADS * DIM))[:, None, None] + tl.zeros([WIDE], tl.int32)[None, :, None] + channel
            mask = (query < queries)[:, None, None] & (channel < DIM)[None, None, :]
            given = tl.load(dout + place, mask=mask, other=0.0).to(tl.float32)
            spread = tl.reshape(share_x[:, :, None] * given, [SAMPLES, WIDE * CHANNELS])
            sums = tl.dot(tl.trans(share_y), spread, sums, input_precision=PRECISION)

    numbers = tl.reshape(sums, [TALL, WIDE, CHANNELS]).to(dvalue.dtype.element_ty)
    token = start + rows[:, None] * width + columns[None, :]
    place = (token * HEADS + head)[:, :, None] * DIM + channel[None, None, :]
    mask = ((rows < height)[:, None] & (columns < width)[None, :])[:, :, None] & (channel < DIM)[None, None, :]
    tl.store(dvalue + clip * value_clip + place, numbers, mask=mask)


def ms_deform_attn_triton(
    value: Tensor, offsets: Tensor, weight_logits: Tensor, reference: Tensor, shapes: tuple[tuple[int, int], ...]
) -> Tensor:
    """See `lgrnet.ops.ms_deform_attn`; sums in float32."""
    return deform_forward(value, offsets, weight_logits, reference, [side for shape in shapes for side in shape])


@torch.library.custom_op("lgrnet::deform_forward_triton", mutates_args=())
def deform_forward(value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor, sides: list[int]) -> Tensor:
    """[B, Q, heads * d]; `sides` are height, width, height, width, ... of the levels."""
    out = _out(value, offsets)
    if logits.numel() == 0:
        return out.zero_()
    value, offsets, logits, reference = (t.contiguous() for t in (value, offsets, logits, reference))
    grid, sizes, constants = _launch(value, offsets, reference, sides)
    constants, parts = _part(constants)
    with torch.cuda.device_of(value):
        deform_forward_kernel[grid[0], parts](value, offsets, logits, reference, out, *sizes, **constants, **OPTIONS)
    return out


@torch.library.custom_op("lgrnet::deform_backward_triton", mutates_args=())
def deform_backward(
    value: Tensor, offsets: Tensor, logits: Tensor, reference: Tensor, dout: Tensor, sides: list[int]
) -> list[Tensor]:
    """Gradients of value, offsets and logits."""
    value, offsets, logits, reference, dout = (t.contiguous() for t in (value, offsets, logits, reference, dout))
    gradients = dvalue, doffsets, dlogits = [torch.empty_like(t) for t in (value, offsets, logits)]
    if logits.numel() == 0:
        return [t.zero_() for t in gradients]
    grid, sizes, constants = _launch(value, offsets, reference, sides)
    with torch.cuda.device_of(value):
        deform_backward_query_kernel[grid](
            value, offsets, logits, reference, dout, doffsets, dlogits, *sizes, **constants, **OPTIONS
        )
        _backward_value(dvalue, offsets, logits, reference, dout, sides)
    return gradients


def _backward_value(dvalue, offsets, logits, reference, dout, sides: list[int]) -> None:
    """Two kernels, and room for the samples between them."""
    batch, queries, heads, levels, points, _ = offsets.shape
    dim = dvalue.shape[3]
    constants = _sample_constants(points)
    tiles = triton.cdiv(queries * constants["PADDED"], constants["LANES"])
    blocks = tiles * (constants["LANES"] // constants["SAMPLES"])
    samples = offsets.new_empty(batch, heads, levels, 3, blocks, constants["SAMPLES"], dtype=torch.float32)
    boxes = offsets.new_empty(batch, heads, levels, 4, blocks, dtype=torch.float32)
    deform_samples_kernel[batch * tiles, heads](
        offsets, logits, reference, samples, boxes, tuple(sides), tiles, queries, blocks, _clip_stride(reference),
        LEVELS=levels, POINTS=points, HEADS=heads, **constants, **OPTIONS,
    )  # fmt: skip
    constants = _tile_constants(points, heads, dim, dvalue.dtype)
    tiles = sum(
        triton.cdiv(h, constants["TALL"]) * triton.cdiv(w, constants["WIDE"])
        for h, w in zip(sides[::2], sides[1::2], strict=True)
    )
    deform_backward_value_kernel[batch * tiles, heads, triton.cdiv(dim, constants["CHANNELS"])](
        samples, boxes, dout, dvalue, tuple(sides), tiles, queries, blocks, dvalue.stride(0),
        LEVELS=levels, **constants, num_warps=1, num_stages=1, **LAUNCH,
    )  # fmt: skip


@deform_forward.register_fake
def _(value, offsets, logits, reference, sides):
    return _out(value, offsets)


@deform_backward.register_fake
def _(value, offsets, logits, reference, dout, sides):
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, offsets, logits)]


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.sides = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dout):
    refuse_second_derivatives("deformable attention")
    tensors = ctx.saved_tensors
    dvalue, doffsets, dlogits = deform_backward(*tensors, dout, ctx.sides)
    dreference = None
    if ctx.needs_input_grad[3]:
        # A reference point moves all samples of its level by its share of the level's width and height.
        sides = [doffsets.new_full((), side, dtype=torch.float32) for side in ctx.sides]  # no copy from the host
        sizes = torch.stack(sides).view(-1, 2).flip(1)
        dreference = doffsets.sum((2, 4), dtype=torch.float32) * sizes
        dreference = dreference.sum_to_size(tensors[3].shape).to(tensors[3].dtype)
    return dvalue, doffsets, dlogits, dreference, None


deform_forward.register_autograd(_backward, setup_context=_remember)

OPTIONS = {"num_warps": WARPS, "num_stages": 1, **LAUNCH}


def _out(value: Tensor, offsets: Tensor) -> Tensor:
    return value.new_empty(len(value), offsets.shape[1], value.shape[2] * value.shape[3])


def _clip_stride(reference: Tensor) -> int:
    """From a clip's reference points to the next clip's; 0 where all clips share them."""
    return reference.stride(0) if len(reference) > 1 else 0


def _launch(value: Tensor, offsets: Tensor, reference: Tensor, sides: list[int]):
    """The grid, the sizes and the constants of the kernels whose threads own a sample."""
    batch, queries, heads, levels, points, _ = offsets.shape
    constants = _lane_constants(levels, points, heads, value.shape[3], value.element_size())
    tiles = triton.cdiv(queries * heads * constants["PADDED"], constants["LANES"])
    sizes = (tuple(sides), tiles, queries, value.stride(0), _clip_stride(reference))
    return (batch * tiles,), sizes, constants


def _lane_constants(levels: int, points: int, heads: int, dim: int, element_size: int) -> dict[str, int]:
    padded, width = triton.next_power_of_2(points), triton.next_power_of_2(dim)
    vector = min(width, VECTOR // element_size)
    own = {"LEVELS": levels, "POINTS": points, "HEADS": heads, "DIM": dim, "PADDED": padded}
    return own | {"VECTOR": vector, "CHUNKS": triton.cdiv(dim, vector), "LANES": max(LANES, padded)}


def _part(constants: dict[str, int]) -> tuple[dict[str, int], int]:
    """A forward program's constants, with some of the chunks of channels, and how many programs share them."""
    # Channels that are no whole vectors are read one by one, which takes more registers.
    own = min(constants["CHUNKS"], 1 if constants["DIM"] % constants["VECTOR"] else 2)
    return constants | {"CHUNKS": own}, triton.cdiv(constants["CHUNKS"], own)


def _sample_constants(points: int) -> dict[str, int]:
    padded = triton.next_power_of_2(points)
    return {"PADDED": padded, "SAMPLES": SAMPLES, "LANES": max(LANES, padded)}


def _tile_constants(points: int, heads: int, dim: int, dtype: torch.dtype) -> dict[str, int | str]:
    padded = triton.next_power_of_2(points)
    channels = min(triton.next_power_of_2(dim), COLUMNS)
    own = {"HEADS": heads, "DIM": dim, "PADDED": padded, "SAMPLES": SAMPLES}
    wide = min(COLUMNS // channels, 16)
    # What tf32 cuts off, bfloat16 does not keep either, and float16 hardly: 7e-4 of a sum at most.
    precision = "tf32x3" if dtype == torch.float32 else "tf32"
    return own | {"TALL": TALL, "WIDE": wide, "CHANNELS": channels, "PRECISION": precision}


def builds() -> list[Build]:
    """What tools/compile_kernels.py compiles: LGRNet's sizes (8 heads of 8 channels, 4 points), and others."""
    found = []
    for kind in ("bf16", "fp32"):
        found += _builds(kind, 8, 8, 4)
    return [*found, *_builds("bf16", 3, 20, 3), *_builds("fp32", 8, 32, 4), *_builds("fp32", 1, 8, 512, levels=1)]


def _builds(kind: str, heads: int, dim: int, points: int, levels: int = 3) -> list[Build]:
    """Every kernel of the op for inputs of one type and one size."""
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    inputs = "value offsets logits out dout dvalue doffsets dlogits".split()
    types = dict.fromkeys(inputs, f"*{kind}:16") | dict.fromkeys(("reference", "samples", "boxes"), "*fp32:16")
    types |= {"value_clip": "i32:16" if heads * dim % 16 == 0 else "i32", "reference_clip": "i32"}
    types |= dict.fromkeys(UNSPECIALIZED, "i32") | {"sides": ("i32",) * (2 * levels)}
    own = {"LEVELS": levels, "POINTS": points, "HEADS": heads}

    def build(name: str, kernel, constants: dict, warps: int = WARPS) -> Build:
        signature = {argument: types[argument] for argument in kernel.arg_names if argument in types}
        constants = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
        return Build(f"{name} {kind} {heads}x{dim} p{points}", kernel, signature, constants, warps)

    lanes = _lane_constants(levels, points, heads, dim, 4 if kind == "fp32" else 2)
    return [
        build("forward", deform_forward_kernel, _part(lanes)[0]),
        build("backward offsets, logits", deform_backward_query_kernel, lanes),
        build("backward, samples", deform_samples_kernel, own | _sample_constants(points)),
        build("backward value", deform_backward_value_kernel, own | _tile_constants(points, heads, dim, dtype), 1),
    ]
