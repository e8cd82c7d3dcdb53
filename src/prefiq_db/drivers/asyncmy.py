"""asyncmy's connection, its cursors and SQLAlchemy's adapter, with a timeout for every wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import asyncmy
from asyncmy.connection import MySQLResult
from asyncmy.constants.CLIENT import MULTI_STATEMENTS, SSL
from asyncmy.constants.CR import CR_SSL_CONNECTION_ERROR
from asyncmy.protocol import EOFPacketWrapper, LoadLocalPacketWrapper
from sqlalchemy.dialects.mysql.asyncmy import (
    AsyncAdapt_asyncmy_connection,
    AsyncAdapt_asyncmy_cursor,
    AsyncAdapt_asyncmy_dbapi,
    AsyncAdapt_asyncmy_ss_cursor,
)

from prefiq_db.bridge import await_
from prefiq_db.deadline import Deadline
from prefiq_db.drivers.asyncmy_clock import AsyncmyDeadlinePassed, Clock
from prefiq_db.drivers.challenges import CHALLENGES, refusal
from prefiq_db.drivers.garbled import as_garbled
from prefiq_db.drivers.local_stream import LocalStream, asked_for
from prefiq_db.drivers.local_stream import refusal as file_refusal
from prefiq_db.drivers.too_long_statements import LastWords, ends_conversation, sequence_of_refusal
from prefiq_db.drivers.travellers_asyncmy import Accompanied
from prefiq_db.drivers.travellers_mysql import gtid_in

T = TypeVar("T")

# Rows of a batch that share one timer: the server limits the time of each, and sends no reply until all are done.
_ROWS_PER_CLOCK: Final = 500
# The attributes of a cursor that the next result replaces.
_OF_ONE_RESULT: Final = ("_result", "_rows", "rowcount", "rownumber", "lastrowid", "description")

# asyncmy's row count of a result whose rows are read one by one.
_UNKNOWN_COUNT: Final = 2**64 - 1

ResultSet = tuple[Any, Any]

# COM_QUIT, with its header.
_QUIT: Final = b"\x01\x00\x00\x00\x01"


class _Result(MySQLResult):
    """A reply that keeps its last packet's status, also while streaming and with the old end-of-rows packet."""

    def _read_ok_packet(self, packet: Any) -> None:
        super()._read_ok_packet(packet)  # type: ignore[misc]  # the driver's own
        connection = self.connection
        if connection is not None and connection.tells_gtid:  # a streamed reply has let go of it
            connection.told_gtid = gtid_in(self.server_status, self.message) or connection.told_gtid

    async def _read_load_local_packet(self, first_packet: Any) -> None:
        connection = self.connection
        stream = connection.local_stream
        if not asked_for(stream, LoadLocalPacketWrapper(first_packet).filename):
            connection._hang_up()
            raise file_refusal(asyncmy.errors.OperationalError)
        for block in stream.blocks():
            connection.write_packet(block)
            await connection._proto.drain()
        connection.write_packet(b"")
        self._read_ok_packet(await connection.read_packet())

    def _check_packet_is_eof(self, packet: Any) -> bool:
        connection = self.connection
        if connection._deprecate_eof:
            ended = bool(super()._check_packet_is_eof(packet))  # type: ignore[misc]
        elif ended := bool(packet.is_eof_packet()):
            end = EOFPacketWrapper(packet)
            self.warning_count, self.has_next = end.warning_count, end.has_next
            self.server_status = end.server_status
        if ended:
            connection.server_status = self.server_status
        return ended


class Connection(Accompanied):
    """A connection that runs one statement at a time, and knows the transaction status in the server's last reply.

    asyncmy always asks for several statements in one text, and forgets a status of 0: autocommit off, no transaction.
    It asks for TLS without checking whether the server offers it, and sends the password to any server that asks.

    Args:
        tls_required: whether a server without TLS is refused.
        may_tell: whether the password itself may be sent without TLS.
    """

    # asyncmy's own attributes, which its type information leaves out.
    _client_flag: int
    _password: bytes
    _secure: bool
    _ssl_context: Any
    server_capabilities: int

    #: what the server may read now, if it asks for it
    local_stream: LocalStream | None = None

    def __init__(self, *, tls_required: bool, may_tell: bool, **arguments: Any) -> None:
        self._tls_required, self._may_tell = tls_required, may_tell
        self._public_key: Any = None
        super().__init__(**arguments)  # type: ignore[no-untyped-call]
        self._client_flag &= ~MULTI_STATEMENTS

    async def _request_authentication(self) -> Any:
        if self._ssl_context is not None and not self.server_capabilities & SSL:
            if self._tls_required:
                raise asyncmy.errors.OperationalError(
                    CR_SSL_CONNECTION_ERROR, "SSL is required but the server doesn't support it"
                )
            self._ssl_context = None
        return await super()._request_authentication()  # type: ignore[misc]

    async def _process_auth(self, plugin_name: bytes, auth_packet: Any) -> Any:
        if self._is_overheard and plugin_name not in CHALLENGES:
            raise refusal(plugin_name)
        return await super()._process_auth(plugin_name, auth_packet)  # type: ignore[misc]

    @property
    def _server_public_key(self) -> Any:
        # Without TLS it would encrypt the password, but the key may be anybody's.
        if self._is_overheard:
            raise refusal()
        return self._public_key

    @_server_public_key.setter
    def _server_public_key(self, key: Any) -> None:
        self._public_key = key

    @property
    def _is_overheard(self) -> bool:
        return bool(self._password) and not (self._secure or self._may_tell)

    async def _read_query_result(self, unbuffered: bool = False) -> None:
        transport = self._transport
        if transport is not None and (
            self._next_seq_id > 1 or transport.get_write_buffer_size() or transport.is_closing()
        ):
            await self._heed_refusal(transport)
        await self.read_reply(unbuffered)

    async def read_reply(self, unbuffered: bool = False) -> Any:
        """Read the reply to one statement, which becomes the connection's result; return it."""
        self._result = None
        result = _Result(self)
        failure: Exception | None = None
        try:
            if unbuffered:
                await result.init_unbuffered_query()  # type: ignore[no-untyped-call]
            else:
                await result.read()  # type: ignore[no-untyped-call]
        except Exception as error:
            if unbuffered:
                result.unbuffered_active = False
                result.connection = None
            if ends_conversation(error):
                self._hang_up()
            failure = as_garbled(error, asyncmy.errors.OperationalError)
            if failure is error:
                raise
        if failure is not None:
            raise failure
        self._result = result
        self._affected_rows = result.affected_rows
        if not unbuffered or not result.unbuffered_active:
            self.server_status = result.server_status
        return result

    async def _heed_refusal(self, transport: Any) -> None:
        """Wait for the reply to a statement that is not fully sent; the server may refuse it before reading all of it.

        When sending fails, the transport reads no more, and only a second handle of its socket can read the refusal.
        """
        with LastWords(transport) as last_words:
            try:
                await self._fill_buffer(5)
            except asyncmy.errors.OperationalError:
                payload = last_words.refusal()
                if payload is None:
                    raise
            else:
                start = self._proto.pos
                head = self._proto.buffer[start : start + 5]
                self._next_seq_id = sequence_of_refusal(head) or self._next_seq_id
                return
        self._hang_up()
        asyncmy.errors.raise_mysql_exception(payload)

    def _hang_up(self) -> None:
        """Close the connection without sending what is still buffered."""
        if self._transport is not None:
            self._transport.abort()
        self.close()
        self.server_status = 0


async def connect(**arguments: Any) -> Connection:
    """Return a connection that is logged in."""
    connection = Connection(**arguments)
    try:
        await connection.connect()
    except Exception as error:
        if (failure := as_garbled(error, asyncmy.errors.OperationalError, greeting=True)) is error:
            raise
    else:
        return connection
    raise failure


async def connect_by(deadline: Deadline, **arguments: Any) -> Connection:
    """Connect and log in by *deadline*."""
    try:
        async with asyncio.timeout(deadline.left(at_least=0.01)):
            return await connect(**arguments)
    except TimeoutError:
        pass  # raised below, outside the block: it says nothing that matters
    raise AsyncmyDeadlinePassed("no connection in time")


class _Cursor(AsyncAdapt_asyncmy_cursor):
    __slots__ = ("other_results",)

    _cursor: Any

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> Any:
        changed = 0
        for start in range(0, len(seq_of_parameters), _ROWS_PER_CLOCK):
            async with self._adapt_connection._execute_mutex:
                await self._cursor.executemany(operation, seq_of_parameters[start : start + _ROWS_PER_CLOCK])
            changed += max(0, self._cursor.rowcount)
        self._cursor.rowcount = changed

    def nextset(self) -> None:
        await_(self._next_set())

    def read_other_results(self) -> list[ResultSet]:
        """Read the results after the first one of a CALL, so that their errors are raised; return the sets of rows."""
        result = self._connection._result
        return await_(self._other_results()) if result is not None and result.has_next else []

    async def _other_results(self) -> list[ResultSet]:
        cursor = self._cursor
        kept = {name: getattr(cursor, name) for name in _OF_ONE_RESULT}
        others: list[ResultSet] = []
        async with self._adapt_connection._execute_mutex:
            try:
                while await cursor.nextset():
                    if cursor.description is not None:
                        others.append((cursor.description, await cursor.fetchall()))
            finally:
                for name, value in kept.items():
                    setattr(cursor, name, value)
        return others

    async def _next_set(self) -> None:
        async with self._adapt_connection._execute_mutex:
            await self._cursor.nextset()
            if self._cursor.description and not self.server_side:
                self._rows.extend(await self._cursor.fetchall())


class _ServerSideCursor(AsyncAdapt_asyncmy_ss_cursor):
    __slots__ = ("other_results",)

    _cursor: Any

    @property
    def rowcount(self) -> int:
        count: int = self._cursor.rowcount
        return -1 if count == _UNKNOWN_COUNT else count

    def fetchone(self) -> Any:
        return self._fetched(self._cursor.fetchone())

    def fetchmany(self, size: int | None = None) -> Any:
        return self._fetched(self._cursor.fetchmany(size=size))

    def fetchall(self) -> Any:
        return self._fetched(self._cursor.fetchall())

    def close(self) -> None:
        if self._cursor is not None:
            # It reads the remaining results.
            await_(self._timed(self._cursor.close()))
            self._cursor = None

    def _fetched(self, rows: Awaitable[T]) -> T:
        return await_(self._timed(rows))

    async def _timed(self, awaitable: Awaitable[T]) -> T:
        async with self._adapt_connection._execute_mutex:
            return await awaitable


class AdaptedConnection(AsyncAdapt_asyncmy_connection):
    """SQLAlchemy's adapter, with a timed lock and a close that doesn't wait for the server."""

    __slots__ = ()

    _cursor_cls = _Cursor
    _ss_cursor_cls = _ServerSideCursor

    def __init__(self, dbapi: Any, connection: Any) -> None:
        super().__init__(dbapi, connection)
        self._execute_mutex = Clock(connection)

    def close(self) -> None:
        await_(self._terminate_graceful_close())

    async def _terminate_graceful_close(self) -> None:
        # TLS would wait half a minute for the server's close_notify.
        connection = self._connection
        protocol = connection._proto
        # A cancelled statement has already closed the connection, but TLS may still wait for its close_notify.
        transport = None if protocol is None else protocol.transport
        if transport is not None:
            if connection._connected and not transport.is_closing():
                with contextlib.suppress(asyncmy.errors.OperationalError):
                    connection._write_bytes(_QUIT)
            transport.abort()
            await protocol.wait_closed()
        connection.close()


class Dbapi(AsyncAdapt_asyncmy_dbapi):
    """SQLAlchemy's DBAPI for asyncmy, which makes our connections."""

    def connect(self, *args: Any, **arguments: Any) -> AdaptedConnection:
        create = arguments.pop("async_creator_fn", connect)
        made: AdaptedConnection = await_(AdaptedConnection.create(self, create(*args, **arguments)))
        return made
