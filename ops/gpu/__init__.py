"""What the Triton kernels of all ops share: when they can run, and how they are compiled without a GPU.

Importing this imports no triton; the files named triton_kernels.py do, and they are loaded when a kernel is first
asked for.
"""

from __future__ import annotations

import importlib
import subprocess
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lgrnet.ops.backends import exporting

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_REASONS = (ImportError, OSError, RuntimeError, AttributeError, AssertionError, subprocess.SubprocessError)
"""What an import of Triton and the search for its driver raise: AssertionError where libcuda.so.1 is not found."""


def cannot_run(like: Tensor) -> str | None:
    """Why Triton's kernels cannot work on a tensor like this one, None when they can.

    They work on CUDA tensors, and on CPU tensors where Triton interprets its kernels (for tests: very slow).
    """
    if like.device.type not in ("cuda", "cpu"):
        return f"it works on CUDA tensors, not on {like.device.type}"
    if like.dtype not in DTYPES:
        return f"it computes in float32, not in {like.dtype}"
    if exporting():
        return "an exported graph cannot hold it"
    if missing() is not None:
        return missing()
    if like.device.type == "cpu" and not _interpreting():
        return "it works on CUDA tensors, not on cpu (only in Triton's interpreter, with TRITON_INTERPRET=1)"
    return None


def kernel_errors() -> tuple[type[Exception], ...]:
    """What compiling or launching a kernel may raise, RuntimeError among it: out of registers, a type it lacks."""
    if missing() is not None:
        return (RuntimeError,)
    return (RuntimeError, importlib.import_module("lgrnet.ops.gpu.triton_kernels").TritonError)


def lazily(op: str, function: str) -> Callable:
    """A function of an op's triton_kernels.py; the file is imported at the first call."""
    loaded = {}

    @torch.compiler.assume_constant_result
    def load() -> bool:
        if not loaded:
            loaded["run"] = getattr(importlib.import_module(f"lgrnet.ops.{op}.triton_kernels"), function)
        return True

    def run(*args, **kwargs):
        load()
        return loaded["run"](*args, **kwargs)

    return run


@torch.compiler.assume_constant_result  # torch.compile cannot look into imports
def missing() -> str | None:
    """Why triton cannot be used, None when it can. Warns once where there is a GPU."""
    return _tried()


@cache
def _tried() -> str | None:
    try:
        kernels = importlib.import_module("lgrnet.ops.gpu.triton_kernels")
        if torch.cuda.device_count():
            kernels.load_driver()
    except _REASONS as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        reason = f"triton cannot be used ({type(error).__name__}: {reason}); install it with pip install triton"
        if torch.cuda.device_count():
            reason += ", and before Triton 3.8 a C compiler and Python's headers"
            warnings.warn(f"{reason}. Until then ops run as plain torch, which is slower", stacklevel=2)
        return reason
    return None


@torch.compiler.assume_constant_result
def _interpreting() -> bool:
    return importlib.import_module("lgrnet.ops.gpu.triton_kernels").interpreting()
