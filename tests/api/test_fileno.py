"""fileno(): readable while something is unread, quiet otherwise, for any loop that waits for
descriptors.

Owns: select, poll, selectors and zmq over a Topic; the life of the descriptor and of its thread:
close, garbage, fork, exit, shortage.
Does not own: asyncio (test_asyncio.py); races between the thread and the reader (tests/core).
"""

from __future__ import annotations

import gc
import os
import select
import selectors
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from family import family, until

import shmflow

LONG = 20  # seconds: a net, never waited for when all is well


def is_ready(topic: shmflow.Topic | int) -> bool:
    return bool(select.select([topic], [], [], 0)[0])


def becomes_ready(topic: shmflow.Topic | int) -> bool:
    return bool(select.select([topic], [], [], LONG)[0])


def threads() -> int:
    """Native threads that belong to a Topic."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                count += file.read() == "shmflow\n"
        except OSError:  # it has just ended
            pass
    return count


@pytest.mark.parametrize("mode", ["r", "rw", "monitor"])
def test_it_is_readable_while_something_is_unread(topic_name: str, mode: Any) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer,
        shmflow.Topic(topic_name, mode) as reader,
    ):
        assert not is_ready(reader)
        for number in range(50):
            writer.write(number)
            assert becomes_ready(reader)
            writer.write(-number)
            assert reader.read(0) == number
            assert is_ready(reader)
            assert reader.read(0) == -number
            assert not is_ready(reader)
        writer.unlink()


def test_what_was_written_before_makes_it_readable_at_once(topic: shmflow.Topic) -> None:
    topic.write(b"before")
    assert is_ready(topic)
    assert topic.fileno() == topic.fileno()
    with shmflow.Topic(topic.name + "/late", "r") as reader:
        with shmflow.Topic(topic.name + "/late", "w") as writer:
            writer.write(b"after it was opened")
        assert is_ready(reader)
    shmflow.unlink(topic.name + "/late")


@pytest.mark.parametrize(
    "take",
    [
        lambda t: t.read(LONG),
        lambda t: t.read(latest=True),
        lambda t: t.read(copy=True),
        lambda t: t.read_message(),
        lambda t: next(t),
        lambda t: next(t.messages()),
    ],
    ids=["read", "latest", "copy", "read_message", "next", "messages"],
)
def test_every_way_to_take_the_last_message_makes_it_quiet(
    topic: shmflow.Topic, take: Callable[[shmflow.Topic], Any]
) -> None:
    for data in (b"small", np.ones(100_000, np.uint8)):
        topic.write(data)
        assert becomes_ready(topic)
        take(topic)
        assert not is_ready(topic)


def test_readable_without_a_reason_becomes_quiet_and_does_not_spin(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, capacity="1 MiB") as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        reader.fileno()
        for _ in range(50):
            # Another thread blocks in read(): it takes what the descriptor is readable for.
            taker = threading.Thread(target=reader.read, args=(LONG,))
            taker.start()
            writer.write(b"x")
            taker.join(LONG)
        looks = 0
        while select.select([reader], [], [], 0.05)[0]:
            assert reader.read(0, default=None) is None
            looks += 1
        assert looks <= 2
        writer.unlink()


@pytest.mark.parametrize("mode", ["r", "monitor"])
def test_messages_that_are_gone_without_a_later_one_are_not_unread(
    topic_name: str, mode: Any
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", max_message="1 MiB") as writer:
        writer.write_many([np.zeros(100_000, "u1")] * 5)
        with shmflow.Topic(topic_name, mode) as reader:
            assert is_ready(reader)
            loan = writer.loan(900_000)  # evicts them all, and may never be published
            assert (writer.tail, writer.head) == (6, 5)
            assert reader.read(0, default=None) is None
            looks = 0
            while select.select([reader], [], [], 0.3)[0]:
                assert reader.read(0, default=None) is None
                looks += 1
                assert looks < 10
            assert loan.publish() == 6
            assert becomes_ready(reader)
            message = reader.read_message(0)
            assert (message.seq, message.lost) == (6, 5)
            del message, loan
            assert reader.read(0, default=None) is None
            assert not is_ready(reader)
        writer.unlink()


def test_the_end_of_a_stream_keeps_it_readable(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        assert not is_ready(reader)
        writer.shutdown()
        for _ in range(3):
            assert becomes_ready(reader)
            with pytest.raises(shmflow.Closed):
                reader.read(0)
        writer.unlink()


def test_a_topic_that_appears_makes_it_readable_and_a_new_generation_too(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        fd = reader.fileno()
        assert not is_ready(fd)
        for generation in range(3):
            with shmflow.Topic(topic_name, "w") as writer:
                writer.write(generation)
                while (got := reader.read(0, default=None)) is None:
                    assert becomes_ready(fd)
                assert got == generation
                assert not is_ready(fd)
                assert reader.generation == generation + 1
                writer.unlink()
            assert becomes_ready(fd)
            assert reader.read(0, default=None) is None
            assert not is_ready(fd)
        assert reader.fileno() == fd


def test_a_name_that_cannot_be_attached_to_does_not_spin(topic_name: str, shm_dir: Any) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        reader.fileno()
        (shm_dir / f"shmflow.{topic_name}").write_bytes(b"not a topic")
        assert becomes_ready(reader)
        with pytest.raises(shmflow.CorruptTopic):
            reader.read(0)


def test_a_removed_topic_without_a_word_makes_it_readable(topic: shmflow.Topic) -> None:
    assert not is_ready(topic)
    shmflow.unlink(topic.name)
    assert becomes_ready(topic)
    assert topic.read(0, default=None) is None
    assert not is_ready(topic)


def test_a_topic_that_was_written_to_only_begins_to_read_here(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "rw") as topic:
        fd = topic.fileno()
        assert not is_ready(fd)
        topic.write(b"one")
        assert becomes_ready(fd)
        assert bytes(topic.read(0)) == b"one"
        assert not is_ready(fd)
        topic.unlink()


def test_poll_epoll_and_selectors(topic: shmflow.Topic) -> None:
    poll, epoll = select.poll(), select.epoll()
    poll.register(topic, select.POLLIN)
    epoll.register(topic, select.EPOLLIN)
    with selectors.DefaultSelector() as selector, epoll:
        selector.register(topic, selectors.EVENT_READ, "here")
        for _ in range(20):
            assert poll.poll(0) == epoll.poll(0) == selector.select(0) == []
            topic.write(b"x")
            assert poll.poll(LONG * 1000) == [(topic.fileno(), select.POLLIN)]
            assert epoll.poll(LONG) == [(topic.fileno(), select.EPOLLIN)]
            assert [key.data for key, _ in selector.select(LONG)] == ["here"]
            topic.read()


def test_zmq_polls_sockets_and_topics_together(topic: shmflow.Topic) -> None:
    zmq = pytest.importorskip("zmq")
    poller = zmq.Poller()
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind(f"inproc://{topic.name}")
        b.connect(f"inproc://{topic.name}")
        poller.register(topic, zmq.POLLIN)
        poller.register(b, zmq.POLLIN)
        assert poller.poll(0) == []
        topic.write(b"x")
        assert poller.poll(LONG * 1000) == [(topic.fileno(), zmq.POLLIN)]
        topic.read()
        a.send(b"y")
        assert poller.poll(LONG * 1000) == [(b, zmq.POLLIN)]
        b.recv()


# ---- its life ----------------------------------------------------------------------------------


def test_nothing_is_there_until_it_is_asked_for(topic: shmflow.Topic) -> None:
    topic.write(b"x")
    fds = len(os.listdir("/proc/self/fd"))
    topic.read()
    assert threads() == 0
    assert len(os.listdir("/proc/self/fd")) == fds
    topic.fileno()
    until(lambda: threads() == 1)
    assert len(os.listdir("/proc/self/fd")) == fds + 1
    assert not os.get_inheritable(topic.fileno())
    topic.close()
    until(lambda: threads() == 0)
    assert len(os.listdir("/proc/self/fd")) == fds
    shmflow.unlink(topic.name)


def test_garbage_takes_descriptor_and_thread_with_it(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as writer:
        for name in (topic_name, topic_name + "/none"):
            reader = shmflow.Topic(name, "r")
            fd = reader.fileno()
            assert len(writer.participants()) == 1 + (name == topic_name)
            del reader
            gc.collect()
            with pytest.raises(OSError):
                os.fstat(fd)
            assert len(writer.participants()) == 1
        until(lambda: threads() == 0)
        writer.unlink()


def test_a_temporary_topic_goes_with_its_last_participant(topic_name: str, shm_dir: Any) -> None:
    with shmflow.Topic(topic_name, temporary=True, capacity="1 MiB") as topic:
        assert not is_ready(topic)
    assert not (shm_dir / f"shmflow.{topic_name}").exists()


def test_close_wakes_who_waits_for_it(topic: shmflow.Topic, background: Callable[..., Any]) -> None:
    copy = os.dup(topic.fileno())
    waiter = background(select.select, [copy], [], [], LONG)
    reader = background(topic.read)
    topic.close()
    assert waiter.outcome()[0] == [copy]
    with pytest.raises(shmflow.Closed):
        reader.outcome()
    with pytest.raises(shmflow.Closed):
        topic.fileno()
    os.close(copy)
    shmflow.unlink(topic.name)


def test_a_writer_has_none(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w") as writer:
        with pytest.raises(shmflow.WrongMode, match=r"fileno\(\) needs a Topic of mode 'r'"):
            writer.fileno()


def test_out_of_descriptors(topic_name: str, run_python: Callable[..., Any]) -> None:
    run_python(
        """
        import errno, os, resource, sys
        import shmflow
        topic = shmflow.Topic(sys.argv[1], temporary=True, capacity="1 MiB")
        topic.write(b"x")
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        for _ in range(3):
            try:
                topic.fileno()
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                assert "needs a descriptor" in str(error) and "ulimit -n" in str(error), error
            else:
                raise AssertionError("there was one")
        os.close(taken.pop())
        assert topic.fileno() >= 0
        assert bytes(topic.read(0)) == b"x"
        """,
        topic_name,
    )


@pytest.mark.no_sanitizer("it needs address space where there is to be none")
def test_out_of_threads(topic_name: str, run_python: Callable[..., Any]) -> None:
    run_python(
        """
        import ctypes, os, resource, sys
        import shmflow
        topic = shmflow.Topic(sys.argv[1], temporary=True, capacity="1 MiB")
        topic.write(b"x")
        # No room for a stack: limits of threads are not for root, those of memory are.
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        fds = os.listdir("/proc/self/fd")
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))
        failed = []
        try:
            for _ in range(3):
                topic.fileno()
        except RuntimeError as error:
            failed.append(error)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert failed and "needs a thread" in str(failed[0]), failed
        assert os.listdir("/proc/self/fd") == fds
        assert topic.fileno() >= 0
        assert bytes(topic.read(0)) == b"x"
        """,
        topic_name,
    )


def test_a_child_has_one_of_its_own_and_leaves_its_parents_alone(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(
            """
            import select

            def is_ready(topic):
                return bool(select.select([topic], [], [], 0)[0])

            def becomes_ready(topic):
                return bool(select.select([topic], [], [], 60)[0])

            def fds():
                return len(os.listdir("/proc/self/fd"))

            topic = shmflow.Topic(name, capacity="1 MiB")
            late = shmflow.Topic(name + "/late", "r")
            none = fds()
            assert not is_ready(topic) and not is_ready(late)

            def drain():
                while topic.read(0, default=None) is not None:
                    pass

            def closes():
                assert fds() == none + 2
                topic.close()
                late.close()
                assert fds() == none

            def reads():
                assert topic.read(0, default=None) is None
                assert late.read(0, default=None) is None
                assert fds() == none

            def waits():
                assert not is_ready(topic) and not is_ready(late)
                assert fds() == none + 2
                topic.write(7)
                assert becomes_ready(topic) and topic.read(0) == 7 and not is_ready(topic)
                topic.close()

            def forgets():
                del globals()["topic"], globals()["late"]
                gc.collect()
                assert fds() == none

            def closes_all_and_goes_on():
                os.closerange(3, 256)
                files = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
                topic.read(0, default=None)
                late.close()
                for file in files:
                    os.fstat(file)

            def in_a_child_of_a_child():
                ended_well(in_child(waits))
                drain()
                waits()

            acts = [closes, reads, waits, forgets, closes_all_and_goes_on, in_a_child_of_a_child]
            for act in acts * 2:
                ended_well(in_child(act))
                drain()
                assert not is_ready(topic) and not is_ready(late), act
                topic.write(1)
                assert becomes_ready(topic)
                ended_well(in_child(forgets))
                assert is_ready(topic), "a child made its parent's quiet"
                assert topic.read(0) == 1 and not is_ready(topic)
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("end", ["sys.exit(0)", "pass", "os._exit(0)", "del topic, other"])
def test_a_process_ends_as_usual_with_a_live_thread(
    topic_name: str, run_python: Callable[..., Any], end: str
) -> None:
    done = run_python(
        f"""
        import os, sys
        import shmflow
        topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
        other = shmflow.Topic(sys.argv[1] + "/none", "r")
        print(topic.fileno() >= 0 and other.fileno() >= 0, flush=True)
        {end}
        """,
        topic_name,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_signals_are_for_pythons_threads(topic_name: str, run_python: Callable[..., Any]) -> None:
    run_python(
        """
        import os, select, sys
        import shmflow
        topic = shmflow.Topic(sys.argv[1], temporary=True, capacity="1 MiB")
        topic.fileno()
        topic.write(b"x")
        assert select.select([topic], [], [], 20)[0]  # so it runs; before, the C library blocks all
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/status") as file:
                status = dict(line.split(":", 1) for line in file)
            if status["Name"].strip() == "shmflow":
                blocked = int(status["SigBlk"], 16)
        for number in (1, 2, 10, 14, 15, 17):  # HUP, INT, USR1, ALRM, TERM, CHLD
            assert blocked >> (number - 1) & 1, number
        """,
        topic_name,
    )


def test_many_topics_in_one_select(topic_name: str) -> None:
    names = [f"{topic_name}/{number}" for number in range(30)]
    readers = {shmflow.Topic(name, "r"): name for name in names}
    writers = {name: shmflow.Topic(name, "w") for name in names}
    expected = list(range(30)) * 2
    for number in expected:
        writers[names[number]].write(number)
    got: list[int] = []
    while len(got) < len(expected):
        ready = select.select(list(readers), [], [], LONG)[0]
        assert ready
        for reader in ready:
            if (array := reader.read(0, default=None)) is not None:
                got.append(int(array))
                assert names[int(array)] == reader.name
    assert sorted(got) == sorted(expected)
    for topic in [*readers, *writers.values()]:
        topic.close()
    for name in names:
        shmflow.unlink(name)


def test_a_number_that_has_become_another_files_is_left_alone(topic_name, tmp_path):
    with shmflow.Topic(topic_name, "w") as out, shmflow.Topic(topic_name, "r") as topic:
        out.write(1)
        number = topic.fileno()
        assert topic.read(0) is not None
        path = tmp_path / "unrelated"
        path.write_bytes(b"x" * 100)
        with open(path, "r+b", buffering=0) as file:
            os.dup2(file.fileno(), number)  # the number is closed, and the file's
            try:
                for value in range(20):
                    out.write(value)
                    assert select.select([number], [], [], 5)[0]  # a file always is
                    assert topic.read(0) == value
                assert os.lseek(number, 0, os.SEEK_CUR) == 0
                other = topic.fileno()  # a descriptor of its own once more
                assert other != number
                assert not select.select([other], [], [], 0)[0]
                out.write(21)
                assert select.select([other], [], [], 20)[0]
                assert topic.read(0) == 21
                topic.close()
                assert os.fstat(number).st_size == 100  # neither closed
            finally:
                os.close(number)
        assert path.read_bytes() == b"x" * 100


def test_a_number_that_has_become_another_topics_is_left_alone(topic_name):
    with (
        shmflow.Topic(topic_name, "w") as out,
        shmflow.Topic(topic_name, "r") as first,
        shmflow.Topic(f"{topic_name}/other", "w") as other_out,
        shmflow.Topic(f"{topic_name}/other", "r") as other,
    ):
        out.write(1)
        other_out.write(1)
        number = first.fileno()
        assert first.read(0) == 1 and other.read(0) == 1
        os.close(number)
        assert other.fileno() == number
        out.write(2)
        assert first.read(5) == 2
        out.write(3)
        assert not select.select([number], [], [], 0.05)[0]
        first.close()
        other_out.write(2)
        assert select.select([number], [], [], 20)[0]
        assert other.read(0) == 2
