"""wait(): which of several topics have something to read, and one sleep for all of them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _names

Topics = list[shmflow.Topic]


@pytest.fixture
def three(topic_name: str) -> Iterator[Topics]:
    """Three empty topics; what is written to one is unread on it."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                shmflow.Topic(f"{topic_name}/{n}", capacity="64 KiB", temporary=True)
            )
            for n in range(3)
        ]


def test_those_with_a_message_come_in_the_order_given(three: Topics) -> None:
    assert shmflow.wait(three, 0) == []
    three[2].write(1)
    assert shmflow.wait(three, 0) == [three[2]]
    three[0].write(1)
    assert shmflow.wait(three) == [three[0], three[2]]
    assert shmflow.wait(reversed(three)) == [three[2], three[0]]
    assert shmflow.wait(dict.fromkeys(three), timeout=5) == [three[0], three[2]]
    assert shmflow.wait(topics=[three[2], three[2], three[1]]) == [three[2], three[2]]


def test_looking_consumes_nothing_and_what_was_read_is_not_told_again(three: Topics) -> None:
    for value in range(3):
        three[1].write(value)
    for value in range(3):
        assert shmflow.wait(three) == shmflow.wait(three, 0) == [three[1]]
        message = three[1].read_message(0)
        assert (int(message.array), message.lost) == (value, 0)
    assert shmflow.wait(three, 0) == []


def test_who_waits_is_a_reader_from_then_on(three: Topics) -> None:
    assert [topic.readers for topic in three] == [0, 0, 0]
    assert shmflow.wait(three[:2], 0) == []
    assert [topic.readers for topic in three] == [1, 1, 0]


def test_a_message_that_was_evicted_while_nothing_followed_is_not_told(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="64 KiB", max_message="64 KiB") as topic:
        topic.write(bytes(5000))
        with shmflow.Topic(topic_name, "r") as reader:
            assert shmflow.wait([reader], 0) == [reader]
            loan = topic.loan(64 * 1024)  # takes all the room: what was there is gone
            assert loan.in_ring and topic.tail == topic.head + 1
            assert shmflow.wait([reader], 0) == []
            assert reader.read(0, default=None) is None
            loan.publish()
            assert shmflow.wait([reader], 0) == [reader]
            assert reader.read_message(0).lost == 1
        del loan
        topic.unlink()


def test_the_end_of_a_stream_is_something_to_read(three: Topics) -> None:
    three[1].write(1)
    three[1].shutdown()
    assert shmflow.wait(three) == [three[1]]
    three[1].read(0)
    assert shmflow.wait(three) == [three[1]]
    with pytest.raises(shmflow.Closed):
        three[1].read(0)


@pytest.mark.parametrize("which", range(3))
def test_each_of_them_wakes_the_one_sleep(three: Topics, which: int, background: Any) -> None:
    for act in (lambda topic: topic.write(b"x"), shmflow.Topic.shutdown):
        waiting = background(shmflow.wait, three)
        time.sleep(0.02)
        act(three[which])
        assert waiting.outcome() == [three[which]]
        three[which].read(0, default=None) if not three[which].ended else None


def test_no_wake_is_lost_between_two_that_answer_each_other(topic_name: str) -> None:
    """Each waits for both topics, and writes to the other's when its own has a message."""
    turns = 2000
    names = [f"{topic_name}/{n}" for n in range(2)]
    slow = []

    def play(mine: int) -> None:
        with contextlib.ExitStack() as stack:
            topics = [stack.enter_context(shmflow.Topic(name, start="new")) for name in names]
            readers = [stack.enter_context(shmflow.Topic(name, "r")) for name in names]
            ready.wait(20)
            for turn in range(turns):
                if turn % 2 == mine:
                    topics[mine].write(turn)
                    continue
                while True:
                    began = time.monotonic()
                    found = shmflow.wait(readers, 20)
                    slow.append(time.monotonic() - began > 0.09)
                    assert found
                    values = [int(reader.read(0)) for reader in found]
                    if turn in values:
                        break

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(shmflow.Topic(name, capacity="1 MiB", temporary=True))
        ready = threading.Barrier(2)
        players = [threading.Thread(target=play, args=(n,), daemon=True) for n in range(2)]
        for player in players:
            player.start()
        for player in players:
            player.join(60)
            assert not player.is_alive()
    # A lost wake costs a slice of 100 ms; a busy machine may cost one now and then too.
    assert sum(slow) <= turns / 100


def test_nothing_comes_within_the_timeout(three: Topics) -> None:
    for timeout in (0, 0.0, 0.03, 0.15):
        began = time.monotonic()
        assert shmflow.wait(three, timeout) == []
        assert shmflow.wait([], timeout) == []
        assert shmflow.wait(three[:1], timeout) == []
        assert time.monotonic() - began >= 3 * timeout


def test_huge_timeouts_are_for_ever(three: Topics) -> None:
    three[0].write(1)
    for timeout in (1e9, 1e300, float("inf"), 10**30, None):
        assert shmflow.wait(three, timeout) == [three[0]]


def test_a_topic_that_does_not_exist_yet_is_waited_for(
    three: Topics, topic_name: str, background: Any
) -> None:
    late = [shmflow.Topic(f"{topic_name}/late{n}", "r") for n in range(2)]
    assert shmflow.wait([*three, *late], 0.02) == []
    for topics in ([*late, *three], late[:1]):
        waiting = background(shmflow.wait, topics, 60)
        time.sleep(0.02)
        with shmflow.Topic(late[0].name, "w", capacity="64 KiB", temporary=True) as writer:
            time.sleep(0.02)
            writer.write(b"first")
            assert waiting.outcome() == [late[0]]
            assert bytes(late[0].read(0)) == b"first"
            writer.unlink()
    for topic in late:
        topic.close()


def test_a_removed_topic_is_drained_then_its_next_generation_is_followed(
    three: Topics, topic_name: str, background: Any
) -> None:
    name = f"{topic_name}/again"
    reader = shmflow.Topic(name, "r")
    for by_word in (True, False):
        with shmflow.Topic(name, "w", capacity="64 KiB") as writer:
            writer.write(1)
            assert shmflow.wait([*three, reader]) == [reader]
            writer.unlink() if by_word else os.unlink(_names.path_of(name))
        assert shmflow.wait([*three, reader]) == [reader], "it is not drained yet"
        reader.read(0)
        assert shmflow.wait([*three, reader], 0.01) == []
        waiting = background(shmflow.wait, [*three, reader], 60)
        time.sleep(0.02)
        with shmflow.Topic(name, "w", capacity="64 KiB") as writer:
            writer.write(2)
            assert waiting.outcome() == [reader]
            assert int(reader.read(0)) == 2
            writer.shutdown()
        with shmflow.Topic(name, "w", capacity="64 KiB") as writer:
            assert shmflow.wait([*three, reader], 0) == [], "ended, but made anew since"
            writer.write(3)
            assert shmflow.wait([*three, reader]) == [reader]
            assert int(reader.read(0)) == 3
            writer.unlink()
    assert reader.generation == 6
    reader.close()


def test_a_monitor_is_waited_for_and_leaves_no_trace(three: Topics, background: Any) -> None:
    monitors = [shmflow.Topic(topic.name, "monitor") for topic in three]
    for topics in (monitors, [monitors[0], *three[1:]], monitors[:1]):
        waiting = background(shmflow.wait, topics)
        time.sleep(0.02)
        three[0].write(b"x")
        assert waiting.outcome() == [topics[0]]
        monitors[0].read(0)
    assert all(len(topic.participants()) == 1 for topic in three)
    for monitor in monitors:
        monitor.close()


def test_as_many_as_128_are_waited_for(topic_name: str, background: Any) -> None:
    with shmflow.Topic(topic_name, capacity="64 KiB", max_participants=192) as topic:
        readers = [shmflow.Topic(topic_name, "r") for _ in range(128)]
        waiting = background(shmflow.wait, readers)
        time.sleep(0.02)
        topic.write(1)
        assert waiting.outcome() == readers
        for reader in readers[1:]:
            reader.read(0)
        assert shmflow.wait(readers) == readers[:1]
        for reader in readers:
            reader.close()
        topic.unlink()


def test_the_gil_is_free_meanwhile(three: Topics, background: Any) -> None:
    waiting = background(shmflow.wait, three)
    for _ in range(200):
        time.sleep(0)  # this thread runs
    assert waiting.is_alive()
    three[0].write(1)
    waiting.outcome()


def test_a_topic_that_is_closed_by_another_thread_ends_the_wait(
    three: Topics, topic_name: str, background: Any
) -> None:
    absent = shmflow.Topic(f"{topic_name}/absent", "r")
    monitor = shmflow.Topic(three[0].name, "monitor")
    for closed in (three[2], absent, monitor):
        waiting = background(shmflow.wait, [three[0], three[1], closed])
        time.sleep(0.02)
        closed.close()
        with pytest.raises(shmflow.Closed, match="was closed; open another one"):
            waiting.outcome()
        with pytest.raises(shmflow.Closed):
            shmflow.wait([three[0], closed], 0)


def test_a_closed_topic_is_told_even_if_another_has_a_message(three: Topics) -> None:
    three[0].write(1)
    three[1].close()
    with pytest.raises(shmflow.Closed):
        shmflow.wait(three, 0)


def test_ctrl_c_ends_it(three: Topics) -> None:
    for topics in (three, three[:1], [shmflow.Topic(three[0].name + "/absent", "r")], []):
        late = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        late.start()
        with pytest.raises(KeyboardInterrupt):
            shmflow.wait(topics, 60)
        late.join()
    three[1].write(1)
    assert shmflow.wait(three) == [three[1]]


def test_a_signal_handler_that_returns_does_not_end_it_and_may_close_a_topic(
    three: Topics,
) -> None:
    acts: list[Callable[[], Any]] = [
        lambda: None,
        lambda: three[0].write(b"x"),
        lambda: three[1].close(),
    ]
    done: list[int] = []

    def ring(*_: object) -> None:
        done.append(len(done))
        acts[len(done) - 1]()

    was = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        assert shmflow.wait(three, 0.2) == [] and done == [0]
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        assert shmflow.wait(three, 60) == [three[0]]
        three[0].read(0)
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        with pytest.raises(shmflow.Closed):
            shmflow.wait(three, 60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, was)
    assert done == [0, 1, 2]


def test_another_process_wakes_it_and_its_death_strands_nobody(
    topic_name: str, spawn: Callable[..., Any], background: Any
) -> None:
    script = """
        import sys, shmflow
        topic = shmflow.Topic(sys.argv[1], "w")
        for line in sys.stdin:
            topic.write(line.encode())
        """
    with contextlib.ExitStack() as stack:
        names = [f"{topic_name}/{n}" for n in range(2)]
        for name in names:
            stack.enter_context(shmflow.Topic(name, capacity="64 KiB", temporary=True))
        readers = [stack.enter_context(shmflow.Topic(name, "r")) for name in names]
        writers = [spawn(script, name) for name in names]
        for which in (1, 0):
            waiting = background(shmflow.wait, readers, 60)
            writers[which].send("hello")
            assert waiting.outcome(60) == [readers[which]]
            assert bytes(readers[which].read(0)) == b"hello\n"
        waiting = background(shmflow.wait, readers, 60)
        writers[0].kill()
        writers[1].send("still here")
        assert waiting.outcome() == [readers[1]]


def test_a_child_that_was_forked_waits_by_itself(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    run_python(
        """
        import os, sys, shmflow
        names = [sys.argv[1] + end for end in ("/a", "/b")]
        topics = [shmflow.Topic(name, capacity="64 KiB") for name in names]
        topics[0].write(b"before")
        assert shmflow.wait(topics) == topics[:1]
        pid = os.fork()
        if pid == 0:
            assert shmflow.wait(topics) == topics[:1]
            topics[0].read(0)
            topics[1].write(b"from the child")
            assert shmflow.wait(topics) == topics[1:]
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert shmflow.wait(topics) == topics
        for topic in topics:
            topic.unlink()
        """,
        topic_name,
    )


# Answers futex_waitv (449) as an old kernel or a container does: a filter of this process alone.
FORBID = """
    import ctypes, struct, sys
    def forbid(error):
        load, jump, give = 0x20, 0x15, 0x06
        code = [(load, 0, 0, 0), (jump, 0, 1, 449), (give, 0, 0, 0x50000 | error),
                (give, 0, 0, 0x7FFF0000)]
        program = b"".join(struct.pack("=HBBI", *step) for step in code)
        keep = ctypes.create_string_buffer(program)
        header = struct.pack("=H6xQ", len(code), ctypes.addressof(keep))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        if libc.prctl(22, 2, ctypes.create_string_buffer(header), 0, 0) != 0:
            print("no filters here")
            sys.exit(0)
        libc.syscall.restype = ctypes.c_long
        assert libc.syscall(449, None, 0, 0, None, 0) == -1 and ctypes.get_errno() == error
"""


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_where_the_system_call_is_refused_it_naps(
    topic_name: str,
    run_python: Callable[..., Any],
    missing: Callable[[str], None],
    error: str,
) -> None:
    done = run_python(
        FORBID
        + """
    import errno, threading, time, shmflow
    forbid(getattr(errno, sys.argv[2]))
    topics = [shmflow.Topic(f"{sys.argv[1]}/{n}", capacity="64 KiB", temporary=True) for n in "abc"]
    assert shmflow.wait(topics, 0.05) == []
    used = time.process_time()
    for topic in topics:
        late = threading.Timer(0.2, topic.write, (b"x",))
        late.start()
        assert shmflow.wait(topics, 60) == [topic]
        late.join()
        topic.read(0)
    assert time.process_time() - used < 0.5, "it does not spin"
    for topic in topics:
        topic.close()
    print("napped")
    """,
        topic_name,
        error,
    )
    if done.stdout == "no filters here\n":
        missing("this kernel takes no seccomp filter")
    assert done.stdout == "napped\n"


def test_what_is_not_several_topics_is_refused(three: Topics, topic_name: str) -> None:
    with pytest.raises(TypeError, match=r"takes several Topics, as in wait\(\[left, right\]\)"):
        shmflow.wait(three[0])  # type: ignore[arg-type]
    for bad in (None, 3, object()):
        with pytest.raises(TypeError, match="in a list or another iterable, not"):
            shmflow.wait(bad)  # type: ignore[arg-type]
    for bad in ("text", [three[0], "cam"], [three[0], None], (shmflow.Topic,)):
        with pytest.raises(TypeError, match=r"wait\(\) takes Topics; item [01] is"):
            shmflow.wait(bad, 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing required argument: 'topics'"):
        shmflow.wait()  # type: ignore[call-arg]
    with pytest.raises(ZeroDivisionError):
        shmflow.wait(three[1 // 0] for _ in range(3))
    with pytest.raises(ValueError, match="at most 128 Topics, not 129"):
        shmflow.wait(three * 43, 0)
    assert shmflow.wait([*(three * 42), *three[:2]], 0) == []
    with pytest.raises(ValueError, match="would never return"):
        shmflow.wait([])
    for timeout in (-1, float("nan"), -1e-9):
        with pytest.raises(ValueError, match="timeout must be 0 or more seconds"):
            shmflow.wait(three, timeout)
    with pytest.raises(TypeError, match="timeout must be a number"):
        shmflow.wait(three, "soon")  # type: ignore[arg-type]
    with shmflow.Topic(f"{topic_name}/w", "w") as writer:
        with pytest.raises(shmflow.WrongMode, match=r"wait\(\) needs a Topic of mode 'r'"):
            shmflow.wait([three[0], writer], 0)


def test_what_attaching_raises_is_raised(three: Topics, shm_dir: Any, topic_name: str) -> None:
    reader = shmflow.Topic(f"{topic_name}/foreign", "r")
    (shm_dir / f"shmflow.{topic_name}+foreign").write_bytes(b"not a topic" * 1000)
    with pytest.raises(shmflow.CorruptTopic):
        shmflow.wait([three[0], reader], 60)
    reader.close()


def test_messages_of_many_topics_all_come(topic_name: str) -> None:
    """Writers in threads of their own; each topic's messages come in order, each once."""
    count, names = 300, [f"{topic_name}/{n}" for n in range(6)]
    with contextlib.ExitStack() as stack:
        topics = [
            stack.enter_context(
                shmflow.Topic(name, capacity="8 MiB", depth=count + 1, temporary=True)
            )
            for name in names
        ]

        def write(topic: shmflow.Topic) -> None:
            for number in range(count):
                topic.write(np.full(10 if number % 3 else 3000, number))
            topic.shutdown()

        writers = [threading.Thread(target=write, args=(t,), daemon=True) for t in topics]
        waiting = {stack.enter_context(shmflow.Topic(name, "r")): 0 for name in names}
        for writer in writers:
            writer.start()
        while waiting:
            ready = shmflow.wait(waiting, 60)
            assert ready
            for topic in ready:
                try:
                    array = topic.read(0)
                except shmflow.Closed:
                    assert waiting.pop(topic) == count
                else:
                    assert (array == waiting[topic]).all()
                    waiting[topic] += 1
                    del array
        for writer in writers:
            writer.join()
        gc.collect()


def test_one_that_has_yet_to_join_finds_out_that_the_holder_of_the_lock_is_dead(
    topic: shmflow.Topic, spawn: Callable[..., Any], hold_lock: Callable[..., None]
) -> None:
    script = """
        import sys, shmflow
        topic = shmflow.Topic(sys.argv[1], "w")
        topic.write(b"1")
        print("attached", flush=True)
        sys.stdin.readline()
        """
    name = topic.name
    writer = spawn(script, name)
    writer.expect("attached")
    hold_lock(name, 1)
    with shmflow.Topic(name, "r", lossless=True) as reader:
        assert shmflow.wait([reader], 0.05) == []
        writer.kill()
        assert shmflow.wait([reader], 20) == [reader]
        assert bytes(reader.read(0)) == b"1"


def test_one_that_could_not_join_before_its_topic_went_follows_the_name(
    topic_name: str, hold_lock: Callable[..., None]
) -> None:
    with shmflow.Topic(topic_name, capacity="64 KiB") as writer:
        hold_lock(topic_name, 0)
        with shmflow.Topic(topic_name, "r", group="g") as reader:
            shmflow.unlink(topic_name)
            assert shmflow.wait([reader], 0.05) == []
            with shmflow.Topic(topic_name, capacity="64 KiB") as again:
                again.write(2)
                assert shmflow.wait([reader], 20) == [reader]
                again.unlink()
        assert writer.head == 0
