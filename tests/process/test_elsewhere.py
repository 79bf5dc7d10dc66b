"""Processes to whom a topic's path means something else, or nothing: chroot, mounts, folders.

Owns: what such a process may conclude from a name, and what it must not.
Does not own: removal as such (tests/api/test_segments.py).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import missing

READER = """
import os, subprocess, sys
import shmflow

topic = shmflow.Topic(sys.argv[1], "r")
print(int(topic.read(20)), flush=True)
how, where = sys.argv[2:]
if how == "chroot":
    os.chroot(where)
else:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.environ["SHMFLOW_DIR"] if how == "mount" else os.path.dirname(
        os.environ["SHMFLOW_DIR"])
    NEWNS, REC_PRIVATE = 0x20000, 0x44000
    if (libc.unshare(NEWNS) or libc.mount(b"none", b"/", None, REC_PRIVATE, None)
            or libc.mount(b"none", target.encode(), b"tmpfs", 0, None)):
        sys.exit(os.strerror(ctypes.get_errno()))
print("elsewhere", os.path.exists(os.environ["SHMFLOW_DIR"] + "/shmflow." + sys.argv[1]),
      flush=True)
for _ in range(3):
    try:
        print(int(topic.read(1.5)), flush=True)
    except shmflow.Empty:
        print("empty", flush=True)
"""


WRITER = """
import sys
import shmflow

topic = shmflow.Topic(sys.argv[1], "w", capacity="1 MiB")
other = shmflow.Topic(sys.argv[1], "r")
for line in sys.stdin:
    topic.write(int(line))
    print(topic.generation, other.read(0), flush=True)
    if line == "3\\n":
        break
topic.unlink()
"""


@pytest.mark.parametrize("how", ["chroot", "mount", "mount above"])
def test_who_finds_no_name_ends_the_topic_for_nobody(
    spawn: Callable[..., Any], tmp_path: Path, how: str
) -> None:
    if os.geteuid() != 0:
        missing("chroot and mount are for root")
    folder = tmp_path / "above" / "topics"
    folder.mkdir(parents=True)
    env = {"SHMFLOW_DIR": str(folder)}
    writer = spawn(WRITER, "cam", env=env)
    writer.send("1")
    writer.expect("1 1")
    child = spawn(READER, "cam", how, tmp_path, env=env)
    child.expect("1")
    if child.readline().strip() != "elsewhere False":
        missing(f"{how} is refused: {child.stderr}")
    child.expect("empty")  # it had the time to look for the name
    for number in ("2", "3"):
        writer.send(number)
        writer.expect(f"1 {number}")
        child.expect(number)
    child.finish()
    writer.finish()


SUBSCRIBER = """
import sys
import shmflow

topic = shmflow.Topic(sys.argv[1], "r")
for _ in range(2):
    print(int(topic.read(60)), topic.generation, flush=True)
"""

WRITE = """
import sys
import shmflow

with shmflow.Topic(sys.argv[1], "w", capacity="1 MiB") as topic:
    topic.write(int(sys.argv[2]))
"""


def test_a_folder_that_was_removed_and_made_again_has_other_topics(
    spawn: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "topics"
    folder.mkdir()
    env = {"SHMFLOW_DIR": str(folder)}
    child = spawn(SUBSCRIBER, "cam", env=env)
    spawn(WRITE, "cam", 1, env=env).finish()
    child.expect("1 1")
    shutil.rmtree(folder)
    folder.mkdir()
    spawn(WRITE, "cam", 2, env=env).finish()
    child.expect("2 2")
    child.finish()
