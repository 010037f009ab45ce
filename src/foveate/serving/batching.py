"""Dynamic batching: images that arrive one by one are predicted together, in a bounded queue."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

from foveate.serving.engines import Engine
from foveate.utils.memory import use_one_arena

DECODERS = 4  # threads
QueuedImage = tuple[Any, "asyncio.Future[dict[str, Any]]"]
"""A decoded image, and the future of its prediction"""


class QueueFull(Exception):
    """As many images are in flight as the limit allows."""


class WorkerPools:
    """The threads that all models share, and the memory for what they decode.

    Some threads decode images, one predicts, with all torch threads. Two predicting threads with
    half of the torch threads each would have smaller batches, of 8 instead of 16 images, and an
    image would cost a quarter more.

    Args:
        max_decoded: Bytes that decoding one image takes at most.

    Attributes:
        running: Number of functions that threads are computing.
    """

    def __init__(self, max_decoded: int) -> None:
        use_one_arena()
        torch = sys.modules.get("torch")  # exported files need none
        torch_threads = torch.get_num_threads() if torch else 1
        self.decoders = ThreadPoolExecutor(DECODERS, "decode", _set_torch_threads, (1,))
        self.predictor = ThreadPoolExecutor(1, "predict", _set_torch_threads, (torch_threads,))
        self.turn = asyncio.Lock()
        self.running = 0
        self._max_decoded = max_decoded
        # each decoder at work, and as much again for images that wait for their batch
        self._memory = _Memory((DECODERS + 1) * max_decoded)

    @asynccontextmanager
    async def decoding(
        self, function: Callable[[bytes], Any], content: bytes, is_exclusive: bool = False
    ) -> AsyncIterator[Any]:
        """Call a function that decodes an image in a thread; the result counts as held inside.

        Memory is free again when the thread is done, even if nobody waits for it any more.

        Args:
            function: The function.
            content: The encoded image.
            is_exclusive: Whether it predicts as well: it gets the thread for that.
        """
        await self._memory.acquire(self._max_decoded)
        held = self._max_decoded
        call: asyncio.Future[Any] | None = None
        try:
            async with self.turn if is_exclusive else nullcontext():
                pool = self.predictor if is_exclusive else self.decoders
                call = self._start(pool, function, content)
                result = await asyncio.shield(call)
            size = min(held, getattr(result, "nbytes", 0))
            self._memory.release(held - size)
            held = size
            yield result
        finally:
            if call is None or call.done():
                self._memory.release(held)
            else:
                call.add_done_callback(lambda _: self._memory.release(held))

    async def parse(self, function: Callable[[bytes], Any], content: bytes) -> Any:
        """Call a function that reads no pixels in a thread that decodes."""
        return await asyncio.shield(self._start(self.decoders, function, content))

    async def predict(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """Call a function in the thread that predicts."""
        return await asyncio.shield(self._start(self.predictor, function, argument))

    def _start(
        self, pool: ThreadPoolExecutor, function: Callable[[Any], Any], argument: Any
    ) -> asyncio.Future[Any]:
        self.running += 1
        call = asyncio.get_running_loop().run_in_executor(pool, function, argument)
        call.add_done_callback(self._note_end)
        return call

    def _note_end(self, call: asyncio.Future[Any]) -> None:
        self.running -= 1
        if not call.cancelled():
            call.exception()  # seen, also where nobody waits for it any more

    def stop(self) -> None:
        """Stop the threads once they have finished what they are doing."""
        for pool in (self.decoders, self.predictor):
            pool.shutdown(wait=False, cancel_futures=True)


class _Memory:
    """Bytes that are lent in the order in which they were asked for."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting = deque[tuple[int, asyncio.Future[None]]]()

    async def acquire(self, size: int) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, future))
        self._lend()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # lent meanwhile
                self.release(size)
            raise

    def release(self, size: int) -> None:
        self._free += size
        self._lend()

    def _lend(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            size, future = self._waiting.popleft()
            if not future.done():
                self._free -= size
                future.set_result(None)


def _set_torch_threads(count: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


class Batcher:
    """Collects the images of a model into batches.

    Args:
        engine: The model.
        max_batch: Greatest number of images in a batch.
        max_wait: Seconds for which the first image of a batch waits for others.
        max_queue: Greatest number of images in flight: being decoded, waiting or being predicted.
        pools: The threads.

    Attributes:
        in_flight: The number of images in flight.
    """

    def __init__(
        self, engine: Engine, max_batch: int, max_wait: float, max_queue: int, pools: WorkerPools
    ) -> None:
        self.engine, self.pools = engine, pools
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self.in_flight = 0
        self._decoding = 0  # images
        self._previous = 0  # images that were there when the last batch was done
        self._queue = deque[QueuedImage]()
        self._changed = asyncio.Event()  # an image has been decoded, or could not be
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to predict, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop to predict."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_full(self) -> bool:
        """Whether no further image is accepted."""
        return self.in_flight >= self.max_queue

    @asynccontextmanager
    async def reserve(self, count: int = 1) -> AsyncIterator[None]:
        """Count images as in flight, whose bytes are there.

        Raises:
            QueueFull: There would be too many of them.
        """
        if self.in_flight + count > self.max_queue:
            raise QueueFull
        self.in_flight += count
        try:
            yield
        finally:
            self.in_flight -= count

    async def predict(self, content: bytes) -> dict[str, Any]:
        """Return the prediction of an encoded image, for which `reserve` was called.

        It is not computed if the task is canceled before its batch begins.

        Raises:
            BrokenImage: The image cannot be decoded.
        """
        self._decoding += 1
        is_decoding = True
        try:
            async with self.pools.decoding(self.engine.decode, content) as image:
                self._decoding, is_decoding = self._decoding - 1, False
                future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
                self._queue.append((image, future))
                self._changed.set()
                return await future
        finally:
            self._decoding -= is_decoding
            self._changed.set()

    async def run_exclusively(self, function: Callable[[bytes], Any], content: bytes) -> Any:
        """Call a function on an encoded image, between two batches."""
        async with self.pools.decoding(function, content, is_exclusive=True) as result:
            return result

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            await self._wait_for_others()
            async with self.pools.turn:
                count = min(self.max_batch, len(self._queue))
                await self._predict_batch([self._queue.popleft() for _ in range(count)])

    async def _wait_for_others(self) -> None:
        """Wait for images that are being decoded, and for as many as there were a batch ago.

        Clients that send without pause come again, and networks are faster with full batches. A
        lone request is not delayed, and slow uploads delay nobody.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self.max_wait
        while (
            len(self._queue) < self.max_batch
            and (self._decoding or len(self._queue) < self._previous)
            and loop.time() < end
        ):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._changed.wait()

    async def _predict_batch(self, batch: list[QueuedImage]) -> None:
        batch = [pair for pair in batch if not pair[1].done()]  # done: canceled meanwhile
        if not batch:
            return
        images = [image for image, _ in batch]
        try:
            rows = await self.pools.predict(self.engine.predict, images)
        except Exception as error:  # fails the images of this batch, not the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._previous = len(batch) + len(self._queue) + self._decoding
        for (_, future), row in zip(batch, rows, strict=True):
            if not future.done():
                future.set_result(row)
