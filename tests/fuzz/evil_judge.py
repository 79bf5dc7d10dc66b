"""Which exceptions a Python programmer expects of a call with an evil argument.

Owns: the judgement of exceptions.
Does not own: crashes and hangs (fuzz_evil.py), or what other participants see (evil_peer.py).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from evil_moments import Patience

import shmflow

if TYPE_CHECKING:
    from evil_scene import Scene

# What a Python programmer expects of a call; what an evil object raised comes on top.
EXPECTED = (
    shmflow.Error,
    TypeError,
    ValueError,
    OverflowError,
    BufferError,
    RecursionError,
    StopIteration,
    StopAsyncIteration,
)


def is_evil(error: BaseException) -> bool:
    """Whether it was thrown on purpose, or comes of what was."""
    seen: BaseException | None = error
    while seen is not None:
        if hasattr(seen, "evil"):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def judge(scene: Scene, error: BaseException) -> None:
    """What came out of the call, or was told as unraisable: trouble, if nobody expects it."""
    text = str(error) if type(error).__str__ is not None else ""
    if re.search(r"\bSF_[A-Z]", text):
        scene.trouble(f"a raw status: {type(error).__name__}: {text[:200]}")
    if isinstance(error, (Patience, SystemExit, KeyboardInterrupt, *EXPECTED)):
        return
    if isinstance(error, SystemError) and not hasattr(error, "evil"):
        scene.trouble(f"SystemError: {text[:300]} (from {error.__cause__!r})")
        return
    dunder = scene.target.name.startswith("__")
    if is_evil(error):
        return
    if isinstance(error, MemoryError) or (scene.target.name.startswith("_") and not dunder):
        return  # an evil number of bytes; a call that is not for users
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = at.tb_frame.f_code.co_filename if at is not None else ""
    if isinstance(error, RuntimeError) and scene.target.returns.startswith("Coroutine"):
        return  # a loop within a loop, or none in a forked child
    if isinstance(error, AttributeError) and "__class__" in scene.asked:
        return
    if os.path.basename(where) not in ("evil_objects.py", "evil_acts.py"):
        scene.trouble(f"{type(error).__name__}: {text[:200]} at {os.path.basename(where)}")
