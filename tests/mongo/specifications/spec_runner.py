"""Run one specification test against our verbs: its entities, operations, errors, commands and outcome.

An operation becomes the verb that we have for it, a transaction becomes our ``transaction()``, and
``withTransaction`` becomes ``run_in_transaction``. What has no counterpart raises :class:`SkippedError`, with the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pymongo
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from prefiq_db.errors import PrefiqDbError, SettingsError
from tests.mongo.specifications.spec_files import Case
from tests.mongo.specifications.spec_matching import Matcher, MismatchError
from tests.mongo.specifications.spec_server import VERSION, SpecServer


class SkippedError(Exception):
    """The test doesn't apply; the message says why."""


class _LeftError(Exception):
    """Leaves a block that is to be rolled back."""


#: What every call of ours may take; the tests plan failures, not slowness.
_SECONDS: Final = 20.0
#: And what it may take where the server never stops to fail, for PyMongo goes on until then.
_SECONDS_OF_ENDLESS_FAILURE: Final = 1.0
_TRANSACTION: Final = frozenset({"startTransaction", "commitTransaction", "abortTransaction", "withTransaction"})
# What the runner itself does.
_DIRECT: Final = frozenset({"failPoint", "assertCollectionExists", "assertCollectionNotExists", "createEntities"})
# Commands that our mapping sends for itself: it looks for a server, and gives sessions back.
_OWN_COMMANDS: Final = frozenset({"ping", "endSessions"})


@dataclass
class _Client:
    db: Any


@dataclass
class _Collection:
    client: _Client
    database: str
    name: str


@dataclass
class _Session:
    client: _Client
    block: Any = None
    tx: Any = None
    lsid: Any = None


# --- may it run? -----------------------------------------------------------------------------------


def check_applies(case: Case) -> None:
    """Raise :class:`SkippedError` if the test asks for another server than the scripted one."""
    for where in (case.document, case.test):
        needs = where.get("runOnRequirements")
        if needs and not any(_fits(each) for each in needs):
            raise SkippedError(
                "for another server: a sharded cluster, a server that stands alone, another version, or users"
            )
    if reason := case.test.get("skipReason"):
        raise SkippedError(f"by the specification itself: {reason}")


def check_has_verbs(case: Case) -> None:
    """Raise :class:`SkippedError` if an operation has no counterpart, before a client connects for it."""
    for operation in case.test["operations"]:
        name = operation["name"]
        if operation["object"] == "testRunner":
            if name not in _DIRECT:
                raise SkippedError(
                    f"{name}: it looks into PyMongo's sessions, which our transactions keep to themselves"
                )
        elif name not in _TRANSACTION and name not in _VERBS:
            raise SkippedError(f"{name}: no verb of ours; PyMongo's own, at client and collection()")


def _fits(need: Mapping[str, Any]) -> bool:
    if need.get("auth") or need.get("csfle") or need.get("serverless") == "require":
        return False
    if "topologies" in need and "replicaset" not in need["topologies"]:
        return False
    least, most = (_version(need[key]) if key in need else None for key in ("minServerVersion", "maxServerVersion"))
    return (least is None or least <= (*VERSION, 0)) and (most is None or most >= (*VERSION, 0))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 99 for part in [*text.split("."), "0", "0"][:3])


# --- the run ---------------------------------------------------------------------------------------


class Run:
    """One run of one test.

    Args:
        make: makes a database of the world: ``make(url, **fields)``.
    """

    def __init__(self, case: Case, server: SpecServer, make: Callable[..., Any]) -> None:
        self._case = case
        self._server = server
        self._make = make
        self._entities: dict[str, Any] = {}
        self._matcher = Matcher(self._is_session)
        self._open: _Session | None = None

    async def run(self) -> None:
        """Run it.

        Raises:
            SkippedError: it doesn't apply.
            AssertionError: it fails.
        """
        check_applies(self._case)
        check_has_verbs(self._case)
        self._server.reset(self._case.document.get("initialData", []))
        self._create(self._case.document.get("createEntities", []))
        await self._connect(self._case.document.get("createEntities", []))
        try:
            for operation in self._case.test["operations"]:
                await self._operate(operation)
            self._check_modelled()
            self._check_commands()
            self._check_outcome()
        except AssertionError:
            self._check_modelled()
            raise
        finally:
            if self._open is not None:
                await self._leave(self._open, commit=False)

    def _check_modelled(self) -> None:
        if self._server.unmodelled:
            raise SkippedError(f"the scripted server doesn't know {self._server.unmodelled[0]}")

    # --- entities ----------------------------------------------------------------------------------

    def _create(self, entities: list[Mapping[str, Any]]) -> None:
        names = {
            each["database"]["client"]: each["database"]["databaseName"]
            for each in reversed(entities)
            if "database" in each
        }
        for each in entities:
            ((kind, said),) = each.items()
            if kind == "client":
                self._entities[said["id"]] = self._client(said, names.get(said["id"], "shop"))
            elif kind == "database":
                client = self._entities[said["client"]]
                self._entities[said["id"]] = (
                    client
                    if isinstance(client, SkippedError)
                    else _lacking("options of a database", said, "databaseOptions") or (client, said["databaseName"])
                )
            elif kind == "collection":
                self._entities[said["id"]] = self._collection(said)
            elif kind == "session":
                client = self._entities[said["client"]]
                self._entities[said["id"]] = (
                    client
                    if isinstance(client, SkippedError)
                    else _lacking("options of a session", said, "sessionOptions") or _Session(client)
                )
            else:
                self._entities[said["id"]] = SkippedError(f"{kind} is none of ours")

    def _collection(self, said: Mapping[str, Any]) -> Any:
        database = self._entities[said["database"]]
        if isinstance(database, SkippedError):
            return database
        return _lacking("options of a collection: concerns and preferences", said, "collectionOptions") or _Collection(
            *database, said["collectionName"]
        )

    def _client(self, said: Mapping[str, Any], database: str) -> Any:
        options = dict(said.get("uriOptions", {}))
        attempts = 2 if options.pop("retryReads", True) and options.get("retryWrites", True) else 1
        if any(each["name"] == "withTransaction" for each in self._case.test["operations"]):
            attempts = 10
        fields: dict[str, Any] = {"application_name": options.pop("appName", "specifications")}
        if unknown := set(options) - {"retryWrites", "readConcernLevel", "w", "heartbeatFrequencyMS"}:
            return SkippedError(f"option of a client: {', '.join(sorted(unknown))}")
        fields["retry"] = {"attempts": attempts, "wait_initial_seconds": 0.001, "wait_max_seconds": 0.01}
        query = "".join(f"&{name}={str(value).lower()}" for name, value in options.items())
        url = f"mongodb://{self._server.address}/{database}?directConnection=true{query}"
        fields |= {"statement_timeout_seconds": _SECONDS, "connect_timeout_seconds": _SECONDS}
        try:
            return _Client(self._make(url, **fields))
        except SettingsError as error:
            return SkippedError(f"refused by our settings: {', '.join(problem.where for problem in error.problems)}")

    def _fails_endlessly(self) -> bool:
        operations = self._case.test["operations"]
        modes = [each["arguments"]["failPoint"]["mode"] for each in operations if each["name"] == "failPoint"]
        return any(mode == "alwaysOn" or (mode != "off" and "times" not in mode) for mode in modes)

    async def _connect(self, entities: list[Mapping[str, Any]]) -> None:
        """Let each client find the server, so that what follows is what the test says."""
        for each in entities:
            found = self._entities[each["client"]["id"]] if "client" in each else None
            if isinstance(found, _Client):
                await found.db.open()
                if self._fails_endlessly():
                    found.db = found.db.using(timeout=_SECONDS_OF_ENDLESS_FAILURE)

    def _entity(self, name: str, kind: type) -> Any:
        found = self._entities.get(name)
        if isinstance(found, SkippedError):
            raise found
        if not isinstance(found, kind):
            raise SkippedError(
                f"an operation of {name.rstrip('0123456789')}: PyMongo's own, at client and collection()"
            )
        return found

    def _let_go_of_sessions(self) -> None:
        """Expect another session from now on: each transaction of ours, and each attempt, takes one for itself."""
        for each in self._entities.values():
            if isinstance(each, _Session):
                each.lsid = None

    def _is_session(self, name: str, lsid: Any) -> bool:
        session = self._entity(name, _Session)
        session.lsid = session.lsid or lsid
        return bool(session.lsid == lsid)

    # --- operations --------------------------------------------------------------------------------

    async def _operate(self, operation: Mapping[str, Any]) -> None:
        if operation["object"] == "testRunner":
            await self._direct(operation)
            return
        try:
            found = await self._call(operation)
        except (PrefiqDbError, PyMongoError, TypeError, ValueError) as error:
            if "expectError" not in operation:
                raise MismatchError(f"{operation['name']} failed: {error!r}") from error
            self._check_error(operation["expectError"], error)
            return
        if "expectError" in operation:
            raise MismatchError(f"{operation['name']} was expected to fail, and returned {found!r}")
        if "expectResult" in operation:
            self._matcher.check(operation["expectResult"], found, operation["name"], root=True)

    async def _direct(self, operation: Mapping[str, Any]) -> None:
        given = operation["arguments"]
        match operation["name"]:
            case "failPoint":
                self._server.set_fail_point(given["failPoint"])
            case "assertCollectionExists":
                assert (given["databaseName"], given["collectionName"]) in self._server.store
            case "assertCollectionNotExists":
                assert (given["databaseName"], given["collectionName"]) not in self._server.store
            case "createEntities":
                self._create(given["entities"])
                await self._connect(given["entities"])
            case name:
                raise AssertionError(f"{name} is in _DIRECT, and nobody carries it out")

    async def _call(self, operation: Mapping[str, Any]) -> Any:
        name, given = operation["name"], dict(operation.get("arguments", {}))
        if name in _TRANSACTION:
            return await self._transact(self._entity(operation["object"], _Session), name, given)
        verb = _VERBS.get(name)  # a callback may have one that the test itself doesn't
        if verb is None:
            raise SkippedError(f"{name}: no verb of ours; PyMongo's own, at client and collection()")
        collection = self._entity(operation["object"], _Collection)
        return await verb(self._target(collection, given), collection.name, given)

    def _target(self, collection: _Collection, given: dict[str, Any]) -> Any:
        if "session" in given:
            session = self._entity(given.pop("session"), _Session)
            if session.tx is None:
                raise SkippedError("a session without an open transaction: ours are always in one")
            return session.tx
        if self._open is not None:
            raise SkippedError("a call past the open transaction of its context: ours joins it")
        db = collection.client.db
        return db if db.settings.target.database == collection.database else db.using(database=collection.database)

    # --- transactions ------------------------------------------------------------------------------

    async def _transact(self, session: _Session, name: str, given: dict[str, Any]) -> None:
        if name == "withTransaction":
            await self._with_transaction(session, given)
        elif name == "startTransaction":
            _refuse(given, "options of a transaction: they are the database's")
            if session.tx is not None or self._open is not None:
                raise SkippedError("two transactions at once in one context: a block refuses it")
            session.block = session.client.db.transaction()
            session.tx = await session.block.__aenter__()
            self._open = session
        elif session.tx is None:
            raise SkippedError(f"{name} without an open transaction: a block ends once")
        else:
            _refuse(given, f"options of {name}")
            await self._leave(session, commit=name == "commitTransaction")

    async def _leave(self, session: _Session, *, commit: bool) -> None:
        block, session.block, session.tx, self._open = session.block, None, None, None
        error = None if commit else _LeftError()
        await block.__aexit__(type(error) if error else None, error, None)

    async def _with_transaction(self, session: _Session, given: dict[str, Any]) -> None:
        callback = given.pop("callback")
        _refuse(given, "options of a transaction: they are the database's")

        async def body(tx: Any) -> None:
            session.tx = tx
            try:
                for operation in callback:
                    await self._operate_or_raise(operation)
            finally:
                session.tx = None

        await session.client.db.run_in_transaction(body)

    async def _operate_or_raise(self, operation: Mapping[str, Any]) -> None:
        """Carry out an operation of a callback: an error that it expects leaves the callback, too."""
        if operation["object"] == "testRunner" or operation["name"] in ("abortTransaction", "commitTransaction"):
            raise SkippedError("a callback that ends the transaction itself: ours returns or raises")
        try:
            found = await self._call(operation)
        except PrefiqDbError as error:
            if "expectError" in operation:
                self._check_error(operation["expectError"], error)
            raise
        if "expectError" in operation:
            raise MismatchError(f"{operation['name']} was expected to fail, and returned {found!r}")
        if "expectResult" in operation:
            self._matcher.check(operation["expectResult"], found, operation["name"], root=True)

    # --- checks ------------------------------------------------------------------------------------

    def _check_error(self, expected: Mapping[str, Any], error: Exception) -> None:
        original = error.original if isinstance(error, PrefiqDbError) else error
        shown = f"{error!r} of {original!r}"
        if expected.get("isClientError") is True and isinstance(original, OperationFailure):
            raise MismatchError(f"expected an error of the client, not {shown}")
        if expected.get("isClientError") is False and not isinstance(original, PyMongoError):
            raise MismatchError(f"expected an error of the server, not {shown}")
        if (
            "errorContains" in expected
            and expected["errorContains"].lower() not in f"{original} {_details(original)}".lower()
        ):
            raise MismatchError(f"expected {expected['errorContains']!r} in {shown}")
        if "errorCode" in expected and getattr(error, "code", None) != expected["errorCode"]:
            raise MismatchError(f"expected code {expected['errorCode']}, not {shown}")
        if "errorCodeName" in expected and _details(original).get("codeName", "") not in (
            "",
            expected["errorCodeName"],
        ):
            raise MismatchError(f"expected {expected['errorCodeName']}, not {shown}")
        has = original.has_error_label if isinstance(original, PyMongoError) else lambda label: False
        for label in expected.get("errorLabelsContain", ()):
            if not has(label):
                raise MismatchError(f"expected the label {label} at {shown}")
        for label in expected.get("errorLabelsOmit", ()):
            if has(label):
                raise MismatchError(f"did not expect the label {label} at {shown}")
        self._check_judgement(expected, error)
        if "expectResult" in expected and isinstance(original, BulkWriteError):
            self._matcher.check(expected["expectResult"], _partial(original), "partial result", root=True)

    def _check_judgement(self, expected: Mapping[str, Any], error: Exception) -> None:
        """Our own word must say what the label says: whether the whole transaction may run again."""
        label = "TransientTransactionError"
        if not isinstance(error, PrefiqDbError):
            return
        if label in expected.get("errorLabelsContain", ()) and not error.classification.retry_transaction:
            raise MismatchError(f"the label says that the transaction may run again, and {error!r} doesn't")
        if label in expected.get("errorLabelsOmit", ()) and self._open and error.classification.retry_transaction:
            raise MismatchError(f"no label says that the transaction may run again, and {error!r} does")

    def _check_commands(self) -> None:
        expected = [
            each for each in self._case.test.get("expectEvents", []) if each.get("eventType", "command") == "command"
        ]
        if sum(1 for each in expected if each["events"]) > 1:
            raise SkippedError("commands of two clients, which one server can't tell apart")
        seen = [each for each in self._server.seen if each.name not in _OWN_COMMANDS]
        for client in expected:
            wanted = [each["commandStartedEvent"] for each in client["events"] if "commandStartedEvent" in each]
            if not wanted:
                continue
            names = [each.name for each in seen]
            if len(seen) != len(wanted) and not client.get("ignoreExtraEvents"):
                raise MismatchError(f"expected {len(wanted)} commands, not {names}")
            if len(seen) < len(wanted):
                raise MismatchError(f"expected {len(wanted)} commands, not {names}")
            for index, each in enumerate(wanted):
                command = seen[index].command
                if "commandName" in each and each["commandName"] != seen[index].name:
                    raise MismatchError(f"command {index}: expected {each['commandName']}, not {seen[index].name}")
                if "databaseName" in each and each["databaseName"] != command["$db"]:
                    raise MismatchError(f"command {index}: for another database")
                if command.get("startTransaction"):
                    self._let_go_of_sessions()
                if "command" in each:
                    self._matcher.check_command(each["command"], command, seen[index].name)

    def _check_outcome(self) -> None:
        for each in self._case.test.get("outcome", []):
            found = self._server.store.get((each["databaseName"], each["collectionName"]), [])
            found = sorted(found, key=lambda document: str(document["_id"]).rjust(20))
            self._matcher.check(each["documents"], found, each["collectionName"])


def _details(error: Any) -> dict[str, Any]:
    return dict(getattr(error, "details", None) or {})


def _partial(error: BulkWriteError) -> dict[str, Any]:
    details = _details(error)
    return {
        "insertedCount": details["nInserted"],
        "matchedCount": details["nMatched"],
        "modifiedCount": details["nModified"],
        "deletedCount": details["nRemoved"],
        "upsertedCount": details["nUpserted"],
        "upsertedIds": {str(each["index"]): each["_id"] for each in details["upserted"]},
    }


def _lacking(what: str, said: Mapping[str, Any], key: str) -> SkippedError | None:
    return SkippedError(f"{what}: {', '.join(sorted(said[key]))}") if said.get(key) else None


def _refuse(given: Mapping[str, Any], what: str) -> None:
    if given:
        raise SkippedError(f"{what}: {', '.join(sorted(given))}")


# --- verbs -----------------------------------------------------------------------------------------

_NAMES: Final[Mapping[str, str]] = {
    "batchSize": "batch_size",
    "allowDiskUse": "allow_disk_use",
    "arrayFilters": "array_filters",
    "bypassDocumentValidation": "bypass_document_validation",
}


def _options(given: Mapping[str, Any], *, renamed: bool = True) -> dict[str, Any]:
    if "maxTimeMS" in given:
        raise SkippedError("maxTimeMS: our time limit says it")
    if any(key in given for key in ("rawData", "timeoutMS")):
        raise SkippedError("an option that PyMongo lacks")
    return {_NAMES.get(key, key) if renamed else key: value for key, value in given.items()}


async def _insert_one(db: Any, name: str, given: dict[str, Any]) -> Any:
    return {"insertedId": await db.insert(name, given.pop("document"), **_options(given))}


async def _insert_many(db: Any, name: str, given: dict[str, Any]) -> Any:
    documents, ordered = given.pop("documents"), given.pop("ordered", True)
    found = await db.insert_many(name, documents, ordered=ordered, **_options(given))
    return {"insertedIds": {str(index): each for index, each in enumerate(found)}}


async def _find(db: Any, name: str, given: dict[str, Any]) -> Any:
    return await db.find(name, given.pop("filter"), given.pop("projection", None), **_options(given))


async def _find_one(db: Any, name: str, given: dict[str, Any]) -> Any:
    return await db.find_one(name, given.pop("filter"), given.pop("projection", None), **_options(given))


async def _count(db: Any, name: str, given: dict[str, Any]) -> Any:
    return await db.count(name, given.pop("filter"), **_options(given))


async def _aggregate(db: Any, name: str, given: dict[str, Any]) -> Any:
    return await db.aggregate(name, given.pop("pipeline"), **_options(given, renamed=False))


def _update(*, many: bool) -> Callable[..., Any]:
    async def update(db: Any, name: str, given: dict[str, Any]) -> Any:
        filter, change, upsert = given.pop("filter"), given.pop("update"), given.pop("upsert", False)
        found = await db.update(name, filter, change, many=many, upsert=upsert, **_options(given))
        result = {"matchedCount": found.matched, "modifiedCount": found.modified}
        if found.upserted_id is None:
            return {**result, "upsertedCount": 0}
        return {**result, "upsertedCount": 1, "upsertedId": found.upserted_id, "matchedCount": 0}

    return update


def _delete(*, many: bool) -> Callable[..., Any]:
    async def delete(db: Any, name: str, given: dict[str, Any]) -> Any:
        return {"deletedCount": await db.delete(name, given.pop("filter"), many=many, **_options(given))}

    return delete


async def _bulk_write(db: Any, name: str, given: dict[str, Any]) -> Any:
    steps, ordered = [_step(each) for each in given.pop("requests")], given.pop("ordered", True)
    found = await db.bulk_write(name, steps, ordered=ordered, **_options(given))
    return {
        "insertedCount": found.inserted,
        "matchedCount": found.matched,
        "modifiedCount": found.modified,
        "deletedCount": found.deleted,
        "upsertedCount": len(found.upserted_ids),
        "upsertedIds": {str(index): each for index, each in found.upserted_ids.items()},
    }


def _step(request: Mapping[str, Any]) -> Any:
    ((name, said),) = request.items()
    kind = getattr(pymongo, f"{name[0].upper()}{name[1:]}")
    return kind(**{_NAMES.get(key, key): value for key, value in said.items()})


_VERBS: Final[Mapping[str, Callable[..., Any]]] = {
    "insertOne": _insert_one,
    "insertMany": _insert_many,
    "find": _find,
    "findOne": _find_one,
    "countDocuments": _count,
    "aggregate": _aggregate,
    "updateOne": _update(many=False),
    "updateMany": _update(many=True),
    "deleteOne": _delete(many=False),
    "deleteMany": _delete(many=True),
    "bulkWrite": _bulk_write,
}
