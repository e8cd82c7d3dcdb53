"""What a batch of two costs, at one millisecond of network: against plain SQLAlchemy's transaction of the same two.

    python benchmarks/batch.py                 # PostgreSQL and MariaDB, sync and async
    python benchmarks/batch.py --rounds 40

It starts private servers, and puts a link with half a millisecond each way in between. The contenders take turns in
random order; the ratio is the median of the rounds, each against its own neighbour.

What was measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing import MariaDbServer, PostgresServer

MOST = 0.27
ONE_WAY_SECONDS = 0.0005
_ADD = "update stock set quantity = quantity + :n where id = :id"
_PARAMS = ({"n": 1, "id": 1}, {"n": -1, "id": 2})
_DRIVERS = {
    "PostgreSQL": ("postgresql+psycopg", "postgresql+psycopg", {"sslmode": "disable"}, {"sslmode": "disable"}),
    "MariaDB": ("mariadb+pymysql", "mariadb+asyncmy", {"ssl_disabled": True}, {}),
}


@contextlib.contextmanager
def _slow_link(port: int) -> Iterator[int]:
    """Give a port from which bytes arrive at *port* a moment later, and back; in a process of its own."""
    command = [sys.executable, __file__, "--link", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class _Link:
    def __init__(self, port: int) -> None:
        self._target = port

    async def serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass(reader, other_writer), self._pass(other_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        due: deque[tuple[float, bytes]] = deque()
        loop = asyncio.get_running_loop()

        def deliver() -> None:
            _, data = due.popleft()
            writer.write(data)

        while data := await reader.read(65536):
            due.append((loop.time() + ONE_WAY_SECONDS, data))
            loop.call_at(due[-1][0], deliver)
        loop.call_later(ONE_WAY_SECONDS, writer.close)


def _compare(ours: Callable[[], object], plain: Callable[[], object], rounds: int, calls: int) -> tuple[float, float]:
    """Return the median ratio of the two, and the median milliseconds of ours."""
    ratios, own = [], []
    for _ in range(rounds):
        seconds = {}
        for contender in random.sample([ours, plain], 2):
            started = time.perf_counter()
            for _ in range(calls):
                contender()
            seconds[contender] = (time.perf_counter() - started) / calls
        ratios.append(seconds[ours] / seconds[plain])
        own.append(seconds[ours] * 1000)
    return statistics.median(ratios), statistics.median(own)


def _sync(url: str, name: str, rounds: int, calls: int) -> tuple[float, float]:
    driver, _, options, _ = _DRIVERS[name]
    engine = sa.create_engine(sa.make_url(url).set(drivername=driver), connect_args=options)
    statement = sa.text(_ADD)
    with Database(url, ssl_mode="disable") as db:

        def plain() -> None:
            with engine.begin() as connection:
                for params in _PARAMS:
                    connection.execute(statement, params)

        return _compare(lambda: db.batch([(_ADD, params) for params in _PARAMS]), plain, rounds, calls)


def _async(url: str, name: str, rounds: int, calls: int) -> tuple[float, float]:
    _, driver, _, options = _DRIVERS[name]
    with asyncio.Runner() as runner:
        engine = create_async_engine(sa.make_url(url).set(drivername=driver), connect_args=options)
        statement = sa.text(_ADD)
        db = AsyncDatabase(url, ssl_mode="disable")

        async def plain() -> None:
            async with engine.begin() as connection:
                for params in _PARAMS:
                    await connection.execute(statement, params)

        async def several(call: Callable[[], Any]) -> None:
            for _ in range(calls):
                await call()

        runner.run(db.open())
        ours = lambda: runner.run(several(lambda: db.batch([(_ADD, params) for params in _PARAMS])))  # noqa: E731
        try:
            return _compare(ours, lambda: runner.run(several(plain)), rounds, 1)
        finally:
            runner.run(db.close())
            runner.run(engine.dispose())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds whose median counts")
    parser.add_argument("--calls", type=int, default=20, help="calls of each contender in a round")
    parser.add_argument("--link", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.link:
        asyncio.run(_Link(arguments.link).serve())
        return
    kept = True
    for name, kind in (("PostgreSQL", PostgresServer), ("MariaDB", MariaDbServer)):
        with kind.locate() as server, _slow_link(server.port) as port:
            database = server.create_database()
            server.execute("create table stock (id integer primary key, quantity integer not null)", database)
            server.execute("insert into stock values (1, 0), (2, 0)", database)
            url = server.url(database).replace(f":{server.port}/", f":{port}/")
            for world, measure in (("sync", _sync), ("async", _async)):
                ratio, own = measure(url, name, arguments.rounds, arguments.calls)
                own /= arguments.calls if world == "async" else 1
                kept = kept and ratio <= MOST
                sys.stdout.write(f"{name:11} {world:6} {own:6.2f} ms   x{ratio:.3f} of SQLAlchemy (at most {MOST})\n")
    sys.stdout.write("kept\n" if kept else "NOT KEPT\n")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
