"""psycopg's connections with a timeout for every wait: connecting, each request, and after a cancellation."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import capabilities, waiting
from psycopg.errors import _WaitTimeout
from psycopg.pq import TransactionStatus

from prefiq_db.bridge import to_its_end
from prefiq_db.deadline import Deadline, Shares
from prefiq_db.drivers.addresses import addresses_of, is_name
from prefiq_db.drivers.challenges import in_tls, is_refused, refusal
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.drivers.loop_waits import LoopWaits, waits_of
from prefiq_db.drivers.psycopg_cancels import cancel, cancel_async, cancel_beside
from prefiq_db.drivers.psycopg_cursors import AsyncServerCursor, ServerCursor
from prefiq_db.drivers.psycopg_pipelines import AsyncPipeline, Pipeline
from prefiq_db.drivers.psycopg_preparing import Preparing
from prefiq_db.drivers.stopping import STOP_SECONDS, tell
from prefiq_db.drivers.travellers import Accompanied
from prefiq_db.interruptions import is_interruption

# How often psycopg interrupts a wait to check for Ctrl-C; psycopg's own number.
_INTERVAL_SECONDS: Final = 0.1

# psycopg passes none of our arguments from connect() to the generator that connects to one host.
_shares: ContextVar[Shares | None] = ContextVar("prefiq_db_connect_shares", default=None)


class PsycopgDeadlinePassed(psycopg.OperationalError, DeadlinePassed):
    """psycopg's error for a server that did not answer in time."""


def passed(seconds: float) -> PsycopgDeadlinePassed:
    return PsycopgDeadlinePassed(f"no answer within {seconds:g} s")


@dataclass(frozen=True, slots=True)
class _Places:
    """The hosts of a connection, each with its port, and with its addresses once they are known."""

    hosts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> _Places:
        return cls(tuple(zip(arguments["host"].split(","), arguments["port"].split(","), strict=True)))

    def are_known(self, arguments: dict[str, Any]) -> bool:
        return "hostaddr" in arguments or not any(is_name(host) for host, _ in self.hosts)

    def arguments(self, addresses: list[list[Any] | OSError]) -> dict[str, str]:
        """Return libpq's arguments: each address is a host to try. Unknown names are left out."""
        found: list[tuple[str, str, str]] = []
        last: OSError | None = None
        for (host, port), known in zip(self.hosts, addresses, strict=True):
            if isinstance(known, OSError):
                last = known
            else:
                found.extend((host, port, address) for address in known)
        if not found:
            if isinstance(last, TimeoutError):
                raise PsycopgDeadlinePassed("the host's name was not resolved in time")
            raise psycopg.OperationalError(f"failed to resolve host: {last}")
        hosts, ports, addressed = zip(*found, strict=True)
        return {"host": ",".join(hosts), "port": ",".join(ports), "hostaddr": ",".join(addressed)}


def _as_it_is(host: str) -> list[str]:
    """Return the address of a host that needs no lookup; a folder of Unix sockets has none."""
    return [""] if not host or host.startswith(("/", "@")) else [host]


def _addresses(found: list[tuple[Any, ...]]) -> list[str]:
    return list(dict.fromkeys(place[4][0] for place in found))


class _Hurried(Accompanied):
    """Limits each host to its share of the time for connecting, whatever the server sends."""

    #: the longest a request may take; ``None``: for ever
    patience_seconds: float | None = None
    #: COMMIT is running: a caller who stops waiting for it must let it go on
    is_committing = False
    #: the other end is a pooler, which lends this connection a session of the server for a transaction
    is_lent = False
    _server_cursor_type: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._prepared = Preparing()
        self.server_cursor_factory = self._server_cursor_type

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Any:
        # psycopg resumes this generator at least every tenth of a second. Its own limit has whole seconds, at least
        # two, and starts anew for each address.
        connecting = super()._connect_gen(conninfo)  # type: ignore[misc]
        shares = _shares.get()
        if shares is None:
            return (yield from connecting)
        deadline = shares.next()
        try:
            wanted = next(connecting)
            while True:
                ready = yield wanted
                if deadline.has_passed:
                    break
                wanted = connecting.send(ready)
        except StopIteration as end:
            return end.value
        connecting.close()  # closes the socket, too
        raise passed(deadline.seconds)

    @classmethod
    def _hurrying(cls, deadline: Deadline, arguments: dict[str, Any]) -> None:
        _shares.set(Shares(deadline, arguments["host"].count(",") + 1))

    def _hurry(self, deadline: Deadline) -> Any:
        """Return the connection; SQLAlchemy's first queries get the rest of the time for connecting."""
        self.patience_seconds = deadline.left(at_least=0.01)
        return self

    def _commit_gen(self) -> Any:
        # The server would answer COMMIT with ROLLBACK, and psycopg hides that: the user of a raw connection would
        # believe that the commit succeeded.
        if self.pgconn.transaction_status == TransactionStatus.INERROR:
            yield from self._rollback_gen()  # type: ignore[attr-defined]
            raise psycopg.errors.InFailedSqlTransaction(
                "COMMIT was refused: an earlier statement in the transaction failed, so everything is rolled back"
            )
        yield from super()._commit_gen()  # type: ignore[misc]

    def commit_alone(self) -> Any:
        """Return the generator that sends COMMIT as psycopg sends its own, without a cursor; it returns the tag."""
        tag = (yield from self._exec_command("COMMIT")).command_status.decode()  # type: ignore[attr-defined]  # psycopg's
        if tag != "COMMIT":
            self._prepared.clear()  # as a cursor does after ROLLBACK
        return tag

    def _while_it_moves(self, gen: Any) -> Any:
        """Run *gen* like psycopg's wait, but stop when nothing was sent or received for ``patience_seconds``.

        For a pipeline: one wait covers many statements, each with its own time limit at the server.
        """
        try:
            wanted = next(gen)
            moved = time.monotonic()
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready:
                    moved = now
                elif self.patience_seconds is not None and now - moved >= self.patience_seconds:
                    break
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
        raise _WaitTimeout("nothing moves")

    def _broken_off(self) -> PsycopgDeadlinePassed:
        """Close the connection, which is in the middle of a reply, and return the error to raise."""
        if self._can_be_stopped() and capabilities.has_cancel_safe():
            cancel_beside(self)  # the caller's time is over
        self.pgconn.finish()
        return passed(self.patience_seconds or 0.0)

    def _can_be_stopped(self) -> bool:
        active: bool = self.pgconn.transaction_status == TransactionStatus.ACTIVE
        return active and not self.is_committing


class Connection(_Hurried, psycopg.Connection[Any]):
    """A connection whose requests time out after ``patience_seconds``, which closes the connection."""

    _server_cursor_type = ServerCursor

    @contextmanager
    def _pipeline_nolock(self) -> Iterator[Any]:
        # psycopg's executemany() holds the lock, and has looked that there is no other pipeline.
        self._pipeline = Pipeline(self, _no_lock=True)
        try:
            with self._pipeline as pipeline:
                yield pipeline
        finally:
            self._pipeline = None

    @classmethod
    def connect_by(cls, deadline: Deadline, **arguments: Any) -> Any:
        """Connect by *deadline*; that includes all hosts and looking up their names."""
        places = _Places.of(arguments)
        if not places.are_known(arguments):
            lookups = Shares(_half_way(deadline), len(places.hosts))
            arguments |= places.arguments([cls._look_up(host, port, lookups.next()) for host, port in places.hosts])
        try:
            return cls._connect_once(deadline, arguments)
        except psycopg.OperationalError as error:
            again = _in_tls(error, arguments)
        try:
            return cls._connect_once(deadline, again)
        except psycopg.OperationalError as error:
            failure = _failed_in_tls(error)
        raise failure

    @classmethod
    def _connect_once(cls, deadline: Deadline, arguments: dict[str, Any]) -> Any:
        cls._hurrying(deadline, arguments)
        try:
            return cls.connect(**arguments)._hurry(deadline)
        finally:
            _shares.set(None)

    @staticmethod
    def _look_up(host: str, port: str, deadline: Deadline) -> list[Any] | OSError:
        if not is_name(host):
            return _as_it_is(host)
        try:
            return _addresses(addresses_of(host, int(port), deadline))
        except OSError as error:
            if is_interruption(error):
                raise
            return error

    def wait(self, gen: Any, interval: float = _INTERVAL_SECONDS, timeout: float | None = None) -> Any:
        # Replaces psycopg's own method instead of wrapping it, because every statement passes here.
        try:
            limit = self.patience_seconds if timeout is None else timeout
            if self._around is not None:
                gen = self._around(gen)
            if self._pipeline is not None:
                gen, limit = self._while_it_moves(gen), timeout
            return waiting.wait(gen, self.pgconn.socket, interval=interval, timeout=limit)
        except _WaitTimeout:
            if timeout is not None:
                raise
        except psycopg.Error:
            raise
        except BaseException:
            # Ctrl-C, or any exception of a signal handler: a job queue's time limit is an ordinary exception.
            self._stop(gen)
            raise
        raise self._broken_off()

    def _stop(self, gen: Any) -> None:
        """Ask the server to stop the statement; close the connection unless it does so at once."""
        if not self._can_be_stopped():
            return
        deadline = Deadline.after(STOP_SECONDS)
        try:
            cancel(self)
            waiting.wait(gen, self.pgconn.socket, interval=_INTERVAL_SECONDS, timeout=deadline.left())
        except psycopg.errors.QueryCanceled:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, the interruption itself goes on
            tell(error)
            self.pgconn.finish()
        except BaseException:
            self.pgconn.finish()
            raise


class AsyncConnection(_Hurried, psycopg.AsyncConnection[Any]):
    """The asyncio counterpart of :class:`Connection`."""

    _server_cursor_type = AsyncServerCursor
    _waits: LoopWaits | None = None

    @asynccontextmanager
    async def _pipeline_nolock(self) -> AsyncIterator[Any]:
        self._pipeline = AsyncPipeline(self, _no_lock=True)
        try:
            async with self._pipeline as pipeline:
                yield pipeline
        finally:
            self._pipeline = None

    @classmethod
    async def connect_by(cls, deadline: Deadline, **arguments: Any) -> Any:
        places = _Places.of(arguments)
        if not places.are_known(arguments):
            lookups = Shares(_half_way(deadline), len(places.hosts))
            addresses = [await cls._look_up(host, port, lookups.next()) for host, port in places.hosts]
            arguments |= places.arguments(addresses)
        try:
            return await cls._connect_once(deadline, arguments)
        except psycopg.OperationalError as error:
            again = _in_tls(error, arguments)
        try:
            return await cls._connect_once(deadline, again)
        except psycopg.OperationalError as error:
            failure = _failed_in_tls(error)
        raise failure

    @classmethod
    async def _connect_once(cls, deadline: Deadline, arguments: dict[str, Any]) -> Any:
        cls._hurrying(deadline, arguments)
        try:
            return (await cls.connect(**arguments))._hurry(deadline)
        finally:
            _shares.set(None)

    @staticmethod
    async def _look_up(host: str, port: str, deadline: Deadline) -> list[Any] | OSError:
        if not is_name(host):
            return _as_it_is(host)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline.left()):
                return _addresses(await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM))
        except OSError as error:
            if is_interruption(error):
                raise
            return error

    async def wait(
        self,
        gen: Any,
        interval: float = _INTERVAL_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own signature
    ) -> Any:
        try:
            limit = self.patience_seconds if timeout is None else timeout
            if self._around is not None:
                gen = self._around(gen)
            if self._pipeline is not None:
                gen = self._while_it_moves(gen)
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
            loop, waits = asyncio.get_running_loop(), self._waits
            if waits is None or waits.loop() is not loop:
                self._waits = waits = waits_of(loop)
            if waits is None:
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=limit)
            return await waits.carry_out(gen, self.pgconn.socket, limit)
        except _WaitTimeout:
            if timeout is not None:
                raise
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            if self._can_be_stopped():
                # In a separate task: anyio would cancel this one again at each await.
                await to_its_end(self._stop(gen), 2 * STOP_SECONDS)
            raise
        except GeneratorExit:  # the coroutine is being closed: nobody can wait for the server's word
            if self._can_be_stopped():
                self._broken_off()
            raise
        raise self._broken_off()

    async def _stop(self, gen: Any) -> None:
        deadline = Deadline.after(STOP_SECONDS)
        try:
            await cancel_async(self)
            await waiting.wait_async(gen, self.pgconn.socket, interval=_INTERVAL_SECONDS, timeout=deadline.left())
        except psycopg.errors.QueryCanceled:
            return
        except Exception as error:  # noqa: BLE001 - likewise
            tell(error)
            self.pgconn.finish()
        except BaseException:
            self.pgconn.finish()
            raise


def _in_tls(error: psycopg.OperationalError, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for a second attempt after *error*, or raise the final error.

    With ``prefer`` we don't know whether the server asked for the password itself over TLS.
    """
    if not is_refused(error, arguments):
        raise error
    if arguments["sslmode"] != "prefer":
        raise refusal()
    return in_tls(arguments)


def _failed_in_tls(error: psycopg.OperationalError) -> Exception:
    return refusal() if "does not support SSL" in str(error) else error


def _half_way(deadline: Deadline) -> Deadline:
    """Return the deadline for looking up names: a silent resolver must leave time for the rest."""
    return deadline.share(2)
