"""What is replaced: only by a call that may, only when what comes next is complete.

Owns: that whatever fails, the old topic stands, with its messages.
Does not own: who replaces what in general (test_lifecycle.py), deaths in between (tests/kill).
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmflow
from shmflow import _core, _texts


@pytest.fixture
def kept(topic_name: str) -> Iterator[str]:
    """A topic that nobody uses, with two messages; a test ends with both still there."""
    with shmflow.Topic(topic_name, "w", depth=8) as topic:
        topic.write_many([b"one", b"two"])
    before = os.stat(path_of(topic_name)).st_ino
    yield topic_name
    assert os.stat(path_of(topic_name)).st_ino == before
    with shmflow.Topic(topic_name, "r") as reader:
        assert [bytes(a) for a in reader.read_many(9)] == [b"one", b"two"]


@pytest.fixture
def ended(kept: str) -> str:
    """The same, shut down."""
    with shmflow.Topic(kept, "w") as topic:
        topic.shutdown()
    return kept


def path_of(name: str) -> str:
    return os.path.join(os.environ["SHMFLOW_DIR"], "shmflow." + name.replace("/", "+"))


TOO_MUCH: dict[str, Any] = {"capacity": "32 TiB"}


@pytest.mark.parametrize("more", [{}, {"replace": True}, {"create": None, "depth": 3}])
@pytest.mark.parametrize("mode", ["w", "rw"])
def test_a_size_that_finds_no_space_replaces_nothing(
    kept: str, mode: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(shmflow.NoSpace, match=r"keeps its .* and its messages, nobody is attached"):
        shmflow.Topic(kept, mode, **TOO_MUCH, **more)


def test_a_size_that_finds_no_space_replaces_no_ended_one(ended: str) -> None:
    with pytest.raises(shmflow.NoSpace, match="keeps its"):
        shmflow.Topic(ended, "w", **TOO_MUCH)


def test_a_call_that_may_make_nothing_removes_nothing_that_has_ended(ended: str) -> None:
    with pytest.raises(shmflow.Closed, match="was shut down"):
        shmflow.Topic(ended, "w", create=False)
    with shmflow.Topic(ended, create=False) as topic:
        assert [bytes(a) for a in topic.read_many(9)] == [b"one", b"two"]
        with pytest.raises(shmflow.Closed):
            topic.read(0)
    with shmflow.Topic(ended, create=False) as topic:
        with pytest.raises(shmflow.Closed):
            topic.write(b"three")
        with pytest.raises(shmflow.Closed):
            topic.loan(5)


@pytest.mark.parametrize("mode", ["w", "rw"])
@pytest.mark.parametrize(
    "other", [{"capacity": "2 MiB"}, {"depth": 9}, {"max_message": 12345}], ids=str
)
def test_a_call_that_may_make_nothing_removes_nothing_that_does_not_fit(
    kept: str, mode: Any, other: dict[str, Any]
) -> None:
    with pytest.raises(shmflow.TopicMismatch):
        shmflow.Topic(kept, mode, create=False, **other)


@pytest.mark.parametrize("mode", ["w", "rw"])
def test_unpickling_removes_nothing(kept: str, mode: Any) -> None:
    with shmflow.Topic(kept, mode, create=False) as topic:
        packed = pickle.dumps(topic)
    with shmflow.Topic(kept, "w") as writer:
        writer.shutdown()
    if mode == "w":
        with pytest.raises(shmflow.Closed):
            pickle.loads(packed)
    else:
        with pickle.loads(packed) as twin:
            assert [bytes(a) for a in twin.read_many(9)] == [b"one", b"two"]


def test_a_message_over_the_asked_max_message_touches_nothing(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", max_message=100) as topic:
        for call in (topic.write, lambda data: topic.loan(len(data))):
            with pytest.raises(shmflow.MessageTooLarge, match="at most 100 B"):
                call(bytes(1000))
            assert not os.path.exists(path_of(topic_name))
        topic.write(b"kept")
    with shmflow.Topic(topic_name, "w", max_message=100) as topic:
        for call in (topic.write, lambda data: topic.loan(len(data))):
            with pytest.raises(shmflow.MessageTooLarge, match="at most 100 B"):
                call(bytes(1000))
    with shmflow.Topic(topic_name) as topic:
        assert bytes(topic.read(0)) == b"kept"
        topic.unlink()


def test_a_loan_that_is_discarded_replaces_nothing(ended: str) -> None:
    with shmflow.Topic(ended, "w") as topic:
        loan = topic.loan((100, 100))
        loan.array[:] = 1
        loan.discard()
        with pytest.raises(ZeroDivisionError), topic.loan(5):
            raise ZeroDivisionError


def test_a_loan_that_is_published_begins_the_next_generation(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w") as topic:
        topic.write(b"one")
        topic.shutdown()
    with shmflow.Topic(topic_name, "w") as topic, shmflow.Topic(topic_name, "r") as reader:
        with topic.loan((100, 100)) as array:
            assert bytes(reader.read(0)) == b"one"
            array[:] = 7
        assert (reader.read(5) == 7).all()
        topic.unlink()


def test_shutdown_of_what_has_ended_replaces_nothing(ended: str) -> None:
    with shmflow.Topic(ended, "w") as topic:
        topic.shutdown()


def test_ctrl_c_while_the_next_one_is_made_leaves_the_old_one(
    kept: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        """
        import signal, sys
        import shmflow

        def stop(*_):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, stop)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            shmflow.Topic(sys.argv[1], "w", capacity="1 GiB", replace=True)
        except KeyboardInterrupt:
            print("stopped")
        """,
        kept,
    )
    assert done.stdout == "stopped\n"


def test_readers_of_a_replaced_one_drain_it_and_follow(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", depth=8) as one,
        shmflow.Topic(topic_name, "r") as reader,
        shmflow.Topic(topic_name, "monitor") as monitor,
    ):
        one.write_many([b"one", b"two"])
        assert bytes(reader.read(0)) == bytes(monitor.read(0)) == b"one"
        with shmflow.Topic(topic_name, "w", replace=True) as two:
            two.write(b"three")
            for who in (reader, monitor):
                assert [bytes(who.read(5)) for _ in range(2)] == [b"two", b"three"]
                assert who.generation == 2
            two.unlink()


def test_of_many_that_replace_at_once_all_write_to_the_last_one(topic_name: str) -> None:
    """Each sees an ended generation; one of them is replaced once."""
    count = 8
    with shmflow.Topic(topic_name, "w") as topic:
        topic.write(b"old")
        topic.shutdown()
    start = threading.Barrier(count)
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            with shmflow.Topic(topic_name, "w", depth=100) as topic:
                start.wait()
                topic.write(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    with shmflow.Topic(topic_name) as topic:
        assert sorted(int(a) for a in topic.read_many(99)) == list(range(count))
        topic.unlink()
    folder = os.environ["SHMFLOW_DIR"]
    assert [name for name in os.listdir(folder) if name.startswith(".shmflow-")] == []


SMALL_FOLDER = """
import os, sys
import numpy as np
import shmflow

def restart(size, **options):
    with shmflow.Topic("cam", "w", **options) as topic:
        topic.write(np.zeros(size, np.uint8))
        told = topic.capacity
        topic.shutdown()
    return told

def state():
    with shmflow.Topic("cam", "monitor") as topic:
        ino = os.stat(os.environ["SHMFLOW_DIR"] + "/shmflow.cam").st_ino
        return topic.head, topic.read(0).nbytes, ino

MIB = 1 << 20
"""


@pytest.mark.parametrize("small_tmpfs", ["64m"], indirect=True)
@pytest.mark.parametrize("options", [{}, {"capacity": "40 MiB"}], ids=["auto", "capacity"])
def test_a_restart_has_the_place_of_the_one_before(
    small_tmpfs: Path, run_python: Callable[..., Any], options: dict[str, Any]
) -> None:
    """Both do not fit beside each other; the second is as large as the first."""
    done = run_python(
        SMALL_FOLDER + f"print([restart(5 * MIB, **{options!r}) for _ in range(3)])",
        env={"SHMFLOW_DIR": str(small_tmpfs)},
    )
    sizes = eval(done.stdout)
    assert len(set(sizes)) == 1, sizes


@pytest.mark.parametrize("small_tmpfs", ["64m"], indirect=True)
def test_what_does_not_fit_even_in_its_place_leaves_the_old_one(
    small_tmpfs: Path, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        SMALL_FOLDER
        + """
restart(5 * MIB)
before = state()
for call in (
    lambda: restart(100 * MIB),
    lambda: restart(1, capacity=100 * MIB),
    lambda: shmflow.Topic("cam", "w", capacity=100 * MIB, replace=True),
):
    try:
        call()
    except shmflow.NoSpace as error:
        assert "keeps its" in str(error), error
    else:
        sys.exit("it had room")
    assert state() == before
# Somebody who is attached keeps the memory.
with shmflow.Topic("cam", "r") as reader:
    try:
        restart(1, capacity=30 * MIB)
    except shmflow.NoSpace as error:
        assert f"pid {os.getpid()}" in str(error), error
    else:
        sys.exit("it had room")
    assert state() == before
restart(1, capacity=45 * MIB)
assert state() != before
""",
        env={"SHMFLOW_DIR": str(small_tmpfs)},
    )
    assert done.returncode == 0


def test_no_error_says_a_status_of_the_core() -> None:
    class Named:
        name, mode = "cam", "r"

    header = Path(shmflow.get_include(), "core", "status.h").read_text()
    statuses = [word.split(",")[0] for word in header.split("X(SF_")[1:]]
    assert len(statuses) > 30
    known = {"seq": 1, "writer": 1, "lossless": True, "group": "g"}
    sizes = {"length": 1, "max_message": 1, "capacity": 1}
    for status in ("SF_" + status for status in statuses):
        said = _core._said(status)
        text = str(_texts.error(status, -5000, said, Named(), known | sizes))  # type: ignore[arg-type]
        assert "SF_" not in text and len(text) > 20, text
        assert "SF_" not in said
