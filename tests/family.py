"""Families of processes: what each script of the fork tests begins with.

Owns: forking a child that tells by its exit status whether all went well; waiting for what the
kernel, or another process, does in its own time.
Does not own: what is to be true; the tests say.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable

import shmflow

# A child tells by its exit status whether all went well, and
# never lives longer than a minute.
COMMON = """
    import gc, itertools, multiprocessing, os, signal, sys, threading, time, warnings
    import numpy as np
    import shmflow

    name = sys.argv[1]
    SIZE = 20_000

    def frame(value, size=SIZE):
        return np.full(size, value % 256, np.uint8)

    def in_child(act, *args):
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            signal.alarm(60)
            act(*args)
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(status)

    def ended_well(pid):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, f"child {pid} ended with {status}"
"""


def family(script: str) -> str:
    return textwrap.dedent(COMMON) + textwrap.dedent(script)


def participant_of(topic: shmflow.Topic, pid: int) -> list[shmflow.Participant]:
    return [p for p in topic.participants() if p.pid == pid]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """A net against hanging: what is waited for comes as soon as the machine gets to it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
