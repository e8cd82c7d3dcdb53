"""End at the server what a connection that was given up left running there: its statement, and the locks it holds.

A server doesn't look at its client while it works. Who gives up waiting (a cancelled task, a signal, our own clock) and
only closes the socket leaves the statement to run to its end. Why it is done beside, and for what not:
docs/decisions/0092-why-what-is-given-up-is-stopped-at-the-server.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

logger = logging.getLogger("prefiq_db.drivers")

# What a caller who was cancelled may wait for the server to stop his statement. Five seconds twice, psycopg's own
# limits, are an eternity to whoever said asyncio.timeout(1).
STOP_SECONDS: Final = 0.4


def beside(stop: Callable[[], object]) -> Future[None]:
    """Call *stop* in a thread of its own, which needs no event loop that may be ending; return when it has ended.

    It is best effort: a failure is logged, and the caller goes on with what made him give up.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            stop()
        except Exception as error:  # noqa: BLE001 - nobody is there to hear of it
            tell(error)
        finally:
            ended.set_result(None)

    try:
        threading.Thread(target=run, name="prefiq_db stopping", daemon=True).start()
    except RuntimeError as error:  # the interpreter is ending, or has no thread to give
        tell(error)
        ended.set_result(None)
    return ended


def port_of(address: Any) -> int | None:
    """Return the port in the *address* of a socket; ``None`` for one in the file system."""
    return address[1] if isinstance(address, tuple) else None


def tell(error: Exception) -> None:
    # Only the class: the text may hold what the server said.
    logger.info("a statement that was given up was not stopped at the server (%s)", type(error).__name__)
