"""What holds for all tests of the command line: commands run as installed, wherever pytest runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def installed() -> Iterator[None]:
    """`python -m shmflow` would look into the working directory first: maybe the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONSAFEPATH", "1")
        yield
