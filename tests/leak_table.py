"""Every public call, as a table of what a test does a few hundred times.

Owns: the calls and what they share; errors included.
Does not own: what must not grow with them (tests/api/test_reference_leaks.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import operator
import pickle
import select
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import shmflow

FRAME = np.arange(20_000, dtype="u1")
SMALL = np.arange(5, dtype="u1")
LONG = np.dtype([(f"field_{i}", "f8", (2, 3)) for i in range(20)])
RECORDS = np.zeros(100, LONG)
META = {"encoding": "bgr8", "list": [1, 2.5, None, True], "deep": {"a": {"b": "c"}}}


class World:
    """What the calls of one test share: a topic, readers on it, and arguments."""

    def __init__(self, name: str):
        self.name = name
        self.topic = shmflow.Topic(name, capacity="1 MiB", max_held="1 MiB")
        self.topic.write(FRAME)
        self.reader = shmflow.Topic(name, "r")
        self.monitor = shmflow.Topic(name, "monitor")
        self.capped = shmflow.Topic(name, "r", max_held=20_000)
        self.capped_view = self.capped.read(0)
        self.ended = shmflow.Topic(name + "/ended", capacity="64 KiB")
        self.ended.write(SMALL)
        self.ended.shutdown()
        self.closed = shmflow.Topic(name + "/none", "r")
        self.closed.close()
        self.absent = shmflow.Topic(name + "/none", "r")
        self.out = np.empty_like(FRAME)
        self.strided = np.zeros((200, 200))[::2, ::3]
        self.message = self.reader.read_message(0)
        self.packed = pickle.dumps(self.reader)
        self.loan = self.topic.loan(20_000)
        self.loop = asyncio.new_event_loop()
        self.immortal = [
            *(None, True, False, ..., NotImplemented, (), "", b"", 0, 1),
            *(np.dtype(t) for t in ("u1", "f8", "i8")),
            *(LONG, FRAME, SMALL, RECORDS, META, self.out, self.strided, self.packed),
            *(shmflow.Topic, shmflow.Message, shmflow.Messages, shmflow.Loan, shmflow.Stats),
            *(shmflow.Participant, type(self.capped_view.base), np.ndarray, bytes, int, dict),
            *(shmflow.Empty, shmflow.Closed, shmflow.WrongMode, shmflow.NoSlot),
            *(self.topic, self.reader, self.monitor, self.capped, self.ended, self.closed),
            *(self.absent, self.capped_view, self.message, self.message.array, self.loan),
            *(sys.modules["shmflow._core"], sys.modules["shmflow._texts"], name),
        ]

    def close(self) -> None:
        self.loop.close()
        for topic in (self.reader, self.monitor, self.capped, self.absent):
            topic.close()
        for topic in (self.ended, self.topic):
            topic.unlink()
            topic.close()
        del topic
        vars(self).clear()  # pytest keeps a fixture's value until all are torn down

    def write_read(self, data: Any, **options: Any) -> np.ndarray[Any, Any]:
        self.topic.write(data, **options)
        return self.reader.read(0, latest=True)

    def fails(
        self, kind: type[BaseException], act: Callable[..., Any], *args: Any, **kw: Any
    ) -> None:
        try:
            act(*args, **kw)
        except kind:
            return
        raise AssertionError(f"{kind.__name__} was expected")


def many_views(w: World) -> None:
    for _ in range(5):
        w.topic.write(FRAME)
    views = [w.reader.read(0, default=None) for _ in range(5)]
    parts = [view[3:7] for view in views if view is not None]
    del views, parts


def cycle(w: World) -> None:
    node: list[Any] = [w.write_read(FRAME), shmflow.Topic(w.name, "r"), w.topic.loan(20_000)]
    node += [node, node[1].messages()]
    del node
    gc.collect()


def loan_with_error(w: World) -> None:
    with contextlib.suppress(KeyError), w.topic.loan(20_000) as array:
        array[:] = 1
        raise KeyError


def loan_kept(w: World) -> None:
    with w.topic.loan(20_000, "u1", meta=META) as array:
        part = array[3:5]
    w.fails(ValueError, operator.setitem, array, 0, 1)
    del part


def next_generation(w: World) -> None:
    view = w.write_read(FRAME)
    w.topic.unlink()
    w.topic.write(FRAME)
    w.reader.read(1)
    assert view is not None


def replaced(w: World) -> None:
    with shmflow.Topic(w.name + "/again", capacity="64 KiB", replace=True) as topic:
        topic.write(SMALL)


def over_the_cap(w: World) -> None:
    w.topic.write(FRAME)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        w.capped.read(0, latest=True)


def warned(w: World) -> None:
    # Each a reader of its own: one warns once.
    w.topic.write(FRAME)
    w.topic.write(FRAME)
    with shmflow.Topic(w.name, "r", start="latest", max_held=10) as reader:
        view = reader.read(0)
        w.topic.write(FRAME)
        w.fails(RuntimeWarning, reader.read, 0)
        del view


def out_that_does_not_fit(w: World) -> None:
    w.topic.write(FRAME)
    for out in (np.empty(3, "u1"), np.empty(20_000, "i1"), np.empty(40_000, "u1")[::2], [1]):
        w.fails((ValueError, TypeError), w.reader.read, 0, latest=True, out=out)  # type: ignore[arg-type]


def iteration(w: World) -> None:
    reader = shmflow.Topic(w.ended.name, "r")
    assert len(list(reader)) == 1 and len(list(reader.messages(timeout=0))) == 0
    reader.close()


def lossless(w: World) -> None:
    with shmflow.Topic(w.name + "/lossless", depth=1, capacity="64 KiB", replace=True) as topic:
        topic.write(SMALL)
        with shmflow.Topic(topic.name, "r", lossless=True) as reader:
            w.fails(shmflow.Full, topic.write, SMALL, timeout=0)
            w.fails(shmflow.Full, topic.write_many, [SMALL], timeout=0)
            w.fails(shmflow.WrongMode, reader.read, latest=True)
            reader.read(0)
        topic.unlink()


def group(w: World) -> None:
    w.topic.write(FRAME)
    with shmflow.Topic(w.name, "r", group="a") as one, shmflow.Topic(w.name, "r", group="a") as two:
        one.read_many(99, 0, copy=True)
        w.fails(shmflow.Empty, two.read, 0, copy=True)
        w.fails(shmflow.TopicMismatch, shmflow.Topic, w.name, "r", group="a", lossless=True)
        two.participants()


def descriptor(w: World) -> None:
    with shmflow.Topic(w.name, "r", start="new") as reader:
        assert not select.select([reader], [], [], 0)[0]
        w.topic.write(SMALL)
        assert select.select([reader], [], [], 20)[0]
        assert reader.read(0) is not None
    w.fails(shmflow.WrongMode, shmflow.Topic(w.name, "w").fileno)
    w.fails(shmflow.Closed, w.closed.fileno)
    assert w.absent.fileno() == w.absent.fileno()


def awaited(w: World, method: str) -> None:
    async def wait(reader: shmflow.Topic) -> None:
        call = getattr(reader, method)
        w.topic.write(SMALL)
        await call(latest=True)
        w.loop.call_soon(w.topic.write, SMALL)
        await call()
        with contextlib.suppress(shmflow.Empty):
            await call(0)
        with contextlib.suppress(shmflow.Empty):
            await call(0.0001)
        task = w.loop.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    with shmflow.Topic(w.name, "r") as reader:
        w.loop.run_until_complete(wait(reader))
        w.fails(ValueError, getattr(reader, method), -1)
        w.fails(TypeError, getattr(reader, method), 0, nonsense=1)


def async_iteration(w: World) -> None:
    async def iterate() -> None:
        with shmflow.Topic(w.ended.name, "r") as reader:
            assert [len(array) async for array in reader] == [len(SMALL)]

    w.loop.run_until_complete(iterate())


BAD_DATA = [
    None,
    "text",
    [1],
    {},
    np.array([None]),
    object(),
    1 << 80,
    np.ma.zeros(3),
    bytes(3 << 20),
]
BAD_OPTIONS: list[dict[str, Any]] = [
    {"capacity": "much"},
    {"capacity": -1},
    {"depth": "1"},
    {"depth": 1 << 80},
    {"mode": "x"},
    {"start": 3},
    {"spin": "x"},
    {"spin": 9},
    {"create": 1},
    {"permissions": 0o077},
    {"max_participants": 0},
    {"mode": "r", "create": True},
    {"create": False, "replace": True},
    {"capacity": 10, "max_message": 20},
    {"nonsense": 1},
    {"group": 5},
    {"group": "a/b"},
    {"group": "a", "mode": "w"},
    {"lossless": True, "mode": "monitor"},
    {"lossless": True, "allow_lossless": False},
    {"capacity": "900 TiB"},
]
BAD_META: list[Any] = [
    1,
    {"a": object()},
    {"a": float("nan")},
    {"a": "x" * 70_000},
    {"a": "\ud800"},
]

CALLS: dict[str, Callable[[World], Any]] = {
    "wait for what is there": lambda w: shmflow.wait([w.topic, w.ended, w.absent]),
    "wait in vain": lambda w: (
        w.reader.read(0, latest=True, default=None),
        shmflow.wait((t for t in (w.reader, w.absent)), 1e-4),
    ),
    "wait refused": lambda w: [
        w.fails(TypeError, shmflow.wait, w.topic),
        w.fails(TypeError, shmflow.wait, [w.topic, "cam"]),
        w.fails(TypeError, shmflow.wait, 5),
        w.fails(ValueError, shmflow.wait, [w.topic] * 129),
        w.fails(ValueError, shmflow.wait, []),
        w.fails(shmflow.Closed, shmflow.wait, [w.topic, w.closed]),
    ],
    "write small": lambda w: w.topic.write(SMALL),
    "write large": lambda w: w.topic.write(FRAME),
    "write with meta": lambda w: w.topic.write(SMALL, meta=META, timestamp_ns=5, timeout=3),
    "write bytes": lambda w: w.topic.write(b"some bytes"),
    "write a bytearray": lambda w: w.topic.write(bytearray(9000)),
    "write a number": lambda w: [w.topic.write(x) for x in (1, 2.5, True, 1j, np.float32(3))],
    "write strided": lambda w: w.write_read(w.strided),
    "write strided small": lambda w: w.topic.write(FRAME[:100:7]),
    "write Fortran": lambda w: w.write_read(w.strided.T.copy(order="F")),
    "write a memoryview": lambda w: w.topic.write(memoryview(FRAME)[::2]),
    "write a subclass": lambda w: w.topic.write(FRAME.view(np.recarray)),
    "write a long dtype": lambda w: w.write_read(RECORDS),
    "write many dimensions": lambda w: w.write_read(np.zeros((1,) * 20 + (300,) * 2, "u1")),
    "write a new dtype": lambda w: w.write_read(
        np.zeros(2, np.dtype([("x", "f4"), ("y", "M8[s]")]))
    ),
    "write what cannot travel": lambda w: [
        w.fails((TypeError, ValueError), w.topic.write, data) for data in BAD_DATA
    ],
    "write with bad meta": lambda w: [
        w.fails((TypeError, ValueError), w.topic.write, SMALL, meta=meta) for meta in BAD_META
    ],
    "write with bad arguments": lambda w: (
        w.fails(TypeError, w.topic.write),
        w.fails(TypeError, w.topic.write, 1, 2),
        w.fails(TypeError, w.topic.write, 1, nonsense=2),
        w.fails(TypeError, w.topic.write, 1, timeout="x"),
        w.fails(ValueError, w.topic.write, 1, timeout=-1),
        w.fails(ValueError, w.topic.write, 1, timestamp_ns=-1),
        w.fails(OverflowError, w.topic.write, 1, timestamp_ns=1 << 70),
    ),
    "write in the wrong mode": lambda w: (
        w.fails(shmflow.WrongMode, w.reader.write, 1),
        w.fails(shmflow.WrongMode, w.monitor.write, 1),
    ),
    "write after the end": lambda w: w.fails(shmflow.Closed, w.ended.write, SMALL),
    "read a view": lambda w: w.write_read(FRAME),
    "read small": lambda w: w.write_read(SMALL),
    "read a copy": lambda w: (w.topic.write(FRAME), w.reader.read(0, latest=True, copy=True)),
    "read into out": lambda w: (w.topic.write(FRAME), w.reader.read(0, latest=True, out=w.out)),
    "read into an out that does not fit": out_that_does_not_fit,
    "read over the cap": over_the_cap,
    "read that warns": warned,
    "read by a monitor": lambda w: (w.topic.write(FRAME), w.monitor.read(0, latest=True)),
    "read nothing": lambda w: (w.write_read(SMALL), w.fails(shmflow.Empty, w.reader.read, 0)),
    "read the default": lambda w: (w.write_read(SMALL), w.reader.read(0, default=w.out)),
    "read with a short timeout": lambda w: (
        w.write_read(SMALL),
        w.fails(shmflow.Empty, w.reader.read, 0.0005),
    ),
    "read of what is not there": lambda w: w.fails(shmflow.Empty, w.absent.read, 0),
    "read in the wrong mode": lambda w: w.fails(
        shmflow.WrongMode, shmflow.Topic(w.name, "w").read, 0
    ),
    "read with bad arguments": lambda w: (
        w.fails(TypeError, w.reader.read, 1, 2),
        w.fails(TypeError, w.reader.read, 0, nonsense=1),
        w.fails(TypeError, w.reader.read, timeout="x"),
        w.fails(ValueError, w.reader.read, float("nan")),
        w.fails(TypeError, w.reader.read, 0, timeout=0),
        w.fails(ValueError, w.reader.read, 0, copy=FRAME),
    ),
    "read_message": lambda w: (w.topic.write(FRAME), w.reader.read_message(0, latest=True)),
    "read_message, pickled and copied": lambda w: [
        (call(w.message).meta, call(w.message).array)
        for call in (copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)))
    ],
    "read_message with meta": lambda w: (
        w.topic.write(SMALL, meta=META),
        w.reader.read_message(0, latest=True).meta,
    ),
    "read_message large with meta": lambda w: (
        w.topic.write(FRAME, meta=META),
        w.reader.read_message(0, latest=True).meta,
    ),
    "Message": lambda w: (
        *(getattr(w.message, f) for f in ("array", "seq", "timestamp_ns", "lost", "skipped")),
        *(w.message.writer, w.message.meta, repr(w.message)),
        w.fails(AttributeError, setattr, w.message, "seq", 1),
        w.fails(TypeError, shmflow.Message),
    ),
    "write_many": lambda w: w.topic.write_many([SMALL, FRAME, b"x", w.strided[:3], RECORDS[:1]]),
    "write_many of rows": lambda w: w.topic.write_many(np.zeros((70, 8), "u1")),
    "write_many that cannot be": lambda w: (
        w.fails(TypeError, w.topic.write_many),
        w.fails(TypeError, w.topic.write_many, b"bytes"),
        w.fails(TypeError, w.topic.write_many, 5),
        w.fails(TypeError, w.topic.write_many, [SMALL, object()]),
        w.fails(ZeroDivisionError, w.topic.write_many, (1 // (1 - i) for i in range(3))),
        w.fails(shmflow.MessageTooLarge, w.topic.write_many, [SMALL, bytes(3 << 20)]),
        w.fails(shmflow.WrongMode, w.reader.write_many, [SMALL]),
    ),
    "read_many": lambda w: (w.topic.write_many([SMALL, FRAME]), w.reader.read_many(9, 0)),
    "read_many copies": lambda w: (w.topic.write(FRAME), w.reader.read_many(9, 0, copy=True)),
    "read_many stacked": lambda w: (
        w.topic.write_many([SMALL, SMALL, w.strided[:2].copy(order="F"), RECORDS[:1]]),
        [w.reader.read_many(9, 0, stack=True) for _ in range(4)],
    ),
    "read_many of nothing": lambda w: (w.reader.read_many(99, 0), w.reader.read_many(2, 0)),
    "read_many that cannot be": lambda w: (
        w.fails(TypeError, w.reader.read_many),
        w.fails(ValueError, w.reader.read_many, 0),
        w.fails(OverflowError, w.reader.read_many, 1 << 80),
        w.fails(TypeError, w.reader.read_many, "x"),
    ),
    "read_messages": lambda w: (
        w.topic.write_many([SMALL, FRAME]),
        w.topic.write(SMALL, meta=META),
        [m.meta for m in w.reader.read_messages(99, 0)],
    ),
    "snapshot": lambda w: (w.reader.snapshot(), w.monitor.snapshot(copy=True), w.absent.snapshot()),
    "peek": lambda w: (
        w.reader.peek(w.topic.write(FRAME)),
        w.fails(shmflow.NotRetained, w.reader.peek, 1 << 70),
        w.fails(TypeError, w.reader.peek, "x"),
        w.fails(shmflow.TopicNotFound, w.absent.peek, 1),
    ),
    "seek": lambda w: (
        [w.reader.seek(place) for place in ("oldest", "latest", "new")],
        w.reader.seek(timestamp_ns=1),
        w.fails(shmflow.NotRetained, w.reader.seek, 0),
        w.fails(ValueError, w.reader.seek, "x"),
        w.fails(TypeError, w.reader.seek),
        w.fails(shmflow.TopicNotFound, w.absent.seek, 1),
        w.reader.seek("new"),
    ),
    "lossless": lossless,
    "group": group,
    "many views": many_views,
    "cycles": cycle,
    "messages": lambda w: (w.topic.write(FRAME), next(w.reader.messages(latest=True, timeout=0))),
    "messages with bad arguments": lambda w: (
        w.fails(TypeError, w.reader.messages, 1),
        w.fails(ValueError, w.reader.messages, timeout=-1),
        w.fails(TypeError, shmflow.Messages),
    ),
    "messages that end": iteration,
    "messages that are too late": lambda w: (
        w.write_read(SMALL),
        w.fails(shmflow.Empty, next, w.reader.messages(timeout=0)),
    ),
    "loan": lambda w: w.topic.loan(20_000).publish(),
    "loan small": lambda w: w.topic.loan((2, 3), "f4", meta=META, timestamp_ns=9).publish(),
    "loan discarded": lambda w: w.topic.loan(20_000).discard(),
    "loan forgotten": lambda w: w.topic.loan([10, 2000]).array,
    "loan in a block": loan_kept,
    "loan with an error": loan_with_error,
    "loan of a long dtype": lambda w: w.topic.loan(30, LONG).publish(),
    "loan published shorter": lambda w: (
        w.topic.loan(30, LONG, meta=META).publish((3, 2)),
        w.topic.loan(20_000).publish((3, 1, 1, 1, 2)),
        w.topic.loan(20).publish(shape=5),
    ),
    "loan published too long": lambda w: [
        (
            w.fails(ValueError, loan.publish, 20_001),
            w.fails(ValueError, loan.publish, (-1, 2)),
            w.fails(TypeError, loan.publish, "x"),
        )
        for loan in [w.topic.loan(20_000)]
    ],
    "loan that cannot be": lambda w: (
        w.fails(ValueError, w.topic.loan, -1),
        w.fails(TypeError, w.topic.loan, "x"),
        w.fails(TypeError, w.topic.loan, 3, "O"),
        w.fails(TypeError, w.topic.loan, 3, "nonsense"),
        w.fails(ValueError, w.topic.loan, (1,) * 40),
        w.fails(TypeError, w.topic.loan, 3, "2u1"),
        w.fails(shmflow.MessageTooLarge, w.topic.loan, 5 << 20),
        w.fails(TypeError, w.topic.loan, 3, "u1", meta=4),
        w.fails(ValueError, w.topic.loan, 3, "u1", timeout=-4),
        w.fails(shmflow.WrongMode, w.reader.loan, 3),
        w.fails(shmflow.Closed, w.ended.loan, 3),
    ),
    "Loan": lambda w: (w.loan.array, w.loan.seq, w.loan.in_ring, w.fails(TypeError, shmflow.Loan)),
    "Loan after its end": lambda w: [
        (w.fails(ValueError, loan.publish), w.fails(ValueError, getattr, loan, "array"))
        for loan in [w.topic.loan(3)]
        if loan.publish()
    ],
    "Topic": lambda w: shmflow.Topic(w.name, "r"),
    "Topic that is closed": lambda w: shmflow.Topic(w.name, "w", create=False).close(),
    "Topic as a context": lambda w: shmflow.Topic(w.name, "monitor").__enter__().__exit__(),
    "Topic of its own": lambda w: shmflow.Topic(capacity="64 KiB").write(SMALL),
    "Topic that was not initialised": lambda w: (
        repr(shmflow.Topic.__new__(shmflow.Topic)),
        w.fails(shmflow.Closed, shmflow.Topic.__new__(shmflow.Topic).read, 0),
    ),
    "Topic again": lambda w: w.fails(TypeError, w.topic.__init__, w.name),
    "Topic with bad options": lambda w: [
        w.fails((TypeError, ValueError, OSError), shmflow.Topic, w.name + "/bad", **options)
        for options in BAD_OPTIONS
    ],
    "Topic with a bad name": lambda w: [
        w.fails((ValueError, TypeError), shmflow.Topic, name)
        for name in ("", "/", "a b", ".x", "x" * 300, "a\0b", "é", 3)
    ],
    "Topic that exists": lambda w: w.fails(
        shmflow.TopicExists, shmflow.Topic, w.name, create=True, capacity=1
    ),
    "Topic that does not": lambda w: w.fails(
        shmflow.TopicNotFound, shmflow.Topic, w.name + "/none", "r", create=False
    ),
    "Topic that does not fit": lambda w: w.fails(
        shmflow.TopicMismatch, shmflow.Topic, w.name, capacity="2 MiB"
    ),
    "Topic replaced": replaced,
    "facts": lambda w: [
        [getattr(topic, fact) for fact in dir(topic) if fact[0] != "_" and fact != "__doc__"]
        for topic in (w.topic, w.monitor, w.absent, w.closed, w.ended)
    ],
    "fileno": descriptor,
    "read_async": lambda w: awaited(w, "read_async"),
    "read_message_async": lambda w: awaited(w, "read_message_async"),
    "async iteration": async_iteration,
    "stats": lambda w: [t.stats() for t in (w.topic, w.monitor, w.absent, w.closed)],
    "participants": lambda w: [t.participants() for t in (w.topic, w.monitor, w.absent, w.closed)],
    "for texts": lambda w: [(t._last(), t._lock_holder()) for t in (w.topic, w.monitor, w.absent)],
    "repr": lambda w: [repr(t) for t in (w.topic, w.absent, w.closed, w.ended)],
    "iter": lambda w: (iter(w.reader), w.fails(shmflow.Closed, iter, w.closed)),
    "pickle": lambda w: pickle.loads(w.packed),
    "copy": lambda w: copy.copy(w.reader),
    "pickle of a closed one": lambda w: w.fails(shmflow.Closed, pickle.dumps, w.closed),
    "next generation": next_generation,
    "unlink": lambda w: w.fails(shmflow.WrongMode, w.monitor.unlink),
    "closed": lambda w: [
        w.fails(shmflow.Closed, act)
        for act in (w.closed.read, w.closed.read_message, w.closed.__enter__, w.closed.unlink)
    ],
    "topics": lambda w: shmflow.topics(),
    "clean": lambda w: shmflow.clean(),
    "get_include": lambda w: shmflow.get_include(),
    "unlink by name": lambda w: (
        shmflow.Topic(w.name + "/u", capacity="64 KiB").close(),
        shmflow.unlink(w.name + "/u"),
        w.fails(shmflow.TopicNotFound, shmflow.unlink, w.name + "/u"),
        w.fails(ValueError, shmflow.unlink, "a b"),
    ),
    "attributes of the package": lambda w: (
        w.fails(AttributeError, getattr, shmflow, "nonsense"),
        dir(shmflow),
    ),
}
