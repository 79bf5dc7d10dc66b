"""``shmflow pub``: send files, a test pattern, a camera or standard input to a topic.

Owns the options and what is refused before anything is opened. What is sent comes from pub_sources,
the sending itself is in pub_run; both are imported when the command line is in order.
"""

from __future__ import annotations

import re
import sys
from io import BufferedReader
from typing import Any, cast

import click

from shmflow.cli.demo import parse_size
from shmflow.cli.names import TOPIC, Finite


def parse_shape(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """``720x1280x3`` or ``720,1280,3``, as NumPy orders it."""
    if value is None:
        return None
    parts = re.split(r"[x,]", value.strip("()").lower().replace(" ", "").removesuffix(","))
    if not all(re.fullmatch(r"[1-9]\d{0,9}", part) for part in parts):
        raise click.BadParameter(f"{value!r} is not a shape; write it as 720x1280x3", ctx, param)
    return tuple(int(part) for part in parts)


def parse_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    from shmflow._names import parse_size

    try:
        return parse_size(value, "capacity")
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command("pub")
@click.argument("topic", type=TOPIC)
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False), metavar="[FILE]…")
@click.option("--camera", type=click.IntRange(min=0), metavar="N", help="Camera N (needs OpenCV).")
@click.option("--test-pattern", is_flag=True, help="Colour bars with a moving number, BGR.")
@click.option(
    "--stdin",
    "from_stdin",
    is_flag=True,
    help="Lines of text; with --shape, raw arrays one after the other.",
)
@click.option("--shape", callback=parse_shape, metavar="HxWxC", help="Of raw arrays on stdin.")
@click.option("--dtype", metavar="DTYPE", help="Of raw arrays on stdin.  [default: uint8]")
@click.option(
    "-r",
    "--rate",
    type=Finite(1e-4, 1e6),
    metavar="HZ",
    help="Messages per second.  [default: a clip's own, a camera's own, 30 for the pattern, 1 for "
    "other files, stdin as it comes]",
)
@click.option("--loop", is_flag=True, help="The files again and again.")
@click.option("--size", callback=parse_size, metavar="WxH", help="Of pictures and frames.")
@click.option(
    "-w",
    "--wait",
    "readers",
    type=click.IntRange(1, 1024),
    metavar="READERS",
    help="Begin when so many readers are there.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="Send N messages.")
@click.option(
    "--capacity",
    callback=parse_bytes,
    metavar="SIZE",
    help="Of the topic, as '64 MiB'.  [default: 16 of the first message]",
)
@click.option("--depth", type=click.IntRange(min=1), metavar="N", help="Messages retained at most.")
@click.option("--keep", is_flag=True, help="Do not end the stream: leave the topic as it is.")
def command(
    topic: str,
    files: tuple[str, ...],
    camera: int | None,
    test_pattern: bool,
    from_stdin: bool,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    rate: float | None,
    loop: bool,
    size: tuple[int, int] | None,
    readers: int | None,
    count: int | None,
    capacity: int | None,
    depth: int | None,
    keep: bool,
) -> None:
    """Send files, a test pattern, a camera or standard input to a topic.

    FILE: pictures (OpenCV or Pillow), clips (OpenCV), .npy, .npz (each array a message); several
    in turn. Pictures are BGR, as OpenCV has them. Frames of clips, cameras, the pattern and raw
    arrays are made in the ring itself, without a copy:

    \b
        ffmpeg -i in.mp4 -f rawvideo -pix_fmt bgr24 - |
            shmflow pub cam --stdin --shape 720x1280x3

    At the end of the input the stream is shut down: readers drain it and their loops end. The topic
    stays for late readers until `shmflow rm`, or the next writer, which starts afresh. Ctrl-C ends
    the stream too, and removes the topic if this command made it. With --keep, or while
    other writers are there, the stream goes on and the topic stays.

    \b
    Exit status:
      0    the input was sent, or Ctrl-C ended what has no end (a camera, the pattern, --loop)
      1    it could not be sent, and stderr says why
      2    the command line is wrong
      130  you pressed Ctrl-C before the end (143: SIGTERM, 129: a hang-up)
    """
    sources = bool(files) + (camera is not None) + test_pattern + from_stdin
    if sources != 1:
        raise click.UsageError(
            "say one thing to send: FILE…, --test-pattern, --camera N or --stdin"
            + ("; not several" if sources else "")
        )
    if (shape or dtype) and not from_stdin:
        raise click.UsageError("--shape and --dtype are of raw arrays on --stdin")
    if dtype and not shape:
        raise click.UsageError("--dtype needs --shape: how much of stdin is one message")
    if loop and not files:
        raise click.UsageError("--loop goes with files")
    if size and from_stdin:
        raise click.UsageError("--size goes with pictures and frames; of stdin say --shape")

    from shmflow.cli import pub_sources
    from shmflow.cli.frames import Source, SourceError, need_opencv
    from shmflow.cli.pub_run import run

    try:
        if files:
            stream = pub_sources.files(files, rate, loop, size)
        elif shape is not None:
            raw = cast(BufferedReader, sys.stdin.buffer)
            stream = pub_sources.raw(raw, item_type(dtype), shape, rate)
        elif from_stdin:
            stream = pub_sources.lines(sys.stdin.buffer, rate)
        elif camera is not None:
            need_opencv("--camera")
            stream = pub_sources.painted(Source(size, rate, camera=camera))
        else:
            stream = pub_sources.painted(Source(size or (1280, 720), rate))
        status = run(
            topic, stream, readers=readers, count=count, capacity=capacity, depth=depth, keep=keep
        )
    except SourceError as error:
        raise click.ClickException(str(error)) from None
    sys.exit(status)


def item_type(dtype: str | None) -> Any:
    """The NumPy dtype of raw arrays."""
    import numpy as np

    try:
        kind = np.dtype(dtype or "uint8")
    except (TypeError, ValueError, SyntaxError):
        raise click.BadParameter(f"NumPy knows no dtype {dtype!r}", param_hint="--dtype") from None
    if kind.hasobject or kind.itemsize == 0:
        raise click.BadParameter(f"{dtype!r} cannot be read from stdin", param_hint="--dtype")
    if kind.subdtype is not None:
        text = f"{dtype!r} has dimensions of its own: put them into --shape"
        raise click.BadParameter(text, param_hint="--dtype")
    return kind
