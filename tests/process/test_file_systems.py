"""File systems: on each, the README's two programs work, or are refused with the reason.

Owns: the table of docs/reliability.md, row by row; what a topic that was copied is told.
Does not own: what is tried on a file (tests/core/test_trial.c), what `doctor` says of machines that
are made up (tests/cli).

Each runs in a mount namespace of its own, which is gone with its processes; this needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import missing

# In the namespace. {at}: where it is mounted; {room}: an empty folder on the disk.
MOUNTS = {
    "tmpfs": "mount -t tmpfs none {at}",
    "tmpfs without a limit": "mount -t tmpfs -o size=0 none {at}",
    "ramfs": "mount -t ramfs none {at}",
    "ext4": "truncate -s 64M {room}/disk && mkfs.ext4 -q {room}/disk && "
    "mount -o loop {room}/disk {at}",
    "overlay": "mkdir {room}/low {room}/up {room}/work && mount -t overlay overlay "
    "-o lowerdir={room}/low,upperdir={room}/up,workdir={room}/work {at}",
    "overlay on tmpfs": "mount -t tmpfs none {room} && mkdir {room}/low {room}/up {room}/work && "
    "mount -t overlay overlay -o lowerdir={room}/low,upperdir={room}/up,workdir={room}/work {at}",
    "fuse": "mkdir {room}/source && bindfs {room}/source {at}",
    "read-only": "mount -t tmpfs none {at} && mount -o remount,ro {at}",
}
OPTIONAL = {"fuse": ("bindfs", "/dev/fuse")}  # CI does without

WRITER = """
import numpy as np
import shmflow

topic = shmflow.Topic("cam", "w")
for number in range(300):
    topic.write(np.full((48, 64, 3), number % 256, np.uint8))
topic.shutdown()
"""

READER = """
import shmflow

seen = 0
topic = shmflow.Topic("cam", "r")
print("subscribed", flush=True)
for frame in topic:
    assert frame.shape == (48, 64, 3) and (frame == frame.flat[0]).all()
    seen += 1
assert seen + topic.lost == 300
print("all", flush=True)
"""

# Started before, and after a first message was written by another process.
BOTH = """
import os, subprocess, sys
import shmflow

writer, reader = (open(sys.argv[n]).read() for n in (1, 2))
python = [sys.executable, "-P", "-c"]
pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
watching = subprocess.Popen([*python, reader], **pipes)
assert watching.stdout.readline() == "subscribed\\n", watching.stderr.read()
wrote = subprocess.run([*python, writer], capture_output=True, text=True)
if wrote.returncode == 0:
    out, err = watching.communicate(timeout=60)
    assert (out, err) == ("all\\n", ""), (out, err)
    first = shmflow.Topic("late", "w", capacity="1 MiB")
    first.write(b"x" * 5000)
    late = shmflow.Topic("late", "r")
    view = late.read(10)
    assert {p.alive for p in first.participants()} == {True} and len(first.participants()) == 2
    assert shmflow.clean() == 0
    for _ in range(2000):
        first.write(b"y" * 5000)
    assert bytes(view) == b"x" * 5000
    print("works")
else:
    watching.kill()
    watching.communicate()
    print(wrote.stderr.strip().splitlines()[-1])
    print(sorted(os.listdir(os.environ["SHMFLOW_DIR"])))
from shmflow.cli.doctor_trial import lack
print("doctor:", lack(os.environ["SHMFLOW_DIR"]))
"""


@pytest.fixture
def inside(tmp_path: Path) -> Callable[..., str]:
    """``inside(mount, script)``: what the script prints, with SHMFLOW_DIR on that file system."""
    if os.geteuid() != 0:
        missing("only root can mount")

    def run(mount: str, script: str) -> str:
        at, room = tmp_path / "at", tmp_path / "room"
        at.mkdir()
        room.mkdir()
        for name, text in (("writer", WRITER), ("reader", READER), ("script", script)):
            (tmp_path / name).write_text(text)
        command = f"set -e; {mount.format(at=at, room=room)} >&2 || exit 77; "
        command += f"trap 'umount -l {at}' EXIT; "
        command += f"{sys.executable} -P {tmp_path}/script {tmp_path}/writer {tmp_path}/reader"
        try:
            done = subprocess.run(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", command],
                capture_output=True,
                text=True,
                timeout=110,
                env=os.environ | {"SHMFLOW_DIR": str(at)},
            )
        except FileNotFoundError:
            missing("no unshare command (util-linux)")
        if done.returncode == 77 or "unshare" in done.stderr:
            missing(f"it cannot be mounted: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def refused(out: str) -> tuple[str, str, str]:
    """The exception's name, its text, and what `doctor` says; the folder is as empty as it was."""
    error, files, doctor = out.splitlines()
    assert files in ("[]", "['lost+found']")
    name, _, text = error.partition(": ")
    return name, text, doctor.removeprefix("doctor:").strip()


@pytest.mark.parametrize("kind", ["tmpfs", "tmpfs without a limit", "ext4"])
def test_the_two_programs_work_on_it(kind: str, inside: Callable[..., str]) -> None:
    if kind == "ext4" and shutil.which("mkfs.ext4") is None:
        missing("no mkfs.ext4")
    assert inside(MOUNTS[kind], BOTH).splitlines() == ["works", "doctor: "]


@pytest.mark.parametrize(
    ("kind", "file_system", "why"),
    [
        ("overlay", "overlay", "ends there with the descriptor"),
        ("overlay on tmpfs", "overlay", "ends there with the descriptor"),
        ("ramfs", "ramfs", "it cannot reserve memory"),
        ("fuse", "fuse", "it cannot reserve memory"),
    ],
)
def test_the_two_programs_are_refused_on_it_with_the_reason(
    kind: str, file_system: str, why: str, inside: Callable[..., str]
) -> None:
    if kind in OPTIONAL:
        tool, device = OPTIONAL[kind]
        if shutil.which(tool) is None or not os.path.exists(device):
            pytest.skip(f"no {tool}, or no {device}")
    name, text, doctor = refused(inside(MOUNTS[kind], BOTH))
    assert name == "shmflow.UnsupportedFileSystem"
    assert f"({file_system})" in text and why in text and "take a folder of tmpfs" in text
    assert why in doctor


def test_on_a_read_only_mount_the_writer_is_told_that_it_is_one(inside: Callable[..., str]) -> None:
    name, text, doctor = refused(inside(MOUNTS["read-only"], BOTH))
    assert name == "shmflow.NotAllowed" and "is mounted read-only" in text
    assert doctor == ""  # the file system could; the mount may not


READ_ONLY = """
import os, subprocess
import shmflow

at = os.environ["SHMFLOW_DIR"]
with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
    topic.write(b"before")
subprocess.run(["mount", "-o", "remount,ro", at], check=True)
with shmflow.Topic("cam", "monitor") as monitor:
    assert bytes(monitor.read(0)) == b"before"
for mode in ("r", "w", "rw"):
    try:
        topic = shmflow.Topic("cam", mode)
        topic.read(0) if mode == "r" else topic.write(b"x")
    except shmflow.NotAllowed as error:
        assert "is mounted read-only" in str(error) and "'monitor'" in str(error), error
    else:
        raise AssertionError(mode)
print("works")
"""


def test_on_a_read_only_mount_what_is_there_can_be_watched(inside: Callable[..., str]) -> None:
    assert inside(MOUNTS["tmpfs"], READ_ONLY) == "works\n"


# As an image of a container has it, or an older version made it: the file is there, on overlayfs.
COPIED_TO = """
import os, shutil
import shmflow

at = os.environ["SHMFLOW_DIR"]
os.environ["SHMFLOW_DIR"] = "/dev/shm"
name = f"copied-{os.getpid()}"
with shmflow.Topic(name, "w", capacity="1 MiB") as topic:
    topic.write(bytes(5000))
with open(f"/dev/shm/shmflow.{name}", "rb") as old, open(f"{at}/shmflow.{name}", "wb") as new:
    new.write(old.read())  # every byte: no holes
shmflow.unlink(name)
os.environ["SHMFLOW_DIR"] = at
for mode in ("r", "w", "rw"):
    for _ in range(2):
        try:
            topic = shmflow.Topic(name, mode)
            topic.read(0) if mode == "r" else topic.write(b"x")
        except shmflow.UnsupportedFileSystem as error:
            assert "(overlay)" in str(error), error
        else:
            raise AssertionError(mode)
with shmflow.Topic(name, "monitor") as monitor:
    assert monitor.head == 1 and monitor.participants() == []
assert not any(f"/shmflow.{name}" in line for line in open("/proc/self/maps"))
print("works")
"""


def test_nobody_takes_part_in_a_topic_where_the_living_look_dead(
    inside: Callable[..., str],
) -> None:
    assert inside(MOUNTS["overlay"], COPIED_TO) == "works\n"


def test_a_copy_with_holes_is_refused_before_its_memory_is_used(
    topic_name: str, shm_dir: Path, run_python: Callable[..., object]
) -> None:
    run_python(
        """
        import os, subprocess, sys
        import shmflow

        name, folder = sys.argv[1:]
        path = f"{folder}/shmflow.{name}"
        with shmflow.Topic(name, "w", capacity="4 MiB") as topic:
            topic.write(bytes(100_000))
        subprocess.run(["cp", "--sparse=always", path, path + ".copy"], check=True)
        assert os.stat(path + ".copy").st_blocks * 512 < os.stat(path).st_size
        for mode in ("monitor", "r", "w", "rw"):
            try:
                topic = shmflow.Topic(f"{name}.copy", mode)
                topic.write(b"x") if "w" in mode else topic.read(0)
            except shmflow.CorruptTopic as error:
                assert "it has holes" in str(error), error
            else:
                raise AssertionError(mode)
        subprocess.run(["cp", "--sparse=never", path, path + ".copy"], check=True)
        with shmflow.Topic(f"{name}.copy") as topic:
            assert (topic.read(0) == bytes(1)[0]).all()
        """,
        topic_name,
        shm_dir,
    )
