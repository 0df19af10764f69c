"""The compiled CPU kernels: one library for each kind of processor, called through a plain C interface.

setup.py builds kernels.portable.so, kernels.avx2.so and kernels.avx512.so from the same sources when there is a C++
compiler. They know nothing of Python or torch, so that one build serves every release of both. Which one is loaded is
decided when the first kernel is called.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from lgrnet.ops.backends import Backend, BackendError, check_tensors, choose, exporting, transformed

VERSION = 11
LEVELS = ("portable", "avx2", "avx512")
"""From the plainest to the widest; the index is what `lgrnet_level` answers."""

PRODUCTS = (torch.float32, torch.bfloat16)
"""Types of what linear layers and attention multiply; bfloat16 where the processor has instructions for it."""

NO_MEMORY = -1
"""What a kernel returns that could not do its work (threads.h)."""

HOW = f"install lgrnet again where a C++ compiler (GCC or Clang) is: {sys.executable} -m pip install -e . in its folder"


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


@cache
def is_faster(dtype: torch.dtype) -> bool:
    """Whether the library has the instructions for products of this type that torch's own products of matrices have."""
    if missing() is not None:
        return False
    return library().lgrnet_bfloat16() >= 2 if dtype == torch.bfloat16 else level() != LEVELS[0]


@cache
def gradients_are_faster() -> bool:
    """Whether linear layers have theirs in float32 sooner by the kernel; torch's products are as wide on Intel's."""
    return bool(library().lgrnet_wider_than_torch())


@cache
def multiplies_matrices() -> bool:
    """Whether the processor multiplies whole matrices of bfloat16 (AMX), and the system lets this process do it."""
    return library().lgrnet_bfloat16() == 3


def inference_backend(
    backends: Mapping[str, Backend],
    backend: str,
    given: Mapping[str, Tensor | None],
    worth_gradients: Callable[[], bool] | None = None,
    types: Sequence[torch.dtype] = PRODUCTS,
) -> Callable:
    """`choose` for an op whose kernel, "cpu", takes `types`, without gradients, and whose reference is torch's.

    "auto" takes the kernel where it can do this and is the faster one, which is wherever nothing is recorded for
    gradients, a graph or autocast, nor `transformed`. Called so often that it asks as little as it can.

    given            the op's tensors by name, of which the first is there
    worth_gradients  given where the kernel has gradients in float32, too; where they are faster "auto" takes it for
                     them if this says so. Not asked while a graph is recorded, whose sizes are none to decide by

    Raises ValueError for tensors that do not fit each other, BackendError for a backend that is unknown or cannot.
    """
    tensors = [t for t in given.values() if t is not None]
    first = tensors[0]
    plain = all(t.dtype == first.dtype and t.device == first.device for t in tensors)
    if not plain or first.dtype not in types:
        check_tensors(**given)
    if backend == "auto":
        busy = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or transformed()
        real = all(type(t) in (Tensor, Parameter) for t in tensors)  # other kinds, as fake tensors, may have no memory
        can = plain and first.dtype in types and real and not busy
        # of a negative view the numbers there are not its own
        can = can and is_faster(first.dtype) and cannot_run(first) is None and not any(t.is_neg() for t in tensors)
        if can and not without_gradients(tensors):
            can = worth_gradients is not None and first.dtype == torch.float32 and gradients_are_faster()
            can = can and worth_gradients()
        return backends["cpu" if can else "reference"].run
    if backend == "cpu" and (reason := _cannot_multiply(tensors, types, worth_gradients is not None)):
        raise BackendError(f"backend 'cpu' cannot be used because {reason}; choose auto or reference")
    return choose(backends, backend, first)


def _cannot_multiply(tensors: Sequence[Tensor], types: Sequence[torch.dtype], gradients: bool) -> str | None:
    """Why a kernel of `inference_backend` cannot take these, None when it can."""
    if transformed():
        return "what looks on (torch.func, forward-mode gradients, fake tensors) would not see it"
    if any(t.is_neg() for t in tensors):
        return "it would read a negative view with the wrong sign (resolve_neg)"
    found = {t.dtype: str(t.dtype).removeprefix("torch.") for t in tensors}
    if others := [name for dtype, name in found.items() if dtype not in types]:
        return f"it takes {' or '.join(str(t).removeprefix('torch.') for t in types)}, not {others[0]}"
    if len(found) > 1:
        return "its tensors are of one type, not some of float32 and some of bfloat16"
    if torch.bfloat16 in found and missing() is None and library().lgrnet_bfloat16() == 0:
        return "this processor has no instructions for products of bfloat16 (AVX512_BF16)"
    if without_gradients(tensors) or (gradients and torch.float32 in found):
        return None
    return "it has no gradients" + " in bfloat16" * gradients


def without_gradients(tensors: Iterable[Tensor | None]) -> bool:
    """Whether nothing is kept for a backward pass."""
    return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


@cache
def kernel(name: str, addresses: int, sizes: int, *others: type) -> Callable:
    """The library's function of that name, called with plain numbers: an object of ctypes for each would cost more.

    Its arguments are so many addresses (of `address`, or an array of ctypes), so many int64, and `others`. It raises
    MemoryError where it gets no memory for its work.
    """
    function = getattr(library(), name)
    function.argtypes = [ctypes.c_void_p] * addresses + [ctypes.c_int64] * sizes + [*others]
    function.errcheck = _with_memory
    return function


def _with_memory(result: int, function: Callable, arguments: tuple) -> int:
    if result == NO_MEMORY:
        raise MemoryError(f"the kernel {function.__name__} got no memory for its work; give it fewer or smaller frames")
    return result


def address(tensor: Tensor | None) -> int | None:
    """Where a CPU tensor's first element lies; None for None, which is null to a `kernel`."""
    return None if tensor is None else tensor.data_ptr()


def rows_of(tensor: Tensor) -> Tensor:
    """The rows of [..., C] one below the other, a copy where they are not of equal distance or do not lie together."""
    rows = tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])
    step, inner = rows.stride()
    width = rows.shape[1]
    return rows if (inner == 1 or width == 1) and step >= width else rows.contiguous()


def row_step(tensor: Tensor, axis: int = 1) -> int:
    """The floats from one row to the next, for a kernel that takes the rows of what is before `axis` to go on alike.

    Of an axis of one row torch may give any stride: there it is the way to the next rows.
    """
    return tensor.stride(axis if tensor.shape[axis] > 1 else axis - 1)


def check_sides(sides: Sequence[int], expected: int) -> None:
    """Raises ValueError unless levels of these heights and widths, one after the other, have so many tokens in all.

    Kernels read and write where the sides say: wrong ones would be memory of others.
    """
    tokens = sum(height * width for height, width in zip(sides[::2], sides[1::2], strict=True))
    if min(sides, default=0) < 0 or tokens != expected:
        raise ValueError(f"levels have sides {sides}, {tokens} tokens; expected none below 0, {expected} tokens")


def in_lanes(*rows: Tensor) -> bool:
    """Whether rows, as of `rows_of`, can be read four bytes at a time: of bfloat16 two numbers."""
    if rows[0].dtype == torch.float32:
        return True
    return all(not ((t.shape[1] | t.stride(0) | t.storage_offset()) & 1) for t in rows)


def _load(name: str) -> ctypes.CDLL:
    path = Path(__file__).parent / f"kernels.{name}.so"
    # A clone that is run without its own has those of an lgrnet that was installed from it.
    installed = (found.locate_file(f"lgrnet/ops/cpu/{path.name}") for found in distributions(name="lgrnet"))
    path = next((Path(other) for other in (path, *installed) if Path(other).is_file()), path)
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
