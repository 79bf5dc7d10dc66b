"""``shmflow rm``: topics removed by name, or all that nobody uses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from shmflow.cli.names import TOPIC

if TYPE_CHECKING:
    from shmflow.cli.watch import Sample


def still_there(sample: Sample | None) -> str:
    """' (2 participants still attached: ...)', or ''."""
    count = len(sample.living) if sample is not None else 0
    if count == 0:
        return ""
    people = "1 participant is" if count == 1 else f"{count} participants are"
    return f"; {people} still attached: readers drain it and follow the next one of that name"


def idle_names(samples: Sequence[Sample]) -> list[str]:
    """Those nobody is attached to; what is broken is left to who names it."""
    for sample in samples:
        if sample.error:
            click.echo(f"left {sample.name}: {sample.error}", err=True)
    return [s.name for s in samples if not s.error and not s.living]


@click.command("rm")
@click.argument("topics", nargs=-1, type=TOPIC, metavar="[TOPIC]...")
@click.option("--idle", is_flag=True, help="All topics that no living process is attached to.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("-f", "--force", is_flag=True, help="No error for a topic that is not there.")
def command(topics: Sequence[str], idle: bool, dry_run: bool, force: bool) -> None:
    """Remove topics by name, or all that are idle.

    They may be in use. Who is attached to a topic that is removed keeps what it has: views stay
    valid, readers drain it and follow the next topic of that name. The memory goes with the last of
    them.

    \b
    Exit status: 0 removed, or with --idle nothing to remove;
    1 a topic is not there (but for -f) or may not be removed, the others are;
    2 the command line is wrong.
    """
    from shmflow import TopicNotFound, unlink
    from shmflow._admin import unlink_idle
    from shmflow._errors import Error
    from shmflow._names import names, nearest, path_of
    from shmflow.cli.watch import Watch

    if bool(topics) == idle:
        raise click.UsageError("name the topics to remove, or give --idle")
    asked = list(dict.fromkeys(topics)) if topics else None
    with Watch(asked) as watch:
        samples = {sample.name: sample for sample in watch.sample()}
    chosen = idle_names(list(samples.values())) if asked is None else asked
    word = "would remove" if dry_run else "removed"
    failed = False
    for name in chosen:
        try:
            if not dry_run:
                if idle and not unlink_idle(name):
                    continue  # somebody has come
                if not idle:
                    unlink(name)
            elif name not in names():
                text = f"there is no topic {name!r}{nearest(name)}"
                raise TopicNotFound(2, text, path_of(name))
        except TopicNotFound as error:
            if not force and not idle:
                failed = True
                click.echo(f"Error: {error.strerror}", err=True)
            continue
        except (Error, OSError) as error:
            failed = True
            click.echo(f"Error: {getattr(error, 'strerror', None) or error}", err=True)
            continue
        click.echo(f"{word} {name}{still_there(samples.get(name))}")
    if idle and not chosen:
        click.echo("nothing to remove: no topic is idle")
    if failed:
        sys.exit(1)
