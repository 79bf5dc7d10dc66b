"""`shmflow rm` and `shmflow clean`: what is removed, what is taken back, and what is said of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shell import Terminal, run

import shmflow

pytestmark = pytest.mark.usefixtures("folder")


HOLDER = """
    import sys, numpy as np, shmflow
    topics = [shmflow.Topic(name, capacity="1 MiB", temporary=name == "scratch")
              for name in sys.argv[1:]]
    for topic in topics:
        topic.write(np.zeros(9000, "u1"))
    held = [topic.read(0) for topic in topics]
    print("holds", flush=True)
    sys.stdin.readline()
    """


def make(*names: str) -> None:
    for name in names:
        shmflow.Topic(name, "w", capacity="1 MiB").close()


def there() -> list[str]:
    return [info.name for info in shmflow.topics()]


def test_what_is_named_is_removed_and_who_is_attached_told_of(folder: Path) -> None:
    make("idle", "other")
    (folder / "shmflow.spoilt").write_bytes(b"no topic")
    with shmflow.Topic("cam", capacity="1 MiB") as topic, shmflow.Topic("cam", "r") as reader:
        reader.stats()
        assert run("rm", "--dry-run", "cam", "idle").stdout.splitlines() == [
            "would remove cam; 2 participants are still attached: readers drain it and follow the "
            "next one of that name",
            "would remove idle",
        ]
        assert there() == ["cam", "idle", "other", "spoilt"]
        topic.write(b"still here")
        done = run("rm", "idle", "cam", "spoilt", "idle")
        assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
            "removed idle",
            "removed cam",
            "removed spoilt",
        ]
        assert there() == ["other"] and bytes(reader.read(0)) == b"still here"


def test_what_is_not_there_is_an_error_and_the_others_go(folder: Path) -> None:
    make("camera", "idle")
    done = run("rm", "camra", "idle", status=1)
    assert done.stdout == "removed idle\n"
    assert done.stderr == "Error: there is no topic 'camra'; did you mean 'camera'?\n"
    assert "no topic 'camra'" in run("rm", "--dry-run", "camra", status=1).stderr
    done = run("rm", "-f", "camra", "camera")
    assert (done.stdout, done.stderr) == ("removed camera\n", "")
    for wrong in (["rm"], ["rm", "--idle", "camera"]):
        assert "name the topics to remove, or give --idle" in run(*wrong, status=2).stderr


def test_the_idle_are_those_without_a_living_participant(
    folder: Path, spawn: Callable[..., Any]
) -> None:
    assert run("rm", "--idle").stdout == "nothing to remove: no topic is idle\n"
    child = spawn(HOLDER, "killed")
    child.expect("holds")
    child.kill()
    make("idle")
    (folder / "shmflow.spoilt").write_bytes(b"no topic")
    with shmflow.Topic("cam", "w", capacity="1 MiB"):
        done = run("rm", "--idle", "--dry-run")
        assert done.stdout == "would remove idle\nwould remove killed\n"
        assert "left spoilt: " in done.stderr and there() == ["cam", "idle", "killed", "spoilt"]
        assert run("rm", "--idle").stdout == "removed idle\nremoved killed\n"
        assert there() == ["cam", "spoilt"]


def test_clean_tells_what_the_dead_left(folder: Path, spawn: Callable[..., Any]) -> None:
    make("idle")
    child = spawn(HOLDER, "cam", "scratch")
    child.expect("holds")
    assert run("clean", "--json").stdout == "[]\n"
    child.kill()
    old, new = folder / ".shmflow-old", folder / ".shmflow-new"
    for file in (old, new):
        file.write_bytes(b"")
    os.utime(old, (time.time() - 9999,) * 2)
    expected = [
        {"name": "cam", "path": f"{folder}/shmflow.cam", "participants": 1, "removed": False},
        {
            "name": "scratch",
            "path": f"{folder}/shmflow.scratch",
            "participants": 0,
            "removed": True,
        },
        {"name": "", "path": str(old), "participants": 0, "removed": True},
    ]
    assert json.loads(run("clean", "--dry-run", "--json").stdout) == expected
    assert (folder / "shmflow.scratch").exists() and old.exists()  # a look that lists collects it
    assert run("clean", "--dry-run").stdout.splitlines() == [
        "cam: would take back 1 place of dead processes",
        "scratch: would take back the temporary topic itself",
        f"{old}: would take back an unfinished file",
    ]
    assert json.loads(run("clean", "--json").stdout) == expected
    assert there() == ["cam", "idle"] and not old.exists() and new.exists()
    assert run("clean").stdout == "nothing to take back: no dead process has left anything\n"
    with shmflow.Topic("cam", "monitor") as monitor:
        assert monitor.participants() == []


def test_on_a_terminal() -> None:
    make("cam")
    with Terminal("rm", "cam") as rm:
        assert rm.finish() == 0 and rm.said.strip() == "removed cam"
