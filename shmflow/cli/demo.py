"""``shmflow demo``: the command, its options, and what is refused before any process starts.

Owns the command line only. The run itself is in ``demo_run``, imported when the command line is in
order, so that ``--help`` is quick.
"""

from __future__ import annotations

import re
import sys

import click

from shmflow.cli.names import Finite

SMALLEST, LARGEST = 32, 16384


def parse_size(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """``1280x720`` as (width, height)."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size; write it as 1280x720", ctx, param)
    width, height = int(match[1]), int(match[2])
    if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
        text = f"{value} is out of range: {SMALLEST} to {LARGEST} each way"
        raise click.BadParameter(text, ctx, param)
    return width, height


@click.command("demo")
@click.option(
    "--seconds",
    type=Finite(0, 1e6, min_open=True),
    default=10.0,
    show_default=True,
    help="How long the frames flow.",
)
@click.option(
    "--readers",
    type=click.IntRange(1, 32),
    default=3,
    show_default=True,
    help="1 keeps up, 2 hoards, 3 is killed again and again; further ones keep up.",
)
@click.option(
    "--size",
    callback=parse_size,
    metavar="WxH",
    help="Size of the test pattern, or the size asked of the camera.  [default: 1280x720]",
)
@click.option(
    "--fps",
    type=Finite(min=0.1, max=10000),
    help="Frames per second.  [default: 30, or the clip's own]",
)
@click.option(
    "--video",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Play this clip, again and again, instead of the test pattern (needs OpenCV).",
)
@click.option(
    "--camera",
    type=click.IntRange(min=0),
    metavar="N",
    help="Show camera N instead of the test pattern (needs OpenCV).",
)
def command(
    seconds: float,
    readers: int,
    size: tuple[int, int] | None,
    fps: float | None,
    video: str | None,
    camera: int | None,
) -> None:
    """Watch video flow between real processes through shared memory.

    One process draws frames straight into the ring, the others read them without a copy. Reader 1
    keeps up, reader 2 is slow and holds dozens of frames until the end, reader 3 is killed with
    SIGKILL and started again every two seconds. Every frame carries a checksum.

    \b
    Exit status:
      0    every frame that was read was right, no writer waited for a reader,
           all processes ended by themselves, and nothing is left in /dev/shm
      1    one of these is not so (the summary says which), or it could not start
      2    the command line is wrong
      130  you pressed Ctrl-C (129, 143: hang-up, SIGTERM) and all was well until then
    """
    if video is not None and camera is not None:
        raise click.UsageError("--video and --camera exclude each other")
    if video is not None and size is not None:
        raise click.UsageError("a clip has its own size; --size goes with the pattern or a camera")

    from shmflow.cli.demo_run import DemoError, run
    from shmflow.cli.frames import Source, SourceError, need_opencv

    source = Source(size or (1280, 720) if video is None else None, fps, video, camera)
    try:
        if video is not None or camera is not None:
            need_opencv("--camera" if video is None else "--video")
        status = run(source, seconds=seconds, readers=readers)
    except (DemoError, SourceError) as error:
        raise click.ClickException(str(error)) from None
    sys.exit(status)
