"""The direct road and the standard road are one to a caller: random statements give the same on both.

Each script runs twice on an emptied database, once on either road: rows and their types, row counts, errors, events and
statistics have to be the same. The controls plant a difference, which is found.

``PREFIQ_ROAD_SCRIPTS`` is the number of random scripts on each database, in each world.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prefiq_db import Database, PrefiqDbError, RetryPolicy
from prefiq_db.call import Told
from prefiq_db.core import statements
from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.dialects.session import SESSION_KEY, SessionState
from prefiq_db.dialects.sqlite import PrefiqSqlite
from prefiq_db.dialects.travelling import TravellingDialect
from prefiq_db.events import Listener
from prefiq_db.execution import awaited_one_shot, one_shot, pinned_shot, prepared
from prefiq_db.execution.direct import DirectRoad, DirectShot, DirectStatement
from prefiq_db.execution.inside import Inside
from prefiq_db.execution.one_shot import UNUSUAL, ShortRoad
from prefiq_db.execution.pinned_shot import BrokenStatement
from prefiq_db.execution.prepared import Prepared, RowFormat
from prefiq_db.insight.statement_observer import StatementObserver
from prefiq_db.pool.vetting import _VettingPool
from prefiq_db.tags import NO_TAGS
from prefiq_db.transaction import root
from tests import through
from tests.conftest import Backend
from tests.twins.short_way import noted_short_way


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Marked(sa.types.TypeDecorator[str]):
    """Converts in both directions, and refuses some values."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value == "refused":
            raise ValueError("a refused value")
        return value.removeprefix("<").removesuffix(">") if value is not None else None

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return f"<{value}>" if value is not None else None


meta = sa.MetaData()
thing = sa.Table(
    "thing",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("label", sa.String(20), nullable=False, unique=True),
    sa.Column("qty", sa.Integer, key="amount"),
    sa.Column("price", sa.Numeric(10, 2)),
    sa.Column("ratio", sa.Float),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("moment", sa.DateTime),
    sa.Column("data", sa.LargeBinary),
    sa.Column("document", sa.JSON),
    sa.Column("colour", sa.Enum(Colour, native_enum=False, length=10)),
)

#: rows with a key that the server makes, with two, and with a value that SQLAlchemy makes
entry = sa.Table(
    "entry",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("note", sa.String(20), key="remark"),
    sa.Column("qty", sa.Integer, server_default="7"),
    sa.Column("mark", Marked()),
)
pair = sa.Table(
    "pair",
    meta,
    sa.Column("a", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("b", sa.String(8), primary_key=True),
    sa.Column("n", sa.Integer),
)
stamped = sa.Table(
    "stamped",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("made", sa.String(20), default=lambda: "in Python", onupdate="again"),
    sa.Column("n", sa.Integer),
)


@dataclass
class Label:
    id: int
    label: str


class Model(pydantic.BaseModel):
    id: int
    label: str


def _raising(row: Any) -> Any:
    raise ValueError("the caller's own")


INTO: dict[str, Any] = {
    "nothing": None,
    "dataclass": Label,
    "model": Model,
    "dict": dict,
    "tuple": tuple,
    "raising": _raising,
    "no callable": 5,
}

LABELLED = sa.select(thing.c.id, thing.c.label).order_by(thing.c.id)
BY_ID = sa.select(thing).where(thing.c.id == sa.bindparam("id"))
MORE = sa.select((thing.c.amount + 1).label("more"), thing.c.amount, sa.literal("x").label("label")).order_by("more")
UNION = sa.union_all(sa.select(thing.c.id), sa.select(thing.c.amount).where(thing.c.amount > 3)).order_by("id")
TEXT = sa.text("select id, price from thing where id >= :least order by id").bindparams(least=2)
TYPED = sa.text("select id, price from thing order by id").columns(sa.column("id", sa.Integer), price=sa.Numeric(10, 2))
NAMED = sa.select(thing.c.id.label("one"), thing.c.id.label("two")).where(thing.c.id == 3)
MISSING = sa.select(sa.column("nothing")).select_from(thing)
LISTED = sa.select(thing.c.id).where(thing.c.id.in_([1, 3])).order_by(thing.c.id)
OWN_VALUES = sa.select(thing.c.label).where(thing.c.id == sa.bindparam("id", 4))
MADE = sa.select(thing.c.label).where(thing.c.id == sa.bindparam("id", callable_=lambda: 4))
BOUND_TYPE = sa.select(thing.c.id).where(thing.c.day >= sa.bindparam("day")).order_by(thing.c.id)
TWO, THREE = (sa.select(thing.c.id, thing.c.label).where(thing.c.id == number) for number in (2, 3))
TIMED = sa.select(thing.c.id).where(thing.c.moment >= dt.datetime(2024, 1, 1, 2), thing.c.day < sa.bindparam("before"))
TWICE = sa.select(thing.c.id).where(sa.or_(thing.c.day == sa.bindparam("d"), thing.c.day > sa.bindparam("d")))
COLOURED = sa.select(thing.c.id, thing.c.colour).where(thing.c.colour == sa.bindparam("colour")).order_by(thing.c.id)
MARKED = (
    sa.select(sa.type_coerce(thing.c.label, Marked()).label("marked"))
    .where(sa.type_coerce(thing.c.label, Marked()) == sa.bindparam("mark", type_=Marked()))
    .limit(2)
)
PRICED = sa.select(thing.c.id, thing.c.price).where(thing.c.price >= sa.bindparam("price")).order_by(thing.c.id)
KEPT_TEXT = sa.text("select label from thing where id = :id")
IN_TEXT = sa.text("select id from thing where id in :ids order by id")
NEXT_KEY = sa.select(sa.func.coalesce(sa.func.max(pair.c.n), 0) + 60).scalar_subquery()
WITH_OPTION = LABELLED.execution_options(of_mine=1)

#: what is sent, by name; a function makes it anew each time
STATEMENTS: dict[str, Any] = {
    "all": "select * from thing order by id",
    "by id": "select * from thing where id = :id",
    "two": "select id, label from thing order by id",
    "same name": "select id, id from thing order by id",
    "dotted": {"sqlite": 'select 1 as "a.b"', "postgresql": 'select 1 as "a.b"', "mariadb": "select 1 as `a.b`"},
    "value": {"sqlite": "select :a as a", "postgresql": "select :a as a", "mariadb": "select :a as a"},
    "none": "select id from thing where 1 = 0",
    "list": "select id from thing where id in :ids order by id",
    "percent": "select label from thing where label like '%b%' order by id",
    "insert": "insert into thing (id, label, qty) values (:id, :label, :qty)",
    "update": "update thing set qty = qty + :qty where id <= :id",
    "delete": "delete from thing where id = :id",
    "returning": "insert into thing (id, label) values (:id, :label) returning id, label",
    "null": "insert into thing (id, label) values (:id, null)",
    "syntax": "selec 1",
    "no column": "select nothing from thing",
    "no table": "select 1 from nothing",
    "control": "begin",
    "several": "select 1; select 2",
    "empty": " ",
    "locking": "select id from thing for update",
    "alter": "alter table thing add column extra integer",
    "all again": "select * from thing order by id",
    "drop": "alter table thing drop column extra",
    "cast": {
        "sqlite": "select prefiq_exact('x', 2)",
        "postgresql": "select label::integer from thing",
        "mariadb": "insert into thing (id, label, qty) values (9, 'nine', 'x')",
    },
    "show": {"sqlite": "pragma user_version", "postgresql": "show timezone", "mariadb": "show variables like 'port'"},
    "labelled": LABELLED,
    "by bind": BY_ID,
    "more": MORE,
    "union": UNION,
    "own text": TEXT,
    "typed": TYPED,
    "named": NAMED,
    "missing": MISSING,
    "listed": LISTED,
    "own values": OWN_VALUES,
    "made value": MADE,
    "bound type": BOUND_TYPE,
    "two literal": TWO,
    "three literal": THREE,
    "timed": TIMED,
    "twice": TWICE,
    "coloured": COLOURED,
    "marked": MARKED,
    "priced": PRICED,
    "kept text": KEPT_TEXT,
    "list in text": IN_TEXT,
    "moment": "select id from thing where moment = :moment or price > :price",
    "option": WITH_OPTION,
    "built": lambda: sa.select(thing.c.label, thing.c.price).where(thing.c.id == 2),
    "built text": lambda: sa.text("select label from thing where id = :id"),
    "core insert": sa.insert(thing),
    "core update": sa.update(thing).where(thing.c.id == 2).values(amount=thing.c.amount + 1),
    "core delete": sa.delete(thing).where(thing.c.id == sa.bindparam("gone")),
    "core returning": sa.update(thing).where(thing.c.id < 3).values(amount=1).returning(thing.c.id),
    "for update": sa.select(thing.c.id).with_for_update(),
    "keyed": sa.insert(entry),
    "keyed built": lambda: sa.insert(entry).values(remark="built", qty=3),
    "keyed built again": lambda: sa.insert(entry).values(remark="other", qty=4),
    "key given": lambda: sa.insert(entry).values(id=70, remark="given"),
    "key NULL": lambda: sa.insert(entry).values(id=None, remark="none"),
    "key selected": sa.insert(entry).values(id=NEXT_KEY, remark="selected"),
    "key computed": sa.insert(entry).values(id=sa.bindparam("plus", type_=sa.Integer) + 100, remark="computed"),
    "key converted": sa.insert(entry).values(mark="<marked>"),
    "keys": sa.insert(pair),
    "key missing": lambda: sa.insert(pair).values(n=1),
    "keyed returning": sa.insert(entry).returning(entry.c.id, entry.c.mark, entry.c.qty),
    "keyed inline": sa.insert(entry).inline(),
    "keyed many": sa.insert(entry).values([{"remark": "one"}, {"remark": "two"}]),
    "keyed select": sa.insert(entry).from_select(["remark"], sa.select(thing.c.label).where(thing.c.id == 1)),
    "keyed default": lambda: sa.insert(entry),
    "stamped": sa.insert(stamped),
    "stamped update": sa.update(stamped).where(stamped.c.id == 1).values(n=5),
    "named update": sa.update(thing).where(thing.c.id == sa.bindparam("which")),
    "converted update": lambda: sa.update(thing).where(thing.c.id == 2).values(
        day=dt.date(2025, 1, 1), price=Decimal("7.25"), document={"to": [1, None]}, colour=Colour.BLUE, data=b"\x01"
    ),
    "marked update": sa.update(entry).values(mark=sa.bindparam("mark")),
    "listed update": sa.update(thing).where(thing.c.id.in_([1, 2])).values(amount=8),
    "returned update": sa.update(thing).values(amount=9).return_defaults(),
    "joined update": sa.update(thing).where(thing.c.id == pair.c.a).values(amount=pair.c.n),
    "built delete": lambda: sa.delete(thing).where(thing.c.id == 3),
    "deleted": sa.delete(thing).where(thing.c.id > 2).returning(thing.c.id),
    "nothing deleted": sa.delete(entry).where(sa.false()).returning(entry.c.id),
}  # fmt: skip

PARAMS: list[Mapping[str, Any] | None] = [
    None,
    {},
    {"id": 1},
    {"id": 2},
    {"id": "x"},
    {"id": 99},
    {"id": 7, "label": "seven", "qty": 1},
    {"id": 7, "label": "b", "qty": None},
    {"id": 8, "label": "eight"},
    {"id": 2, "qty": 5},
    {"a": 1},
    {"a": "text"},
    {"a": None},
    {"a": Decimal("1.5")},
    {"a": dt.date(2024, 2, 29)},
    {"a": b"\x00\xff"},
    {"a": True},
    {"a": 1.25},
    {"a": object()},
    {"a": {1}},
    {"ids": [1, 2]},
    {"ids": []},
    {"ids": 4},
    {"least": 3},
    {"day": dt.date(2024, 1, 2)},
    {"day": "no day"},
    {"gone": 3},
    {"unknown": 1},
    {"before": dt.date(2024, 1, 4)},
    {"before": 5},
    {"d": dt.date(2024, 1, 2)},
    {"d": dt.datetime(2024, 1, 2)},
    {"colour": Colour.RED},
    {"colour": "green"},
    {"mark": "<b>"},
    {"mark": "refused"},
    {"mark": 7},
    {"price": Decimal("0.50")},
    {"price": 0.5},
    {"price": float("nan")},
    {"price": [1]},
    {"moment": dt.datetime(2024, 1, 1, 2), "price": 0.25},
    {"moment": dt.datetime(2024, 1, 1, 2, tzinfo=dt.UTC), "price": Decimal("0.25")},
    {"moment": (1, 2), "price": None},
    {"remark": "kept"},
    {"remark": None},
    {"id": 50, "remark": "kept"},
    {"id": None, "remark": "kept"},
    {"plus": 3},
    {"a": 1, "b": "x", "n": 2},
    {"a": 2, "b": "x"},
    {"n": 3},
    {"made": "given", "n": 3},
    {"which": 1, "amount": 5},
    {"which": 2, "label": "bee"},
    {"which": 2, "price": Decimal("1.50"), "day": dt.date(2024, 5, 5)},
]
#: which of them fit which statement, so that most calls succeed
FITTING: dict[str, list[Mapping[str, Any]]] = {
    name: [each for each in PARAMS if each is not None and set(each) == names]
    for name, names in {
        "by id": {"id"}, "value": {"a"}, "list": {"ids"}, "insert": {"id", "label", "qty"}, "update": {"id", "qty"},
        "delete": {"id"}, "returning": {"id", "label"}, "null": {"id"}, "by bind": {"id"}, "own text": {"least"},
        "own values": {"id"}, "bound type": {"day"}, "built text": {"id"}, "core insert": {"id", "label"},
        "core delete": {"gone"}, "timed": {"before"}, "twice": {"d"}, "coloured": {"colour"}, "marked": {"mark"},
        "priced": {"price"}, "list in text": {"ids"}, "kept text": {"id"}, "moment": {"moment", "price"},
        "keyed": {"remark"}, "key computed": {"plus"}, "keys": {"a", "b", "n"}, "keyed returning": {"remark"},
        "keyed inline": {"remark"}, "stamped": {"n"}, "marked update": {"mark"},
    }.items()
}  # fmt: skip
FITTING["keyed"] += [{"id": 50, "remark": "kept"}, {"id": None, "remark": "kept"}]
FITTING["named update"] = [each for each in PARAMS if each and "which" in each]
WRITES_OF_CORE = frozenset(itertools.dropwhile(lambda name: name != "keyed", STATEMENTS))
VERBS_OF_WRITES = ("execute", "fetch_all", "fetch_one")
VERBS = ("fetch_all", "fetch_one", "fetch_exactly_one", "fetch_value", "execute")
OVERRIDES: list[dict[str, Any]] = [{}, {}, {"timeout": 20}, {"tags": {"route": "r"}}, {"idempotent": True}]
TYPES: list[Any] = [None, None, None, {"id": sa.Integer}, {"price": sa.Numeric(10, 2)}, {"nothing": sa.Integer}]


@dataclass(frozen=True)
class Step:
    """One call of a verb, made *times* in a row."""

    verb: str
    name: str
    params: Mapping[str, Any] | None
    into: str
    types: Any
    overrides: Mapping[str, Any]
    times: int


@st.composite
def steps(draw: st.DrawFn) -> Step:
    name = draw(st.sampled_from(sorted(STATEMENTS)))
    fits = FITTING.get(name, [{}])
    params = draw(st.sampled_from([*fits * 3, *PARAMS]))
    verb = draw(st.sampled_from(VERBS))
    plain = verb == "execute"
    return Step(
        verb,
        name,
        params,
        "nothing" if plain else draw(st.sampled_from(["nothing", "nothing", "nothing", *INTO])),
        None if plain or not isinstance(STATEMENTS[name], str) else draw(st.sampled_from(TYPES)),
        draw(st.sampled_from(OVERRIDES)),
        draw(st.integers(1, 3)),
    )


OUTSIDE, IN_SAVEPOINTS, IN_TRANSACTIONS = "outside", "in savepoints", "in transactions"
INSIDE = ("inside", IN_SAVEPOINTS)

scripts = st.lists(steps(), min_size=1, max_size=8)
SCRIPTS = int(os.environ.get("PREFIQ_ROAD_SCRIPTS") or 12)
_PHASES = (Phase.generate, Phase.shrink)  # explaining traces each line, which takes minutes


# --- what a caller sees --------------------------------------------------------------------------


class _Events(Listener):
    """All events of statements and calls, and what the pool lost, without clocks and counters."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _note(self, event: Any) -> None:
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        for name in ("duration_seconds", "wait_seconds", "use_seconds", "call_id", "transaction_id"):
            if fields.get(name) is not None:
                fields[name] = type(fields[name]).__name__
        self.seen.append((type(event).__name__, str(fields)))

    statement_started = statement_finished = statement_failed = _note
    call_started = call_finished = attempt_failed = _note
    connection_opened = connection_lost = connection_checked_out = connection_checked_in = _note


class _StatementEvents(_Events):
    """The events of statements alone: nobody hears of calls and checkouts, so the short way goes on."""

    call_started, call_finished = Listener.call_started, Listener.call_finished
    connection_checked_out, connection_checked_in = Listener.connection_checked_out, Listener.connection_checked_in


def _seen(value: Any) -> Any:
    """Return all that a caller can see of *value*."""
    if isinstance(value, sa.Row):
        mapping: Any = value._mapping
        columns = [str(mapping.get(column)) for column in (*thing.c, *MORE.selected_columns, *TYPED.selected_columns)
                   if column in mapping]  # fmt: skip
        return (
            type(value).__name__,
            [(type(each).__name__, repr(each)) for each in value],
            value._fields,
            list(map(str, mapping.keys())),
            columns,
        )
    if isinstance(value, list | tuple):
        return type(value).__name__, [_seen(each) for each in value]
    if dataclasses.is_dataclass(value):
        return type(value).__name__, [_seen(getattr(value, each.name)) for each in dataclasses.fields(value)]
    return type(value).__name__, repr(value)


def _seen_of_error(error: BaseException) -> Any:
    known = ("kind", "code", "is_transient", "constraint", "table", "column", "classification", "database")
    original = getattr(error, "original", None)
    return (
        type(error).__name__,
        str(error),
        [repr(getattr(error, name, None)) for name in known],
        type(original).__name__,
        str(original),
        (error.__cause__, error.__context__),
    )


def _seen_of_stats(db: Any) -> Any:
    stats = db.stats()
    pool, statistics = stats.pool, _road(db).dialect.observer.statistics  # which has all, not those that took longest
    return (
        (pool.checked_out, pool.idle, pool.opened_count, pool.lost, pool.wait.count, pool.use.count),
        (stats.statement_count, stats.error_count, stats.retry_count, stats.errors, stats.retries),
        sorted((each.fingerprint, each.summary, each.statement, each.calls, each.errors, each.rows, each.retries,
                each.origin) for each in statistics.top(1000)),
    )  # fmt: skip


def _seen_of_idle(db: Any) -> Any:
    """Return what the idle connection still knows of its last user, which the next one must not inherit."""
    pool: Any = _road(db).engine.pool
    record = pool._idle()
    pool._pool.put(record, False)
    state = record.info[SESSION_KEY]
    parts = (state.checkout, state.transaction, state.statement)
    return [(name, str(getattr(part, name))) for part in parts for name in part.__slots__]


# --- the comparison ------------------------------------------------------------------------------


def _road(db: Any) -> DirectRoad:
    road = getattr(db, "_wrapped", db)._core.road
    assert isinstance(road, DirectRoad)
    return road


def _statement(name: str, backend: Backend) -> Any:
    found = STATEMENTS[name]
    if isinstance(found, dict):
        return found[backend.name]
    return found() if callable(found) and not isinstance(found, sa.Executable) else found


async def _play(db: Any, backend: Backend, script: list[Step], *, listens: Hearer, where: str) -> list[Any]:
    for table in meta.sorted_tables:
        await db.execute(sa.schema.DropTable(table, if_exists=True))
        await db.execute(sa.schema.CreateTable(table))
    rows = [
        {"id": n, "label": "abcd"[n], "amount": n * 2, "price": Decimal(n) / 4, "ratio": n / 8, "flag": n % 2 == 0,
         "day": dt.date(2024, 1, n + 1), "moment": dt.datetime(2024, 1, 1, n), "data": bytes([n]),
         "document": {"n": n}, "colour": Colour.RED}
        for n in range(4)
    ]  # fmt: skip
    await db.execute_many(sa.insert(thing), rows)
    events = (listens or _Events)()
    if listens is not None:
        db.hooks.add(events)
    seen: list[Any] = []
    try:
        if where == IN_TRANSACTIONS:
            seen += await _play_each(db, backend, script)
        elif where == OUTSIDE:
            seen += [await _made(db, backend, step) for step in script for _ in range(step.times)]
        else:
            seen += await _play_inside(db, backend, script, saves=where == IN_SAVEPOINTS)
    finally:
        db.hooks.remove(events)
    for table, order in (("thing", "id"), ("entry", "id"), ("pair", "a, b"), ("stamped", "id")):
        seen.append(_seen(await db.fetch_all(f"select * from {table} order by {order}")))
    seen.append(_seen_of_idle(db))
    return [*seen, events.seen, _seen_of_stats(db)]


async def _play_inside(db: Any, backend: Backend, script: list[Step], *, saves: bool) -> list[Any]:
    """Play *script* in one transaction; with *saves*, each step in a savepoint of its own."""
    seen: list[Any] = []
    try:
        async with db.transaction() as tx:
            for step in script:
                for _ in range(step.times):
                    seen.append(await (_in_savepoint if saves else _made)(tx, backend, step))
    except PrefiqDbError as error:
        seen.append(_seen_of_error(error))
    return seen


async def _play_each(db: Any, backend: Backend, script: list[Step]) -> list[Any]:
    """Play each step of *script* in a transaction of its own, which commits, and in one that rolls back.

    The first has its ``tx``, and the second is ambient.
    """
    seen: list[Any] = []
    for step in script:
        for is_kept in (True, False):
            try:
                async with db.transaction() as tx:
                    seen += [await _made(tx if is_kept else db, backend, step) for _ in range(step.times)]
                    if not is_kept:
                        raise _LeftError
            except _LeftError:
                seen.append("rolled back")
            except PrefiqDbError as error:
                seen.append(_seen_of_error(error))
            seen += [tx.outcome, _seen_of_idle(db)]
    return seen


async def _in_savepoint(tx: Any, backend: Backend, step: Step) -> Any:
    try:
        async with tx.transaction() as inner:
            seen = await _made(inner, backend, step)
            if isinstance(seen, tuple) and seen[0].endswith("Error"):
                raise _LeftError
    except _LeftError:
        return seen, "and rolled back"
    except PrefiqDbError as error:
        return _seen_of_error(error)
    return seen


class _LeftError(Exception):
    pass


async def _made(db: Any, backend: Backend, step: Step) -> Any:
    more = {} if step.verb == "execute" else {"into": INTO[step.into], "types": step.types}
    if step.into == "nothing":
        more.pop("into", None)
    try:
        used = db.using(**step.overrides) if step.overrides and hasattr(db, "using") else db
        return _seen(await getattr(used, step.verb)(_statement(step.name, backend), step.params, **more))
    except Exception as error:
        return _seen_of_error(error)


@contextmanager
def _counted() -> Iterator[list[str]]:
    """Count what the direct road carries, by the kind of statement."""
    shots: list[str] = []
    bound = Prepared.bound

    def counted(self: Prepared, params: Any) -> Any:
        shots.append(type(self.compiled().statement).__name__)
        return bound(self, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prepared, "bound", counted)
        yield shots


@contextmanager
def _counted_inside() -> Iterator[Counter[str]]:
    """Count what the short way of a transaction does: by its function, and statements that it broke off."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        does = getattr(root, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            done = does(*arguments, **options)
            if type(done) is BrokenStatement:
                counts["broken"] += 1
            counts[name] += done is not UNUSUAL and done is not False
            return done

        # Its frame counts as one of the package: it isn't the line of a statement.
        counted.__code__ = counted.__code__.replace(co_filename=root.__file__)
        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in ("shoot_pinned", "begin_usually", "commit_usually", "return_usually"):
            patch.setattr(root, name, counting(name))
        yield counts


Hearer = type[_Events] | None
Make = Callable[..., Any]
Run = Callable[[Any], Any]


def compare(make_db: Make, run: Run, backend: Backend, **options: Any) -> list[str]:
    """Play random scripts on both roads; return what the direct road carried."""

    @settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=_PHASES, **options)
    @given(scripts, st.sampled_from([None, _StatementEvents, _Events]), st.sampled_from([OUTSIDE, *INSIDE]))
    def check(script: list[Step], listens: Hearer, where: str) -> None:
        play_twice(make_db, run, backend, script, listens=listens, where=where)

    with _counted() as shots:
        check()
    return shots


def play_twice(
    make_db: Make, run: Run, backend: Backend, script: list[Step], *, listens: Hearer, where: str = "outside"
) -> None:
    """Play *script* on either road, and compare all that was seen."""
    ours, theirs = make_db(pool_size=1), make_db(pool_size=1)
    _road(theirs).steps_aside = True
    try:
        of_direct = run(_play(ours, backend, script, listens=listens, where=where))
        of_standard = run(_play(theirs, backend, script, listens=listens, where=where))
    finally:
        for db in (ours, theirs):
            run(db.close())
    assert len(of_direct) == len(of_standard), "the roads differ: one of them came further"
    differences = [(mine, yours) for mine, yours in zip(of_direct, of_standard, strict=True) if mine != yours]
    assert not differences, f"the roads differ: {differences[0]}"


@pytest.mark.timeout(max(400, 10 * SCRIPTS))
def test_both_roads_are_one_to_the_caller(make_db: Make, run: Run, backend: Backend) -> None:
    compare(make_db, run, backend, max_examples=SCRIPTS)


def everything(verb: str) -> list[Step]:
    """Return a script of every statement, each twice with each of some parameters.

    Of the verbs that read, two are enough for writes of Core; the others read a reply in the same way.
    """
    return [
        Step(verb, name, params, "nothing", None, {}, 2)
        for name in STATEMENTS
        if name not in WRITES_OF_CORE or verb in VERBS_OF_WRITES
        for params in FITTING.get(name, [{}])[:4]
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_statement_is_the_same_on_both_roads(make_db: Make, run: Run, backend: Backend, verb: str) -> None:
    with _counted() as shots:
        play_twice(make_db, run, backend, everything(verb), listens=_Events)
    # Behind a pooler a single write is a transaction whose COMMIT travels, which the standard road sends.
    writes = set() if through.IS_ON else {"Insert", "Update", "Delete"}
    assert {"TextClause", "Select", "CompoundSelect", *writes} <= set(shots), "hardly anything took the direct road"


@pytest.mark.parametrize("listens", [None, _StatementEvents])
@pytest.mark.parametrize("verb", VERBS)
def test_every_statement_is_the_same_on_the_short_way(
    make_db: Make, run: Run, backend: Backend, verb: str, listens: Hearer
) -> None:
    """Where nobody hears of calls, and in the async world of statements either; a text from its third use on."""
    script = [dataclasses.replace(step, times=4) for step in everything(verb)]
    with noted_short_way() as taken:
        play_twice(make_db, run, backend, script, listens=listens)
    if listens is not None and not hasattr(make_db(), "_wrapped"):
        assert len(taken) <= 1, "only the last one has no listener"
        return
    kinds = [kind for kind, _ in taken]
    assert kinds.count("str") > 20
    assert kinds.count("Select") > 40
    assert {"CompoundSelect", "TextualSelect", "TextClause"} <= set(kinds)
    if verb in VERBS_OF_WRITES:
        assert kinds.count("Insert") > 30
        assert kinds.count("Update") > 8
        assert "Delete" in kinds


#: overrides that change nothing about how a statement is sent
TOLD_ALONG: list[dict[str, Any]] = [
    {"tags": {"route": "r", "secret_key": "s"}},
    {"idempotent": True, "retry": RetryPolicy(attempts=2)},
]


@pytest.mark.parametrize("listens", [None, _StatementEvents])
@pytest.mark.parametrize("overrides", TOLD_ALONG)
def test_every_statement_is_the_same_with_overrides_on_the_short_way(
    make_db: Make, run: Run, backend: Backend, overrides: dict[str, Any], listens: Hearer
) -> None:
    script = [dataclasses.replace(step, times=3, overrides=overrides) for step in everything("fetch_one")]
    with noted_short_way() as taken:
        play_twice(make_db, run, backend, script, listens=listens)
    assert len(taken) > 40 or (listens is not None and not hasattr(make_db(), "_wrapped"))


@pytest.mark.parametrize("where", INSIDE)
def test_every_statement_is_the_same_in_a_transaction(make_db: Make, run: Run, backend: Backend, where: str) -> None:
    script = [step for verb in ("fetch_one", "execute") for step in everything(verb)]
    with _counted() as shots:
        play_twice(make_db, run, backend, script, listens=_Events, where=where)
    assert {"TextClause"} <= set(shots), "hardly anything took the direct road"


@pytest.mark.parametrize("listens", [None, _StatementEvents])
@pytest.mark.parametrize("verb", VERBS)
def test_every_statement_is_the_same_on_the_short_way_inside(
    make_db: Make, run: Run, backend: Backend, verb: str, listens: Hearer
) -> None:
    """A transaction takes it from BEGIN to COMMIT, with each text from its second use on; the async world has none."""
    script = [dataclasses.replace(step, times=3) for step in everything(verb)]
    with _counted_inside() as counts:
        play_twice(make_db, run, backend, script, listens=listens, where=IN_TRANSACTIONS)
    if hasattr(make_db(), "_wrapped"):
        assert counts["shoot_pinned"] > 80
        assert counts["broken"] > 5
        assert min(counts["begin_usually"], counts["commit_usually"], counts["return_usually"]) > 20
    else:
        assert not any(counts.values())


@pytest.mark.sync
def test_every_way_into_a_transaction_is_short(backend: Backend) -> None:
    one = "select 1"
    with Database(backend.url, pool_size=1) as db:
        for _ in range(2):  # what is known of the text comes with its first uses
            db.fetch_value(one)
        with _counted_inside() as counts:
            with db.transaction() as tx:
                tx.fetch_value(one)
            with db.transaction():
                db.fetch_value(one)
            db.run_in_transaction(lambda tx: tx.fetch_value(one))
            db.transactional(lambda tx: tx.fetch_value(one))()
            for attempt in db.attempts():
                with attempt as tx:
                    tx.fetch_value(one)
    assert counts == dict.fromkeys(("shoot_pinned", "begin_usually", "commit_usually", "return_usually"), 5)


# --- controls --------------------------------------------------------------------------------------


def _plant(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "values are not converted":
        monkeypatch.setattr(RowFormat, "__init__", _raw(RowFormat.__init__))
    elif name == "columns are those of the first time":
        monkeypatch.setattr(Prepared, "format_of", _stale(Prepared.format_of))
    elif name == "a row count is missing":
        monkeypatch.setattr(DirectShot, "rowcount", property(lambda self: -1, lambda self, value: None))
    elif name == "an error is raised unhandled":
        monkeypatch.setattr(DirectShot, "_handle_dbapi_exception", _reraise)
    elif name == "a connection remembers its last user":
        monkeypatch.setattr(_VettingPool, "give_back", _remembering(_VettingPool.give_back))
        monkeypatch.setattr(ShortRoad, "shoot", _leaving_a_mark(ShortRoad.shoot))
        monkeypatch.setattr(statements, "shoot_awaited", _leaving_a_mark_awaited(statements.shoot_awaited))
    elif name == "an event is missing":
        monkeypatch.setattr(StatementDialect, "_send", _silent(StatementDialect._send))
        monkeypatch.setattr(StatementObserver, "observe", _unheard)
    elif name == "a construct sends the values of another":
        monkeypatch.setattr(Prepared, "for_another", lambda known, statement, extracted: known)
    elif name == "values are sent as they are given":
        monkeypatch.setattr(Prepared, "bound", _unconverted)
    elif name == "columns are swapped":
        monkeypatch.setattr(DirectStatement, "_read", _swapped(DirectStatement._read))
        for short_way in (one_shot, awaited_one_shot):
            monkeypatch.setattr(short_way, "Row", lambda *known: sa.Row(*known[:3], known[3][::-1]))


def _raw(make: Callable[..., None]) -> Callable[..., None]:
    def make_raw(self: RowFormat, *arguments: Any) -> None:
        make(self, *arguments)
        self.processors = None

    return make_raw


def _stale(found: Callable[..., RowFormat]) -> Callable[..., RowFormat]:
    def format_of(self: Prepared, *arguments: Any) -> RowFormat:
        return found(self, *arguments) if self.format is None else self.format

    return format_of


def _unconverted(known: Prepared, params: Any) -> Any:
    values = known.named(params)
    return values if known.order is None else tuple(values[name] for name in known.order)


def _remembering(give_back: Callable[..., None]) -> Callable[..., None]:
    def give_back_as_it_is(self: Any, record: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SessionState, "forget", lambda self: None)
            give_back(self, record)

    return give_back_as_it_is


def _leaving_a_mark_awaited(shoot: Callable[..., Any]) -> Callable[..., Any]:
    async def shoot_and_mark(road: Any, *arguments: Any) -> Any:
        fetched = await shoot(road, *arguments)
        for record in road.engine.pool.idle.queue:
            record.info[SESSION_KEY].checkout.one_shot = True
        return fetched

    return shoot_and_mark


def _leaving_a_mark(shoot: Callable[..., Any]) -> Callable[..., Any]:
    def shoot_and_mark(self: Any, *arguments: Any) -> Any:
        fetched = shoot(self, *arguments)
        for record in self.engine.pool.idle.queue:
            record.info[SESSION_KEY].checkout.one_shot = True
        return fetched

    return shoot_and_mark


_observe = StatementObserver.observe


def _unheard(self: StatementObserver, send: Callable[..., None], *sent: Any) -> None:
    if isinstance(sent[3], DirectStatement):
        send(*sent[:4])
    else:
        _observe(self, send, *sent)


def _silent(send: Callable[..., None]) -> Callable[..., None]:
    def send_silently(self: Any, *arguments: Any) -> None:
        observer, is_direct = self.observer, isinstance(arguments[4], DirectStatement)
        try:
            if is_direct:
                self.observer = None
            send(self, *arguments)
        finally:
            self.observer = observer

    return send_silently


def _swapped(read: Callable[..., Any]) -> Callable[..., Any]:
    def read_swapped(self: Any, *arguments: Any, **options: Any) -> Any:
        rows = read(self, *arguments, **options)
        if isinstance(rows, list):
            return [row[::-1] for row in rows]
        return None if rows is None else rows[::-1]

    return read_swapped


def _reraise(self: DirectStatement, error: BaseException, *about: Any) -> None:
    raise error


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "planted",
    ["values are not converted", "columns are those of the first time", "a row count is missing",
     "an error is raised unhandled", "a connection remembers its last user", "an event is missing",
     "columns are swapped", "a construct sends the values of another", "values are sent as they are given"],
)  # fmt: skip
def test_a_planted_difference_is_found(
    make_db: Make, run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    _plant(monkeypatch, planted)
    with pytest.raises(AssertionError, match="the roads differ"):
        for verb in VERBS:
            play_twice(
                make_db,
                run,
                backend,
                everything(verb),
                listens=_StatementEvents if planted == "an event is missing" else None,
            )


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True
)  # a task's statement that is listened to takes another way
def test_control_forgotten_tags_are_found(
    make_db: Make, run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "told_of", lambda parts: Told(*parts[:2], NO_TAGS))
    script = [dataclasses.replace(step, times=3, overrides=TOLD_ALONG[0]) for step in everything("fetch_one")]
    with pytest.raises(AssertionError, match="the roads differ"):
        play_twice(make_db, run, backend, script, listens=_StatementEvents)


# --- controls of the short way inside ----------------------------------------------------------------


def _lost(in_company: Callable[..., Any]) -> Callable[..., Any]:
    def in_no_company(self: Any, send: Any, state: SessionState, proxied: Any, context: Any) -> Any:
        if type(context) is not pinned_shot._Context:
            return in_company(self, send, state, proxied, context)
        state.transaction.owes_begin = False
        return send

    return in_no_company


def _plant_inside(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "the BEGIN that is owed is lost":
        monkeypatch.setattr(TravellingDialect, "in_company", _lost(TravellingDialect.in_company))
    elif name == "BEGIN is lost":
        monkeypatch.setattr(PrefiqSqlite, "begin_usually", lambda self, state, raw: state.transaction.start())
    elif name == "the guard isn't asked":
        monkeypatch.setattr(prepared, "known_inside", Inside)
    elif name == "an error isn't judged":
        monkeypatch.setattr(BrokenStatement, "_judged", lambda self, failure: failure)
    elif name == "COMMIT is lost":
        monkeypatch.setattr(root, "commit_usually", lambda road, pinned: None)
    elif name == "a connection remembers its transaction":
        monkeypatch.setattr(SessionState, "forget_transaction", lambda self: None)


@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
@pytest.mark.parametrize(
    ("backend", "planted"),
    [
        *(("sqlite", name) for name in ("BEGIN is lost", "the guard isn't asked", "an error isn't judged",
                                        "COMMIT is lost", "a connection remembers its transaction")),
        *(pytest.param(kind, name, marks=getattr(pytest.mark, kind))
          for kind in ("postgresql", "mariadb")
          for name in ("the BEGIN that is owed is lost", "an error isn't judged", "COMMIT is lost")),
    ],
    indirect=["backend"],
)  # fmt: skip
def test_a_difference_planted_inside_is_found(
    make_db: Make, run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    _plant_inside(monkeypatch, planted)
    script = [dataclasses.replace(step, times=3) for step in everything("execute")]
    with pytest.raises(AssertionError, match="the roads differ"):
        play_twice(make_db, run, backend, script, listens=None, where=IN_TRANSACTIONS)
