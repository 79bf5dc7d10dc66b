"""What tests of several commands need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of topics that no other test looks at."""
    path = tmp_path / "topics"
    path.mkdir()
    monkeypatch.setenv("SHMFLOW_DIR", str(path))
    return path
