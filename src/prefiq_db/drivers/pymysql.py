"""PyMySQL's connection with a timeout for each whole request, where PyMySQL has one for each read."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from itertools import islice
from typing import Any

import pymysql
from pymysql.connections import MySQLResult
from pymysql.constants import CR
from pymysql.cursors import SSCursor
from pymysql.protocol import EOFPacketWrapper, LoadLocalPacketWrapper, MysqlPacket

from prefiq_db.deadline import Deadline, Shares
from prefiq_db.drivers.addresses import addresses_of
from prefiq_db.drivers.challenges import CHALLENGES, refusal
from prefiq_db.drivers.deadlines import UNBOUNDED_SECONDS, DeadlinePassed
from prefiq_db.drivers.garbled import as_garbled
from prefiq_db.drivers.local_stream import LocalStream, asked_for
from prefiq_db.drivers.local_stream import refusal as file_refusal
from prefiq_db.drivers.stopping import STOP_SECONDS, beside, port_of
from prefiq_db.drivers.too_long_statements import ERROR, ends_conversation, sequence_of_refusal
from prefiq_db.drivers.travellers_mysql import gtid_in
from prefiq_db.drivers.travellers_pymysql import Accompanied
from prefiq_db.interruptions import is_interruption

# The attributes of a cursor that the next result replaces.
_OF_ONE_RESULT = ("_result", "_rows", "rowcount", "rownumber", "lastrowid", "description")

ResultSet = tuple[Any, Any]

# A socket timeout of 0 means non-blocking, which raises another error.
AT_ONCE_SECONDS = 0.001


class PyMySQLDeadlinePassed(pymysql.err.OperationalError, DeadlinePassed):
    """PyMySQL's error for a server that did not answer in time."""


class _Timed:
    """A socket that reads until a deadline; a timeout for each read would last for ever, byte by byte."""

    #: the deadline on the monotonic clock; set before each request, as a plain float, which needs no new object
    ends_at = 0.0

    def recv_into(self, *args: Any) -> int:
        self.settimeout(max(AT_ONCE_SECONDS, self.ends_at - time.monotonic()))  # type: ignore[attr-defined]
        return super().recv_into(*args)  # type: ignore[misc, no-any-return]


class _Socket(_Timed, socket.socket):
    pass


class TimedTls(_Timed, ssl.SSLSocket):
    """The TLS socket that our ``SSLContext`` creates."""


class _Result(MySQLResult):
    """A reply that keeps the status of its last packet; PyMySQL does so only for replies without rows."""

    connection: Any
    warning_count: int
    has_next: Any
    server_status: int
    message: Any
    unbuffered_active: bool

    def _finish_unbuffered_query(self) -> None:
        if self.connection is None or self.connection._sock is None:
            # The connection is closed; PyMySQL would go on reading.
            self.forget()
        super()._finish_unbuffered_query()  # type: ignore[misc]

    def forget(self) -> None:
        """Read no more of it."""
        self.unbuffered_active = False
        self.connection = None

    def _read_ok_packet(self, packet: Any) -> None:
        super()._read_ok_packet(packet)  # type: ignore[misc]  # the driver's own
        connection = self.connection
        if connection is not None and connection.tells_gtid:  # a streamed reply has let go of it
            connection.told_gtid = gtid_in(self.server_status, self.message) or connection.told_gtid

    def _read_load_local_packet(self, first_packet: Any) -> None:
        connection = self.connection
        stream = connection.local_stream
        if not asked_for(stream, LoadLocalPacketWrapper(first_packet).filename):
            connection._force_close()
            connection.server_status = 0
            raise file_refusal(pymysql.err.OperationalError)
        for block in stream.blocks():
            connection.write_packet(block)
        connection.write_packet(b"")
        self._read_ok_packet(connection._read_packet())

    def _check_packet_is_eof(self, packet: Any) -> bool:
        if not packet.is_eof_packet():
            return False
        end = EOFPacketWrapper(packet)
        self.warning_count, self.has_next = end.warning_count, end.has_next
        self.server_status = self.connection.server_status = end.server_status
        return True


class Connection(Accompanied):
    """A connection whose requests time out after ``patience_seconds``, which closes the connection."""

    # PyMySQL's own attributes, which its type information leaves out.
    ctx: ssl.SSLContext | None
    _ssl_required: bool
    server_thread_id: tuple[int]
    _secure: bool
    password: Any

    patience_seconds: float = UNBOUNDED_SECONDS
    #: what the server may read now, if it asks for it
    local_stream: LocalStream | None = None
    #: ends a session from another connection, by its number and its client's port
    end_session: Callable[[int, int | None], None] | None = None
    #: COMMIT is running: a caller who stops waiting for it must let it go on
    is_committing = False
    #: the rows of a stream are not read to their end; every other statement is refused meanwhile
    is_streaming = False
    #: the deadline for logging in; ``None`` after that
    _connecting_by: Deadline | None = None

    #: whether the password itself may be sent without TLS
    may_tell = False
    _public_key: Any = None

    def connect_by(self, deadline: Deadline) -> None:
        """Connect and log in by *deadline*."""
        self._connecting_by = deadline
        # The sockets keep the deadline; PyMySQL would start its timeouts anew with each packet.
        self._read_timeout = self._write_timeout = None
        try:
            self.connect(self._dial(deadline))
        except OSError as error:
            failure: Exception = error
        except pymysql.err.OperationalError as error:
            met = getattr(error, "original_exception", None)
            if met is None or not is_interruption(met):
                raise
            failure = met
        except Exception as error:
            if (failure := as_garbled(error, pymysql.err.OperationalError, greeting=True)) is error:
                raise
        else:
            self._connecting_by = None
            return
        if not isinstance(failure, OSError) or is_interruption(failure):
            raise failure
        if _is_ours(failure):
            raise PyMySQLDeadlinePassed("no connection in time")
        raise pymysql.err.OperationalError(CR.CR_CONN_HOST_ERROR, f"Can't connect to MySQL server ({failure})")

    def _process_auth(self, plugin_name: bytes, auth_packet: Any, handler: Any = None) -> Any:
        if self._is_overheard and plugin_name not in CHALLENGES:
            raise refusal(plugin_name)
        return super()._process_auth(plugin_name, auth_packet, handler)  # type: ignore[misc]

    @property
    def server_public_key(self) -> Any:
        """The RSA key that encrypts the password without TLS; it may be anybody's."""
        if self._is_overheard:
            raise refusal()
        return self._public_key

    @server_public_key.setter
    def server_public_key(self, key: Any) -> None:
        self._public_key = key

    @property
    def _is_overheard(self) -> bool:
        return bool(self.password) and not (self._secure or self.may_tell)

    def _dial(self, deadline: Deadline) -> socket.socket:
        """Return a socket that is connected to the first of the host's addresses that answers."""
        addresses = addresses_of(self.host, self.port, deadline)
        shares = Shares(deadline, len(addresses))
        last: OSError | None = None
        for family, kind, protocol, _, address in addresses:
            dialled = _Socket(family, kind, protocol)
            try:
                dialled.settimeout(shares.next().left(AT_ONCE_SECONDS))
                dialled.connect(address)
                dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                dialled.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except OSError as error:
                dialled.close()
                if is_interruption(error):
                    raise
                last = error
            except BaseException:
                dialled.close()
                raise
            else:
                dialled.ends_at = deadline.at
                return dialled
        assert last is not None, "getaddrinfo() returns addresses or raises"
        raise last

    def hurry(self) -> None:
        """Start the timeout anew, for a reply that is read piece by piece."""
        if self._sock is not None:
            self._sock.ends_at = time.monotonic() + self.patience_seconds

    # They replace PyMySQL's own methods instead of wrapping them, because every statement passes here.

    def _write_bytes(self, data: bytes) -> None:
        now = time.monotonic()
        sock = self._sock
        deadline = self._connecting_by
        sock.ends_at = ends_at = now + self.patience_seconds if deadline is None else deadline.at
        try:
            sock.settimeout(max(AT_ONCE_SECONDS, ends_at - now))
            sock.sendall(data)
        except OSError as error:
            failure = error
        except BaseException:
            self._force_close()
            raise
        else:
            return
        if is_interruption(failure) or _is_ours(failure):
            raise self._broken(failure)
        refusal = self._refusal()
        self._force_close()
        if refusal is not None:
            self.server_status = 0
            refusal.raise_for_error()
        raise pymysql.err.OperationalError(CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({failure!r})")

    def _refusal(self) -> Any:
        """Return the error that the server sent before it stopped reading, if it arrived."""
        try:
            header = self._rfile.read(4)
            said = self._rfile.read(int.from_bytes(header[:3], "little")) if len(header) == 4 else b""
        except OSError:  # then the failed send is the error to report
            return None
        return MysqlPacket(said, self.encoding) if said[:1] == ERROR else None

    def _heed_refusal(self) -> None:
        """Accept the server's refusal of a statement of many packets, sent before the server had read them all."""
        try:
            head = self._rfile.peek(5)
        except OSError as error:
            failure = error
        else:
            self._next_seq_id = sequence_of_refusal(head) or self._next_seq_id
            return
        raise self._broken(failure)

    def _read_bytes(self, num_bytes: int) -> bytes:
        try:
            data: bytes = self._rfile.read(num_bytes)
        except OSError as error:
            failure = error
        except BaseException:
            self._give_up(STOP_SECONDS)
            raise
        else:
            if len(data) == num_bytes:
                return data
            failure = OSError("it was closed")
        raise self._broken(failure)

    def _broken(self, failure: OSError) -> Exception:
        """Close the connection after *failure* and return the error to raise."""
        if is_interruption(failure):  # a signal handler may raise a TimeoutError that isn't ours
            self._give_up(STOP_SECONDS)
            return failure
        if _is_ours(failure):
            self._give_up()
            return self._passed()
        self._force_close()
        return pymysql.err.OperationalError(
            CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({failure})"
        )

    def stop_unread(self) -> None:
        """Close the connection although the server is sending rows, and end its session there."""
        result = self._result
        self._give_up()
        if result is not None:
            result.forget()

    def _give_up(self, seconds: float = 0.0) -> None:
        """Close the connection and end its session at the server; wait for the latter at most *seconds*."""
        stop: Callable[[], None] | None = None
        if self.end_session is not None and not self.is_committing and self._connecting_by is None and self._sock:
            stop = partial(self.end_session, self.server_thread_id[0], port_of(self._sock.getsockname()))
        self._force_close()
        if stop is not None:
            wait([beside(stop)], timeout=seconds)

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        if self._next_seq_id > 1:
            self._heed_refusal()
        return self.read_reply(unbuffered).affected_rows

    def read_reply(self, unbuffered: bool = False) -> Any:
        """Read the reply to one statement, which becomes the connection's result; return it."""
        self._result = None
        result = _Result(self)
        failure: Exception | None = None
        try:
            if unbuffered:
                result.init_unbuffered_query()
            else:
                result.read()
        except Exception as error:
            if ends_conversation(error):
                self._force_close()
                self.server_status = 0
            failure = as_garbled(error, pymysql.err.OperationalError)
            if failure is error:
                raise
        if failure is not None:
            raise failure
        self._result = result
        if result.server_status is not None:
            self.server_status = result.server_status
        return result

    def _passed(self) -> PyMySQLDeadlinePassed:
        if self._connecting_by is not None:
            return PyMySQLDeadlinePassed("no connection in time")
        return PyMySQLDeadlinePassed(f"no answer within {self.patience_seconds:g} s")


class HurriedSSCursor(SSCursor):
    """A server-side cursor that allows each fetch the time of a request, not all rows together."""

    connection: Any
    _result: Any

    def read_next(self) -> Any:
        self.connection.hurry()
        return super().read_next()

    def fetchmany(self, size: int | None = None) -> Any:
        # Replaces PyMySQL's own, which calls four functions more for each row.
        self._check_executed()  # type: ignore[attr-defined]
        self.connection.hurry()
        result = self._result
        read = result._read_rowdata_packet_unbuffered
        rows = list(islice(iter(read, None), self.arraysize if size is None else size))
        self.rownumber += len(rows)
        if not result.unbuffered_active:
            self.warning_count = result.warning_count
        return rows

    def _do_get_result(self) -> None:
        super()._do_get_result()  # type: ignore[misc]
        if self._result is not None and self._result.unbuffered_active:
            self.rowcount = -1  # PyMySQL says 2**64 - 1

    def nextset(self) -> Any:
        # On a result that was not read to its end, PyMySQL asks whether another follows, which it can't know.
        result = self._result
        if result is not None and result is self.connection._result and result.unbuffered_active:
            result._finish_unbuffered_query()
        return super().nextset()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.hurry()
        super().close()


def read_other_results(cursor: Any) -> list[ResultSet]:
    """Read the results after the first one of a CALL, so that an error in them is raised; return the sets of rows."""
    connection: Any = cursor.connection
    if connection is None or connection._result is None or not connection._result.has_next:
        return []
    kept = {name: getattr(cursor, name) for name in _OF_ONE_RESULT}
    others: list[ResultSet] = []
    try:
        while cursor.nextset():
            if cursor.description is not None:
                others.append((cursor.description, cursor.fetchall()))
    finally:
        for name, value in kept.items():
            setattr(cursor, name, value)
    return others


def _is_ours(error: OSError) -> bool:
    # The operating system's own timeout is the same class, but has an errno.
    return isinstance(error, TimeoutError) and error.errno is None
