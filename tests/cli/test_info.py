"""`shmflow info`: one topic, everybody in it, and who is in whose way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.looking import person, sample
from shell import Terminal, run

import shmflow
from shmflow.cli import blame
from shmflow.cli.watch import flow_between


@pytest.fixture(autouse=True)
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests have topics of their own, and looks that follow each other quickly."""
    monkeypatch.setattr("shmflow.cli.info.MOMENT", 0.05)


def told(name: str) -> tuple[dict[str, Any], str]:
    """As JSON and as text."""
    facts = json.loads(run("info", "--json", name).stdout)
    return facts, run("info", name).stdout


def test_all_of_a_topic_is_told(folder: Path) -> None:
    with (
        shmflow.Topic("cam", "w", capacity="1 MiB", depth=8, permissions=0o640) as writer,
        shmflow.Topic("cam", "r") as reader,
    ):
        frame = np.zeros((40, 30, 3), "u1")
        for number in range(1, 11):
            writer.write(frame, meta={"encoding": "bgr8"}, timestamp_ns=1000 + number)
        reader.read_message(0, latest=True)
        facts, text = told("cam")
        there = writer.participants()
        layout = writer._layout()
        max_message = writer.max_message
    assert facts["participants"] == [
        {name: getattr(p, name) for name in p.__match_args__} | {"rate": 0.0, "state": "alive"}
        for p in there
    ]
    assert {name: facts[name] for name in layout} == layout
    expected = {
        "name": "cam",
        "state": "live",
        "path": f"{folder}/shmflow.cam",
        "mode": "0640",
        "permissions": "rw-r-----",
        "capacity": 1 << 20,
        "depth": 8,
        "max_message": max_message,
        "head": 10,
        "tail": 3,
        "retained": 8,
        "lock_holder": None,
        "blame": [],
    }
    assert {name: facts[name] for name in expected} == expected
    newest = facts["newest"]
    assert newest.pop("age_s") > 0
    assert newest == {
        "seq": 10,
        "dtype": "uint8",
        "shape": [40, 30, 3],
        "bytes": frame.nbytes,
        "timestamp_ns": 1010,
        "writer": os.getpid(),
        "meta": {"encoding": "bgr8"},
    }
    assert "10: uint8 40×30×3, 3.5 KiB" in text and "8 (3 to 10)" in text
    assert text.endswith("\nNobody is in anybody's way.\n")


def test_a_topic_without_messages_or_people() -> None:
    shmflow.Topic("cam", "w", capacity="1 MiB", allow_lossless=False).close()
    facts, text = told("cam")
    assert facts["newest"] is None and facts["participants"] == [] and facts["state"] == "idle"
    assert "none yet" in text and "no lossless readers" in text and "PID" not in text


@pytest.mark.parametrize("depth", [None, 8])
def test_what_fits_is_told_and_not_what_the_tables_have(depth: int | None) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB", depth=depth) as writer:
        facts, text = told("cam")
        assert f"1.0 MiB for {f'at most {depth}' if depth else 'as many'} messages" in text
        assert (facts["asked_depth"], facts["depth"]) == (depth or 0, writer.depth)
        for _ in range(100):
            writer.write(bytes(100_000))
        text = told("cam")[1]
        retained = writer.head - writer.tail + 1
        assert f"retained  {retained} (" in text
        fits = "at most 8 messages" if depth else f"as many messages as fit: {retained} like the"
        assert f"ring      1.0 MiB for {fits}" in text


def test_who_blocks_whom_is_said_in_words(spawn: Callable[..., Any]) -> None:
    script = """
        import sys, shmflow
        topic = shmflow.Topic("jobs", "r", lossless=True, group="train")
        print(topic.read(20).size, flush=True)
        sys.stdin.readline()
        """
    with shmflow.Topic("jobs", "w", capacity="4 MiB", depth=4) as writer:
        reader = spawn(script)
        hoarder = shmflow.Topic("jobs", "r", max_held="3 MiB")
        writer.write(np.zeros(1 << 20, "u1"))
        reader.expect(str(1 << 20))
        view = hoarder.read(0)
        for _ in range(4):
            writer.write(np.zeros(1000, "u1"))
        with pytest.raises(shmflow.Full):
            writer.write(b"x", timeout=0.01)
        reader.stop()
        blamed, text = told("jobs")
        reader.cont()
        reader.send()
        reader.finish()
        hoarder.close()
        del view
    group = f"group 'train' (pid {reader.pid} ("
    first, second, third = blamed["blame"]
    assert first.startswith(group) and " is 4 messages behind and lossless: writers wait" in first
    assert first.endswith(f"pid {reader.pid} is stopped (kill -CONT {reader.pid})")
    assert second.startswith(f"pid {os.getpid()} (") and "it waits for room" in second
    assert third.startswith(f"pid {os.getpid()} (") and "of the ring (2" in third
    assert [p["state"] for p in blamed["participants"] if p["pid"] == reader.pid] == ["stopped"]
    assert all(sentence.partition(" for ")[0] in text for sentence in blamed["blame"])


def test_what_was_read_in_time_blames_nobody() -> None:
    with (
        shmflow.Topic("jobs", "w", capacity="1 MiB", depth=4) as writer,
        shmflow.Topic("jobs", "r", lossless=True) as reader,
    ):
        for _ in range(4):
            writer.write(b"x")
        _, text = told("jobs")
        assert "is 4 messages behind and lossless: the next write waits for it" in text
        reader.read(0)
        assert "Nobody is in anybody's way." in told("jobs")[1]


def test_each_thing_to_blame_has_its_sentence(spawn: Callable[..., Any]) -> None:
    before = sample(0, 20, person(lost=5), person(pid=8, mode="w", writer_waits=1))
    lossy = person(lost=8, lag=12)
    waited = person(pid=8, mode="w", writer_waits=3, written=6)
    dead = [person(pid=9, alive=False, held_bytes=300), person(pid=9, alive=False, held_bytes=724)]
    flow = flow_between(before, sample(1, 26, lossy, waited, *dead))
    assert blame.sentences(flow) == [
        "pid 8 (x.py) had to wait for room 2 times in 1.0 s, in which it wrote 6 messages",
        "pid 7 (x.py) lost 3 messages in 1.0 s: it reads more slowly than they come",
        "pid 9 (x.py) died, holding 1.0 KiB: its place is taken back by the next to attach, or by "
        "shmflow clean",
    ]
    still = flow_between(sample(0, 20), sample(1, 20))
    assert blame.sentences(still, None, (8, "x.py", 0)) == []
    held = blame.sentences(still, (8, "x.py", 0), (8, "x.py", 0))
    assert "nothing was written meanwhile" in held[0]
    child = spawn("import sys; print('runs', flush=True); sys.stdin.readline()")
    child.expect("runs")
    child.stop()
    (said,) = blame.sentences(still, None, (child.pid, "x.py", 0))
    assert f"is stopped: no write gets through until it goes on (kill -CONT {child.pid})" in said


def test_what_is_not_there_or_not_a_topic_is_an_error(folder: Path) -> None:
    (folder / "shmflow.spoilt").write_bytes(b"no topic")
    assert "did you mean 'spoilt'?" in run("info", "spoil", status=1).stderr
    assert "is shorter than" in run("info", "spoilt", status=1).stderr
    assert "Usage" in run("info", status=2).stderr


def test_a_stream_that_ended_without_a_message_and_meta_that_a_terminal_would_obey() -> None:
    with shmflow.Topic("over", "w", capacity="1 MiB") as topic:
        topic.shutdown()
        assert "none yet" in run("info", "over").stdout
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(b"x", meta={"\x1b]0;title\x07": 1, "\x9b31m": 2})
        said = run("info", "cam").stdout
    assert "\\x1b]0;title\\x07, \\x9b31m" in said and not set(said) & set("\x1b\x9b\x07")


def test_on_a_terminal() -> None:
    pytest.importorskip("rich")
    with shmflow.Topic("cam", "w", capacity="1 MiB") as writer, Terminal("info", "cam") as info:
        assert info.finish() == 0 and writer.participants()[0].alive
        assert "─" in info.said and f" {os.getpid()} " in info.said
