"""What the works measure with: CPU time, strides, and distributions of times.

Does not: touch a channel.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import numpy as np

EDGES_US = np.logspace(-1, 6, 20 * 7 + 1)  # of the histograms' bins, in microseconds

Figures = dict[str, Any]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def next_stride(stride: int, seconds: float) -> int:
    if seconds < 0.002:
        return min(stride * 2, 256)
    return max(stride // 2, 1) if seconds > 0.02 else stride


def distribution(times_ns: Sequence[int]) -> Figures:
    """Percentiles in microseconds, and how many fell between EDGES_US."""
    times = np.array(times_ns, np.float64) / 1000
    if not len(times):
        return {"count": 0}
    named = {f"p{q:g}": float(np.percentile(times, q)) for q in (50, 90, 99, 99.9)}
    counts, _ = np.histogram(times, EDGES_US)
    return {"count": len(times), "mean": float(times.mean()), **named, "histogram": counts.tolist()}
