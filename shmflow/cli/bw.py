"""``shmflow bw``: how many bytes flow, and in messages of what size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shmflow.cli import show
from shmflow.cli.meter import Meter, command_of, run, summary
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow.cli.watch import Flow

COLUMNS = (
    Column("TOPIC"),
    Column("BYTES/s", True),
    Column("RATE/s", True),
    Column("SIZE MEAN", True),
    Column("MIN", True),
    Column("MAX", True),
    Column("WINDOW", True),
)


class Bandwidth(Meter):
    def report(self, flow: Flow) -> dict[str, Any]:
        sizes = self.window_of(flow.now.name).sizes()
        told = summary(sizes, ("mean", "min", "max"))
        return {
            "name": flow.now.name,
            "bytes_per_s": flow.bytes_per_s,
            "rate": flow.hz,
            **{f"size_{name}": value for name, value in told.items()},
            "window": len(sizes),
        }

    def cells(self, facts: dict[str, Any]) -> list[str]:
        sizes = [facts[f"size_{name}"] for name in ("mean", "min", "max")]
        return [
            facts["name"],
            show.size(facts["bytes_per_s"]),
            show.rate(facts["rate"]),
            *("-" if size is None else show.size(size) for size in sizes),
            str(facts["window"]),
        ]


@command_of("bw")
def command(topics: Sequence[str], window: int, count: int | None, as_json: bool) -> None:
    """How many bytes flow, in messages of what size.

    One line per second and topic, of the topics named or of all. BYTES counts what was written in
    the last second, by the writers' counters. The sizes are those of the last messages, as many as
    -w says, also from before the start: of their data, without what the ring adds. No message is
    read.

    \b
    Exit status: 0 ended by -n or by Ctrl-C; 1 a topic is not there.
    """
    run(topics, Bandwidth(window), COLUMNS, count, as_json)
