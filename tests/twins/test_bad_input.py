"""What can't be right is told before anything is sent: one class and one sentence, on each database, in both worlds."""

from __future__ import annotations

import datetime as dt
import pathlib
import re
import socket
import struct
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import ErrorKind, RetryPolicy
from prefiq_db.errors import (
    ConnectFailedError,
    ConnectionLostError,
    DataError,
    OutcomeUnknownError,
    PrefiqDbError,
    StatementRefusedError,
    UsageError,
)
from tests.conftest import Backend
from tests.twins.harness import drive, make_database

crate = sa.Table(
    "crate",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("word", sa.String(40)),
    sa.Column("count", sa.Integer),
    sa.Column("ratio", sa.Float),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("data", sa.LargeBinary),
    sa.Column("at", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("code", sa.Uuid),
    sa.Column("lasts", sa.Interval),
    sa.Column("document", sa.JSON),
)
_TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}


class Thing:
    def __repr__(self) -> str:
        return "planted"

    __str__ = __repr__


def _function() -> None: ...


def _generator() -> Iterator[str]:
    yield "planted"


@pytest.fixture
def store(db: Any, world: str, loop_runner: Any) -> Any:
    (loop_runner.run if world == "async" else drive)(db.execute(sa.schema.CreateTable(crate)))
    return db


async def _error(made: Callable[[], Awaitable[Any]]) -> PrefiqDbError:
    with pytest.raises(PrefiqDbError) as caught:
        await made()
    assert "planted" not in str(caught.value)
    assert "planted" not in repr(caught.value)
    return caught.value


def _said(error: PrefiqDbError) -> str:
    return re.sub(r"^database '\w+': ", "", str(error))


# --- values ---------------------------------------------------------------------------------------

_UNKNOWN: dict[str, Any] = {
    "object": Thing(),
    "class": Thing,
    "function": _function,
    "lambda": lambda: 1,
    "generator": _generator(),
    "module": pathlib,
    "ellipsis": ...,
    "NotImplemented": NotImplemented,
    "set": {"planted"},
    "frozenset": frozenset({"planted"}),
    "range": range(2),
    "deque": deque(["planted"]),
    "keys": {"planted": 1}.keys(),
    "map": map(str, ["planted"]),
    "complex": 1j,
    "Fraction": Fraction(1, 3),
    "zone": dt.UTC,
    "path": pathlib.Path("planted"),
    "error": ValueError("planted"),
    "pattern": re.compile("planted"),
}
_INSERT = "insert into crate (id, word) values (:id, :value)"


def _roads(store: Any, value: Any) -> dict[str, Callable[[], Awaitable[Any]]]:
    async def in_transaction() -> None:
        async with store.transaction() as tx:
            await tx.execute(_INSERT, {"id": 1, "value": value})

    async def in_session() -> None:
        async with store.session() as session:
            await session.execute(sa.text(_INSERT), {"id": 1, "value": value})

    return {
        "execute": lambda: store.execute(_INSERT, {"id": 1, "value": value}),
        "fetch_all": lambda: store.fetch_all("select 1 where :value = 'a'", {"value": value}),
        "fetch_one": lambda: store.fetch_one("select 1 where :value = 'a'", {"value": value}),
        "fetch_value": lambda: store.fetch_value("select 1 where :value = 'a'", {"value": value}),
        "execute_many": lambda: store.execute_many(_INSERT, [{"id": 1, "value": "a"}, {"id": 2, "value": value}]),
        "transaction": in_transaction,
        "session": in_session,
        "core": lambda: store.execute(sa.insert(sa.table("crate", sa.column("value"))), {"value": value}),
    }


async def test_what_no_database_has_a_word_for_is_refused_alike(store: Any, backend: Backend) -> None:
    """By each verb, in a transaction, a session and Core, and by each type of column: bind and type are named."""
    before = store.stats().statement_count
    for name, value in _UNKNOWN.items():
        said = set()
        for road, call in _roads(store, value).items():
            error = await _error(call)
            assert isinstance(error, UsageError), (name, road)
            said.add(_said(error))
        assert len(said) == 1, name
        sentence = said.pop()
        kind, title = type(value).__name__, _TITLES[backend.name]
        assert sentence.startswith(f"bind 'value': a value of type {kind} can't be passed to {title}: pass")
        for column in crate.columns.keys()[1:]:
            if column == "document" or (column == "ratio" and name == "Fraction"):
                continue  # JSON has its own words, and a fraction is a float
            row = {"id": 1, column: value}
            error = await _error(lambda row=row: store.execute(sa.insert(crate), row))  # type: ignore[misc]
            assert (type(error), _said(error)) == (UsageError, sentence.replace("'value'", f"'{column}'", 1)), column
    assert store.stats().statement_count == before
    assert await store.fetch_value("select count(*) from crate") == 0


# The column, and values that are something to a database, but not to such a column.
_MISFITS: dict[str, list[Any]] = {
    "data": [5, True, "text", 2**70, {"a": 1}, dt.date.min, uuid.UUID(int=1)],
    "at": [2**63, b"\xff", {"a": 1}, uuid.UUID(int=1), "", "no date"],
    "day": [2**63, b"\xff", {"a": 1}, uuid.UUID(int=1), "", "no date"],
    "code": [5, {"a": 1}, "", "no uuid", dt.date.min],
    "lasts": [5, "", {"a": 1}, b"\xff", uuid.UUID(int=1), dt.date.min],
}


# PostgreSQL says of some that the type is wrong, with both types.
_DOES_NOT_FIT = ("a value does not fit", "what is given to a column has the wrong type")


async def test_what_does_not_fit_its_column_is_told_alike(store: Any) -> None:
    """By a type of SQLAlchemy's, or by the server: DataError, in the same words."""
    for column, value in [(column, value) for column, values in _MISFITS.items() for value in values]:
        row, rows = {"id": 1, column: value}, [{"id": 1, column: None}, {"id": 2, column: value}]
        calls: list[Callable[[], Any]] = [
            lambda row=row: store.execute(sa.insert(crate), row),  # type: ignore[misc]
            lambda row=row: store.execute(sa.insert(crate).values(row)),  # type: ignore[misc]
            lambda rows=rows: store.execute_many(sa.insert(crate), rows),  # type: ignore[misc]
        ]
        for call in calls:
            error = await _error(call)
            assert (type(error), error.kind) == (DataError, ErrorKind.DATA), (column, value)
            assert _said(error).startswith(_DOES_NOT_FIT), (column, value)
    assert await store.fetch_value("select count(*) from crate") == 0


class _Stubborn(sa.types.TypeDecorator[int]):
    """A column's type that raises one and the same error for every value."""

    impl = sa.Integer
    cache_ok = True
    error = ValueError("no such number")

    def process_bind_param(self, value: object, dialect: object) -> int:
        raise self.error


async def test_an_error_that_a_type_raises_again_is_judged_by_the_value_of_this_call(store: Any) -> None:
    insert = sa.insert(sa.table("crate", sa.column("id"), sa.column("value", _Stubborn())))
    for value, expected in ((Thing(), UsageError), (5, DataError), (Thing(), UsageError)):
        for road in ("execute", "transaction", "session"):

            async def call(road: str = road, row: dict[str, Any] = {"id": 1, "value": value}) -> None:  # noqa: B006
                if road == "execute":
                    await store.execute(insert, row)
                    return
                async with store.transaction() if road == "transaction" else store.session() as inner:
                    await inner.execute(insert, row)

            error = await _error(call)
            assert isinstance(error, expected), (road, value)
    assert vars(_Stubborn.error) == {}


async def test_a_document_that_is_no_json_is_refused_alike(store: Any) -> None:
    """Also in SQLAlchemy's own JSON, of which SQLite kept NaN, and MariaDB said that a CHECK was violated."""
    for value in (float("nan"), {"a": float("inf")}, {"planted": {1}}, [dt.date.min], Thing()):
        error = await _error(lambda value=value: store.execute(sa.insert(crate), {"id": 1, "document": value}))  # type: ignore[misc]
        kind = type(value).__name__
        assert type(error) is UsageError
        assert _said(error).startswith(
            f"JSON: a value of type {kind} can't be stored: it holds what JSON has no word for"
        )
    await store.execute(sa.insert(crate), {"id": 1, "document": {"a": [1, None, "ä"]}})
    assert await store.fetch_value(sa.select(crate.c.document)) == {"a": [1, None, "ä"]}


async def test_bytes_are_bytes(store: Any) -> None:
    """What is taken by a binary column, and read back."""
    for number, value in enumerate((b"a\0\xff", bytearray(b"a\0\xff"), memoryview(b"a\0\xff"), b"", None), 1):
        await store.execute(sa.insert(crate), {"id": number, "data": value})
        found = await store.fetch_value(sa.select(crate.c.data).where(crate.c.id == number))
        assert found == (None if value is None else bytes(value))


async def test_a_decimal_that_would_be_a_float_is_refused_by_mariadb(store: Any, backend: Backend) -> None:
    """Beyond 65 digits its literals are floats, and a comparison would find other rows."""
    if backend.name != "mariadb":
        return
    for value in (Decimal("1e300"), Decimal("1e-70"), Decimal("1" * 66)):
        error = await _error(lambda value=value: store.fetch_value("select :value", {"value": value}))  # type: ignore[misc]
        assert "more than 65 digits" in str(error)
    most = Decimal("1" * 65)
    assert await store.fetch_value("select :value", {"value": most}) == most


# --- calls ----------------------------------------------------------------------------------------

_STATEMENT = "statement: expected SQL to send, but "
_ROWS = "rows: expected a sequence of mappings, one per row; for a single one use execute"
_TIMEOUT = "timeout: expected seconds, greater than 0 and at most 2000000"
_TAGS = "tags: a key or value has half a surrogate pair, which is no character"


def _calls(db: Any) -> Iterator[tuple[str, Callable[[], Any], str]]:
    """Yield what is called, and what is said of it."""
    for text, reason in {
        "": "it is empty",
        " \n;\t; ": "it is empty",
        "select 'a\0b'": "it has a NUL character",
        "delete from crate\0 where id = 1": "it has a NUL character",
        "select '\ud800'": "it has half a surrogate pair",
    }.items():
        for verb in ("execute", "fetch_all", "fetch_one", "fetch_value"):
            yield f"{verb}({text!a})", lambda verb=verb, text=text: getattr(db, verb)(text), _STATEMENT + reason  # type: ignore[misc]
        yield f"execute_many({text!a})", lambda text=text: db.execute_many(text, [{}]), _STATEMENT + reason  # type: ignore[misc]
    for statement in (None, 5, b"select 1", ["select 1"], Thing(), Thing, crate, crate.c.id):
        said = "statement: expected SQL text, a template string or a SQLAlchemy Core construct, not "
        yield f"execute({type(statement)})", lambda statement=statement: db.execute(statement), said  # type: ignore[misc]
    for params in ([1], (1,), "a", 5, {1}, Thing()):
        said = "params: expected a mapping of bind names to values, not "
        yield f"params {type(params)}", lambda params=params: db.execute("select :a", params), said  # type: ignore[misc]
    for rows in (None, 5, Thing(), Thing, "abc", b"abc", {"a": 1}):
        yield f"rows {type(rows)}", lambda rows=rows: db.execute_many("select :a", rows), _ROWS  # type: ignore[misc]
    for rows in ([None], [5], [[]], [("a", 1)]):
        said = "rows[0]: expected a mapping of bind names to values, not "
        yield f"rows {rows}", lambda rows=rows: db.execute_many("select :a", rows), said  # type: ignore[misc]
    for into in (5, "x", [1], Thing()):
        said = "into: expected a dataclass, a pydantic model, dict or a callable that takes a row"
        yield f"all into {type(into)}", lambda into=into: db.fetch_all("select 1", into=into), said  # type: ignore[misc]
        yield f"one into {type(into)}", lambda into=into: db.fetch_one("select 1", into=into), said  # type: ignore[misc]
        said = "into: expected a callable that takes a value, not "
        yield f"value into {type(into)}", lambda into=into: db.fetch_value("select 1", into=into), said  # type: ignore[misc]
    itself = getattr(db, "_wrapped", db)  # the sync world's facade makes a function of everything
    for function in (None, 5, "x", Thing()):
        said = "run_in_transaction: expected a function, not "
        yield f"run {type(function)}", lambda function=function: itself.run_in_transaction(function), said  # type: ignore[misc]
    yield "transactional", lambda: itself.transactional(5), "transactional: expected a function, not int"
    for seconds in ("1", 0, -1, float("nan"), float("inf"), 2_000_001, 10**400, True, Decimal(1), dt.timedelta(1)):
        yield f"using {seconds!r:.20}", lambda seconds=seconds: db.using(timeout=seconds), _TIMEOUT  # type: ignore[misc]
        yield f"override {seconds!r:.20}", lambda seconds=seconds: db.override(timeout=seconds), _TIMEOUT  # type: ignore[misc]
        yield f"transaction {seconds!r:.20}", lambda seconds=seconds: db.transaction(timeout=seconds), _TIMEOUT  # type: ignore[misc]
        yield f"attempts {seconds!r:.20}", lambda seconds=seconds: db.attempts(timeout=seconds), _TIMEOUT  # type: ignore[misc]
    for tags in ({"a": "\ud800"}, {"\ud800": "a"}):
        yield f"tags {tags!a}", lambda tags=tags: db.using(tags=tags), _TAGS  # type: ignore[misc]


async def test_a_call_that_cannot_be_meant_is_refused_before_anything_is_sent(db: Any) -> None:
    """Also inside a transaction, which goes on."""
    before = db.stats().statement_count
    for name, call, said in _calls(db):
        with pytest.raises(PrefiqDbError) as caught:
            made = call()
            if hasattr(made, "__await__"):
                await made
        assert isinstance(caught.value, UsageError), name
        assert _said(caught.value).startswith(said), name
    assert db.stats().statement_count == before
    async with db.transaction() as tx:
        for text in ("", "select 1\0"):
            with pytest.raises(UsageError, match="expected SQL to send"):
                await tx.execute(text)
        with pytest.raises(UsageError, match="takes a value"):
            await tx.fetch_value("select 1", into=5)
        with pytest.raises(UsageError, match="sequence of mappings"):
            await tx.execute_many("select 1", None)
        with pytest.raises(StatementRefusedError):
            await tx.execute("commit")
        assert await tx.fetch_value("select 1") == 1


async def test_what_can_be_meant_is_done(db: Any) -> None:
    """The controls: the longest time limit, a comment beside the statement, rows from a generator, tags of any text."""
    view = db.using(timeout=2_000_000, tags={"route": "/größe?x=1"})
    assert await view.fetch_value("select 1 -- and no more") == 1
    assert await db.execute_many("select :a", ({"a": number} for number in range(0))) == 0
    assert await db.fetch_value("select 1", into=str) == "1"


# --- replies that can't be read -------------------------------------------------------------------


def _packet(number: int, payload: bytes) -> bytes:
    return struct.pack("<I", len(payload))[:3] + bytes([number]) + payload


_CUT = _packet(1, b"\x02") + _packet(2, b"\x03def\x00\x00\x00\x05a")  # of the column's name four bytes are missing
_NO_TEXT = _packet(1, b"\x01") + _packet(2, b"\x03def\0\0\0\x02\xff\xfe\0\x0c\x2d\0\x04\0\0\0\xfd\0\0\0\0\0")


class Garbler:
    """Stands before a MariaDB: answers what has the word ``garble`` with *reply*, or greets with half a greeting."""

    def __init__(self, server_port: int, reply: bytes = b"", *, greets: bool = True) -> None:
        self._server_port, self._reply, self._greets = server_port, reply, greets
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._greets:
                    server = socket.create_connection(("127.0.0.1", self._server_port))
                    threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
                    threading.Thread(target=self._forward, args=(server, client), daemon=True).start()
                else:
                    client.sendall(b"\x02\x00\x00\x00\x0a8")
                    threading.Thread(target=self._forward, args=(client, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if b"garble" in data:
                    client.sendall(self._reply)
                else:
                    server.sendall(data)
        server.close()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        target.close()

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("reply", [_CUT, _NO_TEXT], ids=["cut", "no text"])
async def test_a_reply_that_cannot_be_read_is_a_lost_connection(world: str, reply: bytes, mariadb_server: Any) -> None:
    """Not the caller's mistake: a read is tried again, a write is unknown, and nobody gets that connection again."""
    if world == "async" and reply is _CUT:
        return  # asyncmy reads on in the memory behind it
    garbler = Garbler(mariadb_server.port, reply)
    database = mariadb_server.create_database()
    url = sa.make_url(mariadb_server.url(database)).set(host="127.0.0.1", port=garbler.port)
    retry = RetryPolicy(attempts=2, wait_initial_seconds=0.001)
    db = make_database(world, url.render_as_string(hide_password=False), ssl_mode="disable", pool_size=1, retry=retry)
    try:
        first = await db.fetch_value("select connection_id()")
        with pytest.raises(ConnectionLostError):
            await db.fetch_value("select 'garble'")
        await db.execute("create table t (a integer)")
        with pytest.raises(OutcomeUnknownError):
            await db.execute("insert into t (a) values (1) /* garble */")
        assert await db.fetch_value("select count(*) from t") == 0
        assert await db.fetch_value("select connection_id()") != first
    finally:
        await db.close()
        garbler.close()


async def test_a_greeting_that_cannot_be_read_is_no_connection(world: str, mariadb_server: Any) -> None:
    garbler = Garbler(0, greets=False)
    db = make_database(world, f"mariadb://u:p@127.0.0.1:{garbler.port}/x", retry=RetryPolicy(attempts=1))
    try:
        with pytest.raises(ConnectFailedError):
            await db.open()
    finally:
        await db.close()
        garbler.close()
