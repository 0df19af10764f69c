"""Which of an op's implementations runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class BackendError(ValueError):
    """A backend was asked for by name that is not there or cannot do this; the message says what to choose."""


def choose(backends: Mapping[str, Callable], wanted: str, peers: Mapping[str, Callable] | None = None) -> Callable:
    """The implementation named `wanted`, or for "auto" the first of `backends`, which lists the fastest first.

    peers  implementations of other packages, taken only by name

    Raises BackendError for a name that is not there.
    """
    if wanted == "auto":
        return next(iter(backends.values()))
    known = {**backends, **(peers or {})}
    if wanted not in known:
        raise BackendError(f"backend is {wanted!r}, expected auto or one of {', '.join(known)}")
    return known[wanted]


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
