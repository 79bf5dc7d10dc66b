"""The Topic object: pickling, repr, context manager, monitor, the file's permissions."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pickled
import pytest

import shmflow

LARGE = 5000


def exists(name: str) -> bool:
    return name in [info.name for info in shmflow.topics()]


# ---- pickling ----


def test_topic_goes_to_a_spawned_process(topic_name: str) -> None:
    context = multiprocessing.get_context("spawn")
    with (
        shmflow.Topic(topic_name, capacity="1 MiB") as topic,
        shmflow.Topic(topic_name + "/back", "r") as back,
    ):
        topic.write(b"hello")
        process = context.Process(target=pickled.echo, args=(shmflow.Topic(topic_name, "r"),))
        process.start()
        assert bytes(back.read(timeout=30)) == b"b'hello' r"
        process.join(20)
        assert process.exitcode == 0
        process.close()
        topic.unlink()
        back.unlink()


def test_pickle_keeps_the_reader_options(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        for i in range(3):
            topic.write(i)
        with (
            shmflow.Topic(topic_name, "r", start="latest", max_held=123) as reader,
            pickle.loads(pickle.dumps(reader)) as twin,
        ):
            assert (twin.name, twin.mode) == (topic_name, "r")
            assert twin.read(timeout=0) == 2
            assert reader.read(timeout=0) == 2
        topic.unlink()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("start", ["oldest", "latest", "new"])
def test_a_topic_goes_on_where_it_stood_in_every_kind_of_process(
    topic_name: str, method: str, start: Any
) -> None:
    context = multiprocessing.get_context(method)
    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer,
        shmflow.Topic(topic_name + "/back", capacity="64 KiB") as back,
    ):
        writer.write_many(range(100, 103))
        with shmflow.Topic(topic_name, "r", start=start) as reader:
            writer.write_many(range(6))
            read = int(reader.read_many(3)[-1])
            left = list(range(read + 1 if read < 100 else 0, 6))
            process = context.Process(target=pickled.tell_all, args=(reader,))
            process.start()
            assert back.read(timeout=60).tolist() == [len(left), *left]
            assert reader.stats().lag == len(left)  # one's own reading is another's
            process.join(20)
            assert process.exitcode == 0
            process.close()
        writer.unlink()
        back.unlink()


def test_a_subscriber_to_a_name_misses_nothing_when_pickled(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r", start="new") as early:
        assert early.read(0, default=None) is None
        packed = pickle.dumps(early)
        with shmflow.Topic(topic_name, "w") as writer:
            writer.write_many(range(3))
            with pickle.loads(packed) as twin:
                for reader in (early, twin):
                    assert [int(a) for a in reader.read_many(3)] == [0, 1, 2]
            writer.unlink()


def test_a_place_in_another_generation_is_not_gone_on_from(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w") as writer:
        writer.write_many(range(5))
        with shmflow.Topic(topic_name, "r") as reader:
            reader.read_many(4)
            standing = reader.__reduce__()[1][-1]
            writer.unlink()
            writer.write_many(range(3))
            twin = shmflow.Topic.__new__(shmflow.Topic)
            twin._stand(*standing)
            twin.__init__(topic_name, "r")  # type: ignore[misc]
            with twin:
                assert [int(a) for a in twin.read_many(5)] == [0, 1, 2]
                with pytest.raises(ValueError, match="16 bytes"):
                    twin._stand(b"", 1, False, True)
        writer.unlink()


def test_unpickling_never_creates(topic_name: str) -> None:
    for mode in ("rw", "r", "w", "monitor"):
        with shmflow.Topic(topic_name, mode) as topic:
            packed = pickle.dumps(topic)
        if mode == "w":
            with pytest.raises(shmflow.TopicNotFound):
                pickle.loads(packed)
        else:
            pickle.loads(packed).close()
        assert not exists(topic_name)


def test_pickle_of_a_removed_topic_is_not_found(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        packed = pickle.dumps(topic)
        pickle.loads(packed).close()
        topic.unlink()
        with pytest.raises(shmflow.TopicNotFound, match="it was removed"):
            pickle.loads(packed)
        topic.write(b"another")
        with pytest.raises(shmflow.TopicNotFound, match="another topic of that name"):
            pickle.loads(packed)
        topic.unlink()


# ---- the object ----


def test_repr_tells_the_state(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        assert repr(topic) == (
            f"<shmflow.Topic {topic_name!r} mode='rw' capacity=1.0 MiB head=0 retained=0>"
        )
        topic.write(1)
        assert "head=1 retained=1" in repr(topic)
        topic.shutdown()
        assert repr(topic).endswith(", shut down>")
        topic.unlink()
    assert repr(topic).endswith("closed>")
    with shmflow.Topic(topic_name, "r") as reader:
        assert repr(reader).endswith("mode='r', not attached>")


def test_context_manager_closes(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        assert reader.__enter__() is reader
    assert reader.closed
    with pytest.raises(ZeroDivisionError), shmflow.Topic(topic_name, "r") as reader:
        _ = 1 / 0
    assert reader.closed


def test_forgotten_topic_leaves_nothing(topic_name: str) -> None:
    topic = shmflow.Topic(topic_name, temporary=True, capacity="64 KiB")
    iterator = topic.messages()
    del topic
    assert exists(topic_name)
    del iterator
    gc.collect()
    assert not exists(topic_name)


def test_monitor_takes_no_slot_and_sees_everything(topic_name: str, background: Any) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        for size in (3, LARGE):
            topic.write(np.arange(size))
        topic.read(timeout=0)
        with shmflow.Topic(topic_name, "monitor") as monitor:
            assert len(topic.participants()) == 1
            (one,) = monitor.participants()
            assert (one.pid, one.mode, one.alive) == (os.getpid(), "rw", True)
            assert (one.written, one.read, one.lag) == (2, 1, 1)
            for size in (3, LARGE):
                array = monitor.read(timeout=0)
                np.testing.assert_array_equal(array, np.arange(size))
                assert type(array.base).__name__ != "_View" and not array.flags.writeable
            assert (monitor.stats().read, monitor.stats().copied) == (2, 2)
            reading = background(monitor.read, 30)
            time.sleep(0.1)
            topic.write(b"later")
            assert bytes(reading.outcome()) == b"later"
        topic.unlink()


def test_segment_file_is_private_unless_told_otherwise(topic_name: str, shm_dir: Path) -> None:
    path = shm_dir / f"shmflow.{topic_name}"
    for permissions in (0o600, 0o660, 0o644, 0o666):
        with shmflow.Topic(topic_name, capacity="64 KiB", permissions=permissions) as topic:
            assert path.stat().st_mode & 0o777 == permissions
            topic.unlink()
