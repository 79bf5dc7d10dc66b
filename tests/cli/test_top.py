"""`shmflow top`: all topics, live, in a real terminal and piped."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from shell import COMMAND, PATIENCE, end_of, run, running, settings, terminal

import shmflow
from shmflow.cli.keys import parse_keys
from shmflow.cli.top import KEYS, Board, Row, fitting
from shmflow.cli.watch import Sample, flow_between


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of topics that no other test looks at."""
    path = tmp_path / "topics"
    path.mkdir()
    monkeypatch.setenv("SHMFLOW_DIR", str(path))
    return path


@pytest.fixture
def topics() -> None:
    for name, count in (("few", 1), ("many", 3)):
        with shmflow.Topic(name, "w", capacity="1 MiB") as writer:
            for _ in range(count):
                writer.write(np.zeros(3))


FAST = ("top", "--every", "0.1")


@pytest.mark.parametrize("rich", [True, False], ids=["rich", "plain"])
def test_keys_sort_and_q_quits(topics: None, rich: bool) -> None:
    with terminal(*FAST, "--sort", "name", rich=rich) as child:
        before = settings(child)
        child.expect("TOPIC▲.*few.*many.*q quit")
        assert settings(child) != before
        child.send("r")
        child.expect("TOPIC▼.*many.*few")
        child.send("s")
        child.expect("RATE/s▼.*few.*many")
        child.send("\x1b[C")
        child.expect("BYTES▼")
        child.send("\x1b[D\x1b[Dr")
        child.expect("TOPIC▼.*many.*few")
        child.send("q")
        child.expect_exact("\x1b[?1049l")  # the screen that was there before
        end_of(child)
        assert child.exitstatus == 0 and settings(child) == before


@pytest.mark.parametrize(("end", "rich"), [("Ctrl-C", True), ("SIGTERM", True), ("SIGTERM", False)])
def test_whatever_ends_it_the_terminal_is_as_it_was(topics: None, end: str, rich: bool) -> None:
    with terminal(*FAST, rich=rich) as child:
        before = settings(child)
        child.expect("many")
        if end == "Ctrl-C":
            child.sendintr()
        else:
            child.kill(signal.SIGTERM)
        child.expect_exact("\x1b[?1049l")
        end_of(child)
        assert child.exitstatus == (0 if end == "Ctrl-C" else 143) and settings(child) == before


def test_without_keys_it_says_how_to_quit_and_still_ends_tidily(topics: None) -> None:
    line = shlex.join([*COMMAND, *FAST])
    with terminal(program=("bash", "-c", f"exec {line} < /dev/null")) as child:
        child.expect("many.*Ctrl-C quits")
        child.kill(signal.SIGTERM)
        child.expect_exact("\x1b[?1049l")
        end_of(child)
        assert child.exitstatus == 143


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(topics: None) -> None:
    line = shlex.join([*COMMAND, *FAST])
    bash = ("bash", "--norc", "--noprofile", "-i")
    with terminal(program=bash, env={"PS1": "ready> "}) as shell:
        shell.expect_exact("ready> ")
        shell.sendline(line)
        shell.expect("few.*q quit")
        shell.send("\x1a")
        shell.expect_exact("\x1b[?1049l")
        shell.expect("Stopped")
        shell.expect_exact("ready> ")
        shell.sendline("stty -a | grep -o ' icanon' | tr i I; fg")
        shell.expect_exact(" Icanon")
        shell.expect_exact("\x1b[?1049h")
        shell.expect("few.*q quit")
        shell.send("q")
        shell.expect_exact("\x1b[?1049l")
        shell.expect_exact("ready> ")
        shell.sendline("echo status $?; exit")
        shell.expect("status 0")


def test_piped_it_prints_each_picture(topics: None) -> None:
    lines = run(*FAST, "-n", 2).stdout.splitlines()
    assert len(lines) == 10 and lines[4] == lines[9] == ""
    for start in (0, 5):
        assert " 2 topics " in lines[start]
        assert lines[start + 1].split()[:3] == ["TOPIC", "RATE/s▼", "BYTES"]
        assert [line.split()[0] for line in lines[start + 2 : start + 4]] == ["few", "many"]
    assert lines[7].split()[-1] == "idle"


def test_piped_ctrl_c_ends_it_with_0(topics: None) -> None:
    with running(*FAST) as top:
        assert top.stdout is not None and " 2 topics " in top.stdout.readline()
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=PATIENCE)
        assert (top.returncode, err) == (0, "")


def test_topics_come_and_go() -> None:
    with terminal(*FAST) as child:
        child.expect("There is no topic at all.*shmflow pub cam --test-pattern")
        shmflow.Topic("cam", "w", capacity="1 MiB").close()
        child.expect("1 topic .*cam")
        shmflow.unlink("cam")
        child.expect("There is no topic at all")


def samples(name: str, head: int, at: float) -> Sample:
    return Sample(name, at, "", 1, head, 1, capacity=1000, depth=10)


def test_rows_remember_what_flowed_and_are_sorted() -> None:
    board = Board("rate")
    names = ("a", "b", "c")
    for at in (1.0, 2.0, 3.0):
        flows = [
            flow_between(samples(n, 0, at - 1), samples(n, int(at * size), at))
            for n, size in zip(names, (10, 30, 10), strict=True)
        ]
        board.add(flows)
    assert [row.flow.now.name for row in board.ordered()] == ["b", "a", "c"]
    assert list(board.rows["b"].rates) == [30, 60, 90]
    board.press("r")
    assert [row.flow.now.name for row in board.ordered()][-1] == "b"
    for _ in KEYS:
        board.press("s")
    assert (board.sort, board.reverse) == ("rate", False)
    board.press("left")
    assert board.sort == "name"
    board.add(flows[:1])
    assert list(board.rows) == ["a"]


def test_colours_tell_who_waits_and_who_loses() -> None:
    def row(**facts: object) -> Row:
        empty = {"pid": 7, "command": "x", "mode": "r", "alive": True, "group": ""}
        person = shmflow.Participant(
            [(empty | facts).get(name, 0) for name in shmflow.Participant.__match_args__]
        )
        now = Sample("t", 1, "", 1, 20, 11, capacity=1000, depth=10, participants=(person,))
        return Row(flow_between(samples("t", 10, 0), now))

    assert row(lag=10).style is None
    assert row(lag=10, lost=3).style == "yellow"
    assert row(lag=9, lossless=True).style is None
    assert row(lag=10, lossless=True).style == "red"
    assert row(alive=False).style == "yellow"


def test_a_narrow_terminal_drops_what_matters_least_but_not_what_is_sorted_by() -> None:
    table = [["x" * 10] * 12]
    assert fitting(table, 1, 144) == list(range(12))
    assert fitting(table, 1, 120) == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]
    assert fitting(table, 8, 24) == [0, 1, 8]


def test_keys_are_told_from_sequences() -> None:
    assert parse_keys(b"s\x1b[C\x1bOD\x1b[1;5Cq") == ["s", "right", "left", "right", "q"]
    assert parse_keys("é\x1b[15~r".encode()) == ["r"]
    assert parse_keys(b"\x1b") == []


@pytest.mark.parametrize("every", ["nan", "inf", "1e300"])
def test_a_pace_that_is_none_is_refused(every: str) -> None:
    assert "--every" in run("top", "--every", every, status=2).stderr
