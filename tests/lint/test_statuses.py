"""The public header's statuses are the core's: all that a C program can be told, no other."""

from __future__ import annotations

import re
from pathlib import Path

# What the core says only to those who call it under the public interface.
INSIDE = {
    "CLOSED": "a Topic of Python's; in C its pointer is gone",
    "DESERTED": "absent, for who attaches: NOT_FOUND",
    "EXITING": "of temporary topics, which C does not have",
    "EXISTS": "shmflow_write joins what another has made meanwhile",
    "GONE": "shmflow_write and shmflow_read follow to the next generation",
    "NOT_RETAINED": "of seek and peek, which C does not have",
}


def test_the_header_tells_every_status_that_is_returned(root: Path) -> None:
    table = dict(
        re.findall(r"X\(SF_(\w+), (-\d+),", (root / "src/core/status.h").read_text("utf-8"))
    )
    header = dict(
        re.findall(
            r"#define SHMFLOW_(\w+) \((-\d+)\) /\* \S.* \*/",
            (root / "src/core/shmflow.h").read_text("utf-8"),
        )
    )
    assert header == {name: value for name, value in table.items() if name not in INSIDE}
    assert table.keys() > INSIDE.keys()
