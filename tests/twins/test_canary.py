"""Nothing that leaves the process holds a planted secret or a planted value, in any of many error paths.

Everything is collected: what is raised (text, repr, arguments, notes, attributes, traceback, pickle), every log record
of every library at DEBUG with its traceback, every event, and the reprs of what a user can hold. The control shows that
the same collection finds the same canaries when masking is off.
"""

from __future__ import annotations

import logging
import pickle
import random
import string
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa

from prefiq_db import DatabaseSettings, PrefiqDbError
from prefiq_db.errors import OutcomeUnknownError
from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.imitations import imitate

VALUE = "canary" + "".join(random.Random(7).choices(string.ascii_lowercase, k=12))
SECRET = "secret" + "".join(random.Random(8).choices(string.ascii_lowercase, k=12))
NUMBER = 918273645


class Kept(pydantic.BaseModel):
    word: int


@dataclass
class Collected:
    """All that left the process, as text, each with where it was found."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, *texts: object) -> None:
        self.found.extend((where, text if isinstance(text, str) else repr(text)) for text in texts)

    def add_error(self, where: str, error: BaseException) -> None:
        self.add(where, str(error), repr(error), error.args, getattr(error, "__notes__", ()), error.__dict__)
        self.add(f"{where} traceback", "".join(traceback.format_exception(error)))
        try:
            pickled = pickle.dumps(error)
        except (TypeError, AttributeError, pickle.PicklingError) as refusal:
            self.add(f"{where} pickle", str(refusal))
        else:
            self.add(f"{where} pickle", pickled.decode("latin-1"))

    def holding(self, *canaries: object) -> list[str]:
        return [f"{where}: {text}" for where, text in self.found for canary in canaries if str(canary) in text]


class _Collector(logging.Handler):
    def __init__(self, collected: Collected) -> None:
        super().__init__(logging.NOTSET)
        self.collected = collected
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.collected.add(f"log {record.name}", self.format(record), record.__dict__)


@pytest.fixture
def collected() -> Iterator[Collected]:
    """Everything that is logged by anybody while the test runs, and what the test adds."""
    made = Collected()
    handler = _Collector(made)
    root = logging.getLogger()
    names = ("", "psycopg", "asyncmy", "aiosqlite", "sqlalchemy", "prefiq_db")
    levels = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield made
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


_METADATA = sa.MetaData()
_PARENT = sa.Table("parent", _METADATA, sa.Column("id", sa.Integer, primary_key=True))
_KEPT = sa.Table(
    "kept",
    _METADATA,
    sa.Column("word", sa.String(30), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("parent", sa.Integer, sa.ForeignKey("parent.id", name="fk_kept_parent")),
    sa.CheckConstraint("number > 0", name="ck_kept_number"),
)
_INSERT = "insert into kept (word, number, parent) values (:word, :number, :parent)"

Scenario = Callable[[Any], Awaitable[Any]]


def _statement(sql: str, **params: Any) -> Scenario:
    async def run(db: Any) -> Any:
        return await db.fetch_all(sql, params)

    return run


def _write(**params: Any) -> Scenario:
    async def run(db: Any) -> Any:
        return await db.execute(_INSERT, {"word": VALUE, "number": 1, "parent": None, **params})

    return run


async def _imitated(db: Any) -> Any:
    """A trigger's own words in the server's, with the value as the table's name."""
    return await db.execute("insert into told (sku) values (:sku)", {"sku": VALUE})


async def _in_many_rows(db: Any) -> Any:
    rows = [{"word": f"{VALUE}{number}", "number": 1 - number, "parent": None} for number in range(3)]
    return await db.execute_many(_INSERT, rows)


async def _in_a_transaction(db: Any) -> Any:
    async with db.transaction() as tx:
        await tx.execute(_INSERT, {"word": VALUE, "number": -NUMBER, "parent": None})


async def _by_a_model(db: Any) -> Any:
    return await db.fetch_all("select :word as word", {"word": VALUE}, into=Kept)


async def _by_a_core_insert(db: Any) -> Any:
    return await db.execute(_KEPT.insert().values(word=VALUE, number=sa.literal(VALUE, sa.Integer)))


async def _by_a_session(db: Any) -> Any:
    async with db.session() as session:
        await session.execute(
            sa.text(f"insert into kept (word, number) values ('{VALUE}', {NUMBER}), (:v, 1)"), {"v": VALUE}
        )


async def _timed_out(db: Any) -> Any:
    slow = {
        "sqlite": "with recursive c(x) as (select 1 union all select x + 1 from c) select count(*), :word from c",
        "postgres": "select pg_sleep(30), :word",
        "mariadb": "select sleep(30), :word from information_schema.tables a",
    }[db.settings.engine]
    return await db.using(timeout=0.05).fetch_all(slow, {"word": VALUE})


SCENARIOS: dict[str, Scenario] = {
    "unique": _write(),
    "check": _write(word=f"{VALUE}2", number=-NUMBER),
    "not null": _write(word=f"{VALUE}3", number=None),
    "foreign key": _write(word=f"{VALUE}4", parent=NUMBER),
    "too long": _write(word=VALUE * 20),
    "wrong type": _write(word=f"{VALUE}5", number=VALUE),
    "cast": _statement(f"select cast('{VALUE}' as integer) + :number", number=VALUE),
    "syntax": _statement(f"selec '{VALUE}', {NUMBER}, :word", word=VALUE),
    "no such table": _statement(f"select '{VALUE}' from nowhere where a = {NUMBER} and b = :word", word=VALUE),
    "no such function": _statement(f"select nofunction('{VALUE}', :word)", word=VALUE),
    "missing bind": _statement(f"select :word, :other, '{VALUE}'", word=VALUE),
    "imitated": _imitated,
    "comment": _statement(f"select 1 /* {VALUE} */ from nowhere -- {VALUE}"),
    "many rows": _in_many_rows,
    "transaction": _in_a_transaction,
    "model": _by_a_model,
    "core insert": _by_a_core_insert,
    "session": _by_a_session,
    "timeout": _timed_out,
}
# No error there, and why: SQLite takes any text of any length in any column, and casts it to 0.
_NO_ERROR = {"sqlite": {"too long", "wrong type", "cast"}, "postgresql": set(), "mariadb": {"cast"}}


async def _provoke_all(db: Any, backend: Backend, collected: Collected) -> dict[str, BaseException | None]:
    """Run every scenario; collect what is raised, logged and told."""
    for register in (db.hooks.before, db.hooks.after, db.hooks.on_error):
        register(lambda event: collected.add("event", event, str(event)))
    await db.execute("create table parent (id integer primary key)")
    await db.execute(
        "create table kept (word varchar(30) primary key, number integer not null, parent integer,"
        " constraint fk_kept_parent foreign key (parent) references parent (id),"
        " constraint ck_kept_number check (number > 0))"
    )
    await db.execute("create table told (sku varchar(40))")
    await imitate(db, backend, "told", 0, constant=VALUE)
    await SCENARIOS["unique"](db)
    raised: dict[str, BaseException | None] = {}
    for name, scenario in SCENARIOS.items():
        raised[name] = None
        try:
            await scenario(db)
        except Exception as error:
            raised[name] = error
            collected.add_error(name, error)
    collected.add("repr", db, db.settings, db.engine, db.engine.url, db.stats(), await db.health(), db.hooks)
    collected.add("settings", str(db.settings), db.settings.model_dump(), db.settings.model_dump_json())
    return raised


async def test_no_value_leaves_the_process(make_db: Any, backend: Backend, collected: Collected) -> None:
    """Not in errors, logs, events, reprs or pickles; and every scenario raised what it was meant to."""
    raised = await _provoke_all(make_db(statement_timeout_seconds=10), backend, collected)
    silent = {name for name, error in raised.items() if error is None}
    assert silent == _NO_ERROR[backend.name]
    assert collected.holding(VALUE, NUMBER) == []
    assert any(where == "event" for where, _ in collected.found)
    assert any("log sqlalchemy.engine" in where for where, _ in collected.found)
    for name, error in raised.items():
        if isinstance(error, PrefiqDbError):
            assert (error.__cause__, error.__context__) == (None, None), name


async def test_control_without_masking_everything_shows(make_db: Any, backend: Backend, collected: Collected) -> None:
    """The same collection finds the canaries in errors, in logs and in events when masking is off."""
    db = make_db(mask=False, environment="development", statement_timeout_seconds=10)
    await _provoke_all(db, backend, collected)
    held = collected.holding(VALUE, NUMBER)
    assert any(line.startswith("event") for line in held)
    assert any(line.startswith("log sqlalchemy.engine") for line in held)
    assert any(line.startswith("session") for line in held)


async def test_masking_stays_on_in_production(make_db: Any, backend: Backend, collected: Collected) -> None:
    """mask=False counts only where the environment says that it is not production."""
    await _provoke_all(make_db(mask=False, environment="production", statement_timeout_seconds=10), backend, collected)
    assert collected.holding(VALUE, NUMBER) == []


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
async def test_no_secret_of_a_url_leaves_the_process(backend: Backend, world: str, collected: Collected) -> None:
    """A wrong password, an unknown database, a host that refuses: the password is in none of it."""
    assert backend.server is not None
    scheme = {"postgresql": "postgresql", "mariadb": "mariadb"}[backend.name]
    place = f"{backend.server.host}:{backend.server.port}"
    urls = [
        f"{scheme}://nobody:{SECRET}@{place}/nowhere",
        f"{scheme}://nobody:{SECRET}@127.0.0.1:1/nowhere",
        f"{scheme}://nobody@{place}/nowhere?password={SECRET}",
    ]
    for url in urls:
        db = make_database(world, url, connect_timeout_seconds=2)
        with pytest.raises(PrefiqDbError) as caught:
            await db.open()
        collected.add_error(url.replace(SECRET, "?"), caught.value)
        report = await db.health()
        assert not report.healthy
        collected.add("repr", db, db.settings, db.engine, db.engine.url, db.stats(), report)
        collected.add("pickle", pickle.dumps(db.settings).decode("latin-1"), str(db.settings), db.settings.model_dump())
        with pytest.raises(PrefiqDbError):
            pickle.dumps(db if world == "async" else db._wrapped)
        await db.close()
    assert collected.holding(SECRET) == []


def test_control_a_plain_url_shows_its_query_secret() -> None:
    """What SQLAlchemy prints by itself: this is why the engine's URL carries no password and no options."""
    assert SECRET in repr(sa.make_url(f"postgresql://u@h/d?sslpassword={SECRET}"))


def test_outcome_unknown_keeps_the_drivers_error_out_of_sight() -> None:
    """An error that is made from another one takes over its code, and hides the driver's exception just as well."""
    original = RuntimeError(VALUE)
    error = OutcomeUnknownError("lost", original=original)
    assert error.original is original
    assert VALUE not in repr(error) + str(error.__dict__) + pickle.dumps(error).decode("latin-1")


def test_settings_from_a_url_hide_a_raw_at_sign_in_the_password() -> None:
    """A raw @ would end up in the host's or the database's name; the refusal quotes nothing of it."""
    with pytest.raises(PrefiqDbError) as caught:
        DatabaseSettings(url=f"postgresql://user:{SECRET}@RET/PW@h/db")
    assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(f"{{{SECRET}}}", "")
