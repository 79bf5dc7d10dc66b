"""The ring that projects write for themselves: a small C library called through ctypes.

Slots of one size in POSIX shared memory; one named semaphore is held around every operation, copy
in and copy out. Readers poll, with a sched_yield() between two looks, which is kind to the others.
The loop over the looks is in C, without the GIL. Argument types are declared, and the addresses of
arrays are looked up once per array, not once per call.

No back-pressure: the writer overwrites the oldest message. A reader that was lapped goes on with
the oldest one that is there. Whoever dies inside the semaphore stops everybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from multiprocessing.context import SpawnContext
from pathlib import Path

import numpy as np

from .base import Peer, Reader, Spec, Writer
from .compiled import compiled

KNOWN = 256  # addresses of arrays that a writer remembers


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path), use_errno=True)
    text, word, pointer = ctypes.c_char_p, ctypes.c_uint64, ctypes.c_void_p
    for name, result, arguments in (
        ("ring_create", ctypes.c_int, (text, word, word)),
        ("ring_open", pointer, (text,)),
        ("ring_close", None, (pointer,)),
        ("ring_unlink", None, (text,)),
        ("ring_write", None, (pointer, pointer)),
        ("ring_read", ctypes.c_int, (pointer, pointer, pointer, ctypes.c_int64)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def attach(path: Path, name: str) -> tuple[ctypes.CDLL, int]:
    library = load(path)
    ring = library.ring_open(name.encode())
    if ring is None:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)
    return library, ring


class CtypesWriter(Writer):
    def __init__(self, path: Path, name: str) -> None:
        self._library, self._ring = attach(path, name)
        self._write = self._library.ring_write
        self._known: dict[int, tuple[np.ndarray, int]] = {}  # by id, which the array keeps valid

    def write(self, array: np.ndarray) -> None:
        known = self._known.get(id(array))
        if known is None:
            if len(self._known) == KNOWN:
                self._known.clear()
            known = self._known[id(array)] = (array, array.ctypes.data)
        self._write(self._ring, known[1])

    def close(self) -> None:
        self._known.clear()
        self._library.ring_close(self._ring)


class CtypesReader(Reader):
    def __init__(self, path: Path, name: str, shape: tuple[int, ...]) -> None:
        self._library, self._ring = attach(path, name)
        self._read = self._library.ring_read
        self._array = np.empty(shape, np.uint8)
        self._data = self._array.ctypes.data
        self._position = ctypes.c_uint64(0)
        self._where = ctypes.addressof(self._position)

    def read(self, timeout: float) -> np.ndarray | None:
        if self._read(self._ring, self._where, self._data, int(timeout * 1e9)):
            return self._array
        return None

    def close(self) -> None:
        self._library.ring_close(self._ring)


class CtypesRing(Peer):
    title = "ctypes ring, one semaphore"
    module = ""
    lossy = True
    polls = True

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._path = compiled(Path(__file__).with_suffix(".c"), shared=True)
        library = load(self._path)
        error = library.ring_create(spec.name.encode(), spec.depth, spec.nbytes)
        if error:
            raise OSError(error, os.strerror(error), spec.name)

    def writer(self) -> Writer:
        return CtypesWriter(self._path, self.spec.name)

    def reader(self, index: int) -> Reader:
        return CtypesReader(self._path, self.spec.name, self.spec.shape)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            load(self._path).ring_unlink(self.spec.name.encode())
