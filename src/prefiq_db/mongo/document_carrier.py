"""What a class with document verbs needs behind it: a database, or an open transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from prefiq_db.core import ReadStream


class DocumentCarrier(ABC):
    """Carries out what the verbs ask."""

    @property
    def requests(self) -> Any:
        """The module that prepares requests; it needs PyMongo, so nobody imports it before."""
        raise NotImplementedError

    @abstractmethod
    def carry_out(self, request: Any) -> Any:
        """Return the answer to *request*."""

    @abstractmethod
    def open_stream(
        self,
        collection: str,
        filter: Any,
        projection: Any,
        batch_size: int,
        into: Any,
        options: Mapping[str, Any],
    ) -> ReadStream:
        """Return a stream that isn't open yet."""

    @abstractmethod
    def hush(self, error: BaseException) -> None:
        """Remove the verb's arguments from the frames that *error* passed through."""
