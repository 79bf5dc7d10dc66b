"""Forks by code that runs inside a call of shmflow's: what shows a warning, what parses a dtype, a
signal's handler, a collection.

Owns: that the child of such a fork returns from its parent's call like the parent, touching nothing
of the parent's; that the parent notices nothing.
Does not own: forks beside a call, or around it (test_fork_within.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from family import family

# `fork` forks once; `both(call, check)` runs the call in which it is to happen, and in which two
# processes then return: each checks its result, the child ends, the parent looks at how.
FORKING = """
    here = os.getpid()
    child = None

    def fork(*args, **kwargs):
        global child
        if child is None:
            child = os.fork()
            if child == 0:
                signal.alarm(60)

    def forking(function):
        def act(*args):
            fork()
            return function(*args)
        return act

    def both(call, check):
        global child
        child = None
        status = 1
        try:
            check(call())
            status = 0
        finally:
            if os.getpid() != here:
                if status:
                    import traceback
                    traceback.print_exc()
                os._exit(status)
        assert child is not None, "nothing forked"
        ended_well(child)
"""

CREATION = family(
    """
    said, hear = os.pipe(), None
    child = None
    here = os.getpid()

    def fork(*_):
        global child
        if child is not None:
            return
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os.read(said[0], 1)  # until the parent has published

    def is_being_made():
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if target.startswith(os.environ["SHMFLOW_DIR"]) and target.endswith("(deleted)"):
                return True
        return False

    def watch():
        while not is_being_made():
            pass
        while child is None and not done.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            time.sleep(0.001)

    done = threading.Event()
    signal.signal(signal.SIGUSR1, fork)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    topic = shmflow.Topic(name, capacity="200 MiB")
    if os.getpid() != here:
        try:
            assert topic.write(b"child") == 11
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    done.set()
    thread.join()
    assert child is not None, "no handler ran while it was made"
    for i in range(10):
        topic.write(frame(i + 1))
    os.write(said[1], b".")
    ended_well(child)
    with shmflow.Topic(name, "r") as reader:
        assert [int(a[0]) for a in reader.read_many(20, 0, copy=True)][:10] == list(range(1, 11))
    assert topic.head == 11
    topic.unlink()
    """
)


def test_a_fork_by_a_signals_handler_while_a_topic_is_made(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(CREATION, topic_name)
    assert done.stderr == ""
