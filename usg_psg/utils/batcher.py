"""Work that many tasks ask for at once, done in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any


class Batcher:
    """Collects items of many tasks into batches, which a thread works on one after the other.

    Args:
        work: items to as many results, of which exceptions are raised where the item came from.
        max_batch: most items of a batch.
        max_wait: seconds that the first item of a batch waits for others.
    """

    def __init__(self, work: Callable[[list], Sequence], max_batch: int, max_wait: float):
        self.work, self.max_batch, self.max_wait = work, max_batch, max_wait
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[tuple[float, Any, asyncio.Future]] = deque()
        self._arrived = asyncio.Event()

    async def result(self, item: Any) -> Any:
        """Hand in an item and wait for its result; one whose task is cancelled is not worked on."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.waiting.append((loop.time(), item, future))
        self._arrived.set()
        return await future

    async def run(self) -> None:
        """Work for ever."""
        loop = asyncio.get_running_loop()
        while True:
            if not self.waiting:
                await self._arrived.wait()
            end = self.waiting[0][0] + self.max_wait
            while len(self.waiting) < self.max_batch and (left := end - loop.time()) > 0:
                self._arrived.clear()
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), left)
            taken = [self.waiting.popleft() for _ in range(min(self.max_batch, len(self.waiting)))]
            self._arrived.clear()
            batch = [(item, future) for _, item, future in taken if not future.done()]
            if not batch:
                continue
            results = await loop.run_in_executor(self.thread, self.work, [item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue  # given up meanwhile
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
