"""Every kind of input arrives as it was written: dtype, shape, order, bytes.

Each is sent small (copied when read) and large (read as a view of the ring).
"""

from __future__ import annotations

import array
import ctypes
import gc
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmflow

LARGE = 8192  # bytes: beyond what is copied


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(topic_name, capacity="2 MiB", max_message="1 MiB") as topic:
        yield topic
        gc.collect()
        topic.unlink()


def is_view(received: np.ndarray[Any, Any]) -> bool:
    return type(received.base).__name__ == "_View"


def raw(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes that mean something: a long double has padding that a conversion leaves as is."""
    if array.dtype.char not in "gG":
        return array.tobytes()
    numbers = np.atleast_1d(np.ascontiguousarray(array)).view(np.longdouble)
    return np.ascontiguousarray(numbers.reshape(-1, 1).view("u1")[:, :10]).tobytes()


def travels(topic: shmflow.Topic, data: Any, expected: np.ndarray[Any, Any]) -> None:
    """`data` arrives as `expected`, three ways; large ones as views."""
    for copy in (False, True):
        topic.write(data)
        received = topic.read(timeout=0, copy=copy)
        assert type(received) is np.ndarray
        assert received.dtype == expected.dtype
        assert received.dtype.descr == expected.dtype.descr if expected.dtype.names else True
        assert received.dtype.itemsize == expected.dtype.itemsize
        assert received.dtype.byteorder == expected.dtype.byteorder
        assert received.shape == expected.shape
        assert raw(received) == raw(expected)
        assert received.flags.writeable is copy
        assert received.flags.aligned
        if expected.flags.f_contiguous and not expected.flags.c_contiguous:
            assert received.flags.f_contiguous
        else:
            assert received.flags.c_contiguous
        if expected.nbytes >= LARGE:
            assert is_view(received) is not copy
    out = np.empty_like(received)
    topic.write(data)
    assert topic.read(timeout=0, out=out) is out
    assert raw(out) == raw(expected)


def random_bytes(dtype: np.dtype[Any], count: int) -> np.ndarray[Any, Any]:
    """Any bytes; NaNs with payloads included, they must arrive as they are."""
    raw = np.random.default_rng(7).bytes(dtype.itemsize * count)
    if dtype.kind == "b":
        raw = bytes(b & 1 for b in raw)
    if dtype.kind == "U":
        return np.array([f"ä{i}"[:1] for i in range(count)], dtype)
    return np.frombuffer(bytearray(raw), dtype)


NUMERIC = "? i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8 g c8 c16 G".split()
OTHERS = ["S5", "U3", "V7", "M8[ns]", "M8[D]", "m8[us]", "M8[25s]", "m8", "M8"]
BIG_ENDIAN = [">i2", ">u4", ">f8", ">c16", ">U3", ">M8[ms]"]


@pytest.mark.parametrize("name", NUMERIC + OTHERS + BIG_ENDIAN)
def test_dtype_arrives_bit_for_bit(topic: shmflow.Topic, name: str) -> None:
    for count in (3, 5000):
        data = random_bytes(np.dtype(name), count)
        travels(topic, data, data)


STRUCTURED = {
    "plain": [("a", "<i4"), ("b", ">f8")],
    "subarray": [("m", "f4", (3, 2)), ("n", "u1")],
    "nested": [("head", [("seq", "u8"), ("at", "M8[us]")]), ("xyz", "f4", (3,))],
    "unicode names": [("größe", "f8"), ("名", "S4")],
    "titles": [(("a title", "short"), "i4"), ("b", "i2")],
    "many fields": [(f"field_{i:03}", "i1") for i in range(200)],
}


@pytest.mark.parametrize("kind", STRUCTURED)
def test_structured_dtype_arrives(topic: shmflow.Topic, kind: str) -> None:
    dtype = np.dtype(STRUCTURED[kind])
    for count in (3, 3000):
        data = np.zeros(count, dtype)
        data[:] = np.frombuffer(np.random.default_rng(3).bytes(data.nbytes), dtype)
        travels(topic, data, data)
        topic.write(data)
        assert topic.read(timeout=0).dtype.fields == dtype.fields


PADDED = {
    "aligned": np.dtype([("a", "u1"), ("b", "f8"), ("c", "i2")], align=True),
    "holes": np.dtype(
        {"names": ["a", "b"], "formats": ["u1", "f4"], "offsets": [3, 8], "itemsize": 16}
    ),
    "nested aligned": np.dtype(
        [("p", np.dtype([("q", "u1"), ("r", "f8")], align=True)), ("s", "i2")], align=True
    ),
}


@pytest.mark.parametrize("count", [3, 3000])
def test_padded_structure_keeps_its_offsets(topic: shmflow.Topic, count: int) -> None:
    for dtype in PADDED.values():
        data = np.zeros(count, dtype)
        data[dtype.names[0]] = np.ones((), dtype[dtype.names[0]])
        data[dtype.names[1]] = np.full((), 5, dtype[dtype.names[1]])
        topic.write(data)
        received = topic.read(timeout=0)
        assert received.dtype.itemsize == dtype.itemsize
        for name in dtype.names:
            assert received.dtype.fields[name][1] == dtype.fields[name][1]
            np.testing.assert_array_equal(received[name], data[name])


SHAPES = [(), (0,), (0, 3), (3, 0, 2), (1,), (7,), (2, 3), (2, 3, 4, 5), (1, 2, 1, 2, 1, 2, 3)]
SHAPES += [(1,) * 31 + (4,), (2,) * 14 + (1,) * 18, (100, 100), (3, 20, 30, 2, 1, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)) or "0-d")
def test_shape_and_order_arrive(topic: shmflow.Topic, shape: tuple[int, ...]) -> None:
    data = np.arange(int(np.prod(shape)), dtype="i4").reshape(shape)
    travels(topic, data, data)
    fortran = data.copy(order="F")
    travels(topic, fortran, fortran)


def test_empty_arrays_keep_their_dtype(topic: shmflow.Topic) -> None:
    for dtype in ("f8", "S0", "U0", "V0", [("a", "i4")], "M8[s]"):
        data = np.zeros((0, 3), dtype)
        topic.write(data)
        received = topic.read(timeout=0)
        assert (received.dtype, received.shape) == (data.dtype, data.shape)


BASE = np.arange(60 * 50 * 4, dtype="i2").reshape(60, 50, 4)
STRIDED: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "every other": lambda a: a[::2, 1::3],
    "reversed": lambda a: a[::-1],
    "reversed in all": lambda a: a[::-1, ::-1, ::-1],
    "transposed": lambda a: a.transpose(1, 0, 2),
    "one channel": lambda a: a[..., 2],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "cropped": lambda a: a[10:50, 5:40],
    "diagonal": lambda a: np.einsum("iij->ij", a[:50]),
    "small": lambda a: a[:4:2, :3, ::2],
}


@pytest.mark.parametrize("kind", STRIDED)
def test_strided_arrays_arrive_contiguous(topic: shmflow.Topic, kind: str) -> None:
    data = STRIDED[kind](BASE)
    assert not data.flags.c_contiguous and not data.flags.f_contiguous
    travels(topic, data, np.ascontiguousarray(data))


def test_fields_of_a_structure_are_strided_too(topic: shmflow.Topic) -> None:
    records = np.zeros(4000, [("a", "f4"), ("b", "f8")])
    records["b"] = np.arange(4000)
    travels(topic, records["b"], np.arange(4000.0))


def test_unaligned_array_arrives_aligned(topic: shmflow.Topic) -> None:
    for count in (5, 3000):
        data = np.zeros(count * 8 + 1, "u1")[1:].view("f8")
        data[:] = np.arange(count)
        assert not data.flags.aligned
        travels(topic, data, np.arange(float(count)))


def test_read_only_array_can_be_written(topic: shmflow.Topic) -> None:
    data = np.arange(4000.0)
    data.flags.writeable = False
    travels(topic, data, data)


SCALARS = [np.float32(1.5), np.int64(-7), np.bool_(True), np.complex64(1 + 2j), np.str_("äb")]
SCALARS += [np.bytes_(b"ab"), np.datetime64("2026-01-02T03:04"), np.timedelta64(5, "ms")]
SCALARS += [np.longdouble(1) / 3, np.void(b"\x01\x02"), np.zeros(1, [("a", "i4")])[0]]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
def test_numpy_scalar_arrives_0d(topic: shmflow.Topic, scalar: np.generic) -> None:
    travels(topic, scalar, np.asarray(scalar))


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(True, "?"), (-5, "i8"), (2**63 - 1, "i8"), (0.1, "f8"), (float("nan"), "f8"), (2j, "c16")],
)
def test_python_number_arrives_0d(topic: shmflow.Topic, number: complex, dtype: str) -> None:
    travels(topic, number, np.asarray(number, dtype))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_arrive_as_1d_uint8(topic: shmflow.Topic, kind: Any) -> None:
    for size in (0, 1, 100, 4096, LARGE + 3):
        raw = bytes(i % 251 for i in range(size))
        travels(topic, kind(raw), np.frombuffer(raw, "u1"))


def test_memoryview_keeps_its_format_and_shape(topic: shmflow.Topic) -> None:
    for size in (24, 24000):
        raw = bytes(i % 251 for i in range(size))
        view = memoryview(raw).cast("h", (2, size // 4))
        travels(topic, view, np.frombuffer(raw, "i2").reshape(2, -1))
        travels(topic, memoryview(raw).cast("d"), np.frombuffer(raw, "f8"))
        travels(topic, memoryview(raw).cast("?"), np.frombuffer(raw, "?"))


def test_memoryview_of_plain_bytes_of_any_length_is_void(topic: shmflow.Topic) -> None:
    for count in (3, 3000):
        data = np.frombuffer(bytes(i % 251 for i in range(5 * count)), "V5")
        travels(topic, memoryview(data), data)
        travels(topic, memoryview(data)[::2], data[::2].copy())


def test_memoryview_that_is_not_contiguous(topic: shmflow.Topic) -> None:
    raw = np.arange(20000, dtype="u1")
    travels(topic, memoryview(raw)[::-2], np.ascontiguousarray(raw[::-2]))
    frame = np.arange(20000, dtype="f4").reshape(100, 200)
    travels(topic, memoryview(frame[:, ::2]), np.ascontiguousarray(frame[:, ::2]))
    travels(topic, memoryview(frame.T), frame.T)


def test_array_array_keeps_its_typecode(topic: shmflow.Topic) -> None:
    for typecode, count in itertools.product("bBhHiIlLqQfd", (3, 9000)):
        data = array.array(typecode, [i % 100 for i in range(count)])
        travels(topic, data, np.asarray(data))


class Tensor:
    """A DLPack producer that is nothing else: no buffer, no __array__."""

    def __init__(self, data: np.ndarray[Any, Any]):
        self.data = data

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "c8"])
def test_dlpack_producer_on_the_cpu(topic: shmflow.Topic, dtype: str) -> None:
    for count in (6, 6000):
        data = np.arange(count).astype(dtype).reshape(2, -1)
        travels(topic, Tensor(data), data)
    travels(topic, Tensor(data[:, ::2]), np.ascontiguousarray(data[:, ::2]))


class Managed(ctypes.Structure):
    """The beginning of a DLManagedTensor: data, device."""

    _fields_ = (("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("number", ctypes.c_int32))


class Pinned(Tensor):
    """Host memory that a GPU knows of: kDLCUDAHost, kDLROCMHost, kDLCUDAManaged."""

    def __init__(self, data: np.ndarray[Any, Any], kind: int):
        super().__init__(data)
        self.kind = kind

    def __dlpack__(self, **options: Any) -> Any:
        capsule = self.data.__dlpack__()  # of the old form, which begins with the tensor
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        Managed.from_address(get(capsule, b"dltensor")).kind = self.kind
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.kind, 0)


@pytest.mark.parametrize("kind", [3, 11, 13])
def test_dlpack_of_memory_that_the_cpu_reads(topic: shmflow.Topic, kind: int) -> None:
    for count in (6, 6000):
        data = np.arange(count, dtype="f4")
        travels(topic, Pinned(data, kind), data)


def test_subclasses_arrive_as_plain_arrays(topic: shmflow.Topic, tmp_path: Path) -> None:
    for count in (6, 6000):
        mapped = np.memmap(tmp_path / str(count), "f4", "w+", shape=(2, count))
        mapped[:] = np.arange(count)
        travels(topic, mapped, np.asarray(mapped))
        del mapped
        records = np.zeros(count, [("x", "f4"), ("y", "i2")]).view(np.recarray)
        records.x = np.arange(count)
        topic.write(records)
        received = topic.read(timeout=0)
        assert type(received) is np.ndarray
        np.testing.assert_array_equal(received["x"], records.x)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1, 2], [3, 4]])
    travels(topic, matrix, np.asarray(matrix))


def test_what_is_written_is_a_copy(topic: shmflow.Topic) -> None:
    for count in (3, 5000):
        data = np.arange(count)
        topic.write(data)
        data[:] = -1
        np.testing.assert_array_equal(topic.read(timeout=0), np.arange(count))


def test_changed_field_names_are_not_taken_from_a_cache(topic: shmflow.Topic) -> None:
    dtype = np.dtype([("a", "i4"), ("b", "i4")])
    topic.write(np.zeros(2, dtype))
    assert topic.read(timeout=0).dtype.names == ("a", "b")
    for number in range(50):  # a look-up by hash finds the old one only now and then
        dtype.names = (f"x{number}", "y")
        topic.write(np.zeros(2, dtype))
        assert topic.read(timeout=0).dtype.names == (f"x{number}", "y")


def test_a_reader_may_rename_the_fields_it_got(topic: shmflow.Topic) -> None:
    data = np.zeros(2, [("a", "i4"), ("b", "i4")])
    for sent in (data, np.zeros(2, [("p", data.dtype)])["p"], np.zeros(2, [("p", data.dtype)])):
        topic.write(sent)
        received = topic.read(timeout=0).dtype
        (received if sent.dtype == data.dtype else received["p"]).names = ("x", "y")
        topic.write(sent)
        assert topic.read(timeout=0).dtype == sent.dtype


def test_hundreds_of_dtypes_in_turn(topic: shmflow.Topic) -> None:
    for _ in range(2):
        for size in range(1, 400):
            data = np.array([b"x" * size])
            topic.write(data)
            assert topic.read(timeout=0).dtype == data.dtype
