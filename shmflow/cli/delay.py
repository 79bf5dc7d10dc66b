"""``shmflow delay``: how old a message is when it appears, and how far behind its readers are."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from shmflow.cli.meter import Meter, command_of, run, span, summary
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow._core import Topic
    from shmflow.cli.watch import Flow

COLUMNS = (
    Column("TOPIC"),
    Column("DELAY MEAN", True),
    Column("MIN", True),
    Column("MAX", True),
    Column("WINDOW", True),
    Column("BEHIND", True),
    Column("READER"),
)


class Delay(Meter):
    every = 0.001

    def __init__(self, window: int) -> None:
        from shmflow.cli.watch import Arrivals

        super().__init__(window)
        self.arrivals = Arrivals()
        self.delays: dict[str, tuple[int, deque[float]]] = {}  # the topic's inode, seconds

    def look(self, name: str, inode: int, monitor: Topic, last: bool) -> None:
        delay = self.arrivals.look(name, inode, monitor)
        if name not in self.delays or self.delays[name][0] != inode:
            self.delays[name] = inode, deque(maxlen=self.window)
        if delay is not None:
            self.delays[name][1].append(delay)

    def keep(self, names: Container[str]) -> None:
        for name in [name for name in self.delays if name not in names]:
            del self.delays[name]
            self.arrivals.forget(name)

    def report(self, flow: Flow) -> dict[str, Any]:
        _, delays = self.delays.get(flow.now.name, (0, ()))
        told = summary(list(delays), ("mean", "min", "max"))
        readers = [
            {
                "pid": p.pid,
                "command": p.command,
                "lag": p.lag,
                "behind_s": p.lag / flow.hz if flow.hz else None,
            }
            for p in sorted(flow.now.living, key=lambda p: -p.lag)
            if "r" in p.mode
        ]
        return {
            "name": flow.now.name,
            **{f"delay_{name}_s": value for name, value in told.items()},
            "window": len(delays),
            "readers": readers,
        }

    def cells(self, facts: dict[str, Any]) -> list[str]:
        worst = next(iter(facts["readers"]), None)
        behind, who = "-", "-"
        if worst is not None:
            who = f"{worst['pid']} ({worst['command']})"
            behind = f"{worst['lag']}"
            if worst["lag"] and worst["behind_s"] is not None:
                behind += f" = {span(worst['behind_s'])}"
        delays = [span(facts[f"delay_{name}_s"]) for name in ("mean", "min", "max")]
        return [facts["name"], *delays, str(facts["window"]), behind, who]


@command_of("delay")
def command(topics: Sequence[str], window: int, count: int | None, as_json: bool) -> None:
    """How old messages are when they appear.

    One line per second and topic, of the topics named or of all. DELAY is the time from a message's
    stamp until this command saw it: it looks every millisecond, so about so much may be its own; of
    messages that come closer together it sees the last. The stamp is that of the publication, or
    what the writer gave as timestamp_ns, such as the moment of exposure. BEHIND tells of the reader
    that is furthest behind: how many messages, and how long these took to come. No message is read.

    \b
    Exit status: 0 ended by -n or by Ctrl-C; 1 a topic is not there.
    """
    run(topics, Delay(window), COLUMNS, count, as_json)
