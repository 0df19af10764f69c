"""Depthwise convolution and GELU in Triton, forward and backward. No figure of it was measured on a GPU.

Design. Nine products and a GELU for a number that is read and one that is written: memory is the bound, in half
precision together with instructions (45 for a number on sm_90, 22 of them for the GELU). So everything is one pass:
tokens are read where they lie, channels side by side, and the result is written once. A program is one warp with a
block of channels, four of them (two in the backward pass) in each thread, read at once. It computes a patch of ROWS x
WIDE tokens from (ROWS + 2) x (WIDE + 2), all of them loaded before the first product, so that enough bytes are under
way; then it goes on to the next patch of its strip of rows, and finds in the nearest cache what both need. Only
channels are vectors: places, and whether they are in the map, are numbers of the whole warp, and no thread needs
another one, so that there is no shared memory and no barrier. Programs next to each other take the channels of the
same tokens.

Backward. A first kernel computes the sums before the GELU again, and their gradient, dsums, which it writes in the type
of the tokens: in half precision this adds an error as large as the rounding of the result (0.0017 in bfloat16, 0.0002
in float16, in the L2 norm), and spares 4 bytes of 14. It keeps its shares of the gradients of weight and bias in
registers over all of its patches and writes them once, [programs, 10, C] in float32: nothing is added atomically, and
the result is the same in every run. The gradient of the tokens is the convolution of dsums with the taps in reverse:
the forward kernel without bias and GELU. This is done for some images at a time, so that dsums stays small. Gradients
that nobody wants are not computed.

Letters as in ops/depthwise/__init__.py. "filters" [10, C] are the taps, row by row, and the bias.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lgrnet.ops.backends import refuse_second_derivatives
from lgrnet.ops.gpu.triton_kernels import LAUNCH, Build

__all__ = ["depthwise_gelu_triton"]

LOG2_E = tl.constexpr(1.4426950408889634)
DENSITY_0 = tl.constexpr(0.3989422804014327)
"""The normal density at 0."""
PROGRAMS = 4096
"""Programs of a launch, about: some for every place of a large GPU. Larger tensors give each of them more patches."""
SCRATCH = 2**26
"""Bytes of dsums at a time, where one image does not take more."""
OPTIONS = {"num_warps": 1, "num_stages": 1, **LAUNCH}
UNSPECIALIZED = ["height", "width", "tiles", "total", "steps"]
"""Arguments whose values make no kernel of their own: sizes change from step to step."""


@triton.jit
def _channels(CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """This program's channels, and whether they are there [BLOCK]."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if CHANNELS % BLOCK == 0:
        return channel, tl.full([BLOCK], 1, tl.int1)
    return channel, channel < CHANNELS


@triton.jit
def _filters(filters, channel, there, CHANNELS: tl.constexpr, REVERSED: tl.constexpr):
    """Nine taps and the bias of the channels: ten times [BLOCK]."""
    found = ()
    for k in tl.static_range(10):
        row = 8 - k if REVERSED and k < 9 else k
        found = found + (tl.load(filters + row * CHANNELS + channel, mask=there, other=0.0),)
    return found


@triton.jit
def _place(tile, height, width, tiles, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """A patch's first row and column, and its first token in all images."""
    image, inner = tile // tiles, tile % tiles
    columns = tl.cdiv(width, WIDE)
    y, x = inner // columns * ROWS, inner % columns * WIDE
    return y, x, image.to(tl.int64) * height * width + y * width + x


@triton.jit
def _inside(y, x, height, width):
    # One comparison for both ends: below zero is a large number without a sign.
    return (y.to(tl.uint32) < height.to(tl.uint32)) & (x.to(tl.uint32) < width.to(tl.uint32))


@triton.jit
def _read(tokens, y, x, token, height, width, channel, there, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
          WIDE: tl.constexpr, MARGIN: tl.constexpr):  # fmt: skip
    """The channels of a patch with MARGIN tokens more on each side, row by row: each [BLOCK], zeros outside the map."""
    found = ()
    for j in tl.static_range(-MARGIN, ROWS + MARGIN):
        for i in tl.static_range(-MARGIN, WIDE + MARGIN):
            at = tokens + (token + j * width.to(tl.int64) + i) * CHANNELS + channel
            found = found + (tl.load(at, mask=there & _inside(y + j, x + i, height, width), other=0.0),)
    return found


@triton.jit
def _write(tokens, numbers, y, x, token, height, width, channel, there, CHANNELS: tl.constexpr):
    """The channels [BLOCK] of one token."""
    mask = there & _inside(y, x, height, width)
    tl.store(tokens + token * CHANNELS + channel, numbers.to(tokens.dtype.element_ty), mask=mask)


@triton.jit
def _convolved(found, taps, start, r: tl.constexpr, i: tl.constexpr, WIDE: tl.constexpr):
    """The sum of the nine taps around token (r, i) of a patch, and `start`."""
    total = start
    for k in tl.static_range(9):
        total += found[(r + k // 3) * (WIDE + 2) + i + k % 3].to(tl.float32) * taps[k]
    return total


@triton.jit
def _normal(x):
    """t = min(|x|, 16), exp(-x^2 / 2), and the tail 1 - Phi(t) over it: the rational function of cpu/depthwise.cpp."""
    t = tl.minimum(tl.abs(x), 16.0)
    p = t * 1.4996072e-2 + 1.1103995e-1
    p = p * t + 3.4749665e-1
    p = p * t + 4.9999997e-1
    q = t * 3.7597786e-2 + 2.7803063e-1
    q = q * t + 9.1326163e-1
    q = q * t + 1.4928740
    q = q * t + 1.0
    return t, tl.exp2(x * x * (-0.5 * LOG2_E)), p / q


@triton.jit
def _gelu(x):
    """x Phi(x)"""
    t, bell, ratio = _normal(x)
    return tl.maximum(x, 0.0) - t * (bell * ratio)


@triton.jit
def _gelu_slope(x):
    """Phi(x) + x density(x)"""
    t, bell, ratio = _normal(x)
    below = bell * (ratio - t * DENSITY_0)
    return tl.where(x < 0, below, 1.0 - below)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def depthwise_forward_kernel(
    x,
    filters,
    out,
    height,
    width,
    tiles,
    total,
    steps,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    GELU: tl.constexpr,
):
    """out [B, H * W, C]; without GELU also without the bias, and with the taps in reverse."""
    channel, there = _channels(CHANNELS, BLOCK)
    taps = _filters(filters, channel, there, CHANNELS, not GELU)
    first = tl.program_id(1) * steps
    for tile in range(first, tl.minimum(first + steps, total)):
        top, left, token = _place(tile, height, width, tiles, ROWS, WIDE)
        found = _read(x, top, left, token, height, width, channel, there, CHANNELS, ROWS, WIDE, 1)
        for r in tl.static_range(ROWS):
            for i in tl.static_range(WIDE):
                if GELU:
                    result = _gelu(_convolved(found, taps, taps[9], r, i, WIDE))
                else:
                    result = _convolved(found, taps, 0.0, r, i, WIDE)
                at = token + r * width.to(tl.int64) + i
                _write(out, result, top + r, left + i, at, height, width, channel, there, CHANNELS)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def depthwise_backward_kernel(
    x,
    filters,
    dout,
    dsums,
    shares,
    height,
    width,
    tiles,
    total,
    steps,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    WIDE: tl.constexpr,
    KEEP: tl.constexpr,
    SHARE: tl.constexpr,
):
    """With KEEP dsums [B, H * W, C], the gradient of the sums before the GELU, and with SHARE each program's shares of
    the gradients of taps and bias [programs, 10, C]."""
    channel, there = _channels(CHANNELS, BLOCK)
    taps = _filters(filters, channel, there, CHANNELS, False)
    own = ()
    for _ in tl.static_range(10):
        own = own + (tl.zeros([BLOCK], tl.float32),)
    first = tl.program_id(1) * steps
    for tile in range(first, tl.minimum(first + steps, total)):
        top, left, token = _place(tile, height, width, tiles, ROWS, WIDE)
        found = _read(x, top, left, token, height, width, channel, there, CHANNELS, ROWS, WIDE, 1)
        given = _read(dout, top, left, token, height, width, channel, there, CHANNELS, ROWS, WIDE, 0)
        for r in tl.static_range(ROWS):
            for i in tl.static_range(WIDE):
                slope = _gelu_slope(_convolved(found, taps, taps[9], r, i, WIDE))
                # Outside the map a slope that is no number would make one of the zero.
                inside = _inside(top + r, left + i, height, width)
                gradient = tl.where(inside, given[r * WIDE + i].to(tl.float32) * slope, 0.0)
                if KEEP:
                    at = token + r * width.to(tl.int64) + i
                    _write(dsums, gradient, top + r, left + i, at, height, width, channel, there, CHANNELS)
                if SHARE:
                    added = ()
                    for k in tl.static_range(9):
                        near = found[(r + k // 3) * (WIDE + 2) + i + k % 3].to(tl.float32)
                        added = added + (own[k] + gradient * near,)
                    own = added + (own[9] + gradient,)
    if SHARE:
        for k in tl.static_range(10):
            tl.store(shares + (tl.program_id(1) * 10 + k) * CHANNELS + channel, own[k], mask=there)


def depthwise_gelu_triton(
    x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, int], shift: Tensor | None = None
) -> Tensor:
    """See `lgrnet.ops.depthwise_gelu`; computes in float32; the shift is added before, in the type of x."""
    return depthwise_forward(x if shift is None else x + shift.to(x.dtype), weight, bias, *shape)


@torch.library.custom_op("lgrnet::depthwise_forward_triton", mutates_args=())
def depthwise_forward(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """[B, H * W, C], in the type of x; weight and bias may have another one."""
    out = _like(x)
    if x.numel():
        with torch.cuda.device_of(x):
            _convolve(x.contiguous(), _joined(weight, bias), out, height, width, gelu=True)
    return out


@torch.library.custom_op("lgrnet::depthwise_backward_triton", mutates_args=())
def depthwise_backward(
    x: Tensor, weight: Tensor, bias: Tensor, dout: Tensor, height: int, width: int, of_x: bool, of_filters: bool
) -> list[Tensor]:
    """Gradients of x, weight and bias; that of x is empty unless `of_x`, the others unless `of_filters`."""
    gradients = dx, dweight, dbias = _gradients(x, weight, bias, of_x, of_filters)
    if x.numel() == 0:
        return [t.zero_() for t in gradients]
    x, dout, filters = x.contiguous(), dout.contiguous(), _joined(weight, bias)
    images = max(1, SCRATCH // (x[0].numel() * x.element_size()))
    parts: list[Tensor] = []
    with torch.cuda.device_of(x):
        for first in range(0, len(x), images):
            some = slice(first, first + images)
            dsums, shares = _through_gelu(x[some], filters, dout[some], height, width, of_x, of_filters)
            if of_x:
                _convolve(dsums, filters, dx[some], height, width, gelu=False)
            if of_filters:
                parts.append(shares.sum(0))
    if of_filters:
        total = torch.stack(parts).sum(0)
        dweight.copy_(total[:9].t().reshape(dweight.shape))
        dbias.copy_(total[9])
    return gradients


@depthwise_forward.register_fake
def _(x, weight, bias, height, width):
    return _like(x)


@depthwise_backward.register_fake
def _(x, weight, bias, dout, height, width, of_x, of_filters):
    return list(_gradients(x, weight, bias, of_x, of_filters))


def _remember(ctx, inputs, output) -> None:
    *tensors, ctx.height, ctx.width = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dout):
    refuse_second_derivatives("depthwise convolution")
    x, *filters = ctx.needs_input_grad[:3]
    found = depthwise_backward(*ctx.saved_tensors, dout, ctx.height, ctx.width, x, any(filters))
    return *(t if wanted else None for t, wanted in zip(found, (x, *filters), strict=True)), None, None


depthwise_forward.register_autograd(_backward, setup_context=_remember)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _gradients(x: Tensor, weight: Tensor, bias: Tensor, of_x: bool, of_filters: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Room for them; nothing for those that are not wanted."""
    wanted = zip((x, weight, bias), (of_x, of_filters, of_filters), strict=True)
    return tuple(_like(tensor) if there else tensor.new_empty(0) for tensor, there in wanted)


def _joined(weight: Tensor, bias: Tensor) -> Tensor:
    """The filters in float32: what a thread reads of them lies side by side."""
    return torch.cat((weight.reshape(-1, 9).t().float(), bias[None].float()))


def _convolve(x: Tensor, filters: Tensor, out: Tensor, height: int, width: int, gelu: bool) -> None:
    """The forward kernel, from contiguous tokens to contiguous tokens."""
    constants = _forward_constants(x.shape[2], x.element_size())
    grid, sizes = _launch(len(x), height, width, constants)
    depthwise_forward_kernel[grid](x, filters, out, *sizes, **constants, GELU=gelu, **OPTIONS)


def _through_gelu(
    x: Tensor, filters: Tensor, dout: Tensor, height: int, width: int, keep: bool, share: bool
) -> tuple[Tensor, Tensor]:
    """dsums, and the programs' shares of the filters' gradients; empty unless `keep` and `share`."""
    constants = _backward_constants(x.shape[2])
    grid, sizes = _launch(len(x), height, width, constants)
    dsums = x.new_empty(x.shape if keep else 0)
    shares = filters.new_empty((grid[1], *filters.shape) if share else 0)
    depthwise_backward_kernel[grid](
        x, filters, dout, dsums, shares, *sizes, **constants, KEEP=keep, SHARE=share, **OPTIONS
    )
    return dsums, shares


def _launch(images: int, height: int, width: int, constants: dict[str, int]):
    """The grid, and the sizes that every kernel takes."""
    tiles = triton.cdiv(height, constants["ROWS"]) * triton.cdiv(width, constants["WIDE"])
    total, blocks = images * tiles, triton.cdiv(constants["CHANNELS"], constants["BLOCK"])
    steps = triton.cdiv(total * blocks, PROGRAMS)
    return (blocks, triton.cdiv(total, steps)), (height, width, tiles, total, steps)


def _forward_constants(channels: int, element_size: int) -> dict[str, int]:
    """Wider patches are for numbers of which two fit into a register."""
    return _constants(channels, 128, 4, 1 if element_size == 4 else 2)


def _backward_constants(channels: int) -> dict[str, int]:
    """Half as many channels, because of the registers for the shares."""
    return _constants(channels, 64, 4, 2)


def _constants(channels: int, block: int, rows: int, wide: int) -> dict[str, int]:
    return {"CHANNELS": channels, "BLOCK": min(block, triton.next_power_of_2(channels)), "ROWS": rows, "WIDE": wide}


def builds() -> list[Build]:
    """What tools/compile_kernels.py compiles: the hidden channels of PVTv2-B2 and odd ones; the rarer kernels once."""
    found = []
    for kind in ("bf16", "fp32"):
        found += _builds(kind, 512)
        for channels in (1024, 1280, 2048, 70):
            names = f"forward {kind} C={channels}", f"backward {kind} C={channels}"
            found += [build for build in _builds(kind, channels) if build.name in names]
    return found


def _builds(kind: str, channels: int) -> list[Build]:
    """Every kernel of the op for tokens of one type and one number of channels."""
    types = dict.fromkeys(("x", "out", "dout", "dsums"), f"*{kind}:16")
    types |= dict.fromkeys(("filters", "shares"), "*fp32:16") | dict.fromkeys(UNSPECIALIZED, "i32")

    def build(name: str, kernel, constants: dict[str, int], variant: str = "", **own) -> Build:
        signature = {argument: types[argument] for argument in kernel.arg_names if argument in types}
        return Build(f"{name} {kind} C={channels}{variant}", kernel, signature, constants | own, num_warps=1)

    forward = _forward_constants(channels, 4 if kind == "fp32" else 2)
    backward = _backward_constants(channels)
    return [
        build("forward", depthwise_forward_kernel, forward, GELU=True),
        build("backward x", depthwise_forward_kernel, forward, GELU=False),
        build("backward", depthwise_backward_kernel, backward, KEEP=True, SHARE=True),
        build("backward", depthwise_backward_kernel, backward, ", x alone", KEEP=True, SHARE=False),
        build("backward", depthwise_backward_kernel, backward, ", filters alone", KEEP=False, SHARE=True),
    ]
