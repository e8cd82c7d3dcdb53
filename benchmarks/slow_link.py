"""A link on the loopback that delivers each byte half a millisecond later, in both directions.

It runs in a process of its own, or it would take turns with what is measured. It waits by ``select``: other ways of
waiting, those of :mod:`prefiq_db.testing.proxy` too, round up to whole milliseconds.
"""

from __future__ import annotations

import asyncio
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

ONE_WAY_SECONDS = 0.0005
_CHUNK_BYTES = 65536


@contextmanager
def slow_link(port: int) -> Iterator[int]:
    """Give a port from which bytes arrive at *port* of this machine a moment later, and back."""
    command = [sys.executable, __file__, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def _serve(target: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_pass_on(reader, other_writer), _pass_on(other_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    waiting: deque[bytes] = deque()
    try:
        while data := await reader.read(_CHUNK_BYTES):
            waiting.append(data)
            loop.call_later(ONE_WAY_SECONDS, lambda: writer.write(waiting.popleft()))
    except ConnectionError:
        pass  # a reset is passed on as an end
    loop.call_later(ONE_WAY_SECONDS, writer.close)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(int(sys.argv[1])))
