"""Every command in every document works, or is wrong: found in the text, and tried.

Owns: commands in sh, bash and console blocks, in indented lines and in `code` of all *.md, and the
lines `Terminal N:` of the examples; how each kind of them is tried without doing its work.
Does not own: what the commands do (tests/cli, test_examples.py), what is printed.

make: target and variables exist, options in the variables are known to what the target runs.
shmflow: click parses it. python: the file runs with --help, which knows the options, and -c runs,
both in a copy of the checkout, as people have it. pip: the extra exists. A new command is tried as
it comes; a program that is unknown here fails.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from shmflow.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "benchmarks", "examples", "tests/*")
    for path in ROOT.glob(f"{folder}/*.md")
    if path.stem not in ("CHANGELOG", "RESULTS")
)
OURS = r"(?:make|shmflow|python3?|pip|tests/\w+/run|tests/core/weaken|\.ci/run)"
SETTINGS = r"(?:[A-Z_]+=(?:'[^']*'|\S)*\s+)*"
COMMAND = re.compile(rf"{SETTINGS}{OURS}(?:\s+[^(\s].*)?", re.S)
FOREIGN = {"curl", "ffmpeg", "printf", "eval", "mount", "taskset", "docker"}
PACKAGES = {"opencv-python"}
# What a target hands the options in a variable to.
OPTIONS_OF = {
    "KILL_ARGS": "tests/kill/*.c",
    "STORM_ARGS": "tests/storm/*.c",
    "SOAK_ARGS": "tests/storm/soak.py",
    "FUZZ_ARGS": "tests/fuzz/*.py",
    "BENCH_ARGS": "benchmarks/*.py",
    "DEMO_ARGS": "shmflow/cli/demo*.py",
    "MODEL": "tests/model/run",
    "ARGS": "",  # pytest's
}
PLACEHOLDER = re.compile(r"[A-Z]{3,}|\[.*|…|\.\.\.")


# ---- finding them ------------------------------------------------------------------------------


def commands_in(text: str) -> Iterator[str]:
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M):
        lines = block.replace("\\\n", " ").splitlines()
        if kind in ("sh", "bash"):
            yield from (line for line in lines if line.strip() and not line.startswith("#"))
        elif kind == "console":
            yield from (line[2:] for line in lines if line.startswith("$ "))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    for line in re.findall(r"^ {4}(\S.*)$", text, re.M):
        if COMMAND.fullmatch(line):
            yield line
    for span in re.findall(r"`([^`]+)`", text):
        if COMMAND.fullmatch(span := " ".join(span.split())):
            yield span


def terminals() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "examples").glob("*.py")):
        for line in re.findall(r"^Terminal \d: +(python .*)$", path.read_text(), re.M):
            yield f"examples/{path.name}", re.split(r"  +#|, or ", line)[0]


FOUND = [(str(d.relative_to(ROOT)), c) for d in DOCUMENTS for c in commands_in(d.read_text())]
FOUND = list(dict.fromkeys([*FOUND, *terminals()]))


# ---- trying them -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as somebody has it who cloned it, to start programs in: links, no build."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("benchmarks", "examples", "src", "shmflow", "tests"):
        (folder / name).symlink_to(ROOT / name)
    topics = folder / "topics"
    topics.mkdir()
    return folder


def run(folder: Path, *command: str, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"SHMFLOW_DIR": str(folder / "topics"), "BENCH_START_S": "10"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text()


@cache
def help_of(path: str, folder: Path) -> str:
    return run(folder, sys.executable, path, "--help")


def try_make(words: list[str]) -> None:
    for word in words:
        name, is_setting, value = word.partition("=")
        if PLACEHOLDER.fullmatch(word):
            continue
        if not is_setting:
            assert re.search(rf"^\.PHONY:.*\s{re.escape(word)}$", makefile(), re.M), word
            continue
        assert re.search(rf"^{name} \?=|\$\({name}\)", makefile(), re.M), name
        if OPTIONS_OF.get(name):
            sources = "".join(path.read_text() for path in ROOT.glob(OPTIONS_OF[name]))
            for option in re.findall(r"--[\w-]+", value):
                assert re.search(rf'"{option}[="]', sources), option


def try_shmflow(words: list[str], folder: Path) -> None:
    if not words or PLACEHOLDER.fullmatch(words[0]) or words[0].startswith("--"):
        assert not words or words[0] in ("COMMAND", "--help", "--version"), words
        return
    command = main.get_command(click.Context(main), words[0])
    assert command is not None, words[0]
    words = [re.sub(r"[\[\]…]|\.\.\.", "", word) for word in words[1:]]
    words = [word for word in words if word]
    for word in words:
        if "." in word and "/" not in word and not word.startswith("-"):
            (folder / word).touch()
    try:
        with command.make_context(words[0] if words else "", words):
            pass
    except click.exceptions.Exit as end:
        assert end.exit_code == 0


def try_python(words: list[str], env: dict[str, str], document: str, folder: Path) -> None:
    if words[:1] == ["-c"]:
        run(folder, sys.executable, "-c", words[1], PAGER="cat", **env)
        return
    if words[:1] == ["-m"]:
        assert words[1] == "shmflow", words
        try_shmflow(words[2:], folder)
        run(folder, sys.executable, "-m", "shmflow", "--help")
        return
    if not words or PLACEHOLDER.fullmatch(words[0]):
        return
    path = words[0] if (folder / words[0]).exists() else f"{Path(document).parent}/{words[0]}"
    source = (folder / path).read_text()
    needs = re.findall(r"^ *import (torch|cv2)$", source, re.M)
    said = help_of(path, folder) if all(map(find_spec, needs)) else source
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", said), f"{path} has no {option}"


def try_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for word in words[1:]:
        if found := re.fullmatch(r"(?:\.|shmflow)\[(\w+)\]", word):
            assert found[1] in extras, word
        else:
            assert word in {".", "-e", "shmflow", *PACKAGES}, word


def try_command(command: str, document: str, folder: Path) -> None:
    words = shlex.split(command, comments=True)
    env = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, env[name] = words.pop(0).partition("=")
    if "|" in words:
        at = words.index("|")
        try_command(shlex.join(words[:at]), document, folder)
        words = words[at + 1 :]
    program, *words = words
    if program == "make":
        try_make([*(f"{name}={value}" for name, value in env.items()), *words])
    elif program == "shmflow":
        try_shmflow(words, folder)
    elif program in ("python", "python3"):
        try_python(words, env, document, folder)
    elif program == "pip":
        try_pip(words)
    elif (ROOT / program).is_file():
        assert os.access(ROOT / program, os.X_OK), f"{program} is no program"
        verbs = [word for word in words if re.fullmatch(r"[a-z]+", word)][:1]
        assert all(re.search(rf"\b{verb}\b", (ROOT / program).read_text()) for verb in verbs)
    else:
        assert program in FOREIGN, f"who is {program}? Ours is {OURS}"


@pytest.mark.parametrize("document", dict.fromkeys(where for where, _ in FOUND))
def test_the_commands_of_a_document_exist(
    document: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    wrong = []
    for command in (command for where, command in FOUND if where == document):
        if "my_module" in command:
            continue  # the test below
        try:
            try_command(command, document, checkout)
        except (AssertionError, click.ClickException) as error:
            wrong.append(f"{command}\n    {error or type(error)}")
    assert not wrong, "\n".join(wrong)


def test_a_peer_of_your_own_is_measured_as_the_document_says(checkout: Path) -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    (command,) = (c for where, c in FOUND if "my_module" in c)
    (code,) = re.findall(r"^```python\n(from peers.base.*?)^```$", text, re.S | re.M)
    (checkout / "my_module.py").write_text(code)
    (checkout / "mine.py").touch()  # the library it speaks of
    words = shlex.split(command)
    env = dict(word.split("=") for word in words if re.match(r"[A-Z]+=", word))
    words = words[words.index("python") + 1 :]
    quick = "--quick --rounds 1 --seconds 0.05 --works stream --match shape=64"
    out = run(
        *(checkout, sys.executable, *words, *quick.split()),
        *("--json", "out.json", "--markdown", "out.text"),
        **env,
    )
    assert "**shmflow**" in out and "mine failed: " in out  # its methods are but dots


def test_words_that_are_no_commands_any_more_are_noticed(checkout: Path) -> None:
    for wrong in (
        *("make tset", "make storm KILL=3", "make storm STORM_ARGS='--slowly'", "shmflow lst"),
        *("shmflow ls --jsn", "shmflow pub cam --test-patern", "python benchmarks/rum.py"),
        *("python benchmarks/run.py --round 7", "pip install '.[clie]'", "tests/model/run fast"),
        *("tests/models/run quick", "frobnicate now", "PYTHONPATH=. python -c 'import shmflo'"),
    ):
        with pytest.raises((AssertionError, click.ClickException, FileNotFoundError)):
            try_command(wrong, "README.md", checkout)


def test_commands_are_found_wherever_a_document_has_them() -> None:
    text = (
        "    make demo   # see\n\nsay `make\nstorm KILLS=2` or `python`, `make` or `shmflow (x)`\n"
    )
    text += "```sh\npip install .\n```\n```console\n$ shmflow ls\nTOPIC\n```\n"
    found = sorted(commands_in(text))
    assert found == ["make", "make demo   # see", "make storm KILLS=2", "pip install .", "python",
                     "shmflow ls"]  # fmt: skip
    assert len(FOUND) > 100


@pytest.mark.parametrize(
    "code", ["import shmflow; shmflow.Topic", "import shmflow._names, shmflow.cli"]
)
def test_python_started_in_a_checkout_has_the_installed_package(checkout: Path, code: str) -> None:
    run(checkout, sys.executable, "-c", code)


def test_python_without_a_core_is_told_what_to_do(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, ''); import shmflow"],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ImportError: shmflow was imported from its source tree" in done.stderr
    assert "pip install ." in done.stderr
