"""One process or many: who am I, and how do processes agree.

`torchrun` describes the processes in RANK, WORLD_SIZE and LOCAL_RANK (the only environment variables that the
package reads). Without them there is a single process and every function below is the identity, so no caller
asks whether it runs distributed. NCCL joins GPUs, gloo joins CPUs.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

_TIMEOUT = timedelta(hours=1)
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "status_alloc_failed",  # CUBLAS_, CUDNN_
    "host_allocation_failed",
)


class DeviceError(RuntimeError):
    """The device or the processes that were asked for are not there; the message says what to do."""


@dataclass(frozen=True)
class Context:
    """This process: rank of world_size, local_rank on its machine, and the device that it computes on.

    As a context manager it leaves the process group at the end, at once when an error passes through. Raises
    DeviceError instead of the words of torch's backends when another process of the group has ended. With NCCL the
    process itself ends by an error, which is told then, see `abandon`.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    def __enter__(self) -> Context:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            shutdown()
            return
        told = self._in_place_of(error)
        abandon(_told_at_the_end(told or error) if _waits_for_others() else 1)
        if told is not None:
            raise told from error

    def _in_place_of(self, error: BaseException) -> DeviceError | None:
        if not (_joined() and _is_lost_peer(error)):
            return None
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        return DeviceError(
            f"process {self.rank} cannot go on without another one that has ended ({reason}); look for what that one "
            "has said"
        )


def init(device: str | torch.device | None = None, timeout: timedelta = _TIMEOUT) -> Context:
    """Joins the process group that torchrun describes; a single process joins none.

    device   "cpu" keeps off the GPUs; None takes the GPU of this local rank, or the CPU of a machine without one
    timeout  how long a rank waits for the others before it gives up with an error

    Raises DeviceError when torchrun's variables are there only in part, more processes were started than GPUs, or
    `device` is none that torch knows, or one certain GPU.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if given["RANK"] is None and given["WORLD_SIZE"] is None:
        return Context(0, 1, 0, _device(device, 0))
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise DeviceError(f"torchrun's variables are incomplete: {', '.join(missing)} is not set; start with torchrun")
    rank_, world, local = (int(given[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    place = _device(device, local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timeout)
    return Context(rank_, world, local, place)


def rank() -> int:
    """The number of this process, 0 when it is alone."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _joined() else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes files."""
    return rank() == 0


def started_rank() -> int:
    """The rank that torchrun gave this process, also before it joined the others and after it left them."""
    return int(os.environ.get("RANK", "0"))


def reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes, on all processes; outside the graph of gradients.

    tensor  any shape, the same on every process; it is not changed
    """
    total = tensor.detach().clone()
    if _joined():
        dist.all_reduce(total)
    return total


def reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, on all processes; integers become float32.

    tensor  any shape, the same on every process; it is not changed
    """
    total = reduce_sum(tensor if tensor.is_floating_point() else tensor.float())
    return total / world_size()


def broadcast(tensor: Tensor) -> None:
    """Overwrites `tensor` on every process by that of rank 0."""
    if _joined():
        dist.broadcast(tensor.data, src=0)


def agree(value: bool) -> bool:
    """What rank 0 says, on every process."""
    word = torch.tensor(int(value), device=_collective_device()) if _joined() else torch.tensor(int(value))
    broadcast(word)
    return bool(word.item())


def gather_objects(value: Any) -> list[Any]:
    """The `value` of every process in order of rank on rank 0, an empty list elsewhere.

    value  plain JSON data that may hold numpy arrays and numbers. It travels as JSON text, never as a pickle
    """
    if not _joined():
        return [value]
    text = json.dumps(value, default=_encode_array).encode()
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(_collective_device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=data.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(text)], device=data.device))
    padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8, device=data.device)
    padded[: len(text)] = data
    parts = [torch.empty_like(padded) for _ in sizes] if is_main() else None
    dist.gather(padded, parts, dst=0)
    if parts is None:
        return []
    texts = (bytes(part[: int(size)].cpu().numpy()) for part, size in zip(parts, sizes, strict=True))
    return [json.loads(text, object_hook=_decode_array) for text in texts]


def barrier() -> None:
    """Waits until every process is here."""
    if _joined():
        # A reduction instead of dist.barrier: it needs no guess of the device, and it is the same for both backends.
        reduce_sum(torch.zeros(1, device=_collective_device())).item()


def shutdown() -> None:
    """Meets the other ranks and leaves the process group. Without this, threads of the group can abort a finished
    process at exit."""
    if _joined():
        barrier()
        dist.destroy_process_group()


def abandon(status: int = 1) -> None:
    """Leaves the process group after an error, without the other ranks: they may never come.

    NCCL lets nobody leave whose work with the others is not done, and would hold the process until its time-out. There
    the process ends at once with `status`, upon which torchrun ends the others; what is to be said must be said before.
    """
    if _waits_for_others():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if _joined():
        dist.destroy_process_group()


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that the memory of the CPU or the GPU was too small.

    PyTorch reports a full CPU memory, and a GPU that is too full for a library to start, as a plain RuntimeError, so
    its text must be read.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def _is_lost_peer(error: BaseException | None) -> bool:
    """Whether a process of the group was waited for in vain; gloo says so by a plain RuntimeError."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def _told_at_the_end(error: BaseException) -> int:
    """Says an error as Python does when a process ends by it; the status of that process."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
    elif isinstance(error, DeviceError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1


def _waits_for_others() -> bool:
    return _joined() and dist.get_backend() == "nccl" and dist.get_world_size() > 1


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device(asked: str | torch.device | None, local_rank: int) -> torch.device:
    wanted = None if asked is None else _known_device(asked)
    if wanted is not None and wanted.type != "cuda":
        return wanted
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank < count:
        return torch.device("cuda", local_rank)
    if count:
        raise DeviceError(
            f"local rank {local_rank} has no GPU of its own, torch sees {count}; "
            f"start {count} processes per machine, or ask for device cpu"
        )
    if wanted is not None:
        raise DeviceError("device cuda was asked for, but torch sees no GPU; ask for device cpu")
    return torch.device("cpu")


def _known_device(asked: str | torch.device) -> torch.device:
    expected = f"device is {str(asked)!r}; expected cpu or cuda, or null for a GPU where there is one"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise DeviceError(expected) from error
    if device.type not in ("cpu", "cuda") and not (device.type == "mps" and torch.backends.mps.is_available()):
        raise DeviceError(expected)
    if device.type == "cuda" and device.index is not None:
        raise DeviceError(
            f"device is {str(asked)!r}, but every process takes the GPU of its local rank; ask for cuda, and choose "
            "GPUs by CUDA_VISIBLE_DEVICES"
        )
    return device


def _collective_device() -> torch.device:
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    raise TypeError(f"gather_objects carries JSON data and numeric numpy arrays, not {type(value).__name__}")


def _decode_array(node: dict[str, Any]) -> Any:
    if "__array__" not in node:
        return node
    data = base64.b64decode(node["__array__"])
    return np.frombuffer(data, dtype=np.dtype(node["dtype"])).reshape(node["shape"]).copy()
