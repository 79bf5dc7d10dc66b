"""Calls that are wrong on purpose: what the fuzzer has to find, or it finds nothing.

Owns: one fault of each kind that fuzz_evil.py judges, as a method of the class that is attacked
instead of shmflow's.
Does not own: the attack; these calls get it as any other does.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

import evil_scene
import numpy as np
from evil_calls import Call, Param

import shmflow


def segments() -> list[str]:
    """Of the topic under attack."""
    found = [entry.path for entry in os.scandir(os.environ["SHMFLOW_DIR"])]
    return [path for path in found if "/shmflow.evil" in path and not path.endswith(".other")]


class Planted:
    """Each method is given `data`, and asks it for its number."""

    def crash(self, data: Any) -> None:
        int(data)
        ctypes.string_at(8)

    def hang(self, data: Any) -> None:
        int(data)
        os.kill(os.getpid(), signal.SIGSTOP)  # deaf to timers as well

    def wrong_error(self, data: Any) -> None:
        int(data)
        raise KeyError("planted")

    def system_error(self, data: Any) -> None:
        int(data)
        ctypes.pythonapi.PyErr_BadInternalCall()

    def raw_status(self, data: Any) -> None:
        int(data)
        raise shmflow.Error("SF_" + "RACE")

    def swallow(self, data: Any) -> None:
        try:
            int(data)
        except BaseException:
            pass

    def spoil(self, data: Any) -> None:
        """What a torn write looks like, in a message of the peer's."""
        int(data)
        for path in segments():
            with open(path, "r+b") as file:
                whole = file.read()
                file.seek(max(0, whole.find(b"\x66" * 1000)))  # evil_peer.make(2)
                file.write(b"\xee" * 1000)

    def leak(self, data: Any) -> None:
        """Memory of the heap goes out as a message."""
        int(data)
        name = os.path.basename(segments()[0]).removeprefix("shmflow.")
        with shmflow.Topic(name, "w") as topic:
            topic.write(np.full(1000, 0xDB, np.uint8), timeout=1)

    def child_crash(self, data: Any) -> None:
        before = os.getpid()
        int(data)
        if os.getpid() != before:
            ctypes.string_at(8)


evil_scene.SUBJECTS["Planted"] = Planted


def calls() -> list[Call]:
    data = Param("data", "int", "positional", True)
    names = [name for name in vars(Planted) if not name.startswith("_")]
    return [Call("_core", "Planted", name, "method", "None", (data,)) for name in names]
