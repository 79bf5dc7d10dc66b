"""The command line: ``shmflow COMMAND``.

Owns the group and the table of commands. A command is a module of this package with an attribute
``command``. It is imported only when it is asked for or listed in a help text, and imports nothing
heavy (NumPy, rich, OpenCV) before it runs. A new command is a new module and a line in the table.
"""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "demo": "shmflow.cli.demo",
}


class LazyGroup(click.Group):
    """A group that imports the module of a command when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shmflow", prog_name="shmflow")
def main() -> None:
    """Messages and NumPy arrays between processes of one machine, through shared memory."""
