from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, final, overload

import numpy as np
from _typeshed import structseq
from numpy.typing import DTypeLike

_T = TypeVar("_T")
_Array = np.ndarray[Any, np.dtype[Any]]
_Shape = int | tuple[int, ...] | list[int]
_Mode = Literal["rw", "r", "w", "monitor"]
_Start = Literal["oldest", "latest", "new"]

@final
class Stats(structseq[int], tuple[int, int, int, int, int, int, int, int, int, int, int]):
    __match_args__: Final = (
        "written",
        "written_bytes",
        "writer_waits",
        "read",
        "copied",
        "pinned",
        "lost",
        "skipped",
        "held_bytes",
        "held_blocks",
        "lag",
    )
    @property
    def written(self) -> int: ...
    @property
    def written_bytes(self) -> int: ...
    @property
    def writer_waits(self) -> int: ...
    @property
    def read(self) -> int: ...
    @property
    def copied(self) -> int: ...
    @property
    def pinned(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def held_blocks(self) -> int: ...
    @property
    def lag(self) -> int: ...

@final
class Participant(
    structseq[Any],
    tuple[int, str, str, bool, int, int, int, int, int, int, int, int, int, int, int, bool, str],
):
    __match_args__: Final = (
        "pid",
        "command",
        "mode",
        "alive",
        "attached_ns",
        "lag",
        "read",
        "lost",
        "skipped",
        "pinned",
        "held_bytes",
        "held_blocks",
        "written",
        "written_bytes",
        "writer_waits",
        "lossless",
        "group",
    )
    @property
    def pid(self) -> int: ...
    @property
    def command(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def alive(self) -> bool: ...
    @property
    def attached_ns(self) -> int: ...
    @property
    def lag(self) -> int: ...
    @property
    def read(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def pinned(self) -> int: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def held_blocks(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def written_bytes(self) -> int: ...
    @property
    def writer_waits(self) -> int: ...
    @property
    def lossless(self) -> bool: ...
    @property
    def group(self) -> str: ...

@final
class Message:
    @property
    def array(self) -> _Array: ...
    @property
    def seq(self) -> int: ...
    @property
    def timestamp_ns(self) -> int: ...
    @property
    def meta(self) -> dict[str, Any]: ...
    @property
    def lost(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def writer(self) -> int: ...

@final
class Messages:
    def __iter__(self) -> Self: ...
    def __next__(self) -> Message: ...

@final
class Loan:
    @property
    def array(self) -> _Array: ...
    @property
    def seq(self) -> int | None: ...
    @property
    def in_ring(self) -> bool: ...
    def publish(self, shape: _Shape | None = None) -> int: ...
    def discard(self) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __array__(self, *args: Any, **kwargs: Any) -> _Array: ...
    def __enter__(self) -> _Array: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = ...,
        exc: BaseException | None = ...,
        traceback: TracebackType | None = ...,
        /,
    ) -> None: ...

@final
class Topic:
    def __init__(
        self,
        name: str | None = None,
        mode: _Mode = "rw",
        *,
        capacity: int | str | None = None,
        max_message: int | str | None = None,
        depth: int | None = None,
        start: _Start = "oldest",
        lossless: bool = False,
        group: str | None = None,
        max_held: int | str | None = None,
        create: bool | None = None,
        replace: bool = False,
        temporary: bool = False,
        allow_lossless: bool = True,
        permissions: int = 0o600,
        max_participants: int = 128,
        spin: float | None = None,
    ) -> None: ...
    def write(
        self,
        data: Any,
        /,
        *,
        meta: Mapping[str, Any] | None = None,
        timestamp_ns: int | None = None,
        timeout: float | None = None,
    ) -> int: ...
    def write_many(self, items: Iterable[Any], /, *, timeout: float | None = None) -> int: ...
    def loan(
        self,
        shape: _Shape,
        dtype: DTypeLike = "uint8",
        *,
        meta: Mapping[str, Any] | None = None,
        timestamp_ns: int | None = None,
        timeout: float | None = None,
    ) -> Loan: ...
    @overload
    def read(
        self,
        timeout: float | None = None,
        *,
        latest: bool = False,
        copy: bool = False,
        out: _Array | None = None,
    ) -> _Array: ...
    @overload
    def read(
        self,
        timeout: float | None = None,
        *,
        latest: bool = False,
        copy: bool = False,
        out: _Array | None = None,
        default: _T,
    ) -> _Array | _T: ...
    @overload
    def read_message(
        self,
        timeout: float | None = None,
        *,
        latest: bool = False,
        copy: bool = False,
        out: _Array | None = None,
    ) -> Message: ...
    @overload
    def read_message(
        self,
        timeout: float | None = None,
        *,
        latest: bool = False,
        copy: bool = False,
        out: _Array | None = None,
        default: _T,
    ) -> Message | _T: ...
    @overload
    def read_many(
        self,
        limit: int,
        timeout: float | None = None,
        *,
        copy: bool = False,
        stack: Literal[False] = False,
    ) -> list[_Array]: ...
    @overload
    def read_many(
        self, limit: int, timeout: float | None = None, *, copy: bool = False, stack: Literal[True]
    ) -> _Array | list[_Array]: ...
    def read_messages(
        self, limit: int, timeout: float | None = None, *, copy: bool = False
    ) -> list[Message]: ...
    def snapshot(self, *, copy: bool = False) -> list[Message]: ...
    def peek(self, seq: int, *, copy: bool = False) -> Message: ...
    def seek(
        self,
        place: int | Literal["oldest", "latest", "new"] | None = None,
        *,
        timestamp_ns: int | None = None,
    ) -> int: ...
    def messages(
        self, *, latest: bool = False, copy: bool = False, timeout: float | None = None
    ) -> Iterator[Message]: ...
    def stats(self) -> Stats: ...
    def participants(self) -> list[Participant]: ...
    def shutdown(self) -> None: ...
    def close(self) -> None: ...
    def unlink(self) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> _Mode: ...
    @property
    def closed(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def generation(self) -> int: ...
    @property
    def capacity(self) -> int | None: ...
    @property
    def depth(self) -> int | None: ...
    @property
    def max_message(self) -> int | None: ...
    @property
    def head(self) -> int | None: ...
    @property
    def tail(self) -> int | None: ...
    @property
    def lost(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def writers(self) -> int: ...
    @property
    def readers(self) -> int: ...
    def _last(self) -> tuple[int, int, str] | None: ...
    def _lock_holder(self) -> tuple[int, str] | None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> _Array: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

def wait(topics: Iterable[Topic], timeout: float | None = None) -> list[Topic]: ...
def _remove(path: str, only_idle: bool, /) -> str: ...
def _peek(path: str, /) -> tuple[str, dict[str, Any]]: ...
def _clean(path: str, /) -> int: ...
def _identity(path: str, /) -> bytes: ...
def _at_exit() -> None: ...
def _restore(
    name: str,
    mode: str,
    identity: bytes,
    start: str,
    max_held: int,
    spin_ns: int,
    permissions: int,
    lossless: bool,
    group: str | None,
) -> Topic: ...
