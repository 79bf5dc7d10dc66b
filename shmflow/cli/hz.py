"""``shmflow hz``: how often messages come, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shmflow.cli import show
from shmflow.cli.meter import Meter, command_of, run, span, summary
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow.cli.watch import Flow

COLUMNS = (
    Column("TOPIC"),
    Column("RATE/s", True),
    Column("GAP MEAN", True),
    Column("MIN", True),
    Column("MAX", True),
    Column("STD", True),
    Column("WINDOW", True),
)


class Rate(Meter):
    def report(self, flow: Flow) -> dict[str, Any]:
        gaps = self.window_of(flow.now.name).gaps()
        told = summary(gaps, ("mean", "min", "max", "std"))
        return {
            "name": flow.now.name,
            "rate": flow.hz,
            "head": flow.now.head,
            **{f"gap_{name}_s": value for name, value in told.items()},
            "window": len(gaps) + 1 if gaps else 0,
        }

    def cells(self, facts: dict[str, Any]) -> list[str]:
        gaps = [span(facts[f"gap_{name}_s"]) for name in ("mean", "min", "max", "std")]
        return [facts["name"], show.rate(facts["rate"]), *gaps, str(facts["window"])]


@command_of("hz")
def command(topics: Sequence[str], window: int, count: int | None, as_json: bool) -> None:
    """How often messages come, and how evenly.

    One line per second and topic, of the topics named or of all. RATE counts all messages of the
    last second, by their numbers. The gaps are those between the time stamps of the last messages,
    as many as -w says, also from before the start; a stamp is when the message was published, or
    what its writer gave as timestamp_ns. No message is read.

    \b
    Exit status: 0 ended by -n or by Ctrl-C; 1 a topic is not there.
    """
    run(topics, Rate(window), COLUMNS, count, as_json)
