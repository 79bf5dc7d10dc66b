"""``shmflow info``: one topic, and everybody in it.

Owns what is told and in which order; who is in whose way is put into words by blame.py.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any

import click

from shmflow.cli import show
from shmflow.cli.names import TOPIC, existing
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow._core import Participant, Topic
    from shmflow.cli.watch import Flow

MOMENT = 0.5  # s, between the two samples

COLUMNS = (
    Column("PID", True),
    Column("COMMAND"),
    Column("MODE"),
    Column("RATE/s", True),
    Column("LAG", True),
    Column("LOST", True),
    Column("SKIPPED", True),
    Column("HELD", True),
    Column("BLOCKS", True),
    Column("WAITS", True),
    Column("STATE"),
    Column("ATTACHED", True),
)


def file_facts(name: str) -> dict[str, Any]:
    from shmflow._names import path_of

    path = path_of(name)
    info = os.stat(path)
    return {
        "path": path,
        "owner": show.user_name(info.st_uid),
        "permissions": stat.filemode(info.st_mode)[1:],
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
    }


def newest_facts(monitor: Topic) -> dict[str, Any] | None:
    """Of the newest message, which a monitor copies to look at it; None if there is none."""
    from shmflow._errors import Closed

    try:
        message = monitor.read_message(0, latest=True, default=None)
    except Closed:  # it was shut down before there was one
        return None
    if message is None:
        return None
    array = message.array
    return {
        "seq": message.seq,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "bytes": array.nbytes,
        "timestamp_ns": message.timestamp_ns,
        "age_s": (time.time_ns() - message.timestamp_ns) / 1e9,
        "writer": message.writer,
        "meta": show.meta_of(message),
    }


def participant_facts(flow: Flow, p: Participant) -> dict[str, Any]:
    from shmflow.cli.blame import is_stopped

    facts = {name: getattr(p, name) for name in p.__match_args__}
    return facts | {
        "rate": flow.rate_of(p),
        "state": "dead" if not p.alive else "stopped" if is_stopped(p.pid) else "alive",
    }


def gather(name: str) -> dict[str, Any]:
    """Everything, as --json gives it."""
    from shmflow.cli.blame import sentences
    from shmflow.cli.watch import Watch

    with Watch([name]) as watch:
        watch.flows()
        monitor = watch.monitor(name)
        lock = monitor._lock_holder() if monitor is not None else None
        time.sleep(MOMENT)
        flow = next(iter(watch.flows()), None)
        if flow is not None and flow.now.error:
            raise click.ClickException(flow.now.error)
        monitor = watch.monitor(name)
        if flow is None or monitor is None:
            raise click.ClickException(f"topic {name!r} was removed just now")
        now = flow.now
        holder = monitor._lock_holder()
        return {
            "name": name,
            "state": now.state,
            **file_facts(name),
            "capacity": now.capacity,
            "depth": now.depth,
            "max_message": monitor.max_message,
            **(monitor._layout() or {}),
            "head": now.head,
            "tail": now.tail,
            "retained": now.retained,
            "rate": flow.hz,
            "bytes_per_s": flow.bytes_per_s,
            "held_bytes": now.held_bytes,
            "newest": newest_facts(monitor),
            "participants": [participant_facts(flow, p) for p in now.participants],
            "lock_holder": None if holder is None else {"pid": holder[0], "command": holder[1]},
            "blame": sentences(flow, lock, holder),
        }


def newest_text(newest: dict[str, Any] | None) -> str:
    if newest is None:
        return "none yet"
    shape = "×".join(map(str, newest["shape"])) or "()"
    text = f"{newest['seq']}: {newest['dtype']} {shape}, {show.size(newest['bytes'])}"
    text += f", {show.span(newest['age_s'])} ago by pid {newest['writer']}"
    if newest["meta"] is None:
        return f"{text}; its {show.DAMAGED_META}"
    return text + (f", meta: {show.printable(', '.join(newest['meta']))}" if newest["meta"] else "")


def ring_text(facts: dict[str, Any]) -> str:
    """What fits: as many as were asked for, or as the newest tells."""
    text = show.size(facts["capacity"])
    if facts["asked_depth"]:
        return f"{text} for at most {facts['asked_depth']} messages"
    if facts["newest"] is None:
        return f"{text} for as many messages as fit, at most {facts['depth']}"
    length = max(64, -(-facts["newest"]["bytes"] // 64) * 64)
    count = min(facts["depth"], facts["capacity"] // length)
    return f"{text} for as many messages as fit: {count} like the newest"


def lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands above the table."""
    made = time.time() - facts["created_ns"] / 1e9
    policy = ["temporary: goes with its last participant"] if facts["temporary"] else []
    policy += [] if facts["allow_lossless"] else ["no lossless readers"]
    mended = f", mended {facts['rebuilds']} times" if facts["rebuilds"] > 1 else ""
    return [
        ("state", f"{facts['state']}, made {show.span(made)} ago{mended}"),
        ("file", f"{facts['path']}, {facts['permissions']} {facts['owner']}"),
        ("size", f"{show.size(facts['file_len'])}, format {facts['format']}"),
        ("ring", ring_text(facts)),
        ("lane", show.size(facts["lane"])),
        (
            "messages",
            f"at most {show.size(facts['max_message'])} each; "
            f"from {show.size(facts['threshold'])} on they are read without a copy",
        ),
        ("policy", "; ".join(policy) or "stays until it is removed; lossless readers admitted"),
        ("retained", f"{facts['retained']} ({facts['tail']} to {facts['head']})")
        if facts["retained"]
        else ("retained", f"none of {facts['head']}"),
        ("newest", newest_text(facts["newest"])),
        ("flow", f"{show.rate(facts['rate'])} messages/s, {show.size(facts['bytes_per_s'])}/s"),
        ("held", f"{show.size(facts['held_bytes'])} by those who look at it"),
        (
            "attached",
            f"{sum(p['alive'] for p in facts['participants'])} of at most "
            f"{facts['max_participants']}",
        ),
    ]


def cells(p: dict[str, Any]) -> list[str]:
    mode = p["mode"] + (", lossless" if p["lossless"] else "")
    mode += f", group {p['group']}" if p["group"] else ""
    reads = "r" in p["mode"]
    return [
        str(p["pid"]),
        p["command"],
        mode,
        show.rate(p["rate"]),
        *(str(p[key]) if reads else "" for key in ("lag", "lost", "skipped")),
        show.size(p["held_bytes"]),
        str(p["held_blocks"]),
        str(p["writer_waits"]) if "w" in p["mode"] else "",
        p["state"],
        show.span(time.time() - p["attached_ns"] / 1e9),
    ]


@click.command("info")
@click.argument("topic", type=TOPIC)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with everything.")
def command(topic: str, as_json: bool) -> None:
    """Tell all of one topic, and who blocks whom.

    Its layout and policy, its newest message, everybody in it, the living and the dead. Rates are
    taken from two looks 0.5 s apart. LAG counts messages that a reader has yet to read; HELD is
    what it looks at in the ring, WAITS how often a writer had to wait for room. Under the table
    stands in words who is in whose way. The newest message is copied to be described; it is not
    consumed.

    \b
    Exit status: 0 told; 1 the topic is not there or cannot be used.
    """
    (name,) = existing([topic])
    facts = gather(name)
    if as_json:
        show.print_json(facts)
        return
    click.echo(click.style(name, bold=True))
    for key, text in lines(facts):
        click.echo(f"  {key:<9} {text}")
    people = facts["participants"]
    if people:
        click.echo()
        styles = {"dead": "yellow", "stopped": "red", "alive": None}
        show.print_table(COLUMNS, [cells(p) for p in people], [styles[p["state"]] for p in people])
    click.echo()
    for sentence in facts["blame"] or ["Nobody is in anybody's way."]:
        click.echo(sentence)
