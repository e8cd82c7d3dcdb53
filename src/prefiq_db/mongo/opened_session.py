"""The core of ``tx`` in both worlds: a database, and the transaction that every call runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefiq_db.core import ReadStream
from prefiq_db.core.transaction_core import OpenedTransaction
from prefiq_db.mongo.document_carrier import DocumentCarrier

if TYPE_CHECKING:
    from prefiq_db.mongo.document_requests import Request
    from prefiq_db.mongo.mongo_core import MongoCore


class OpenedSession(OpenedTransaction, DocumentCarrier):
    """The core of ``tx``."""

    database: MongoCore

    @property
    def name(self) -> str:
        """The database's name."""
        return self.database.name

    @property
    def requests(self) -> Any:
        return self.database.requests

    def carry_out(self, request: Request) -> Any:
        return self.database.carry_out(request, self.tx)

    def open_stream(
        self,
        collection: str,
        filter: Any,
        projection: Any,
        batch_size: int,
        into: Any,
        options: Mapping[str, Any],
    ) -> ReadStream:
        core = self.database
        return core.open_stream(collection, filter, projection, batch_size, into, options, self.tx)

    def hush(self, error: BaseException) -> None:
        self.database.hush(error)
