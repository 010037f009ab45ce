"""Pictures that come one by one, answered several at once; never more wait than there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from foveate.serving.engines import Engine

_DECODERS = 4  # threads


class Busy(Exception):
    """There is no room for another picture."""


class Batcher:
    """`most`: pictures at once; `wait`: seconds for which a first one waits for others; `room`: pictures inside at the most."""

    def __init__(self, engine: Engine, most: int, wait: float, room: int) -> None:
        self.engine, self.most, self.wait, self.room = engine, most, wait, room
        self.inside = 0
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[dict[str, Any]]]] = asyncio.Queue()
        self._decoders = ThreadPoolExecutor(_DECODERS, f"decode-{engine.name}")
        self._answerer = ThreadPoolExecutor(1, f"answer-{engine.name}")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for pool in (self._decoders, self._answerer):
            pool.shutdown(wait=False, cancel_futures=True)

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
        picture = await loop.run_in_executor(self._decoders, self.engine.decode, content)
        future: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._queue.put_nowait((picture, future))
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [pair for pair in await self._gathered() if not pair[1].cancelled()]
            if not batch:
                continue
            try:
                found = await loop.run_in_executor(self._answerer, self.engine.answer, [picture for picture, _ in batch])
            except Exception as error:  # one batch's trouble is that of its pictures, not of the server
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(row)

    async def _gathered(self) -> list[tuple[Any, asyncio.Future[dict[str, Any]]]]:
        batch = [await self._queue.get()]
        end = asyncio.get_running_loop().time() + self.wait
        while len(batch) < self.most:
            left = end - asyncio.get_running_loop().time()
            if left <= 0 and self._queue.empty():
                break
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), max(left, 0.0001)))
            except TimeoutError:
                break
        return batch
