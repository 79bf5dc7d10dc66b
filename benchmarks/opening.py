"""What a topic costs that is new: to create, to attach to, and to write the first frame to.

Owns: these lines of inside.py, which tells their form. The seconds of create and attach are no
ratio; beside them stands what the kernel takes to reserve and clear as many bytes in the same
folder, which is most of it.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

import shmflow

FRAME = (720, 1280, 3)
TOPICS = 1000
LARGE = 1 << 30
FOLDER = os.environ.get("SHMFLOW_DIR", "/dev/shm")


def first_frame(rounds: int) -> Iterator[dict[str, Any]]:
    """Written, read and looked at, page for page, in a topic that has just been made. The frame is
    made just before it is written, as cameras and decoders do."""
    data = np.random.default_rng(1).integers(0, 255, FRAME, np.uint8)
    made = np.empty_like(data)
    first, later = [], []
    for _ in range(rounds):
        with (
            shmflow.Topic(
                temporary=True, capacity=data.nbytes * 12, depth=10, mode="w", create=True
            ) as ring,
            shmflow.Topic(ring.name, "r", create=False) as reader,
        ):
            times = []
            for _ in range(160):
                np.copyto(made, data)
                begin = time.perf_counter()
                ring.write(made)
                reader.read().reshape(-1)[::4096].sum()
                times.append(time.perf_counter() - begin)
        first.append(times[0])
        later.append(statistics.median(times[60:]))
    each = [a / b for a, b in zip(first, later, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4)
    text = (
        f"first 720p frame of a new topic : later ones: {1e6 * statistics.median(first):.0f} us "
        f"to {1e6 * statistics.median(later):.0f} us"
    )
    yield {"name": "first_frame", "ratio": middle, "low": low, "high": high, "text": text}


def reserving(size: int) -> float:
    """Seconds that the kernel takes to give `size` bytes of the folder, cleared."""
    with tempfile.TemporaryFile(dir=FOLDER) as file:
        begin = time.perf_counter()
        os.posix_fallocate(file.fileno(), 0, size)
        zeros = bytes(min(size, 64 << 20))
        file.write(zeros)
        file.flush()
        return time.perf_counter() - begin


def told(name: str, text: str, seconds: list[float], beside: float) -> dict[str, Any]:
    low, middle, high = statistics.quantiles([each / beside for each in seconds], n=4)
    took = 1e3 * statistics.median(seconds)
    text = f"{text}: {took:.2f} ms; the kernel reserves and clears as much in {1e3 * beside:.2f} ms"
    return {
        "name": name,
        "ratio": middle,
        "low": low,
        "high": high,
        "text": text,
        "ours_ms": took,
    }


def create_and_attach(rounds: int) -> Iterator[dict[str, Any]]:
    """A thousand topics at once, and a large one; fewer, or none, where there is not the memory."""
    free = shutil.disk_usage(FOLDER).free
    count = min(TOPICS, free // (8 << 20)) if rounds > 5 else 100
    beside = statistics.median(reserving(1 << 20) for _ in range(21))
    prefix = f"bench-open-{os.getpid()}-"
    created, attached = [], []
    with ExitStack() as stack:
        for number in range(count):
            begin = time.perf_counter()
            ring = shmflow.Topic(
                f"{prefix}{number}", "w", capacity="1 MiB", create=True, temporary=True
            )
            created.append(time.perf_counter() - begin)
            stack.enter_context(ring)
        for number in range(count):
            begin = time.perf_counter()
            ring = shmflow.Topic(f"{prefix}{number}", "r", create=False)
            attached.append(time.perf_counter() - begin)
            stack.enter_context(ring)
    yield told("create", f"one of {count} topics of 1 MiB created", created, beside)
    yield told("attach", f"one of {count} topics of 1 MiB attached to", attached, beside)
    if free < 2 * LARGE:
        return
    attached = []
    with shmflow.Topic(f"{prefix}large", "w", capacity=LARGE, create=True, temporary=True) as large:
        for _ in range(max(rounds, 3)):
            begin = time.perf_counter()
            shmflow.Topic(large.name, "r", create=False).close()
            attached.append(time.perf_counter() - begin)
    yield told("attach_large", "a topic of 1 GiB attached to and left", attached, beside)
