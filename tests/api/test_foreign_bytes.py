"""What travels is the source's own bytes, and zeros: never what lay in memory before."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmflow

ALIGNED = np.dtype([("a", "u1"), ("b", "f8")], align=True)
NESTED = np.dtype([("p", ALIGNED), ("q", "u1"), ("s", "S3"), ("u", "U2"), ("v", "V5")], align=True)
HOLES = np.dtype({"names": ["a", "b"], "formats": ["u1", "f4"], "offsets": [3, 8], "itemsize": 20})
RECORDS = {"aligned": ALIGNED, "nested": NESTED, "holes": HOLES, "two of three": NESTED}
OTHERS = ["g", "G", "S5", "U3", "V7", "M8[us]", "?", ">f8", "c16"]
OLD = 0xAB


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    """One whose memory is full of what earlier messages were."""
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        for _ in range(300):
            topic.write(np.full(8192, OLD, "u1"))
        topic.read(timeout=0, latest=True)
        yield topic
        gc.collect()
        topic.unlink()


def soil_the_heap(size: int) -> None:
    """What is allocated next holds what was freed here."""
    kept = [np.full(size, OLD, "u1") for _ in range(100)]
    del kept


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", [*RECORDS, *OTHERS])
def test_strided_array_travels_with_its_own_gaps(
    topic: shmflow.Topic, kind: str, many: bool
) -> None:
    dtype = RECORDS.get(kind) or np.dtype(kind)
    for count, fill in itertools.product((3, 1500), (0, 0x11)):  # packed in the heap, or in place
        source = np.zeros((2 * count, 2), dtype)
        if "U" not in str(dtype):  # a letter is no number of any size
            source.view("u1")[:] = fill
        fields = source[["p", "v"]] if kind == "two of three" else source
        strided = fields[::2, 1]
        own = source[::2, 1].copy().view("u1") if kind in OTHERS else None
        if own is None:
            own = source.view("u1").reshape(2 * count, 2, -1)[::2, 1].reshape(-1)
        soil_the_heap(strided.nbytes)
        topic.write_many([strided]) if many else topic.write(strided)
        received = topic.read(timeout=0)
        assert received.dtype == strided.dtype
        same = received.tobytes() == own.tobytes()
        assert same  # a difference of so many bytes takes pytest minutes to write


@pytest.mark.parametrize("size", [100, 3000])
def test_private_memory_of_a_loan_begins_as_zeros(topic: shmflow.Topic, size: int) -> None:
    soil_the_heap(size)
    with topic.loan(size) as array:
        assert not array.any()
    assert not topic.read(timeout=0).any()
    with topic.loan(2, NESTED) as records:
        assert not np.frombuffer(records.tobytes(), "u1").any()
    assert not any(topic.read(timeout=0).tobytes())


def block_of(topic: shmflow.Topic, shm_dir: Path, seq: int) -> bytes:
    """All of a message's block, as it is in the file: prefix, payload, what is behind."""
    told, layout = topic._blocks(100_000), topic._layout()
    assert told is not None and layout is not None
    capacity, lane, _, blocks = told
    offset, length = next((b[0], b[1]) for b in blocks if b[2] == seq)
    with open(shm_dir / f"shmflow.{topic.name}", "rb") as file:
        file.seek(layout["file_len"] - capacity - lane + offset)
        return file.read(length)


LONG = np.dtype([(f"field{i}", "u1") for i in range(9)])


@pytest.mark.parametrize("how", ["write", "write_many", "strided", "loan"])
def test_padding_of_prefix_and_block_is_zeros(
    topic: shmflow.Topic, shm_dir: Path, how: str
) -> None:
    lengths = (1, 63, 64, 65, 999, 4001, 5000, 20_001)
    prefixes = itertools.product(("u1", LONG), (None, {"a": 1}, {"a": "x" * 100}))
    for length, (dtype, meta) in itertools.product(lengths, prefixes):
        data = np.zeros((length, 2), dtype)
        data.view("u1")[:] = 0x99
        if how == "loan":
            with topic.loan(length, dtype, meta=meta) as array:
                array[:] = data[:, 0]
        elif how == "write_many":
            topic.write_many([data[:, 0].copy()])
        else:
            topic.write(data[:, 0] if how == "strided" else data[:, 0].copy(), meta=meta)
        block = block_of(topic, shm_dir, topic.head or 0)
        assert OLD not in block
        payload = block.index(b"\x99" * min(length, 3)) + length * data.itemsize
        assert not any(block[payload:])


def test_a_loan_that_fails_keeps_what_was_filled_into_its_last_line(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=1) as topic,
        shmflow.Topic(topic_name, "r", lossless=True) as slow,
    ):
        topic.write(b"unread")
        assert slow.read(timeout=0).nbytes == 6
        topic.write(b"unread")
        loan = topic.loan(70_000, timeout=0)
        assert loan.in_ring
        loan.array[:] = 7
        with pytest.raises(shmflow.Full):
            loan.publish(69_990)
        assert (loan.array == 7).all()
        slow.read(timeout=0)
        loan.publish(69_990)
        assert (slow.read(timeout=0) == 7).all()
        del loan
        gc.collect()
        topic.unlink()
