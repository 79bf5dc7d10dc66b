"""``shmflow bench``: a minute that shows how quick messages are on this machine, now.

Owns the command, its progress and the picture. What is measured is in bench_works.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from shmflow.cli import show
from shmflow.cli.names import Finite

if TYPE_CHECKING:
    from shmflow.cli.bench_works import Figures

SHORTEST, LONGEST = 1e-7, 1e-2  # seconds: the ends of the bars
BAR_WIDTH = 20
EIGHTHS = " ▏▎▍▌▋▊▉"
HISTOGRAM_WIDTH = 12
START_UP = 0.5  # seconds that a work needs beside, for children to start
SHORTEST_WORK = 0.3  # seconds
FRAME_LEN = 720 * 1280 * 3
GOAL = 1.03  # of what watching costs


@click.command("bench")
@click.option(
    "--seconds",
    type=Finite(5, 3600),
    default=60.0,
    show_default=True,
    metavar="S",
    help="How long it takes.",
)
@click.option("--json", "as_json", is_flag=True, help="All figures as one object.")
def command(seconds: float, as_json: bool) -> None:
    """Measure how quick messages are on this machine, now, and draw it.

    64 B and 720p frames: in one process against plain copies, between two processes as a stream and
    one by one, and what a writer pays when ten topics are watched four times per second,
    as `top` does. The source tree has the whole comparison, with other libraries: make bench.

    \b
    Exit status:
      0    measured
      1    nothing could be measured, and stderr says why
      2    the command line is wrong
      130  you pressed Ctrl-C (143: SIGTERM)
    """
    from shmflow.cli.bench_works import WORKS, name_of
    from shmflow.cli.leaving import remove_all, sigterm_as_exit

    load = os.getloadavg()[0]
    total, failed = None, {}
    with sigterm_as_exit(), contextlib.ExitStack() as stack:
        stack.callback(remove_all, name_of(""))
        line = show.StatusLine()
        end = time.monotonic() + seconds
        shares = sum(share for share, _ in WORKS.values())
        for number, (name, (share, work)) in enumerate(WORKS.items(), 1):
            left_over = end - time.monotonic() - START_UP * (len(WORKS) - number + 1)
            lasts, shares = max(SHORTEST_WORK, left_over * share / shares), shares - share
            text = f"[{number}/{len(WORKS)}] {name}"
            if not line.shows:
                click.echo(f"{text}  {to_go(end)}", err=True)
            try:
                with ticking(line, text, end):
                    found = work(lasts)
            except (OSError, RuntimeError) as error:  # no space, mostly: the rest may do
                failed[name] = getattr(error, "strerror", None) or str(error)
                continue
            total = joined(total, found)
        line.clear()
    for name, why in failed.items():
        click.echo(f"not measured: {name}: {why}", err=True)
    if total is None:
        raise click.ClickException("nothing could be measured; shmflow doctor may say why")
    if as_json:
        show.print_json(as_object(total, failed, load))
    else:
        draw(total, load)


def to_go(end: float) -> str:
    return f"{max(0.0, end - time.monotonic()):.0f} s to go"


@contextlib.contextmanager
def ticking(line: show.StatusLine, text: str, end: float) -> Iterator[None]:
    """The status line lives while a work goes on; without a terminal there is none, and no thread
    either."""
    over = threading.Event()

    def tell() -> None:
        while not over.is_set():
            line.tell(f"{text}  {to_go(end)}  Ctrl-C ends it")
            over.wait(1.0)

    thread = threading.Thread(target=tell, daemon=True)
    if line.shows:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if line.shows:
            thread.join()


def joined(total: Figures | None, found: Figures) -> Figures:
    if total is None:
        return found
    total.seconds |= found.seconds
    total.latencies |= found.latencies
    total.ratios |= found.ratios
    return total


# ---- the picture ---------------------------------------------------------------------------------


def draw(figures: Figures, load: float) -> None:
    """A table with a bar per figure, and sentences."""
    bar_title = f"{period(SHORTEST)} … {period(LONGEST)}"
    columns = [
        show.Column("a message takes"),
        show.Column("", right=True),
        show.Column(bar_title),
        show.Column(""),
    ]
    show.print_table(columns, rows(figures))
    click.echo()
    click.echo("Ratios, taken in turns, with their middle half:")
    for name, ratios in figures.ratios.items():
        low, ratio, high = (percentile(ratios, percent) for percent in (25, 50, 75))
        goal = f"  goal: < {GOAL}" if "watched" in name else ""
        click.echo(f"{name}: {ratio:.3f}  ({low:.3f} to {high:.3f}){goal}")
    cpus = len(os.sched_getaffinity(0))
    click.echo(
        f"\nFigures of this machine, now: the load was {load:.1f} on {cpus} usable CPUs when it "
        "began.\nThe whole comparison, with other libraries: make bench in the source tree."
    )


def rows(figures: Figures) -> list[list[str]]:
    found = []
    for name, seconds in figures.seconds.items():
        found.append([name, period(seconds), bar(seconds), rate_text(name, seconds)])
        for other, values in figures.latencies.items():
            if name.split()[0] == other.split()[0] and "stream" in name:
                p50, p99 = percentile(values, 50), percentile(values, 99)
                text = f"median; p99 {period(p99)} {histogram(values)}"
                found.append([other, period(p50), bar(p50), text])
    return found


def rate_text(name: str, seconds: float) -> str:
    """What it comes to in a second."""
    if name.startswith("720p"):
        return f"{FRAME_LEN / seconds / 1e9:.1f} GB/s"
    return f"{show.rate(1 / seconds)} Hz"


def period(seconds: float) -> str:
    """'251 ns', '1.25 µs', '13 ms'."""
    for unit, short in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= short * 0.9995:
            value = seconds / short
            return f"{value:.{0 if value >= 9.95 else 1}f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def bar(seconds: float) -> str:
    """Its length is the logarithm of the time."""
    part = math.log(max(seconds, SHORTEST) / SHORTEST) / math.log(LONGEST / SHORTEST)
    eighths = max(1, min(8 * BAR_WIDTH, round(8 * BAR_WIDTH * part)))
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def percentile(values: list[float], percent: float) -> float:
    import numpy as np

    return float(np.percentile(values, percent))


def histogram(values: list[float]) -> str:
    """How often which latency came, from the quickest to three times the median."""
    import numpy as np

    low, high = min(values), 3 * percentile(values, 50)
    counts, _ = np.histogram(values, HISTOGRAM_WIDTH, (low, max(high, low * 1.01)))
    return show.sparkline([float(count) for count in counts], HISTOGRAM_WIDTH).rstrip()


# ---- for programs --------------------------------------------------------------------------------


def as_object(figures: Figures, failed: dict[str, str], load: float) -> dict[str, Any]:
    return {
        "ns_per_message": {name: round(s * 1e9, 1) for name, s in figures.seconds.items()},
        "latency_ns": {
            name: {
                "count": len(values),
                **{f"p{p:g}": round(percentile(values, p) * 1e9) for p in (0, 50, 90, 99, 100)},
            }
            for name, values in figures.latencies.items()
        },
        "ratios": {
            name: {f"p{p}": round(percentile(ratios, p), 4) for p in (25, 50, 75)}
            for name, ratios in figures.ratios.items()
        },
        "not_measured": failed,
        "load": round(load, 2),
        "cpus": len(os.sched_getaffinity(0)),
    }
