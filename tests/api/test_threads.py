"""Threads on one Topic: any number in any call, and what one of them does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _wire

SMALL = 100  # bytes: copied, private as a loan
LARGE = 20000  # bytes: in the ring

ATTACHED = """
    import sys, shmflow
    topic = shmflow.Topic(sys.argv[1], "w", create=False)
    print("attached", flush=True)
    sys.stdin.readline()
"""


def await_that(condition: Callable[[], bool]) -> None:
    """Until it is so; a net of ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)


# ---- what one thread does while another is inside a call ----------------------------------------


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_discard_does_not_end_a_loan_that_is_being_published(
    topic: shmflow.Topic,
    spawn: Callable[..., Any],
    hold_lock: Callable[..., None],
    background: Callable[..., Any],
    size: int,
) -> None:
    other = spawn(ATTACHED, topic.name)
    other.expect("attached")
    loan = topic.loan(size)
    assert loan.in_ring == (size == LARGE)
    loan.array[:] = 5
    hold_lock(topic.name, 1)
    publishing = background(loan.publish)

    def has_begun() -> bool:
        try:
            return loan.array is None
        except ValueError:
            return True

    await_that(has_begun)
    loan.discard()
    with pytest.raises(ValueError, match="has ended"):
        loan.publish()
    assert publishing.is_alive() and topic.head == 0
    other.kill()
    assert publishing.outcome() == 1
    assert (topic.read(timeout=0) == 5).all()
    for _ in range(200):  # many times around the ring: its block is nobody's but the reader's
        topic.write(np.zeros(LARGE, "u1"))
    assert topic.stats().held_blocks == 0


def test_meta_is_one_dict_for_all_threads(
    topic: shmflow.Topic, background: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=20)
    unpack = _wire.unpack_meta

    def unpack_together(packed: bytes) -> dict[str, Any]:
        together.wait()
        return unpack(packed)

    topic.write(b"x", meta={"a": 1})
    message = topic.read_message(timeout=0)
    monkeypatch.setattr(_wire, "unpack_meta", unpack_together)
    first, second = (background(lambda: message.meta) for _ in range(2))
    mine, other = first.outcome(), second.outcome()
    assert mine == {"a": 1} and mine is other is message.meta
