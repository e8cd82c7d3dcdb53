"""The document verbs that ``AsyncMongoDatabase`` and ``AsyncMongoTransaction`` share; twin: ``document_verbs_sync``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from prefiq_db.bridge import spawn
from prefiq_db.execution.mapping import Into
from prefiq_db.faces.stream_async import AsyncStream
from prefiq_db.mongo.document_results import BulkWriteCounts, UpdateCounts
from prefiq_db.reports import UpsertResult

if TYPE_CHECKING:
    from prefiq_db.mongo.document_carrier import DocumentCarrier

T = TypeVar("T")

Document = dict[str, Any]
Filter = Mapping[str, Any] | None
#: Names of fields, or PyMongo's mapping of name to 1 or 0.
Projection = Sequence[str] | Mapping[str, Any] | None


class AsyncDocumentVerbs(Protocol):
    """A class whose core carries out requests; each class lists the verbs that it has.

    A verb deletes its arguments before it raises: error trackers record the local variables of every frame.
    *options* are PyMongo's own (``sort``, ``hint``, ``collation``); the session and the time limit are ours.
    """

    @property
    def _core(self) -> DocumentCarrier: ...

    # --- reads -----------------------------------------------------------------------------------

    @overload
    async def find(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        into: None = None,
        **options: Any,
    ) -> list[Document]: ...
    @overload
    async def find(
        self, collection: str, filter: Filter = None, projection: Projection = None, *, into: type[T], **options: Any
    ) -> list[T]: ...
    @overload
    async def find(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        into: Callable[[Document], T],
        **options: Any,
    ) -> list[T]: ...
    async def find(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        into: Into | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return every document that *filter* matches; an empty list if there is none.

        *into* is a dataclass, a pydantic model, ``dict`` or a callable that takes a document.
        """
        try:
            rows: list[Any] = await spawn(
                self._core.carry_out, self._core.requests.find(collection, filter, projection, into, options)
            )
            return rows
        except BaseException as error:
            del filter, options
            self._core.hush(error)
            raise

    @overload
    async def find_one(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        into: None = None,
        **options: Any,
    ) -> Document | None: ...
    @overload
    async def find_one(
        self, collection: str, filter: Filter = None, projection: Projection = None, *, into: type[T], **options: Any
    ) -> T | None: ...
    @overload
    async def find_one(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        into: Callable[[Document], T],
        **options: Any,
    ) -> T | None: ...
    async def find_one(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        into: Into | None = None,
        **options: Any,
    ) -> Any:
        """Return the first document that *filter* matches, or ``None``."""
        try:
            return await spawn(
                self._core.carry_out, self._core.requests.find_one(collection, filter, projection, into, options)
            )
        except BaseException as error:
            del filter, options
            self._core.hush(error)
            raise

    @overload
    def stream(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        batch_size: int = 1000,
        into: None = None,
        **options: Any,
    ) -> AsyncStream[Document]: ...
    @overload
    def stream(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        batch_size: int = 1000,
        into: type[T],
        **options: Any,
    ) -> AsyncStream[T]: ...
    @overload
    def stream(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        batch_size: int = 1000,
        into: Callable[[Document], T],
        **options: Any,
    ) -> AsyncStream[T]: ...
    def stream(
        self,
        collection: str,
        filter: Filter = None,
        projection: Projection = None,
        *,
        batch_size: int = 1000,
        into: Into | None = None,
        **options: Any,
    ) -> AsyncStream[Any]:
        """Return a stream of what *filter* matches, for an ``async with`` block; memory holds one batch."""
        try:
            return AsyncStream(self._core.open_stream(collection, filter, projection, batch_size, into, options))
        except BaseException as error:
            del filter, options
            self._core.hush(error)
            raise

    async def count(self, collection: str, filter: Filter = None, **options: Any) -> int:
        """Return how many documents *filter* matches."""
        try:
            request = self._core.requests.count(collection, filter, options)
            number: int = await spawn(self._core.carry_out, request)
            return number
        except BaseException as error:
            del filter, options
            self._core.hush(error)
            raise

    @overload
    async def aggregate(
        self, collection: str, pipeline: Iterable[Mapping[str, Any]], *, into: None = None, **options: Any
    ) -> list[Document]: ...
    @overload
    async def aggregate(
        self, collection: str, pipeline: Iterable[Mapping[str, Any]], *, into: type[T], **options: Any
    ) -> list[T]: ...
    @overload
    async def aggregate(
        self, collection: str, pipeline: Iterable[Mapping[str, Any]], *, into: Callable[[Document], T], **options: Any
    ) -> list[T]: ...
    async def aggregate(
        self, collection: str, pipeline: Iterable[Mapping[str, Any]], *, into: Into | None = None, **options: Any
    ) -> list[Any]:
        """Return every document that *pipeline* makes. With ``$out`` or ``$merge`` it counts as a write."""
        try:
            rows: list[Any] = await spawn(
                self._core.carry_out, self._core.requests.aggregate(collection, pipeline, into, options)
            )
            return rows
        except BaseException as error:
            del pipeline, options
            self._core.hush(error)
            raise

    # --- writes ----------------------------------------------------------------------------------

    async def insert(self, collection: str, document: Mapping[str, Any], **options: Any) -> Any:
        """Insert *document* and return its ``_id``, a new ``ObjectId`` if it has none; *document* isn't changed."""
        try:
            return await spawn(self._core.carry_out, self._core.requests.insert(collection, document, options))
        except BaseException as error:
            del document, options
            self._core.hush(error)
            raise

    async def insert_many(
        self, collection: str, documents: Iterable[Mapping[str, Any]], *, ordered: bool = True, **options: Any
    ) -> list[Any]:
        """Insert *documents* and return each one's ``_id``.

        It isn't all or nothing: those before the first that fails are inserted (all others, if not *ordered*). The
        error's ``statement_index`` says which one failed.
        """
        try:
            request = self._core.requests.insert_many(collection, documents, ordered, options)
            if request is None:
                return []
            ids: list[Any] = await spawn(self._core.carry_out, request)
            return ids
        except BaseException as error:
            del documents, options
            self._core.hush(error)
            raise

    async def update(
        self,
        collection: str,
        filter: Mapping[str, Any],
        change: Mapping[str, Any] | list[Mapping[str, Any]],
        *,
        many: bool = False,
        upsert: bool = False,
        **options: Any,
    ) -> UpdateCounts:
        """Apply *change*, update operators or a pipeline, to one document that *filter* matches; to all with *many*."""
        try:
            counts: UpdateCounts = await spawn(
                self._core.carry_out, self._core.requests.update(collection, filter, change, many, upsert, options)
            )
            return counts
        except BaseException as error:
            del filter, change, options
            self._core.hush(error)
            raise

    async def upsert(
        self,
        collection: str,
        documents: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | Sequence[str],
        update: str | Sequence[str] | None = None,
    ) -> UpsertResult:
        """Insert *documents*, and update those whose *key* is there: the fields *update*, or all that are given.

        It needs a unique index on *key*: without one, two callers at once insert two. It isn't all or nothing.
        """
        try:
            request = self._core.requests.upsert(collection, documents, key, update)
            result: UpsertResult = (
                UpsertResult(0, 0, 0) if request is None else await spawn(self._core.carry_out, request)
            )
            return result
        except BaseException as error:
            del documents
            self._core.hush(error)
            raise

    async def delete(self, collection: str, filter: Mapping[str, Any], *, many: bool = False, **options: Any) -> int:
        """Delete one document that *filter* matches, all with *many*; return how many were."""
        try:
            number: int = await spawn(
                self._core.carry_out, self._core.requests.delete(collection, filter, many, options)
            )
            return number
        except BaseException as error:
            del filter, options
            self._core.hush(error)
            raise

    async def bulk_write(
        self, collection: str, operations: Iterable[Any], *, ordered: bool = True, **options: Any
    ) -> BulkWriteCounts:
        """Carry out PyMongo's ``InsertOne``, ``UpdateOne``, ``DeleteOne`` and the like, in as few messages as it takes.

        It isn't all or nothing; the error's ``statement_index`` says which one failed.
        """
        try:
            request = self._core.requests.bulk_write(collection, operations, ordered, options)
            counts: BulkWriteCounts = (
                BulkWriteCounts(0, 0, 0, 0) if request is None else await spawn(self._core.carry_out, request)
            )
            return counts
        except BaseException as error:
            del operations, options
            self._core.hush(error)
            raise
