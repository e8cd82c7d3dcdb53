"""Run the stand-in for a MongoDB server, in a Python of its own: ``python stand_in.py PORT [FILE]``.

mongoeco speaks MongoDB's protocol and keeps documents in memory, or in SQLite's FILE. It is not MongoDB: what it can't
do, the tests skip by name.
"""

from __future__ import annotations

import asyncio
import sys


async def main(port: int, path: str | None) -> None:
    from mongoeco.wire import AsyncMongoEcoProxyServer  # type: ignore[import-not-found] # in an environment of its own

    engine = None
    if path is not None:
        from mongoeco.engines.sqlite import AsyncSQLiteEngine  # type: ignore[import-not-found] # likewise

        engine = AsyncSQLiteEngine(path)
    server = AsyncMongoEcoProxyServer(engine=engine, host="127.0.0.1", port=port)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
