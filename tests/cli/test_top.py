"""`shmflow top`: all topics, live, in a real terminal and piped."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence

import numpy as np
import pytest
from cli.looking import person, sample
from shell import COMMAND, Running, Terminal, run, with_rich_and_without

import shmflow
from shmflow.cli.keys import parse_keys
from shmflow.cli.top import KEYS, Board, Row, fitting
from shmflow.cli.watch import flow_between

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def topics() -> None:
    for name, count in (("few", 1), ("many", 3)):
        with shmflow.Topic(name, "w", capacity="1 MiB") as writer:
            for _ in range(count):
                writer.write(np.zeros(3))


FAST = ("top", "--every", "0.1")
LEFT = "\x1b[?1049l"  # the screen that was there before is shown again


@with_rich_and_without
def test_keys_sort_and_q_quits(topics: None, command: Sequence[str]) -> None:
    with Terminal(*FAST, "--sort", "name", command=command) as top:
        top.expect("TOPIC▲.*few.*many.*q quit")
        assert not top.is_as_before()
        top.send("r")
        top.expect("TOPIC▼.*many.*few")
        top.send("s")
        top.expect("RATE/s▼.*few.*many")
        top.send("\x1b[C")
        top.expect("BYTES▼")
        top.send("\x1b[D\x1b[Dr")
        top.expect("TOPIC▼.*many.*few")
        top.send("q")
        top.expect_exact(LEFT)
        assert top.finish() == 0


@pytest.mark.parametrize(("end", "status"), [("Ctrl-C", 0), ("SIGTERM", 143)])
@with_rich_and_without
def test_whatever_ends_it_the_terminal_is_as_it_was(
    topics: None, command: Sequence[str], end: str, status: int
) -> None:
    with Terminal(*FAST, command=command) as top:
        top.expect("many")
        if end == "Ctrl-C":
            top.sendintr()
        else:
            top.kill(signal.SIGTERM)
        top.expect_exact(LEFT)
        assert top.finish() == status


def test_without_keys_it_says_how_to_quit_and_still_ends_tidily(topics: None) -> None:
    line = f"exec {shlex.join([*COMMAND, *FAST])} < /dev/null"
    with Terminal("-c", line, command=["bash"]) as top:
        top.expect("many.*Ctrl-C quits")
        top.kill(signal.SIGTERM)
        top.expect_exact(LEFT)
        assert top.finish() == 143


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(
    topics: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PS1", "ready> ")
    with Terminal(command=["bash", "--norc", "--noprofile", "-i"]) as shell:
        shell.expect_exact("ready> ")
        shell.sendline(shlex.join([*COMMAND, *FAST]))
        shell.expect("few.*q quit")
        shell.send("\x1a")
        shell.expect_exact(LEFT)
        shell.expect("Stopped")
        shell.expect_exact("ready> ")
        shell.sendline("stty -a | grep -o ' icanon' | tr i I; fg")
        shell.expect_exact(" Icanon")
        shell.expect_exact("\x1b[?1049h")
        shell.expect("few.*q quit")
        shell.send("q")
        shell.expect_exact(LEFT)
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
    with Running(*FAST) as top:
        assert " 2 topics " in top.stdout.readline()
        status, _, err = top.interrupt()
    assert (status, err) == (0, "")


def test_topics_come_and_go() -> None:
    with Terminal(*FAST) as top:
        top.expect("There is no topic at all.*shmflow pub cam --test-pattern")
        shmflow.Topic("cam", "w", capacity="1 MiB").close()
        top.expect("1 topic .*cam")
        shmflow.unlink("cam")
        top.expect("There is no topic at all")


def test_rows_remember_what_flowed_and_are_sorted() -> None:
    board = Board("rate")
    names = ("a", "b", "c")
    for at in (1.0, 2.0, 3.0):
        flows = [
            flow_between(sample(at - 1, 0, name=n), sample(at, int(at * size), name=n))
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
        return Row(flow_between(sample(0, 10), sample(1, 20, person(**facts))))

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
