"""Requests that travel with a MariaDB statement in one message, and a reply that is read with the next use.

MariaDB runs a packet whatever became of the one before. But within one COM_QUERY of several statements it stops at the
first that fails. So three packets are sent together: COM_SET_OPTION switches several statements on, COM_QUERY has them,
COM_SET_OPTION switches them off again. If the first were refused, the second would be a mistake at its first semicolon,
and nothing of it would run. The reply to the third says whether a transaction is open; an error doesn't.

What is decided is here; how PyMySQL and asyncmy send and wait is in their own modules.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final

from prefiq_db.drivers.burst import Burst
from prefiq_db.drivers.statuses import IN_TRANSACTION

#: In bytes. A longer statement goes in company no more: a server may take 1 MB at most.
LONGEST: Final = 500_000
#: COM_QUERY
QUERY: Final = 0x03

#: CLIENT_SESSION_TRACK: said at login; an OK packet then tells what the statement changed of the session
SESSION_TRACK: Final = 1 << 23

_ON: Final = b"\x03\x00\x00\x00\x1b\x00\x00"
_OFF: Final = b"\x03\x00\x00\x00\x1b\x01\x00"
_EOF: Final = 0xFE
# Codes that the drivers make themselves.
_OWN_CODES: Final = range(2000, 3000)
_TOO_LONG: Final = 1153
#: Set on the driver's error for a request ahead of the statement, which was not run then.
AHEAD: Final = "prefiq_db_ahead"
# ER_QUERY_INTERRUPTED, as the server says it.
_STOPPED: Final = b"\xff\x25\x05#70100Query execution was interrupted"
#: CR_SERVER_LOST
LOST: Final = 2013

#: one thing to do with the connection, which may wait
Step = Callable[[], Any]
Steps = Generator[Step, Any, None]


class Rider:
    """Mixed into both drivers' connections: what travels, and whether a reply was left to be read."""

    driver_error: Any
    _next_seq_id: int
    _result: Any
    _affected_rows: Any

    #: a reply was left to be read with the next use; every use of the connection reads it first
    is_unheard = False
    #: the next statement may be sent before that reply is read
    may_overtake = False
    _burst: Burst | None = None
    #: the server tells the GTID of what was written with its reply
    tells_gtid = False
    #: the one that it told last; whoever reads it empties it
    told_gtid = ""

    def ride(self, burst: Burst | None) -> None:
        """Send *burst* with the next statement; ``None``: send the next one alone."""
        self._burst = burst

    def _overtakes(self, command: int, sql: Any) -> bool:
        """Return whether this request may be sent before the reply that was left is read; only the next one may."""
        overtakes, self.may_overtake = self.may_overtake, False
        return overtakes and command == QUERY and len(sql) < LONGEST

    def expect_reply(self) -> None:
        """Expect the first packet of a reply."""
        self._next_seq_id = 1

    def show(self, result: Any) -> None:
        """Make *result* the reply to the last statement."""
        result.has_next = 0
        self._result, self._affected_rows = result, result.affected_rows


def carry(connection: Any, burst: Burst, statement: bytes) -> Steps:
    """Yield what to do to send *statement* with *burst*; its reply is the connection's result in the end.

    Raises:
        Exception: the first error, which *burst* says whose it is. Whatever leaves a reply unread closes the
            connection, so several statements are off on each that stays open.
    """
    if len(statement) > LONGEST or not connection.is_ready:
        yield from _one_by_one(connection, burst, statement)
        return
    message = _ON + _packet(burst, statement) + _OFF
    del statement
    burst.sent = True
    try:
        yield partial(connection.send_packets, message)
        del message
        if connection.is_unheard:
            yield connection.hear
        yield connection.read_option
        failure = yield from _replies(connection, burst)
    except BaseException:
        connection.drop()
        raise
    try:
        yield connection.read_option
    except Exception:
        connection.drop()
        # What the server said of the statements stays true.
        if failure is None and burst.tag is None:
            raise
    except BaseException:
        connection.drop()
        raise
    if failure is not None:
        try:
            raise failure
        finally:
            del failure


def _packet(burst: Burst, statement: bytes) -> bytes:
    text = b"; ".join([*(each.encode() for each in burst.ahead), statement])
    if burst.behind is not None:
        text += b"\n; " + burst.behind.encode()  # a comment at the statement's end is over with the line
    return struct.pack("<I", len(text) + 1)[:3] + b"\x00" + bytes([QUERY]) + text


def _replies(connection: Any, burst: Burst) -> Generator[Step, Any, Exception | None]:
    """Read the reply to each statement; return the error that the server replied, if it did."""
    count, own, stopped = len(burst.ahead), None, False
    last = count if burst.behind is None else count + 1
    connection.expect_reply()
    for place in range(last + 1):
        try:
            if place and (yield connection.is_over):
                # KILL QUERY came between two statements: what follows wasn't run, and nothing more is said of it.
                stopped = True
                connection.raise_error(_STOPPED)
            result = yield connection.read_reply
        except Exception as error:
            if not is_said(connection, error):
                raise
            # A reply before said that more follow, and nobody may wait for those.
            connection._result = None
            burst.refused_ahead = place < count
            burst.refused = place <= count or stopped
            if burst.refused_ahead:
                setattr(error, AHEAD, True)
            return error
        if bool(result.has_next) is (place == last):
            raise connection.lost("the server's replies don't match the requests")
        if place == count:
            own = result
    if burst.behind is not None:
        if result.description is not None or result.server_status & IN_TRANSACTION:
            raise connection.lost("the server's replies don't match the requests")
        burst.tag = burst.behind
    connection.show(own)
    return None


def _one_by_one(connection: Any, burst: Burst, statement: bytes) -> Steps:
    """Send what travels before *statement* and behind it apart, and wait for each."""
    for text in burst.ahead:
        burst.sent = True
        try:
            yield partial(connection.ask, text)
        except BaseException:
            burst.refused = burst.refused_ahead = True
            raise
    try:
        yield partial(connection.ask, statement)
    except BaseException:
        burst.refused = True
        raise
    if burst.behind is not None:
        own = connection._result
        burst.sent = True
        yield partial(connection.ask, burst.behind)
        burst.tag = None if connection.server_status & IN_TRANSACTION else burst.behind
        connection.show(own)


#: what a connection says that it closed over the end of a transaction whose reply it didn't wait for
ENDED_BADLY: Final = "the end of an earlier transaction failed: the connection is closed"


def is_said(connection: Any, error: Exception) -> bool:
    """Return whether the server said *error* in reply to a statement, and more can be read."""
    code = error.args[0] if error.args else None
    own = not isinstance(code, int) or code in _OWN_CODES or code == _TOO_LONG
    return isinstance(error, connection.driver_error) and not own and connection.is_open


def gtid_in(status: int, message: bytes) -> str:
    """Return the GTID that the end of an OK packet tells: of what the statement wrote; ``""``: none."""
    if not status & _SESSION_CHANGED:
        return ""
    found = ""
    _, rest = _counted(message)  # the text for people
    changes, _ = _counted(rest)
    while changes:
        kind, (data, changes) = changes[0], _counted(changes[1:])
        while kind == _VARIABLE and data:
            name, data = _counted(data)
            value, data = _counted(data)
            if name == b"last_gtid":
                found = value.decode("ascii", "replace")
    return found


# SERVER_SESSION_STATE_CHANGED, and the kind of change that is a variable.
_SESSION_CHANGED: Final = 0x4000
_VARIABLE: Final = 0
_LENGTHS: Final = {0xFC: 2, 0xFD: 3, 0xFE: 8}


def _counted(data: bytes) -> tuple[bytes, bytes]:
    """Return the string that *data* begins with, which has its length before it, and the rest."""
    if not data:
        return b"", b""
    size = _LENGTHS.get(data[0], 0)
    start = 1 + size
    length = int.from_bytes(data[1:start], "little") if size else data[0]
    return data[start : start + length], data[start + length :]


def status_of_option(packet: Any) -> int | None:
    """Return the status in the reply to COM_SET_OPTION, an EOF packet, old or new; ``None`` if it is something else."""
    data = packet.get_all_data()
    if len(data) < 5 or data[0] != _EOF:
        return None
    return int.from_bytes(data[3:5], "little")  # in both forms, for the new one's two counts are zero


def is_good_end(packet: Any) -> bool:
    """Return whether *packet* is the reply to a COMMIT that ended the transaction."""
    data = packet.get_all_data()
    return len(data) >= 5 and data[0] == 0 and not int.from_bytes(data[3:5], "little") & IN_TRANSACTION
