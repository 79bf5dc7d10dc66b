"""Every example of the guide runs as it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs/guide.md"
BLOCKS = {
    part.splitlines()[0]: "\n".join(re.findall(r"^```python\n(.*?)^```$", part, re.S | re.M))
    for part in re.split(r"^## ", GUIDE.read_text(), flags=re.M)[1:]
}


@pytest.mark.parametrize("title", [title for title, code in BLOCKS.items() if code])
def test_the_examples_of_the_guide_run(title: str, run_python: Callable, tmp_path: Path) -> None:
    # In a folder of their own, for they use plain names.
    folder = tmp_path / "topics"
    folder.mkdir()
    run_python(BLOCKS[title], env={"SHMFLOW_DIR": str(folder)})


def test_the_guide_has_an_example_for_each_way() -> None:
    code = "\n".join(BLOCKS.values())
    for word in (
        *("latest=True", "lossless=True", "group=", "write_many", "read_many", "stack=True"),
        *("snapshot", "peek", "seek", "shmflow.wait", "shmflow.sync", "read_async", "async for"),
        *("select", "readinto", "publish(", "out=", "shutdown"),
    ):
        assert word in code, word
