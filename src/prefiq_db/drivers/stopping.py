"""End at the server what an abandoned connection left running there: its statement, and the locks that it holds.

A server doesn't watch its client while it works. If a caller stops waiting (a cancelled task, a signal, our own clock)
and only closes the socket, the statement runs to its end. Why a thread does it, and in which cases not:
docs/decisions/0092-why-what-is-given-up-is-stopped-at-the-server.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

logger = logging.getLogger("prefiq_db.drivers")

# How long a cancelled caller may wait for the server to stop the statement. psycopg's own limits, five seconds twice,
# are too long for a caller of asyncio.timeout(1).
STOP_SECONDS: Final = 0.4


def beside(stop: Callable[[], object]) -> Future[None]:
    """Call *stop* in a separate thread, which needs no event loop that may be ending; return a future for its end.

    Best effort: a failure is logged, and the caller's own error goes on.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            stop()
        except Exception as error:  # noqa: BLE001 - there is no caller to raise to
            tell(error)
        finally:
            ended.set_result(None)

    try:
        threading.Thread(target=run, name="prefiq_db stopping", daemon=True).start()
    except RuntimeError as error:  # the interpreter is exiting, or can't start a thread
        tell(error)
        ended.set_result(None)
    return ended


def port_of(address: Any) -> int | None:
    """Return the port in the *address* of a socket; ``None`` for a Unix socket."""
    return address[1] if isinstance(address, tuple) else None


def tell(error: Exception) -> None:
    # Only the class: the text may quote the server.
    logger.info("a statement that was given up was not stopped at the server (%s)", type(error).__name__)
