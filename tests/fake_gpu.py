"""A GPU that is not there: tensors without memory on device "cuda", and a record of when the host would wait for it.

torch's FakeTensorMode knows shapes, types and devices of every op and computes nothing, so that a model runs as it
would on a GPU, and takes its Triton kernels, on any machine.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lgrnet.layers import scan

ROOT = Path(__file__).resolve().parents[1]
READS = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "is_nonzero",
    "equal",
    "unique_consecutive",
}
READS |= {"_unique2", "unique_dim", "bincount"}
"""Ops whose result is a number of the host or has a shape that only the values tell."""


class HostWaits(TorchDispatchMode):
    """Records what would make the host wait: `found`, each as "op at file:line"; `ops` counts everything.

    A tensor on the CPU at any op counts: it is copied to the device or from it, and both wait. `tolist` on a tensor of
    the device is one wait, answered with the next of `answers`, for fake tensors hold no numbers.
    """

    def __init__(self, answers: Sequence[object] = ()):
        super().__init__()
        self.found: list[str] = []
        self.ops: Counter[str] = Counter()
        self._answers = iter(answers)

    def __enter__(self):
        self._patch = mock.patch.object(FakeTensor, "tolist", lambda tensor: self._read())
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._patch.stop()
        return super().__exit__(*error)

    def _read(self) -> object:
        self.found.append(f"tolist at {_where()}")
        return next(self._answers)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        namespace, name = function._schema.name.split("::")
        self.ops[name if namespace == "aten" else f"{namespace}::{name}"] += 1
        if namespace == "prim":  # a question about a tensor
            return result
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        by_bits = name in ("index", "index_put", "index_put_") and any(
            t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        )
        if name in READS or by_bits or any(t.device.type == "cpu" for t in tensors):
            self.found.append(f"{name} at {_where()}")
        return result


def _where() -> str:
    """The innermost line of the project, outside of this file and of packages, which may be installed in its folder."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if frame.filename.startswith(str(ROOT)) and "site-packages" not in frame.filename
    ]
    frame = next((f for f in reversed(frames) if f.filename != __file__), frames[-1])
    return f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors that are made inside have no memory, and device "cuda" is there."""
    scan._kept.cache_clear()
    try:
        # autocast asks for the GPU itself
        with (
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
            mock.patch("torch.cuda.is_bf16_supported", return_value=True),
            # the orders of scans are kept though they are fake, as on a real GPU
            mock.patch.object(scan, "transformed", return_value=False),
            FakeTensorMode(),
        ):
            yield
    finally:
        scan._kept.cache_clear()


def moved(module: nn.Module) -> nn.Module:
    """The module with fake parameters and buffers on the GPU; to be called inside of `fake_gpu`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                part._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module
