"""The judgement of an error: what it holds, what the phase makes of it, and how long it lives."""

from __future__ import annotations

import copy
import sqlite3
from contextlib import closing

import pymysql
import pytest
from sqlalchemy import exc

from prefiq_db import ErrorKind
from prefiq_db.errors import UniqueViolationError
from prefiq_db.translation.cleaning import KEPT
from prefiq_db.translation.judging import find_judgement, interruption_in, judge, judge_outcome
from prefiq_db.translation.translate import translate

VALUE = "hunter2canary"


def unique() -> pymysql.err.IntegrityError:
    return pymysql.err.IntegrityError(1062, f"Duplicate entry '{VALUE}' for key 'uq_sku'")


def test_it_is_made_once_and_read_by_whoever_asks() -> None:
    """What the first one knew counts for all: he was nearest to the connection."""
    error = pymysql.err.OperationalError(1317, "Query execution was interrupted")
    first = judge(error, "mariadb", by_timeout=True)
    assert first.kind is ErrorKind.STATEMENT_TIMEOUT
    assert judge(exc.DBAPIError("select", {}, error), "mariadb", by_timeout=False) is first
    assert translate(error, dialect="mariadb").kind is ErrorKind.STATEMENT_TIMEOUT


class ObligingError(Exception):
    """Has every attribute."""

    def __getattr__(self, name: str) -> object:
        return lambda: name


def test_it_is_ours() -> None:
    """An application's exception may answer to any name."""
    assert find_judgement(ObligingError()) is None
    assert judge(ObligingError(), "sqlite").kind is ErrorKind.USAGE


def test_it_leaves_with_the_error() -> None:
    """The driver's exception is the caller's from then on, and tells nobody of us; a copy neither."""
    error = unique()
    judge(error, "mariadb")
    twin = copy.copy(error)
    for each in (error, twin):
        assert hasattr(each, KEPT)
        assert isinstance(translate(each, dialect="mariadb"), UniqueViolationError)
        assert not hasattr(each, KEPT)


def test_it_shows_no_value() -> None:
    """It may stand in a frame on a traceback."""
    assert VALUE not in repr(judge(unique(), "mariadb"))


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        ("connect", ErrorKind.CONNECT_FAILED),
        ("statement", ErrorKind.CONNECTION_LOST),
        ("commit", ErrorKind.OUTCOME_UNKNOWN),
    ],
)
def test_the_phase_decides_on_top(phase: str, kind: ErrorKind) -> None:
    """One lost connection, three outcomes."""
    error = pymysql.err.OperationalError(2013, "Lost connection")
    assert judge_outcome(judge(error, "mariadb"), error, "mariadb", phase).kind is kind  # type: ignore[arg-type]


def test_what_is_being_handled_is_no_interruption_of_ours() -> None:
    """An error's context counts only when whoever caught that has ended: it was raised, and caught, below."""

    def driver() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise sqlite3.OperationalError("stumbled")  # noqa: B904 - as drivers do

    with pytest.raises(sqlite3.OperationalError) as stumbled:
        driver()
    assert isinstance(interruption_in(stumbled.value), KeyboardInterrupt)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with closing(sqlite3.connect(":memory:")) as other, pytest.raises(sqlite3.OperationalError) as apart:
            other.execute("no SQL at all")
        assert isinstance(apart.value.__context__, KeyboardInterrupt)
        assert interruption_in(apart.value) is None
