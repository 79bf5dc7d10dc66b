"""`shmflow bench`: it measures, draws, and is gone without a trace."""

from __future__ import annotations

import json
import time

import pytest
from shell import Terminal, piped, until

import shmflow as sf


@pytest.mark.slow
def test_all_figures_in_the_shortest_time(shm_dir):
    status, out, err = piped("bench", "--seconds", 5, "--json")
    assert status == 0, err
    figures = json.loads(out)
    assert figures["not_measured"] == {}
    assert {"64 B write + read", "64 B stream", "720p stream", "64 B write, CPU"} <= figures[
        "ns_per_message"
    ].keys()
    assert all(ns > 0 for ns in figures["ns_per_message"].values())
    assert figures["latency_ns"]["720p latency"]["p50"] > 0
    assert sum("watched" in name for name in figures["ratios"]) == 2
    assert "[5/5]" in err
    assert not list(shm_dir.glob("*bench-*"))


def test_ctrl_c_between_two_processes_leaves_nothing(folder):
    with Terminal("bench") as bench:
        bench.expect(r"\[1/5\]")
        until(lambda: any(folder.iterdir()), "a topic")
        assert bench.ctrl_c() == 130
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("pause", [0.2, 1.0])
def test_ctrl_c_ends_the_children_too(folder, pause):
    with Terminal("bench", "--seconds", 8) as bench:
        bench.expect(r"\[2/5\]")
        until(lambda: any("stream" in path.name for path in folder.iterdir()), "the stream")
        time.sleep(pause)  # the child is starting, or at work
        assert bench.ctrl_c() == 130
        assert "Traceback" not in bench.said
    assert list(folder.iterdir()) == []


def test_what_was_made_for_the_moment_is_removed(topic_name, shm_dir):
    from shmflow.cli.leaving import remove_all

    for part in ("/a", "/b", "x"):
        sf.Topic(topic_name + part, "w", capacity="1 MiB").close()
    remove_all(f"{topic_name}/")
    assert [path.name for path in shm_dir.glob(f"*{topic_name}*")] == [f"shmflow.{topic_name}x"]
    sf.unlink(f"{topic_name}x")


def test_no_room_is_told_and_the_rest_is_measured(folder):
    folder.rmdir()
    status, out, err = piped("bench", "--seconds", 5)
    assert (status, out) == (1, "")
    assert "not measured: 64 B between two processes" in err and "shmflow doctor" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5e-7, "250 ns"),
        (9.9996e-7, "1.0 µs"),
        (1.26e-6, "1.3 µs"),
        (0.0131, "13 ms"),
        (2, "2.0 s"),
    ],
)
def test_periods(seconds, text):
    from shmflow.cli.bench import period

    assert period(seconds) == text


def test_bars_are_logarithmic_and_stay_within_their_column():
    from shmflow.cli.bench import BAR_WIDTH, bar

    lengths = [len(bar(seconds)) for seconds in (1e-9, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1)]
    assert lengths == [1, 1, 4, 8, 12, 16, 20, 20] and BAR_WIDTH == 20


def test_the_picture_has_a_row_per_figure(capsys):
    from shmflow.cli.bench import draw
    from shmflow.cli.bench_works import Figures

    times = [1e-6 * (1 + n % 7) for n in range(100)]
    ratios = {"64 B write, watched / not": [1.0, 1.01, 1.02]}
    draw(
        Figures({"64 B stream": 4e-7, "720p stream": 3e-4}, {"64 B round trip": times}, ratios), 0.5
    )
    out = capsys.readouterr().out
    assert "400 ns" in out and "9.2 GB/s" in out and "p99 7.0 µs" in out
    assert "64 B write, watched / not: 1.010  (1.005 to 1.015)  goal: < 1.03" in out
    assert "make bench" in out
