"""``shmflow view``: topics in windows, or in a browser.

Owns the command line, and the choice between windows (windows.py) and the page (web/).
"""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from shmflow.cli.names import TOPIC, Finite, existing


def no_windows() -> str:
    """Why there can be no window; '' if there can."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no desktop here (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    if importlib.util.find_spec("cv2") is None:
        return "OpenCV is not here"
    from shmflow.cli.windows import has_windows

    return "" if has_windows() else "this OpenCV was built without windows"


def check_web() -> None:
    """What the page needs is installed; else an error with the line that installs it."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if not any(importlib.util.find_spec(name) for name in ("cv2", "PIL")):
        missing.append("Pillow (or OpenCV)")
    if missing:
        raise click.ClickException(
            f"the page needs {', '.join(missing)}; install it with\n"
            f"    {sys.executable} -m pip install 'shmflow[web]'"
        )


@click.command("view")
@click.argument("topics", nargs=-1, type=TOPIC, metavar="[TOPIC]...")
@click.option("--web", is_flag=True, help="A page for the browser, also where windows could be.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of the page; 0: any that is free.  [default: 8407, or a free one if that is taken]",
)
@click.option("--host", help="Address the page is reached at.  [default: 127.0.0.1]")
@click.option("--no-open", is_flag=True, help="Print the page's address, open no browser.")
@click.option(
    "--fps",
    type=Finite(0.1, 120),
    default=15.0,
    show_default=True,
    help="Pictures per second of each topic, at most.",
)
def command(
    topics: tuple[str, ...],
    web: bool,
    port: int | None,
    host: str | None,
    no_open: bool,
    fps: float,
) -> None:
    """See what flows: all topics, or those with these names, live.

    In windows, where OpenCV has them and there is a desktop (s saves a frame, q or Esc ends it).
    Else, or with --web, in the browser: pictures and plots, rates, the ring block by block, and
    who holds it, lags or is waited for. The page is for this machine only, and for those who have
    its address, which holds a random token. Topics are read as a monitor: nobody is slowed.

    \b
    Exit status: 0 ended by Ctrl-C, or all windows closed; 1 it could not start, and stderr says
    why; 2 the command line is wrong.
    """
    names = existing(topics) if topics else None
    if not (web or port is not None or host is not None or no_open):
        if not (why := no_windows()):
            from shmflow.cli.windows import show

            show(names if names is not None else existing(()), fps)
            return
        click.echo(f"No windows, since {why}: here is the page.", err=True)
    check_web()
    from shmflow.cli.web.serve import run

    run(names, host or "127.0.0.1", port, fps, not no_open)
