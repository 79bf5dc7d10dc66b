"""Forks in the middle of something: of reads, writes, loans, iteration, of a signal handler, of
another fork.

Owns: that nobody hangs, and that both processes go on from where the fork found them.
Does not own: who outlives whom (test_fork_family.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from family import family

# ---- forks in the middle of something ----------------------------------------------------------


def test_a_fork_while_another_thread_is_blocked_in_read(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB", max_held="1 MiB")
            unborn = shmflow.Topic(name + "/unborn", "r")
            topic.write(frame(0))
            assert (topic.read(0) == 0).all()
            got = []

            def read(topic, count):
                for _ in range(count):
                    got.append(topic.read(60))

            thread = threading.Thread(target=read, args=(topic, 20), daemon=True)
            waiter = threading.Thread(target=read, args=(unborn, 1), daemon=True)
            thread.start()
            waiter.start()

            def act(i):
                # The blocked call is the parent's; this process begins where the parent stood.
                assert topic.write(frame(i)) == i + 1
                assert (topic.read(20) == i).all()
                assert topic.read(0, default=None) is None
                assert unborn.read(0, default=None) is None
                sys.exit(0) if i % 2 else os._exit(0)  # the blocked threads are not here

            for i in range(1, 21):
                while topic.stats().read < i:
                    assert thread.is_alive()
                    time.sleep(0.001)
                time.sleep(0.003 * (i % 4))  # it spins, or it sleeps
                pid = os.fork()
                if pid == 0:
                    signal.alarm(60)
                    act(i)
                ended_well(pid)
            thread.join(60)
            assert [int(a[0]) for a in got] == list(range(1, 21))
            with shmflow.Topic(name + "/unborn", "w") as writer:
                writer.write(frame(99))
            waiter.join(60)
            assert (got[-1] == 99).all()
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


UNDER_LOAD = family(
    """
    forks = int(sys.argv[2])
    topic = shmflow.Topic(name, capacity="1 MiB", max_held="512 KiB")
    back = shmflow.Topic(name + "/back", capacity="1 MiB", depth=4 * forks)
    stop = threading.Event()
    errors = []

    def run(act):
        try:
            with shmflow.Topic(name, max_held="1 MiB") as own:
                act(own)
        except BaseException as error:
            errors.append(error)

    def write(own):
        i = 0
        while not stop.is_set():
            own.write(frame(i, (64, 5000, 40_000, 200_000)[i % 4]))
            i += 1

    def read(own):
        held = []
        while not stop.is_set():
            view = own.read(0.5, default=None)
            if view is not None:
                held.append(view)
            if len(held) > 3:
                assert all((v == v[0]).all() for v in held)
                held.clear()

    def lend(own):
        while not stop.is_set():
            with own.loan(30_000) as array:
                array[:] = 5

    threads = [
        threading.Thread(target=run, args=(act,), daemon=True) for act in (write, read, lend)
    ]
    for thread in threads:
        thread.start()
    while topic.head in (None, 0):
        time.sleep(0.001)
    view = topic.read(20)
    value = int(view[0])

    def use(i):
        assert (view == value).all()
        mine = topic.read(20)
        assert (mine == mine[0]).all()
        topic.write(mine)
        back.write(i)
        topic.close()

    running = set()
    for i in range(forks):
        running.add(in_child(use, i))
        if len(running) == 2:
            pid = running.pop()
            ended_well(pid)
    for pid in running:
        ended_well(pid)
    assert all(thread.is_alive() for thread in threads), errors
    assert (view == value).all()
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert errors == []
    told = sorted(int(back.read(0)) for _ in range(forks))
    assert told == list(range(forks))
    shmflow.clean()
    assert {p.pid for p in topic.participants()} == {os.getpid()}
    del view
    assert topic.stats().held_blocks == 0
    """
)


@pytest.mark.parametrize(
    "forks", [pytest.param(40, id="40"), pytest.param(100, id="100", marks=pytest.mark.slow)]
)
def test_forks_under_load_never_hang_and_every_child_can_read_and_write(
    topic_name: str, run_python: Callable[..., Any], forks: int
) -> None:
    done = run_python(UNDER_LOAD, topic_name, forks, timeout=110)
    assert done.stderr == ""


def test_a_fork_inside_the_block_of_a_loan(topic_name: str, run_python: Callable[..., Any]) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            for size in (SIZE, 100):  # in the ring; private memory
                before = topic.head
                pid = None
                try:
                    with topic.loan(size) as array:
                        array[:] = 1
                        pid = os.fork()
                        if pid == 0:
                            signal.alarm(60)
                            array[:] = 2
                        else:
                            ended_well(pid)
                            for i in range(100):  # the claim is ours, its block nobody else's
                                topic.write(frame(8))
                            assert (array == 1).all()
                            array[5:] = 3
                except shmflow.Closed as error:
                    # The child ran out of the block, and must not publish for its parent.
                    os._exit(0 if pid == 0 and "belongs to the parent" in str(error) else 3)
                if pid == 0:
                    os._exit(4)
                assert topic.head == before + 101
                last = shmflow.Topic(name, "r", start="latest").read(0)
                assert (last[:5] == 1).all() and (last[5:] == 3).all()
                del array, last
            assert len(topic.participants()) == 1
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


def test_five_forks_within_each_other(topic_name: str, run_python: Callable[..., Any]) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            views = []

            def check():
                for value, view in enumerate(views, 1):
                    assert (view == value).all(), (value, view)

            def descend(depth):
                topic.write(frame(depth))
                # Each generation begins where its parent stood, and takes its own.
                views.append(topic.read(20))
                check()
                assert topic.stats().held_blocks == 1
                if depth < 5:
                    ended_well(in_child(descend, depth + 1))
                for _ in range(200):
                    topic.write(frame(77))
                check()
                topic.read(0, latest=True)

            descend(1)
            assert topic.head == 5 + 5 * 200
            shmflow.clean()
            assert len(topic.participants()) == 1
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


def test_an_iterator_goes_on_in_both(topic_name: str, run_python: Callable[..., Any]) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            for value in range(6):
                topic.write(frame(value))
            topic.shutdown()
            messages = topic.messages()
            first = [next(messages), next(messages)]

            def rest(writer):
                assert [(m.seq, int(m.array[0]), m.lost) for m in messages] == [
                    (n + 1, n, 0) for n in range(2, 6)
                ]
                assert {m.writer for m in first} == {writer}

            ended_well(in_child(rest, os.getpid()))
            rest(os.getpid())
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


def test_a_signal_handler_that_forks_inside_a_blocked_read(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            writer = shmflow.Topic(name, "w")
            writer.write(frame(1))
            held = topic.read(0)
            pids = []

            def fork(number, where):
                pids.append(os.fork())
                if pids[-1] == 0:
                    signal.alarm(60)
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)

            signal.signal(signal.SIGALRM, fork)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            threading.Timer(2, lambda: writer.write(frame(2))).start()
            # One call, and two processes return from it.
            message = topic.read_message(60)
            assert message.seq == 2 and (message.array == 2).all() and (held == 1).all()
            if pids[-1] == 0:
                (me,) = [p for p in topic.participants() if p.pid == os.getpid()]
                assert me.alive and me.read == 1 and me.held_blocks == 1
                os._exit(0)
            ended_well(pids[-1])
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


def test_monitors_and_closed_topics_are_inherited_too(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            monitor = shmflow.Topic(name, "monitor")
            closed = shmflow.Topic(name)
            topic.write(frame(1))
            topic.write(frame(2))
            assert (monitor.read(0) == 1).all()
            closed.read(0)
            closed.close()
            only_a_view = shmflow.Topic(name, "r")
            view = only_a_view.read(0)
            only_a_view.close()

            def act():
                assert (monitor.read(0) == 2).all()
                for call in (closed.read, closed.stats().__len__, closed.__enter__):
                    try:
                        call()
                    except shmflow.Closed:
                        pass
                assert closed.closed and only_a_view.closed
                assert (view == 1).all()
                assert os.getpid() not in {p.pid for p in monitor.participants()}
                monitor.close()

            ended_well(in_child(act))
            assert (monitor.read(0) == 2).all()
            assert [p.held_blocks for p in topic.participants()] == [0, 1]
            """
        ),
        topic_name,
    )
    assert done.stderr == ""
