"""The source as the lint tests see it: a mapping from path to text, so that each rule is a function
of such a mapping, and is shown to find an offender in a made-up one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".c", ".h", ".py", ".pyi", ".md", ".toml", ".txt", ".cfg", ".ini", ".yml", ".yaml", ".in"}
NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__"}


def tracked() -> list[str]:
    """What git tracks or would; in an unpacked sdist, what is there."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    if (ROOT / ".git").exists():
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return sorted(path for path in done.stdout.split("\0") if path)
    paths = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in NOT_OURS and not f.endswith(".egg-info")]
        paths += [os.path.relpath(os.path.join(folder, file), ROOT) for file in files]
    return sorted(paths)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tree() -> dict[str, str]:
    """Every text file of the project: path from the root -> text."""
    files = {}
    for path in tracked():
        file = ROOT / path
        plain = file.suffix in TEXT or not file.suffix or path.startswith(".")
        if plain and file.is_file() and not file.is_symlink():
            files[path] = file.read_text(encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def c_tree(tree: dict[str, str]) -> dict[str, str]:
    """The C files under src."""
    return {p: t for p, t in tree.items() if p.startswith("src/") and p.endswith((".c", ".h"))}


@pytest.fixture(scope="session")
def without_comments():
    """``without_comments(text)``: C text whose comments are blanked, its lines where they were."""

    def strip(text: str) -> str:
        pattern = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*'

        def blank(match: re.Match[str]) -> str:
            found = match.group()
            return re.sub(r"[^\n]", " ", found) if found.startswith("/") else found

        return re.sub(pattern, blank, text, flags=re.DOTALL)

    return strip
