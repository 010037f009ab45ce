"""Pictures that come one by one, answered several at once; never more wait than there is room for."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from foveate.serving.engines import Engine
from foveate.utils.memory import one_arena

_DECODERS = 4  # threads
Waiting = tuple[Any, "asyncio.Future[dict[str, Any]]"]
"""A picture that was made ready, and who waits for its answer."""


class Busy(Exception):
    """There is no room for another picture."""


class Threads:
    """Those that all models share: some make pictures ready, one answers, with all of torch's threads. Two with half of them each
    would answer smaller batches, of 8 in the place of 16, which cost a quarter more each picture."""

    def __init__(self) -> None:
        one_arena()
        torch = sys.modules.get("torch")  # files alone need none
        own = torch.get_num_threads() if torch else 1
        self.decoders = ThreadPoolExecutor(_DECODERS, "decode", _take, (1,))
        self.answerer = ThreadPoolExecutor(1, "answer", _take, (own,))
        self.turn = asyncio.Lock()

    def stop(self) -> None:
        for pool in (self.decoders, self.answerer):
            pool.shutdown(wait=False, cancel_futures=True)


def _take(threads: int) -> None:
    """What a thread does first: it takes so many of torch's threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


class Batcher:
    """`most`: pictures at once; `wait`: seconds for which a first one waits for others; `room`: pictures inside at the most."""

    def __init__(self, engine: Engine, most: int, wait: float, room: int, threads: Threads) -> None:
        self.engine, self.most, self.wait, self.room, self.threads = (
            engine,
            most,
            wait,
            room,
            threads,
        )
        self.inside = 0
        self._decoding = self._lately = 0
        self._waiting = deque[Waiting]()
        self._news = asyncio.Event()  # of what waits or is being decoded
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

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
        self._decoding += 1
        try:
            picture = await loop.run_in_executor(self.threads.decoders, self.engine.decode, content)
        finally:
            self._decoding -= 1
            self._news.set()
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting.append((picture, future))
        return await future

    async def alone(self, work: Callable[[bytes], Any], content: bytes) -> Any:
        """Other work on one encoded picture, whose place was taken, in its turn among the batches."""
        async with self.threads.turn:
            return await asyncio.get_running_loop().run_in_executor(
                self.threads.answerer, work, content
            )

    async def _work(self) -> None:
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
            await self._company()
            async with self.threads.turn:
                await self._answer(
                    [self._waiting.popleft() for _ in range(min(self.most, len(self._waiting)))]
                )

    async def _company(self) -> None:
        """Waits for those that are being decoded, and for as many as there were a batch ago: who asks without pause comes again,
        and networks like full batches. Who is alone does not wait, and nobody for a body that is slow to arrive."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.wait
        while (
            len(self._waiting) < self.most
            and (self._decoding or len(self._waiting) < self._lately)
            and loop.time() < end
        ):
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._news.wait()

    async def _answer(self, batch: list[Waiting]) -> None:
        batch = [pair for pair in batch if not pair[1].done()]  # done: nobody waits any more
        if not batch:
            return
        pictures = [picture for picture, _ in batch]
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self.threads.answerer, self.engine.answer, pictures
            )
        except Exception as error:  # one batch's trouble is that of its pictures, not of the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._lately = len(batch) + len(self._waiting) + self._decoding
        for (_, future), row in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(row)
