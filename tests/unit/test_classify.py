"""Every code that a user of these servers meets has a kind, and every kind is treated in one way."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.errors import ErrorClass, ErrorKind, UsageError, error_type
from prefiq_db.translation import codes_mariadb, codes_mongodb, codes_postgresql, codes_sqlite
from prefiq_db.translation.classify import DIALECTS, PHASES, Phase, classify_error, leaves_unknown, treatment

K = ErrorKind


# --- nothing is forgotten ------------------------------------------------------------------------


def test_every_sqlstate_of_postgresql_has_a_kind() -> None:
    """psycopg knows all of appendix A; none of it is UNKNOWN."""
    errors = pytest.importorskip("psycopg.errors")
    codes = {cls.sqlstate for cls in vars(errors).values() if isinstance(getattr(cls, "sqlstate", None), str)}
    assert len(codes) > 240
    assert {code for code in codes if classify_error("postgresql", code).kind is K.UNKNOWN} == set()


def test_every_class_of_postgresql_has_a_kind() -> None:
    """A code of a newer server falls back to its class."""
    errors = pytest.importorskip("psycopg.errors")
    classes = {cls.sqlstate[:2] for cls in vars(errors).values() if isinstance(getattr(cls, "sqlstate", None), str)}
    assert classes <= set(codes_postgresql.CLASSES)
    for prefix in classes:
        assert classify_error("postgresql", f"{prefix}ZZ9").kind is codes_postgresql.CLASSES[prefix]


# Numbers that no statement fails with, and why.
_NOT_ERRORS: dict[str, frozenset[int]] = {
    "words and counts inside other messages": frozenset({1002, 1003, 1087, 1088, 1092, 1134, 1466, 1468}),
    "names of files and options, and marks of where the list begins": frozenset({1000, 1001, 2010, 2011, 2021}),
    "lines of the server's log": frozenset({1408}),
    "warnings; the statement was done": frozenset(
        {1196, 1237, 1249, 1266, 1274, 1278, 1279, 1282, 1285, 1287, 1354, 1355, 1438}
    ),
    "not used any more (PyMySQL keeps their old names)": frozenset({1076, 1101, 1185}),
    "probes of a replication API that is gone": frozenset({2023, 2024, 2025}),
}


@pytest.mark.parametrize("dialect", ["mariadb", "mysql"])
def test_every_number_that_pymysql_knows_has_a_kind(dialect: str) -> None:
    """Server and client numbers alike; those that are no errors are listed with the reason."""
    constants = pytest.importorskip("pymysql.constants")
    excused = frozenset().union(*_NOT_ERRORS.values())
    numbers = {
        number
        for module in (constants.ER, constants.CR)
        for number in vars(module).values()
        if isinstance(number, int) and number >= 1000
    }
    assert len(numbers) > 500
    unknown = {number for number in numbers if classify_error(dialect, number).kind is K.UNKNOWN}
    assert unknown == excused & numbers


def test_every_result_code_of_sqlite_has_a_kind() -> None:
    """All names that Python's sqlite3 knows, primary and extended, with SQLite's own numbers."""
    named = {
        name: value
        for name, value in vars(sqlite3).items()
        if name.startswith("SQLITE_") and any(name == p or name.startswith(f"{p}_") for p in codes_sqlite.PRIMARY_NAMES)
    }
    assert len(named) > 80
    assert {name: codes_sqlite.NAMES.get(name) for name in named} == named
    assert {name for name in codes_sqlite.NAMES if classify_error("sqlite", name).kind is K.UNKNOWN} == set()


@pytest.mark.parametrize(
    "table",
    [
        codes_postgresql.KINDS,
        codes_mariadb.KINDS_MARIADB,
        codes_mariadb.KINDS_MYSQL,
        codes_sqlite.KINDS,
        codes_mongodb.KINDS,
    ],
)
def test_no_table_names_a_kind_that_only_we_can_know(table: dict[Any, ErrorKind]) -> None:
    """Servers know nothing of our pool."""
    assert not {K.POOL_TIMEOUT, K.UNKNOWN} & set(table.values())


@pytest.mark.parametrize(
    "lists",
    [
        (codes_mariadb._SHARED, codes_mariadb._MARIADB),
        (codes_mariadb._SHARED, codes_mariadb._MYSQL),
        (codes_mongodb._KINDS,),
    ],
)
def test_no_number_is_listed_twice(lists: tuple[dict[ErrorKind, tuple[int, ...]], ...]) -> None:
    """The later entry would win without a word."""
    codes = [code for table in lists for row in table.values() for code in row]
    assert sorted(codes) == sorted(set(codes))


def test_no_sqlstate_and_no_sqlite_name_is_listed_twice() -> None:
    """The later entry would win without a word."""
    for table in (codes_postgresql._KINDS, codes_postgresql._CLASSES, codes_sqlite._KINDS):
        codes = [code for row in table.values() for code in row.split()]
        assert sorted(codes) == sorted(set(codes))


# --- the same mistake has the same class ---------------------------------------------------------

SAME: list[tuple[ErrorKind, dict[str, list[str | int]]]] = [
    (K.UNIQUE, {"postgresql": ["23505"], "mariadb": [1062, 1586], "mysql": [1062], "sqlite": [2067, 1555, 2579]}),
    (
        K.FOREIGN_KEY,
        {"postgresql": ["23503", "23001"], "mariadb": [1451, 1452, 1216, 1217], "sqlite": [787]},
    ),
    (K.NOT_NULL, {"postgresql": ["23502"], "mariadb": [1048, 1364, 1263], "sqlite": [1299]}),
    (K.CHECK, {"postgresql": ["23514", "44000"], "mariadb": [4025, 1369], "mysql": [3819, 4025], "sqlite": [275]}),
    (K.EXCLUSION, {"postgresql": ["23P01"]}),
    (K.INTEGRITY, {"postgresql": ["23000", "P0001"], "mariadb": [1644], "sqlite": [19, 1811]}),
    (K.SERIALIZATION, {"postgresql": ["40001"], "mariadb": [1020], "sqlite": [517, "SQLITE_BUSY_SNAPSHOT"]}),
    (K.DEADLOCK, {"postgresql": ["40P01"], "mariadb": [1213, "1213"]}),
    (K.LOCK_TIMEOUT, {"postgresql": ["55P03"], "mariadb": [1205], "mysql": [3572], "sqlite": [5, 6, 261, 773, "5"]}),
    (K.STATEMENT_TIMEOUT, {"postgresql": ["57014"], "mariadb": [1969], "mysql": [3024], "sqlite": [9]}),
    (K.TRANSACTION_TIMEOUT, {"postgresql": ["25P03", "25P04"]}),
    (K.CONNECT_FAILED, {"postgresql": ["08001"], "mariadb": [2002, 2003, 2005, 2026], "sqlite": [14]}),
    (K.CONNECTION_LOST, {"postgresql": ["08006", "57P05"], "mariadb": [2006, 2013, 2055, 1927], "mysql": [4031]}),
    (K.TOO_MANY_CONNECTIONS, {"postgresql": ["53300"], "mariadb": [1040, 1203, 1226]}),
    (K.READ_ONLY, {"postgresql": ["25006"], "mariadb": [1290, 1792, 1836], "sqlite": [8], "mongodb": [10107, 13435]}),
    (K.NOT_READY, {"postgresql": ["57P03"], "mariadb": [1047, 1180], "mongodb": [11602]}),
    (K.SERVER_SHUTDOWN, {"postgresql": ["57P01", "57P02"], "mariadb": [1053, 1077, 1079], "mongodb": [91, 11600]}),
    (K.AUTHENTICATION, {"postgresql": ["28P01", "28000"], "mariadb": [1045, 1698], "mongodb": [18, 8000]}),
    (K.PERMISSION, {"postgresql": ["42501"], "mariadb": [1044, 1142, 1143, 1227], "sqlite": [3, 23], "mongodb": [13]}),
    (K.SYNTAX, {"postgresql": ["42601"], "mariadb": [1064, 1149], "sqlite": [1], "mongodb": [9]}),
    (
        K.SCHEMA,
        {
            "postgresql": ["42P01", "42703", "42P07", "3D000", "42883"],
            "mariadb": [1146, 1051, 1050, 1054, 1060, 1061, 1091, 1049, 1007, 1008, 1305, 4031],
            "sqlite": [17],
            "mongodb": [26, 48],
        },
    ),
    (
        K.DATA,
        {
            "postgresql": ["22001", "22003", "22012", "22P02"],
            "mariadb": [1264, 1265, 1366, 1406, 1292, 1411, 1690, 1365],
            "sqlite": [18, 20, 3091],
            "mongodb": [2],
        },
    ),
    (K.RESOURCE, {"postgresql": ["53100", "53200", "54000"], "mariadb": [1021, 1037, 1038, 1041, 1114, 1206]}),
    (K.RESOURCE, {"sqlite": [13, 7]}),
    (K.CANCELLED, {"mariadb": [1317], "sqlite": [4]}),
    (K.UNSUPPORTED, {"postgresql": ["0A000"], "mariadb": [1235, 1148], "mongodb": [59]}),
    (K.USAGE, {"postgresql": ["25P02", "25001", "3B001"], "mariadb": [1568], "sqlite": [21, 25]}),
    (K.OUTCOME_UNKNOWN, {"postgresql": ["40003", "08007"]}),
    (K.INTERNAL, {"postgresql": ["XX000"], "mariadb": [1030], "sqlite": [10, 11, 26, 266]}),
    (K.UNKNOWN, {"postgresql": ["ZZ000", "", "nonsense"], "mariadb": [9999, "x"], "sqlite": [255, "SQLITE_X"]}),
]


@pytest.mark.parametrize(
    ("kind", "dialect", "code"),
    [(kind, dialect, code) for kind, codes in SAME for dialect, row in codes.items() for code in row],
)
def test_the_same_mistake_has_the_same_kind(kind: ErrorKind, dialect: str, code: str | int) -> None:
    """Whatever the server calls it."""
    assert classify_error(dialect, code).kind is kind


def test_the_table_above_knows_every_kind_but_our_own() -> None:
    """So that a new kind is thought of here."""
    assert {kind for kind, _ in SAME} == set(ErrorKind) - {K.POOL_TIMEOUT, K.NOT_FOUND}


def test_4031_is_two_things() -> None:
    """MySQL hung up on an idle client; MariaDB misses a trigger."""
    assert classify_error("mysql", 4031).connection_lost
    assert classify_error("mariadb", 4031) == ErrorClass(K.SCHEMA)


# --- how kinds are treated -----------------------------------------------------------------------


def flags(found: ErrorClass) -> str:
    names = ("transient", "connection_lost", "retry_statement", "retry_transaction")
    return " ".join(name for name in names if getattr(found, name))


AGAIN = "transient retry_statement retry_transaction"


@pytest.mark.parametrize(
    ("dialect", "code", "phase", "kind", "expected"),
    [
        # statements
        ("postgresql", "40001", "statement", K.SERIALIZATION, AGAIN),
        ("mariadb", 1020, "statement", K.SERIALIZATION, AGAIN),
        ("sqlite", 517, "statement", K.SERIALIZATION, AGAIN),
        ("mariadb", 1213, "statement", K.DEADLOCK, AGAIN),
        ("mariadb", 1205, "statement", K.LOCK_TIMEOUT, AGAIN),
        ("sqlite", 5, "statement", K.LOCK_TIMEOUT, AGAIN),
        ("postgresql", "25006", "statement", K.READ_ONLY, AGAIN),
        ("mariadb", 1290, "statement", K.READ_ONLY, AGAIN),
        ("mariadb", 1792, "statement", K.READ_ONLY, AGAIN),
        ("sqlite", 8, "statement", K.READ_ONLY, ""),
        ("sqlite", 1032, "statement", K.READ_ONLY, ""),
        ("postgresql", "57014", "statement", K.STATEMENT_TIMEOUT, "transient"),
        ("mariadb", 1969, "statement", K.STATEMENT_TIMEOUT, "transient"),
        ("postgresql", "25P03", "statement", K.TRANSACTION_TIMEOUT, "transient connection_lost"),
        ("postgresql", "08006", "statement", K.CONNECTION_LOST, "transient connection_lost retry_transaction"),
        ("mariadb", 2013, "statement", K.CONNECTION_LOST, "transient connection_lost retry_transaction"),
        ("postgresql", "57P01", "statement", K.SERVER_SHUTDOWN, "transient connection_lost retry_transaction"),
        ("mariadb", 1053, "statement", K.SERVER_SHUTDOWN, "transient connection_lost retry_transaction"),
        (
            "postgresql",
            "57P05",
            "statement",
            K.CONNECTION_LOST,
            "transient connection_lost retry_statement retry_transaction",
        ),
        ("mariadb", 1047, "statement", K.NOT_READY, "transient connection_lost retry_statement retry_transaction"),
        ("postgresql", "57P04", "statement", K.SCHEMA, "connection_lost"),
        ("postgresql", "23505", "statement", K.UNIQUE, ""),
        ("postgresql", "53100", "statement", K.RESOURCE, ""),
        ("postgresql", "53200", "statement", K.RESOURCE, "transient"),
        ("mariadb", 1412, "statement", K.SCHEMA, AGAIN),
        ("mariadb", 1615, "statement", K.SCHEMA, AGAIN),
        ("mariadb", 1637, "statement", K.RESOURCE, AGAIN),
        ("mariadb", 1153, "statement", K.RESOURCE, ""),
        ("sqlite", 17, "statement", K.SCHEMA, AGAIN),
        ("sqlite", 513, "statement", K.SCHEMA, AGAIN),
        ("sqlite", 516, "statement", K.SERIALIZATION, AGAIN),
        ("postgresql", "55006", "statement", K.LOCK_TIMEOUT, AGAIN),
        ("mariadb", 1317, "statement", K.CANCELLED, ""),
        # connecting: nothing was sent
        ("mariadb", 2003, "connect", K.CONNECT_FAILED, AGAIN),
        ("mariadb", 2013, "connect", K.CONNECT_FAILED, AGAIN),
        ("postgresql", "08006", "connect", K.CONNECT_FAILED, AGAIN),
        ("postgresql", "57P03", "connect", K.NOT_READY, AGAIN),
        ("postgresql", "53300", "connect", K.TOO_MANY_CONNECTIONS, AGAIN),
        ("postgresql", "57P01", "connect", K.SERVER_SHUTDOWN, AGAIN),
        ("mariadb", 1040, "connect", K.TOO_MANY_CONNECTIONS, AGAIN),
        ("mariadb", 9999, "connect", K.CONNECT_FAILED, AGAIN),
        ("sqlite", 14, "connect", K.CONNECT_FAILED, AGAIN),
        ("postgresql", "28P01", "connect", K.AUTHENTICATION, ""),
        ("mariadb", 1045, "connect", K.AUTHENTICATION, ""),
        ("postgresql", "3D000", "connect", K.SCHEMA, ""),
        ("mariadb", 1049, "connect", K.SCHEMA, ""),
        ("mariadb", 1044, "connect", K.PERMISSION, ""),
        ("mariadb", 2026, "connect", K.CONNECT_FAILED, ""),
        ("mariadb", 1129, "connect", K.CONNECT_FAILED, ""),
        ("sqlite", 26, "connect", K.INTERNAL, ""),
        # committing: without an answer nobody knows
        ("mariadb", 2013, "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("postgresql", "08006", "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("postgresql", "57P01", "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("postgresql", "25P03", "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("mariadb", 1053, "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("mariadb", 1180, "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("mariadb", 1180, "statement", K.NOT_READY, "transient connection_lost retry_transaction"),
        ("mariadb", 1047, "commit", K.NOT_READY, "transient connection_lost retry_transaction"),
        ("postgresql", "40001", "commit", K.SERIALIZATION, "transient retry_transaction"),
        ("mariadb", 1213, "commit", K.DEADLOCK, "transient retry_transaction"),
        ("sqlite", 5, "commit", K.LOCK_TIMEOUT, "transient retry_transaction"),
        ("postgresql", "23503", "commit", K.FOREIGN_KEY, ""),
        ("sqlite", "SQLITE_IOERR", "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("sqlite", "SQLITE_IOERR_FSYNC", "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("sqlite", "SQLITE_IOERR_FSYNC", "statement", K.INTERNAL, ""),
        ("mongodb", 64, "commit", K.OUTCOME_UNKNOWN, ""),
        # whenever it comes
        ("postgresql", "40003", "connect", K.OUTCOME_UNKNOWN, ""),
        ("postgresql", "40003", "statement", K.OUTCOME_UNKNOWN, "connection_lost"),
        ("postgresql", "40003", "commit", K.OUTCOME_UNKNOWN, "connection_lost"),
    ],
)
def test_the_phase_decides_how_it_is_treated(
    dialect: str, code: str | int, phase: Phase, kind: ErrorKind, expected: str
) -> None:
    """Before anything was sent all may run again; after COMMIT was sent, nothing does without an answer."""
    found = classify_error(dialect, code, phase=phase)
    assert (found.kind, flags(found)) == (kind, expected)


def all_codes() -> list[tuple[str, str | int]]:
    return [
        *(("postgresql", code) for code in codes_postgresql.KINDS),
        *(("mariadb", code) for code in codes_mariadb.KINDS_MARIADB),
        *(("mysql", code) for code in codes_mariadb.KINDS_MYSQL),
        *(("sqlite", code) for code in codes_sqlite.NAMES.values()),
        *(("mongodb", code) for code in codes_mongodb.KINDS),
    ]


@pytest.mark.parametrize("phase", PHASES)
def test_what_may_run_again_is_transient(phase: Phase) -> None:
    """A retry of what can't change is a waste, and a retry flag without `transient` a contradiction."""
    for dialect, code in all_codes():
        found = classify_error(dialect, code, phase=phase)
        if found.retry_statement or found.retry_transaction:
            assert found.transient, (dialect, code)
        if found.retry_statement:
            assert found.retry_transaction, (dialect, code)


def test_nothing_is_sent_again_after_commit_without_an_answer() -> None:
    """The only lost connection at COMMIT that may be retried is the one that refused the command unread."""
    for dialect, code in all_codes():
        found = classify_error(dialect, code, phase="commit")
        assert not found.retry_statement
        if found.connection_lost and (dialect, code) not in {("mariadb", 1047), ("mysql", 1047)}:
            assert found.kind is K.OUTCOME_UNKNOWN
            assert not found.retry_transaction


def test_a_connection_that_is_not_there_yet_is_not_lost() -> None:
    """And the statements that will run on it were not sent."""
    for dialect, code in all_codes():
        found = classify_error(dialect, code, phase="connect")
        assert not found.connection_lost
        assert found.kind not in {K.CONNECTION_LOST, K.UNKNOWN}
        assert found.retry_statement is found.transient


def test_a_write_that_may_have_happened_is_not_sent_again() -> None:
    """When the line breaks during a statement, its answer may have been lost, not the statement."""
    for kind in (K.CONNECTION_LOST, K.SERVER_SHUTDOWN, K.OUTCOME_UNKNOWN, K.STATEMENT_TIMEOUT, K.CANCELLED):
        assert not treatment(kind).retry_statement


@given(
    dialect=st.sampled_from(DIALECTS),
    code=st.one_of(st.integers(), st.text(max_size=8)),
    phase=st.sampled_from(PHASES),
)
def test_any_code_is_answered(dialect: str, code: str | int, phase: Phase) -> None:
    """An error on the error path helps nobody: what isn't known is UNKNOWN."""
    found = classify_error(dialect, code, phase=phase)
    assert error_type(found.kind).default_kind in {found.kind, K.USAGE, K.CONNECTION_LOST}


@given(
    code=st.integers(min_value=1, max_value=5000), dialect=st.sampled_from(["mariadb", "mysql", "sqlite", "mongodb"])
)
def test_digits_are_as_good_as_the_number(dialect: str, code: int) -> None:
    """Settings and logs hold text."""
    assert classify_error(dialect, str(code)) == classify_error(dialect, code)


def test_unknown_dialects_and_phases_are_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(UsageError, match="postgresql, mariadb, mysql, sqlite, mongodb"):
        classify_error("oracle", 1)
    with pytest.raises(UsageError, match="connect, statement, commit"):
        classify_error("sqlite", 1, phase="prepare")  # type: ignore[arg-type]


def test_a_lone_write_that_galera_could_not_replicate_may_have_run() -> None:
    """1180 comes from the COMMIT in the statement; 1047 comes before anything of it ran."""
    assert leaves_unknown(classify_error("mariadb", 1180))
    assert not leaves_unknown(classify_error("mariadb", 1047))
