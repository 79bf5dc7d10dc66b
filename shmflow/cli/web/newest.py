"""The newest message of a topic, copied once for all who look.

Owns a monitor per topic, the last copy, and what was encoded of it. Nobody who looks slows a topic:
a monitor copies and stores nothing. Nor does the memory grow: there is one message per topic, and
it goes when nobody has asked for a few seconds.

1. Everything here may be called from any thread, and blocks for as long as a copy and an encoding
   take: not from an event loop.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

from shmflow._errors import NotRetained
from shmflow.cli import show
from shmflow.cli.pictures import Array, Choice, encode, kind_of, picture, shown_axes
from shmflow.cli.watch import Watch
from shmflow.cli.web.readings import reading, short

FORGET_AFTER = 3.0  # s
LONGEST = 1280  # pixels of a side, in a stream
REST = 4  # a copy that took t is followed by a pause of REST * t: large messages cost no core
TRIES = 20  # the newest message may be evicted while it is copied


@dataclass(frozen=True, slots=True)
class Newest:
    """One message, and how it is told from all others of its name."""

    version: str  # inode and number
    seq: int
    timestamp_ns: int
    writer: int
    array: Array
    meta: dict[str, Any]

    def described(self, choice: Choice) -> dict[str, Any]:
        shape, dtype = self.array.shape, self.array.dtype
        kind = kind_of(dtype, shape, choice.kind)
        leading = len(shape) - shown_axes(shape, choice.kind) if kind in ("image", "plot") else 0
        return {
            "version": self.version,
            "seq": self.seq,
            "timestamp_ns": str(self.timestamp_ns),  # more digits than a number of JavaScript has
            "writer": self.writer,
            "kind": kind,
            "dtype": str(dtype) if len(str(dtype)) < 60 else f"{len(dtype.names or ())} fields",
            "shape": shape,
            "leading": shape[:leading],
            "bytes": self.array.nbytes,
            "meta": {key: short(value) for key, value in list(self.meta.items())[:20]},
        }


class Source:
    """The newest message of one topic."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = time.monotonic()
        self._watch = Watch([name])
        self._lock = threading.Lock()
        self._there: Newest | None = None
        self._rest_until = 0.0
        self._encoded: dict[tuple[Any, ...], bytes] = {}

    def close(self) -> None:
        with self._lock:
            self._watch.close()
            self._there = None
            self._encoded.clear()

    def newest(self) -> Newest | None:
        """None if there is no topic, or nothing in it. Raises what opening a topic raises."""
        with self._lock:
            return self._newest()

    def reading(self, choice: Choice) -> dict[str, Any]:
        """The newest message as the page is told of it."""
        found = self.newest()
        if found is None:
            return {"kind": "none", "version": ""}
        chosen = choice.with_meta(found.meta)
        told = found.described(chosen)
        if told["kind"] != "image":
            told["reading"] = reading(found.array, told["kind"], chosen)
        return told

    def image(
        self, choice: Choice, after: str = "", format: Literal["jpeg", "png"] = "jpeg"
    ) -> tuple[Newest, bytes] | None:
        """The newest message as a file: as JPEG at most LONGEST wide and high, as PNG whole. None
        if it is the one after which one is asked for, or no image."""
        with self._lock:
            found = self._newest()
            if found is None or found.version == after:
                return None
            chosen = choice.with_meta(found.meta)
            if kind_of(found.array.dtype, found.array.shape, chosen.kind) != "image":
                return None
            key = found.version, format, chosen
            if key not in self._encoded:
                shown = picture(found.array, chosen, LONGEST if format == "jpeg" else None)
                if len(self._encoded) >= 8:
                    self._encoded.clear()
                self._encoded[key] = encode(shown, format)
            return found, self._encoded[key]

    def _newest(self) -> Newest | None:
        self.asked = start = time.monotonic()
        monitor = self._watch.monitor(self.name)
        head = monitor.head if monitor is not None else None
        if monitor is None or not head:
            self._there = None
            return None
        inode = self._watch.inode(self.name)
        there = self._there
        if there is not None and there.version.startswith(f"{inode}-"):  # of the same topic
            if there.seq == head or start < self._rest_until:
                return there
        for _ in range(TRIES):
            try:
                message = monitor.peek(monitor.head or head, copy=True)
            except NotRetained:
                continue
            self._encoded.clear()
            meta = show.meta_of(message)
            self._there = Newest(
                f"{inode}-{message.seq}",
                message.seq,
                message.timestamp_ns,
                message.writer,
                message.array,
                {"meta": "damaged: no JSON object"} if meta is None else meta,
            )
            break
        self._rest_until = time.monotonic() + REST * (time.monotonic() - start)
        return self._there


class Sources:
    """A Source for each topic that somebody looks at."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: dict[str, Source] = {}

    def of(self, name: str) -> Source:
        with self._lock:
            source = self._sources.get(name)
            if source is None:
                source = self._sources[name] = Source(name)
            source.asked = time.monotonic()
            return source

    def forget(self) -> None:
        """Those that nobody has asked for lately."""
        limit = time.monotonic() - FORGET_AFTER
        with self._lock:
            old = [s for s in self._sources.values() if s.asked < limit]
            for source in old:
                del self._sources[source.name]
        for source in old:
            source.close()

    def close(self) -> None:
        with self._lock:
            old = list(self._sources.values())
            self._sources.clear()
        for source in old:
            source.close()
