"""What the machine itself allows: the lines that no peer can cross, for the charts.

    python benchmarks/limits.py

Owns: the calls of limits.c, which measures without Python, and what NumPy's own copy costs.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers.compiled import compiled

PARAMETERS: dict[str, dict[str, Any]] = {  # in the order of the program, with what is usual
    "memcpy": {"nbytes": 64, "depth": 16, "threads": 1, "seconds": 0.5},
    "futex": {"pinned": False, "seconds": 0.5},
    "line": {"pinned": False, "seconds": 0.5},
    "stat": {"seconds": 0.3},
}


def measure(what: str, **parameters: Any) -> dict[str, Any]:
    """`what` and its parameters as above; quantiles in seconds ("median", "p90", …) and "rounds".

    memcpy: per copy, and "bytes_per_second" of all threads together. futex, line: per round trip.
    stat: the same for each of "yield", "syscall" and "clock".
    """
    usual = PARAMETERS[what]
    unknown = parameters.keys() - usual.keys()
    if unknown:
        raise TypeError(f"{what} takes {', '.join(usual)}, not {', '.join(sorted(unknown))}")
    values = {**usual, **parameters}
    program = compiled(Path(__file__).with_suffix(".c"))
    arguments = [str(int(v) if isinstance(v, bool) else v) for v in values.values()]
    done = subprocess.run(
        [program, what, *arguments],
        capture_output=True,
        text=True,
        timeout=values["seconds"] * 20 + 30,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def np_copyto(nbytes: int, depth: int, seconds: float = 0.3, rounds: int = 15) -> float:
    """Seconds per np.copyto of `nbytes` into a ring of `depth` arrays; the median of rounds."""
    data = np.ones(nbytes, np.uint8)
    ring = [np.zeros(nbytes, np.uint8) for _ in range(depth)]
    chunk = max(1, 262144 // nbytes)
    times = []
    index = 0
    for _ in range(rounds):
        count = 0
        start = end = time.perf_counter()
        while end - start < seconds / rounds:
            for _ in range(chunk):
                np.copyto(ring[index], data)
                index = index + 1 if index + 1 < depth else 0
            count += chunk
            end = time.perf_counter()
        times.append((end - start) / count)
    return statistics.median(times)


def main() -> None:
    frames = {"64 B": 64, "720p": 720 * 1280 * 3, "33 MB": 2160 * 3840 * 4}
    for name, nbytes in frames.items():
        depth = 256 if nbytes < 4096 else 4
        one, two = (
            measure("memcpy", nbytes=nbytes, depth=depth, threads=n)["bytes_per_second"]
            for n in (1, 2)
        )
        print(
            f"memcpy {name:>5}   {nbytes / one * 1e6:10.3f} us  {one / 1e9:6.2f} GB/s, "
            f"two threads {two / one:.2f} times that;  "
            f"np.copyto {np_copyto(nbytes, depth) * 1e6:10.3f} us"
        )
    for what in ("futex", "line"):
        for pinned in (False, True):
            result = measure(what, pinned=pinned)
            print(
                f"{what:<6} {'pinned' if pinned else '':>6}  {result['median'] * 1e6:10.3f} us  "
                f"(p10 {result['p10'] * 1e6:.3f}, p90 {result['p90'] * 1e6:.3f}) per round trip"
            )
    stat = measure("stat")
    for call in ("yield", "syscall", "clock"):
        print(f"{call:<13}  {stat[call]['median'] * 1e6:10.3f} us")


if __name__ == "__main__":
    main()
