"""Random draws that depend on what they are for, never on who makes them.

Every draw takes a generator keyed by (seed, place in the sample stream or step, purpose). So a run is the
same for any number of ranks and loader workers, and a resumed run needs no stored generator state.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed from any key, the same on every machine and in every process."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def python_generator(*key: int | str) -> random.Random:
    """A Python generator for this key."""
    return random.Random(keyed_seed(*key))


def torch_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for this key, on `device`."""
    return torch.Generator(device).manual_seed(keyed_seed(*key))


class KeyedDraws:
    """Uniform draws for the clips of one batch, each keyed by its own clip.

    seed       the run's seed
    positions  the stream position of each clip of the batch
    """

    def __init__(self, seed: int, positions: Sequence[int]):
        self.seed = seed
        self.positions = tuple(positions)

    def sample(self, purpose: str, clip: int, shape: Sequence[int], device) -> Tensor:
        """Uniform numbers in [0, 1) of `shape` for clip number `clip` of the batch."""
        generator = torch_generator(self.seed, self.positions[clip], purpose, device=device)
        return torch.rand(tuple(shape), generator=generator, device=device)

    def rows(self, purpose: str, counts: Sequence[int], tail: Sequence[int], device) -> Tensor:
        """Uniform numbers [sum(counts), *tail]; the first counts[0] rows belong to clip 0, and so on."""
        parts = [self.sample(purpose, i, (n, *tail), device) for i, n in enumerate(counts)]
        return torch.cat(parts)


class SequentialDraws:
    """Draws in the order of the calls, as the published code makes them: for the golden tests.

    source  a generator, or the recorded draws themselves in call order
    """

    def __init__(self, source: torch.Generator | Iterable[Tensor]):
        self.generator = source if isinstance(source, torch.Generator) else None
        self.recorded = None if self.generator is not None else iter(source)

    def sample(self, purpose: str, clip: int, shape: Sequence[int], device) -> Tensor:
        """The next draw; `purpose` and `clip` are not used."""
        if self.generator is not None:
            return torch.rand(tuple(shape), generator=self.generator).to(device)
        draw = next(self.recorded)
        if tuple(draw.shape) != tuple(shape):
            raise ValueError(f"recorded draw has shape {tuple(draw.shape)}, asked for {tuple(shape)} ({purpose})")
        return draw.to(device)

    def rows(self, purpose: str, counts: Sequence[int], tail: Sequence[int], device) -> Tensor:
        """The next draw, one call for all clips."""
        return self.sample(purpose, 0, (sum(counts), *tail), device)
