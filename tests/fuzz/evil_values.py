"""A good value for every parameter of every public call.

Owns: what a parameter is meant for, by its name where that says more than its annotation.
Does not own: what becomes of it (evil_objects.py).
"""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from evil_calls import Param

if TYPE_CHECKING:
    from evil_scene import Scene


def good_value(scene: Scene, param: Param) -> Any:
    """One that this parameter is meant for, by its name where that says more than its type."""
    rng, size = scene.rng, scene.size
    by_name: dict[str, list[Any]] = {
        "name": [scene.name],
        "path": [os.path.join(os.environ["SHMFLOW_DIR"], f"shmflow.{scene.name}")],
        "group": ["together"],
        "capacity": ["1 MiB", 1 << 20],
        "max_message": [100_000, "64 KiB"],
        "max_held": ["512 KiB", 1 << 19],
        "permissions": [0o600],
        "depth": [64, 3],
        "max_participants": [16, 128],
        "seq": [1, 2, 3],
        "place": ["oldest", "latest", "new", 1, 2],
        "limit": [1, 3, 100],
        "timestamp_ns": [1_700_000_000_000_000_000],
        "spin": [0.0, None],
        "spin_ns": [-1, 0],
        "identity": [b"i" * 16],
        "tolerance": [0.001, 10.0, 0],
        "topics": [[scene.topic, scene.other], (scene.other, scene.topic)],
        "out": [np.zeros(size, np.uint8)],
        "default": [None, 0],
        "flags": [0, 1],
        "data": [scene.fill(size), scene.fill(size), scene.fill(size).tobytes(), 7],
        "items": [[scene.fill(size) for _ in range(rng.choice([1, 3, 40]))], [b"Z" * size] * 3],
    }
    if param.name in by_name:
        of_others = param.name == "data" and param is not scene.param
        return scene.fill(size) if of_others else rng.choice(by_name[param.name])
    text = param.annotation
    if "Mapping" in text:
        return rng.choice([{"a": 1, "b": [1, 2]}, {"text": "x" * 300}, {"n": {"m": None}}])
    if "DType" in text:
        return rng.choice(["uint8", np.uint8, np.dtype("u1"), [("a", "u1")]])
    if "_Shape" in text:
        return rng.choice([size, (size,), [size], (2, size // 2)])
    if "float" in text:
        return rng.choice([0, 0.01])
    if "bool" in text:
        return rng.random() < 0.5
    if "_Mode" in text:
        return "rw"
    if "_Start" in text:
        return "oldest"
    if "Literal" in text:
        return rng.choice(ast.literal_eval(re.findall(r"Literal(\[.*?\])", text)[0]))
    for word, value in (("str", "text"), ("int", 1), ("bytes", b"text")):
        if word in text:
            return value
    return None
