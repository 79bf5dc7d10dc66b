"""help() reads like a manual page: every public callable has a signature and documentation."""

from __future__ import annotations

import inspect
import pydoc
import re
from typing import Any

import pytest

import shmflow

CALLABLES = [getattr(shmflow, name) for name in shmflow.__all__ if name != "__version__"]
MEMBERS = [
    (cls, name)
    for cls in (shmflow.Topic, shmflow.Loan, shmflow.Message)
    for name in vars(cls)
    if not name.startswith("_") or name in ("__enter__", "__exit__", "__reduce__")
]


def is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


@pytest.mark.parametrize(
    "name",
    ["Topic", "topics", "unlink", "clean", "get_include", "TopicInfo", "wait", "sync", "Sync"],
)
def test_public_callable_has_a_signature(name: str) -> None:
    assert inspect.signature(getattr(shmflow, name)) is not None


def test_methods_have_signatures_and_texts() -> None:
    for cls, name in MEMBERS:
        member = inspect.getattr_static(cls, name)
        assert inspect.getdoc(member), f"{cls.__name__}.{name}"
        if callable(getattr(cls, name)):
            signature = inspect.signature(getattr(cls, name))
            assert next(iter(signature.parameters)) == "self", f"{cls.__name__}.{name}"


def test_everything_public_is_documented() -> None:
    for value in CALLABLES:
        assert (inspect.getdoc(value) or "").strip(), value
    assert inspect.getdoc(shmflow)


def test_signature_of_the_constructor_tells_the_defaults() -> None:
    parameters = inspect.signature(shmflow.Topic).parameters
    assert parameters["mode"].default == "rw"
    assert parameters["permissions"].default == 0o600
    assert parameters["max_participants"].default == 128
    assert parameters["start"].default == "oldest"
    assert list(parameters)[:3] == ["name", "mode", "capacity"]
    assert parameters["capacity"].kind is inspect.Parameter.KEYWORD_ONLY


def test_signatures_of_the_hot_calls() -> None:
    assert str(inspect.signature(shmflow.Topic.write)) == (
        "(self, data, /, *, meta=None, timestamp_ns=None, timeout=None)"
    )
    read = "(self, /, timeout=None, *, latest=False, copy=False, out=None, default=Ellipsis)"
    for method in (shmflow.Topic.read, shmflow.Topic.read_message):
        assert str(inspect.signature(method)) == read
    assert str(inspect.signature(shmflow.Topic.loan)) == (
        "(self, /, shape, dtype='uint8', *, meta=None, timestamp_ns=None, timeout=None)"
    )


def test_help_names_every_error_that_a_topic_raises() -> None:
    text = pydoc.plain(pydoc.render_doc(shmflow.Topic))
    for value in CALLABLES:
        if is_error(value) and value not in (shmflow.Error, shmflow.WrongMode):
            assert value.__name__ in text, value
    # From 3.13 on, pydoc breaks a long signature into lines.
    assert "read(self,/,timeout=None" in re.sub(r"[\s|]+", "", text)


def test_types_belong_to_the_package() -> None:
    for value in CALLABLES:
        if isinstance(value, type) and value.__name__ != "TopicInfo":
            assert value.__module__ == "shmflow", value


def test_package_lists_what_it_has() -> None:
    assert set(shmflow.__all__) == set(dir(shmflow))
    for name in shmflow.__all__:
        assert getattr(shmflow, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shmflow.nothing
