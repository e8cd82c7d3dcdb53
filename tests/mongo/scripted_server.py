"""A server that speaks MongoDB's protocol and answers by a script: for what a stand-in can't show.

It is a model of one primary of a replica set: documents, sessions, transactions and retryable writes, with the rules of
MongoDB's driver specifications (Transactions, Retryable Writes, Sessions): a write that is sent again under its session
and number is answered from what was done, and so is a COMMIT. A test adds rules that say what goes wrong, when.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import bson

_OP_REPLY: Final = 1
_OP_QUERY: Final = 2004
_OP_MSG: Final = 2013

Reply = dict[str, Any]

#: What a rule may do instead of replying: close the connection before the command is carried out, close it afterwards,
#: or carry it out and say nothing.
CUT, CUT_AFTER, SILENT_AFTER = "cut", "cut after", "silent after"


@dataclass
class Rule:
    """What goes wrong.

    Attributes:
        command: the name of the command.
        does: ``CUT``, ``CUT_AFTER``, ``SILENT_AFTER``, or the reply, with which nothing is carried out.
        times: how often.
        after: carries the command out before it replies.
        skip: how many of those commands pass before the first.
    """

    command: str
    does: str | Reply
    times: int = 1
    after: bool = False
    skip: int = 0
    hits: int = 0


@dataclass
class Seen:
    """A command that came.

    Attributes:
        transaction: session and number, if it has both.
    """

    name: str
    command: Mapping[str, Any]

    @property
    def transaction(self) -> tuple[bytes, int] | None:
        session, number = self.command.get("lsid"), self.command.get("txnNumber")
        return None if session is None or number is None else (bytes(session["id"]), number)


@dataclass
class _Transaction:
    writes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    state: str = "open"


class ScriptedServer:
    """Use it as a context manager; ``url`` is where it listens.

    Attributes:
        seen: the commands in the order in which they came, without those of PyMongo's monitoring.
        documents: what is committed, by collection.
        stands_alone: it is no replica set: no transactions and no retryable writes.
        secondary: it says that it is a secondary.
        keeps_record: whether it notes what it has seen; a benchmark would fill the memory.
    """

    def __init__(self, *, stands_alone: bool = False) -> None:
        self.stands_alone = stands_alone
        self.secondary = False
        self.keeps_record = True
        self.seen: list[Seen] = []
        self.documents: dict[str, list[dict[str, Any]]] = {}
        self._rules: list[Rule] = []
        self._transactions: dict[tuple[bytes, int], _Transaction] = {}
        self._written: dict[tuple[bytes, int], Reply] = {}
        self._lock = threading.RLock()
        self._sockets: set[socket.socket] = set()
        self._server: _Listener | None = None
        self.port = 0

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = _Listener(self, self.port)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and close every connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.cut_all()

    def cut_all(self) -> None:
        """Close every connection."""
        with self._lock:
            for each in list(self._sockets):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"mongodb://{self.address}/shop?directConnection=true"

    def on(self, command: str, does: str | Reply, *, times: int = 1, after: bool = False, skip: int = 0) -> Rule:
        """Add a rule."""
        rule = Rule(command, does, times, after, skip)
        with self._lock:
            self._rules.append(rule)
        return rule

    def names(self) -> list[str]:
        """Return the names of the commands that came."""
        with self._lock:
            return [each.name for each in self.seen]

    def count(self, collection: str) -> int:
        """Return how many documents are committed."""
        with self._lock:
            return len(self.documents.get(collection, []))

    # --- one command -------------------------------------------------------------------------------

    def answer(self, command: Mapping[str, Any]) -> Reply | str:
        """Return the reply to *command*, or ``CUT`` or ``SILENT_AFTER``."""
        name = next(iter(command))
        with self._lock:
            if name.lower() in ("hello", "ismaster"):
                return self._hello(command)
            if self.keeps_record:
                self.seen.append(Seen(name, command))
            rule = self._rule_for(name)
            if rule is None:
                return self._carry_out(name, command)
            if rule.does == CUT:
                return CUT
            if isinstance(rule.does, dict):
                if rule.after:
                    self._carry_out(name, command)
                return {**rule.does, **({"ok": 0.0} if "ok" not in rule.does else {})}
            self._carry_out(name, command)
            return CUT if rule.does == CUT_AFTER else SILENT_AFTER

    def _rule_for(self, name: str) -> Rule | None:
        for rule in self._rules:
            if rule.command != name or rule.hits >= rule.times:
                continue
            if rule.skip:
                rule.skip -= 1
                return None
            rule.hits += 1
            return rule
        return None

    def _hello(self, command: Mapping[str, Any]) -> Reply:
        if not self.stands_alone and "lsid" in command:
            self.seen.append(Seen("hello", command))
        found: Reply = {
            "helloOk": True,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "ok": 1.0,
        }
        if self.stands_alone:
            return found | {"ismaster": True, "isWritablePrimary": True}
        return found | {
            "ismaster": not self.secondary,
            "isWritablePrimary": not self.secondary,
            "secondary": self.secondary,
            "setName": "rs0",
            "setVersion": 1,
            "hosts": [self.address],
            "me": self.address,
            "logicalSessionTimeoutMinutes": 30,
        }

    def _carry_out(self, name: str, command: Mapping[str, Any]) -> Reply:
        match name:
            case "ping" | "endSessions" | "killCursors":
                return {"ok": 1.0}
            case "insert":
                return self._insert(command)
            case "find":
                return self._find(command)
            case "commitTransaction":
                return self._commit(command)
            case "abortTransaction":
                return self._abort(command)
            case _:
                return _error(59, "CommandNotFound", "no such command")

    def _insert(self, command: Mapping[str, Any]) -> Reply:
        key = Seen("insert", command).transaction
        if key is not None and command.get("autocommit") is False:
            transaction = self._transactions.setdefault(key, _Transaction())
            if transaction.state != "open":
                return _no_such_transaction()
            transaction.writes += [(command["insert"], dict(each)) for each in command["documents"]]
            return {"n": len(command["documents"]), "ok": 1.0}
        if key is not None and key in self._written:
            return self._written[key]  # the same write again: it was done
        for each in command["documents"]:
            self.documents.setdefault(command["insert"], []).append(dict(each))
        reply: Reply = {"n": len(command["documents"]), "ok": 1.0}
        if key is not None:
            self._written[key] = reply
        return reply

    def _find(self, command: Mapping[str, Any]) -> Reply:
        key = Seen("find", command).transaction
        if key is not None and self._transactions.setdefault(key, _Transaction()).state != "open":
            return _no_such_transaction()
        found = [dict(each) for each in self.documents.get(command["find"], [])]
        limit = command.get("limit") or len(found)
        batch = command.get("batchSize", len(found))
        return {
            "cursor": {"id": 0, "ns": f"shop.{command['find']}", "firstBatch": found[: min(limit, batch)]},
            "ok": 1.0,
        }

    def _commit(self, command: Mapping[str, Any]) -> Reply:
        key = Seen("commitTransaction", command).transaction
        transaction = None if key is None else self._transactions.get(key)
        if transaction is None or transaction.state == "aborted":
            return _no_such_transaction()
        if transaction.state == "open":
            transaction.state = "committed"
            for collection, document in transaction.writes:
                self.documents.setdefault(collection, []).append(document)
        return {"ok": 1.0}  # one that is committed already is committed once

    def _abort(self, command: Mapping[str, Any]) -> Reply:
        key = Seen("abortTransaction", command).transaction
        transaction = None if key is None else self._transactions.get(key)
        if transaction is None or transaction.state != "open":
            return _no_such_transaction()
        transaction.state = "aborted"
        return {"ok": 1.0}

    # --- sockets -----------------------------------------------------------------------------------

    def serve(self, connection: socket.socket) -> None:
        """Answer one connection until it ends."""
        with self._lock:
            self._sockets.add(connection)
        try:
            while (message := _read(connection)) is not None:
                request, code, command = message
                reply = self.answer(command)
                if reply == CUT:
                    return
                if reply == SILENT_AFTER:
                    while connection.recv(4096):
                        time.sleep(0.01)
                    return
                assert isinstance(reply, dict)
                connection.sendall(_packed(request, code, reply))
        except OSError:
            return
        finally:
            with self._lock:
                self._sockets.discard(connection)
            connection.close()


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, script: ScriptedServer, port: int) -> None:
        self.script = script
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(socketserver.BaseRequestHandler):
    server: _Listener

    def handle(self) -> None:
        self.server.script.serve(self.request)


def _error(code: int, name: str, text: str, *labels: str) -> Reply:
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": text, "errorLabels": list(labels)}


def _no_such_transaction() -> Reply:
    return _error(251, "NoSuchTransaction", "no such transaction", "TransientTransactionError")


def _read_exactly(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return data


def _read(connection: socket.socket) -> tuple[int, int, dict[str, Any]] | None:
    """Return the number, the kind and the command of the next message; ``None`` at the end."""
    head = _read_exactly(connection, 16)
    if head is None:
        return None
    length, request, _, code = struct.unpack("<iiii", head)
    body = _read_exactly(connection, length - 16)
    if body is None:
        return None
    return request, code, _decode_query(body) if code == _OP_QUERY else _decode_message(body)


def _decode_query(body: bytes) -> dict[str, Any]:
    end = body.index(b"\x00", 4)
    return bson.decode(body[end + 9 :])


def _decode_message(body: bytes) -> dict[str, Any]:
    command: dict[str, Any] = {}
    place = 4
    while place < len(body):
        kind, place = body[place], place + 1
        (size,) = struct.unpack_from("<i", body, place)
        if kind == 0:
            command |= bson.decode(body[place : place + size])
        else:
            end = body.index(b"\x00", place + 4)
            command[body[place + 4 : end].decode()] = bson.decode_all(body[end + 1 : place + size])
        place += size
    return command


def _packed(request: int, code: int, reply: Reply) -> bytes:
    document = bson.encode(reply)
    if code == _OP_QUERY:
        body = struct.pack("<iqii", 8, 0, 0, 1) + document
        kind = _OP_REPLY
    else:
        body = struct.pack("<i", 0) + b"\x00" + document
        kind = _OP_MSG
    return struct.pack("<iiii", 16 + len(body), 0, request, kind) + body
