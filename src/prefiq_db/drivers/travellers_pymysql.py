"""PyMySQL: requests that travel with a statement, and a reply that is read with the next use."""

from __future__ import annotations

from typing import Any, NoReturn

import pymysql

from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.drivers.readable import is_readable
from prefiq_db.drivers.statuses import IN_TRANSACTION
from prefiq_db.drivers.travellers_mysql import (
    ENDED_BADLY,
    LOST,
    QUERY,
    Rider,
    Steps,
    carry,
    is_good_end,
    status_of_option,
)


class Accompanied(Rider, pymysql.connections.Connection):
    """A connection that sends requests along with a statement."""

    # PyMySQL's own attributes, which its type information leaves out.
    _sock: Any
    _rfile: Any
    _force_close: Any
    _read_packet: Any
    _write_bytes: Any
    read_reply: Any
    hurry: Any

    driver_error = pymysql.err.Error

    def query(self, sql: Any, unbuffered: bool = False) -> Any:
        burst = self._burst
        if burst is None:
            return super().query(sql, unbuffered)
        self._burst = None
        steps = carry(self, burst, sql.encode(self.encoding) if isinstance(sql, str) else sql)
        del sql
        _take(steps)
        return self._affected_rows

    def _execute_command(self, command: int, sql: Any) -> None:
        if not self.is_unheard:
            super()._execute_command(command, sql)  # type: ignore[misc]  # PyMySQL's own
            return
        overtakes = self._overtakes(command, sql)
        if not overtakes:
            self.hear()
        super()._execute_command(command, sql)  # type: ignore[misc]  # PyMySQL's own
        if overtakes:
            self.hear()
            self.expect_reply()

    # --- a reply that is read later --------------------------------------------------------------

    def send_unheard(self, text: str) -> None:
        """Send the control statement *text*, which ends a transaction; its reply is read with the next use."""
        self._execute_command(QUERY, text)
        self.is_unheard = True
        # Until the reply says otherwise.
        self.server_status &= ~IN_TRANSACTION

    def hear(self) -> None:
        """Wait for the reply that nobody waited for; a bad one closes the connection."""
        self.is_unheard = False
        self.expect_reply()
        try:
            is_good = is_good_end(self._read_packet())
        except pymysql.err.Error as error:
            if isinstance(error, DeadlinePassed):
                raise
            is_good = False
        except BaseException:
            self.drop()
            raise
        if not is_good:
            self.drop()
            raise self.lost(ENDED_BADLY)

    def hears_all(self) -> bool:
        """Read the reply if it has come, without waiting for it; return whether the connection is fit for use."""
        if self._sock is None:
            return False
        if not is_readable(self._sock.fileno()):
            return True
        try:
            self.hurry()
            self.hear()
        except (pymysql.err.Error, OSError):
            return False
        return not is_readable(self._sock.fileno())

    # --- what a burst needs ----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._sock is not None

    @property
    def is_ready(self) -> bool:
        """Whether the connection is open, and no reply is left to be read but one that nobody waited for."""
        result = self._result
        return self.is_open and (result is None or not (result.unbuffered_active or result.has_next))

    def send_packets(self, packets: bytes) -> None:
        self._result = None
        self._write_bytes(packets)

    def read_option(self) -> None:
        """Read the reply to COM_SET_OPTION."""
        self.expect_reply()
        status = status_of_option(self._read_packet())
        if status is None:
            raise self.lost("the server's replies don't match the requests")
        self.server_status = status

    def is_over(self) -> bool:
        """Return whether the packet that comes next begins another reply, so that this one has ended early."""
        head = self._rfile.peek(4)
        return self._next_seq_id != 1 and len(head) >= 4 and head[3] == 1

    def ask(self, sql: Any) -> None:
        self.query(sql)

    def raise_error(self, payload: bytes) -> NoReturn:
        pymysql.err.raise_mysql_exception(payload)
        raise AssertionError

    def lost(self, message: str) -> Exception:
        return pymysql.err.OperationalError(LOST, message)

    def drop(self) -> None:
        """Close the connection: a reply, or a part of it, is unread."""
        self._force_close()
        self.is_unheard = False
        self.server_status = 0


def _take(steps: Steps) -> None:
    try:
        step = next(steps)
        while True:
            try:
                said = step()
            except BaseException as error:  # noqa: BLE001 - the steps decide
                step = steps.throw(error)
            else:
                step = steps.send(said)
    except StopIteration:
        return
