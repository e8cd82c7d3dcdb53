"""Whatever a driver raises becomes one error of ours, and nothing of a value goes with it."""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import sqlite3
import ssl
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import exc
from sqlalchemy.pool import QueuePool

from prefiq_db import errors
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.translation.classify import DIALECTS, Phase
from prefiq_db.translation.cleaning import clean
from prefiq_db.translation.messages import WORDS
from prefiq_db.translation.named_exceptions import NAMED_EXCEPTIONS
from prefiq_db.translation.translate import translate

K = ErrorKind
CANARY = "hunter2canary"


def raised(act: Callable[[], object]) -> Exception:
    """Return what *act* raises."""
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped(orig: BaseException, statement: str = f"INSERT INTO item VALUES ('{CANARY}')") -> exc.DBAPIError:
    """Return *orig* as SQLAlchemy raises it, with its statement and parameters."""
    return exc.DBAPIError(statement, {"secret": CANARY}, orig)


def pg(sqlstate: str, text: str = CANARY, **fields: str) -> Exception:
    """Return psycopg's error as the server sends it."""
    psycopg = pytest.importorskip("psycopg")
    field = psycopg.pq.DiagnosticField
    info = {
        field.SQLSTATE: sqlstate.encode(),
        field.MESSAGE_PRIMARY: text.encode(),
        field.MESSAGE_DETAIL: f"Key (email)=({CANARY}) already exists.".encode(),
        **{field[name.upper()]: value.encode() for name, value in fields.items()},
    }
    error = psycopg.errors.lookup(sqlstate)(text, info=info)
    assert isinstance(error, Exception)
    return error


def my(code: int, text: str = CANARY, cls: str = "OperationalError") -> Exception:
    """Return PyMySQL's error with that number and text."""
    error = getattr(pytest.importorskip("pymysql.err"), cls)(code, text)
    assert isinstance(error, Exception)
    return error


def assert_no_value(error: PrefiqDbError) -> None:
    """Neither text nor repr nor fields nor traceback nor pickle nor chain of *error* holds the canary."""
    try:
        raise error
    except PrefiqDbError as caught:
        shown = "".join(traceback.format_exception(caught))
    seen = [str(error), repr(error), repr(error.args), repr(vars(error)), shown, repr(pickle.dumps(error))]
    assert not [text for text in seen if CANARY in text]
    assert error.__cause__ is None
    assert error.__context__ is None


def _compiler() -> Any:
    return sa.select(1).compile()


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "make", "kind", "names"),
    [
        (
            "postgresql",
            lambda: pg("23505", constraint_name="uq_sku", table_name="item"),
            K.UNIQUE,
            ("uq_sku", "item", None),
        ),
        ("postgresql", lambda: pg("23502", table_name="item", column_name="qty"), K.NOT_NULL, (None, "item", "qty")),
        ("postgresql", lambda: pg("42P01", 'relation "item" does not exist'), K.SCHEMA, (None, "item", None)),
        # The statement doesn't say it: a function that the statement calls may.
        ("postgresql", lambda: pg("42P01", 'relation "other" does not exist'), K.SCHEMA, (None, None, None)),
        ("postgresql", lambda: pg("42P01", f'relation "{CANARY}" does not exist'), K.SCHEMA, (None, None, None)),
        # RAISE in the server's words
        (
            "postgresql",
            lambda: pg("42P01", 'relation "item" does not exist', source_function="exec_stmt_raise"),
            K.SCHEMA,
            (None, None, None),
        ),
        # RAISE ... USING CONSTRAINT = NEW.email
        (
            "postgresql",
            lambda: pg("23505", constraint_name=CANARY, source_function="exec_stmt_raise"),
            K.UNIQUE,
            (None, None, None),
        ),
        ("postgresql", lambda: pg("23505", constraint_name="a value, not a name"), K.UNIQUE, (None, None, None)),
        ("mariadb", lambda: my(1062, f"Duplicate entry '{CANARY}' for key 'uq_sku'"), K.UNIQUE, ("uq_sku", None, None)),
        ("mysql", lambda: my(1062, f"Duplicate entry '{CANARY}' for key 'item.uq'"), K.UNIQUE, ("uq", "item", None)),
        ("mariadb", lambda: my(1062, f"Doppelter Eintrag '{CANARY}' für 'uq'"), K.UNIQUE, (None, None, None)),
        ("mariadb", lambda: my(1048, "Column 'qty' cannot be null"), K.NOT_NULL, (None, None, "qty")),
        ("mariadb", lambda: my(1364, "Field 'qty' doesn't have a default value"), K.NOT_NULL, (None, None, "qty")),
        (
            "mariadb",
            lambda: my(
                1452,
                "Cannot add or update a child row: a foreign key constraint fails (`shop`.`stock`, CONSTRAINT"
                " `stock_item` FOREIGN KEY (`item_id`) REFERENCES `item` (`id`) ON DELETE CASCADE)",
            ),
            K.FOREIGN_KEY,
            ("stock_item", "stock", None),
        ),
        (
            "mariadb",
            lambda: my(
                1451,
                "Cannot delete or update a parent row: a foreign key constraint fails (`shop`.`stock`, CONSTRAINT"
                " `stock_item` FOREIGN KEY (`item_id`) REFERENCES `item` (`id`))",
            ),
            K.FOREIGN_KEY,
            ("stock_item", "stock", None),
        ),
        ("mariadb", lambda: my(4025, "CONSTRAINT `ck` failed for `shop`.`item`"), K.CHECK, ("ck", "item", None)),
        ("mariadb", lambda: my(4025, "CONSTRAINT `item.qty` failed for `a`.`item`"), K.CHECK, ("qty", "item", None)),
        ("mysql", lambda: my(3819, "Check constraint 'ck' is violated."), K.CHECK, ("ck", None, None)),
        ("mariadb", lambda: my(1406, "Data too long for column 'name' at row 1"), K.DATA, (None, None, "name")),
        (
            "mariadb",
            lambda: my(1366, f"Incorrect integer value: '{CANARY}' for column `shop`.`item`.`qty` at row 1"),
            K.DATA,
            (None, "item", "qty"),
        ),
        ("mariadb", lambda: my(1146, "Table 'shop.item' doesn't exist"), K.SCHEMA, (None, "item", None)),
        # SIGNAL in the server's words
        ("mariadb", lambda: my(1062, f"Duplicate entry 'x' for key '{CANARY}'"), K.UNIQUE, (None, None, None)),
        ("mariadb", lambda: my(1048, f"Column '{CANARY}' cannot be null"), K.NOT_NULL, (None, None, None)),
        # a forgotten quote makes a value a "column"
        ("mariadb", lambda: my(1054, f"Unknown column '{CANARY}' in 'where clause'"), K.SCHEMA, (None, None, None)),
    ],
)
def test_names_come_from_the_servers_own_fields(
    dialect: str, make: Callable[[], Exception], kind: ErrorKind, names: tuple[str | None, ...]
) -> None:
    """Constraint, table and column where the server gives them, and nothing else of its text."""
    error = translate(wrapped(make()), dialect=dialect, database="main")
    assert (error.kind, (error.constraint, error.table, error.column)) == (kind, names)
    assert type(error) is errors.error_type(kind)
    assert error.database == "main"
    assert str(error).startswith("database 'main': ")
    for name in filter(None, names):
        assert name in str(error)
    assert_no_value(error)


@pytest.mark.parametrize(
    ("sql", "kind", "code", "names"),
    [
        ("insert into item values (1, 'b', 1, null)", K.UNIQUE, 1555, (None, "item", "id")),
        ("insert into item values (2, 'a', 1, null)", K.UNIQUE, 2067, (None, "item", "sku")),
        ("insert into pair values (1, 2)", K.UNIQUE, 2067, (None, "pair", "a, b")),
        ("insert into lower values ('A')", K.UNIQUE, 2067, ("uq_lower", None, None)),
        ("insert into item values (3, null, 1, null)", K.NOT_NULL, 1299, (None, "item", "sku")),
        ("insert into item values (4, 'c', -1, null)", K.CHECK, 275, ("qty_positive", None, None)),
        ("insert into unnamed values (0)", K.CHECK, 275, (None, None, None)),
        ("insert into item values (5, 'd', 1, 99)", K.FOREIGN_KEY, 787, (None, None, None)),
        ('insert into "o\'dd, name" values (1)', K.UNIQUE, 2067, (None, None, None)),
        ("select * from nowhere", K.SCHEMA, 1, (None, "nowhere", None)),
        (f"select id from item where sku = {CANARY}", K.SCHEMA, 1, (None, None, None)),
        ("select 1 +", K.SYNTAX, 1, (None, None, None)),
        (f"select '{CANARY}", K.SYNTAX, 1, (None, None, None)),
        ("create table item (id)", K.SCHEMA, 1, (None, "item", None)),
        ("insert into item (nope) values (1)", K.SCHEMA, 1, (None, "item", "nope")),
        ("select no_function(1)", K.SCHEMA, 1, (None, None, None)),
        ("begin; begin", K.USAGE, None, (None, None, None)),
        ("rollback to nowhere", K.USAGE, 1, (None, None, None)),
        ("commit", K.USAGE, 1, (None, None, None)),
        ("insert into generated (twice) values (1)", K.USAGE, 1, (None, None, None)),
        ("insert into item_view values (1)", K.USAGE, 1, (None, None, None)),
        ("create virtual table v using no_module", K.UNSUPPORTED, 1, (None, None, None)),
        ("select abs(-9223372036854775808)", K.DATA, 1, (None, None, None)),
        (f"select json_extract('{{{CANARY}', '$')", K.DATA, 1, (None, None, None)),
        ("delete from sqlite_master", K.PERMISSION, 1, (None, None, None)),
        ("insert into refuse values (1)", K.INTEGRITY, 1811, (None, None, None)),
        ("insert into strict values ('x')", K.DATA, 3091, (None, "strict", "n")),
    ],
)
def test_sqlite_says_it_with_one_code_and_a_text(
    sql: str, kind: ErrorKind, code: int | None, names: tuple[str | None, ...]
) -> None:
    """SQLITE_ERROR is told apart by the named exceptions; the rest by its extended code."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(
        f"""
        pragma foreign_keys = on;
        create table item (id integer primary key, sku text not null unique, qty int,
            parent int references item (id), constraint qty_positive check (qty >= 0));
        create table pair (a, b, unique (a, b));
        create table lower (t); create unique index uq_lower on lower (lower(t));
        create table unnamed (n, check (n > 0 and n <> '{CANARY}'));
        create table "o'dd, name" (n unique);
        create table generated (n, twice as (n * 2));
        create view item_view as select id from item;
        create table refuse (n);
        create trigger refuse before insert on refuse begin select raise(abort, '{CANARY} constraint failed'); end;
        create table strict (n int) strict;
        insert into item values (1, 'a', 1, null);
        insert into pair values (1, 2); insert into lower values ('a'); insert into "o'dd, name" values (1);
        """
    )
    error = translate(wrapped(raised(lambda: connection.execute(sql)), sql), dialect="sqlite")
    connection.close()
    assert (error.kind, error.code, (error.constraint, error.table, error.column)) == (kind, code, names)
    assert_no_value(error)


_ANY_TEXT = st.text(max_size=60)
_TRICKS = st.sampled_from(
    [
        "' for key 'secret",
        "x' for key 'secret'",
        "' for key 'secret' for key '",
        "for key 'secret'",
        "' for column `a`.`b`.`secret` at row 1",
        "\n' for key 'secret",
        "CONSTRAINT `secret` failed for `a`.`b`",
    ]
)


@given(value=st.builds("{}{}{}".format, _ANY_TEXT, st.one_of(_TRICKS, _ANY_TEXT), _ANY_TEXT))
def test_a_value_is_never_taken_for_a_name(value: str) -> None:
    """Not even one that says "for key 'secret'": the last word is the server's."""
    duplicate = translate(my(1062, f"Duplicate entry '{value}' for key 'uq_sku'"), dialect="mariadb")
    assert (duplicate.constraint, duplicate.table) == ("uq_sku", None)
    wrong = translate(
        my(1366, f"Incorrect string value: '{value}' for column `shop`.`item`.`name` at row 7"), dialect="mariadb"
    )
    assert (wrong.table, wrong.column) == ("item", "name")
    for error in (duplicate, wrong):
        assert "secret" not in str(error)


@given(code=st.sampled_from([1062, 1048, 1364, 1451, 1452, 4025, 3819, 1366, 1406, 1146, 1064]), text=_ANY_TEXT)
def test_a_text_that_is_no_template_gives_no_name(code: int, text: str) -> None:
    """Messages in another language, of another version, or cut off."""
    error = translate(my(code, f"~{text}"), dialect="mariadb")
    assert (error.constraint, error.table, error.column) == (None, None, None)


# --- named exceptions ----------------------------------------------------------------------------


def no_code(cls: str, text: str) -> Exception:
    """Return psycopg's error without a SQLSTATE, as a failed connect has it."""
    error = getattr(pytest.importorskip("psycopg"), cls)(text)
    assert isinstance(error, Exception)
    return error


_SERVER = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    ("text", "kind", "again"),
    [
        ('password authentication failed for user "x"', K.AUTHENTICATION, False),
        ('role "x" does not exist', K.AUTHENTICATION, False),
        ('no pg_hba.conf entry for host "10.0.0.1", user "x", database "y", no encryption', K.AUTHENTICATION, False),
        ('database "y" does not exist', K.SCHEMA, False),
        ('permission denied for database "y"', K.PERMISSION, False),
        ("sorry, too many clients already", K.TOO_MANY_CONNECTIONS, True),
        ('too many connections for role "x"', K.TOO_MANY_CONNECTIONS, True),
        (
            "remaining connection slots are reserved for non-replication superuser connections",
            K.TOO_MANY_CONNECTIONS,
            True,
        ),
        ("the database system is starting up", K.NOT_READY, True),
        ("the database system is shutting down", K.NOT_READY, True),
        ("the database system is in recovery mode", K.NOT_READY, True),
        ("session is read-only", K.READ_ONLY, True),
        ("SSL error: certificate verify failed", K.CONNECT_FAILED, False),
        ("server does not support SSL, but SSL was required", K.CONNECT_FAILED, False),
        ("Connection refused", K.CONNECT_FAILED, True),
        ("Kennwort ist falsch", K.CONNECT_FAILED, True),
    ],
)
def test_a_failed_connect_to_postgresql_is_told_by_its_text(text: str, kind: ErrorKind, again: bool) -> None:
    """libpq has no SQLSTATE for it; what isn't recognised is a connect that failed."""
    error = translate(no_code("OperationalError", _SERVER + text), dialect="postgresql", phase="connect")
    assert (error.kind, error.classification.retry_statement, error.code) == (kind, again, None)
    assert not error.classification.connection_lost


@pytest.mark.parametrize(
    ("make", "dialect", "words"),
    [
        (
            lambda: my(2003, "Can't connect to MySQL server ([SSL: CERTIFICATE_VERIFY_FAILED] ...)"),
            "mariadb",
            "trusted",
        ),
        (lambda: my(2003, "Can't connect to MySQL server ([Errno 113] No route to host)"), "mariadb", "reached"),
        (lambda: my(2003, "Can't connect to MySQL server ([Errno 110] Connection timed out)"), "mariadb", "not answer"),
        (lambda: my(2003, "Can't connect to MySQL server ([Errno 13] Permission denied)"), "mariadb", "permissions"),
        (lambda: no_code("OperationalError", _SERVER + "No route to host"), "postgresql", "reached"),
        (lambda: no_code("OperationalError", _SERVER + "certificate verify failed"), "postgresql", "trusted"),
        (lambda: no_code("OperationalError", _SERVER + "server certificate for x"), "postgresql", "trusted"),
        (lambda: socket.gaierror(-2, CANARY), "mariadb", "name was not found"),
        (lambda: ConnectionRefusedError(111, CANARY), "mariadb", "refused"),
        (lambda: no_code("OperationalError", _SERVER + "Kennwort ist falsch"), "postgresql", "could be made"),
    ],
)
def test_why_no_connection_was_made_is_told_by_the_text(
    make: Callable[[], Exception], dialect: str, words: str
) -> None:
    """Of resolvers, systems and drivers; what isn't recognised has the kind's own words."""
    error = translate(make(), dialect=dialect, phase="connect")
    assert words in str(error)
    assert_no_value(error)


def test_those_texts_are_not_believed_once_connected() -> None:
    """A statement's error without SQLSTATE is a broken line, whatever was written on it."""
    error = translate(no_code("OperationalError", "the database system is starting up"), dialect="postgresql")
    assert error.kind is K.CONNECTION_LOST


@pytest.mark.parametrize(
    ("text", "by_timeout", "kind"),
    [
        ("canceling statement due to statement timeout", None, K.STATEMENT_TIMEOUT),
        ("canceling statement due to user request", None, K.CANCELLED),
        ("canceling statement due to user request", True, K.STATEMENT_TIMEOUT),
        ("canceling statement due to user request", False, K.CANCELLED),
        ("Anweisung wird abgebrochen", None, K.STATEMENT_TIMEOUT),
        ("Anweisung wird abgebrochen", False, K.CANCELLED),
    ],
)
def test_who_set_the_timer_decides_between_timeout_and_cancel(
    text: str, by_timeout: bool | None, kind: ErrorKind
) -> None:
    """PostgreSQL has one code for both."""
    error = translate(pg("57014", text), dialect="postgresql", cancelled_by_timeout=by_timeout, statement_seconds=1.5)
    assert error.kind is kind
    assert ("1.5 s" in str(error)) is (kind is K.STATEMENT_TIMEOUT)


def test_a_cancel_of_ours_is_a_timeout_on_the_others_too() -> None:
    """KILL QUERY, sqlite3's interrupt, and a socket that the watchdog shut."""
    assert translate(my(1317), dialect="mariadb").kind is K.CANCELLED
    assert translate(my(1317), dialect="mariadb", cancelled_by_timeout=True).kind is K.STATEMENT_TIMEOUT
    shut = translate(my(2013), dialect="mariadb", cancelled_by_timeout=True)
    assert (shut.kind, shut.classification.connection_lost) == (K.STATEMENT_TIMEOUT, True)
    assert not shut.classification.retry_transaction
    at_commit = translate(my(2013), dialect="mariadb", cancelled_by_timeout=True, phase="commit")
    assert at_commit.kind is K.OUTCOME_UNKNOWN


def test_a_stale_plan_may_be_sent_again() -> None:
    """ "cached plan must not change result type" hides behind the code of unsupported features."""
    stale = translate(pg("0A000", "cached plan must not change result type"), dialect="postgresql")
    assert (stale.kind, stale.classification.retry_statement) == (K.SCHEMA, True)
    assert translate(pg("0A000", "no such thing"), dialect="postgresql").kind is K.UNSUPPORTED


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("--read-only", K.READ_ONLY),
        ("--super-read-only", K.READ_ONLY),
        ("--read-only=1 or --read-only=true", K.READ_ONLY),
        ("--secure-file-priv", K.UNSUPPORTED),
        ("--skip-grant-tables", K.UNSUPPORTED),
    ],
)
def test_1290_names_the_option_in_the_way(option: str, kind: ErrorKind) -> None:
    """Another node takes the write only if this one is read-only."""
    text = f"The MariaDB server is running with the {option} option so it cannot execute this statement"
    assert translate(my(1290, text), dialect="mariadb").kind is kind


def test_the_connection_says_whether_it_is_lost() -> None:
    """psycopg raises OperationalError for what it refuses before sending, too; SQLAlchemy has asked the connection."""
    refused = no_code("OperationalError", "sending query failed: another command is already in progress")
    assert translate(refused, dialect="postgresql").kind is K.CONNECTION_LOST  # nobody was asked
    for lost, kind in ((True, K.CONNECTION_LOST), (False, K.USAGE)):
        asked = wrapped(refused)
        asked.connection_invalidated = lost
        failure = translate(asked, dialect="postgresql")
        assert (failure.kind, failure.classification.connection_lost) == (kind, lost)
    closed = wrapped(no_code("InterfaceError", "the connection is closed"))
    closed.connection_invalidated = True
    assert translate(closed, dialect="postgresql").kind is K.CONNECTION_LOST


def test_what_a_closed_connection_refused_was_not_sent() -> None:
    """The driver looks before it sends, so even a write, or a COMMIT, may be sent again elsewhere."""
    phase: Phase
    for phase in ("statement", "commit"):
        for words in ("", "Not connected", "Cancelled during execution"):
            found = translate(my(0, words, "InterfaceError"), dialect="mariadb", phase=phase).classification
            assert (found.kind, found.retry_statement, found.retry_transaction) == (K.CONNECTION_LOST, True, True)
    out_of_step = translate(my("Packet sequence number wrong - got 6 expected 1"), dialect="mariadb").classification
    assert (out_of_step.kind, out_of_step.retry_statement) == (K.CONNECTION_LOST, False)


@pytest.mark.parametrize(
    ("make", "dialect", "statement", "sub_kind", "fact"),
    [
        (
            lambda: my(1091, "Can't DROP 'ix'; check that column/key exists"),
            "mysql",
            "drop index ix on t",
            "missing",
            "name ix",
        ),
        (
            lambda: my(1826, "Duplicate foreign key constraint name 'fk_t'"),
            "mysql",
            "alter table t add constraint fk_t foreign key (a) references u (id)",
            "duplicate",
            "constraint fk_t",
        ),
        (
            lambda: my(1005, 'Can\'t create table `shop`.`t` (errno: 121 "Duplicate key on write or update")'),
            "mariadb",
            "create table t (a int)",
            "duplicate",
            "table t",
        ),
        (
            lambda: my(1553, "Cannot drop index 'ix': needed in a foreign key constraint"),
            "mariadb",
            "alter table t drop index ix",
            "dependent",
            "index ix",
        ),
        (
            lambda: pg("42725", "function f(unknown) is not unique"),
            "postgresql",
            "select f('x') from t",
            "ambiguous",
            "function f",
        ),
        (lambda: pg("42P01", "Relation »item« existiert nicht"), "postgresql", "select 1 from item", "missing", "code"),
    ],
)
def test_a_mistake_is_told_by_its_code_and_named_by_its_text(
    make: Callable[[], Exception], dialect: str, statement: str, sub_kind: str, fact: str
) -> None:
    """In another language it has its words without the name."""
    error = translate(wrapped(make(), statement), dialect=dialect)
    assert (error.kind, error.sub_kind) == (K.SCHEMA, sub_kind)
    assert f"({fact}" in str(error)
    assert_no_value(error)


def test_every_named_exception_is_for_a_dialect_we_know() -> None:
    """A misspelt dialect would never match."""
    assert {dialect for named in NAMED_EXCEPTIONS for dialect in named.dialects} <= set(DIALECTS)


# --- errors without a code, and errors that aren't the driver's ------------------------------------


@pytest.mark.parametrize(
    ("make", "dialect", "phase", "kind"),
    [
        (lambda: my(0, "", "InterfaceError"), "mariadb", "statement", K.CONNECTION_LOST),
        (lambda: my(0, "", "InterfaceError"), "mariadb", "commit", K.CONNECTION_LOST),
        (lambda: no_code("OperationalError", "consuming input failed"), "postgresql", "commit", K.OUTCOME_UNKNOWN),
        (lambda: no_code("ProgrammingError", "cannot adapt type"), "postgresql", "statement", K.USAGE),
        (lambda: no_code("DataError", "NUL (0x00) bytes"), "postgresql", "statement", K.DATA),
        (lambda: sqlite3.ProgrammingError("Cannot operate on a closed database."), "sqlite", "statement", None),
        (lambda: sqlite3.OperationalError("no active connection"), "sqlite", "statement", K.CONNECTION_LOST),
        (lambda: ConnectionResetError(104, CANARY), "mariadb", "statement", K.CONNECTION_LOST),
        (lambda: ConnectionRefusedError(111, CANARY), "postgresql", "connect", K.CONNECT_FAILED),
        (lambda: OSError(CANARY), "mariadb", "commit", K.OUTCOME_UNKNOWN),
        (lambda: EOFError(CANARY), "mariadb", "statement", K.CONNECTION_LOST),
        (lambda: asyncio.IncompleteReadError(CANARY.encode(), 9), "mariadb", "statement", K.CONNECTION_LOST),
        (TimeoutError, "postgresql", "statement", K.STATEMENT_TIMEOUT),
        (TimeoutError, "postgresql", "connect", K.CONNECT_FAILED),
        (TimeoutError, "postgresql", "commit", K.OUTCOME_UNKNOWN),
        (lambda: TimeoutError(110, "Connection timed out"), "postgresql", "statement", K.CONNECTION_LOST),
        (lambda: ssl.SSLError(CANARY), "mariadb", "connect", K.CONNECT_FAILED),
        (lambda: OverflowError(f"Python int too large {CANARY}"), "sqlite", "statement", K.DATA),
        (lambda: UnicodeEncodeError("utf-8", CANARY, 0, 1, "surrogates"), "mariadb", "statement", K.DATA),
        (lambda: ValueError(CANARY), "mariadb", "statement", K.DATA),
        (lambda: TypeError(CANARY), "mariadb", "statement", K.USAGE),
        (lambda: NotImplementedError(CANARY), "mariadb", "statement", K.UNSUPPORTED),
        (MemoryError, "sqlite", "statement", K.RESOURCE),
    ],
)
def test_place_and_type_tell_what_has_no_code(
    make: Callable[[], Exception], dialect: str, phase: Phase, kind: ErrorKind | None
) -> None:
    """Both bare and inside SQLAlchemy's wrapper."""
    for error in (make(), wrapped(make())):
        translated = translate(error, dialect=dialect, phase=phase)
        assert translated.kind is (kind or K.CONNECTION_LOST)
        assert_no_value(translated)


def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    """Nothing changes until somebody changes the certificates."""
    error = translate(ssl.SSLCertVerificationError("no"), dialect="mariadb", phase="connect")
    assert (error.kind, error.is_transient) == (K.CONNECT_FAILED, False)


@pytest.mark.parametrize(
    ("error", "cls", "word"),
    [
        (RuntimeError("PyNaCl is required"), errors.MissingDriverError, "pynacl"),
        (RuntimeError("'cryptography' package is required"), errors.MissingDriverError, "prefiq-db[mariadb]"),
        (RuntimeError("Event loop is closed"), errors.EventLoopError, "loop"),
        (RuntimeError(f"got Future {CANARY} attached to a different loop"), errors.EventLoopError, "loop"),
        (ModuleNotFoundError("No module named 'pymysql'"), errors.MissingDriverError, "prefiq-db[mariadb]"),
        (exc.ArgumentError(CANARY), errors.UsageError, "ArgumentError"),
        (exc.NoSuchModuleError(CANARY), errors.UsageError, "NoSuchModuleError"),
        (exc.ResourceClosedError(CANARY), errors.UsageError, "ResourceClosedError"),
        (exc.UnsupportedCompilationError(_compiler(), sa.ClauseElement), errors.UnsupportedError, "CompilationError"),
        (exc.StatementError(CANARY, CANARY, {"x": CANARY}, None), errors.UsageError, "StatementError"),
    ],
)
def test_what_never_reached_the_server_is_said_without_its_text(
    error: Exception, cls: type[PrefiqDbError], word: str
) -> None:
    """SQLAlchemy's texts quote statements; its own page about the error does not."""
    translated = translate(error, dialect="mariadb", database="main")
    assert type(translated) is cls
    assert word in str(translated)
    assert_no_value(translated)


def test_a_bind_processor_that_fails_is_a_value_that_does_not_fit() -> None:
    """SQLAlchemy wraps its ValueError, and the wrapper holds the parameters."""
    table = sa.table("t", sa.column("d", sa.Date))
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        error = raised(lambda: connection.execute(sa.insert(table), {"d": CANARY}))
    engine.dispose()
    assert isinstance(error, exc.StatementError)
    translated = translate(error, dialect="sqlite")
    assert translated.kind in {K.DATA, K.USAGE}
    assert not isinstance(translated.original, exc.StatementError)
    assert_no_value(translated)


class Stubborn(sa.types.TypeDecorator[int]):
    """A column's type that raises one and the same error for every value."""

    impl = sa.Integer
    cache_ok = True
    error = ValueError("no such number")

    def process_bind_param(self, value: object, dialect: object) -> int:
        raise self.error


def test_a_value_that_no_database_stores_is_refused_each_time_anew() -> None:
    """On a foreign engine, too; and the error, which belongs to the application, keeps nothing of the refusal."""
    table = sa.table("t", sa.column("a", Stubborn()))
    engine = sa.create_engine("sqlite://")

    def read(value: object) -> PrefiqDbError:
        with engine.connect() as connection:
            return errors.as_prefiq_error(raised(lambda: connection.execute(sa.insert(table), {"a": value})))

    for value, kind in ((object(), K.USAGE), (5, K.DATA), (object(), K.USAGE), (5, K.DATA)):
        translated = read(value)
        assert translated.kind is kind
        assert ("bind 'a': a value of type object can't be passed" in str(translated)) is (kind is K.USAGE)
    assert vars(Stubborn.error) == {}


def test_the_pool_is_named_with_its_numbers() -> None:
    """And is not retried by itself: whoever waited would only wait again."""
    engine = sa.create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        error = translate(raised(engine.connect), dialect="sqlite", database="main")
    engine.dispose()
    assert type(error) is errors.PoolTimeoutError
    assert "no connection within 0.01 s: all 1 of the pool are in use" in str(error)
    assert error.is_transient
    assert not error.classification.retry_statement
    assert not error.classification.retry_transaction


def test_sqlalchemy_s_verdict_about_the_connection_is_kept() -> None:
    """When it threw the connection away, nobody can go on with it."""
    broken = wrapped(my(1105))
    broken.connection_invalidated = True
    assert translate(broken, dialect="mariadb").classification.connection_lost
    nameless = wrapped(my(9999))
    nameless.connection_invalidated = True
    assert translate(nameless, dialect="mariadb").kind is K.CONNECTION_LOST


# --- the border ----------------------------------------------------------------------------------


def test_our_own_errors_pass() -> None:
    """Also from inside a wrapper of SQLAlchemy's, where a bind processor of ours raised it."""
    ours = errors.UsageError("no")
    assert translate(ours, dialect="sqlite") is ours
    assert translate(exc.StatementError("x", "y", {}, ours), dialect="sqlite") is ours


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_what_is_no_error_is_refused(error: BaseException) -> None:
    """A cancellation that became an error of ours would never arrive."""
    with pytest.raises(TypeError, match=type(error).__name__):
        translate(error, dialect="sqlite")


def test_the_original_has_no_frames_and_no_chain() -> None:
    """Frames hold parameters, rows and connections for as long as somebody keeps the error."""

    class Parameters:
        """Stands for what a frame holds."""

    held: list[weakref.ref[Parameters]] = []

    def fail() -> None:
        parameters = Parameters()
        held.append(weakref.ref(parameters))
        try:
            raise OSError(CANARY)
        except OSError as error:
            raise sqlite3.OperationalError(CANARY) from error

    error = raised(fail)
    first = error.__cause__
    translated = translate(wrapped(error), dialect="sqlite")
    assert translated.original is error
    gc.collect()
    assert held[0]() is None
    for link in (error, first):
        assert link is not None
        assert (link.__traceback__, link.__cause__, link.__context__) == (None, None, None)


def test_the_original_does_not_keep_the_password() -> None:
    """psycopg's error of a failed connect keeps a finished connection, which knows the password."""
    psycopg = pytest.importorskip("psycopg")
    error = raised(lambda: psycopg.connect(host="127.0.0.1", port=1, user="u", dbname="d", password=CANARY))
    assert error.pgconn.password == CANARY.encode()  # type: ignore[attr-defined]
    translated = translate(error, dialect="postgresql", phase="connect")
    assert translated.kind is K.CONNECT_FAILED
    assert translated.original is error
    assert error.pgconn is None  # type: ignore[attr-defined]


def test_the_original_of_pymysql_keeps_no_traceback_as_text() -> None:
    """It formats one by itself."""
    pymysql = pytest.importorskip("pymysql")
    error: Any = raised(lambda: pymysql.connect(host="127.0.0.1", port=1, user="u", password=CANARY))
    assert error.traceback
    clean(error)
    assert error.traceback is None
    assert error.original_exception.__traceback__ is None


def test_a_chain_that_bites_its_tail_is_cleaned_once() -> None:
    """Somebody wrote ``a.__context__ = b`` by hand, in both directions, and in a group."""
    first: Exception = ValueError()
    second: Exception = TypeError()
    first.__cause__, second.__cause__ = second, first
    group = ExceptionGroup("both", [first, second])
    assert clean(group) is group
    assert [link.__cause__ for link in (first, second)] == [None, None]


def test_raised_as_the_module_says_it_stands_alone() -> None:
    """Outside the except block there is no context to print."""
    failure: PrefiqDbError | None = None
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"select '{CANARY}")
    except Exception as error:
        failure = translate(error, dialect="sqlite")
    connection.close()
    assert failure is not None
    with pytest.raises(PrefiqDbError) as caught:
        raise failure
    assert caught.value.__context__ is None
    assert_no_value(caught.value)


def test_every_kind_has_its_words() -> None:
    """What happened, and what to try."""
    assert set(WORDS) == set(ErrorKind) - {ErrorKind.NOT_FOUND}  # never a server's
    assert all(what and advice for what, advice in WORDS.values())


def test_who_lost_a_reply_is_told_how_to_never_lose_one() -> None:
    """The advice for an unknown outcome names what would have found it out."""
    advice = WORDS[ErrorKind.OUTCOME_UNKNOWN][1]
    assert "look whether it happened" in advice
    assert "exactly_once=True" in advice
