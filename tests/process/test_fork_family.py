"""Families: children that outlive parents, parents that outlive children.

Owns: views over many laps of the ring, the dead whose grandchildren live, the ends of children.
Does not own: one child of one parent (test_fork.py), forks in the middle of other calls
(test_fork_within.py), spawn and exec (test_start_methods.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from family import family, participant_of, until

import shmflow

SIZE = 20_000
CAPACITY = 1 << 20


# ---- views in the child ------------------------------------------------------------------------

LAPPED = family(
    """
    def kinds(topic):
        # Every way in which an array can come: pinned, sliced, structured, Fortran, small, own.
        fields = np.dtype([("a", "i4"), ("b", "f8", (3,))])
        records = np.zeros(700, fields)
        records["a"] = np.arange(700)
        arrays = [
            frame(1),
            np.arange(30_000, dtype="i2"),
            np.asfortranarray(np.arange(9000, dtype="f4").reshape(90, 100)),
            records,
            np.arange(10, dtype="u1"),
            frame(6),
        ]
        for array in arrays:
            topic.write(array, meta={"from": "the parent"})
        messages = [topic.read_message(0) for _ in arrays[:-1]]
        got = [m.array for m in messages] + [topic.read(0, copy=True)]
        got.append(got[0][::7])
        got.append(got[1].reshape(300, 100).T[5:50])
        got.append(memoryview(got[2].T))
        return got, [np.array(array) for array in got], messages[0]

    def watch(views, expected, message, go):
        # While the parent laps the ring, and when it is done.
        done = 0
        while done < 3:
            for view, value in zip(views, expected):
                np.testing.assert_array_equal(view, value)
            if go.acquire(block=done > 0, timeout=60 if done else None):
                done += 1
        assert message.meta == {"from": "the parent"}
        del message
        order = list(range(len(views)))
        np.random.default_rng(5).shuffle(order)
        for at in order:  # dropped one by one, the others stay
            views[at] = None
            for view, value in zip(views, expected):
                assert view is None or np.array_equal(view, value)

    topic = shmflow.Topic(name, capacity="1 MiB", max_held="1 MiB")
    views, expected, message = kinds(topic)
    assert topic.stats().held_blocks == 4
    go = multiprocessing.get_context("fork").Semaphore(0)
    if sys.argv[2] == "os.fork":
        pids = [in_child(watch, views, expected, message, go) for _ in range(2)]
    else:
        context = multiprocessing.get_context("fork")
        children = [
            context.Process(target=watch, args=(views, expected, message, go)) for _ in range(2)
        ]
        for child in children:
            child.start()
    del views, message
    assert topic.stats().held_blocks == 0
    for part in range(3):
        for i in range(700):  # 3 * 40 laps
            topic.write(frame(i, 60_000))
        go.release()
        go.release()
    if sys.argv[2] == "os.fork":
        for pid in pids:
            ended_well(pid)
    else:
        for child in children:
            child.join(60)
            assert child.exitcode == 0
    assert len(topic.participants()) == 1
    topic.close()
    """
)


@pytest.mark.parametrize("method", ["os.fork", "multiprocessing"])
def test_views_in_children_outlast_a_hundred_laps_of_the_ring(
    topic_name: str, run_python: Callable[..., Any], method: str
) -> None:
    done = run_python(LAPPED, topic_name, method)
    assert done.stderr == ""


def test_views_are_dropped_in_any_order_in_the_child(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            for value in (1, 2, 3):
                topic.write(frame(value))
            views = {value: topic.read(0) for value in (1, 2, 3)}
            views[4] = views[2][3:9]  # of the same block

            def drop(order):
                for value in order:
                    del views[value]
                    gc.collect()
                    for left, view in views.items():
                        assert (view == (2 if left == 4 else left)).all()
                topic.write(frame(9))  # an own slot, taken after the inherited views were dropped
                assert topic.stats().held_blocks == 0
                topic.close()

            for order in itertools.permutations((1, 2, 3, 4)):
                ended_well(in_child(drop, order))
            assert topic.stats().held_blocks == 3
            for _ in range(200):
                topic.write(frame(9))
            for value, view in views.items():
                assert (view == (2 if value == 4 else value)).all()
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


# ---- who outlives whom -------------------------------------------------------------------------

GENERATIONS = family(
    """
    topic = shmflow.Topic(name, "r", max_held="1 MiB")
    held = [topic.read(20) for _ in range(4)]  # all of main
    expected = [np.array(view) for view in held]
    loan = None
    r, w = os.pipe()

    def say(text):  # in one piece: three processes share the pipe
        os.write(1, text.encode() + b"\\n")

    def check():
        for view, value in zip(held, expected):
            assert (view == value).all()

    if os.fork() == 0:
        signal.alarm(100)
        if os.fork() == 0:
            os.close(w)
            say(f"grandchild {os.getpid()}")
            os.read(r, 1)  # everybody before us is gone
            check()
            say("grandchild still sees it")
            sys.stdin.readline()
            check()
            os._exit(0)
        if sys.argv[2] == "the middle one too":
            os._exit(0)
        os.close(w)
        os.read(r, 1)
        check()
        os.waitpid(-1, 0)
        os._exit(0)
    os.close(r)
    if sys.argv[2] == "the middle one too":
        os.wait()
    say(f"parent {topic.stats().held_blocks}")
    sys.stdin.readline()
    end = sys.argv[3]
    if end == "sys.exit":
        sys.exit(0)
    if end == "os._exit":
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


@pytest.mark.parametrize("dead", ["the parent", "the middle one too"])
@pytest.mark.parametrize("end", ["sys.exit", "os._exit", "SIGKILL"])
def test_a_grandchild_that_never_uses_the_topic_keeps_nobody_alive(
    topic_name: str, spawn: Callable[..., Any], dead: str, end: str
) -> None:
    quarter = 256 * 1024 - 64
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=quarter) as writer:
        for value in (1, 2, 3, 4):
            writer.write(np.full(quarter, value, np.uint8))
        parent = spawn(GENERATIONS, topic_name, dead, end)
        lines = [parent.readline(), parent.readline()]
        (grandchild,) = [int(x.split()[1]) for x in lines if x.startswith("grandchild")]
        assert "parent 4" in lines
        assert not writer.loan(quarter).in_ring, "main is held"
        parent.send()
        parent.wait()
        parent.expect("grandchild still sees it")
        until(lambda: not any(p.alive for p in participant_of(writer, parent.pid)))
        os.kill(grandchild, 0)  # it lives, and yet:
        shmflow.clean()
        assert participant_of(writer, parent.pid) == []
        loan = writer.loan(quarter)
        assert loan.in_ring, "the bits of the dead are still set"
        del loan
        for i in range(50):
            writer.write(np.full(quarter, i, np.uint8))
        os.kill(grandchild, 0)
        parent.send()
        until(lambda: not os.path.exists(f"/proc/{grandchild}"))
        assert parent.stderr == ""
        writer.unlink()


ENDS = {
    "os._exit": ("os._exit(3)", 3),
    "sys.exit": ("sys.exit(4)", 4),
    "an exception": ("raise RuntimeError('meant')", 1),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "abort": ("faulthandler.disable(); os.abort()", -signal.SIGABRT),
}


@pytest.mark.parametrize("end", ENDS)
def test_however_a_child_ends_the_parent_goes_on(
    topic_name: str, run_python: Callable[..., Any], end: str
) -> None:
    how, status = ENDS[end]
    done = run_python(
        family(
            f"""
    import faulthandler, resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    topic = shmflow.Topic(name, capacity="1 MiB")
    topic.write(frame(1))
    topic.write(frame(2))
    view = topic.read(0)
    open_loan = topic.loan(SIZE)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        own = topic.read(0)
        assert (own == 2).all() and (view == 1).all()
        own_loan = topic.loan(SIZE)
        assert own_loan.in_ring
        topic.write(frame(3))
        {how}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == {status}
    deadline = time.monotonic() + 20
    while any(p.alive for p in topic.participants() if p.pid == pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    shmflow.clean()
    assert [p.pid for p in topic.participants()] == [os.getpid()]
    assert topic.stats().held_blocks == 2  # the view and the loan
    for i in range(200):
        topic.write(frame(9))
    assert (view == 1).all()
    open_loan.array[:] = 7
    seq = open_loan.publish()
    del view, open_loan
    assert topic.stats().held_blocks == 0
    reader = shmflow.Topic(name, "r", start="latest")
    assert reader.read_message(0).seq == seq and topic.head == seq
    reader.close()
    loan = topic.loan(topic.max_message)
    assert loan.in_ring
            """
        ),
        topic_name,
    )
    assert done.stderr == "" or (end == "an exception" and "RuntimeError: meant" in done.stderr)
