"""torch's linear layer, in inference on a CPU by a kernel of ours; parameters, names and hooks stay."""

from __future__ import annotations

from torch import Tensor, nn

from lgrnet.ops import linear


class Linear(nn.Linear):
    """nn.Linear by `lgrnet.ops.linear`."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., C] -> [..., D], with `residual` [..., D] added"""
        return linear(x, self.weight, self.bias, residual=residual)
