"""The sending of ``shmflow pub``: opens the topic, waits for readers, keeps the pace, ends it well.

Owns the topic from its opening to what becomes of it, the line that tells how it goes, and the
summary. What is sent is somebody else's (pub_sources).
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

import click

import shmflow
from shmflow import _core
from shmflow._names import path_of
from shmflow.cli import INTERRUPTED, show
from shmflow.cli.frames import SourceError, wait_until
from shmflow.cli.leaving import sigterm_as_exit
from shmflow.cli.pub_sources import Piece, Stream
from shmflow.cli.show import StatusLine

RING = 16  # messages, as Topic chooses by itself
LEAST = 1 << 20  # bytes
LOOK = 0.05  # seconds between two looks for readers


class Sender:
    """What was sent so far to an open topic."""

    def __init__(self, topic: shmflow.Topic) -> None:
        self.topic = topic
        self.messages = 0
        self.bytes = 0
        self.began = time.monotonic()
        self.first = self.last = 0.0

    def send(self, piece: Piece) -> bool:
        """False when there was nothing to fill the message with: a clip was over."""
        if piece.fill is None:
            try:
                self.topic.write(piece.data, meta=piece.meta)
            except (TypeError, ValueError) as error:
                if isinstance(error, shmflow.Error):
                    raise
                raise SourceError(f"it cannot travel: {error}") from None
        else:
            loan = self.topic.loan(piece.shape, piece.dtype, meta=piece.meta)
            try:
                if not piece.fill(loan.array):
                    loan.discard()
                    return False
                loan.publish()
            except BaseException:
                loan.discard()
                raise
        self.messages += 1
        self.bytes += piece.nbytes
        self.last = time.monotonic()
        self.first = self.first or self.last
        return True

    @property
    def hz(self) -> float:
        """Of the gaps between the first message and the last."""
        return (self.messages - 1) / max(self.last - self.first, 1e-9) if self.messages > 1 else 0.0

    def text(self) -> str:
        return (
            f"{show.counted(self.messages, 'message')}  {show.rate(self.hz)} Hz  "
            f"{show.size(self.hz * self.bytes / max(self.messages, 1))}/s  "
            f"{show.counted(self.topic.readers, 'reader')}"
        )


def open_topic(
    name: str, piece: Piece, capacity: int | None, depth: int | None
) -> tuple[shmflow.Topic, bool]:
    """The topic to write to, and whether it was made here. Who is attached to it keeps it as it
    is, unless a size was asked for; one that lies idle is made to fit."""
    live, before = is_live(name), _core._identity(path_of(name))
    if capacity is None and not live:
        capacity = max(RING * piece.nbytes, LEAST)
        if capacity >= 2**46:
            raise SourceError(
                f"a message of {show.size(piece.nbytes)}: a topic has 64 TiB at most, and room for "
                f"{RING} of the first message unless --capacity says otherwise"
            )
    try:
        topic = shmflow.Topic(name, "w", capacity=capacity, depth=depth)
    except KeyboardInterrupt:
        if _core._identity(path_of(name)) not in (b"", before):  # made just now
            shmflow.unlink(name)
        raise
    return topic, _core._identity(path_of(name)) != before


def is_live(name: str) -> bool:
    """Is there a topic that flows, with somebody attached?"""
    try:
        with shmflow.Topic(name, "monitor", create=False) as monitor:
            return not monitor.ended and any(p.alive for p in monitor.participants())
    except (shmflow.Error, OSError):  # not there, or not usable: opening it will say what it is
        return False


def await_readers(topic: shmflow.Topic, wanted: int, line: StatusLine) -> None:
    """Come back when so many readers are attached; tells how many have come."""
    there = -1
    while topic.readers < wanted:
        if topic.readers != there:
            there = topic.readers
            text = f"{topic.name}: {there} of {show.counted(wanted, 'reader')}"
            if line.shows:
                line.tell(f"{text}  Ctrl-C ends it")
            else:
                click.echo(f"{text}, waiting", err=True)
        time.sleep(LOOK)
    line.clear()


def flow(
    sender: Sender, pieces: Iterator[Piece], rate: float | None, count: int | None, line: StatusLine
) -> None:
    """Send all of it, or so many messages, at its pace."""
    due = time.monotonic()
    for piece in pieces:
        due = wait_until(due, rate)
        if not sender.send(piece):
            due = time.monotonic()
            continue
        if sender.messages == count:
            return
        if line.is_due():
            line.tell(f"{sender.text()}  Ctrl-C ends it")


def end(topic: shmflow.Topic, made: bool, keep: bool, interrupted: bool) -> str:
    """Shut the stream down if that is ours to do; what became of the topic, in words."""
    if topic.ended:
        return "the topic was shut down by somebody else"
    others = sum("w" in p.mode and p.alive for p in topic.participants()) - 1
    if keep:
        return "the topic stays, open for other writers"
    if others > 0:
        return f"the topic goes on: {others} other writer{'s are' if others > 1 else ' is'} there"
    topic.shutdown()
    if interrupted and made:
        topic.unlink()
        return "the stream is ended, the topic removed"
    return f"the stream is ended; the topic stays until: shmflow rm {topic.name}"


def run(
    name: str,
    stream: Stream,
    *,
    readers: int | None,
    count: int | None,
    capacity: int | None,
    depth: int | None,
    keep: bool,
) -> int:
    """Send it all; the exit status. Raises SourceError, and shmflow's own."""
    first = next(stream.pieces, None)
    if first is None:
        raise SourceError(f"{stream.title}: there is nothing in it to send")
    topic, made = open_topic(name, first, capacity, depth)
    line = StatusLine()
    sender = Sender(topic)
    leaving: BaseException | None = None
    with contextlib.ExitStack() as stack:
        stack.callback(topic.close)
        stack.enter_context(sigterm_as_exit())
        try:
            if readers:
                await_readers(topic, readers, line)
            sender.began = time.monotonic()
            flow(sender, itertools.chain([first], stream.pieces), stream.rate, count, line)
        except shmflow.Closed:
            if not topic.ended:
                raise
        except (KeyboardInterrupt, SystemExit) as error:
            leaving = error
        except BaseException:  # the readers' loops are to end all the same
            line.clear()
            end(topic, made, keep, interrupted=False)
            raise
        seconds = time.monotonic() - sender.began
        line.clear()
        reading = topic.readers
        outcome = end(topic, made, keep, leaving is not None)
    pace = f", {show.rate(sender.hz)} Hz" if sender.messages > 1 else ""
    click.echo(
        f"{show.counted(sender.messages, 'message')} ({show.size(sender.bytes)}) from "
        f"{stream.title} to {name!r} in {show.span(seconds)}{pace}; "
        f"{show.counted(reading, 'reader')}; {outcome}",
        err=True,
    )
    if isinstance(leaving, SystemExit):
        raise leaving
    return INTERRUPTED if leaving is not None and not (stream.endless and count is None) else 0
