"""The server of the specification tests: the scripted one, with MongoDB's fail points and a model of its documents."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

from bson import ObjectId

from tests.mongo.scripted_server import CUT, Reply, ScriptedServer, Seen
from tests.mongo.specifications.document_model import (
    Document,
    NotModelledError,
    bound,
    matches,
    ordered,
    run_stages,
    updated,
)
from tests.mongo.specifications.fail_points import FailPoint, labels

VERSION = (7, 0)
#: Documents by database and collection.
Store = dict[tuple[str, str], list[Document]]


class _ServerError(Exception):
    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code, self.name = code, name


class _OpenTransaction:
    """What a transaction sees, and what it will do at COMMIT."""

    def __init__(self, store: Store) -> None:
        self.store: Store = copy.deepcopy(store)
        self.writes: list[Callable[[Store], object]] = []
        self.state = "open"


class SpecServer(ScriptedServer):
    """A primary of a replica set, after the specifications.

    Attributes:
        store: the committed documents.
        unmodelled: what the model was asked for and lacks: the test proves nothing then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store: Store = {}
        self.unmodelled: list[str] = []
        self._points: dict[str, FailPoint] = {}
        self._open: dict[tuple[bytes, int], _OpenTransaction] = {}
        self._cursors: dict[int, tuple[str, list[Document]]] = {}

    # --- for the runner ----------------------------------------------------------------------------

    def reset(self, initial: list[Mapping[str, Any]]) -> None:
        """Forget everything, and keep the *initial* documents."""
        with self._lock:
            self.store = {
                (each["databaseName"], each["collectionName"]): copy.deepcopy(each["documents"]) for each in initial
            }
            for part in (self.seen, self.unmodelled, self._points, self._open, self._cursors, self._written):
                part.clear()

    def set_fail_point(self, command: Mapping[str, Any]) -> None:
        """Carry out a ``configureFailPoint``."""
        point = FailPoint.of(command)
        with self._lock:
            self._points.pop(command["configureFailPoint"], None)
            if point is not None:
                self._points[point.name] = point

    # --- one command -------------------------------------------------------------------------------

    def answer(self, command: Mapping[str, Any]) -> Reply | str:
        name = next(iter(command))
        if name.lower() in ("hello", "ismaster"):
            return self._hello(command)
        with self._lock:
            self.seen.append(Seen(name, command))
            data = next((point.data for point in self._points.values() if point.hits(name, command)), None)
        if data is None:
            with self._lock:
                return self._reply(name, command)
        if data.get("blockConnection"):
            time.sleep(data["blockTimeMS"] / 1000)
        with self._lock:
            return self._fail(name, command, data)

    def _fail(self, name: str, command: Mapping[str, Any], data: Mapping[str, Any]) -> Reply | str:
        if "failCommands" not in data:  # onPrimaryTransactionalWrite: before the commit, or after it
            code = data.get("failBeforeCommitExceptionCode")
            if code is None:
                self._reply(name, command)
            if code is None or data.get("closeConnection", True):
                return CUT
            return _failure(code, "planned", labels(name, command, code))
        if data.get("closeConnection"):
            return CUT
        if "errorCode" in data:
            said = data.get("errorLabels")
            code = data["errorCode"]
            return _failure(code, "planned", labels(name, command, code) if said is None else said)
        reply = self._reply(name, command)
        if "writeConcernError" in data:
            concern = data["writeConcernError"]
            said = data.get("errorLabels")
            found = concern.get("errorLabels") or (labels(name, command, concern["code"]) if said is None else said)
            reply = {**reply, "writeConcernError": concern, **({"errorLabels": found} if found else {})}
        return reply

    def _reply(self, name: str, command: Mapping[str, Any]) -> Reply:
        try:
            return self._carry_out(name, command)
        except NotModelledError as lack:
            self.unmodelled.append(str(lack))
            return _failure(9, f"not modelled: {lack}", [])
        except _ServerError as error:
            reply = _failure(error.code, str(error), labels(name, command, error.code))
            return {**reply, "codeName": error.name}

    def _carry_out(self, name: str, command: Mapping[str, Any]) -> Reply:
        handle = getattr(self, f"_do_{name}", None)
        if name in ("ping", "endSessions", "killCursors"):
            return {"ok": 1.0}
        if name in ("commitTransaction", "abortTransaction"):
            return self._end(name, command)
        if handle is None:
            raise NotModelledError(name)
        if "collation" in str(command):
            raise NotModelledError("collation")
        seen = Seen(name, command)
        if command.get("autocommit") is False:
            assert seen.transaction is not None
            return self._in_transaction(seen.transaction, command, handle)
        if seen.transaction is not None and seen.transaction in self._written:
            return self._written[seen.transaction]
        reply: Reply = handle(self.store, command)
        if seen.transaction is not None:
            self._written[seen.transaction] = reply
        return reply

    def _in_transaction(
        self, key: tuple[bytes, int], command: Mapping[str, Any], handle: Callable[..., Reply]
    ) -> Reply:
        if command.get("startTransaction"):
            for other in [each for each in self._open if each[0] == key[0]]:
                del self._open[other]  # a session has one transaction; a new one ends the one before
            self._open[key] = _OpenTransaction(self.store)
        found = self._open.get(key)
        if found is None or found.state != "open":
            raise _ServerError(251, "NoSuchTransaction", "no such transaction")
        kept = copy.deepcopy(found.store)
        try:
            reply = handle(found.store, command)
        except _ServerError:
            found.store, found.state = kept, "aborted"
            raise
        if reply.get("writeErrors"):
            found.state = "aborted"  # a failed write ends the whole transaction
        found.writes.append(lambda store: handle(store, command))
        return reply

    def _end(self, name: str, command: Mapping[str, Any]) -> Reply:
        key = Seen(name, command).transaction
        found = None if key is None else self._open.get(key)
        if name == "abortTransaction":
            if found is None or found.state != "open":
                raise _ServerError(251, "NoSuchTransaction", "no such transaction")
            found.state = "aborted"
            return {"ok": 1.0}
        if found is None or found.state == "aborted":
            raise _ServerError(251, "NoSuchTransaction", "no such transaction")
        if found.state == "open":
            for write in found.writes:
                write(self.store)
            found.state = "committed"
        return {"ok": 1.0}

    # --- commands ----------------------------------------------------------------------------------

    def _documents(self, store: Store, command: Mapping[str, Any]) -> list[Document]:
        return store.setdefault((command["$db"], next(iter(command.values()))), [])

    def _do_insert(self, store: Store, command: Mapping[str, Any]) -> Reply:
        documents, errors, done = self._documents(store, command), [], 0
        for index, each in enumerate(command["documents"]):
            if isinstance(each.get("_id"), Mapping) and any(key.startswith("$") for key in each["_id"]):
                errors.append({"index": index, "code": 52, "errmsg": "_id fields may not contain '$'-prefixed fields"})
                break
            if any(there["_id"] == each.get("_id") for there in documents):
                errors.append(_duplicate(index, each["_id"]))
                if command.get("ordered", True):
                    break
                continue
            documents.append({"_id": each.get("_id", ObjectId()), **copy.deepcopy(dict(each))})
            done += 1
        return {"n": done, "ok": 1.0, **({"writeErrors": errors} if errors else {})}

    def _do_update(self, store: Store, command: Mapping[str, Any]) -> Reply:
        found = matched = 0
        upserted: list[Document] = []
        errors: list[Document] = []
        for index, each in enumerate(command["updates"]):
            try:
                one, other, made = self._update_one(store, command, each)
            except _ServerError as error:
                errors.append({"index": index, "code": error.code, "errmsg": str(error)})
                if command.get("ordered", True):
                    break
                continue
            matched, found = matched + one, found + other
            if made is not None:
                upserted.append({"index": index, "_id": made})
        reply: Reply = {"n": matched + len(upserted), "nModified": found, "ok": 1.0}
        return {**reply, **({"upserted": upserted} if upserted else {}), **({"writeErrors": errors} if errors else {})}

    def _update_one(
        self, store: Store, command: Mapping[str, Any], each: Mapping[str, Any]
    ) -> tuple[int, int, Any | None]:
        documents = self._documents(store, command)
        variables = bound(command.get("let", {}), each.get("c", {}))
        chosen = [at for at, there in enumerate(documents) if matches(there, each["q"], variables)]
        if "sort" in each:  # since MongoDB 8.0
            raise _ServerError(9, "FailedToParse", "BSON field 'update.updates.sort' is an unknown field")
        if not each.get("multi"):
            chosen = chosen[:1]
        options: dict[str, Any] = {"array_filters": each.get("arrayFilters", ()), "variables": variables}
        if not chosen and each.get("upsert"):
            plain = {key: value for key, value in each["q"].items() if not isinstance(value, Mapping)}
            made = updated(plain, each["u"], inserts=True, **options)
            made = made if "_id" in made else {"_id": ObjectId(), **made}
            documents.append(made)
            return 0, 0, made["_id"]
        changed = 0
        for at in chosen:
            made = updated(documents[at], each["u"], **options)
            changed += made != documents[at]
            documents[at] = made
        return len(chosen), changed, None

    def _do_delete(self, store: Store, command: Mapping[str, Any]) -> Reply:
        documents, done = self._documents(store, command), 0
        for each in command["deletes"]:
            chosen = [there for there in documents if matches(there, each["q"], bound(command.get("let", {})))]
            for there in chosen[: each["limit"] or None]:
                documents.remove(there)
                done += 1
        return {"n": done, "ok": 1.0}

    def _do_find(self, store: Store, command: Mapping[str, Any]) -> Reply:
        wanted, variables = command.get("filter", {}), bound(command.get("let", {}))
        found = [each for each in self._documents(store, command) if matches(each, wanted, variables)]
        if command.get("sort"):
            found = ordered(found, command["sort"])
        found = found[command.get("skip", 0) :]
        limit = command.get("limit", 0)
        found = found[: abs(limit)] if limit else found
        return self._cursor(command, found, command.get("batchSize"), single=bool(command.get("singleBatch")))

    def _do_aggregate(self, store: Store, command: Mapping[str, Any]) -> Reply:
        if not isinstance(command["aggregate"], str):
            raise NotModelledError("aggregate of a database")
        *stages, last = command["pipeline"] or [{"$skip": 0}]
        writes = next(iter(last)) in ("$out", "$merge")
        variables = bound(command.get("let", {}))
        found = run_stages(self._documents(store, command), stages if writes else [*stages, last], variables)
        if writes:
            self._write_out(store, command, last, found)
            found = []
        return self._cursor(command, found, command.get("cursor", {}).get("batchSize"))

    def _write_out(
        self, store: Store, command: Mapping[str, Any], stage: Mapping[str, Any], found: list[Document]
    ) -> None:
        ((name, said),) = stage.items()
        target = said if name == "$out" else said.get("into") if set(said) == {"into"} else None
        if not isinstance(target, str):
            raise NotModelledError(f"{name} of another kind")
        kept = [] if name == "$out" else store.get((command["$db"], target), [])
        ids = [each["_id"] for each in found]
        store[(command["$db"], target)] = [*(each for each in kept if each["_id"] not in ids), *found]

    def _do_getMore(self, store: Store, command: Mapping[str, Any]) -> Reply:  # noqa: N802 - the command's name
        namespace, left = self._cursors.pop(command["getMore"])
        size = command.get("batchSize") or len(left)
        return {"cursor": {**self._kept(namespace, left, size), "nextBatch": left[:size]}, "ok": 1.0}

    def _cursor(
        self, command: Mapping[str, Any], found: list[Document], size: int | None, *, single: bool = False
    ) -> Reply:
        namespace = f"{command['$db']}.{next(iter(command.values()))}"
        count = len(found) if size is None else size
        kept = {"id": 0, "ns": namespace} if single else self._kept(namespace, found, count)
        return {"cursor": {**kept, "firstBatch": copy.deepcopy(found[:count])}, "ok": 1.0}

    def _kept(self, namespace: str, found: list[Document], count: int) -> Document:
        if len(found) <= count:
            return {"id": 0, "ns": namespace}
        number = len(self._cursors) + 4001
        self._cursors[number] = (namespace, copy.deepcopy(found[count:]))
        return {"id": number, "ns": namespace}


def _failure(code: int, text: str, said: list[str]) -> Reply:
    return {"ok": 0.0, "code": code, "errmsg": text, **({"errorLabels": said} if said else {})}


def _duplicate(index: int, value: Any) -> Document:
    return {
        "index": index,
        "code": 11000,
        "errmsg": "E11000 duplicate key error collection",
        "keyPattern": {"_id": 1},
        "keyValue": {"_id": value},
    }
