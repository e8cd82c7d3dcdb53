"""One document database: everything that the sync and the async API call, once for both worlds.

It begins and repeats transactions, applies overrides and counts retries by the same code as the SQL databases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pymongo import ReadPreference

from prefiq_db.call import NO_OVERRIDES
from prefiq_db.core.diagnosis import collect_stats, reason_of
from prefiq_db.drivers.tls_trust import is_loopback
from prefiq_db.errors import (
    ErrorKind,
    PrefiqDbError,
    UnsupportedError,
)
from prefiq_db.insight.statement_budgets import StatementBudget
from prefiq_db.mongo import document_requests
from prefiq_db.mongo.asking import ask
from prefiq_db.mongo.document_carrier import DocumentCarrier
from prefiq_db.mongo.document_stream import DocumentStreamCore
from prefiq_db.mongo.mongo_calls import MongoCalls
from prefiq_db.mongo.mongo_instance import MongoInstance
from prefiq_db.mongo.running_calls import Note
from prefiq_db.reports import DatabaseStats, HealthReport
from prefiq_db.transaction import Block

logger = logging.getLogger("prefiq_db.connectors")


class MongoCore(MongoCalls, DocumentCarrier):
    """One document database. The public verbs delegate every decision to it."""

    requests: Any = document_requests

    def __init__(self, instance: MongoInstance) -> None:
        self.instance = instance
        self.view = NO_OVERRIDES
        self.settings = instance.settings
        self.name = instance.name
        self.runtime = instance.runtime
        self.hooks = instance.hooks

    # --- open and closed -------------------------------------------------------------------------

    def open(self) -> None:
        """Connect; PyMongo opens further connections when they are needed."""
        self.check_world()
        self.instance.open()
        self.ping()
        self._tell_what_is_in_clear()

    def _tell_what_is_in_clear(self) -> None:
        """Log that nothing is encrypted, if ``ssl_mode`` is ``prefer``; at INFO if no host is another machine."""
        target = self.settings.target
        if self.settings.ssl_mode != "prefer" or target.is_srv:
            return
        others = [host for host in target.hosts if not host.is_path and not is_loopback(host.host)]
        logger.log(
            logging.WARNING if others else logging.INFO,
            "ssl_mode=prefer: the connection of database %s to %s is in clear text, for MongoDB can't negotiate TLS;"
            " ssl_mode=verify-full encrypts, and ssl_mode=disable says that clear text is meant",
            self.name,
            ", ".join(map(str, target.hosts)),
            extra={"database": self.name},
        )

    def close(self) -> None:
        """Close all connections. Later calls raise ClosedError; open() opens it again."""
        if self.instance.closed and not self.instance.closing:
            return
        self.check_world()
        try:
            self.runtime.shielded(self.instance.close, self.settings.connect_timeout_seconds)
        finally:
            self.runtime.forget_loop()  # open() may be called in another one

    # --- PyMongo's own objects -------------------------------------------------------------------

    def own_client(self) -> Any:
        """Return PyMongo's client; its own calls know nothing of ``read_only``."""
        self.check_usable()
        if self.settings.read_only or self.overrides().read_only:
            raise UnsupportedError(
                "client and collection() would write although read_only is set; use the verbs, or connect as a user "
                "who may only read",
                database=self.name,
            )
        return self.instance.client

    def own_collection(self, name: str) -> Any:
        """Return PyMongo's collection."""
        return self.own_client()[self.database_name(self.overrides())][name]

    # --- streams ---------------------------------------------------------------------------------

    def open_stream(
        self,
        collection: str,
        filter: Any,
        projection: Any,
        batch_size: int,
        into: Any,
        options: Mapping[str, Any],
        block: Block | None = None,
    ) -> DocumentStreamCore:
        """Return a stream that isn't open yet; where it reads is decided when it is opened."""
        request, make = document_requests.stream(collection, filter, projection, batch_size, into, options)
        return DocumentStreamCore(self, request, block, batch_size, make)

    # --- diagnosis -------------------------------------------------------------------------------

    def ping(self) -> float:
        """Return how many seconds one round trip takes. One attempt; raises if there is no reply."""
        self.check_usable()
        started = time.perf_counter()
        self._command("ping", None, self.overrides().timeout)
        return time.perf_counter() - started

    def _command(self, name: str, preference: Any, seconds: float | None) -> Any:
        client, limit = self.instance.client, self.instance.statement_timeout_seconds
        options = {} if preference is None else {"read_preference": preference}
        return ask(
            self.instance,
            Note(None),
            limit if seconds is None else min(limit, seconds),
            lambda: client.admin.command(name, **options),
            is_probe=True,
        )

    def test_connection(self) -> bool:
        """Return whether the database answers; never raises."""
        try:
            self.ping()
        except PrefiqDbError:
            return False
        return True

    def health(self, timeout_seconds: float | None, *, writable: bool = True) -> HealthReport:
        """Report whether the database answers and is ready for work; if not, why. One attempt; never raises."""
        core = self if timeout_seconds is None else self.using({"timeout": timeout_seconds})
        details = {"engine": self.settings.engine, "mode": "async" if self.runtime.is_async else "sync"}
        try:
            core.check_usable()
            started = time.perf_counter()
            # Any member answers, so that a set without a primary is told from one that is gone.
            hello = core._command("hello", ReadPreference.PRIMARY_PREFERRED, core.overrides().timeout)
            latency = time.perf_counter() - started
        except PrefiqDbError as error:
            return HealthReport(self.name, False, reason_of(error), error.kind, None, details)
        ailment = core.ailment_of(hello, writable=writable)
        if ailment is not None:
            return HealthReport(self.name, False, ailment.value, ailment, latency, details)
        return HealthReport(self.name, True, latency_seconds=latency, details=details)

    def ailment_of(self, hello: Any, *, writable: bool = True) -> ErrorKind | None:
        """Return why the server that said *hello* is not fit for work; ``None`` if it is."""
        if hello.get("isWritablePrimary", hello.get("ismaster", False)):
            return None
        if not hello.get("secondary"):
            return ErrorKind.NOT_READY
        writes = writable and not self.settings.read_only and not self.overrides().read_only
        return ErrorKind.READ_ONLY if writes else None

    def stats(self) -> DatabaseStats:
        return collect_stats(self, self.instance, self.instance.pool)

    def expect(self, max_statements: int | None, max_repeats: int | None) -> StatementBudget:
        self.instance.observer.expect_budgets()
        return StatementBudget(self.instance.observer, max_statements=max_statements, max_repeats=max_repeats)
