"""What ``shmflow doctor`` looks at on the machine: one function per check, each gives a Finding.

Owns the judgement: what is well, what deserves a look, what is bad, and what to do then. Functions
take the root of the file tree that they read (/proc, /sys, /etc), or the facts themselves, and
change nothing. Topics are looked at in doctor_topics, the self-test is in doctor_trial.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shmflow._names import format_size, mount_of

MIB = 1 << 20
DOCKER_SHM = 64 * MIB  # what Docker gives a container that asks for nothing
SMALL = 64 * MIB  # in which a 1080p topic of the default size finds no room
OLDEST_KERNEL, OFD_LOCKS = (5, 4), (3, 15)
SLOW_CLOCKS = {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"}
SLOW_CLOCK_NS = 500
IN_MEMORY, REMOTE = {"tmpfs", "ramfs", "hugetlbfs"}, {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `todo`: what to do, or what is good to know."""

    check: str
    level: Literal["OK", "look", "bad"]
    found: str
    todo: str = ""


def text(root: Path, path: str) -> str:
    """A file's text without the space at its ends; '' if it cannot be read."""
    try:
        return (root / path.lstrip("/")).read_text(errors="replace").strip()
    except OSError:
        return ""


# ---- kernel, clock, processors -------------------------------------------------------------------


def kernel(release: str) -> Finding:
    """Futexes on shared files, and locks that the kernel releases when a process dies."""
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    found = f"Linux {release}"
    if "Microsoft" in release and "WSL2" not in release:
        return Finding("kernel", "bad", f"{found}: WSL 1 is no Linux kernel", "convert it to WSL 2")
    if version < OFD_LOCKS:
        return Finding("kernel", "bad", f"{found} has no OFD locks", "5.4 or later is needed")
    if version < OLDEST_KERNEL:
        return Finding("kernel", "look", found, "shmflow is tested with 5.4 and later")
    return Finding("kernel", "OK", f"{found}: futex, OFD locks")


def clock(root: Path, cost_ns: float) -> Finding:
    """Each message takes a time stamp: what it is made of, and what it costs."""
    source = text(root, "/sys/devices/system/clocksource/clocksource0/current_clocksource")
    found = f"{source or 'of unknown source'}, {cost_ns:.0f} ns per reading from Python"
    if source in SLOW_CLOCKS or cost_ns > SLOW_CLOCK_NS:
        todo = "each message pays for it; the kernel log says why tsc is not used (dmesg)"
        return Finding("clock", "look", found, todo)
    return Finding("clock", "OK", found)


def processors(root: Path, machine: str, usable: int) -> Finding:
    """Lock-free 64-bit atomics, and how many processors this process may use."""
    if machine not in ("x86_64", "aarch64"):
        return Finding("cpu", "bad", machine, "shmflow runs on x86_64 and aarch64")
    info = text(root, "/proc/cpuinfo")
    if machine == "x86_64":
        atomics = "64-bit atomics"
    else:
        features = re.search(r"^Features\s*:(.*)$", info, re.M)
        large = features is not None and "atomics" in features[1].split()
        atomics = "64-bit atomics, " + ("LSE" if large else "without LSE: slower under contention")
    online = len(re.findall(r"^processor\s*:", info, re.M)) or usable
    quota = cpu_quota(root)
    found = f"{machine}, {atomics}; {usable} of {online} CPUs usable"
    if quota is not None:
        found += f", a quota of {quota:g}"
    if quota is not None and quota < 1:
        todo = "the cgroup stops its processes again and again: raise cpu.max (--cpus)"
        return Finding("cpu", "look", found, todo)
    if usable == 1:
        todo = "writers and readers take turns on one CPU: a message costs a switch (taskset -p $$)"
        return Finding("cpu", "look", found, todo)
    return Finding("cpu", "OK", found)


def cpu_quota(root: Path) -> float | None:
    """CPUs that the cgroup admits, the tightest on the way up; None: all."""
    quotas = []
    for folder in cgroup_folders(root, ""):
        words = text(root, f"{folder}/cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            quotas.append(int(words[0]) / max(1, int(words[1])))
    return min(quotas, default=None)


def huge_pages(root: Path, folder: str) -> Finding:
    """Whether topics may have huge pages: the mount says so, the kernel may overrule it."""
    chosen = re.search(
        r"\[(\w+)\]", text(root, "/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    )
    point, kind, options = mount_at(root, folder)
    if kind not in ("tmpfs", ""):
        return Finding("huge pages", "OK", f"{folder} is no tmpfs, but {kind}")
    mounted = re.search(r"\bhuge=(\w+)", options)
    if chosen and chosen[1] in ("deny", "force"):
        return Finding("huge pages", "OK", f"the kernel's shmem_enabled says: {chosen[1]}")
    if chosen is None:
        return Finding("huge pages", "OK", "the kernel has none for shared memory")
    if mounted is None or mounted[1] in ("never", "advise"):
        todo = f"nothing to do; for large topics: mount -o remount,huge=within_size {point}"
        return Finding("huge pages", "OK", f"{folder} has pages of 4 KiB", todo)
    return Finding("huge pages", "OK", f"{folder} is mounted with huge={mounted[1]}")


# ---- where topics lie ----------------------------------------------------------------------------


def mount_at(root: Path, folder: str) -> tuple[str, str, str]:
    """Where the file system is mounted that a folder is on, its type and options; '' if unknown."""
    return mount_of(os.path.realpath(folder), text(root, "/proc/self/mountinfo"))


def location(root: Path, folder: str, chosen: bool, refusal: str = "") -> Finding:
    """Where topics lie, and whether that is memory. `chosen`: by SHMFLOW_DIR; `refusal`: what a
    trial file there could not do."""
    where = f"{folder} (SHMFLOW_DIR)" if chosen else folder
    if not os.path.isdir(folder):
        todo = "make it, or unset SHMFLOW_DIR" if chosen else "mount -t tmpfs tmpfs /dev/shm"
        return Finding("folder", "bad", f"{where} is not there", todo)
    point, kind, options = mount_at(root, folder)
    found = f"{where}, {kind or 'file system unknown'}"
    if "ro" in options.split(","):
        todo = f"mount -o remount,rw {point}; until then topics there can be watched, no more"
        return Finding("folder", "bad", f"{found}, mounted read-only", todo)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("folder", "bad", f"{where} cannot be written", "chmod 1777, as its owner")
    if refusal:
        todo = "leave SHMFLOW_DIR out for /dev/shm, or take another folder of tmpfs"
        return Finding("folder", "bad", f"{found}: {refusal}", todo)
    if kind in REMOTE or kind.startswith("fuse"):
        todo = "memory of such a file system is not shared reliably: take one of tmpfs"
        return Finding("folder", "bad", found, todo)
    if kind and kind not in IN_MEMORY:
        todo = "it works, but the kernel writes messages to the disk: take a folder of tmpfs"
        return Finding("folder", "look", found, todo)
    if chosen:
        todo = "processes see each other's topics only if all have the same SHMFLOW_DIR"
        return Finding("folder", "look", found, todo)
    return Finding("folder", "OK", found)


def space(
    folder: str, total: int, free: int, container: bool, mount: tuple[str, str, str]
) -> Finding:
    """Bytes: in all, and free to this user. `mount`: as mount_at has it."""
    point, kind, _ = mount
    if total == 0:
        return Finding("space", "OK", "not limited")
    found = (
        f"{format_size(total)} in all, {format_size(max(0, total - free))} used, "
        f"{format_size(free)} free"
    )
    larger = (
        "start the container with --shm-size=1g, or --ipc=host (Kubernetes: an emptyDir of medium "
        f"Memory at {folder})"
        if container
        else f"mount -o remount,size=8g {point}"
        if kind in ("tmpfs", "")
        else f"{point}, which is {kind}"
    )
    if free < 2 * MIB:
        todo = f"remove topics (shmflow rm --idle) or enlarge it: {larger}"
        return Finding("space", "bad", f"{found}: no topic fits", todo)
    if total <= SMALL:
        default = ": as Docker has it by default" if container and total == DOCKER_SHM else ""
        return Finding("space", "look", f"{found}{default}", larger)
    if free < total // 10:
        todo = f"remove topics (shmflow rm --idle) or enlarge it: {larger}"
        return Finding("space", "look", found, todo)
    return Finding("space", "OK", found)


def inodes(total: int, free: int) -> Finding:
    """Each topic is a file."""
    if total == 0:
        return Finding("inodes", "OK", "not limited")
    found = f"{free:,} of {total:,} free"
    if free < 16:
        todo = "remove files, or remount with a larger nr_inodes"
        return Finding("inodes", "bad", found, todo)
    return Finding("inodes", "OK", found)


# ---- limits --------------------------------------------------------------------------------------


def limits(root: Path) -> list[Finding]:
    """What a process may have: descriptors, and the length of a file."""
    table = {}
    for line in text(root, "/proc/self/limits").splitlines():
        match = re.match(r"(Max [a-z ]+?)\s{2,}(\S+)\s+(\S+)", line)
        if match:
            table[match[1]] = match[2], match[3]
    soft, hard = table.get("Max open files", ("unlimited", "unlimited"))
    found = f"{soft} open files (at most {hard}); a Topic keeps none, but for its fileno()"
    if soft.isdigit() and int(soft) < 32:
        files = Finding("open files", "look", found, f"ulimit -n {hard}")
    else:
        files = Finding("open files", "OK", found)
    length = table.get("Max file size", ("unlimited", ""))[0]
    if not length.isdigit():
        return [files, Finding("file size", "OK", "not limited")]
    found = f"files of at most {format_size(int(length))}, topics too"
    level: Literal["look", "bad"] = "bad" if int(length) < 2 * MIB else "look"
    return [files, Finding("file size", level, found, "ulimit -f unlimited")]


def cgroup_folders(root: Path, controller: str) -> list[str]:
    """The cgroup of this process and those above it, in /sys/fs/cgroup: of version 2 for controller
    '', else of version 1."""
    for line in text(root, "/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (number == "0" and not names) if not controller else controller in names.split(","):
            base = "/sys/fs/cgroup" + (f"/{controller}" if controller else "")
            parts = [part for part in path.split("/") if part and part != ".."]
            return ["/".join([base, *parts[:n]]) for n in range(len(parts), -1, -1)]
    return []


def memory_limit(root: Path) -> Finding:
    """Topics count as memory of the cgroup that wrote them first."""
    tightest: tuple[int, int, int] | None = None  # room, limit, used
    for controller, limit_name, used_name in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in cgroup_folders(root, controller):
            limit, used = (text(root, f"{folder}/{name}") for name in (limit_name, used_name))
            if limit.isdigit() and used.isdigit() and int(limit) < 2**60:
                room = int(limit) - int(used), int(limit), int(used)
                tightest = min(tightest or room, room)
    if tightest is None:
        return Finding("memory limit", "OK", "no cgroup limits this process's memory")
    room_left, limit_len, used_len = tightest
    found = f"the cgroup admits {format_size(limit_len)}, {format_size(used_len)} are used"
    if room_left < max(64 * MIB, limit_len // 10):
        todo = "topics need room in it: raise the limit (docker --memory, systemd MemoryMax=)"
        return Finding("memory limit", "look", found, todo)
    return Finding("memory limit", "OK", found)


# ---- who removes, who shares ---------------------------------------------------------------------


def remove_ipc(root: Path, uid: int, user: str, folder: str) -> Finding:
    """systemd's logind removes a user's files in /dev/shm when the last session of the user ends,
    unless told otherwise; not those of system users."""
    name = "RemoveIPC"
    if not folder.startswith("/dev/shm"):
        return Finding(name, "OK", f"{folder} is not cleared at logout")
    if not (root / "run/systemd/seats").is_dir():
        return Finding(name, "OK", "no logind runs here")
    defs = re.search(r"^\s*SYS_UID_MAX\s+(\d+)", text(root, "/etc/login.defs"), re.M)
    if uid <= (int(defs[1]) if defs else 999):
        return Finding(name, "OK", f"not for system users (uid {uid})")
    if not _asks_removal(root):
        return Finding(name, "OK", "switched off in logind.conf")
    if (root / "var/lib/systemd/linger" / user).exists():
        return Finding(name, "OK", f"{user} lingers: nothing is removed at logout")
    todo = (
        "topics are removed at your last logout, also under services of your user: "
        f"loginctl enable-linger {user}, or RemoveIPC=no in /etc/systemd/logind.conf"
    )
    return Finding(name, "look", f"logind clears {folder} of {user}'s files at logout", todo)


def _asks_removal(root: Path) -> bool:
    bases = ("usr/lib/systemd", "run/systemd", "etc/systemd")
    files = [root / base / "logind.conf" for base in bases]
    drop_ins: dict[str, Path] = {}
    for base in bases:  # a later one takes the place of an earlier one of the same name
        drop_ins |= {path.name: path for path in (root / base / "logind.conf.d").glob("*.conf")}
    removes = True
    for path in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        try:
            parser.read(path)
            value = parser.get("Login", "RemoveIPC", fallback=None)
        except (configparser.Error, UnicodeDecodeError):
            continue
        if value:
            removes = value.strip().lower() in ("yes", "true", "1", "on", "y", "t")
    return removes


def container_kind(root: Path, environment: Mapping[str, str]) -> str:
    """'docker', 'podman', ...; '' outside of any."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    if environment.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    match = re.search(r"docker|kubepods|containerd|libpod|lxc", text(root, "/proc/1/cgroup"))
    return match[0] if match else environment.get("container", "")


def container(root: Path, environment: Mapping[str, str], folder: str) -> Finding:
    """Who can share topics with this process at all."""
    kind = container_kind(root, environment)
    match = re.search(r"^NSpid:(.*)$", text(root, "/proc/self/status"), re.M)
    nested = match is not None and len(match[1].split()) > 1
    pids = "; a PID namespace of its own: others show other pids for the same process"
    if not kind:
        return Finding("container", "OK", "none" + pids * nested)
    todo = (
        f"only who has the same {folder} shares topics: --ipc=host, --ipc=container:NAME, one pod, "
        "or one tmpfs volume and SHMFLOW_DIR in all"
    )
    return Finding("container", "OK", kind + pids * nested, todo)
