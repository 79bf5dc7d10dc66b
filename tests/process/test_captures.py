"""What the documents say of capturing into a loan, on a real clip: each frame once, no other.

Owns: every block of code that captures (in the README, the guide, docstrings), run as it stands.
Does not own: examples/camera.py as a program with readers (test_examples.py).
"""

from __future__ import annotations

import inspect
import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import film

import shmflow

ROOT = Path(__file__).parents[2]
CAPTURES = re.compile(r"\b(?:camera|capture|film|video)\.(?:read|retrieve)\(")
INTO_A_LOAN = re.compile(r"\.(?:read|retrieve)\([a-z]")
HALF = "(360, 640, 3)"  # not the size of the film


def documents() -> Iterator[tuple[str, str]]:
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]):
        for number, code in enumerate(
            re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.S | re.M)
        ):
            yield f"{path.relative_to(ROOT)} {number}", code


def docstrings() -> Iterator[tuple[str, str]]:
    for owner in (shmflow, *(getattr(shmflow, name) for name in shmflow.__all__)):
        for name, member in (
            [("", owner), *vars(owner).items()] if isinstance(owner, type) else [("", owner)]
        ):
            text = inspect.getdoc(member) or ""
            for number, block in enumerate(re.findall(r"(?:^    .*\n)+", text + "\n", re.M)):
                yield f"{getattr(owner, '__name__', owner)}.{name} {number}", textwrap.dedent(block)


BLOCKS = {where: code for where, code in [*documents(), *docstrings()] if CAPTURES.search(code)}
INTO = {where: code for where, code in BLOCKS.items() if INTO_A_LOAN.search(code)}


def total(frame: np.ndarray) -> int:
    """Enough of a picture to know it by."""
    return int(frame[::7, ::7].sum())


class Camera:
    """A capture that counts the frames it gave, and knows them again."""

    def __init__(self, path: Path) -> None:
        import cv2

        self.capture = cv2.VideoCapture(str(path))
        self.sums: list[int] = []
        self.over = False

    def read(self, *into: Any) -> tuple[bool, Any]:
        ok, frame = self.capture.read(*into)
        if ok:
            self.sums.append(total(frame))
        self.over = not ok
        return ok, frame


def names(topic: shmflow.Topic, camera: Camera) -> dict[str, Any]:
    side = np.ones((480, 640), "f4")
    file = io.BytesIO(bytes(7))
    return {"shmflow": shmflow, "np": np, "topic": topic, "camera": camera, "file": file} | {
        "left": side,
        "right": side,
    }


def run_to_the_end(code: str, camera: Camera, topic: shmflow.Topic) -> None:
    """A block is a loop, a step of one, or a function that does a step."""
    given = names(topic, camera)
    if found := re.search(r"^def (\w+)\(camera, topic", code):
        exec(code, given)
        shape = (720, 1280, 3) if HALF not in code else (360, 640, 3)
        while given[found[1]](camera, topic, shape):
            pass
    while not camera.over:
        exec(code, given)


def frames_of(reader: shmflow.Topic) -> list[tuple[tuple[int, ...], int]]:
    found = []
    while (array := reader.read(timeout=0, default=None)) is not None:
        if array.ndim == 3:
            found.append((array.shape, total(array)))
    return found


def played(code: str, name: str) -> tuple[list[tuple[tuple[int, ...], int]], list[int]]:
    camera = Camera(film())
    found = []
    with shmflow.Topic(name, "w", capacity="64 MiB") as topic, shmflow.Topic(name, "r") as reader:
        plain = camera.read

        def read_after_the_reader(*into: Any) -> tuple[bool, Any]:
            found.extend(frames_of(reader))  # so that nothing is lost to it
            return plain(*into)

        camera.read = read_after_the_reader  # type: ignore[method-assign]
        run_to_the_end(code, camera, topic)
        found.extend(frames_of(reader))
        assert reader.lost == 0
        topic.unlink()
    camera.capture.release()
    return found, camera.sums


def test_the_blocks_that_capture_are_found() -> None:
    found = " ".join(BLOCKS)
    assert "README.md" in found and "docs/guide.md" in found and "Topic.loan" in found
    assert len(INTO) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("where", INTO)
def test_a_clip_of_so_many_frames_is_so_many_messages(where: str, topic_name: str) -> None:
    found, sums = played(INTO[where], topic_name)
    assert len(sums) == 132
    assert found == [((720, 1280, 3), each) for each in sums]


@pytest.mark.slow
@pytest.mark.parametrize("where", INTO)
def test_no_unfilled_loan_is_published_where_the_size_differs(where: str, topic_name: str) -> None:
    code = INTO[where].replace("(720, 1280, 3)", HALF)
    if "shape: tuple" in code:
        code += f"# {HALF}\n"
    found, sums = played(code, topic_name)
    assert found in ([], [((720, 1280, 3), each) for each in sums])


@pytest.mark.slow
@pytest.mark.parametrize("where", [where for where in BLOCKS if where not in INTO])
def test_a_program_that_writes_what_it_captures_ends_with_the_clip(
    where: str, topic_name: str
) -> None:
    code = BLOCKS[where].replace('"cam", "w"', f'"{topic_name}", "w", capacity="380 MiB"')
    code = code.replace("VideoCapture(0)", f"VideoCapture({str(film())!r})")
    exec(code, {})
    with shmflow.Topic(topic_name, "r") as reader:
        assert [message.seq for message in reader.messages()] == list(range(1, 133))
        reader.unlink()
