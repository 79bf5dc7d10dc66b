"""Every public name has a docstring that says something, and what can be called has a signature."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

ENOUGH = 20  # characters


def public_names(module: ModuleType | SimpleNamespace) -> list[str]:
    return [name for name in module.__all__ if not name.startswith("_")]


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """What the class itself defines: methods, properties, fields, class methods."""
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            yield name, member


def complaints(name: str, thing: object) -> list[str]:
    found = []
    # A class's own: getdoc would answer with its base's.
    doc = vars(thing).get("__doc__") if isinstance(thing, type) else inspect.getdoc(thing)
    if len((doc or "").strip()) < ENOUGH:
        found.append(f"{name}: no docstring")
    is_error = isinstance(thing, type) and issubclass(thing, BaseException)
    if callable(thing) and not is_error:
        try:
            inspect.signature(thing)
        except (TypeError, ValueError):
            found.append(f"{name}: no signature")
    return found


def undocumented(module: ModuleType | SimpleNamespace) -> list[str]:
    found = []
    for name in public_names(module):
        thing = getattr(module, name)
        if not (callable(thing) or inspect.ismodule(thing)):
            continue
        found += complaints(name, thing)
        if isinstance(thing, type):
            for member_name, member in public_members(thing):
                if isinstance(member, classmethod | staticmethod):
                    member = member.__func__
                # The fields of a dataclass have no docstrings: the class tells of each by name.
                if dataclasses.is_dataclass(thing) and member_name in (thing.__doc__ or ""):
                    continue
                if callable(member) or inspect.isdatadescriptor(member):
                    found += complaints(f"{name}.{member_name}", member)
    return found


def test_public_names_are_documented():
    shmflow = pytest.importorskip("shmflow")
    assert "Topic" in public_names(shmflow)
    assert undocumented(shmflow) == []


def test_the_rule_finds_offenders():
    class Bare:
        def method(self):
            pass

    class Documented:
        """Long enough to say something."""

        @property
        def short(self):
            """Short."""

    module = SimpleNamespace(__all__=["Bare", "Documented"], Bare=Bare, Documented=Documented)
    assert undocumented(module) == [
        "Bare: no docstring",
        "Bare.method: no docstring",
        "Documented.short: no docstring",
    ]
