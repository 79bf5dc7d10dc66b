"""Topic names on the command line: completed, checked, and found or regretted with a hint.

Owns the parameter type and the two things every command does with names: take those that were
given, or all there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

FIRST_TOPIC = """there is no topic at all. To make one:
    shmflow pub cam --test-pattern
or, in Python:
    shmflow.Topic("cam").write(frame)"""


def no_topic() -> str:
    """Why the list is empty, and what to do."""
    from shmflow._names import no_folder

    return no_folder() or FIRST_TOPIC


if TYPE_CHECKING:
    ParamType = click.ParamType[str]  # generic in the newest click only
else:
    ParamType = click.ParamType


class TopicName(ParamType):
    """A name that a topic can have; the shell completes those that live."""

    name = "topic"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from shmflow._names import check_name

        try:
            check_name(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from shmflow._names import names

        return [CompletionItem(name) for name in names() if name.startswith(incomplete)]


TOPIC = TopicName()


class Finite(click.FloatRange):
    """A number within its bounds: nan, which is within any, is refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def all_names() -> list[str]:
    """Names of all topics; with none at all, an error that says how to make one."""
    from shmflow._names import names

    found = names()
    if not found:
        raise click.ClickException(no_topic())
    return found


def existing(asked: Sequence[str]) -> list[str]:
    """The names, each once, if all are there; all there are if none was given. Else an error that
    suggests the nearest."""
    from shmflow._names import nearest, path_of

    if not asked:
        return all_names()
    there = all_names()
    for name in asked:
        if name not in there:
            raise click.ClickException(
                f"there is no topic {name!r} ({path_of(name)}){nearest(name)}"
            )
    return list(dict.fromkeys(asked))
