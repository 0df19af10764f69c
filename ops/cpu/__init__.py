"""The compiled CPU kernels: one library for each kind of processor, called through a plain C interface.

setup.py builds kernels.portable.so, kernels.avx2.so and kernels.avx512.so from the same sources when there is a C++
compiler. They know nothing of Python or torch, so that one build serves every release of both. Which one is loaded is
decided when the first kernel is called.
"""

from __future__ import annotations

import ctypes
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lgrnet.ops.backends import exporting

VERSION = 6
LEVELS = ("portable", "avx2", "avx512")
"""From the plainest to the widest; the index is what `lgrnet_level` answers."""

HOW = "install a C++ compiler (GCC or Clang) and run pip install -e . (or pip install .) again"


class LibraryError(RuntimeError):
    """The compiled kernels cannot be used here; the message says why and what to do."""


@cache
def library() -> ctypes.CDLL:
    """The library for this processor.

    Raises LibraryError when none was built, or when none can be loaded here (built for another kind of machine, or for
    another release of lgrnet).
    """
    portable = _load(LEVELS[0])
    best = portable.lgrnet_level()
    for name in reversed(LEVELS[1 : best + 1]):
        try:
            return _load(name)
        except LibraryError:
            continue
    return portable


@cache
def missing() -> str | None:
    """Why no library can be used, None when one can. Warns once where they are missing."""
    try:
        library()
    except LibraryError as error:
        warnings.warn(f"{error}. Until then ops run as plain torch, which is slower", stacklevel=2)
        return str(error)
    return None


def cannot_run(like: Tensor) -> str | None:
    """Why the kernels cannot work on a tensor like this one, None when they can."""
    if like.device.type != "cpu":
        return f"it works on CPU tensors, not on {like.device.type}"
    if like.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, not in {like.dtype}"
    if exporting():
        return "an exported graph cannot hold it"
    return _missing_as_constant()


@torch.compiler.assume_constant_result
def _missing_as_constant() -> str | None:
    """torch.compile cannot look for files while it records: it asks once."""
    return missing()


def level() -> str:
    """The name of the loaded library: portable, avx2 or avx512."""
    return Path(library()._name).name.split(".")[1]


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a contiguous CPU tensor's first element; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def row_step(tensor: Tensor, axis: int = 1) -> int:
    """The floats from one row to the next, for a kernel that takes the rows of what is before `axis` to go on alike.

    Of an axis of one row torch may give any stride: there it is the way to the next rows.
    """
    return tensor.stride(axis if tensor.shape[axis] > 1 else axis - 1)


def _load(name: str) -> ctypes.CDLL:
    path = Path(__file__).parent / f"kernels.{name}.so"
    if not path.is_file():
        raise LibraryError(f"lgrnet's CPU kernels are not compiled (there is no {path}); {HOW}")
    try:
        loaded = ctypes.CDLL(str(path))
        found = loaded.lgrnet_version()
    except (OSError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise LibraryError(f"lgrnet's CPU kernels {path} cannot be loaded on this machine ({reason}); {HOW}") from error
    if found != VERSION:
        raise LibraryError(f"lgrnet's CPU kernels {path} are of version {found}, this lgrnet needs {VERSION}; {HOW}")
    return loaded
