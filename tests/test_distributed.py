"""Processes that agree: alone, and two of them over gloo."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from lgrnet import distributed
from lgrnet.engine.command import status_in_group
from tests.engine.runs import finish, kill, run, start, write_videos

FEW = ["train.steps=20", "train.save_every=100", "train.eval_last=false", "train.eval_every=0"]
PLAIN = ["model.dropout=0.0", "model.norm=false"]


def talk(folder) -> None:
    """What each of two processes sees; written down by each."""
    with distributed.init("cpu") as context:
        rank = distributed.rank()
        tensor = torch.tensor([float(rank), 1.0])
        facts = {
            "context": [context.rank, context.world_size, context.local_rank, str(context.device)],
            "main": distributed.is_main(),
            "mean": distributed.reduce_mean(tensor).tolist(),
            "sum": distributed.reduce_sum(tensor).tolist(),
            "given": tensor.tolist(),
            "whole_mean": distributed.reduce_mean(torch.tensor([rank])).tolist(),
            "agreed": [distributed.agree(rank == 0), distributed.agree(rank == 1)],
        }
        everything = distributed.gather_objects(
            {"rank": rank, "array": np.full((2, rank + 1), rank, np.int16), "text": "x" * 100 * rank, "nan": math.nan}
        )
        facts["gathered"] = [
            [g["rank"], g["array"].tolist(), str(g["array"].dtype), len(g["text"])] for g in everything
        ]
        distributed.barrier()
        (folder / f"{rank}.json").write_text(json.dumps(facts))


def fail_on_one(folder) -> None:
    """Rank 1 stops with an error while rank 0 waits for it."""
    with distributed.init("cpu"):
        if distributed.rank() == 1:
            raise SystemExit(7)
        distributed.barrier()


def test_two_processes_agree(tmp_path):
    assert finish(start(talk, tmp_path, world=2)) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["context"] == [0, 2, 0, "cpu"] and second["context"] == [1, 2, 1, "cpu"]
    assert (first["main"], second["main"]) == (True, False)
    for facts in (first, second):
        assert facts["mean"] == [0.5, 1.0] and facts["sum"] == [1.0, 2.0] and facts["whole_mean"] == [0.5]
        assert facts["agreed"] == [True, False]
    assert second["given"] == [1.0, 1.0]
    assert first["gathered"] == [[0, [[0], [0]], "int16", 0], [1, [[1, 1], [1, 1]], "int16", 100]]
    assert second["gathered"] == []


def test_a_rank_that_fails_does_not_leave_the_other_waiting(tmp_path):
    processes = start(fail_on_one, tmp_path, world=2)
    for process in processes:
        process.join(30)
    assert not any(process.is_alive() for process in processes)
    first, second = kill(processes)
    assert second == 7 and first != 0


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path):
    data = write_videos(tmp_path / "data")
    processes = start(run, tmp_path / "two", data, *FEW, *PLAIN, world=2)
    run(tmp_path / "one", data, *FEW, *PLAIN)
    assert finish(processes) == [0, 0]
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 20
    for alone, together in zip(one, two, strict=True):
        assert together["size"] == alone["size"] and together["lr"] == alone["lr"]
        for name in ("mask_bce", "class_ce"):
            assert together["losses"][name] == pytest.approx(alone["losses"][name], rel=1e-5)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)


def test_two_processes_evaluate_as_one(tmp_path):
    data = write_videos(tmp_path / "data", names="abc")
    evaluate = ["train.steps=1", "train.eval_first=true", "train.eval_last=false"]
    processes = start(run, tmp_path / "two", data, *evaluate, world=2)
    run(tmp_path / "one", data, *evaluate)
    assert finish(processes) == [0, 0]
    frames = [(tmp_path / name / "eval" / "step_00000000" / "frames.csv").read_text() for name in ("one", "two")]
    assert frames[0] == frames[1] and len(frames[0].splitlines()) == 1 + 3 * 3 * 2
    masks = sorted(p.name for p in (tmp_path / "two" / "eval" / "step_00000000" / "toy" / "web").rglob("*.png"))
    assert len(masks) == 9


def test_alone_everything_is_the_identity(tmp_path):
    context = distributed.init("cpu")
    assert (context.rank, context.world_size, str(context.device)) == (0, 1, "cpu")
    tensor = torch.tensor([1.5], requires_grad=True)
    assert distributed.reduce_sum(tensor).item() == distributed.reduce_mean(tensor).item() == 1.5
    assert not distributed.reduce_mean(tensor).requires_grad
    value = object()
    assert distributed.gather_objects(value) == [value]
    assert distributed.agree(True) is True and distributed.is_main() and distributed.world_size() == 1
    distributed.barrier()
    distributed.shutdown()


class Ended(SystemExit):
    """Instead of the end of the process."""


@pytest.fixture
def nccl(monkeypatch):
    """A process of two that NCCL joins: to leave the group is to wait for the other one."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: pytest.fail("would wait for the other one"))

    def end(status):
        raise Ended(status)

    monkeypatch.setattr("os._exit", end)
    return distributed.Context(1, 2, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("a bug"), 1, "Traceback"),
        (KeyboardInterrupt(), 1, "KeyboardInterrupt"),
        (torch.distributed.DistError("timed out"), 1, "error: process 1 cannot go on without another one"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
        (SystemExit("in words"), 1, "in words"),
    ],
)
def test_after_an_error_nccl_is_not_waited_for(nccl, error, status, said, capsys):
    with pytest.raises(Ended, match=f"^{status}$"), nccl:
        raise error
    written = capsys.readouterr().err
    assert said in written and (said or not written)


def test_a_mistake_is_told_before_the_process_ends(nccl, monkeypatch, tmp_path, capsys):
    def work(context):
        raise distributed.DeviceError("no such GPU")

    monkeypatch.setattr(distributed, "init", lambda device: nccl)
    with pytest.raises(Ended, match="^2$"):
        status_in_group(work, None, tmp_path)
    assert "no such GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
def test_how_torch_says_that_memory_is_too_small(text):
    assert distributed.is_out_of_memory(RuntimeError(text)) and distributed.is_out_of_memory(torch.OutOfMemoryError())
    assert not distributed.is_out_of_memory(ValueError(text))
    assert not distributed.is_out_of_memory(RuntimeError("CUDNN_STATUS_NOT_SUPPORTED"))


def test_variables_that_are_there_in_part(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(RuntimeError, match="LOCAL_RANK is not set"):
        distributed.init("cpu")


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(distributed.DeviceError, match="cuda was asked for, but torch sees no GPU; ask for device cpu"):
        distributed.init("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(distributed.DeviceError, match="local rank 1 has no GPU of its own, torch sees 1; start 1 proc"):
        distributed._device(None, 1)
    with pytest.raises(distributed.DeviceError, match="'cuda:1'.*CUDA_VISIBLE_DEVICES"):
        distributed.init("cuda:1")


def test_gathering_refuses_objects():
    with pytest.raises(TypeError, match="not object"):
        json.dumps({"a": object()}, default=distributed._encode_array)
