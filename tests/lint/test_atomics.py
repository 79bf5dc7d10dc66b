"""Each atomic access of the core says what it pairs with, or why relaxed is enough; and all of them
go through the named operations of src/core/atomics.h."""

from __future__ import annotations

import re

ACCESS = re.compile(
    r"\bsf_(?:load|store|cas|add|sub|or|and|xchg|fence)_(?:relaxed|acquire|release|acq_rel|seq)\w*\s*\("
)
RAW = re.compile(r"\b(?:atomic_\w+\s*\(|__atomic_\w+|__sync_\w+|__c11_\w+)")
HOME = "src/core/atomics.h"
REACH = 6  # lines above, not counting other accesses, as far as no blank line is between


def comment_lines(text: str) -> set[int]:
    """The numbers (from 0) of the lines that hold a comment or a part of one."""
    lines = set()
    for match in re.finditer(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL):
        first = text.count("\n", 0, match.start())
        lines |= set(range(first, first + match.group().count("\n") + 1))
    return lines


def uncommented(files: dict[str, str], without_comments) -> list[str]:
    found = []
    for path, text in files.items():
        if not path.startswith("src/core/") or path == HOME:
            continue
        commented = comment_lines(text)
        lines = text.split("\n")
        codes = without_comments(text).split("\n")
        for number, code in enumerate(codes):
            if not ACCESS.search(code):
                continue
            above, left = number, REACH
            while above not in commented and lines[above].strip() and above > 0 and left > 0:
                above -= 1
                left -= not ACCESS.search(codes[above])
            if above not in commented:
                found.append(f"{path}:{number + 1}: {lines[number].strip()}")
    return found


def raw(files: dict[str, str], without_comments) -> list[str]:
    return [
        f"{path}:{number + 1}: {line.strip()}"
        for path, text in files.items()
        if path != HOME
        for number, line in enumerate(without_comments(text).split("\n"))
        if RAW.search(line)
    ]


def test_each_atomic_access_is_commented(c_tree, without_comments):
    assert HOME in c_tree
    assert uncommented(c_tree, without_comments) == []


def test_atomic_operations_go_through_their_names(c_tree, without_comments):
    assert raw(c_tree, without_comments) == []


def test_the_public_header_is_free_of_atomics(c_tree):
    assert "_Atomic" not in c_tree["src/core/shmflow.h"]


def test_the_rule_finds_offenders(without_comments):
    files = {
        "src/core/ring.c": """\
int a = sf_load_acquire(&x); /* pairs with P1 */

/* Relaxed: only we write it. */
sf_store_relaxed(&x, 1);

sf_fence_release();
// sf_load_relaxed( in a comment only
"no /* comment";
sf_add_relaxed(&x, 1);

__atomic_load_n(&x, 0);
""",
        HOME: "sf_load_x(){ atomic_load(p); }",
    }
    assert uncommented(files, without_comments) == ["src/core/ring.c:6: sf_fence_release();"]
    assert raw(files, without_comments) == ["src/core/ring.c:11: __atomic_load_n(&x, 0);"]
