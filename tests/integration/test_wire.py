"""Round trips of the raw drivers: the counter's yardstick, and the numbers that DESIGN builds on."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest

from prefiq_db.testing import MariaDbServer, PostgresServer, WireCounter


@pytest.fixture
def postgresql_wire(postgresql_server: PostgresServer) -> Iterator[tuple[WireCounter, psycopg.Connection]]:
    with (
        WireCounter(postgresql_server.host, postgresql_server.port) as wire,
        psycopg.connect(wire.url(postgresql_server.url()) + "?sslmode=disable", autocommit=True) as connection,
    ):
        yield wire, connection


@pytest.fixture
def mariadb_wire(mariadb_server: MariaDbServer) -> Iterator[tuple[WireCounter, pymysql.Connection]]:
    url = urlsplit(mariadb_server.url())
    with (
        WireCounter(mariadb_server.host, mariadb_server.port) as wire,
        pymysql.connect(
            host=wire.host,
            port=wire.port,
            user=url.username,
            password=url.password or "",
            autocommit=True,
            ssl_disabled=True,
        ) as connection,
    ):
        yield wire, connection


def test_a_select_of_psycopg_in_autocommit_is_one_round_trip(
    postgresql_wire: tuple[WireCounter, psycopg.Connection],
) -> None:
    wire, connection = postgresql_wire
    for _ in range(20):
        with wire.count() as count:
            assert connection.execute("select %s", [1], prepare=False).fetchone() == (1,)
        assert count.round_trips == 1


def test_psycopg_pays_one_more_once_when_it_prepares_a_statement(
    postgresql_wire: tuple[WireCounter, psycopg.Connection],
) -> None:
    wire, connection = postgresql_wire
    round_trips = []
    for _ in range(10):
        with wire.count() as count:
            connection.execute("select %s::int", [1])
        round_trips.append(count.round_trips)
    assert round_trips == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


def test_a_transaction_of_two_with_psycopg_is_four(postgresql_wire: tuple[WireCounter, psycopg.Connection]) -> None:
    wire, connection = postgresql_wire
    for _ in range(20):
        with wire.count() as count:
            for statement in (b"begin", b"select 1", b"select 2", b"commit"):
                connection.execute(statement, prepare=False)
        assert count.round_trips == 4


def test_a_statement_of_a_megabyte_with_psycopg_is_one(
    postgresql_wire: tuple[WireCounter, psycopg.Connection],
) -> None:
    wire, connection = postgresql_wire
    with wire.count() as count:
        assert connection.execute("select length(%s)", ["x" * 1_000_000]).fetchone() == (1_000_000,)
    assert count.round_trips == 1


def test_a_pipeline_of_three_with_psycopg_is_one(postgresql_wire: tuple[WireCounter, psycopg.Connection]) -> None:
    wire, connection = postgresql_wire
    with wire.count() as count, connection.pipeline():
        for number in range(3):
            connection.execute("select %s::int", [number])
    assert count.round_trips == 1


def test_a_select_of_pymysql_in_autocommit_is_one_round_trip(
    mariadb_wire: tuple[WireCounter, pymysql.Connection],
) -> None:
    wire, connection = mariadb_wire
    for _ in range(20):
        with wire.count() as count, connection.cursor() as cursor:
            cursor.execute("select %s", [1])
            assert cursor.fetchone() == (1,)
        assert count.round_trips == 1


def test_a_transaction_of_two_with_pymysql_is_four(mariadb_wire: tuple[WireCounter, pymysql.Connection]) -> None:
    wire, connection = mariadb_wire
    for _ in range(20):
        with wire.count() as count, connection.cursor() as cursor:
            connection.begin()
            cursor.execute("select 1")
            cursor.execute("select 2")
            connection.commit()
        assert count.round_trips == 4


def test_a_statement_of_a_megabyte_with_pymysql_is_one(mariadb_wire: tuple[WireCounter, pymysql.Connection]) -> None:
    wire, connection = mariadb_wire
    with wire.count() as count, connection.cursor() as cursor:
        cursor.execute("select length(%s)", ["x" * 1_000_000])
        assert cursor.fetchone() == (1_000_000,)
    assert count.round_trips == 1
