"""On what the figures were taken: the machine and the versions, for the head of every report."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import peers


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.machine()


def load() -> float:
    """Processes that wanted to run in the last minute, before anything was measured."""
    return round(os.getloadavg()[0], 2)


def describe(names: Iterable[str]) -> dict[str, object]:
    virtual = "hypervisor" in Path("/proc/cpuinfo").read_text()
    return {
        "processor": processor(),
        "virtual": virtual,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load": load(),
        "versions": {
            entry.package: peers.version(name)
            for name in names
            if (entry := peers.REGISTRY.get(name)) and entry.package
        },
    }


def head(machine: dict[str, object]) -> str:
    versions = machine["versions"]
    assert isinstance(versions, dict)
    return (
        f"{machine['processor']}, {machine['cpus']} CPUs"
        f"{' (virtual machine)' if machine['virtual'] else ''}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, NumPy {machine['numpy']}, load {machine['load']}\n"
        + ", ".join(f"{package} {version}" for package, version in versions.items())
    )
