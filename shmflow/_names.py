"""What a topic is called, where its file lies, and how sizes are spelt.

Imports neither NumPy nor the core: the shell's completion of topic names waits for this module.
"""

from __future__ import annotations

import difflib
import os
import re


def folder() -> str:
    """Where topics lie: $SHMFLOW_DIR or /dev/shm."""
    return os.path.abspath(os.environ.get("SHMFLOW_DIR") or "/dev/shm")


def mount_of(path: str, mountinfo: str | None = None) -> tuple[str, str, str]:
    """The mount that a path lies on: its folder, type and options; '' each where unknown."""
    if mountinfo is None:
        try:
            with open("/proc/self/mountinfo", errors="replace") as file:
                mountinfo = file.read()
        except OSError:
            return "", "", ""
    best, kind, options = "", "", ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, details = left.split(), right.split()
        if len(fields) < 6 or len(details) < 3:
            continue
        point = fields[4].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind, options = point, details[0], f"{fields[5]},{details[2]}"
    return best, kind, options


def file_system(path: str) -> str:
    """'overlay': the type of the file system that a path lies on."""
    return mount_of(os.path.realpath(path))[1] or "a file system of unknown type"


def no_folder() -> str:
    """That the folder is not there, or ''."""
    there = os.path.isdir(folder())
    return "" if there else f"the folder for topics, {folder()}, is not there (SHMFLOW_DIR)"


def path_of(name: str) -> str:
    """The file of a topic."""
    return os.path.join(folder(), "shmflow." + name.replace("/", "+"))


def names() -> list[str]:
    """Names of all topics that have a file, sorted. A file whose name no topic can have is none: in
    a folder for all users, anybody may put anything into a name."""
    try:
        files = os.listdir(folder())
    except OSError:
        return []
    return sorted(filter(is_name, (name_of(f) for f in files if f.startswith("shmflow."))))


def name_of(file: str) -> str:
    """The name that the topic in this file of the folder has, if it is one."""
    return file.removeprefix("shmflow.").replace("+", "/")


def nearest(name: str) -> str:
    """' Did you mean 'cam'?' or what there is instead, or ''."""
    there = names()
    close = difflib.get_close_matches(name, there, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if there:
        shown = ", ".join(repr(n) for n in there[:5])
        return f"; there {'is' if len(there) == 1 else 'are'} {shown}" + (
            f" and {len(there) - 5} more" if len(there) > 5 else ""
        )
    return f"; {no_folder() or 'there is no topic at all'}"


def bad_name(name: str) -> ValueError:
    """A name that no topic can have."""
    return ValueError(
        f"{name[:80]!r} is not a topic name: use letters, digits, '.', '_' and '-', parts joined "
        "by '/', no part starting with '.', at most 200 bytes"
    )


_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def is_name(name: str) -> bool:
    """Can a topic have it?"""
    return len(name) <= 200 and _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises ValueError for a name that no topic can have."""
    if not is_name(name):
        raise bad_name(name)


# ---- sizes ---------------------------------------------------------------------------------------

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)(i?)[bB]?\s*")


def parse_size(value: object, what: str) -> int:
    """Bytes of 1000, "64 MiB", "64M" (both 2**20), "64MB" (10**6)."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if not match:
            raise ValueError(
                f"{what}={value!r} is not a size; write bytes as a number, or like '64 MiB', "
                "'64M' (both 64 * 2**20) or '64MB' (64 * 10**6)"
            )
        number, prefix, binary = match.groups()
        decimal = prefix and not binary and value.rstrip()[-1] in "bB"
        base = 1000 if decimal else 1024
        power = "KMGT".index(prefix.upper()) + 1 if prefix else 0
        size = float(number) * float(base) ** power
    elif isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be a number of bytes or a text like '64 MiB', not {value!r}")
    else:
        size = value.__index__()
    if not 1 <= size < 2**46:
        raise ValueError(f"{what}={value!r} is out of range: from 1 byte to 64 TiB")
    return int(size)


def format_size(size: int) -> str:
    """12 -> '12 B', 67108864 -> '64.0 MiB'."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
