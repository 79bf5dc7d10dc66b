"""Random calls of the whole Python interface, by threads of several processes, and a judgement.

Owns: rounds: what a world is like, its processes, their threads and interruptions (signals, also
such that raise; collections that run Python code; forks; SIGSTOP and SIGKILL), deadlines, leaks.
Does not own: the calls (api_actor.py, api_aside.py), what is right (api_model.py).

    fuzz_api.py [--rounds N] [--minutes M] [--seed S] [--break NAME]

What each thread calls follows from the seed: `--seed S --rounds 1` repeats a round's programs, and
`--repeat N` does so N times, for what runs beside them differs. --break plants a fault (BREAKS),
which must be found.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from api_actor import Actor
from api_aside import START_NS, Bell, World
from api_model import LARGEST, Judge, Port, Round

import shmflow

PATIENCE = 90  # s, for a round; one takes about one
STEPS = 60


# ---- planted faults ----------------------------------------------------------------------------


class Broken:
    """A Topic that does not do what it says."""

    def __init__(self, topic: shmflow.Topic, how: str) -> None:
        self.topic, self.how, self.calls = topic, how, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.topic, name)

    def __reduce__(self) -> Any:
        return self.topic.__reduce__()

    def fileno(self) -> int:
        return self.topic.fileno()

    def stats(self) -> Any:
        stats = self.topic.stats()
        if self.how == "lost":  # what a lapped reader lost is not counted
            return shmflow.Stats((*stats[:6], 0, *stats[7:]))
        return stats

    def read_messages(self, *args: Any, **options: Any) -> Any:
        found = self.topic.read_messages(*args, **options)
        self.calls += 1
        if self.how == "skip" and len(found) > 1:
            del found[0]
        if self.how == "twice" and found:
            found.append(found[-1])
        return found

    def read(self, *args: Any, **options: Any) -> Any:
        array = self.topic.read(*args, **options)
        if self.how == "torn" and hasattr(array, "copy") and array.nbytes > 5000:
            array = array.copy()
            array.view("u1").flat[-1] ^= 1
        return array

    def close(self) -> None:
        if self.how != "leak":
            self.topic.close()
        else:
            LEAKED.append(self.topic)


LEAKED: list[Any] = []
BREAKS = ("lost", "skip", "twice", "torn", "leak")


# ---- a process ---------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings(folder: str) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if folder in line]


def collected(phase: str, info: dict[str, int]) -> None:
    """Python code within any call that makes an object."""
    armed, Bell.armed = Bell.armed, False  # what it raises would be ignored
    sum(info.values())
    Bell.armed = armed


def disturb(rng: random.Random, interrupted: bool) -> None:
    if rng.random() < 0.6:
        gc.set_threshold(50)
        gc.callbacks.append(collected)
    if rng.random() < 0.6:
        sys.setswitchinterval(1e-6)
    if interrupted:
        Bell.owner = threading.get_ident()
        signal.signal(signal.SIGALRM, Bell())
        pause = rng.choice([0.002, 0.01])
        signal.setitimer(signal.ITIMER_REAL, pause, pause)


def run_thread(actor: Actor, troubles: list[str], together: threading.Barrier) -> None:
    try:
        for _ in range(STEPS):
            actor.step()
    except BaseException:
        troubles.append(f"actor {actor.number}: {traceback.format_exc()}")
    together.wait(PATIENCE)


def drain_thread(actor: Actor, troubles: list[str]) -> None:
    try:
        actor.drain()
    except BaseException:
        troubles.append(f"actor {actor.number}, draining: {traceback.format_exc()}")


def in_threads(target: Any, each: list[tuple[Any, ...]]) -> None:
    """The first one here, where signals come."""
    threads = [threading.Thread(target=target, args=args) for args in each[1:]]
    for thread in threads:
        thread.start()
    target(*each[0])
    for thread in threads:
        thread.join()


def process(world: World, seed: str, number: int, folder: str, ready: int) -> None:
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE - 10)
    rng = random.Random(seed)
    before = descriptors()
    interrupted = rng.random() < 0.4
    troubles: list[str] = []
    actors = [
        Actor(world, number * 10 + i, random.Random(f"{seed}/{i}"), interrupted and i == 0)
        for i in range(rng.randint(1, 3))
    ]
    disturb(rng, interrupted)
    together = threading.Barrier(len(actors))
    in_threads(run_thread, [(actor, troubles, together) for actor in actors])
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.write(ready, b".")
    in_threads(drain_thread, [(actor, troubles) for actor in actors])
    for actor in actors:
        try:
            actor.leave()
        except BaseException:
            troubles.append(f"actor {actor.number}, leaving: {traceback.format_exc()}")
    ports = [port for actor in actors for port in actor.ports]
    done = sum((Counter(actor.done) for actor in actors), Counter())
    del actors
    gc.collect()
    if not troubles:
        if left := mappings(os.environ["SHMFLOW_DIR"]):
            troubles.append("mappings are left:\n" + "\n".join(left))
        elif descriptors() > before:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]]
            troubles.append(f"{descriptors()} descriptors, {before} before: {links}")
    with open(f"{folder}/{number}", "wb") as file:
        pickle.dump((ports, troubles, done), file)


# ---- a round -----------------------------------------------------------------------------------


def world_of(rng: random.Random, name: str, broken: str | None) -> tuple[World, bool]:
    roomy = rng.random() < 0.25
    options: dict[str, Any] = {"max_message": LARGEST, "max_participants": 256}
    if roomy:
        options |= {"capacity": "256 MiB", "depth": 16_000}
    else:
        depth = rng.choice([2, 8, 30, 64])
        options |= {"capacity": rng.choice([depth * 41_000, 400_000]), "depth": depth}

    def open_topic(name: str, mode: str, **options: Any) -> Any:
        topic = shmflow.Topic(name, mode, **options)
        return topic if broken is None or mode == "w" else Broken(topic, broken)

    unlinks = rng.random() < 0.2
    stamp = time.time_ns() - START_NS
    forks = rng.random() < 0.5
    return World(name, name + "/o", options, stamp, unlinks, forks, open_topic), roomy


def start(world: World, seed: str, number: int, folder: str) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            process(world, f"{seed}/{number}", number, folder, writing)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    return pid, reading


def wait_for(pids: dict[int, int], until: float, killed: set[int]) -> list[str]:
    found = []
    while pids:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            if time.monotonic() > until:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return [*found, f"{len(pids)} processes hang"]
            time.sleep(0.005)
        elif pid in pids:
            number = pids.pop(pid)
            if status and number not in killed:
                found.append(f"process {number} ended with {status}")
    return found


def one_round(seed: int, folder: str, broken: str | None) -> tuple[list[str], Counter[str]]:
    rng = random.Random(seed)
    until = time.monotonic() + PATIENCE
    world, roomy = world_of(rng, f"fuzz{seed}", broken)
    keeper = shmflow.Topic(world.name, "w", **world.options)
    # Groups begin at the first message, and their members' ends add up to the head.
    members = [
        shmflow.Topic(world.name, "r", group="lossy"),
        shmflow.Topic(world.name, "r", group="kept", lossless=True),
    ]
    count = rng.randint(1, 3)
    children = [start(world, str(seed), number, folder) for number in range(1, count + 1)]
    pids = {pid: number for number, (pid, _) in enumerate(children, 1)}
    killed: set[int] = set()
    if rng.random() < 0.3:
        pid = rng.choice(list(pids))
        time.sleep(rng.random() * 0.3)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(rng.random() * 0.1)
        kill = rng.random() < 0.5
        os.kill(pid, signal.SIGKILL if kill else signal.SIGCONT)
        if kill:
            killed.add(pids[pid])
    for _, reading in children:
        os.read(reading, 1)  # its steps are done, or it is dead
        os.close(reading)
    writer = shmflow.Topic(world.name, "w", **world.options) if world.unlinks else keeper
    head = None if world.unlinks else keeper.head
    writer.shutdown()
    troubles = wait_for(pids, until, killed)
    for topic in (keeper, writer, *members):
        topic.close()
    ports: list[Port] = []
    done: Counter[str] = Counter()
    for number in range(1, count + 1):
        path = Path(folder, str(number))
        if path.exists():
            some, wrong, calls = pickle.loads(path.read_bytes())
            path.unlink()
            ports, troubles, done = ports + some, troubles + wrong, done + calls
        elif number not in killed and not troubles:
            troubles.append(f"process {number} left nothing")
    if not troubles:
        troubles = Judge(ports, Round(head, roomy and not world.unlinks, len(killed))).judge()
    for name in (world.name, world.other):
        try:
            shmflow.unlink(name)
        except shmflow.TopicNotFound:
            pass
    if left := os.listdir(os.environ["SHMFLOW_DIR"]):
        troubles.append(f"segments are left: {left}")
        for name in left:
            os.unlink(Path(os.environ["SHMFLOW_DIR"], name))
    done["messages"] += sum(len(read.tags) for port in ports for read in port.reads)
    return troubles, done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10**9)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--repeat", type=int, default=1, help="each round so often")
    parser.add_argument("--break", dest="broken", choices=BREAKS, help="plant a fault")
    parser.add_argument("--stop", action="store_true", help="at the first trouble")
    args = parser.parse_args()
    seed = random.randrange(10**8) if args.seed is None else args.seed
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "This process .* multi-threaded", DeprecationWarning)
    warnings.filterwarnings("ignore", "waiting for topic|.*max_held", RuntimeWarning)
    base = os.environ.get("SHMFLOW_DIR") or "/dev/shm"
    folder, topics = tempfile.mkdtemp(prefix="api-"), tempfile.mkdtemp(prefix="api-", dir=base)
    os.environ["SHMFLOW_DIR"] = topics
    until, rounds, bad = time.monotonic() + 60 * args.minutes, 0, 0
    done: Counter[str] = Counter()
    try:
        while rounds < args.rounds and time.monotonic() < until and not (args.stop and bad):
            for _ in range(args.repeat):
                troubles, calls = one_round(seed + rounds, folder, args.broken)
                done += calls
                if troubles:
                    bad += 1
                    print(f"--seed {seed + rounds} --rounds 1:", *troubles[:6], sep="\n  ")
                    sys.stdout.flush()
                    break
            rounds += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(topics, ignore_errors=True)
    print(f"fuzz_api: {rounds} rounds from seed {seed}, {bad} bad; {dict(done)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
