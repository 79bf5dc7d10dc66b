"""A room is read at one sitting, says at its door what it is, and is finished."""

from __future__ import annotations

import posixpath
import re

LONGEST = 600  # lines
SOURCES = (".c", ".h", ".py", ".pyi")
# Written in pieces, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$*/-])/(?:wo" r"rk|ro" r"ot)/")
DOCUMENT = re.compile(r"(?<![\w/.:@-])([\w.][\w./-]*\.md)\b")
TICKET = re.compile(r"\b(?:issue|ticket)s? (?:no\. ?)?#?\d", re.IGNORECASE)
# These tests and the list of ignored files are about what must not be there.
ABOUT_IT = ("tests/lint/",)


def too_long(files: dict[str, str]) -> list[str]:
    return [
        f"{path}: {text.count(chr(10))} lines"
        for path, text in files.items()
        if path.endswith(SOURCES) and text.count("\n") > LONGEST
    ]


def without_a_head(files: dict[str, str]) -> list[str]:
    found = []
    for path, text in files.items():
        comment = re.match(r"/\*.*?\*/", text, re.DOTALL)
        if comment is None or comment.group().count("\n") + 1 < 5:
            found.append(path)
    return found


def lines_with(files: dict[str, str], pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()}"
        for path, text in files.items()
        if not path.startswith(ABOUT_IT)
        for number, line in enumerate(text.split("\n"), 1)
        if pattern.search(line)
    ]


def missing_documents(files: dict[str, str]) -> list[str]:
    """Documents that are referred to, and are not in the tree."""
    found = []
    for path, text in files.items():
        if path.startswith(ABOUT_IT):
            continue
        for name in DOCUMENT.findall(text):
            near = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            if near not in files and posixpath.normpath(name) not in files:
                found.append(f"{path}: there is no {name}")
    return found


def test_a_room_is_read_at_one_sitting(tree):
    assert too_long(tree) == []


def test_each_c_file_opens_with_what_it_owns(c_tree):
    assert without_a_head(c_tree) == []


def test_nothing_is_marked_unfinished(tree):
    assert lines_with(tree, UNFINISHED) == []


def test_no_path_of_a_particular_machine(tree):
    assert lines_with(tree, MACHINE_PATH) == []


def test_reasons_are_told_not_numbered(tree):
    assert lines_with(tree, TICKET) == []


def test_documents_that_are_referred_to_exist(tree):
    assert missing_documents(tree) == []


def test_the_rule_finds_offenders():
    files = {
        "src/core/a.c": "/* one\n * two\n */\n" + "\n" * LONGEST,
        "src/core/b.c": "/* 1\n * 2\n * 3\n * 4\n */\nint x; // TO" + "DO\n",
        "docs/c.md": "see b.md, docs/c.md, https://x.org/d.md\ncd /wo" + "rk/x; a/wo" + "rk/y\n",
        "d.py": "# as Issue 12 says\n",
    }
    assert too_long(files) == ["src/core/a.c: 603 lines"]
    assert without_a_head({p: t for p, t in files.items() if p.endswith(".c")}) == ["src/core/a.c"]
    assert lines_with(files, UNFINISHED) == ["src/core/b.c:6: int x; // TO" + "DO"]
    assert lines_with(files, MACHINE_PATH) == ["docs/c.md:2: cd /wo" + "rk/x; a/wo" + "rk/y"]
    assert lines_with(files, TICKET) == ["d.py:1: # as Issue 12 says"]
    assert missing_documents(files) == ["docs/c.md: there is no b.md"]
