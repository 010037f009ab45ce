"""Pictures that come one by one, answered several at once; never more wait than there is room for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from foveate.serving.engines import Engine, divided

_DECODERS = 4  # threads
Waiting = tuple[Any, "asyncio.Future[dict[str, Any]]"]
"""A picture that was made ready, and who waits for its answer."""


class Busy(Exception):
    """There is no room for another picture."""


class Threads:
    """Those that all models share: some make pictures ready, `lanes` answer."""

    def __init__(self, lanes: int) -> None:
        decoding, answering = divided(lanes)
        self.decoders = ThreadPoolExecutor(_DECODERS, "decode", decoding)
        self.answerers = ThreadPoolExecutor(lanes, "answer", answering)
        self.free = asyncio.Semaphore(lanes)

    def stop(self) -> None:
        for pool in (self.decoders, self.answerers):
            pool.shutdown(wait=False, cancel_futures=True)


class Batcher:
    """`most`: pictures at once; `wait`: seconds for which a first one waits for others that are on their way; `room`: pictures
    inside at the most."""

    def __init__(self, engine: Engine, most: int, wait: float, room: int, threads: Threads) -> None:
        self.engine, self.most, self.wait, self.room, self.threads = engine, most, wait, room, threads
        self.inside = 0
        self._answering = 0
        self._waiting = deque[Waiting]()
        self._come = asyncio.Event()
        self._tasks = set[asyncio.Task[None]]()

    def start(self) -> None:
        self._begin(self._work())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def full(self) -> bool:
        return self.inside >= self.room

    @asynccontextmanager
    async def place(self, count: int = 1) -> AsyncIterator[None]:
        """Room for pictures, taken before their bytes are read. Raises Busy."""
        if self.inside + count > self.room:
            raise Busy
        self.inside += count
        try:
            yield
        finally:
            self.inside -= count

    async def ask(self, content: bytes) -> dict[str, Any]:
        """The answer to one encoded picture, whose place was taken. Raises BrokenImage. Cancelled, it is not answered any more."""
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self.threads.decoders, self.engine.decode, content)
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting.append((picture, future))
        self._come.set()
        return await future

    async def alone(self, work: Callable[[bytes], Any], content: bytes) -> Any:
        """Other work on one encoded picture, whose place was taken, in its turn among the batches."""
        async with self.threads.free:
            return await asyncio.get_running_loop().run_in_executor(self.threads.answerers, work, content)

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._come.clear()
                await self._come.wait()
            await self.threads.free.acquire()
            try:
                batch = await self._gathered()
            except asyncio.CancelledError:
                self.threads.free.release()
                raise
            self._begin(self._answer(batch))

    async def _gathered(self) -> list[Waiting]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.wait
        while len(self._waiting) < self.most and self._coming() and loop.time() < end:
            self._come.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._come.wait()
        found = [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]
        return [pair for pair in found if not pair[1].done()]  # done: nobody waits any more

    def _coming(self) -> bool:
        """Whether any picture is being read or decoded."""
        return self.inside > len(self._waiting) + self._answering

    async def _answer(self, batch: list[Waiting]) -> None:
        self._answering += len(batch)
        try:
            found = await self._found([picture for picture, _ in batch]) if batch else []
            for (_, future), row in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(row)
        except Exception as error:  # one batch's trouble is that of its pictures, not of the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._answering -= len(batch)
            self.threads.free.release()

    async def _found(self, pictures: list[Any]) -> list[dict[str, Any]]:
        return await asyncio.get_running_loop().run_in_executor(self.threads.answerers, self.engine.answer, pictures)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
