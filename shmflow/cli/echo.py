"""``shmflow echo``: print messages as they come.

Owns the command and its loop over a monitor, which takes nothing from a topic. How a message is
written is in echo_forms.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from shmflow.cli import INTERRUPTED, show
from shmflow.cli.names import TOPIC

if TYPE_CHECKING:
    from shmflow._core import Message, Topic

FIELDS = ("seq", "timestamp", "dtype", "shape", "bytes", "meta", "lost", "writer", "array")
PATIENCE = 2.0  # seconds without a message, until it is said that there is none


@click.command("echo")
@click.argument("topic", type=TOPIC)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="Print N, then end.")
@click.option("--once", is_flag=True, help="One message: -n 1.")
@click.option("--no-arr", is_flag=True, help="Without the arrays.")
@click.option(
    "--field",
    "fields",
    type=click.Choice(FIELDS),
    multiple=True,
    help="Only this; may be given several times.",
)
@click.option(
    "--csv", "as_csv", is_flag=True, help="seq,timestamp in ns,value,value,… per message."
)
@click.option("--json", "as_json", is_flag=True, help="One object per message and line.")
@click.option("--from-oldest", is_flag=True, help="Begin with the oldest message that is retained.")
def command(
    topic: str,
    count: int | None,
    once: bool,
    no_arr: bool,
    fields: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
    from_oldest: bool,
) -> None:
    """Print messages of a topic: the newest, then each that comes.

    It looks on by a monitor: it consumes nothing, takes no place and makes nobody wait, so where it
    is slower than the writers it misses messages, and says how many. It waits for a topic that
    is not there yet, follows one that is made anew, and ends when the stream is shut down.

    Bytes are shown as text, or in hex if they are none. In --json, NaN and infinities are null, so
    is damaged meta, and complex numbers are pairs; stamps are in nanoseconds since 1970, there and
    in --csv.

    \b
    Exit status:
      0    as many as were asked for; or the stream has ended; or, without -n, Ctrl-C
      1    the topic cannot be read, and stderr says why
      2    the command line is wrong
      130  you pressed Ctrl-C before -n messages had come
    """
    if once and count not in (None, 1):
        raise click.UsageError("--once is -n 1; leave one of the two out")
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    if no_arr and "array" in fields:
        raise click.UsageError("--no-arr and --field array exclude each other")
    count = 1 if once else count
    from shmflow._core import Topic, _guard

    _guard()  # as in Watch
    emit = form(fields, no_arr, as_csv, as_json)
    # It says itself what it waits for.
    warnings.filterwarnings("ignore", "waiting for topic", RuntimeWarning)
    try:
        with Topic(topic, "monitor", start="oldest" if from_oldest else "latest") as monitor:
            for message in itertools.islice(messages(monitor), count):
                emit(message)
                sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED if count is not None else 0)


def messages(monitor: Topic) -> Iterator[Message]:
    """What comes, to the end of the stream; a long silence is explained on stderr, once."""
    from shmflow._errors import Closed, Empty
    from shmflow._names import nearest, path_of

    if told := not os.path.exists(path_of(monitor.name)):
        hint = nearest(monitor.name)
        click.echo(f"waiting for topic {monitor.name!r}, which is not there yet{hint}", err=True)
    while True:
        try:
            yield monitor.read_message(None if told else PATIENCE)
            told = True
        except Empty as silence:
            click.echo(f"waiting: {silence}", err=True)
            told = True
        except Closed:
            return


def form(
    fields: tuple[str, ...], no_arr: bool, as_csv: bool, as_json: bool
) -> Callable[[Message], None]:
    """The function that prints a message in the form that was asked for."""
    from shmflow.cli import echo_forms as forms

    if as_json:
        chosen = fields or tuple(f for f in FIELDS if not (no_arr and f == "array"))
        return lambda message: show.print_json(forms.as_json(message, chosen))
    if as_csv:
        chosen = fields or (("seq", "timestamp") if no_arr else ("seq", "timestamp", "array"))
        rows = csv.writer(sys.stdout, lineterminator="\n")

        def emit_row(message: Message) -> None:
            tell_lost(message)
            cells = forms.as_cells(message, chosen)
            # Programs get texts as they are, a terminal nothing that it would obey.
            is_seen = sys.stdout.isatty()
            rows.writerow([show.printable(c, "\n\t") for c in cells] if is_seen else cells)

        return emit_row
    if fields:

        def emit_fields(message: Message) -> None:
            tell_lost(message)
            click.echo("\t".join(forms.field_text(message, f) for f in fields))

        return emit_fields

    def emit(message: Message) -> None:
        click.echo(forms.header(message))
        if not no_arr:
            click.echo(forms.picture_of(message.array))

    return emit


def tell_lost(message: Message) -> None:
    """On stderr, where the form itself has no place for it."""
    if message.lost:
        click.echo(f"lost {message.lost:,} before #{message.seq}", err=True)
