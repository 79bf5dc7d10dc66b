"""A death at every store: SIGKILL at the 1st, 2nd, 3rd … of each operation, until there are none.

A C program (the core, built with failpoints) does one operation and dies in it. After each death
the survivors write and read within seconds, the invariants hold (another C program, built with
checks, takes the lock and looks), and nothing of the dead is left: no slot, no pin, no block.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from failpoints import Actor, Died

import shmflow

CAPACITY = 64 * 1024
SMALL, LARGE = 700, 5000
DEAD_BYTE = 251  # what the dying write; others write 1 … 250

SOON = 5.0  # seconds, of which 100 ms may be a wait for the dead one's lock


class Scene:
    """A full ring; one Python survivor, one C survivor that holds two frames and checks."""

    def __init__(self, name: str, witness: Actor) -> None:
        self.name = name
        self.witness = witness
        self.topic = shmflow.Topic(name, capacity=CAPACITY, max_message=CAPACITY)
        self.byte = 0
        witness.open(name)
        for _ in range(2):
            self.write(LARGE)
            witness.do("pin")
        self.fill()

    def write(self, size: int) -> int:
        self.byte = self.byte % 250 + 1
        return self.topic.write(np.full(size, self.byte, np.uint8), timeout=5)

    def fill(self) -> None:
        """Until the ring has been gone through: whatever is claimed next evicts."""
        for _ in range(2 * CAPACITY // (SMALL + LARGE)):
            self.write(SMALL)
            self.write(LARGE)

    def history(self) -> list[tuple[int, int, int]]:
        """(seq, size, byte) of what is in the ring; no gap, nothing torn."""
        found: list[tuple[int, int, int]] = []
        with shmflow.Topic(self.name, "monitor") as monitor:
            while (message := monitor.read_message(0, default=None)) is not None:
                array = message.array
                assert (array == array[0]).all(), f"message {message.seq} is torn"
                found.append((message.seq, array.size, int(array[0])))
        assert [m[0] for m in found] == list(range(found[0][0], found[-1][0] + 1))
        return found

    def others_go_on(self, before: list[tuple[int, int, int]], dead: Actor) -> None:
        started = time.monotonic()
        seq = self.write(SMALL)
        with shmflow.Topic(self.name, "r", start="latest") as reader:
            assert reader.read_message(0).seq == seq
        assert time.monotonic() - started < SOON
        # What was there is there, but for what had to go, and the dead's message is whole or not.
        expected = {number: (size, byte) for number, size, byte in before}
        for number, size, byte in self.history():
            if number in expected:
                assert (size, byte) == expected[number]
            else:
                assert byte == (self.byte if number == seq else DEAD_BYTE)
        assert 1 <= seq - before[-1][0] <= 2
        # The tables are in order: each unlock of the witness checks all of them.
        self.witness.do(f"write {LARGE} 7")
        self.witness.do(f"write {SMALL} 8")
        assert self.nothing_is_left_of(dead)

    def nothing_is_left_of(self, dead: Actor) -> bool:
        """The kernel may let go of a dead one's lock a little after its parent was told."""
        deadline = time.monotonic() + 10 * SOON
        while time.monotonic() < deadline:
            self.witness.do("clean")
            if all(p.pid != dead.pid and p.alive for p in self.topic.participants()):
                return True
            time.sleep(0.01)
        return False

    def all_of_main_is_free(self) -> None:
        """The witness lets go; then one message takes main as a whole, and is no lane's."""
        self.witness.do("unpin")
        with shmflow.Topic(self.name, "r", start="new", max_held=CAPACITY) as reader:
            assert reader.stats().read == 0
            self.write(CAPACITY)
            assert reader.read(5).nbytes == CAPACITY
            assert reader.stats().pinned == 1, "a block of main is not free"
        self.fill()
        assert len(self.history()) > 15
        for _ in range(2):
            self.write(LARGE)
        while self.witness.do("pin").seq < self.topic.head:
            self.witness.do("unpin")


@pytest.fixture
def scene(topic_name: str) -> Iterator[Scene]:
    with Actor() as witness:
        scene = Scene(topic_name, witness)
        yield scene
        witness.finish()
        scene.topic.close()


def die_at_each_point(scene: Scene, act: str, prepare: Callable[[Actor], None]) -> int:
    """Kills a participant at each store of `act`; how many there were."""
    for point in itertools.count(1):
        with Actor() as actor:
            prepare(actor)
            before = scene.history()
            actor.arm(point, signal.SIGKILL)
            try:
                actor.do(act.format(name=scene.name))
            except Died:
                pass
            else:
                actor.kill()  # not in the act: the last death is between two operations
                scene.others_go_on(before, actor)
                scene.all_of_main_is_free()
                print(f"{act}: {point - 1} points")
                return point - 1
            scene.others_go_on(before, actor)
        if point % 4 == 0:
            scene.all_of_main_is_free()
        else:
            scene.fill()
    raise AssertionError("not reached")


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_writer_that_dies_at_any_store_costs_at_most_its_message(scene: Scene, size: int) -> None:
    points = die_at_each_point(
        scene, f"write {size} {DEAD_BYTE}", lambda actor: actor.open(scene.name)
    )
    assert points >= 25


@pytest.mark.slow
def test_a_writer_of_the_largest_message_that_dies_at_any_store(scene: Scene) -> None:
    """It evicts everything, or goes by the lane, for the witness holds two frames."""
    points = die_at_each_point(
        scene, f"write {CAPACITY // 2} {DEAD_BYTE}", lambda actor: actor.open(scene.name)
    )
    assert points >= 30


@pytest.mark.slow
def test_a_reader_that_dies_at_any_store_holds_nothing(scene: Scene) -> None:
    def open_and_read(actor: Actor) -> None:
        """So that the next one is large, and in main."""
        actor.open(scene.name)
        while actor.do("read").seq < scene.topic.head:
            pass
        scene.write(LARGE)

    def open_and_hold(actor: Actor) -> None:
        open_and_read(actor)
        assert actor.do("pin").seq == scene.topic.head

    assert die_at_each_point(scene, "pin", open_and_read) >= 4
    assert die_at_each_point(scene, "unpin", open_and_hold) >= 2
    assert die_at_each_point(scene, "read", open_and_read) >= 1


@pytest.mark.slow
def test_a_newcomer_that_dies_at_any_store_leaves_no_slot_behind(scene: Scene) -> None:
    assert die_at_each_point(scene, "open {name}", lambda actor: None) >= 15


@pytest.mark.slow
def test_who_dies_while_leaving_leaves_no_slot_behind(scene: Scene) -> None:
    def open_and_use(actor: Actor) -> None:
        actor.open(scene.name)
        while actor.do("pin").length != LARGE:
            pass
        actor.do(f"write {SMALL} 9")

    assert die_at_each_point(scene, "close", open_and_use) >= 5


@pytest.mark.slow
def test_who_dies_while_cleaning_after_another_is_cleaned_itself(scene: Scene) -> None:
    def open_beside_a_dead_one(actor: Actor) -> None:
        actor.open(scene.name)
        with Actor() as other:
            other.open(scene.name)
            while other.do("pin").length != LARGE:
                pass

    assert die_at_each_point(scene, "clean", open_beside_a_dead_one) >= 3


@pytest.mark.slow
def test_a_thief_of_the_lock_that_dies_while_it_mends_gives_way_too(scene: Scene) -> None:
    """The lock's holder is dead; its thief dies at some stores of the rebuild, of 2,000."""
    died = 0
    for point in (1, 2, 3, 5, 9, 17, 40, 90, 150, 200, 260, 330, 400, 500, 650, 800, 1000):
        with Actor() as first, Actor() as second:
            for actor in (first, second):
                actor.open(scene.name)
            before = scene.history()
            first.arm(12, signal.SIGKILL, where="locked")
            with pytest.raises(Died):
                first.do(f"write {SMALL} {DEAD_BYTE}")
            second.arm(point, signal.SIGKILL, where="locked")
            try:
                second.do(f"write {LARGE} {DEAD_BYTE}")
            except Died:
                died += 1
                scene.others_go_on(before, second)
            else:
                second.finish()
                assert scene.history()[-1][2] == DEAD_BYTE
            assert scene.nothing_is_left_of(first)
        scene.all_of_main_is_free()
    assert died >= 10
