"""Descriptions of messages and headers spoilt in the file, and every call of the package upon them.

Owns: a child process that spoils a topic's file through a mapping of its own, then reads, lists,
asks, cleans and prints it; a parent that notices crashes and time-outs, and tells the seed.
Does not own: the topic of anybody else: all is in a folder of its own below SHMFLOW_DIR.

    fuzz_wire.py [--rounds N] [--seed S] [--seconds T]

Only `shmflow.Error`, and what the calls document besides (ValueError of damaged meta, OSError),
may come out. Each round follows from its seed: `--seed S --rounds 1` repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np

import shmflow

PAGE = 4096
ARENA_ALIGN = 65536
DESC = 128  # bytes of a descriptor; see src/core/layout.h
SEQ, OWNER, KIND, OFF, LEN, PAYLOAD_LEN = 0, 8, 12, 16, 24, 32
STAMP, META_LEN, SHAPE, DTYPE = 64, 76, 80, 112

NUMBERS = [0, 1, 2, 63, 64, 65, 4096, 65536, 2**31, 2**32 - 1, 2**32, 2**46, 2**63 - 1, 2**63]
NUMBERS += [2**64 - 1, 2**64 - 64, 2**62]

DTYPES = [
    "|u1", "<f4", ">i8", "|S0", "<U0", "|V0", "|S5", "<U3", "|O", "O", "", "|b1", "<M8[ns]",
    "<m8[fs]", "<M8[25us]", "a10", "S", "U", "V", "T", "3f4", "(2,3)f4", "f4,f4", "<c32", "<f16",
    "|S2147483647", "|V99999999999", "<U536870912", "i4\x00", "\xff", "float", "object", "\n",
    "[('a','<f4')]", "[('a','<f4'),('a','<f4')]", "[('a','|O')]", "[('a','<f4',(2,))]", "[]",
    "[('','|V4'),('a','<f4')]", "[('a','<f4',(2**40,))]", "[('a','<f4',(-1,))]", "[('a','|S0')]",
    "[('a',[('b','<f4')])]", "[('a','<f4',(1000000000,1000000000))]", "[1]", "[[]]", "[('a',)]",
    "(", "((((((((((", "('<f4',(3,))", "('|O',())", "[('a','<f4',1.5)]", "[('a','\\d')]",
    "[1is 2]", "[0777]", "['a']", "('<f4',{})", "('V4',[('a','<f4')])", "[('a','a4')]",
    "[(b'a','<f4')]", "[({},'<f4')]", "[('a','<f4',())]", "[(('t','a'),'<f4')]", "[('a','|V0')]",
    "[('\udc80','<f4')]",
]  # fmt: skip
LONG = ["[" + "-" * 5000 + "1]", "[" * 3000, "(" * 190 + ")" * 190, "[" + "9" * 5000 + "]",
        "[" + "('a','<f4')," * 400 + "]", "[" + "[" * 90 + "]" * 91, "[" + "1+" * 3000 + "1j]",
        "[" + "{" * 1000, "[('" + "a" * 3000 + "','<f4')]"]  # fmt: skip
METAS = ["{}", "[]", "null", "{", '{"a":NaN}', '{"a":1e999}', '{"a":' + "9" * 5000 + "}",
         '{"a":"\\ud800"}', "[" * 4000, '{"a":' * 3000, "\x00", "", '{"encoding":7}']  # fmt: skip


# ---- the file ----


class File:
    """The control regions of a topic's file, as words that can be changed."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        head = struct.unpack_from("<QII3Q4I2Q9Q", self.map, 0)
        self.index_len, self.desc_len = head[7], head[8]
        self.index_off, self.descs_off = head[14], head[15]
        self.arena_off, self.len = head[19], head[20]
        assert self.arena_off % ARENA_ALIGN == 0 and self.len == len(self.map)

    def descs(self) -> list[int]:
        """Where the descriptors of messages lie."""
        all_of = (self.descs_off + i * DESC for i in range(self.desc_len))
        return [at for at in all_of if self.get(at + SEQ) != 0]

    def get(self, at: int, form: str = "<Q") -> int:
        return int(struct.unpack_from(form, self.map, at)[0])

    def put(self, at: int, value: int, form: str = "<Q") -> None:
        size = struct.calcsize(form) * 8
        struct.pack_into(form, self.map, at, value % (1 << size))

    def close(self) -> None:
        self.map.close()


def spoil_dtype(file: File, desc: int, rng: random.Random) -> None:
    """Another description of the same bytes, inline or in the prefix."""
    text = rng.choice(DTYPES if rng.random() < 0.8 else LONG)
    wire = bytearray(text.encode("utf-8", "surrogateescape"))
    if rng.random() < 0.3 and wire:
        wire[rng.randrange(len(wire))] = rng.randrange(256)
    kind = file.get(desc + KIND, "<I")
    ndim, old = kind & 0xFF, kind >> 16
    if len(wire) <= 16:
        file.map[desc + DTYPE : desc + DTYPE + 16] = bytes(wire).ljust(16, b"\0")
    else:
        wire = wire[:16000]
        at = file.arena_off + file.get(desc + OFF) + (ndim * 8 if ndim > 4 else 0)
        if at + len(wire) > file.len:
            return
        file.map[at : at + len(wire)] = bytes(wire)
    file.put(desc + KIND, kind & 0xFFFF | len(wire) << 16, "<I")
    if len(wire) > 16 or old > 16:  # what is left of the block is the payload
        file.put(desc + LEN, 32768)
    if rng.random() < 0.7:
        size = rng.choice([0, 1, 4, 8, 24])
        count = file.get(desc + SHAPE)
        file.put(desc + PAYLOAD_LEN, rng.choice([0, size * count, size]))
    if rng.random() < 0.3:
        file.put(desc + SHAPE, rng.choice(NUMBERS))


def spoil_meta(file: File, desc: int, rng: random.Random) -> None:
    text = rng.choice(METAS).encode()
    kind = file.get(desc + KIND, "<I")
    ndim, dtype_len = kind & 0xFF, kind >> 16
    prefix = (ndim * 8 if ndim > 4 else 0) + (dtype_len if dtype_len > 16 else 0)
    at = file.arena_off + file.get(desc + OFF) + prefix
    if at + len(text) <= file.len:
        file.map[at : at + len(text)] = text
        file.put(desc + META_LEN, len(text), "<I")


def spoil_desc(file: File, desc: int, rng: random.Random) -> None:
    at = desc + 4 * rng.randrange(DESC // 4)
    if rng.random() < 0.6:
        at = desc + rng.choice([KIND, OFF, LEN, PAYLOAD_LEN, STAMP, META_LEN, SHAPE, SHAPE + 8])
    near = file.get(at) if at % 8 == 0 else file.get(at, "<I")
    value = rng.choice([*NUMBERS, near + 1, near - 1, near ^ 1 << rng.randrange(32)])
    wide = at % 8 == 0 and rng.random() < 0.8
    file.put(at, value, "<Q" if wide else "<I")


def spoil_any(file: File, desc: int, rng: random.Random) -> None:
    at = rng.choice([rng.randrange(PAGE // 8), rng.randrange(file.arena_off // 8)]) * 8
    file.put(at, rng.choice([*NUMBERS, rng.getrandbits(64)]))


def spoil_hot(file: File, desc: int, rng: random.Random) -> None:
    at = rng.randrange(256, 1024, 64) + rng.choice([0, 4, 8])
    file.put(at, rng.choice([*NUMBERS, rng.getrandbits(32)]), rng.choice(["<I", "<Q"]))


# ---- the calls ----


def calls(name: str, rng: random.Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """What users do with a topic, in an order of its own."""
    topics: list[shmflow.Topic] = []
    kept: list[object] = []

    def look(message: shmflow.Message) -> None:
        array = message.array
        array.tobytes()
        repr(message)
        repr(array.ravel()[:3])
        kept.append(array[:1] if array.ndim else array)
        with contextlib.suppress(ValueError):  # documented of damaged meta
            repr(message.meta)

    def read(mode: str) -> None:
        topic = shmflow.Topic(name, mode, create=False)
        topics.append(topic)
        for _ in range(8):
            latest, copy = rng.random() < 0.3, rng.random() < 0.3
            try:
                look(topic.read_message(0, latest=latest, copy=copy))
            except shmflow.Empty:
                break
            except shmflow.CorruptTopic:
                continue
        array = topic.read(0, default=None)
        if array is not None:
            array.sum(dtype=np.uint8) if array.dtype == np.uint8 else array.tobytes()

    def ask() -> None:
        topic = shmflow.Topic(name, "monitor", create=False)
        topics.append(topic)
        for one in (topic.stats(), *topic.participants()):
            repr(one)
        repr((topic, topic.head, topic.tail, topic.capacity, topic.readers, topic.writers))
        repr((topic.lost, topic.skipped, topic.ended, topic.depth, topic.max_message))

    def write() -> None:
        with shmflow.Topic(name, "w", create=False) as topic:
            topic.write(np.ones(rng.choice([10, 3000, 9000]), np.uint8), timeout=0)
            topic.write(np.ones((2, 3), "<f4"), meta={"a": 1}, timeout=0)
            with topic.loan((5000,), "uint8", timeout=0) as array:
                array[:] = 3
            topic.stats()

    def command() -> None:
        from click.testing import CliRunner

        from shmflow.cli import COMMANDS, main

        if "ls" not in COMMANDS:
            return
        result = CliRunner().invoke(main, ["ls"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

    order: list[tuple[str, Callable[[], object]]] = [
        ("read", lambda: read("r")),
        ("read as rw", lambda: read("rw")),
        ("monitor", lambda: read("monitor")),
        ("ask", ask),
        ("write", write),
        ("topics", lambda: repr(shmflow.topics())),
        ("clean", shmflow.clean),
        ("command", command),
    ]
    rng.shuffle(order)
    yield from order
    yield "close", lambda: [topic.close() for topic in topics]
    yield "unlink", lambda: shmflow.unlink(name)


def prepare(name: str, rng: random.Random) -> None:
    """A topic with a few messages of each kind: inline, with a prefix, pinnable."""
    with shmflow.Topic(name, capacity=262144, depth=rng.choice([None, 8])) as topic:
        topic.write(np.zeros(0, np.uint8))
        topic.write(np.zeros(100, np.uint8), meta={"exposure_us": 1200})
        topic.write(np.zeros((2, 2, 2, 2, 3), np.dtype([("a", "<f4"), ("b", "|S3")])))
        topic.write(np.zeros((40, 50, 3), np.uint8), meta={"encoding": "bgr8"})
        topic.write(np.zeros(5000, "<f4"))


def run_round(seed: int) -> None:
    rng = random.Random(seed)
    name = "spoilt"
    with contextlib.suppress(shmflow.TopicNotFound):
        shmflow.unlink(name)
    prepare(name, rng)
    file = File(os.path.join(os.environ["SHMFLOW_DIR"], "shmflow." + name))
    spoilers = [spoil_dtype, spoil_dtype, spoil_meta, spoil_desc, spoil_desc, spoil_hot, spoil_any]
    descs = file.descs()
    for _ in range(rng.choice([1, 1, 2, 4])):
        rng.choice(spoilers)(file, rng.choice(descs), rng)
    file.close()
    for what, call in calls(name, rng):
        try:
            call()
        except shmflow.Error:
            pass
        except Exception as error:
            error.add_note(f"seed {seed}: {what}() let this through")
            raise


def child(seed: int, rounds: int) -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="this reader of")
    for at in range(seed, seed + rounds):
        print(at, flush=True)
        run_round(at)


# ---- the parent ----


def run_child(seed: int, rounds: int, limit: float) -> tuple[int, str]:
    """How many rounds went well, and '' or what went wrong."""
    command = [sys.executable, "-X", "faulthandler", __file__, "--child"]
    command += ["--seed", str(seed), "--rounds", str(rounds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=limit)
        trouble = "" if process.returncode == 0 else f"status {process.returncode}\n{err[-4000:]}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        trouble = f"no end within {limit} s\n{err[-2000:]}"
    started = out.split()
    done = len(started) - (1 if trouble else 0)
    return done, f"seed {started[-1] if started else seed}: {trouble}" if trouble else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--child", action="store_true")
    args = parser.parse_args()
    seed = random.randrange(10**9) if args.seed is None else args.seed
    if args.child:
        child(seed, args.rounds)
        return 0
    folder = tempfile.mkdtemp(prefix="wire-", dir=os.environ.get("SHMFLOW_DIR") or "/dev/shm")
    os.environ["SHMFLOW_DIR"] = folder
    until, done, troubles = time.monotonic() + args.seconds, 0, 0
    try:
        while done + troubles < args.rounds and time.monotonic() < until:
            count = min(100, args.rounds - done - troubles)
            well, trouble = run_child(seed + done + troubles, count, 60 + count)
            done += well
            if trouble:
                troubles += 1
                print(trouble, file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"fuzz_wire: {done} rounds from seed {seed}, {troubles} troubles")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
