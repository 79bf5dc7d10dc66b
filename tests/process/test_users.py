"""Who may do what: every mode of a topic's file × owner, group, others × every call.

Owns: the table, as a rule that each cell is compared with; that what is refused has changed
nothing; topics that root made, strangers' names, odd permissions.
Does not own: the texts of refusals (tests/api/test_room_and_permission.py).

Each cell is a process of its own that has become that user; this needs root.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from needs import missing

MODES = [0o600, 0o620, 0o640, 0o644, 0o604, 0o606, 0o660, 0o664, 0o666]
CALLS = ["monitor", "r", "w", "rw", "w shared", "rw shared", "topics", "clean", "unlink"]
WHO = {"owner": (12345, 23456), "group": (12346, 23456), "others": (12347, 23457)}


@pytest.fixture
def folder(topic_name: str) -> Iterator[Path]:
    """Where every user may make and none may remove another's, as /dev/shm is: sticky."""
    if os.geteuid() != 0:
        missing("only root can become other users")
    path = Path("/dev/shm") / f"shmflow-users-{topic_name}"
    path.mkdir()
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


# As root. Everything is imported first: other users need not be able to read where it lies.
TABLE = """
import errno, json, os, sys, traceback
import difflib
import numpy as np
import shmflow, shmflow._admin, shmflow._errors, shmflow._texts, shmflow._wire
[getattr(shmflow, name) for name in shmflow.__all__]
np.zeros(3)[0] == 1, repr(np.arange(3))

def as_user(uid, gid, act):
    # The outcome of act() in a process of that user: a JSON value, or the error's name and errno.
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.umask(0o077)  # must not matter
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            try:
                said = act()
            except shmflow.Error as error:
                said = f"{type(error).__name__} {errno.errorcode[error.errno]}"
                assert isinstance(error, PermissionError) and error.filename, error
        except BaseException:
            said = traceback.format_exc()
        os.write(w, json.dumps(said).encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)

def opened(mode, call, **options):
    name = "t"
    with shmflow.Topic(name, mode, create=False, **options) as topic:
        if call == "monitor" or call == "r":
            assert (topic.read(0) == 7).all()
        elif call == "w":
            topic.write(np.full(20_000, 7, np.uint8))
        else:
            topic.write(np.full(20_000, 7, np.uint8))
            assert (topic.read(0) == 7).all()
    return "works"

def listed():
    (info,) = shmflow.topics()
    assert info.name == "t"
    return "works" if not info.error and info.head >= 1 and info.writers == 1 else "listed only"

def unlinked():
    shmflow.unlink("t")
    return "works"

def cleaned():
    shmflow.clean()  # never an error
    return "works"

def calls(permissions):
    shared = dict(permissions=permissions)
    return {
        "monitor": lambda: opened("monitor", "monitor"),
        "r": lambda: opened("r", "r"),
        "w": lambda: opened("w", "w"),
        "rw": lambda: opened("rw", "rw"),
        "w shared": lambda: opened("w", "w", **shared),
        "rw shared": lambda: opened("rw", "rw", **shared),
        "topics": listed,
        "clean": cleaned,
        "unlink": unlinked,
    }

def one_mode(permissions, owner, who):
    r, w = os.pipe()
    back_r, back_w = os.pipe()
    pid = os.fork()
    if pid == 0:  # the owner, attached and writing all the while
        try:
            os.close(w); os.close(back_r)
            os.umask(0o077)
            os.setgroups([]); os.setgid(owner[1]); os.setuid(owner[0])
            topic = shmflow.Topic("t", "w", capacity="1 MiB", permissions=permissions)
            seq = topic.write(np.full(20_000, 7, np.uint8))
            os.write(back_w, b".")
            while os.read(r, 1):
                topic.write(np.full(20_000, 7, np.uint8))
                assert not topic.ended and topic.generation == 1
                os.write(back_w, b".")
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(r); os.close(back_w)
    assert os.read(back_r, 1) == b"."
    path = os.environ["SHMFLOW_DIR"] + "/shmflow.t"
    assert os.stat(path).st_mode & 0o7777 == permissions, oct(os.stat(path).st_mode)
    table = {}
    for role, (uid, gid) in who.items():
        for call, act in calls(permissions).items():
            table[f"{permissions:04o} {role} {call}"] = said = as_user(uid, gid, act)
            if call == "unlink" and said == "works":
                continue
            os.write(w, b".")
            assert os.read(back_r, 1) == b".", "the owner could not go on"
    os.close(w)
    os.waitpid(pid, 0)
    if os.path.exists(path):
        os.unlink(path)
    return table

table = {}
owner, who = json.loads(sys.argv[2])
for permissions in json.loads(sys.argv[1]):
    table |= one_mode(permissions, owner, who)
print(json.dumps(table))
"""


def expected(mode: int, who: str, call: str, strangers: bool = True) -> str:
    """The rule: joining needs reading and writing, monitoring needs reading, removing is the
    owner's; and nobody gives data to a stranger's topic without meaning to share."""
    bits = mode >> {"owner": 6, "group": 3, "others": 0}[who] & 7
    if call == "clean":
        return "works"
    if call == "topics":
        return "works" if bits & 4 else "listed only"
    if call == "unlink":
        return "works" if who == "owner" else "NotAllowed EACCES"
    if not bits & 4:
        return "NotAllowed EACCES"
    if call == "monitor":
        return "works"
    # A shared topic of 0600 is none: there, `shared` gives the default.
    means_to = (call.endswith("shared") and mode & 0o077) or who == "owner" or not strangers
    if call != "r" and not means_to:
        return "NotAllowed EPERM"
    return "works" if bits & 6 == 6 else "NotAllowed EACCES"


def observe(
    run_python: Callable[..., Any],
    folder: Path,
    modes: list[int],
    owner: tuple[int, int],
    who: dict[str, tuple[int, int]],
) -> dict[str, str]:
    done = run_python(
        TABLE,
        json.dumps(modes),
        json.dumps([owner, who]),
        env={"SHMFLOW_DIR": str(folder)},
        timeout=100,
    )
    assert done.stderr == ""
    assert list(folder.iterdir()) == []
    table: dict[str, str] = json.loads(done.stdout)
    return table


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode:04o}")
def test_each_user_can_do_what_the_permissions_admit_and_no_more(
    folder: Path, run_python: Callable[..., Any], mode: int
) -> None:
    # The owner comes last: it can remove the topic.
    order = {who: WHO[who] for who in ("others", "group", "owner")}
    table = observe(run_python, folder, [mode], WHO["owner"], order)
    assert table == {
        f"{mode:04o} {who} {call}": expected(mode, who, call) for who in order for call in CALLS
    }


def test_a_topic_that_root_made_is_nobodys_trap(
    folder: Path, run_python: Callable[..., Any]
) -> None:
    others = {"others": WHO["others"]}
    modes = [0o600, 0o644, 0o666]
    table = observe(run_python, folder, modes, (0, 0), others)
    assert table == {
        f"{mode:04o} others {call}": expected(mode, "others", call, strangers=False)
        for mode in modes
        for call in CALLS
    }


def test_root_may_do_everything_with_anybodys_topic_but_give_data_to_it_by_mistake(
    folder: Path, run_python: Callable[..., Any]
) -> None:
    table = observe(run_python, folder, [0o600, 0o660], WHO["owner"], {"root": (0, 0)})
    refused = {"0600 root w", "0600 root rw", "0600 root w shared", "0600 root rw shared"}
    refused |= {"0660 root w", "0660 root rw"}
    assert table == {
        f"{mode} root {call}": "NotAllowed EPERM" if f"{mode} root {call}" in refused else "works"
        for mode in ("0600", "0660")
        for call in CALLS
    }


def test_who_makes_the_name_first_does_not_get_the_data(
    folder: Path, run_python: Callable[..., Any]
) -> None:
    run_python(
        """
        import errno, os, sys
        import difflib
        import numpy as np
        import shmflow, shmflow._admin, shmflow._errors, shmflow._texts
        [getattr(shmflow, name) for name in shmflow.__all__]

        def become(uid):
            os.setgroups([]); os.setgid(uid); os.setuid(uid)

        # Somebody lays a trap that everybody may use, under a name that will be wanted.
        pid = os.fork()
        if pid == 0:
            become(12346)
            shmflow.Topic("cam", "w", capacity="1 MiB", permissions=0o666).write(b"bait")
            os._exit(0)
        os.waitpid(pid, 0)
        pid = os.fork()
        if pid == 0:
            become(12345)
            status = 1
            try:
                for options in ({}, {"capacity": "1 MiB"}, {"capacity": "2 MiB"}, {"create": True},
                                {"create": False}, {"replace": True}):
                    for mode in ("w", "rw"):
                        try:
                            shmflow.Topic("cam", mode, **options).write(b"secret")
                        except (shmflow.NotAllowed, shmflow.TopicExists) as error:
                            assert error.errno in (errno.EPERM, errno.EACCES, errno.EEXIST)
                        else:
                            raise AssertionError(options)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with shmflow.Topic("cam", "monitor") as topic:
            assert topic.head == 1 and not topic.ended
            assert topic.participants() == [] or not any(p.alive for p in topic.participants())
        shmflow.unlink("cam")
        """,
        env={"SHMFLOW_DIR": str(folder)},
    )
    assert list(folder.iterdir()) == []


def test_who_has_become_another_user_is_told_why_a_dead_ones_lock_stays(
    folder: Path, run_python: Callable[..., Any]
) -> None:
    run_python(
        """
        import os, signal, struct
        import shmflow, shmflow._errors, shmflow._texts
        [getattr(shmflow, name) for name in shmflow.__all__]

        topic = shmflow.Topic("t", "w", capacity="1 MiB")
        reader = shmflow.Topic("t", "r")
        topic.write(b"before")
        reader.read(0)
        pid = os.fork()
        if pid == 0:
            other = shmflow.Topic("t", "w", create=False)
            other.write(b"there")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        reader.read(0)
        (slot,) = (n for n, p in enumerate(topic.participants()) if not p.alive)
        # It died with the lock: the word that names it as the holder, wherever in the header.
        file = open(os.environ["SHMFLOW_DIR"] + "/shmflow.t", "r+b", buffering=0)
        for offset in range(256, 1024, 64):
            before = os.pread(file.fileno(), 4, offset)
            os.pwrite(file.fileno(), struct.pack("I", slot + 1), offset)
            if (topic._lock_holder() or (0,))[0] == pid:
                break
            os.pwrite(file.fileno(), before, offset)
        file.close()
        os.setgroups([]); os.setgid(23456); os.setuid(12345)

        for tell in (topic.participants, lambda: topic.writers, lambda: topic.readers):
            try:
                tell()
            except shmflow.NotAllowed as error:
                assert "no permission for" in str(error) and "you are 12345" in str(error), error
            else:
                raise AssertionError("it cannot know")
        try:
            reader.read(timeout=0.01)
        except shmflow.Empty as error:
            assert "who is alive cannot be told (Permission denied)" in str(error), error
            assert "no writer is alive" not in str(error)
        try:
            topic.write(b"on", timeout=0.3)
        except shmflow.Full as error:
            text = str(error)
            assert f"by pid {pid}" in text and "if that process is dead" in text, text
            assert "Permission denied" in text and "uid 12345" in text, text
            assert "a stopped process keeps it" not in text, text
        else:
            raise AssertionError("it may not take it")
        """,
        env={"SHMFLOW_DIR": str(folder)},
    )
    # Whoever may open it takes the lock.
    run_python(
        "import shmflow; assert shmflow.Topic('t', 'w').write(b'on') == 3; shmflow.unlink('t')",
        env={"SHMFLOW_DIR": str(folder)},
    )
    assert list(folder.iterdir()) == []
