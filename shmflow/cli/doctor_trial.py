"""The self-test of ``shmflow doctor``: a message there and back, and the death of a reader.

Owns two temporary topics and one child process, and leaves neither behind. The child is this module
run as a program.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from typing import Any

import numpy as np

import shmflow
from shmflow import _core
from shmflow._names import path_of
from shmflow._texts import FILE_SYSTEM_LACKS
from shmflow.cli.doctor_checks import Finding
from shmflow.cli.leaving import remove_all

PATIENCE = 20.0  # seconds, for a machine that is busy
SHAPE = (64, 1024)  # bytes: large enough to be read without a copy
ROUNDS = 50
HELD = 3  # messages that the child holds on to, also when it is killed
NAME = "self-test"


def answer(name: str) -> None:
    """The child: sends back what comes, and holds on to it."""
    with (
        shmflow.Topic(f"{name}/there", "r", create=False) as there,
        shmflow.Topic(f"{name}/back", "w", create=False) as back,
    ):
        kept: deque[Any] = deque(maxlen=HELD)
        back.write(0)
        while True:
            kept.append(there.read(timeout=PATIENCE))
            back.write(int(kept[-1].sum()))


def lack(folder: str) -> str:
    """What the folder's file system cannot do of what topics need; ''."""
    status = _core._try_folder(folder)
    return FILE_SYSTEM_LACKS[status] if status else ""


def _check_fork(topic: shmflow.Topic) -> None:
    """A child inherits nothing that keeps its parent's place in a topic: MADV_DONTFORK."""
    path = path_of(topic.name)
    pid = os.fork()
    if pid == 0:
        status = 2
        with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
            status = int(any(line.rstrip().endswith(path) for line in maps))
        os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1:
        raise RuntimeError(
            "a forked child inherits what the kernel was asked to keep from it (MADV_DONTFORK): "
            "a dead process counts as alive as long as a child of it lives"
        )


def trial() -> Finding:
    """Write, read, kill, go on, clean up."""
    name = f"doctor-{os.getpid()}"
    try:
        with (
            shmflow.Topic(f"{name}/there", capacity="1 MiB", temporary=True) as there,
            shmflow.Topic(f"{name}/back", capacity="1 MiB", temporary=True) as back,
        ):
            _check_fork(there)
            round_trip = _with_child(name, there, back)
            _after_death(there)
    except (shmflow.Error, OSError, RuntimeError) as error:
        return Finding(
            NAME,
            "bad",
            f"{type(error).__name__}: {error}",
            "if all else is well here, it is worth a report",
        )
    finally:
        remove_all(f"{name}/")
    found = (
        f"64 KiB to another process and its answer in {round_trip * 1e6:.0f} µs; a reader was "
        "killed, the writer went on, nothing is left"
    )
    return Finding(NAME, "OK", found)


def _with_child(name: str, there: shmflow.Topic, back: shmflow.Topic) -> float:
    """Median seconds of a round trip with a child, which is killed then."""
    # It finds the packages where this process found them, also when run from a checkout.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "shmflow.cli.doctor_trial", name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        process_group=0,  # Ctrl-C reaches the parent alone
    )
    try:
        _answer_of(child, back)
        times = []
        for number in range(ROUNDS):
            began = time.perf_counter()
            there.write(np.full(SHAPE, number, dtype=np.uint8))
            got = _answer_of(child, back)
            times.append(time.perf_counter() - began)
            if got != number * SHAPE[0] * SHAPE[1]:
                raise RuntimeError(f"a message arrived changed: its sum is {got}")
        return float(np.median(times))
    finally:
        child.kill()
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def _answer_of(child: subprocess.Popen[bytes], back: shmflow.Topic) -> int:
    """The next number that the child sends; its last words if it ends instead."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return int(back.read(timeout=0.2))
        except shmflow.Empty:
            if child.poll() is not None and child.stderr is not None:
                words = child.stderr.read().decode(errors="replace").split("\n")
                last = next((word for word in reversed(words) if word), f"{child.returncode}")
                raise RuntimeError(f"the child process ended: {last}") from None
            if time.monotonic() > deadline:
                raise


def _after_death(there: shmflow.Topic) -> None:
    """The ring goes on past what the dead one held, and its place is taken back."""
    for number in range(100):
        there.write(np.full(SHAPE, number, dtype=np.uint8), timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while any(p.pid != os.getpid() and p.alive for p in there.participants()):
        if time.monotonic() > deadline:
            raise RuntimeError("the killed process still counts as alive")
        time.sleep(0.01)


if __name__ == "__main__":
    try:
        answer(sys.argv[1])
    except (shmflow.Error, OSError):  # the parent is gone, or says why itself
        raise SystemExit(1) from None
