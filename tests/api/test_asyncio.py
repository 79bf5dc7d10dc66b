"""Reading with asyncio: nothing is lost, nobody is forgotten, the loop goes on.

Owns: read_async, read_message_async and `async for`, on asyncio's loop and on uvloop's: timeouts,
cancellation at every await, many tasks, loops and threads, ends, forks, what must not be kept.
Does not own: the descriptor itself (test_fileno.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from family import family

import shmflow
import shmflow._aio as aio

LONG = 20  # seconds: a net, never waited for when all is well

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


def run_asyncio(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


def run_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of asyncio's, in uvloop's import
        import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@pytest.fixture(scope="module", autouse=True)
def what_uvloop_keeps_for_ever_is_no_leak() -> None:
    if importlib.util.find_spec("uvloop") is not None:
        run_uvloop(asyncio.sleep(0))


@pytest.fixture(params=[run_asyncio, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    if request.param is run_uvloop and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not there")
    return request.param


def later(act: Callable[..., Any], *args: Any, seconds: float = 0.01) -> None:
    asyncio.get_running_loop().call_later(seconds, lambda: act(*args))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def watched(loop: asyncio.AbstractEventLoop) -> int:
    """How many descriptors asyncio's loop has callbacks for, its own left out."""
    return len(loop._selector.get_map()) - 1  # type: ignore[attr-defined]


# ---- what it gives -----------------------------------------------------------------------------


def test_what_is_there_is_given_without_a_descriptor(topic: shmflow.Topic) -> None:
    async def main() -> None:
        topic.write(np.arange(3))
        topic.write(b"second", meta={"a": 1})
        array = await topic.read_async()
        np.testing.assert_array_equal(array, np.arange(3))
        assert not array.flags.writeable
        message = await topic.read_message_async()
        assert (message.seq, message.meta) == (2, {"a": 1})
        with pytest.raises(shmflow.Empty, match="in 0 s"):
            await topic.read_async(0)

    fds = len(os.listdir("/proc/self/fd"))
    asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == fds


def test_what_comes_later_is_waited_for(topic: shmflow.Topic, run: Runner) -> None:
    async def main() -> None:
        for number in range(20):
            later(topic.write, number, seconds=0.001 * (number % 3))
            assert await topic.read_async() == number
        later(topic.write, np.ones(100_000, np.uint8))
        view = await topic.read_async()
        assert view.sum() == 100_000 and not view.flags.writeable
        later(topic.write, b"x")
        assert (await topic.read_async(LONG, copy=True)).flags.writeable
        for _ in range(3):
            topic.write(b"old")
        topic.write(b"new")
        message = await topic.read_message_async(LONG, latest=True)
        assert (bytes(message.array), message.skipped) == (b"new", 3)

    run(main())


def test_iteration_ends_with_the_stream(topic_name: str, run: Runner) -> None:
    async def main() -> list[int]:
        with shmflow.Topic(topic_name, "w") as writer, shmflow.Topic(topic_name, "r") as reader:

            async def write() -> None:
                for number in range(200):
                    writer.write(number)
                    if number % 7 == 0:
                        await asyncio.sleep(0.0005)
                writer.shutdown()

            task = asyncio.create_task(write())
            numbers = [int(array) async for array in reader]
            await task
            assert [array async for array in reader] == []
            with pytest.raises(shmflow.Closed):
                await reader.read_async()
            writer.unlink()
            return numbers

    assert run(main()) == list(range(200))


def test_a_topic_that_is_not_there_yet_is_waited_for_and_followed(
    topic_name: str, run: Runner
) -> None:
    async def main() -> None:
        with shmflow.Topic(topic_name, "r") as reader:
            for generation in range(2):
                waiting = asyncio.create_task(reader.read_async(LONG))
                await asyncio.sleep(0.01)
                with shmflow.Topic(topic_name, "w") as writer:
                    writer.write(generation)
                    assert await waiting == generation
                    writer.unlink()

    run(main())


@pytest.mark.parametrize("mode", ["rw", "monitor"])
def test_other_modes_wait_too(topic_name: str, mode: Any) -> None:
    async def main() -> None:
        with (
            shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer,
            shmflow.Topic(topic_name, mode) as reader,
        ):
            for number in range(5):
                later(writer.write, number, seconds=0.005)
                assert await reader.read_async(LONG) == number
            writer.unlink()

    asyncio.run(main())


def test_wrong_arguments_are_refused_at_the_call(topic: shmflow.Topic) -> None:
    for method in (topic.read_async, topic.read_message_async):
        with pytest.raises(ValueError, match="timeout must be 0 or more"):
            method(-1)
        with pytest.raises(TypeError, match="timeout must be a number"):
            method("x")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            method(out=None)  # type: ignore[call-arg]
    topic.close()
    for method in (topic.read_async, topic.read_message_async, topic.__aiter__):
        with pytest.raises(shmflow.Closed):
            method()
    with shmflow.Topic(topic.name, "w") as writer:
        with pytest.raises(shmflow.WrongMode, match=r"read_async\(\) needs"):
            writer.read_async()
    shmflow.unlink(topic.name)


# ---- time and cancellation ---------------------------------------------------------------------


def test_time_outs_of_every_kind_lose_nothing(topic: shmflow.Topic, run: Runner) -> None:
    async def main() -> None:
        with pytest.raises(shmflow.Empty, match=r"no message on .* in 0.01 s"):
            await topic.read_async(0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await topic.read_async()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(topic.read_async(), 0.01)
        topic.write(b"kept")
        assert bytes(await asyncio.wait_for(topic.read_async(), LONG)) == b"kept"
        async with asyncio.timeout(LONG):
            later(topic.write, b"too")
            assert bytes(await topic.read_async(LONG)) == b"too"

    run(main())


def test_cancelled_after_any_number_of_turns_it_has_taken_nothing(
    topic: shmflow.Topic, run: Runner
) -> None:
    async def main() -> None:
        taken = 0
        for number in range(60):
            task = asyncio.create_task(topic.read_async())
            other = asyncio.create_task(topic.read_async())
            await turns(2)
            topic.write(number)
            # The waiting thread gets to it, so that the loop finds the descriptor readable.
            threading.Event().wait(0.0005)
            await turns(number % 6)
            task.cancel()
            done = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(done, asyncio.CancelledError):
                assert await asyncio.wait_for(other, LONG) == number
            else:
                taken += 1
                assert done == number
                other.cancel()
                await asyncio.wait([other])
            assert topic.read(0, default=None) is None
        assert 0 < taken < 60, "cancelled always too early, or always too late"

    run(main())


def test_a_task_group_that_fails_cancels_who_waits(topic: shmflow.Topic, run: Runner) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise KeyError

    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(topic.read_async())
                group.create_task(anext(aiter(topic)))
                group.create_task(fail())
        topic.write(b"kept")
        assert bytes(await topic.read_async(LONG)) == b"kept"

    run(main())


def test_a_stream_that_never_ebbs_lets_the_loop_go_on(topic: shmflow.Topic) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                while True:
                    topic.write(b"x")
                    await topic.read_async()

    asyncio.run(main())


# ---- many --------------------------------------------------------------------------------------


def test_tasks_that_wait_are_served_in_their_order(topic: shmflow.Topic, run: Runner) -> None:
    async def main() -> None:
        got: list[tuple[int, int]] = []

        async def read(task: int) -> None:
            for _ in range(10):
                got.append((task, int(await topic.read_async())))

        async with asyncio.TaskGroup() as group:
            for task in range(3):
                group.create_task(read(task))
            await turns()
            for number in range(30):
                topic.write(number)
                if number % 3 != 1:
                    while len(got) <= number:
                        await asyncio.sleep(0.0005)
        assert got == [(number % 3, number) for number in range(30)]

    run(main())


def test_who_is_told_in_vain_again_and_again_ends_with_his_time_out(
    topic: shmflow.Topic, run: Runner
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(topic.read_async(0.2))
        await turns()
        port = aio._readers[topic].ports[loop]
        # As long as it waits it is told, faster than any timer.
        while not task.done():
            queue = port.get_queue()
            if queue is not None:
                aio._news(loop, port, queue)
            await asyncio.sleep(0)
        with pytest.raises(shmflow.Empty, match=r"0\.2 s"):
            await task

    run(main())


def test_who_was_told_in_vain_stays_the_first(topic: shmflow.Topic) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(topic.read_async())
        second = asyncio.create_task(topic.read_async())
        await turns()
        port = aio._readers[topic].ports[loop]
        queue = port.get_queue()
        assert queue is not None and len(queue.waiters) == 2
        aio._news(loop, port, queue)  # as if another process's reader had been quicker
        await turns()
        assert len(queue.waiters) == 2
        topic.write(1)
        assert await asyncio.wait_for(first, LONG) == 1
        topic.write(2)
        assert await asyncio.wait_for(second, LONG) == 2

    asyncio.run(main())


def test_each_message_goes_to_one_of_many_tasks(topic_name: str, run: Runner) -> None:
    count = 600

    async def main() -> None:
        got: list[int] = []

        async def read(reader: shmflow.Topic) -> None:
            async for array in reader:
                got.append(int(array))
                await turns(int(array) % 3)

        def write() -> None:
            for number in range(count):
                writer.write(number)
            writer.shutdown()

        with (
            shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=count) as writer,
            shmflow.Topic(topic_name, "r") as reader,
        ):
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(read(reader))
                group.create_task(asyncio.to_thread(write))
            assert sorted(got) == list(range(count))
            writer.unlink()

    run(main())


def test_many_topics_in_one_loop(topic_name: str, run: Runner) -> None:
    async def main() -> None:
        names = [f"{topic_name}/{number}" for number in range(20)]
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(shmflow.Topic(name, "r")) for name in names]
            tasks = [asyncio.create_task(reader.read_async(LONG)) for reader in readers]
            await turns()
            for number, name in reversed(list(enumerate(names))):
                with shmflow.Topic(name, "w") as writer:
                    writer.write(number)
            assert [int(await task) for task in tasks] == list(range(20))
        for name in names:
            shmflow.unlink(name)

    run(main())


def test_loops_in_several_threads_share_one_topic(
    topic_name: str, run: Runner, background: Callable[..., Any]
) -> None:
    count = 600

    async def read(reader: shmflow.Topic) -> list[int]:
        return [int(array) async for array in reader]

    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=count) as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        threads = [background(lambda: run(read(reader))) for _ in range(3)]
        for number in range(count):
            writer.write(number)
            if number % 50 == 0:
                threading.Event().wait(0.002)
        writer.shutdown()
        got = [number for thread in threads for number in thread.outcome(60)]
        assert sorted(got) == list(range(count))
        writer.unlink()
    del threads


def test_a_callback_of_the_users_own_is_not_in_the_way(topic: shmflow.Topic) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = 0

        def count() -> None:
            nonlocal calls
            calls += 1

        loop.add_reader(topic, count)
        later(topic.write, b"x")
        assert bytes(await topic.read_async(LONG)) == b"x"
        topic.write(b"y")
        while not calls:
            await asyncio.sleep(0.001)
        assert loop.remove_reader(topic)
        topic.read(0)

    asyncio.run(main())


# ---- ends --------------------------------------------------------------------------------------


def test_close_ends_every_wait(topic: shmflow.Topic, run: Runner) -> None:
    async def main() -> None:
        async def iterate() -> str:
            async for _ in topic:
                pass
            return "ended"

        tasks = [asyncio.create_task(topic.read_async()) for _ in range(3)]
        tasks += [asyncio.create_task(topic.read_message_async(LONG))]
        ending = asyncio.create_task(iterate())
        await turns()
        topic.close()
        for task in tasks:
            with pytest.raises(shmflow.Closed, match="was closed"):
                await asyncio.wait_for(task, LONG)
        assert await asyncio.wait_for(ending, LONG) == "ended"

    run(main())
    shmflow.unlink(topic.name)


def test_close_in_another_thread_ends_the_wait(topic: shmflow.Topic) -> None:
    async def main() -> None:
        task = asyncio.create_task(topic.read_async())
        await turns()
        await asyncio.to_thread(topic.close)
        with pytest.raises(shmflow.Closed):
            await asyncio.wait_for(task, LONG)

    asyncio.run(main())
    shmflow.unlink(topic.name)


def test_shutdown_and_removal_end_or_prolong_the_wait(topic_name: str) -> None:
    async def main() -> None:
        with shmflow.Topic(topic_name, "r") as reader:
            with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
                task = asyncio.create_task(reader.read_async())
                await asyncio.sleep(0.01)
                writer.unlink()
                await asyncio.sleep(0.01)
                assert not task.done()
            with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
                await asyncio.sleep(0.01)
                writer.shutdown()
                with pytest.raises(shmflow.Closed, match="shut down"):
                    await asyncio.wait_for(task, LONG)
                writer.unlink()

    asyncio.run(main())


def test_a_descriptor_that_cannot_be_had_is_told_and_nobody_is_left_in_the_queue(
    topic: shmflow.Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(os, "dup", lambda fd: (_ for _ in ()).throw(OSError(24, "none left")))
        with pytest.raises(OSError, match="none left"):
            await topic.read_async()
        monkeypatch.undo()
        later(topic.write, b"x")
        assert bytes(await topic.read_async(LONG)) == b"x"

    asyncio.run(main())


# ---- what is kept ------------------------------------------------------------------------------


def test_the_loop_watches_only_while_somebody_waits(topic: shmflow.Topic) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        none = watched(loop)
        task = asyncio.create_task(topic.read_async())
        other = asyncio.create_task(topic.read_async())
        await turns()
        assert watched(loop) == none + 1
        task.cancel()
        await asyncio.wait([task])
        assert watched(loop) == none + 1
        other.cancel()
        await asyncio.wait([other])
        assert watched(loop) == none
        topic.write(b"x")
        await asyncio.sleep(0.01)  # unread, and nobody asks for it: the loop sleeps
        assert watched(loop) == none
        assert bytes(await topic.read_async()) == b"x"
        later(topic.write, b"y")
        assert bytes(await topic.read_async()) == b"y"
        assert watched(loop) == none

    asyncio.run(main())


def test_nothing_keeps_a_topic_or_a_loop_alive(topic_name: str, run: Runner) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
        loops, topics = [], []

        async def main() -> None:
            loops.append(weakref.ref(asyncio.get_running_loop()))
            reader = shmflow.Topic(topic_name, "r", start="new")
            topics.append(weakref.ref(reader))
            later(writer.write, b"x")
            await reader.read_async(LONG)
            del reader

        for _ in range(3):
            run(main())
        gc.collect()
        assert [ref() for ref in loops + topics] == [None] * 6
        assert len(aio._readers) == 0
        assert len(writer.participants()) == 1
        writer.unlink()


def test_one_topic_in_one_loop_after_the_other(topic: shmflow.Topic, run: Runner) -> None:
    async def main(number: int) -> None:
        later(topic.write, number)
        assert await topic.read_async(LONG) == number

    for number in range(5):
        run(main(number))


def test_a_loop_that_is_closed_while_a_task_waits(topic: shmflow.Topic) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(topic.read_async())
    loop.run_until_complete(turns())
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task, loop
    gc.collect()
    topic.write(b"x")
    assert bytes(asyncio.run(read_one(topic))) == b"x"


async def read_one(topic: shmflow.Topic) -> Any:
    return await topic.read_async(LONG)


# ---- forks -------------------------------------------------------------------------------------


def test_a_child_that_runs_a_loop_of_its_own_leaves_its_parents_alone(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(
            """
            import asyncio
            topic = shmflow.Topic(name, capacity="1 MiB")

            async def in_the_child():
                task = asyncio.create_task(topic.read_async(60))
                await asyncio.sleep(0.01)
                assert not task.done()
                topic.write(1)
                assert await task == 1

            def child(inherited):
                # What waited here waits in the parent; destroyed here, it must not be ended there.
                inherited._log_destroy_pending = False
                inherited.get_coro().close()
                asyncio.events._set_running_loop(None)
                gc.collect()
                asyncio.run(in_the_child())
                topic.close()

            async def main():
                for _ in range(3):
                    task = asyncio.create_task(topic.read_async(60))
                    await asyncio.sleep(0.01)
                    ended_well(in_child(child, task))
                    assert await asyncio.wait_for(task, 60) == 1

            asyncio.run(main())
            """
        ),
        topic_name,
    )
    assert done.stderr == ""
