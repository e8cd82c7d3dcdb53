"""asyncmy: requests that travel with a statement, and a reply that is read with the next use."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import asyncmy
from asyncmy.connection import Connection as _AsyncmyConnection

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


class Accompanied(Rider, _AsyncmyConnection):
    """A connection that sends requests along with a statement."""

    # asyncmy's own attributes, which its type information leaves out.
    _connected: bool
    _encoding: str
    _fill_buffer: Any
    _proto: Any
    _stream_broken: bool
    _transport: Any
    _write_bytes: Any
    read_packet: Any
    read_reply: Any
    server_status: int
    _hang_up: Any

    driver_error = asyncmy.errors.Error

    async def query(self, sql: Any, unbuffered: bool = False) -> Any:
        burst = self._burst
        if burst is None:
            return await super().query(sql, unbuffered)  # type: ignore[no-untyped-call]  # asyncmy has no types
        self._burst = None
        statement = sql.encode(self._encoding, "surrogateescape") if isinstance(sql, str) else sql
        steps = carry(self, burst, statement)
        del sql, statement
        await _take(steps)
        return self._affected_rows

    async def _execute_command(self, command: int, sql: Any) -> None:
        if not self.is_unheard:
            await super()._execute_command(command, sql)  # type: ignore[misc]  # asyncmy's own
            return
        overtakes = self._overtakes(command, sql)
        if not overtakes:
            await self.hear()
        await super()._execute_command(command, sql)  # type: ignore[misc]  # asyncmy's own
        if overtakes:
            await self.hear()
            self.expect_reply()

    # --- a reply that is read later --------------------------------------------------------------

    async def send_unheard(self, text: str) -> None:
        """Send the control statement *text*, which ends a transaction; its reply is read with the next use."""
        await self._execute_command(QUERY, text)
        self.is_unheard = True
        # Until the reply says otherwise.
        self.server_status &= ~IN_TRANSACTION

    async def hear(self) -> None:
        """Wait for the reply that nobody waited for; a bad one closes the connection."""
        self.is_unheard = False
        self.expect_reply()
        try:
            is_good = is_good_end(await self.read_packet())
        except asyncmy.errors.Error:
            is_good = False
        except BaseException:
            self.drop()
            raise
        if not is_good:
            self.drop()
            raise self.lost(ENDED_BADLY)

    async def hears_all(self) -> bool:
        """Read the reply if it has come, without waiting for it; return whether the connection is fit for use."""
        if self._stream_broken:
            return False
        descriptor = self._transport.get_extra_info("socket").fileno()
        if not self._has_come() and is_readable(descriptor):
            # The event loop polls once a turn, and gives us what it reads in the turn after that.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if self._has_come():
            try:
                await self.hear()
            except asyncmy.errors.Error:
                return False
            return not self._stream_broken and not is_readable(descriptor)
        return not self._stream_broken

    def _has_come(self) -> bool:
        protocol = self._proto
        come = protocol.length - protocol.pos
        length = int.from_bytes(protocol.buffer[protocol.pos : protocol.pos + 3], "little")
        return bool(come >= 4 and come >= 4 + length)

    # --- what a burst needs ----------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._connected and not self._stream_broken

    @property
    def is_ready(self) -> bool:
        """Whether the connection is open, and no reply is left to be read but one that nobody waited for."""
        result = self._result
        return self._connected and (result is None or not (result.unbuffered_active or result.has_next))

    async def send_packets(self, packets: bytes) -> None:
        self._result = None
        self._write_bytes(packets)

    async def read_option(self) -> None:
        """Read the reply to COM_SET_OPTION."""
        self.expect_reply()
        status = status_of_option(await self.read_packet())
        if status is None:
            raise self.lost("the server's replies don't match the requests")
        self.server_status = status

    async def is_over(self) -> bool:
        """Return whether the packet that comes next begins another reply, so that this one has ended early."""
        await self._fill_buffer(4)
        number = self._proto.buffer[self._proto.pos + 3]
        return bool(self._next_seq_id != 1 and number == 1)

    async def ask(self, sql: Any) -> None:
        await self.query(sql)

    def show(self, result: Any) -> None:
        # SET_OPTION has cleared them at the server: asyncmy would ask for them in vain.
        result.warning_count = 0
        super().show(result)

    def raise_error(self, payload: bytes) -> NoReturn:
        asyncmy.errors.raise_mysql_exception(payload)
        raise AssertionError

    def lost(self, message: str) -> Exception:
        return asyncmy.errors.OperationalError(LOST, message)

    def drop(self) -> None:
        """Close the connection: a reply, or a part of it, is unread."""
        self._hang_up()
        self.is_unheard = False


async def _take(steps: Steps) -> None:
    try:
        step = next(steps)
        while True:
            try:
                said = await step()
            except BaseException as error:  # noqa: BLE001 - the steps decide
                step = steps.throw(error)
            else:
                step = steps.send(said)
    except StopIteration:
        return
