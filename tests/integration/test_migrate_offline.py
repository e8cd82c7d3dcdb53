"""``sql``: what is written, applied by the database's own client, leaves what an online run leaves."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.dialects import offline
from prefiq_db.engines import make_engine
from prefiq_db.migrate.command_line import main
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend
from tests.integration.migrate_support import Project

SHOP = Path(__file__).parents[2] / "examples" / "shop"

#: SQLite's driver takes no percent signs for parameters, and its texts mean the same in each session.
on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")],
    indirect=True,
)

#: Texts that some step on the way from a revision to a table reads as something else.
NASTY = [
    *("50% off", "100%%", "%s %(a)s %d", "%"),
    *("it's", "''", 'say "hi"', "`x`", "\\", "back\\slash\\", "\\'", "\\n is no newline", "\\\\' or 1=1"),
    *("a\nb", "a\r\nb", "\r", "tab\there", " blanks ", "", "\x08\x1a\x7f"),
    *(":word :USER ::cast :'x'", "$1 $$ $tag$ ${x}", "{} {0} {x}", "? ?? ?1"),
    *("; drop", "a -- b", "# no comment", "/* neither */", "\n-- x\n", "line\ndelimiter //\nend//", "a;\n\\g \\q"),
    *("ünïcödé ☃ \N{SNAKE}", "NULL", "0x00", "__[SCHEMA_x]", "\\x41"),
]


@dataclass(frozen=True)
class Pair:
    """A history, and two empty databases of the same kind: one for each road."""

    project: Project
    online: Backend
    offline: Backend

    def written(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        capsys.readouterr()
        assert self.project("sql", *arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out


@pytest.fixture
def pair(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["init", "history"]) == 0
    project = Project(tmp_path, backend)
    server = backend.server
    if server is None:
        yield Pair(project, backend, replace(backend, url=f"sqlite:///{tmp_path / 'offline.db'}"))
        return
    name = server.create_database()
    yield Pair(project, backend, replace(backend, url=server.url(name)))
    server.drop_database(name)


def applied(backend: Backend, sql: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Apply a text with the client that a database's administrator would use."""
    url = sa.make_url(backend.url)
    file = folder / "offline.sql"
    file.write_text(sql, encoding="utf-8", newline="")
    if backend.name == "sqlite":
        connection = sqlite3.connect(str(url.database))
        try:
            connection.executescript(sql)
        finally:
            connection.close()
        return subprocess.CompletedProcess([], 0, "", "")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    place = ["-h", str(url.host), f"--port={url.port}"]
    if backend.name == "postgresql":
        # In a session that reads everything else than ours: the text has to say how it is meant.
        odd = "-c standard_conforming_strings=off -c timezone=Asia/Tokyo -c client_encoding=LATIN1"
        kept |= {"PGPASSWORD": str(url.password), "PGOPTIONS": odd}
        command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *place, "-U", str(url.username), "-f", str(file)]
        return subprocess.run([*command, str(url.database)], env=kept, capture_output=True, text=True, check=False)
    kept |= {"MYSQL_PWD": str(url.password)}
    odd = "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', time_zone = '+09:00'"
    command = ["mariadb", "--no-defaults", "--skip-ssl", "--default-character-set=latin1", f"--init-command={odd}"]
    with file.open("rb") as text:
        return subprocess.run(
            [*command, *place, "-u", str(url.username), str(url.database)],
            stdin=text,
            env=kept,
            capture_output=True,
            text=True,
            check=False,
        )


def apply(backend: Backend, sql: str, folder: Path) -> None:
    done = applied(backend, sql, folder)
    assert done.returncode == 0, done.stderr


# --- what a database looks like --------------------------------------------------------------------

_CATALOG = {
    "postgresql": (
        "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
        " where connamespace = 'public'::regnamespace order by 1, 2",
        "select table_name, column_name, data_type, column_default, is_nullable, collation_name, generation_expression"
        " from information_schema.columns where table_schema = 'public' order by 1, ordinal_position",
        "select tablename, indexdef from pg_indexes where schemaname = 'public' order by 1, 2",
        "select c.relname, d.objsubid, d.description from pg_description d join pg_class c on c.oid = d.objoid"
        " where c.relnamespace = 'public'::regnamespace order by 1, 2",
        "select proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace order by 1",
        "select typname, enumlabel from pg_enum e join pg_type t on t.oid = enumtypid order by 1, enumsortorder",
        "select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1",
    ),
    "mariadb": (
        "select table_name, column_name, column_type, column_default, is_nullable, collation_name, column_comment,"
        " generation_expression from information_schema.columns where table_schema = database()"
        " order by 1, ordinal_position",
        "select table_name, constraint_name, check_clause from information_schema.check_constraints"
        " where constraint_schema = database() order by 1, 2",
        "select table_name, table_comment, table_collation, engine from information_schema.tables"
        " where table_schema = database() order by 1",
        "select trigger_name, event_object_table, action_statement from information_schema.triggers"
        " where trigger_schema = database() order by 1",
        "select routine_name, routine_definition from information_schema.routines"
        " where routine_schema = database() order by 1",
    ),
    "sqlite": ("select type, name, sql from sqlite_master order by 1, 2",),
}


def picture(backend: Backend) -> dict[str, Any]:
    """Return everything that a database holds, as reflection and as its own catalog tell it, and every row."""
    engine = make_engine(DatabaseSettings(url=backend.url))
    try:
        with engine.connect() as connection:
            catalog = [[tuple(row) for row in connection.exec_driver_sql(sql)] for sql in _CATALOG[backend.name]]
            look = sa.inspect(connection)
            tables = sorted(look.get_table_names())
            quote = engine.dialect.identifier_preparer.quote
            return {
                "catalog": catalog,
                "columns": {t: [_plain(column) for column in look.get_columns(t)] for t in tables},
                "checks": {t: sorted(map(str, look.get_check_constraints(t))) for t in tables},
                "indexes": {t: sorted(map(str, look.get_indexes(t))) for t in tables},
                "keys": {t: [look.get_pk_constraint(t), look.get_foreign_keys(t)] for t in tables},
                "rows": {
                    t: sorted(map(repr, connection.exec_driver_sql(f"select * from {quote(t)}".replace("%", "%%"))))
                    for t in tables
                },
            }
    finally:
        engine.dispose()


def _plain(column: Any) -> dict[str, str]:
    return {key: repr(value) if key == "type" else str(value) for key, value in column.items()}


def differences(pair: Pair) -> list[str]:
    """Return where the two databases differ, and what they say there."""
    online, offline_ = picture(pair.online), picture(pair.offline)
    return [*(key for key in online if online[key] != offline_[key]), *_unlike(online, offline_)]


def _unlike(one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _unlike(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for pair in zip(one, other, strict=True):
            yield from _unlike(*pair)
    elif one != other:
        yield f"online: {one!r}, offline: {other!r}"


# --- the shop, and prefiq_db's own tables ------------------------------------------------------------


def test_the_shops_history(pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole example, with rows that release 1 wrote between the first revision and the backfill."""
    monkeypatch.syspath_prepend(str(SHOP.parent))
    ini = str(SHOP / "alembic.ini")

    def written(revisions: str) -> str:
        capsys.readouterr()
        assert main(["sql", "-c", ini, revisions]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    rows = (
        "insert into product (id, name, kind, price_cents, added_at) values"
        " ('0192f3a4-0000-7000-8000-000000000001', 'green 50% off', 'tea', 1999, '2024-02-29 12:00:00'),"
        " ('0192f3a4-0000-7000-8000-000000000002', 'pot', 'ware', 5, '2024-02-29 12:00:00');"
    )
    monkeypatch.setenv("DB_URL", pair.offline.url)
    apply(pair.offline, written("0001"), pair.project.folder)
    if pair.offline.name == "sqlite":
        # Its step asks the database, because SQLite can't calculate a decimal: said, and nothing is left out silently.
        assert main(["up", "-c", ini, "0001"]) == 0
        capsys.readouterr()
        assert main(["sql", "-c", ini, "0001:head"]) == 2
        assert "a revision asks the database" in capsys.readouterr().err
        return
    apply(pair.offline, rows, pair.project.folder)
    apply(pair.offline, written("0001:head"), pair.project.folder)
    monkeypatch.setenv("DB_URL", pair.online.url)
    assert main(["up", "-c", ini, "0001"]) == 0
    apply(pair.online, rows, pair.project.folder)
    assert main(["up", "-c", ini]) == 0
    assert differences(pair) == []


def test_prefiq_dbs_own_tables(pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up"]) == 0
    monkeypatch.setenv("DB_URL", pair.offline.url)
    capsys.readouterr()
    assert main(["sql"]) == 0
    apply(pair.offline, capsys.readouterr().out, pair.project.folder)
    assert differences(pair) == []


# --- literals ----------------------------------------------------------------------------------------

TABLES = f"""
NASTY = {NASTY!r}
op.create_table(
    "literal",
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("body", sa.String(200), nullable=False),
    *(sa.Column(f"d{{n}}", sa.String(30), server_default=text) for n, text in enumerate(NASTY)),
    sa.Column("n", sa.Integer(), server_default="4"),
    sa.CheckConstraint("n % 2 = 0", name="even"),
    sa.CheckConstraint("body not like '%forbidden%'", name="no_forbidden"),
    sa.CheckConstraint(sa.column("n") % sa.literal(2) == 0, name="even_core"),
    sa.CheckConstraint(sa.column("body").not_in(["never 5%", "nor it's", "nor \\\\\\\\"]), name="none_of"),
)
"""

COMMENTS = f"""
NASTY = {NASTY!r}
op.create_table(
    "remark",
    *(sa.Column(f"c{{n}}", sa.Integer(), comment=text) for n, text in enumerate(NASTY)),
    comment=" / ".join(NASTY),
)
"""

ROWS = f"""
import datetime as dt, uuid
from decimal import Decimal
from prefiq_db.types import Json, Money, StrEnum, UtcDateTime, Uuid
NASTY = {NASTY!r}
literal = sa.table("literal", sa.column("id", sa.Integer()), sa.column("body", sa.String()))
op.bulk_insert(literal, [{{"id": n, "body": text}} for n, text in enumerate(NASTY)])
for n, text in enumerate(NASTY):
    op.execute(sa.insert(literal).values(id=100 + n, body=text))
    op.execute(sa.insert(literal).values(id=200 + n, body="x"))
    op.execute(sa.update(literal).where(literal.c.id == 200 + n).values(body=text))
    op.execute(sa.text("insert into literal (id, body) values (:id, :body)").bindparams(id=300 + n, body=text))
op.execute("insert into literal (id, body) values (400, '50% off \\\\:word \\\\:USER ''s')")
op.execute("insert into literal (id, body) values (401, 'a\\tb') -- with a comment behind")
op.execute("update literal set body = 'done 100%' where id % 100 = 99;")
op.execute(sa.update(literal).where(literal.c.body.contains("50%", autoescape=True)).values(body="found"))
kinds = op.create_table(
    "kinds",
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("raw", sa.LargeBinary()),
    sa.Column("document", Json()),
    sa.Column("plain", sa.JSON()),
    sa.Column("key", Uuid()),
    sa.Column("price", Money()),
    sa.Column("number", sa.Float()),
    sa.Column("at", UtcDateTime()),
    sa.Column("day", sa.Date()),
    sa.Column("flag", sa.Boolean()),
    sa.Column("mood", StrEnum(("50% off", "it's", "plain"))),
    sa.Column("native", sa.Enum("50%", "it's", "back\\\\slash", name="native_mood")),
)
# One statement for all rows, online: each must have every column.
whole = {{
    "raw": bytes(range(256)), "document": {{"text": NASTY, "n": 1.5}}, "plain": NASTY, "number": 0.1,
    "key": uuid.UUID(int=7), "price": Decimal("0.1000"), "flag": True, "mood": "it's", "native": "back\\\\slash",
    "at": dt.datetime(2024, 2, 29, 23, 59, 59, 999999, dt.timezone(dt.timedelta(hours=14))),
    "day": dt.date(2024, 2, 29),
}}
other = {{**whole, "raw": b"\\\\x41'%", "mood": "50% off", "native": "50%", "flag": False, "number": 1e-300}}
op.bulk_insert(kinds, [{{"id": 1, **whole}}, {{"id": 2, **other}}, {{"id": 3, **{{k: None for k in whole}}}}])
"""

CODE = """
word = op.get_bind().dialect.name
if word == "postgresql":
    op.execute("create function half(n int) returns int language plpgsql as $$ begin return n % 2; end $$")
    op.execute("create index picked on literal (id) where body like '50%'")
    with op.get_context().autocommit_block():
        op.execute("create index concurrently later on literal (n)")
elif word == "mariadb":
    op.execute("create trigger tidy before insert on literal for each row"
               " begin set new.n = new.n - new.n % 2; if new.body = ';' then set new.body = '%;'; end if; end")
    op.execute("create procedure both_of() begin select 1 % 2; select '//'; end")
else:
    op.execute("create trigger tidy after insert on literal begin"
               " update literal set n = n - n % 2 where id = new.id; select '50%;'; end")
op.execute("insert into literal (id, body, n) values (500, 'by code 5%', 8)")
"""


def test_nasty_literals(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """In defaults, CHECKs, comments, bulk_insert, Core statements, text, and the bodies of triggers and functions."""
    written_of(pair)
    text = pair.written(capsys)
    assert pair.project("up") == 0
    apply(pair.offline, text, pair.project.folder)
    found = differences(pair)
    assert not found, "\n".join(found)
    bodies = pair.project.rows("select body from literal where id >= 100 and id < 100 + 99 order by id")
    assert [row[0] for row in bodies][4:] == NASTY[4:]  # of the first some are found by the last UPDATE


def written_of(pair: Pair) -> None:
    comments = "pass" if pair.online.name == "sqlite" else COMMENTS  # which SQLite doesn't have
    for number, body in enumerate((TABLES, comments, ROWS, CODE), 1):
        pair.project.revision(number, body)


@on_servers
def test_control_doubled_percent_signs_are_found(
    pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: written as it would be sent, the text is refused, or leaves something else."""

    def as_sent(self: Any, **arguments: Any) -> None:
        super(offline.Offline, self).__init__(**arguments)

    monkeypatch.setattr(offline.Offline, "__init__", as_sent)
    pair.project.revision(1, "op.create_table('item', sa.Column('t', sa.String(20), server_default='50% off'))")
    apply(pair.offline, pair.written(capsys), pair.project.folder)
    monkeypatch.undo()
    assert pair.project("up") == 0
    assert "catalog" in differences(pair)
    written_of(pair)
    monkeypatch.setattr(offline.Offline, "__init__", as_sent)
    refused = applied(pair.offline, pair.written(capsys, "0001:0003"), pair.project.folder)
    assert refused.returncode != 0


@on_servers
def test_control_what_the_session_is_told_is_needed(
    pair: Pair, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: where the session reads texts and times in its own way, the same file leaves something else."""
    for dialect in (offline.OfflinePostgresql, offline.OfflineMariadb):
        monkeypatch.setattr(dialect, "preamble", ())
    written_of(pair)
    done = applied(pair.offline, pair.written(capsys), pair.project.folder)
    assert pair.project("up") == 0
    assert done.returncode != 0 or differences(pair)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("op.execute('select \\'a\\0b\\'')", "NUL character"),
        ("op.bulk_insert(sa.table('t', sa.column('a', sa.String())), [{'a': 'a\\0b'}])", "NUL character"),
        ("op.get_bind().execute(sa.select(sa.column('a')).select_from(sa.table('t'))).all()", "asks the database"),
        ("op.get_bind().execute(sa.text('delete from t where a = :a'), {'a': 1})", "parameters of its own"),
    ],
)
def test_what_cant_be_written_is_refused(pair: Pair, capsys: pytest.CaptureFixture[str], body: str, said: str) -> None:
    pair.project.revision(1, body)
    capsys.readouterr()
    assert pair.project("sql") == 2
    assert said in capsys.readouterr().err


def test_the_alembic_command_writes_the_same(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    written_of(pair)
    ours = pair.written(capsys)
    process = pair.project.start("upgrade", "heads", "--sql", PYTHONIOENCODING="utf-8")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    # A pipe in text mode reads a carriage return as a line's end.
    assert out.splitlines() == ours.replace("\r\n", "\n").replace("\r", "\n").splitlines()


def test_down_again(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair.project.revision(1, "op.create_table('item', sa.Column('t', sa.String(9), server_default='5%'))")
    pair.project.revision(
        2,
        "op.add_column('item', sa.Column('n', sa.Integer(), server_default='2'))",
        "op.execute('delete from item where n % 2 = 0'); op.drop_column('item', 'n')",
    )
    apply(pair.offline, pair.written(capsys), pair.project.folder)
    apply(pair.offline, pair.written(capsys, "0002:0001", "--down"), pair.project.folder)
    assert pair.project("up") == 0
    assert pair.project("down", "0001") == 0
    assert differences(pair) == []
    apply(pair.offline, pair.written(capsys, "0001:base", "--down"), pair.project.folder)
    assert pair.project("down", "base") == 0
    assert differences(pair) == []
    assert "alembic_version" not in picture(pair.offline)["rows"]
