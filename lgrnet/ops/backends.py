"""Which of an op's implementations runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad


class BackendError(ValueError):
    """A backend was asked for by name that is not there or cannot do this; the message says what to choose."""


@dataclass(frozen=True)
class Backend:
    """An implementation of an op.

    run      called with the op's arguments
    why_not  why it cannot work on a tensor like this one, in words that follow "because"; None when it can
    """

    run: Callable
    why_not: Callable[[Tensor], str | None] = lambda like: None


def check_tensors(**tensors: Tensor | None) -> None:
    """Raises ValueError unless all are floating-point tensors on one device; a kernel would read another's memory.

    Those that are None are passed over.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first = next(iter(given))
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype}, expected a floating-point type; convert it with .float()")
        check_device(name, tensor, first, given[first])


def check_device(name: str, tensor: Tensor, first: str, like: Tensor) -> None:
    """Raises ValueError when a tensor is on another device than one that is called `first`."""
    if tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, {first} on {like.device}; move both to one device")


def choose(
    backends: Mapping[str, Backend], wanted: str, like: Tensor, peers: Mapping[str, Callable] | None = None
) -> Callable:
    """The implementation named `wanted`, or for "auto" the first of `backends` that can; the fastest stands first.

    like   one of the op's floating-point inputs: its device and type decide
    peers  implementations of other packages, taken only by name

    Under torch.func and in forward mode that is the reference. Raises BackendError for a name that is not there, or
    whose backend cannot do this.
    """
    if functional():
        if wanted not in ("auto", "reference") and wanted in backends:
            raise BackendError(f"backend {wanted!r} does not know torch.func or forward mode; choose auto or reference")
        wanted = "reference" if wanted == "auto" else wanted
    if wanted == "auto":
        return next(backend.run for backend in backends.values() if backend.why_not(like) is None)
    if wanted not in backends:
        if peers and wanted in peers:
            return peers[wanted]
        known = ", ".join((*backends, *(peers or ())))
        raise BackendError(f"backend is {wanted!r}, expected auto or one of {known}")
    reason = backends[wanted].why_not(like)
    if reason is not None:
        others = " or ".join(name for name in ("auto", *backends) if name != wanted)
        raise BackendError(f"backend {wanted!r} cannot be used because {reason}; choose {others}")
    return backends[wanted].run


@torch.compiler.assume_constant_result  # torch 2.10 takes is_exporting for true wherever torch.compile records
def exporting() -> bool:
    """Whether what runs is recorded for a file (torch.export, a trace, ONNX), which can hold no kernel of ours."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def functional() -> bool:
    """Whether torch.func (vmap, jvp, ...) or derivatives in forward mode are at work: the kernels have none of them.

    torch has no public names for these questions. False while torch.compile records.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether torch changes calls on their way, or looks on, which misses a kernel that is called past its dispatcher.

    That is `functional`, and modes such as fake tensors, make_fx, or a counter of operations.
    """
    return functional() or (not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() > 0)


def refuse_second_derivatives(op: str) -> None:
    """Raises RuntimeError in a backward pass that is itself recorded (create_graph=True); call it there first.

    Not by `once_differentiable`, whose error is passed by where the derivative has another way, too.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"the compiled {op} has no second derivatives; choose backend='reference' for them")


@contextmanager
def importing(backend: str, tried: str, install: str) -> Iterator[None]:
    """Raises BackendError, in one sentence with the reason and the remedy, where the imports inside fail.

    tried    what is imported
    install  the command that installs it
    """
    try:
        yield
    # An extension of another torch or CUDA, or one whose driver is absent, fails in each of these ways.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise BackendError(
            f"backend {backend!r} cannot be used: the import of {tried} failed ({type(error).__name__}: {reason}); "
            f"install it with {install} (see INSTALL.md), or choose auto or reference, which are lgrnet's own"
        ) from error
