"""What each verb asks of PyMongo's collection: prepared and checked without waiting, carried out once per attempt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, get_origin

import pydantic
from bson import ObjectId
from pymongo import UpdateOne

from prefiq_db.errors import UsageError
from prefiq_db.execution.mapping import Into, mapper
from prefiq_db.execution.row_batches import check_batch_size
from prefiq_db.mongo.document_results import BulkWriteCounts, UpdateCounts
from prefiq_db.reports import UpsertResult

Document = dict[str, Any]

#: What asks, once per attempt: PyMongo's collection and session in, its result out. It settles what it looks into
#: itself; what it returns may still have to be awaited.
Work = Callable[[Any, Any, Callable[[Any], Any]], Any]


@dataclass(slots=True, eq=False)
class Request:
    """One use of a verb; not frozen, for one is made for each call, and that costs less.

    Attributes:
        verb: ``find``, ``insert`` ...
        collection: the collection's name.
        work: asks PyMongo: gets its collection, the session or ``None``, and what settles the result of its calls.
        reads: it only reads, so that it may be sent again whatever became of it.
        finish: the caller's own ``into=``, which runs when no connection is held; ``None``: the answer as it is.
    """

    verb: str
    collection: str
    work: Work
    reads: bool = False
    finish: Callable[[Any], Any] | None = None

    def __repr__(self) -> str:
        return f"<Request {self.verb} {self.collection}>"


# --- checks --------------------------------------------------------------------------------------


# Names of collections that were found good.
_CHECKED: Final[set[str]] = set()
_MOST_NAMES: Final = 1000


def _check_collection(name: Any) -> str:
    if not isinstance(name, str) or not name or name[0] in "$." or "\x00" in name:
        raise UsageError("collection: expected the name of a collection, as text")
    if name.__class__ is str:
        if len(_CHECKED) >= _MOST_NAMES:
            _CHECKED.clear()  # names that are made up must not fill the memory
        _CHECKED.add(name)
    return name


def _check_options(options: Mapping[str, Any]) -> None:
    if options and "session" in options:
        raise UsageError("session: use transaction(), whose verbs run in its session")


def _check_mapping(what: str, value: Any, *, optional: bool = False) -> Any:
    if type(value) is dict:  # the usual case, without asking for the abstract class
        return value
    if value is None and optional:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{what}: expected a mapping, not {type(value).__name__}")
    return value


def _check_change(value: Any) -> Any:
    """Return what an update says: operators, or a pipeline; a plain document would replace the whole one."""
    if isinstance(value, list):
        return value
    change = _check_mapping("change", value)
    if not change or not all(isinstance(key, str) and key.startswith("$") for key in change):
        raise UsageError("change: expected update operators, as in {'$set': {...}}, or a pipeline")
    return change


def _with_id(document: Any, what: str = "document") -> Document:
    """Return a copy of *document* that has an ``_id``: sent twice, it is the same document."""
    given = _check_mapping(what, document)
    return dict(given) if "_id" in given else {"_id": ObjectId(), **given}


# --- reads ---------------------------------------------------------------------------------------


def find(collection: Any, filter: Any, projection: Any, into: Into | None, options: Mapping[str, Any]) -> Request:
    """Return the request of ``find``."""
    name, chosen = _check_collection(collection), _check_mapping("filter", filter, optional=True)
    _check_options(options)
    make = None if into is None else maker(into)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        return found.find(chosen, projection, session=session, **options).to_list()

    return Request("find", name, work, True, None if make is None else lambda rows: [*map(make, rows)])


def stream(
    collection: Any, filter: Any, projection: Any, batch_size: int, into: Into | None, options: Mapping[str, Any]
) -> tuple[Request, Callable[[Document], Any] | None]:
    """Return the request of ``stream``, whose answer is PyMongo's cursor, and what converts a document."""
    name, chosen = _check_collection(collection), _check_mapping("filter", filter, optional=True)
    _check_options(options)
    check_batch_size(batch_size)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        return found.find(chosen, projection, batch_size=batch_size, session=session, **options)

    return Request("stream", name, work, True), None if into is None else maker(into)


def find_one(collection: Any, filter: Any, projection: Any, into: Into | None, options: Mapping[str, Any]) -> Request:
    """Return the request of ``find_one``."""
    name = collection if collection.__class__ is str and collection in _CHECKED else _check_collection(collection)
    chosen = filter if filter.__class__ is dict else _check_mapping("filter", filter, optional=True)
    if options:
        _check_options(options)
    make = None if into is None else maker(into)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        if session is None and not options:
            return found.find_one(chosen) if projection is None else found.find_one(chosen, projection)
        return found.find_one(chosen, projection, session=session, **options)

    return Request(
        "find_one", name, work, True, None if make is None else lambda row: None if row is None else make(row)
    )


def count(collection: Any, filter: Any, options: Mapping[str, Any]) -> Request:
    """Return the request of ``count``."""
    name, chosen = _check_collection(collection), _check_mapping("filter", filter, optional=True)
    _check_options(options)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        return found.count_documents(chosen, session=session, **options)

    return Request("count", name, work, True)


def aggregate(collection: Any, pipeline: Any, into: Into | None, options: Mapping[str, Any]) -> Request:
    """Return the request of ``aggregate``; with ``$out`` or ``$merge`` it writes."""
    name, stages = _check_collection(collection), _check_stages(pipeline)
    _check_options(options)
    make = None if into is None else maker(into)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        return settle(settle(found.aggregate(stages, session=session, **options)).to_list())

    finish = None if make is None else lambda rows: [*map(make, rows)]
    return Request("aggregate", name, work, not writes(stages), finish)


def writes(stages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a pipeline writes what it finds."""
    return any(key in ("$out", "$merge") for stage in stages for key in stage)


def _check_stages(pipeline: Any) -> list[Mapping[str, Any]]:
    if isinstance(pipeline, (str, bytes, Mapping)) or not isinstance(pipeline, Iterable):
        raise UsageError("pipeline: expected a list of stages, as in [{'$match': {...}}]")
    return [_check_mapping("pipeline", stage) for stage in pipeline]


# --- writes --------------------------------------------------------------------------------------


def insert(collection: Any, document: Any, options: Mapping[str, Any]) -> Request:
    """Return the request of ``insert``."""
    name, row = _check_collection(collection), _with_id(document)
    _check_options(options)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        return settle(found.insert_one(row, session=session, **options)).inserted_id

    return Request("insert", name, work)


def insert_many(collection: Any, documents: Any, ordered: bool, options: Mapping[str, Any]) -> Request | None:
    """Return the request of ``insert_many``; ``None`` if there are no documents."""
    name, rows = _check_collection(collection), _check_documents(documents)
    _check_options(options)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        return settle(found.insert_many(rows, ordered=ordered, session=session, **options)).inserted_ids

    return Request("insert_many", name, work) if rows else None


def _check_documents(documents: Any) -> list[Document]:
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        raise UsageError("documents: expected several documents; for one use insert()")
    return [_with_id(each, "documents") for each in documents]


def update(collection: Any, filter: Any, change: Any, many: bool, upsert: bool, options: Mapping[str, Any]) -> Request:
    """Return the request of ``update``."""
    name, chosen, said = _check_collection(collection), _check_mapping("filter", filter), _check_change(change)
    _check_options(options)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        send = found.update_many if many else found.update_one
        result = settle(send(chosen, said, upsert=upsert, session=session, **options))
        return UpdateCounts(result.matched_count, result.modified_count, result.upserted_id)

    return Request("update", name, work)


def delete(collection: Any, filter: Any, many: bool, options: Mapping[str, Any]) -> Request:
    """Return the request of ``delete``."""
    name, chosen = _check_collection(collection), _check_mapping("filter", filter)
    _check_options(options)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        send = found.delete_many if many else found.delete_one
        return settle(send(chosen, session=session, **options)).deleted_count

    return Request("delete", name, work)


def bulk_write(collection: Any, operations: Any, ordered: bool, options: Mapping[str, Any]) -> Request | None:
    """Return the request of ``bulk_write``; ``None`` if there are no operations."""
    name = _check_collection(collection)
    if isinstance(operations, (str, bytes, Mapping)) or not isinstance(operations, Iterable):
        raise UsageError("operations: expected a list of PyMongo's InsertOne, UpdateOne, DeleteOne and the like")
    steps = list(operations)
    _check_options(options)

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        result = settle(found.bulk_write(steps, ordered=ordered, session=session, **options))
        return BulkWriteCounts(
            result.inserted_count,
            result.matched_count,
            result.modified_count,
            result.deleted_count,
            dict(result.upserted_ids or {}),
        )

    return Request("bulk_write", name, work) if steps else None


def upsert(collection: Any, documents: Any, key: Any, update: Any) -> Request | None:
    """Return the request of ``upsert``; ``None`` if there are no documents."""
    name = _check_collection(collection)
    rows = [documents] if isinstance(documents, Mapping) else documents
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise UsageError("documents: expected a document or several")
    keys = _check_fields("key", [key] if isinstance(key, str) else key)
    changed = None if update is None else _check_fields("update", [update] if isinstance(update, str) else update)
    steps = [_upsert_step(_check_mapping("documents", row), keys, changed) for row in rows]

    def work(found: Any, session: Any, settle: Callable[[Any], Any]) -> Any:
        result = settle(found.bulk_write(steps, ordered=False, session=session))
        return UpsertResult(len(steps), len(result.upserted_ids or {}), result.matched_count)

    return Request("upsert", name, work) if steps else None


def _check_fields(what: str, names: Any) -> list[str]:
    found = list(names) if isinstance(names, Iterable) else []
    if not all(isinstance(name, str) and name for name in found) or (what == "key" and not found):
        raise UsageError(f"{what}: expected names of fields")
    return found


def _upsert_step(row: Mapping[str, Any], keys: Sequence[str], changed: Sequence[str] | None) -> Any:
    missing = [name for name in (*keys, *(changed or ())) if name not in row]
    if missing:
        raise UsageError(f"documents: each needs the fields {', '.join(missing)}, which key and update name")
    others = [name for name in row if name not in keys]
    updated = {name: row[name] for name in others if changed is None or name in changed}
    # An _id that is no key can't be changed; a new document gets it.
    at_insert = {name: row[name] for name in others if name not in updated or name == "_id"}
    updated.pop("_id", None)
    change = {"$set": updated, "$setOnInsert": at_insert}
    # Without a change the document that is there stays as it is.
    said = {operator: fields for operator, fields in change.items() if fields}
    return UpdateOne({name: row[name] for name in keys}, said or {"$setOnInsert": {keys[0]: row[keys[0]]}}, upsert=True)


# --- into= ---------------------------------------------------------------------------------------


class _AsRow:
    """A document as :func:`~prefiq_db.execution.mapping.mapper` takes a row."""

    __slots__ = ("_document", "_fields")

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._fields = tuple(document)

    @property
    def _parent(self) -> Self:
        return self

    @property
    def _keys(self) -> object:
        return self._fields  # no two documents share what is known of their names

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._document.values())


def maker(into: Into) -> Callable[[Document], Any]:
    """Return a function from document to result.

    A dataclass without a field ``_id`` gets the document without it, since MongoDB adds it to every document. A
    callable that is no class of those gets the document itself.
    """
    cls = get_origin(into) or into
    if cls is dict:
        return dict
    make: Callable[[Any], Any] = mapper(into)
    if make is into:
        return make
    takes_id = isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)
    takes_id = takes_id or "_id" in getattr(cls, "__dataclass_fields__", ())
    if takes_id:
        return lambda document: make(_AsRow(document))
    return lambda document: make(_AsRow({name: value for name, value in document.items() if name != "_id"}))
