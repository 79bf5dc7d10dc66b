"""What hz, bw and delay share: a report every second, of any number of topics.

Owns the options, the loop, and the window: stamps and sizes of the last messages of a topic, as the
tables of the ring tell of them. No message is read. Does not know what is reported.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from shmflow.cli import show
from shmflow.cli.leaving import sigterm_as_exit
from shmflow.cli.names import TOPIC, all_names, existing
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow._core import Topic
    from shmflow.cli.watch import Flow, Watch

EVERY = 1.0  # s, from report to report
MANY = 2000  # messages retained, from which on one look per report is enough
LIMIT = 1 << 17  # blocks told of at a look


class Window:
    """The last `size` messages of one topic that were seen: (number, stamp, bytes)."""

    def __init__(self, size: int) -> None:
        self.messages: deque[tuple[int, int, int]] = deque(maxlen=size)
        self.inode = 0

    def look(self, monitor: Topic, inode: int) -> None:
        """Adds what is retained and new."""
        if inode != self.inode:
            self.messages.clear()
            self.inode = inode
        known = self.messages[-1][0] if self.messages else 0
        if (monitor.head or 0) <= known:
            return
        told = monitor._blocks(LIMIT)
        # Below this, a block may have been told of while it got another message.
        sound = max(known + 1, monitor.tail or 1)
        blocks = told[3] if told is not None else []
        self.messages.extend(sorted((b[2], b[3], b[4]) for b in blocks if b[2] >= sound))

    def gaps(self) -> list[float]:
        """Seconds from stamp to stamp, of messages that follow each other."""
        pairs = itertools.pairwise(self.messages)
        return [(b[1] - a[1]) / 1e9 for a, b in pairs if b[0] == a[0] + 1]

    def sizes(self) -> list[int]:
        return [size for _, _, size in self.messages]


def summary(values: Sequence[float], names: Sequence[str]) -> dict[str, float | None]:
    """Of these: mean, min, max, std; None where there is nothing to tell of."""
    if not values:
        return dict.fromkeys(names)
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    told = {"mean": mean, "min": min(values), "max": max(values), "std": math.sqrt(variance)}
    return {name: told[name] for name in names}


def command_of(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command with the arguments that all three have."""

    def decorate(run: Callable[..., None]) -> click.Command:
        for option in (
            click.option(
                "--json", "as_json", is_flag=True, help="A JSON line per topic, in SI units."
            ),
            click.option(
                "-n",
                "--count",
                type=click.IntRange(min=1),
                help="End after this many reports.  [default: at Ctrl-C]",
            ),
            click.option(
                "-w",
                "--window",
                type=click.IntRange(2, LIMIT),
                default=1000,
                show_default=True,
                help="Messages looked back on.",
            ),
            click.argument("topics", nargs=-1, type=TOPIC, metavar="[TOPIC]..."),
        ):
            run = option(run)
        return click.command(name)(run)

    return decorate


class Meter:
    """What one of the commands measures; this one keeps windows, for hz and bw."""

    every = EVERY / 10  # s, between looks: what a shallow ring evicts meanwhile is seen as well

    def __init__(self, window: int) -> None:
        self.window = window
        self.windows: dict[str, Window] = {}

    def window_of(self, name: str) -> Window:
        return self.windows.setdefault(name, Window(self.window))

    def look(self, name: str, inode: int, monitor: Topic, last: bool) -> None:
        """Looks at one topic; `last`: a report follows."""
        if last or (monitor.depth or 0) < MANY:
            self.window_of(name).look(monitor, inode)

    def keep(self, names: Container[str]) -> None:
        """Forgets all other topics: a new one may get the name and the inode of one that went."""
        for name in [name for name in self.windows if name not in names]:
            del self.windows[name]

    def report(self, flow: Flow) -> dict[str, Any]:
        raise NotImplementedError

    def cells(self, facts: dict[str, Any]) -> list[str]:
        raise NotImplementedError


def flows_of(watch: Watch, meter: Meter, count: int | None) -> Iterator[list[Flow]]:
    """The flows of each report; between them, the meter looks at the topics."""
    watch.flows()
    now = time.monotonic()
    report, reported = now + EVERY, 0
    while count is None or reported < count:
        time.sleep(max(0.0, min(meter.every, report - now)))
        now = time.monotonic()
        for name, inode, monitor in watch.opened():
            meter.look(name, inode, monitor, now >= report)
        if now >= report:
            yield watch.flows()
            reported += 1
            report = max(report + EVERY, now)


def facts_of(flows: Sequence[Flow], asked: Sequence[str], meter: Meter) -> list[dict[str, Any]]:
    """A report, those that were asked for and are not there included."""
    there = {flow.now.name: flow for flow in flows}
    meter.keep(there)
    facts = []
    for name in sorted({*asked, *there}):
        now = there[name].now if name in there else None
        if now is None:
            facts.append({"name": name, "state": "gone", "error": "it was removed"})
        elif now.error:
            facts.append({"name": name, "state": now.state, "error": now.error})
        else:
            facts.append(meter.report(there[name]))
    return facts


def run(
    topics: Sequence[str],
    meter: Meter,
    columns: Sequence[Column],
    count: int | None,
    as_json: bool,
) -> None:
    """Reports until the count is reached, or Ctrl-C, which is how it is meant to end."""
    asked = existing(topics) if topics else []
    if not topics:
        all_names()
    quiet = contextlib.nullcontext(show.print_json)
    try:
        from shmflow.cli.watch import Watch

        with (
            sigterm_as_exit(),
            Watch(asked or None) as watch,
            quiet if as_json else show.live() as picture,
        ):
            for flows in flows_of(watch, meter, count):
                facts = facts_of(flows, asked, meter)
                if as_json:
                    for one in facts:
                        picture(one)
                else:
                    rows = [row_of(one, columns, meter) for one in facts]
                    picture(show.picture_of(columns, rows))
    except KeyboardInterrupt:
        pass


def row_of(facts: dict[str, Any], columns: Sequence[Column], meter: Meter) -> list[str]:
    if "error" not in facts:
        return meter.cells(facts)
    return [facts["name"], facts["state"], *[""] * (len(columns) - 2)]


def span(seconds: float | None) -> str:
    return "-" if seconds is None else show.span(seconds)
