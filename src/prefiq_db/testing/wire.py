"""Round trips, counted where they happen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prefiq_db.testing.links import Link
from prefiq_db.testing.proxy import TcpProxy


@dataclass(slots=True)
class RoundTripCount:
    """How many round trips a block cost; complete when the block ends."""

    round_trips: int = 0


class WireCounter(TcpProxy):
    """Count the round trips of everything that goes through it.

    ::

        with WireCounter(server.host, server.port) as wire:
            connection = psycopg.connect(wire.url(server.url()), autocommit=True)
            with wire.count() as count:
                connection.execute("select 1")
            assert count.round_trips == 1

    A round trip is a burst of client bytes that follows delivered server bytes of the same connection; the first
    burst of a connection counts too. So a message in many packets counts once, and so do statements that were sent
    together; no clock is involved. Bytes without a reply (such as a final quit message) count as well: they are counted
    before any number is read. Traffic must be unencrypted: with TLS each record still counts, but handshakes do too.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._round_trips = 0
        self._connections_seen = 0
        self._answered: dict[Link, bool] = {}

    @property
    def round_trips(self) -> int:
        """Round trips since the start or the last :meth:`reset`, of all connections."""
        return self.call(lambda: self._round_trips)

    @property
    def connections_seen(self) -> int:
        """Connections since the start or the last :meth:`reset` that have sent something, closed ones included."""
        return self.call(lambda: self._connections_seen)

    def reset(self) -> None:
        """Reset the counters to zero. Open connections stay."""
        self.call(self._reset_counters)

    @contextmanager
    def count(self) -> Iterator[RoundTripCount]:
        """Count the round trips of a block."""
        result = RoundTripCount()
        before = self.round_trips
        try:
            yield result
        finally:
            result.round_trips = self.round_trips - before

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if link not in self._answered:
            self._connections_seen += 1
        if self._answered.get(link, True):
            self._round_trips += 1
        self._answered[link] = False
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        if link in self._answered:  # MariaDB's server sends first
            self._answered[link] = True
        return data

    def link_closed(self, link: Link) -> None:
        self._answered.pop(link, None)

    def _reset_counters(self) -> None:
        self._round_trips = 0
        self._connections_seen = 0
