"""How commands end, alone and as one of several processes."""

from __future__ import annotations

import errno
import sys
import time

import pytest

from lgrnet import distributed
from lgrnet.engine import command
from lgrnet.engine.command import complain, status_in_group, status_of
from lgrnet.records import DataError
from tests.engine.runs import finish, start


def failing_with(error):
    def work(*_):
        raise error

    return work


def test_a_mistake_is_one_line_and_a_fault_is_none(tmp_path, capsys):
    assert status_of(lambda: 7, tmp_path) == 7
    assert status_of(failing_with(DataError("no such video")), tmp_path) == 2
    assert capsys.readouterr().err == "error: no such video\n"
    assert status_in_group(failing_with(OSError(errno.EROFS, "read-only", "there")), "cpu", tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: cannot use there: read-only; check the path")
    assert status_in_group(lambda context: context.rank, "cpu", tmp_path) == 0
    for error in (ZeroDivisionError(), OSError(errno.EIO, "broken")):
        with pytest.raises(type(error)):
            status_of(failing_with(error), tmp_path)


def test_other_processes_tell_an_error_only_when_rank_0_has_not_ended_them(monkeypatch, capsys):
    waited = []
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(command.time, "sleep", waited.append)
    complain("too few steps")
    assert capsys.readouterr().err == "error in process 3: too few steps\n" and waited == [3.0]


def wait_in_vain(folder) -> None:
    """Rank 1 makes a mistake that rank 0 does not make, which waits for it; each keeps its words and its end."""

    def work(context):
        if context.rank == 1:
            raise DataError("only process 1 reads video b")
        distributed.barrier()

    command._RANK_0_FIRST = 0.5
    with open(folder / f"{distributed.started_rank()}.txt", "w") as sys.stderr:
        status = status_of(lambda: status_in_group(work, "cpu", folder), folder)
        print(time.monotonic(), file=sys.stderr)
    sys.exit(status)


def test_the_only_process_with_an_error_tells_it_before_the_others_end(tmp_path):
    assert finish(start(wait_in_vain, tmp_path, world=2)) == [2, 2]
    (lost, ended), (told, said) = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert told == "error in process 1: only process 1 reads video b"
    assert lost.startswith("error: process 0 cannot go on without another one that has ended (")
    assert lost.endswith("look for what that one has said") and float(said) <= float(ended) + 0.1
