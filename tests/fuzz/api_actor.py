"""One thread of fuzz_api.py: random calls of the package, each looked at as it returns.

Owns: the calls that write, read and seek, and with what arguments; what each may raise.
Does not own: what else is called (api_aside.py), the judgement (api_model.py), processes, threads
and interruptions (fuzz_api.py).

A call may raise what its documentation says, and `Interrupted` of the signal handler.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from api_aside import Aside, Bell, Interrupted, World
from api_model import (
    LARGEST,
    LOAN,
    MANY,
    ONE,
    Port,
    Read,
    Wrong,
    array_of,
    check_array,
    meta_of,
    tag_of,
)

import shmflow

NOTHING = object()


class Actor(Aside):
    def __init__(self, world: World, number: int, rng: random.Random, interrupted: bool) -> None:
        self.world, self.number, self.rng, self.interrupted = world, number, rng, interrupted
        # What unpickling may raise: only where somebody removes topics.
        self.gone = (shmflow.TopicNotFound,) if world.unlinks else ()
        self.ports: list[Port] = []
        self.held: list[tuple[np.ndarray, int]] = []
        self.count = 0
        self.done: dict[str, int] = {}
        self.writer = self.open("w", {})
        self.readers = [self.open_reader() for _ in range(rng.randint(1, 2))]

    # -- opening

    def open(self, mode: str, policy: dict[str, Any]) -> tuple[Any, Port]:
        port = Port(
            f"{self.number}.{len(self.ports)}", policy.get("group"), policy.get("lossless", False)
        )
        options = dict(self.world.options) if mode == "w" else {}
        topic = self.world.open_topic(self.world.name, mode, **options, **policy)
        self.ports.append(port)
        return topic, port

    def open_reader(self) -> tuple[Any, Port]:
        policy: dict[str, Any] = self.rng.choice(
            [{}] * 3 + [{"lossless": True}, {"group": "lossy"}, {"group": "kept", "lossless": True}]
        )
        if "group" not in policy:
            policy = policy | {"start": self.rng.choice(["oldest", "latest", "new"])}
        if self.rng.random() < 0.3:
            policy = policy | {"max_held": self.rng.choice([50_000, "1 MiB"])}
        return self.open("r", policy)

    # -- calls

    def call(self, what: Callable[[], Any], *may: type[BaseException]) -> Any:
        """Its result, or the exception, one of those that it may raise."""
        try:
            Bell.armed = Bell.armed or self.interrupted
            try:
                return what()
            except may as error:
                return error.with_traceback(None)
            finally:
                Bell.armed = Bell.armed and not self.interrupted
        except Interrupted as error:
            return error.with_traceback(None)

    def step(self) -> None:
        kinds = [self.write] * 4 + [self.read] * 5 + [self.look, self.hold, self.other]
        kinds += [self.loan] * 2 + [self.write_many, self.read_many, self.seek, self.rare]
        kind = self.rng.choice(kinds)
        self.done[kind.__name__] = self.done.get(kind.__name__, 0) + 1
        kind()

    def tag(self, how: int) -> int:
        self.count += 1
        return tag_of(self.number, how, self.count)

    # -- writing

    def wrote(self, result: Any, tags: list[int]) -> None:
        topic, port = self.writer
        if isinstance(result, int):
            if result < len(tags) and not self.world.unlinks:
                raise Wrong(f"number {result} after {len(tags)} messages")
            # Others may come in between in a batch: only the last one's number is known.
            port.writes.append((topic.generation, result, tags[-1]))
        elif isinstance(result, shmflow.Full) and "unread" in str(result):
            raise Wrong(str(result))

    def stamp(self, tag: int) -> int | None:
        return self.world.stamp + (tag & 0xFFFF) if tag % 5 == 0 else None

    def write(self) -> None:
        tag = self.tag(ONE)
        data: Any = array_of(tag)
        if data.dtype == np.uint8 and data.ndim == 1:
            data = self.rng.choice([data.tobytes(), bytearray(data), memoryview(data), data])
        options = {"meta": meta_of(tag), "timestamp_ns": self.stamp(tag), "timeout": 0.1}
        topic = self.writer[0]
        self.wrote(self.call(lambda: topic.write(data, **options), shmflow.Full), [tag])

    def write_many(self) -> None:
        tags = [self.tag(MANY) for _ in range(self.rng.randint(1, 40))]
        items = (array_of(tag) for tag in tags)
        result = self.call(
            lambda: self.writer[0].write_many(items, timeout=0.1), shmflow.Full, RuntimeError
        )
        if isinstance(result, shmflow.Full):
            if not 0 <= result.written < len(tags):
                raise Wrong(f"{result.written} of {len(tags)} written, and Full")
        elif isinstance(result, RuntimeError) and "generator" not in str(result):
            raise result
        self.wrote(result, tags)

    def loan(self) -> None:
        tag, topic = self.tag(LOAN), self.writer[0]
        model = array_of(tag)
        options = {"meta": meta_of(tag), "timestamp_ns": self.stamp(tag), "timeout": 0.1}
        is_bytes = model.dtype == np.uint8 and model.ndim == 1
        shape = LARGEST if is_bytes else model.shape
        loan = self.call(lambda: topic.loan(shape, model.dtype, **options), shmflow.Full)
        if isinstance(loan, Exception):
            return
        if is_bytes:  # as a file fills it: less than there is room for
            with memoryview(loan) as view:
                view[: model.size] = model.data
        else:
            loan.array[...] = model
        self.look_at_held()
        if self.rng.random() < 0.2:
            self.call(loan.discard)
            return
        length = model.size if is_bytes else None
        self.wrote(self.call(lambda: loan.publish(length), shmflow.Full), [tag])
        loan.discard()  # does nothing, unless it is open still

    # -- reading

    def got(self, reader: tuple[Any, Port], found: list[Any], seqs: list[int]) -> None:
        topic, port = reader
        tags = [check_array(array) for array in found]
        stats = topic.stats()
        epoch = max(port.sought, default=0)
        port.reads.append(
            Read(topic.generation, epoch, tags, seqs, stats.read, stats.lost, stats.skipped)
        )
        for array, tag in zip(found, tags, strict=True):
            if self.rng.random() < 0.3 and len(self.held) < 30:
                self.held.append((array, tag))

    def answer(self, reader: tuple[Any, Port], result: Any) -> None:
        """What a reading call gave: an array, a message, lists of these, or nothing."""
        if result is NOTHING or isinstance(result, shmflow.Empty):
            return
        if isinstance(result, Interrupted):
            reader[1].cuts += 1
            return
        if isinstance(result, Exception):
            raise result
        many = list(result) if isinstance(result, list) else [result]
        if not many:
            return
        if not isinstance(many[0], shmflow.Message):
            self.got(reader, many, [])
            return
        for message in many:
            self.check_message(message)
        lost = sum(message.lost for message in many)
        if lost > reader[0].lost or lost < 0:
            raise Wrong(f"messages have lost {lost}, their Topic {reader[0].lost}")
        self.got(reader, [m.array for m in many], [m.seq for m in many])

    def check_message(self, message: Any) -> int:
        tag = check_array(message.array)
        if message.meta != meta_of(tag):
            raise Wrong(f"meta of {tag:#x}: {message.meta}")
        if tag >> 32 & 255 != MANY and (stamp := self.stamp(tag)) is not None:
            if message.timestamp_ns != stamp:
                raise Wrong(f"time stamp of {tag:#x}: {message.timestamp_ns}, not {stamp}")
        return tag

    def read(self) -> None:
        reader = self.rng.choice(self.readers)
        topic, port = reader
        latest = self.rng.random() < 0.1 and not (port.lossless or port.group)
        options: dict[str, Any] = {"latest": latest, "copy": self.rng.random() < 0.2}
        timeout = self.rng.choice([0, 0, 0.001, 0.02])
        if self.rng.random() < 0.3:
            options["default"] = NOTHING
        how = self.rng.choice(
            [topic.read, topic.read_message, self.awaited, self.iterated, self.read_into]
        )
        if how == self.read_into:
            options.pop("copy")
            may = (shmflow.Empty, ValueError)
            result = self.call(lambda: self.read_into(topic, timeout, options), *may)
            if isinstance(result, ValueError) and not isinstance(result, shmflow.Error):
                return  # it does not fit, and nothing was taken: the judge sees if not
            self.answer(reader, result)
        elif how in (self.awaited, self.iterated):
            options.pop("default", None)
            self.answer(reader, self.call(lambda: how(topic, timeout, options), shmflow.Empty))
        else:
            self.answer(reader, self.call(lambda: how(timeout, **options), shmflow.Empty))

    def awaited(self, topic: Any, timeout: float, options: dict[str, Any]) -> Any:
        if Bell.owner is not None:  # asyncio.run and a handler that raises do not go together
            return topic.read(timeout, **options)
        how = self.rng.choice([topic.read_async, topic.read_message_async])
        return asyncio.run(how(timeout, **options))

    def read_into(self, topic: Any, timeout: float, options: dict[str, Any]) -> Any:
        out = array_of(tag_of(self.number, ONE, self.rng.randint(1, self.count + 1)))
        array = topic.read(timeout, out=out, **options)
        if array is not out and array is not NOTHING:
            raise Wrong("read(out=) gave another array")
        return array

    def iterated(self, topic: Any, timeout: float, options: dict[str, Any]) -> Any:
        return next(topic.messages(timeout=timeout, **options))

    def read_many(self) -> None:
        reader = self.rng.choice(self.readers)
        topic, limit = reader[0], self.rng.randint(1, 40)
        stack = self.rng.random() < 0.4
        if stack or self.rng.random() < 0.5:
            result = self.call(lambda: topic.read_many(limit, 0.001, stack=stack))
            result = list(result) if isinstance(result, np.ndarray) else result
        else:
            result = self.call(lambda: topic.read_messages(limit, 0.001))
        self.answer(reader, result)

    def seek(self) -> None:
        """Only of readers by themselves: a group is moved for all its members."""
        topic, port = self.rng.choice(self.readers)
        if port.group is not None or topic.generation == 0:
            return
        place = self.rng.choice(["oldest", "latest", "new", max(1, (topic.head or 1) - 2), None])
        stamp = self.world.stamp + self.rng.randint(0, 0xFFFF) if place is None else None
        result = self.call(
            lambda: topic.seek(place, timestamp_ns=stamp),
            *(shmflow.NotRetained, shmflow.TopicNotFound),
        )
        stats = topic.stats()
        epoch = len(port.reads) + 1
        if isinstance(result, int):
            base = result - 1 - stats.read - stats.lost - stats.skipped
            port.sought[epoch] = (topic.generation, base)
        elif isinstance(result, Interrupted):
            port.cuts += 1
            self.reopen(self.readers.index((topic, port)))  # where it stands nobody can tell

    # -- the end

    def drain(self) -> None:
        """Until the stream is over."""
        self.interrupted = False
        for reader in self.readers:
            topic, port = reader
            while True:
                try:
                    self.answer(reader, topic.read_messages(40, 1))
                except shmflow.Closed:
                    break
                self.hold()
            stats, epoch = topic.stats(), max(port.sought, default=0)
            end = Read(topic.generation, epoch, [], [], stats.read, stats.lost, stats.skipped)
            port.end = end

    def leave(self) -> None:
        for topic, _ in (self.writer, *self.readers):
            topic.close()
        self.look_at_held()
        self.held.clear()
