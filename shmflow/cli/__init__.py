"""The command line: ``shmflow COMMAND``.

Owns the group, the table of commands, and what becomes of an error that no command has caught. A
command is a module of this package with an attribute ``command``. It is imported only when it is
asked for or listed in a help text, and imports nothing heavy (NumPy, rich, OpenCV) before it runs.
A new command is a new module and a line in the table.

What commands share: names.py (topic names as arguments), watch.py (what flows, from counters),
show.py (tables, JSON, live pictures).
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from typing import Any

import click

COMMANDS = {
    "ls": "shmflow.cli.ls",
    "info": "shmflow.cli.info",
    "hz": "shmflow.cli.hz",
    "bw": "shmflow.cli.bw",
    "delay": "shmflow.cli.delay",
    "top": "shmflow.cli.top",
    "rm": "shmflow.cli.rm",
    "clean": "shmflow.cli.clean",
    "echo": "shmflow.cli.echo",
    "pub": "shmflow.cli.pub",
    "doctor": "shmflow.cli.doctor",
    "bench": "shmflow.cli.bench",
    "view": "shmflow.cli.view",
    "demo": "shmflow.cli.demo",
}

INTERRUPTED = 130  # as a shell tells of a process that SIGINT ended


def open_streams() -> None:
    """Standard streams that were closed lead nowhere, and none fails at a letter that its encoding
    does not have."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # to the end
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in (
        "strict",
        "surrogateescape",
    ):
        sys.stdout.reconfigure(errors="backslashreplace")


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is wanted."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_streams()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "shmflow --help lists them"
            ctx.fail(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # | head: click ends quietly, with 1
            raise
        except OSError as error:  # shmflow's own, and the kernel's: their texts say what to do
            raise click.ClickException(error.strerror or str(error)) from None
        except Exception as error:
            from shmflow._errors import Error

            if not isinstance(error, Error):
                raise
            raise click.ClickException(str(error)) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shmflow", prog_name="shmflow")
def main() -> None:
    """Messages and NumPy arrays between processes of one machine, through shared memory.

    What watches (ls, info, hz, bw, delay, top, view) reads counters and headers only: it takes no
    place in a topic, consumes no message and makes nobody wait.

    \b
    Exit status: 0 done; 1 it could not be done, and stderr says why;
    2 the command line is wrong; 130 ended by Ctrl-C.
    """
