"""Arrays of an .npz file, one item at a time: a file of many gigabytes is read with the memory of one image."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from lgrnet.records import DataError

_DAMAGE = (OSError, ValueError, EOFError, zlib.error, struct.error, zipfile.BadZipFile, RuntimeError, SyntaxError)


def shape_of(path: Path, name: str) -> tuple[int, ...]:
    """The shape of an array in an .npz file; raises DataError as `items_of` does."""
    with _opened(path, name) as (_, shape, _):
        return shape


def items_of(path: Path, name: str) -> Iterator[np.ndarray]:
    """The items along the first axis of an array in an .npz file.

    Raises DataError for files that are damaged or no .npz, a name that is not in it, arrays of Python objects (which
    would run code), and other than C order.
    """
    with _opened(path, name) as (stream, shape, dtype):
        size = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        if size > 1 << 30:
            raise DataError(f"{name} in {path} has items of {shape[1:]} {dtype}, more than 1 GiB each")
        for index in range(shape[0]):
            try:
                data = stream.read(size)
            except _DAMAGE as error:
                raise DataError(f"{name} in {path} is damaged at item {index} ({error}); get it again") from error
            if len(data) != size:
                raise DataError(f"{name} in {path} ends within item {index} of {shape[0]}; get it again")
            yield np.frombuffer(data, dtype).reshape(shape[1:])


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """Stream, shape and type of an array, its header read."""
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            if f"{name}.npy" not in archive.namelist():
                there = ", ".join(archive.namelist()[:8]) or "nothing"
                raise DataError(f"{path} has no array {name}; it has {there}")
            stream = stack.enter_context(archive.open(f"{name}.npy"))
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
            shape, fortran, dtype = read[np.lib.format.read_magic(stream)[0]](stream)
        except (*_DAMAGE, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{name} in {path} cannot be read ({error}); it is damaged or no .npz: get it") from error
        if dtype.kind not in "iuf" or fortran or not shape:
            raise DataError(f"{name} in {path} is {dtype} {shape}; expected an array of numbers in C order")
        yield stream, shape, dtype
