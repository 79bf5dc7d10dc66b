"""Every system call and allocation can be made to fail by a test: it stands in OS_CALL, in src/os.

The names are those of the table in src/os/fault.c and of what cannot fail but changes something;
only src/os may use them, and there only as the second argument of OS_CALL."""

from __future__ import annotations

import re

TABLE = re.compile(r'^    \{"(\w+)", \{', re.MULTILINE)
# No fault is tried with these; a death beside them is.
POINTS_ONLY = {"munmap"}
# Called by their own names in the table, through functions of one statement.
WRAPPED = {"futex_wait", "futex_waitv", "leave_table"}


def unguarded(files: dict[str, str], names: set[str]) -> list[str]:
    """Uses of `names` outside OS_CALL; files are without comments."""
    call = re.compile(r"(?<![\w>.])(" + "|".join(sorted(names)) + r")\(")
    found = []
    for path, text in files.items():
        flat = re.sub(r'"(?:\\.|[^"\\])*"', '""', text)
        for statement in re.split(r"[;{}]", flat):
            uses = call.findall(statement)
            if uses and ("OS_CALL(" not in statement or not path.startswith("src/os/")):
                found.append(f"{path}: {uses[0]}")
    return found


def test_every_call_that_can_fail_can_be_made_to(c_tree, without_comments):
    names = set(TABLE.findall(c_tree["src/os/fault.c"])) | POINTS_ONLY
    assert len(names) > 25
    files = {
        path: without_comments(text)
        for path, text in c_tree.items()
        if path.startswith(("src/os/", "src/core/")) and "/fault." not in path
    }
    assert unguarded(files, names - WRAPPED) == []


def test_the_rule_finds_offenders():
    files = {
        "src/os/a.c": "int f(void) { return OS_CALL(-1, open(p, 0)); } int g(void) { close(3); }",
        "src/core/b.c": "void f(void) { x = malloc(8); att->read(3); sf_open(2); }",
    }
    assert unguarded(files, {"open", "close", "malloc", "read"}) == [
        "src/os/a.c: close",
        "src/core/b.c: malloc",
    ]
