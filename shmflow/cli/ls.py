"""``shmflow ls``: what topics there are, one line each.

Owns the columns. Two samples a moment apart give the rates; `watch` takes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from shmflow.cli import show
from shmflow.cli.names import TOPIC, existing, no_topic
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow.cli.watch import Flow, Sample, Watch

MOMENT = 0.3  # s, between the two samples

COLUMNS = (
    Column("TOPIC"),
    Column("CAPACITY", True),
    Column("HEAD", True),
    Column("RETAINED", True),
    Column("RATE/s", True),
    Column("READERS", True),
    Column("WRITERS", True),
    Column("AGE", True),
    Column("STATE"),
)
MORE_COLUMNS = (
    Column("TOPIC"),
    Column("FILE", True),
    Column("ATTACHED", True),
    Column("HELD", True),
    Column("MADE"),
    Column("POLICY"),
    Column("PATH"),
)


def policy(layout: dict[str, Any]) -> list[str]:
    """What a topic was made with that is not the usual."""
    found = ["temporary"] if layout.get("temporary") else []
    return found if layout.get("allow_lossless", True) else [*found, "no lossless"]


def retained(now: Sample) -> str:
    """How many messages there are, and how many there may be, where somebody has said so."""
    return f"{now.retained} of {now.asked_depth}" if now.asked_depth else str(now.retained)


def cells(flow: Flow) -> list[str]:
    now = flow.now
    if now.error:
        return [now.name, "", "", "", "", "", "", "", now.state]
    return [
        now.name,
        show.size(now.capacity),
        str(now.head),
        retained(now),
        show.rate(flow.hz),
        str(now.readers),
        str(now.writers),
        "" if now.age is None else show.span(now.age),
        now.state,
    ]


def more_cells(now: Sample, more: dict[str, Any]) -> list[str]:
    layout = more["layout"]
    made = time.time() - layout["created_ns"] / 1e9 if layout else 0.0
    return [
        now.name,
        show.size(more["file_bytes"]),
        "" if now.error else str(len(now.living)),
        "" if now.error else show.size(now.held_bytes),
        f"{show.span(made)} ago" if layout else "",
        ", ".join(policy(layout)) or "-",
        more["path"],
    ]


def describe(flow: Flow, more: dict[str, Any]) -> dict[str, Any]:
    """For --json: everything, without the units that people like."""
    now, layout = flow.now, more["layout"]
    if now.error:
        facts = {"name": now.name, "state": now.state, "error": now.error}
        return facts | {"file_bytes": more["file_bytes"], "path": more["path"]}
    return {
        "name": now.name,
        "state": now.state,
        "error": "",
        "capacity": now.capacity,
        "depth": now.depth,
        "asked_depth": now.asked_depth,
        "head": now.head,
        "retained": now.retained,
        "rate": flow.hz,
        "bytes_per_s": flow.bytes_per_s,
        "readers": now.readers,
        "writers": now.writers,
        "participants": len(now.living),
        "dead": len(now.participants) - len(now.living),
        "lag": now.lag,
        "held_bytes": now.held_bytes,
        "age_s": now.age,
        "temporary": bool(layout.get("temporary")),
        "allow_lossless": bool(layout.get("allow_lossless", True)),
        "created_ns": layout.get("created_ns", 0),
        "file_bytes": more["file_bytes"],
        "path": more["path"],
    }


def facts_of(watch: Watch, now: Sample) -> dict[str, Any]:
    """What a sample does not tell: the file, and what is fixed at creation."""
    from shmflow._names import path_of

    path = path_of(now.name)
    monitor = None if now.error else watch.monitor(now.name)
    try:
        file_bytes = os.lstat(path).st_size
    except OSError:  # removed just now
        file_bytes = 0
    layout = (monitor._layout() if monitor is not None else None) or {}
    return {"layout": layout, "file_bytes": file_bytes, "path": path}


@click.command("ls")
@click.argument("topics", nargs=-1, type=TOPIC, metavar="[TOPIC]...")
@click.option("-v", "--verbose", is_flag=True, help="Also file, policy, what is held, the path.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list, with everything.")
def command(topics: Sequence[str], verbose: bool, as_json: bool) -> None:
    """List topics: all there are, or those named.

    RATE is taken from two looks 0.3 s apart; AGE is that of the newest message, by its time stamp.
    STATE is live (somebody is attached), idle (nobody is), dead (only processes that were killed;
    `shmflow clean` takes back what they left), ended (shut down), private (another user's) or
    broken: these two with the reason.

    \b
    Exit status: 0 listed, also when there is none;
    1 a topic that was named is not there.
    """
    from shmflow._names import names
    from shmflow.cli.watch import Watch

    if not topics and not names():
        if as_json:
            show.print_json([])
        text = no_topic()
        click.echo(text[0].upper() + text[1:], err=True)
        return
    with Watch(existing(topics) if topics else None) as watch:
        watch.flows()
        time.sleep(MOMENT)
        flows = watch.flows()
        more = [facts_of(watch, flow.now) for flow in flows]
    if as_json:
        show.print_json([describe(*pair) for pair in zip(flows, more, strict=True)])
        return
    styles = [show.STATE_STYLES[flow.now.state] for flow in flows]
    show.print_table(COLUMNS, [cells(flow) for flow in flows], styles)
    if verbose:
        click.echo()
        rows = [more_cells(flow.now, facts) for flow, facts in zip(flows, more, strict=True)]
        show.print_table(MORE_COLUMNS, rows, styles)
    for flow in flows:
        if flow.now.error:
            click.echo(f"{flow.now.name}: {flow.now.error}")
