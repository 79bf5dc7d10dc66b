"""Exceptions: what they are, what they carry, and that their texts diagnose."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import queue
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmflow

BASES: dict[str, tuple[type[BaseException], ...]] = {
    "Empty": (queue.Empty, TimeoutError),
    "Full": (queue.Full, TimeoutError),
    "Closed": (EOFError,),
    "TopicNotFound": (FileNotFoundError,),
    "TopicExists": (FileExistsError,),
    "TopicMismatch": (ValueError,),
    "MessageTooLarge": (ValueError,),
    "CorruptTopic": (OSError,),
    "NotAllowed": (PermissionError,),
    "NoSlot": (OSError,),
    "NoSpace": (OSError,),
    "UnsupportedFileSystem": (OSError,),
    "WrongMode": (io.UnsupportedOperation,),
}


@pytest.mark.parametrize("name", BASES)
def test_exception_is_also_what_the_standard_library_calls_it(name: str) -> None:
    cls = getattr(shmflow, name)
    assert issubclass(cls, (shmflow.Error,))
    for base in BASES[name]:
        assert issubclass(cls, base)
    assert cls.__module__ == "shmflow" and cls.__doc__


def failures(topic_name: str) -> Iterator[Exception]:
    """Every exception that is easily had, as it is raised."""
    with shmflow.Topic(topic_name, capacity="64 KiB", depth=3) as topic:
        reader = shmflow.Topic(topic_name, "r")
        calls: list[Callable[[], Any]] = [
            lambda: topic.read(timeout=0),
            lambda: shmflow.Topic(topic_name + "x", create=False),
            lambda: shmflow.Topic(topic_name, create=True),
            lambda: shmflow.Topic(topic_name, depth=4),
            lambda: shmflow.Topic(topic_name, "r", depth=4),
            lambda: topic.write(bytes(1 << 20)),
            lambda: reader.write(b"x"),
            lambda: shmflow.unlink(topic_name + "x"),
            reader.close,
            reader.read,
        ]
        for call in calls:
            with contextlib.suppress(*[] if call is reader.close else ()):
                try:
                    result = call()
                    if isinstance(result, shmflow.Topic):
                        try:
                            result.write(b"x")
                        finally:
                            result.close()
                except shmflow.Error as error:
                    yield error
        topic.unlink()


def test_exceptions_survive_pickling(topic_name: str) -> None:
    seen = set()
    for error in failures(topic_name):
        twin = pickle.loads(pickle.dumps(error))
        seen.add(type(error).__name__)
        assert type(twin) is type(error)
        assert str(twin) == str(error) != ""
        assert twin.args == error.args
        if isinstance(error, OSError):
            assert (twin.errno, twin.filename) == (error.errno, error.filename)
    elsewhere = {"Full", "CorruptTopic", "NotAllowed", "NoSlot", "NoSpace", "UnsupportedFileSystem"}
    assert seen >= set(BASES) - elsewhere


def test_os_errors_of_the_file_system_carry_errno_and_filename(
    topic_name: str, shm_dir: Path
) -> None:
    numbers = {shmflow.TopicNotFound: errno.ENOENT, shmflow.TopicExists: errno.EEXIST}
    for error in failures(topic_name):
        if type(error) in numbers:
            assert error.errno == numbers[type(error)]
            assert error.filename.startswith(f"{shm_dir}/shmflow.{topic_name}")
            assert "[Errno" not in str(error)


def test_texts_are_one_sentence_that_names_the_topic(topic_name: str) -> None:
    for error in failures(topic_name):
        assert topic_name in str(error) and "\n" not in str(error)
        assert not re.search(r"\bSF_|None\b|  ", str(error)), str(error)


# ---- Empty ----


def test_empty_says_that_nothing_was_made(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        with pytest.raises(shmflow.Empty) as caught:
            reader.read(timeout=0.05)
        expected = f"no message on {topic_name!r} in 0.05 s; no writer has made the topic yet"
        assert str(caught.value).startswith(expected)


def test_empty_says_that_none_was_written_and_who_could(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="64 KiB") as topic:
        with pytest.raises(shmflow.Empty, match="none was ever written; no writer is alive"):
            topic.read(timeout=0)
        topic.write(b"x")
        topic.read(timeout=0)
        with pytest.raises(shmflow.Empty) as caught:
            topic.read(timeout=0)
        assert re.fullmatch(
            rf"no message on '{re.escape(topic_name)}' in 0 s; the last came [\d.e-]+ s ago; "
            rf"1 writer is alive: pid {os.getpid()} \(.+\)",
            str(caught.value),
        )
        topic.unlink()


def test_empty_says_which_dead_writer_was_the_last(
    topic_name: str, spawn: Callable[..., Any]
) -> None:
    child = spawn(
        """
        import sys, time, shmflow
        topic = shmflow.Topic(sys.argv[1], "w")
        topic.write(b"x", timestamp_ns=time.time_ns() - 14_000_000_000)
        print("written", flush=True)
        sys.stdin.readline()
        """,
        topic_name,
    )
    child.expect("written")
    with shmflow.Topic(topic_name, "r") as reader:
        reader.read(timeout=5)
        child.kill()
        with pytest.raises(shmflow.Empty) as caught:
            reader.read(timeout=2)
        text = str(caught.value)
        assert text.startswith(f"no message on {topic_name!r} in 2 s; the last came 1")
        assert text.endswith(f"no writer is alive (the last was pid {child.pid}, child0.py)")
        reader.unlink()


def test_default_spares_the_text(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        began = time.monotonic()
        for _ in range(1000):
            reader.read(timeout=0, default=None)
        assert time.monotonic() - began < 20


# ---- names ----


def test_not_found_suggests_the_nearest_name(topic_name: str) -> None:
    with shmflow.Topic(topic_name + "/camera", capacity="64 KiB") as topic:
        wrong = topic_name + "/camrea"
        for call in (
            lambda: shmflow.Topic(wrong, create=False),
            lambda: shmflow.Topic(wrong, "r", create=False),
            lambda: shmflow.unlink(wrong),
        ):
            with pytest.raises(shmflow.TopicNotFound, match=f"did you mean '{topic_name}/camera'"):
                call()
        with pytest.raises(shmflow.TopicNotFound, match=f"there is '{topic_name}/camera'"):
            shmflow.unlink("Z")
        topic.unlink()
    with pytest.raises(shmflow.TopicNotFound, match="there is no topic at all"):
        shmflow.unlink("Z")


@pytest.mark.slow
def test_waiting_for_a_mistyped_name_warns_once_and_names_the_nearest(
    topic_name: str, background: Callable[..., Any]
) -> None:
    with (
        shmflow.Topic(topic_name + "/camera", capacity="64 KiB") as topic,
        shmflow.Topic(topic_name + "/camrea", "r") as reader,
        shmflow.Topic(topic_name + "/kamera", "r") as other,
    ):
        assert reader.read(timeout=1, default=None) is None
        with pytest.warns(RuntimeWarning, match="does not exist yet.*did you mean .*camera'"):
            assert reader.read(timeout=5.5, default=None) is None
        # A second one for the same Topic would be too many; wait() has the other one to tell of.
        with pytest.warns(RuntimeWarning, match="kamera', .*did you mean .*camera'") as told:
            waiting = background(shmflow.wait, [reader, topic, other], 5.5)
            assert reader.read(timeout=5.5, default=None) is None
            assert waiting.outcome() == []
        assert len(told) == 1
        topic.unlink()


def test_missing_folder_is_named(run_python: Callable[..., Any], tmp_path: Path) -> None:
    done = run_python(
        """
        import shmflow
        assert shmflow.topics() == []
        for call in (lambda: shmflow.Topic("a", capacity=5), lambda: shmflow.unlink("a")):
            try:
                call()
            except shmflow.TopicNotFound as error:
                print(error)
        """,
        env={"SHMFLOW_DIR": str(tmp_path / "nothing")},
    )
    assert done.stdout.count("nothing") >= 1 and len(done.stdout.splitlines()) == 2


def test_message_too_large_shows_all_sizes(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        with pytest.raises(shmflow.MessageTooLarge) as caught:
            topic.write(np.zeros(1_000_000))
        text = str(caught.value)
        assert "7.6 MiB" in text and "at most 256.0 KiB" in text and "capacity 1.0 MiB" in text
        topic.unlink()


@pytest.mark.parametrize("folder", ["/" + "a" * 5000, "/tmp/" + "b" * 300, "c/" * 2100])
def test_a_folder_whose_path_is_too_long_is_told(
    run_python: Callable[..., Any], folder: str
) -> None:
    done = run_python(
        """
        import errno, shmflow
        for options in ({}, {"capacity": 5000}):
            try:
                shmflow.Topic("a", "w", **options).write(1)
            except OSError as error:
                assert type(error) is OSError and error.errno == errno.ENAMETOOLONG, repr(error)
                print(error)
        """,
        env={"SHMFLOW_DIR": folder},
    )
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all(f"SHMFLOW_DIR has {len(folder)} bytes" in text for text in told)


def test_a_relative_folder_below_one_that_was_removed_is_told(
    run_python: Callable[..., Any], tmp_path: Path
) -> None:
    done = run_python(
        f"""
        import os, shmflow
        os.mkdir({str(tmp_path / "gone")!r})
        os.chdir({str(tmp_path / "gone")!r})
        os.rmdir({str(tmp_path / "gone")!r})
        try:
            shmflow.Topic("a")
        except FileNotFoundError as error:
            print(error)
        """,
        env={"SHMFLOW_DIR": "topics"},
    )
    assert "SHMFLOW_DIR is 'topics'" in done.stdout and "starts with '/'" in done.stdout
