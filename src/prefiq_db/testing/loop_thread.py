"""A thread that waits for sockets, and runs timers and other threads' commands in between."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_CALL_SECONDS = 10.0
_MAX_ROUNDS_BEFORE_COMMANDS = 100
_WAKE_BYTES = 65536


class LoopThread:
    """Base class for handling sockets in one thread; use it as a context manager.

    Subclasses override :meth:`_begin`, :meth:`_serve` and :meth:`_end`, and register sockets with ``_selector``.
    """

    _selector: selectors.BaseSelector

    def __init__(self) -> None:
        self._commands: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def _begin(self) -> None:
        """Prepare, in the thread that calls :meth:`start`."""

    def _serve(self, key: selectors.SelectorKey, events: int) -> None:
        """Serve the events of one socket."""

    def _end(self) -> None:
        """Close what is open."""

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Run *action* after *seconds*, unless the thread ends before."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._timer_numbers), action))

    def call(self, action: Callable[[], T]) -> T:
        """Run *action* in this thread, after everything that was sent to its sockets before; return its result."""
        if self._thread is None or threading.current_thread() is self._thread:
            return action()
        future: Future[T] = Future()
        self._commands.put((action, future))
        self._wake()
        return future.result(_CALL_SECONDS)

    def start(self) -> Self:
        """Start the thread; do nothing if it runs already."""
        if self._thread is None:
            self._stopping = False
            self._selector = selectors.DefaultSelector()
            self._wake_receiver, self._wake_sender = socket.socketpair()
            self._wake_receiver.setblocking(False)
            self._selector.register(self._wake_receiver, selectors.EVENT_READ)
            self._begin()
            self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Stop the thread, and wait until it has ended."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake()
        self._thread.join()
        self._thread = None
        self._wake_receiver.close()
        self._wake_sender.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- the loop --------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._wake_sender.send(b"\0")

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._move(self._seconds_to_timer())
                self._run_timers()
                if not self._commands.empty():
                    self._run_commands()
        finally:
            self._end()
            self._timers.clear()
            self._run_commands()
            self._selector.close()

    def _run_commands(self) -> None:
        commands = [self._commands.get() for _ in range(self._commands.qsize())]
        # The caller may just have connected and sent bytes that get no answer: handle them first. A continuous stream
        # never pauses, so there is a limit.
        for _ in range(_MAX_ROUNDS_BEFORE_COMMANDS):
            if not self._move(0):
                break
        for action, future in commands:
            try:
                result = action()
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                future.set_exception(error)
            else:
                future.set_result(result)

    def _seconds_to_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()

    def _move(self, timeout_seconds: float | None) -> bool:
        """Wait for events and serve them; return whether there were any."""
        ready = self._selector.select(timeout_seconds)
        for key, events in ready:
            if key.fileobj is self._wake_receiver:
                with contextlib.suppress(BlockingIOError):
                    self._wake_receiver.recv(_WAKE_BYTES)
            else:
                self._serve(key, events)
        return bool(ready)
