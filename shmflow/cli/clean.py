"""``shmflow clean``: what dead processes left is taken back, and told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shmflow.cli import show

if TYPE_CHECKING:
    from shmflow._admin import Cleaned


def text_of(cleaned: Cleaned, dry_run: bool) -> str:
    what = []
    if cleaned.participants:
        what.append(f"{show.counted(cleaned.participants, 'place')} of dead processes")
    if cleaned.removed:
        what.append("the temporary topic itself" if cleaned.name else "an unfinished file")
    word = "would take back" if dry_run else "took back"
    return f"{cleaned.name or show.printable(cleaned.path)}: {word} {' and '.join(what)}"


@click.command("clean")
@click.option("--dry-run", is_flag=True, help="Only say what would be taken back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def command(dry_run: bool, as_json: bool) -> None:
    """Take back what dead processes left.

    In all topics that you may write, that is: their places and what they held, temporary topics
    that nobody is attached to any more, files of topics that were never finished. The living are
    not touched, and topics that somebody may still want stay: `shmflow rm --idle` removes those.

    \b
    Exit status: 0 done, also when there was nothing to do.
    """
    from shmflow._admin import clean_each

    found = clean_each(dry_run)
    if as_json:
        show.print_json(
            [
                {
                    "name": one.name,
                    "path": one.path,
                    "participants": one.participants,
                    "removed": one.removed,
                }
                for one in found
            ]
        )
        return
    for one in found:
        click.echo(text_of(one, dry_run))
    if not found:
        click.echo("nothing to take back: no dead process has left anything")
