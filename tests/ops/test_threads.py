"""The threads that the CPU kernels work on, torch's own: any number of callers, and processes that fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from lgrnet.ops import cpu, linear
from tests.ops.own_process import ROOT

pytestmark = pytest.mark.skipif(cpu.missing() is not None, reason=f"compiled CPU kernels: {cpu.missing()}")

FORKS = """
import os, sys, torch
from lgrnet.ops import linear
torch.set_num_threads(3)
x, weight = torch.ones(900, 20), torch.ones(30, 20)
def right():
    return bool((linear(x, weight, backend="cpu") == 20).all())
if not right():
    sys.exit(1)
child = os.fork()
if child == 0:
    os._exit(0 if right() and right() else 2)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or (0 if right() else 3))
"""

# The highest number of threads while a kernel runs, by a thread that looks again and again.
COUNTS = """
import os, threading, torch
from lgrnet.ops import linear
torch.set_num_threads(4)
x, weight = torch.rand(4000, 256), torch.rand(256, 256)
for _ in range(3):
    x @ weight
    linear(x[:1], weight, backend="cpu")
most, done = [], threading.Event()
def watch(most=most):
    while not done.is_set():
        most.append(len(os.listdir("/proc/self/task")))
        done.wait(0.0002)
def during(work):
    global done
    most.clear(); done.clear()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(30):
        work()
    done.set(); watcher.join()
    return max(most)
print(during(lambda: x @ weight), during(lambda: linear(x, weight, backend="cpu")))
"""


def test_several_callers_at_a_time_get_what_one_gets(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x = torch.randn(700, 40, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    expected, wrong = linear(x, weight, backend="cpu"), []

    def call():
        wrong.extend(i for i in range(200) if not torch.equal(linear(x, weight, backend="cpu"), expected))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_more_threads_and_fewer_from_call_to_call(monkeypatch):
    x, weight = torch.ones(900, 20), torch.ones(30, 20)
    for count in (1, 5, 2, 9, 1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert linear(x, weight, backend="cpu").eq(20).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_process_has_none_of_them_and_makes_its_own():
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_is_started_beside_torchs():
    """Threads of their own would compete with those of torch, which wait without sleeping."""
    done = subprocess.run([sys.executable, "-c", COUNTS], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    of_torch, with_ours = map(int, done.stdout.split())
    assert with_ours == of_torch > 3
