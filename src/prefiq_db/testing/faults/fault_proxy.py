"""The network between a client and its server, with deliberate faults."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from prefiq_db.errors import UsageError
from prefiq_db.products import product_named
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.faults.framing import Framing, Message
from prefiq_db.testing.faults.framing_mariadb import MariaDbFraming
from prefiq_db.testing.faults.framing_mongodb import MongoFraming
from prefiq_db.testing.faults.framing_postgresql import PostgresFraming
from prefiq_db.testing.faults.link import FaultyLink
from prefiq_db.testing.faults.message_faults import Fault
from prefiq_db.testing.faults.plan import COMMIT, FaultPlan, Target
from prefiq_db.testing.links import Link
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.proxy import TcpProxy

_FRAMINGS: dict[str, type[Framing]] = {
    "postgresql": PostgresFraming,
    "mariadb": MariaDbFraming,
    "mysql": MariaDbFraming,
    "mongodb": MongoFraming,
}


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """One action of the proxy.

    Attributes:
        link: the number of the connection, from 1.
        message: the message concerned, as a word without values: ``COMMIT``, ``claim``, ``UPDATE``, ``login``.
        fault: the name of the fault.
        step: ``hit``; ``delivered`` when a delayed message goes to the server; ``answered`` when the server has
            answered a message whose client was to be cut.
        at: when, by ``time.monotonic()``.
    """

    link: int
    message: str
    fault: str
    step: str
    at: float


class FaultProxy(TcpProxy):
    """A proxy in front of PostgreSQL, MariaDB, MySQL or MongoDB that breaks connections at chosen messages.

    ::

        with FaultProxy(server) as proxy, Database(proxy.url(server.url(database))) as db:
            with proxy.fault(CutReply(), on=COMMIT, probability=0.1, seed=7) as plan:
                ...
            assert plan.hits

    It parses the protocol's messages, so the connection must not be encrypted: the proxy tells clients that the server
    offers no TLS and no compression. A client of MongoDB asks for neither unless its URL says so.

    Args:
        server: a server that was started, or the name of a host.
        port: the host's port.
        protocol: ``postgresql``, ``mariadb`` (``mysql`` is the same) or ``mongodb``; left out for a server.

    Raises:
        UsageError: for SQLite, which has no network protocol, and for a server that was never started.
    """

    def __init__(self, server: DatabaseServer | str, port: int = 0, protocol: str = "") -> None:
        if isinstance(server, DatabaseServer):
            host, port, protocol = server.host, server.port, server.name
        else:
            host = server
        product = product_named(protocol.partition("+")[0])
        if product is not None and product.is_file:
            raise UsageError("SQLite has no wire: its faults are those of a file; see prefiq_db.testing.faults.Bank")
        if protocol not in _FRAMINGS:
            raise UsageError(f"protocol: expected one of {', '.join(_FRAMINGS)}")
        if not port:
            raise UsageError("the server has no port yet: start it first")
        super().__init__(host, port)
        self._new_framing = _FRAMINGS[protocol]
        self._faulty: dict[Link, FaultyLink] = {}
        self._links_seen = 0
        self._plans: list[FaultPlan] = []
        self._records: list[FaultRecord] = []

    # --- for tests -------------------------------------------------------------------------------

    def fault(
        self,
        fault: Fault,
        on: Target = COMMIT,
        *,
        probability: float = 1.0,
        every: int = 1,
        times: int | None = None,
        seed: int = 0,
    ) -> FaultPlan:
        """Plan a fault, from now until its ``with`` block ends. If several plans want a message, the first one hits.

        Args:
            on: which messages: ``COMMIT``, ``CLAIM``, ``STATEMENT``, ``ANY``, or a function of a :class:`Message`
                (``lambda message: "account" in message.sql``); it runs in the proxy's thread.
            probability: the share of the messages selected by *every* to hit; drawn from the plan's own generator.
            every: consider each n-th message only.
            times: stop after that many hits.
            seed: the same seed hits the same messages, by their order of arrival.
        """
        plan = FaultPlan(self, fault, on, probability=probability, every=every, times=times, seed=seed)
        self.call(lambda: self._plans.append(plan))
        return plan

    @property
    def records(self) -> tuple[FaultRecord, ...]:
        """The proxy's actions so far, in order."""
        return self.call(lambda: tuple(self._records))

    def counts(self) -> Counter[tuple[str, str, str]]:
        """Return how often each action happened: ``counts()["CutReply", "COMMIT", "hit"]``."""
        return Counter((record.fault, record.message, record.step) for record in self.records)

    @property
    def pending(self) -> int:
        """How many connections still wait for a late delivery, a delay, or the closing of the server's side."""
        return self.call(lambda: sum(link.is_busy for link in self._faulty.values()))

    def wait(self, *, timeout_seconds: float = 30.0) -> None:
        """Wait until nothing is pending. Call it before checking the results.

        Raises:
            TimeoutError: if that takes longer.
        """
        if not wait_until(lambda: not self.pending, timeout_seconds=timeout_seconds):
            raise TimeoutError(f"{self.pending} connections still have something to come after {timeout_seconds:g} s")

    # --- in the proxy's thread -------------------------------------------------------------------

    def client_sent(self, link: Link, data: bytes) -> bytes:
        self._link(link).client_sent(data)
        return b""

    def server_sent(self, link: Link, data: bytes) -> bytes:
        self._link(link).server_sent(data)
        return b""

    def link_restored(self, link: Link) -> None:
        self._link(link).restored()

    def link_closed(self, link: Link) -> None:
        self._faulty.pop(link, None)

    def _link(self, link: Link) -> FaultyLink:
        if link not in self._faulty:
            self._links_seen += 1
            self._faulty[link] = FaultyLink(self, link, self._links_seen, self._new_framing())
        return self._faulty[link]

    def decide(self, link: FaultyLink, message: Message) -> None:
        """Pass a message on, or apply a fault to it."""
        plan = None
        if message.is_request and not link.is_doomed:
            plan = next((plan for plan in self._plans if plan.wants(message)), None)
            if plan is None:
                link.slice(0)
        if plan is None:
            link.forward(message)
            return
        link.fault = type(plan.fault).__name__
        self.note(link, message, "hit")
        plan.fault.strike(link, message)

    def note(self, link: FaultyLink, message: Message, step: str) -> None:
        """Record an action."""
        self._records.append(FaultRecord(link.number, message.word, link.fault, step, time.monotonic()))

    def forget(self, plan: FaultPlan) -> None:
        """Remove *plan*, so that it hits nothing more."""
        if plan in self._plans:
            self._plans.remove(plan)
