"""`shmflow doctor`: what it says of machines of all kinds, and of this one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from shell import Terminal, piped

import shmflow as sf
from shmflow.cli import doctor_checks as checks

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path):
    """A tree of files: machine({"proc/version": "..."}) -> its root."""

    def make(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "machine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "machine"

    return make


# ---- machines of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "level"),
    [
        ("6.8.0-45-generic", "OK"),
        ("5.4.0", "OK"),
        ("5.15.153.1-microsoft-standard-WSL2", "OK"),
        ("4.18.0-553.el8.x86_64", "look"),
        ("3.10.0-1160.el7.x86_64", "bad"),
        ("4.4.0-19041-Microsoft", "bad"),
    ],
)
def test_kernels(release, level):
    assert checks.kernel(release).level == level


@pytest.mark.parametrize(
    ("source", "cost", "level"),
    [("tsc", 60, "OK"), ("kvm-clock", 60, "OK"), ("hpet", 60, "look"), ("tsc", 900, "look")],
)
def test_clocks(machine, source, cost, level):
    folder = "sys/devices/system/clocksource/clocksource0"
    root = machine({f"{folder}/current_clocksource": source + "\n"})
    finding = checks.clock(root, cost)
    assert finding.level == level and source in finding.found


def test_processors(machine):
    arm = machine({"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd atomics crc32\n"})
    assert "LSE" in checks.processors(arm, "aarch64", 4).found
    old = machine({"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n"})
    assert "without LSE" in checks.processors(old, "aarch64", 4).found
    assert checks.processors(old, "x86_64", 1).level == "look"
    assert checks.processors(old, "riscv64", 4).level == "bad"


def test_a_cpu_quota_of_the_cgroup_or_one_above_it_is_found(machine):
    root = machine(
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        }
    )
    finding = checks.processors(root, "x86_64", 4)
    assert finding.level == "look" and "a quota of 0.5" in finding.found


MOUNTS = """\
20 1 0:1 / / rw - overlay overlay rw
30 20 0:2 / /dev/shm rw,nosuid - tmpfs shm rw,size=65536k{options}
31 20 0:3 / /net/with\\040space rw - nfs4 server:/x rw
32 20 0:4 / /data rw shared:1 - ext4 /dev/sda1 rw
"""


@pytest.mark.parametrize(
    ("folder", "mount"),
    [
        ("/dev/shm", "tmpfs"),
        ("/dev/shm/mine", "tmpfs"),
        ("/dev/shmother", "overlay"),
        ("/net/with space/x", "nfs4"),
        ("/data", "ext4"),
    ],
)
def test_the_file_system_of_a_folder(machine, folder, mount):
    root = machine({"proc/self/mountinfo": MOUNTS.format(options="")})
    assert checks.mount_at(root, folder)[1] == mount


@pytest.mark.parametrize(
    ("kind", "chosen", "level"),
    [
        ("tmpfs", False, "OK"),
        ("tmpfs", True, "look"),
        ("ext4", True, "look"),
        ("nfs4", True, "bad"),
        ("fuse.sshfs", True, "bad"),
    ],
)
def test_where_topics_lie(machine, tmp_path, kind, chosen, level):
    line = f"20 1 0:1 / {tmp_path} rw - {kind} x rw\n"
    finding = checks.location(machine({"proc/self/mountinfo": line}), str(tmp_path), chosen)
    assert finding.level == level and kind in finding.found
    assert bool(finding.todo) == (level != "OK")


def test_a_folder_that_cannot_carry_topics_is_bad_whatever_it_lies_on(machine, tmp_path):
    line = f"20 1 0:1 / {tmp_path} rw - overlay x rw\n"
    root = machine({"proc/self/mountinfo": line})
    finding = checks.location(root, str(tmp_path), True, "it cannot reserve memory")
    assert finding.level == "bad" and "overlay: it cannot reserve memory" in finding.found
    assert "leave SHMFLOW_DIR out" in finding.todo


@pytest.mark.parametrize("options", ["ro - tmpfs x rw", "rw - tmpfs x ro,size=4k"])
def test_a_folder_that_is_mounted_read_only_is_said_to_be(machine, tmp_path, options):
    line = f"20 1 0:1 / {tmp_path} {options}\n"
    finding = checks.location(machine({"proc/self/mountinfo": line}), str(tmp_path / "."), True)
    assert finding.level == "bad" and "mounted read-only" in finding.found
    assert f"remount,rw {tmp_path};" in finding.todo


def test_a_folder_that_is_not_there(machine, tmp_path):
    finding = checks.location(machine({"x": ""}), str(tmp_path / "absent"), True)
    assert finding.level == "bad" and "unset SHMFLOW_DIR" in finding.todo


@pytest.mark.parametrize(
    ("total", "free", "container", "level", "words"),
    [
        (8192 * MIB, 8000 * MIB, False, "OK", ""),
        (0, 0, False, "OK", ""),
        (64 * MIB, 60 * MIB, True, "look", "--shm-size"),
        (16 * MIB, 15 * MIB, False, "look", "remount,size=8g /dev/shm"),
        (8192 * MIB, 100 * MIB, False, "look", "remount,size=8g /dev/shm"),
        (8192 * MIB, 100 * MIB, True, "look", "--ipc=host"),
        (64 * MIB, MIB, True, "bad", "shmflow rm --idle"),
    ],
)
def test_space(total, free, container, level, words):
    mount = ("/dev/shm", "tmpfs", "rw")
    finding = checks.space("/dev/shm/mine", total, free, container, mount)
    assert finding.level == level and words in finding.todo
    assert ("Docker" in finding.found) == (container and total == 64 * MIB and free > 2 * MIB)


def test_space_of_a_disk_is_not_enlarged_by_mount_options():
    finding = checks.space("/x/y", 100 * MIB, MIB, False, ("/x", "ext4", "rw"))
    assert "remount" not in finding.todo and "/x, which is ext4" in finding.todo


def test_inodes():
    assert checks.inodes(0, 0).level == "OK"
    assert checks.inodes(1000, 500).level == "OK"
    assert checks.inodes(1000, 3).level == "bad"


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max file size             {size:<20} unlimited            bytes
Max open files            {files:<20} 4096                 files
"""


@pytest.mark.parametrize(
    ("size", "files", "levels"),
    [
        ("unlimited", 1024, ["OK", "OK"]),
        ("unlimited", 256, ["OK", "OK"]),
        ("unlimited", 16, ["look", "OK"]),
        (100 * MIB, 1024, ["OK", "look"]),
        (MIB, 1024, ["OK", "bad"]),
    ],
)
def test_limits(machine, size, files, levels):
    root = machine({"proc/self/limits": LIMITS.format(size=size, files=files)})
    assert [finding.level for finding in checks.limits(root)] == levels


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "level", "words"),
    [
        ({"proc/self/cgroup": "0::/\n"}, "OK", "no cgroup limits"),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/memory.max": "max\n",
                f"{V2}/a/b/memory.current": "1000\n",
                f"{V2}/a/memory.max": f"{512 * MIB}\n",
                f"{V2}/a/memory.current": f"{500 * MIB}\n",
            },
            "look",
            "admits 512.0 MiB, 500.0 MiB",
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/x\n0::/\n",
                f"{V1}/memory.limit_in_bytes": f"{4096 * MIB}\n",
                f"{V1}/memory.usage_in_bytes": f"{96 * MIB}\n",
            },
            "OK",
            "admits 4.0 GiB",
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/\n",
                f"{V1}/memory.limit_in_bytes": "9223372036854771712\n",
                f"{V1}/memory.usage_in_bytes": f"{96 * MIB}\n",
            },
            "OK",
            "no cgroup limits",
        ),
    ],
)
def test_memory_of_the_cgroup(machine, files, level, words):
    finding = checks.memory_limit(machine(files))
    assert finding.level == level and words in finding.found


OFF, COMMENT = "[Login]\nRemoveIPC=no\n", "[Login]\n#RemoveIPC=no\n"
LOGIND = {"run/systemd/seats/seat0": "", "etc/login.defs": "SYS_UID_MAX  999\n"}


@pytest.mark.parametrize(
    ("files", "uid", "folder", "level"),
    [
        ({}, 1000, "/dev/shm", "OK"),
        (LOGIND, 1000, "/dev/shm", "look"),
        (LOGIND, 999, "/dev/shm", "OK"),
        (LOGIND, 1000, "/mnt/ring", "OK"),
        (LOGIND | {"var/lib/systemd/linger/eva": ""}, 1000, "/dev/shm", "OK"),
        (LOGIND | {"etc/systemd/logind.conf": OFF}, 1000, "/dev/shm", "OK"),
        (LOGIND | {"etc/systemd/logind.conf": COMMENT}, 1000, "/dev/shm", "look"),
        (
            LOGIND
            | {
                "usr/lib/systemd/logind.conf.d/10.conf": "[Login]\nRemoveIPC=yes\n",
                "etc/systemd/logind.conf.d/10.conf": "[Login]\nRemoveIPC=off\n",
            },
            1000,
            "/dev/shm",
            "OK",
        ),
    ],
)
def test_what_logind_removes(machine, files, uid, folder, level):
    finding = checks.remove_ipc(machine(files | {"x": ""}), uid, "eva", folder)
    assert finding.level == level
    assert ("enable-linger eva" in finding.todo) == (level == "look")


@pytest.mark.parametrize(
    ("files", "environment", "kind"),
    [
        ({"x": ""}, {}, ""),
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": ""}, {}, "podman"),
        ({"proc/1/cgroup": "1:x:/kubepods/y\n"}, {}, "kubepods"),
        ({"x": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({"x": ""}, {"container": "systemd-nspawn"}, "systemd-nspawn"),
    ],
)
def test_containers(machine, files, environment, kind):
    root = machine(files | {"proc/self/status": "Name:\tx\nNSpid:\t812\t7\n"})
    assert checks.container_kind(root, environment) == kind
    finding = checks.container(root, environment, "/dev/shm")
    assert finding.level == "OK" and "PID namespace" in finding.found
    assert ("--ipc" in finding.todo) == bool(kind)


@pytest.mark.parametrize(
    ("kernel", "option", "words"),
    [
        ("always within_size advise [never] deny force", "", "pages of 4 KiB"),
        ("always within_size advise [never] deny force", ",huge=within_size", "huge=within_size"),
        ("always within_size advise never [deny] force", ",huge=always", "deny"),
        ("", "", "has none"),
    ],
)
def test_huge_pages(machine, kernel, option, words):
    root = machine(
        {
            "proc/self/mountinfo": MOUNTS.format(options=option),
            "sys/kernel/mm/transparent_hugepage/shmem_enabled": kernel,
        }
    )
    assert words in checks.huge_pages(root, "/dev/shm").found


# ---- what is left over ---------------------------------------------------------------------------


def test_leftovers_are_found_and_left_alone(folder, monkeypatch, spawn):
    from shmflow.cli import doctor_topics

    monkeypatch.setattr(doctor_topics, "LARGE", MIB)
    assert [f.level for f in doctor_topics.leftovers(folder)] == ["OK", "OK", "OK"]
    with sf.Topic("idle", "w", capacity="2 MiB") as topic:
        topic.write(1)
    child = spawn("""
        import shmflow
        topic = shmflow.Topic("died", "w", capacity="1 MiB")
        topic.write(1)
        print("ready")
        input()
    """)
    child.expect("ready")
    child.kill()
    (folder / "shmflow.broken").write_bytes(b"nonsense" * 1000)
    (folder / ".shmflow-half").write_bytes(b"")
    before = sorted(os.listdir(folder))
    broken, dead, idle = doctor_topics.leftovers(folder)
    assert broken.level == "bad" and broken.todo.endswith("shmflow rm broken")
    assert dead.level == "look" and f"pid {child.pid}" in dead.found
    assert "1 unfinished file" in dead.found and "shmflow clean" in dead.todo
    assert idle.level == "look" and "idle (" in idle.found and "died (" in idle.found
    assert sorted(os.listdir(folder)) == before


def test_topics_of_others_that_may_not_be_read(folder, monkeypatch):
    from shmflow.cli import doctor_topics

    sf.Topic("cam", "w", capacity="1 MiB").close()
    assert doctor_topics.permissions(os.getuid()).found == "all topics are yours"
    assert "1 topics of other users" in doctor_topics.permissions(os.getuid() + 1).found
    monkeypatch.setattr(doctor_topics.os, "access", lambda *_: False)
    finding = doctor_topics.permissions(os.getuid() + 1)
    assert finding.level == "look" and "cam of" in finding.found and "0o660" in finding.todo
    os.unlink(folder / "shmflow.cam")


# ---- this machine --------------------------------------------------------------------------------


def test_the_self_test_leaves_nothing(folder):
    from shmflow.cli.doctor_trial import trial

    finding = trial()
    assert finding.level == "OK", finding
    assert os.listdir(folder) == []


def test_a_self_test_that_cannot_run_says_why(folder, monkeypatch):
    from shmflow.cli import doctor_trial

    monkeypatch.setattr(doctor_trial.sys, "executable", "/bin/false")
    finding = doctor_trial.trial()
    assert finding.level == "bad" and "the child process ended" in finding.found
    assert os.listdir(folder) == []


def test_json_has_every_check_and_the_status_follows_the_worst(folder):
    status, out, err = piped("doctor", "--json")
    found = {line["check"]: line for line in map(json.loads, out.splitlines())}
    assert err == "" and {"kernel", "space", "clock", "self-test", "RemoveIPC"} <= found.keys()
    assert status == any(line["level"] == "bad" for line in found.values())
    assert found["self-test"]["level"] == "OK"
    folder.rmdir()
    status, out, _ = piped("doctor")
    assert status == 1 and "is not there" in out and "1 of " in out


def test_on_a_terminal_long_lines_are_folded_and_ctrl_c_leaves_nothing(folder):
    with Terminal("doctor", columns=100) as doctor:
        assert doctor.finish() in (0, 1)
        lines = doctor.said.splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert any("self-test" in line for line in lines)
    with Terminal("doctor") as doctor:
        doctor.expect("versions")
        time.sleep(0.2)  # anywhere
        assert doctor.ctrl_c() in (0, 1, 130)
    assert os.listdir(folder) == []
