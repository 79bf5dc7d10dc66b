"""What others do to a running topic: signals all the time, removal under load, foreign files.

Owns: timers that fire every fraction of a millisecond, a process that removes and makes a topic in
a loop, and names that suddenly lead elsewhere.
Does not own: shortages (test_resources.py), injected faults (tests/core/test_faults_*), deaths
(tests/crash).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmflow

Run = Callable[..., Any]


# ---- signals that come all the time ------------------------------------------------------------

STORM = """
    import contextlib, os, signal, sys, threading, time, shmflow
    import numpy as np
    name, every, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    rung = 0

    def ring(number, frame):
        global rung
        rung += 1

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, every, every)
"""


@pytest.mark.parametrize("every", [0.0002, 0.001])
def test_in_a_storm_of_signals_everything_comes_to_its_result(
    topic_name: str, run_python: Run, every: float
) -> None:
    run_python(
        STORM
        + """
    with shmflow.Topic(name, capacity="128 MiB", max_message="1 MiB") as topic:
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end or number < 200:
            number += 1
            data = np.full(700_000 if number % 2 else 50, number % 251, "u1")
            assert topic.write(data) == number
            got = topic.read(timeout=1)
            assert got.size == data.size and (got == number % 251).all()
            del got
        for timeout in (0, 0.05, 0.3):
            start = time.monotonic()
            try:
                topic.read(timeout=timeout)
                raise AssertionError("there was nothing")
            except shmflow.Empty:
                pass
            assert timeout <= time.monotonic() - start < timeout + 10
        # Every block of main is held, and the lane is another's: a write waits for room.
        topic.unlink()
    with shmflow.Topic(name, capacity=65536, max_message=65536, max_held=1 << 20) as topic:
        loans = []
        for _ in range(16):
            loans.append(topic.loan(4096))
        start = time.monotonic()
        seq = topic.write(bytes(65536), timeout=0.2)    # goes by the lane
        assert seq == 1 and time.monotonic() - start < 10
        for loan in loans:
            loan.discard()
        del loan, loans
        # The start of a thread that writes after a while: a read without limit comes to it.
        late = threading.Timer(0.3, lambda: topic.write(b"late"))
        late.start()
        assert topic.read(timeout=0).size == 65536
        assert bytes(topic.read()) == b"late"
        late.join()
        topic.unlink()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert rung > 50, rung
    """,
        topic_name,
        every,
        0.5,
    )


def test_a_write_that_waits_for_room_in_a_storm_keeps_its_time_and_its_room(
    topic_name: str, run_python: Run, spawn: Callable[..., Any]
) -> None:
    # Another process stands with the lock: writes wait for it, in slices, and are told.
    holder = spawn(
        """
        import os, sys, shmflow, numpy as np
        topic = shmflow.Topic(sys.argv[1], capacity=1 << 20, max_message=1 << 20)
        topic.write(b"first")
        print("ready", flush=True)
        sys.stdin.readline()
        with open(os.environ["SHMFLOW_DIR"] + "/shmflow." + sys.argv[1], "r+b", 0) as file:
            import struct
            file.seek(4096); (gen,) = struct.unpack("=I", file.read(4))
            file.seek(320); file.write(struct.pack("=I", (gen & 0xFFFFF) << 11 | 1))
            print("held", flush=True)
            sys.stdin.readline()
            file.seek(320); file.write(struct.pack("=I", 0))
        print("freed", flush=True)
        sys.stdin.readline()
        """,
        topic_name,
    )
    holder.expect("ready")
    waiter = spawn(
        STORM
        + """
    topic = shmflow.Topic(name, "w")
    topic.write(b"second")
    print("written", flush=True)
    while not os.path.exists("go"):
        time.sleep(0.01)
    for timeout in (0, 0.25):
        start = time.monotonic()
        try:
            topic.write(b"x", timeout=timeout)
            raise AssertionError("the lock is held")
        except shmflow.Full:
            pass
        assert timeout <= time.monotonic() - start < timeout + 10
    print("full", flush=True)
    print(topic.write(b"third"), flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert rung > 50
    """,
        topic_name,
        0.0005,
        0,
    )
    waiter.expect("written")
    holder.send()
    holder.expect("held")
    (Path(waiter.stderr_path).parent / "go").touch()
    waiter.expect("full", timeout=60)
    holder.send()
    holder.expect("freed")
    waiter.expect("3", timeout=60)
    waiter.finish()
    holder.send()
    holder.finish()
    run_python("import sys, shmflow; shmflow.unlink(sys.argv[1])", topic_name)


@pytest.mark.parametrize("call", ["read()", "create"])
def test_ctrl_c_ends_a_call_in_a_storm(
    topic_name: str, spawn: Callable[..., Any], call: str
) -> None:
    child = spawn(
        STORM
        + """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("started", flush=True)
    try:
        if sys.argv[4] == "create":
            while True:
                shmflow.Topic(name, "w", capacity="512 MiB").unlink()
        shmflow.Topic(name, "r").read()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    with contextlib.suppress(shmflow.TopicNotFound):
        shmflow.unlink(name)
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert not [file for file in os.listdir(os.environ["SHMFLOW_DIR"]) if name in file]
    """,
        topic_name,
        0.0005,
        0,
        call,
    )
    child.expect("started")
    time.sleep(0.2)
    child.process.send_signal(2)
    child.expect("interrupted", timeout=30)
    child.finish(30)


# ---- removal under load ------------------------------------------------------------------------

WRITER = """
    import sys, time, shmflow
    import numpy as np
    name, seconds, tag = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    topic = shmflow.Topic(name, "w")
    end, number = time.monotonic() + seconds, 0
    sizes = (8, 300, 5000, 40_000)
    print("started", flush=True)
    while time.monotonic() < end:
        data = np.empty(sizes[number % 4] // 8, "u8")
        number += 1
        data[:] = number << 8 | tag              # every word says whose and which it is
        topic.write(data, timeout=20)
    topic.close()
    print(number, topic.generation, flush=True)
"""

READER = """
    import sys, time, shmflow
    import numpy as np
    name, seconds, zero_copy = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "views"
    topic = shmflow.Topic(name, "r", max_held="64 MiB")
    end, last, read, kept, seq, generation = time.monotonic() + seconds, {}, 0, [], 0, 0
    print("started", flush=True)
    while time.monotonic() < end:
        message = topic.read_message(timeout=0.2, default=None)
        if message is None:
            continue
        array = message.array if zero_copy else message.array.copy()
        assert (array == array[0]).all(), "torn"
        tag, number = int(array[0]) & 255, int(array[0]) >> 8
        assert number > last.get(tag, 0), "again, or in another order"
        last[tag] = number
        if topic.generation == generation:
            assert message.seq > seq, "a number came again in one generation"
        generation, seq = topic.generation, message.seq
        read += 1
        kept.append((array, int(array[0])))      # views of generations that are long gone
        del kept[:-30]
        if read % 50 == 0:
            assert all((old == value).all() for old, value in kept)
    print(read, topic.generation, flush=True)
    del kept, array, message
    topic.close()
"""


def remove_and_make(topic_name: str, seconds: float) -> tuple[int, int]:
    """How often it was removed by its name, and replaced."""
    removed = replaced = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)
        if (removed + replaced) % 2:
            with shmflow.Topic(topic_name, "w", capacity="1 MiB", replace=True):
                replaced += 1
        else:
            with contextlib.suppress(shmflow.TopicNotFound):
                shmflow.unlink(topic_name)
            removed += 1
    return removed, replaced


@pytest.mark.parametrize("seconds", [1.0, pytest.param(8.0, marks=pytest.mark.slow)])
def test_a_topic_that_is_removed_and_made_in_a_loop_is_followed_without_wrong_data(
    topic_name: str, spawn: Callable[..., Any], seconds: float
) -> None:
    children = [
        spawn(WRITER, topic_name, seconds + 1, 1),
        spawn(WRITER, topic_name, seconds + 1, 2),
        spawn(READER, topic_name, seconds + 1, "views"),
        spawn(READER, topic_name, seconds + 1, "copies"),
    ]
    for child in children:
        child.expect("started", timeout=60)
    removed, replaced = remove_and_make(topic_name, seconds)
    assert removed + replaced > 5
    said = []
    for child in children:
        said.append([int(word) for word in child.readline(60).split()])
        child.finish(60)
    for count, generations in said:
        assert count > 0
        assert generations > 2
        # Those that were gone again before it looked it never saw.
        assert generations <= 2 * (removed + replaced) + 8
    with contextlib.suppress(shmflow.TopicNotFound):
        shmflow.unlink(topic_name)


# ---- names that lead elsewhere -----------------------------------------------------------------


def other_segment(path: Path) -> None:
    """A topic of another name, moved over the name: a generation made by hand."""
    with shmflow.Topic(path.name.removeprefix("shmflow.") + ".other", "w", capacity="2 MiB") as t:
        t.write(b"of the other")
    os.rename(str(path) + ".other", path)


def plain_file(path: Path) -> None:
    put(path, lambda new: new.write_bytes(bytes(range(256)) * 1000))


def empty_file(path: Path) -> None:
    put(path, lambda new: new.write_bytes(b""))


def put(path: Path, make: Callable[[Path], Any]) -> None:
    new = path.with_name(path.name + ".new")
    make(new)
    os.rename(new, path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_a_topic(path: Path) -> None:
    os.rename(path, str(path) + ".there")
    path.symlink_to(str(path) + ".there")


def dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def cut_off(path: Path) -> None:
    put(path, lambda new: new.write_bytes(path.read_bytes()[: 4096 + 100]))


def cut_in_its_header(path: Path) -> None:
    put(path, lambda new: new.write_bytes(path.read_bytes()[:100]))


def nothing(path: Path) -> None:
    path.unlink()


def drop(path: Path) -> None:
    for file in path.parent.glob(path.name + "*"):
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink()


UNUSABLE = [
    plain_file,
    empty_file,
    folder,
    link_to_a_topic,
    dangling_link,
    fifo,
    cut_off,
    cut_in_its_header,
]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gave, or the error of shmflow that it ended with; others are failures."""
    try:
        return call()
    except shmflow.Error as error:
        assert str(error)
        return type(error)


def settle(call: Callable[[], Any], wanted: Any) -> None:
    """Until the call gives what is wanted: attached ones notice within about a second."""
    end = time.monotonic() + 20
    while (got := outcome(call)) != wanted:
        assert time.monotonic() < end, got
        time.sleep(0.01)


def read_bytes(topic: shmflow.Topic) -> bytes:
    return bytes(topic.read(timeout=0.05))


def test_a_topic_moved_over_the_name_is_the_next_generation(topic_name: str, shm_dir: Path) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
        with shmflow.Topic(topic_name, "r") as reader:
            writer.write(b"before")
            view = reader.read(timeout=0)
            other_segment(shm_dir / f"shmflow.{topic_name}")
            settle(lambda: read_bytes(reader), b"of the other")
            assert bytes(view) == b"before"
            assert reader.generation == 2
            end = time.monotonic() + 20
            while writer.generation < 2:
                writer.write(b"after")
                assert time.monotonic() < end
            settle(lambda: read_bytes(reader), b"after")
            del view
    shmflow.unlink(topic_name)


@pytest.mark.parametrize("replace", UNUSABLE, ids=lambda f: f.__name__)
def test_what_is_no_topic_under_a_topic_s_name_is_told_and_harms_nobody(
    topic_name: str, shm_dir: Path, replace: Callable[[Path], None]
) -> None:
    path = shm_dir / f"shmflow.{topic_name}"
    typed = (shmflow.CorruptTopic, shmflow.NotAllowed)
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
        with shmflow.Topic(topic_name, "r") as reader, shmflow.Topic(topic_name, "monitor") as eye:
            writer.write(np.full(10_000, 7))
            view = reader.read(timeout=0)
            replace(path)
            # The newcomers are told at once; those that are attached once they have noticed.
            for mode in ("r", "w", "monitor"):
                got = outcome(lambda mode=mode: shmflow.Topic(topic_name, mode, create=False))
                assert got in typed, (mode, got)
            settle(lambda: outcome(lambda: read_bytes(reader)) in typed, True)
            settle(lambda: outcome(lambda: writer.write(b"x", timeout=1)) in typed, True)
            settle(lambda: outcome(lambda: read_bytes(eye)) in typed, True)
            assert (view == 7).all()
            assert isinstance(writer.participants(), list)
            assert [info.error != "" for info in shmflow.topics() if info.name == topic_name] in (
                [True],
                [],
            )
            # Once it is out of the way, all go on.
            drop(path)
            settle(lambda: isinstance(outcome(lambda: writer.write(b"again")), int), True)
            settle(lambda: outcome(lambda: read_bytes(reader)), b"again")
            settle(lambda: outcome(lambda: read_bytes(eye)), b"again")
            assert (view == 7).all()
            del view
    shmflow.unlink(topic_name)


def test_a_file_that_is_only_removed_is_made_anew_and_followed(
    topic_name: str, shm_dir: Path
) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
        with shmflow.Topic(topic_name, "r") as reader:
            for generation in range(1, 4):
                end = time.monotonic() + 20
                while writer.generation < generation:
                    writer.write(b"to nobody, until it has noticed")
                    assert time.monotonic() < end
                writer.write(b"%d" % generation)
                settle(lambda n=generation: read_bytes(reader), b"%d" % generation)
                assert (writer.generation, reader.generation) == (generation, generation)
                nothing(shm_dir / f"shmflow.{topic_name}")
