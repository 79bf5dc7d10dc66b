"""Families of processes: what each script of the fork tests begins with.

Owns: forking a child that tells by its exit status whether all went well.
Does not own: what is to be true; the tests say.
"""

from __future__ import annotations

import textwrap

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
