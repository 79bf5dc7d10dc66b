"""`shmflow hz`, `bw` and `delay`: measured from counters and stamps."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.looking import flowing
from shell import PATIENCE, Running, Terminal, run, side_by_side, with_rich_and_without

import shmflow
from shmflow.cli.delay import Delay
from shmflow.cli.hz import COLUMNS, Rate
from shmflow.cli.meter import Window, facts_of, flows_of, row_of
from shmflow.cli.watch import Arrivals, Watch

MS = 1_000_000


@pytest.fixture(autouse=True)
def quick(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests have topics of their own, and looks that follow each other quickly."""
    monkeypatch.setattr("shmflow.cli.meter.EVERY", 0.05)


def reports(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_gaps_are_those_of_the_stamps() -> None:
    with shmflow.Topic("imu", "w", capacity="1 MiB", depth=8) as writer:
        stamp = 0
        for gap in (500, 700, 10, 20, 30, 20):
            stamp += gap * MS
            writer.write(b"x", timestamp_ns=stamp)
        shmflow.Topic("cam", "w", capacity="1 MiB").close()
        words = ("hz", "-n", 1, "-w", 5)
        cam, imu = reports(run(*words, "--json").stdout)
        text = run(*words, "imu").stdout
    nothing = {f"gap_{what}_s": None for what in ("mean", "min", "max", "std")}
    assert cam == {"name": "cam", "rate": 0.0, "head": 0, **nothing, "window": 0}
    assert (imu["name"], imu["rate"], imu["head"], imu["window"]) == ("imu", 0, 6, 5)
    assert [imu[f"gap_{what}_s"] for what in ("mean", "min", "max")] == [0.02, 0.01, 0.03]
    assert imu["gap_std_s"] == pytest.approx(0.005**0.5 / 10)
    header, row, end = text.split("\n", 2)
    assert header.split()[:2] == ["TOPIC", "RATE/s"] and end == "\n"
    assert row.split() == ["imu", "0", *"20.0 ms 10.0 ms 30.0 ms 7.1 ms 5".split()]


def test_sizes_are_those_of_the_data() -> None:
    with shmflow.Topic("cam", "w", capacity="4 MiB") as writer:
        for size in (100, 200, 60_000):
            writer.write(np.zeros(size, "u1"), meta={"note": "x" * 500})
        (facts,) = reports(run("bw", "--json", "-n", 1, "cam").stdout)
        text = run("bw", "-n", 1).stdout
    assert (facts["bytes_per_s"], facts["rate"], facts["window"]) == (0, 0, 3)
    assert [facts[f"size_{what}"] for what in ("mean", "min", "max")] == [20_100, 100, 60_000]
    assert text.splitlines()[1].split() == [
        *("cam", "0", "B", "0", "19.6", "KiB", "100", "B", "58.6", "KiB", "3")
    ]


def test_what_flows_is_measured_while_it_flows() -> None:
    with (
        shmflow.Topic("imu", "w", capacity="1 MiB", depth=4) as writer,
        shmflow.Topic("imu", "r") as reader,
        flowing(writer),
    ):
        told = side_by_side(*((name, "--json", "-n", 2) for name in ("hz", "bw", "delay")))
        lag = reader.stats().lag
    (_, hz_told), (_, bw_told), delays = map(reports, told)
    assert hz_told["rate"] > 0 and hz_told["window"] > 4, "more than a shallow ring retains at once"
    assert bw_told["bytes_per_s"] == pytest.approx(80 * bw_told["rate"])
    assert (bw_told["size_min"], bw_told["size_max"]) == (80, 80)
    last = delays[-1]
    assert 0 < last["delay_min_s"] <= last["delay_mean_s"] <= last["delay_max_s"] < PATIENCE
    assert last["window"] > 0 and 0 < last["readers"][0]["lag"] <= lag
    assert last["readers"][0]["behind_s"] > 0


def test_delay_counts_no_message_that_was_there_before() -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as writer, shmflow.Topic("cam", "r") as reader:
        writer.write(b"x", timestamp_ns=1)
        reader.read(0)
        (facts,) = reports(run("delay", "--json", "-n", 1).stdout)
    assert facts["delay_mean_s"] is None and facts["window"] == 0
    assert [r["lag"] for r in facts["readers"]] == [0]


def test_a_topic_goes_and_comes_back() -> None:
    shmflow.Topic("keeps", "w", capacity="1 MiB").close()
    with shmflow.Topic("cam", "w", capacity="1 MiB") as first:
        first.write_many([1, 2, 3])
    asked = ["cam", "keeps"]
    meter = Rate(10)
    with Watch(asked) as watch:
        told = (facts_of(flows, asked, meter) for flows in flows_of(watch, meter, None))
        assert [(one["name"], one["head"]) for one in next(told)] == [("cam", 3), ("keeps", 0)]
        shmflow.unlink("cam")
        gone = {"name": "cam", "state": "gone", "error": "it was removed"}
        assert next(told)[0] == gone and row_of(gone, COLUMNS, meter)[:2] == ["cam", "gone"]
        with shmflow.Topic("cam", "w", capacity="1 MiB") as second:
            second.write(b"x")
        assert [one["head"] for one in next(told)] == [1, 0]
        assert [one["head"] for one in next(told)] == [1, 0]  # it is open since the last report
        assert [seq for seq, _, _ in meter.window_of("cam").messages] == [1]


def test_delay_begins_anew_with_a_topic_of_the_same_name() -> None:
    meter = Delay(10)
    with Watch(["cam"]) as watch:
        for stamp in (1, 2):
            with shmflow.Topic("cam", "w", capacity="1 MiB") as writer:
                writer.write(b"old", timestamp_ns=stamp)
                watch.sample()
                ((name, inode, monitor),) = watch.opened()
                meter.look(name, inode, monitor, False)
                assert list(meter.delays["cam"][1]) == []
                writer.write(b"new")
                meter.look(name, inode, monitor, False)
                meter.look(name, inode, monitor, True)
                (delay,) = meter.delays["cam"][1]
                assert 0 <= delay < PATIENCE
            shmflow.unlink("cam")
            watch.sample()
            meter.keep(())


def test_a_message_that_comes_between_two_looks_at_the_head_is_told_once() -> None:
    class Quicker:
        head, newest = 1, 1

        def _last(self) -> tuple[int, int, int, str]:
            return self.newest, 0, 7, "x.py"

    arrivals, topic = Arrivals(), Quicker()
    assert arrivals.look("cam", 1, topic) is None  # it may have been there for long
    topic.head, topic.newest = 2, 3  # 3 was published after head was loaded
    assert arrivals.look("cam", 1, topic) is not None
    topic.head = 3
    assert arrivals.look("cam", 1, topic) is None
    assert arrivals.look("cam", 2, topic) is None  # another topic of that name
    topic.head = topic.newest = 4
    assert arrivals.look("cam", 2, topic) is not None


def test_ctrl_c_in_a_pipe_ends_it_with_0() -> None:
    shmflow.Topic("cam", "w", capacity="1 MiB").close()
    with Running("hz", "--json") as hz:
        assert json.loads(hz.stdout.readline())["name"] == "cam"
        status, _, err = hz.interrupt()
    assert (status, err) == (0, "")


@with_rich_and_without
def test_ctrl_c_in_a_terminal_ends_it_with_0(command: Sequence[str]) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as writer:
        writer.write(b"x")
        with Terminal("delay", "cam", command=command) as delay:
            delay.expect("DELAY MEAN")
            assert delay.ctrl_c() == 0 and "^C" in delay.said


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_what_else_ends_it_gives_the_cursor_back(end: signal.Signals) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB"), Terminal("hz", "cam") as hz:
        hz.expect("GAP MEAN")
        hz.kill(end)
        hz.expect_exact("\x1b[?25h")
        assert hz.finish() == 128 + end


def test_a_mistyped_name_suggests_the_nearest_and_none_says_how_to_make_one() -> None:
    assert "shmflow pub cam --test-pattern" in run("bw", status=1).stderr
    shmflow.Topic("camera", "w", capacity="1 MiB").close()
    assert "did you mean 'camera'?" in run("delay", "camra", status=1).stderr
    assert "-w" in run("hz", "-w", 1, status=2).stderr


def test_a_window_keeps_the_last_of_one_generation() -> None:
    window = Window(6)
    with shmflow.Topic("imu", "w", capacity="1 MiB", depth=4) as writer:
        with shmflow.Topic("imu", "monitor") as monitor:
            for number in range(1, 4):
                writer.write(np.zeros(number), timestamp_ns=number * 1000 * MS)
            window.look(monitor, 1)
            window.look(monitor, 1)
            assert window.sizes() == [8, 16, 24] and window.gaps() == [1.0, 1.0]
            for number in range(4, 11):  # of these, 4 to 6 are gone before the next look
                writer.write(np.zeros(number), timestamp_ns=number * 1000 * MS)
            window.look(monitor, 1)
            assert [seq for seq, _, _ in window.messages] == [2, 3, 7, 8, 9, 10]
            assert window.gaps() == [1.0] * 4, "3 to 7 is no gap between neighbours"
            window.look(monitor, 2)
            assert [seq for seq, _, _ in window.messages] == [7, 8, 9, 10]
