"""Fork, multiprocessing, threads and the end of processes: who owns what afterwards.

A forked child owns nothing of its parent's: its views keep their bytes, its Topic attaches anew
where the parent stood, its loans are void, and its end changes nothing. Nor does anybody's end
change what another process sees.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from targets import echo

import shmflow

SIZE = 20_000
CAPACITY = 1 << 20


def frame(value: int, size: int = SIZE) -> np.ndarray:
    return np.full(size, value, np.uint8)


def in_child(act: Callable[[], None]) -> None:
    """Runs `act` in a forked child; an exception there fails the test here."""
    parent_end, child_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            act()
            status = 0
        except BaseException as error:
            os.write(child_end, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(status)
    os.close(child_end)
    with os.fdopen(parent_end, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"in the child: {said}"


class Signpost:
    """Parent and child tell each other how far they are."""

    def __init__(self) -> None:
        self.to_child, self.to_parent = os.pipe(), os.pipe()

    def tell(self, ends: tuple[int, int]) -> None:
        os.write(ends[1], b".")

    def hear(self, ends: tuple[int, int]) -> None:
        assert os.read(ends[0], 1) == b"."

    def close(self) -> None:
        for end in (*self.to_child, *self.to_parent):
            os.close(end)


def participant_of(topic: shmflow.Topic, pid: int) -> list[shmflow.Participant]:
    return [p for p in topic.participants() if p.pid == pid]


# ---- inherited views, cursors and loans --------------------------------------------------------


def test_inherited_views_keep_their_bytes_while_the_parent_goes_on_writing(
    topic_name: str,
) -> None:
    sign = Signpost()
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        for value in (1, 2, 3):
            topic.write(frame(value))
        views = [topic.read(0) for _ in range(3)]
        pid = os.fork()
        if pid == 0:
            try:
                signal.alarm(60)
                sign.hear(sign.to_child)  # the parent has let go, and overwritten everything
                same = all(
                    (view == value).all() for value, view in zip((1, 2, 3), views, strict=True)
                )
                read_only = not any(view.flags.writeable for view in views)
                views.clear()
                os._exit(0 if same and read_only else 1)
            finally:
                os._exit(2)
        views.clear()
        for i in range(300):
            topic.write(frame(100 + i % 100))
        sign.tell(sign.to_child)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sign.close()


def test_the_parents_views_are_untouched_by_a_childs_end(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        topic.write(frame(1))
        view = topic.read(0)

        def drop() -> None:
            nonlocal view
            assert (view == 1).all()
            view = None
            topic.close()

        for _ in range(3):
            in_child(drop)
        assert topic.stats().held_blocks == 1
        for _ in range(200):
            topic.write(frame(9))
        assert (view == 1).all()
        del view
        assert topic.stats().held_bytes == 0


def test_an_inherited_topic_attaches_anew_where_the_parent_stood(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        for value in range(1, 9):
            topic.write(frame(value))
        assert [int(topic.read(0)[0]) for _ in range(3)] == [1, 2, 3]
        parent = os.getpid()

        def go_on() -> None:
            assert [int(topic.read(0)[0]) for _ in range(2)] == [4, 5]
            (mine,) = participant_of(topic, os.getpid())
            assert mine.alive and mine.read == 2 and mine.lost == 0
            assert len(participant_of(topic, parent)) == 1, "the parent keeps its slot"
            assert topic.stats().read == 2, "counters begin anew"
            assert topic.write(frame(77)) == 9
            topic.close()

        in_child(go_on)
        # The parent's cursor is its own: it sees 4 too, and the child's message.
        assert [int(topic.read(0)[0]) for _ in range(6)] == [4, 5, 6, 7, 8, 77]
        assert len(topic.participants()) == 1


def test_a_reader_in_the_child_holds_views_of_its_own(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        topic.write(frame(1))
        inherited = topic.read(0)
        topic.write(frame(2))

        def hold_both() -> None:
            own = topic.read(0)
            assert topic.stats().held_blocks == 1
            with shmflow.Topic(topic_name, "w") as other:
                for _ in range(300):
                    other.write(frame(9))
            assert (own == 2).all() and (inherited == 1).all()

        in_child(hold_both)
        assert (inherited == 1).all()
        assert shmflow.clean() == 1, "the child left without closing"


def test_a_loan_is_void_in_the_child(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        loan = topic.loan(SIZE)
        assert loan.in_ring
        array = loan.array
        array[:] = 5

        def publish() -> None:
            assert (array == 5).all()
            array[:] = 6  # its own copy: nobody else's message changes
            with pytest.raises(shmflow.Closed, match="parent"):
                loan.publish()
            loan.discard()
            assert topic.write(frame(7)) == 1  # the topic itself works

        in_child(publish)
        assert loan.publish() == 2
        assert (topic.read(0) == 7).all()
        assert (topic.read(0) == 5).all()


def test_a_child_that_forks_again_still_has_the_views(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        topic.write(frame(3))
        view = topic.read(0)

        def grandchild() -> None:
            in_child(lambda: np.testing.assert_array_equal(view, frame(3)))
            topic.write(frame(4))
            own = topic.read(0)
            in_child(lambda: np.testing.assert_array_equal(own, frame(4)))
            np.testing.assert_array_equal(view, frame(3))

        in_child(grandchild)


# ---- multiprocessing ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_topic_is_an_argument_of_a_process(topic_name: str, method: str) -> None:
    context = multiprocessing.get_context(method)
    with (
        shmflow.Topic(topic_name, "w", capacity=CAPACITY) as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        ours, theirs = context.Pipe()
        process = context.Process(target=echo, args=(reader, theirs))
        process.start()
        theirs.close()
        writer.write(frame(1))
        writer.write(frame(2))
        assert ours.poll(60)
        assert ours.recv() == ([1, 2], topic_name, "r")
        assert {p.pid for p in writer.participants()} == {os.getpid(), process.pid}
        ours.send(None)
        process.join(60)
        assert process.exitcode == 0
        ours.close()
        process.close()
        assert int(reader.read(5)[0]) == 1, "this process's cursor is its own"


# ---- who outlives whom -------------------------------------------------------------------------

FAMILY = """
    import os, sys, time
    import numpy as np
    import shmflow

    def say(text):  # in one piece: two processes share the pipe
        os.write(1, text.encode() + b"\\n")

    name, who = sys.argv[1], sys.argv[2]
    topic = shmflow.Topic(name, "rw", capacity=1 << 20)
    topic.write(np.full(20000, 1, np.uint8))
    view = topic.read(0)
    r, w = os.pipe()
    if os.fork() == 0:
        os.close(w)
        if who == "child uses it":
            topic.write(np.full(20000, 2, np.uint8))
            own = topic.read(5)
        say(f"child {os.getpid()}")
        os.read(r, 1)  # the parent is gone
        assert (view == 1).all()
        if who == "child uses it":
            assert (own == 2).all()
            topic.write(np.full(20000, 3, np.uint8))
        say("child saw it")
        sys.stdin.readline()
        os._exit(0)
    os.close(r)
    say("parent")
    time.sleep(100)
"""


@pytest.mark.parametrize("who", ["child uses it", "child never touches it"])
def test_a_child_that_outlives_its_killed_parent_does_not_keep_it_alive(
    topic_name: str, spawn: Callable, who: str
) -> None:
    with shmflow.Topic(topic_name, "monitor") as monitor:
        family = spawn(FAMILY, topic_name, who)
        lines = {family.readline(), family.readline()}
        (child,) = [int(line.split()[1]) for line in lines if line.startswith("child")]
        assert "parent" in lines
        (parent,) = participant_of(monitor, family.pid)
        assert parent.alive and parent.held_blocks == 1
        family.kill()
        family.expect("child saw it")
        (parent,) = participant_of(monitor, family.pid)
        assert not parent.alive
        os.kill(child, 0)  # it lives, and yet:
        assert [p.alive for p in participant_of(monitor, child)] == [True] * (
            who == "child uses it"
        )
        assert shmflow.clean() == 1
        assert participant_of(monitor, family.pid) == []
        with shmflow.Topic(topic_name, "r", create=False) as reader:
            values = [
                int(m.array[0]) for m in iter(lambda: reader.read_message(0, default=None), None)
            ]
            assert values == ([1, 2, 3] if who == "child uses it" else [1])
        family.send()
        for _ in range(500):
            try:
                os.kill(child, 0)
            except ProcessLookupError:
                break
            time.sleep(0.02)


def test_a_parent_goes_on_after_its_child_was_killed(topic_name: str) -> None:
    sign = Signpost()
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:
        topic.write(frame(1))
        topic.write(frame(2))
        view = topic.read(0)
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            own = topic.read(0)
            sign.tell(sign.to_parent)
            time.sleep(60)
            os._exit(int(own[0]))
        sign.hear(sign.to_parent)
        assert [p.held_blocks for p in participant_of(topic, pid)] == [1]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        time.sleep(0.05)  # the last references to files go a little after the parent was told
        assert [p.alive for p in participant_of(topic, pid)] == [False]
        assert shmflow.clean() == 1
        assert participant_of(topic, pid) == []
        for _ in range(200):
            topic.write(frame(9))
        assert (view == 1).all()
        del view
    sign.close()


# ---- the end of the interpreter ----------------------------------------------------------------


def test_the_interpreter_ends_with_live_views_and_loans(
    topic_name: str, run_python: Callable
) -> None:
    done = run_python(
        """
        import sys
        import numpy as np
        import shmflow

        topic = shmflow.Topic(sys.argv[1], capacity=1 << 20)
        topic.write(np.full(20000, 1, np.uint8))
        view = topic.read(0)
        part = view[5:10]
        loan = topic.loan(20000)
        cycle = [view, topic]
        cycle.append(cycle)
        builtins_keep = sys.modules["shmflow"].kept = (part, loan.array)
        print("end")
        """,
        topic_name,
    )
    assert done.stdout == "end\n" and done.stderr == ""
    with shmflow.Topic(topic_name, "r") as reader:
        assert len(reader.participants()) == 1
        assert (reader.read(0) == 1).all()


@pytest.mark.parametrize("wait", ["for a message", "for a topic"])
def test_the_interpreter_ends_while_a_daemon_thread_reads(
    topic_name: str, run_python: Callable, wait: str
) -> None:
    if wait == "for a message":
        shmflow.Topic(topic_name, capacity=CAPACITY).close()
    started = time.monotonic()
    done = run_python(
        """
        import sys, threading, time
        import shmflow

        topic = shmflow.Topic(sys.argv[1], "r")
        for _ in range(3):
            threading.Thread(target=topic.read, daemon=True).start()
        threading.Thread(target=list, args=(topic.messages(),), daemon=True).start()
        time.sleep(0.3)
        print("end")
        """,
        topic_name,
    )
    assert done.stdout == "end\n" and done.stderr == ""
    assert time.monotonic() - started < 20


def test_views_outlive_topic_writer_and_name(topic_name: str, spawn: Callable) -> None:
    writer = spawn(
        """
        import sys, time
        import numpy as np
        import shmflow

        topic = shmflow.Topic(sys.argv[1], "w", capacity=1 << 20)
        topic.write(np.arange(20000, dtype=np.uint32))
        print("written")
        time.sleep(60)
        """,
        topic_name,
    )
    writer.expect("written")
    reader = shmflow.Topic(topic_name, "r")
    view = reader.read(5)[::2].reshape(100, 100)
    reader.close()
    writer.kill()
    shmflow.unlink(topic_name)
    with shmflow.Topic(topic_name, capacity=CAPACITY) as fresh:
        for _ in range(100):
            fresh.write(frame(9))
    del fresh, reader
    np.testing.assert_array_equal(view.ravel(), np.arange(0, 20000, 2))
    in_child(lambda: np.testing.assert_array_equal(view.ravel(), np.arange(0, 20000, 2)))
    # The mapping goes with the last view: conftest's check of mappings sees to it.


def test_a_fork_in_the_middle_of_other_threads_reads_and_writes(topic_name: str) -> None:
    import threading

    stop = threading.Event()
    with shmflow.Topic(topic_name, capacity=CAPACITY) as topic:

        def write() -> None:
            with shmflow.Topic(topic_name, "w") as own:
                while not stop.is_set():
                    own.write(frame(own.stats().written % 256))

        def read() -> None:
            with shmflow.Topic(topic_name, "r", max_held=CAPACITY) as own:
                while not stop.is_set():
                    view = own.read(0.2, default=None)  # the writer may have ended before us
                    assert view is None or (view == view[0]).all()

        threads = [threading.Thread(target=act) for act in (write, read, read)]
        for thread in threads:
            thread.start()
        while topic.head in (None, 0):
            time.sleep(0.001)

        def use() -> None:
            topic.write(frame(1))
            view = topic.read(5)
            assert (view == view[0]).all()
            topic.close()

        for _ in range(25):
            in_child(use)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
    assert sys.exc_info() == (None, None, None)
