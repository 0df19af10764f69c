"""Convolution with batch norm, as SvANet has it: an epsilon of 1e-3 everywhere."""

from __future__ import annotations

from torch import Tensor, nn

NORM_EPS = 1e-3
"""Epsilon of every batch norm that belongs to a convolution, those of the encoder included."""

_ACTIVATIONS = {"relu": lambda: nn.ReLU(inplace=True), "silu": nn.SiLU, "none": nn.Identity}


def make_divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor`, and not more than 10 % below `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm (epsilon 1e-3), activation; maps are [batch, C, h, w].

    activation  "relu", "silu" or "none"
    transposed  the convolution enlarges `stride` times instead
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        activation: str = "relu",
        transposed: bool = False,
    ):
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, expected one of {', '.join(_ACTIVATIONS)}")
        options = {"stride": stride, "padding": (kernel - 1) // 2 * dilation, "dilation": dilation, "bias": False}
        if transposed:
            self.conv = nn.ConvTranspose2d(inputs, outputs, kernel, output_padding=stride - 1, **options)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, **options)
        self.norm = nn.BatchNorm2d(outputs, eps=NORM_EPS)
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, h, w] -> [batch, outputs, h / stride, w / stride], rounded up; times stride if transposed"""
        return self.activation(self.norm(self.conv(x)))


class ConvPair(nn.Sequential):
    """A 3x3 and a 1x1 convolution, each with batch norm and ReLU (released as BasicBlock)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(ConvUnit(inputs, outputs, 3, stride), ConvUnit(outputs, outputs))
