"""`shmflow ls`: what topics there are."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.looking import flowing
from needs import missing
from shell import Terminal, run

import shmflow
from shmflow.cli.watch import Watch


@pytest.fixture(autouse=True)
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests have topics of their own, and looks that follow each other quickly."""
    monkeypatch.setattr("shmflow.cli.ls.MOMENT", 0.05)


def test_without_topics_it_says_how_to_make_one() -> None:
    done = run("ls")
    assert done.stdout == "" and 'shmflow.Topic("cam").write(frame)' in done.stderr
    assert json.loads(run("ls", "--json").stdout) == []


def test_every_state_is_told(folder: Path, spawn: Callable[..., Any]) -> None:
    script = """
        import sys, shmflow
        topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
        topic.write(b"x")
        print("wrote", flush=True)
        sys.stdin.readline()
        """
    child = spawn(script, "killed")
    child.expect("wrote")
    child.kill()
    (folder / "shmflow.spoilt").write_bytes(b"no topic")
    (folder / "shmflow.not a name").write_bytes(b"no topic")
    with shmflow.Topic("over", "w", capacity="1 MiB", temporary=True) as over:
        over.shutdown()
        with shmflow.Topic("left", "w", capacity="1 MiB") as left:
            left.write(b"x")
        with (
            shmflow.Topic("cam/left", "w", capacity="2 MiB", depth=5) as writer,
            shmflow.Topic("cam/left", "r") as reader,
        ):
            for _ in range(7):
                writer.write(np.zeros(10_000, "u1"))
            held = reader.read(0)
            found = {one["name"]: one for one in json.loads(run("ls", "--json").stdout)}
            text, more = run("ls").stdout, run("ls", "-v", "over", "cam/left").stdout
            assert len(writer.participants()) == 2
    states = {name: facts["state"] for name, facts in found.items()}
    assert states == {
        "cam/left": "live",
        "killed": "dead",
        "left": "idle",
        "over": "ended",
        "spoilt": "broken",
    }
    assert "is shorter than a topic's header" in found["spoilt"]["error"]
    live = found["cam/left"]
    assert (live["capacity"], live["depth"], live["head"], live["retained"]) == (2 << 20, 5, 7, 5)
    assert (live["asked_depth"], found["left"]["asked_depth"]) == (5, 0)
    assert (live["readers"], live["writers"], live["participants"]) == (1, 1, 2)
    assert (live["rate"], live["temporary"], live["allow_lossless"]) == (0, False, True)
    assert live["held_bytes"] >= held.nbytes and 0 <= live["age_s"] < time.monotonic()
    assert live["path"] == f"{folder}/shmflow.cam+left"
    assert live["file_bytes"] == os.stat(live["path"]).st_size
    lines = text.splitlines()
    assert lines[0].split() == [
        *("TOPIC", "CAPACITY", "HEAD", "RETAINED", "RATE/s", "READERS", "WRITERS", "AGE", "STATE")
    ]
    assert [line.split()[0] for line in lines[1:6]] == list(states)
    assert [line.split()[-1] for line in lines[1:6]] == list(states.values())
    assert lines[1].split()[:8] == ["cam/left", "2.0", "MiB", "7", "5", "of", "5", "0"]
    reasons = [line.partition(": ") for line in lines[6:]]
    assert [(name, why) for name, _, why in reasons] == [("spoilt", found["spoilt"]["error"])]
    assert "temporary" in more and live["path"] in more and "killed" not in more


@pytest.fixture
def reachable(topic_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of topics that other users can reach."""
    path = Path("/dev/shm") / f"shmflow-ls-{topic_name}"
    path.mkdir()
    path.chmod(0o1777)
    monkeypatch.setenv("SHMFLOW_DIR", str(path))
    yield
    shutil.rmtree(path)


def test_the_topic_of_another_user_is_private_not_broken(reachable: None) -> None:
    if os.geteuid() != 0:
        missing("only root can become another user")
    shmflow.Topic("theirs", "w", capacity="1 MiB").close()
    shmflow.Topic("open", "w", capacity="1 MiB", permissions=0o644).close()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)
        states = {s.name: s.state for s in Watch().sample()}
        os._exit(0 if states == {"open": "idle", "theirs": "private"} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_rate_is_that_of_now() -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as writer, flowing(writer):
        (facts,) = json.loads(run("ls", "--json").stdout)
    assert facts["rate"] > 0
    assert facts["bytes_per_s"] == pytest.approx(80 * facts["rate"])


def test_a_mistyped_name_suggests_the_nearest() -> None:
    shmflow.Topic("camera", "w", capacity="1 MiB").close()
    done = run("ls", "camra", status=1)
    assert "there is no topic 'camra'" in done.stderr and "did you mean 'camera'?" in done.stderr


def test_on_a_terminal_names_stay_whole_where_it_is_narrow() -> None:
    pytest.importorskip("rich")
    shmflow.Topic("robot/arm/left", "w", capacity="1 MiB").close()
    with Terminal("ls", columns=80) as ls:
        assert ls.finish() == 0
        assert "robot/arm/left" in ls.said and "─" in ls.said and "idle" in ls.said
