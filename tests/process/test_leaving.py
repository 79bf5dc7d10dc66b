"""Temporary topics whose last participant left without a word, or too late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shmflow

WRITE_AND_VANISH = """
import os, sys, shmflow
topic = shmflow.Topic(sys.argv[1], "w", temporary=True)
for i in range(5):
    topic.write(i)
os._exit(0)
"""


@pytest.mark.parametrize("mode", ["r", "monitor"])
def test_a_temporary_topic_ends_with_a_process_that_says_nothing(
    topic_name: str, shm_dir: Path, run_python: Callable[..., Any], mode: Any
) -> None:
    run_python(WRITE_AND_VANISH, topic_name)
    with shmflow.Topic(topic_name, mode) as reader:
        assert reader.head is None and reader.read(0, default=None) is None
        with shmflow.Topic(topic_name, "w", temporary=True) as writer:
            writer.write(99)
            assert int(reader.read(5)) == 99
    assert not (shm_dir / f"shmflow.{topic_name}").exists()


def test_what_a_process_left_without_a_word_is_collected_by_who_lists(
    topic_name: str, shm_dir: Path, run_python: Callable[..., Any]
) -> None:
    run_python(WRITE_AND_VANISH, topic_name)
    assert (shm_dir / f"shmflow.{topic_name}").exists()
    assert topic_name not in [info.name for info in shmflow.topics()]
    assert not (shm_dir / f"shmflow.{topic_name}").exists()


def test_a_writer_does_not_go_on_in_a_temporary_topic_of_the_dead(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    run_python(WRITE_AND_VANISH, topic_name)
    with shmflow.Topic(topic_name, "w", temporary=True) as writer:
        assert writer.write(99) == 1


def test_a_daemon_thread_makes_no_temporary_topic_after_the_exit_hook(
    topic_name: str, shm_dir: Path, run_python: Callable[..., Any]
) -> None:
    run_python(
        """
        import atexit, sys, threading
        written = threading.Event()
        told = []
        # Registered before shmflow is imported, so it runs after shmflow's own hook.
        atexit.register(lambda: (go.set(), done.wait(30)))
        go, done = threading.Event(), threading.Event()
        import shmflow
        topic = shmflow.Topic(sys.argv[1], "w", temporary=True)
        topic.write(1)

        def run():
            go.wait()
            try:
                topic.write(2)
            except shmflow.Closed as error:
                print(error)
            done.set()

        threading.Thread(target=run, daemon=True).start()
        """,
        topic_name,
    )
    assert not (shm_dir / f"shmflow.{topic_name}").exists()
