"""Others who ask for the outcome of transactions, while these are under way."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing.faults import Bank, Transfer
from tests.chaos.conftest import closing_async


class Racers:
    """Tokens that :meth:`ask_for` is given are asked for at once, by each of several databases of *world*.

    Args:
        every: each so many-th transfer is asked for: a question costs a connection of its own.

    Attributes:
        tokens: the transfer of each token.
        answers: what was answered to each token, by each who asked.
        errors: what they died of.
    """

    def __init__(self, world: str, url: str, count: int = 2, every: int = 1, **options: Any) -> None:
        self.tokens: dict[str, int] = {}
        self.answers: dict[str, list[str]] = {}
        self.errors: list[BaseException] = []
        self._world = world
        self._url = url
        self._options = options
        self._every = every
        self._queues: list[queue.SimpleQueue[str | None]] = [queue.SimpleQueue() for _ in range(count)]

    def ask_for(self, token: str, transfer: Transfer) -> None:
        if transfer.number % self._every:
            return
        self.tokens[token] = transfer.number
        for each in self._queues:
            each.put(token)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask in threads; at the end of the block wait until every token has its answers."""
        run = self._run_async if self._world == "async" else self._run
        threads = [threading.Thread(target=run, args=(each,)) for each in self._queues]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for each in self._queues:
                each.put(None)
            for thread in threads:
                thread.join()

    def _run(self, asked: queue.SimpleQueue[str | None]) -> None:
        try:
            with closing(Database(self._url, **self._options)) as db:
                while token := asked.get():
                    self.answers.setdefault(token, []).append(str(db.resolve_outcome(token)))
        except BaseException as error:
            self.errors.append(error)

    def _run_async(self, asked: queue.SimpleQueue[str | None]) -> None:
        async def run() -> None:
            async with closing_async(AsyncDatabase(self._url, **self._options)) as db:
                while token := await asyncio.to_thread(asked.get):
                    self.answers.setdefault(token, []).append(str(await db.resolve_outcome(token)))

        try:
            asyncio.run(run())
        except BaseException as error:
            self.errors.append(error)


def raced(world: str, bank: Bank, racers: Racers) -> Any:
    """A transfer with ``exactly_once=True`` whose token is asked for just before its COMMIT."""

    def body(tx: Any, transfer: Transfer) -> int:
        number = bank.apply(tx, transfer)
        racers.ask_for(tx.token, transfer)
        return number

    async def body_async(tx: Any, transfer: Transfer) -> int:
        number = await bank.apply_async(tx, transfer)
        racers.ask_for(tx.token, transfer)
        return number

    chosen = body if world == "sync" else body_async
    return lambda db, transfer: db.run_in_transaction(chosen, transfer, exactly_once=True)
