"""Each fault, provoked on real servers with raw drivers: it does what its name says, and the server agrees."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import asyncmy
import psycopg
import pymysql
import pytest

from prefiq_db.errors import UsageError
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.faults import (
    ANY,
    CLAIM,
    COMMIT,
    STATEMENT,
    BlackHole,
    CutReply,
    CutRequest,
    Delay,
    DeliverLate,
    FaultProxy,
    Message,
    Reset,
    Slice,
)
from prefiq_db.testing.processes import wait_until
from tests.shared_servers import NOT_OURS

LOST = (psycopg.OperationalError, pymysql.err.OperationalError, pymysql.err.InterfaceError)
PATIENCE_SECONDS = 60.0
SOON_SECONDS = 0.2


class Bench:
    """A database with a table, a proxy before it, and raw connections through the proxy."""

    def __init__(self, server: DatabaseServer, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.database = server.create_database()
        self.connections: list[Any] = []
        self.observer = self._connect(server.url(self.database), connect_timeout=10)
        self.sql("create table item (id integer primary key)")

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the server without the proxy, always on one connection: others that come and go would be counted."""
        return list(self.run(self.observer, statement) or [])

    @property
    def items(self) -> list[int]:
        return [row[0] for row in self.sql("select id from item order by id")]

    def connect(self, **options: Any) -> Any:
        if self.server.name == "mariadb":
            options = {"read_timeout": 10, **options}
        connection = self._connect(self.proxy.url(self.server.url(self.database)), **{"connect_timeout": 10, **options})
        self.connections.append(connection)
        return connection

    def _connect(self, url: str, **options: Any) -> Any:
        if self.server.name == "postgresql":
            return psycopg.connect(url, autocommit=True, **options)
        parts = urlsplit(url)
        return pymysql.connect(
            host=parts.hostname,
            port=parts.port or 0,
            user=parts.username,
            password=parts.password or "",
            database=self.database,
            autocommit=True,
            **options,
        )

    def begin(self, connection: Any, number: int = 1) -> None:
        self.run(connection, "begin")
        self.run(connection, f"insert into item values ({number})")

    def run(self, connection: Any, statement: str) -> Any:
        with closing(connection.cursor()) as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def sessions(self) -> int:
        """How many sessions the server has in the database, but for the one that asks."""
        if self.server.name == "postgresql":
            question = f"select count(*) - 1 from pg_stat_activity where datname = current_database() and {NOT_OURS}"
        else:
            question = "select count(*) - 1 from information_schema.processlist where db = database()"
        return int(self.sql(question)[0][0])

    def wait_for_sessions(self, count: int) -> None:
        assert wait_until(lambda: self.sessions() == count, timeout_seconds=PATIENCE_SECONDS), self.sessions()

    def close(self) -> None:
        for connection in (self.observer, *self.connections):
            try:
                connection.close()
            except (psycopg.Error, pymysql.Error):
                continue  # it was closed already
        self.server.drop_database(self.database)


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    server: DatabaseServer = request.getfixturevalue(f"{request.param}_server")
    with FaultProxy(server) as proxy, closing(Bench(server, proxy)) as made:
        yield made


def steps(proxy: FaultProxy) -> list[tuple[str, str, str]]:
    return [(record.fault, record.message, record.step) for record in proxy.records]


# --- nothing is broken ---------------------------------------------------------------------------


def test_without_a_plan_everything_passes_unchanged(bench: Bench) -> None:
    connection = bench.connect()
    bench.begin(connection)
    bench.run(connection, "commit")
    big = "x" * 3_000_000
    assert bench.run(connection, f"select '{big}'")[0][0] == big
    with pytest.raises(Exception, match=r"(?i)duplicate"):
        bench.run(connection, "insert into item values (1)")
    assert bench.run(connection, "select count(*) from item")[0][0] == 1
    assert bench.proxy.records == ()
    assert bench.items == [1]


def test_a_server_with_tls_is_spoken_to_in_clear(
    new_postgresql_server: Callable[..., DatabaseServer], new_mariadb_server: Callable[..., DatabaseServer]
) -> None:
    for server in (new_postgresql_server(tls=True), new_mariadb_server(tls=True)):
        with FaultProxy(server) as proxy, closing(Bench(server, proxy)) as bench:
            with proxy.fault(CutReply()) as plan:
                connection = bench.connect()
                bench.begin(connection)
                with pytest.raises(LOST):
                    bench.run(connection, "commit")
            assert plan.hits == 1


# --- COMMIT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["commit", "COMMIT ;  ", "CoMmIt WORK", "commit /* at last */", "/* x */ commit"])
def test_a_commit_is_found_in_every_spelling(bench: Bench, spelling: str) -> None:
    connection = bench.connect()
    with bench.proxy.fault(CutReply()) as plan:
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, spelling)
    assert (plan.seen, plan.hits) == (1, 1)
    assert bench.items == [1]


@pytest.mark.parametrize("polite", [False, True])
def test_a_cut_reply_is_a_commit_that_happened(bench: Bench, polite: bool) -> None:
    connection = bench.connect()
    with bench.proxy.fault(CutReply(polite=polite), on=COMMIT):
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
    # The client is cut when the server is done, so there is nothing to wait for.
    assert bench.items == [1]
    bench.wait_for_sessions(0)
    assert steps(bench.proxy) == [("CutReply", "COMMIT", "hit"), ("CutReply", "COMMIT", "answered")]


def test_a_cut_request_is_a_commit_that_never_happens(bench: Bench) -> None:
    connection = bench.connect()
    with bench.proxy.fault(CutRequest(), on=COMMIT):
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
    bench.wait_for_sessions(0)
    assert bench.items == []
    assert steps(bench.proxy) == [("CutRequest", "COMMIT", "hit")]


def test_a_zombie_keeps_its_transaction_for_its_time(bench: Bench) -> None:
    connection = bench.connect()
    with bench.proxy.fault(CutRequest(zombie_seconds=float("inf")), on=COMMIT):
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
    time.sleep(SOON_SECONDS)
    assert bench.sessions() == 1
    assert bench.proxy.pending == 1
    bench.proxy.cut_all()
    bench.wait_for_sessions(0)
    with bench.proxy.fault(CutReply(zombie_seconds=0.3), on=COMMIT):
        connection = bench.connect()
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
        assert bench.sessions() == 1
    bench.proxy.wait()
    bench.wait_for_sessions(0)
    assert bench.items == [1]


def test_a_late_commit_commits_later(bench: Bench) -> None:
    connection = bench.connect()
    began = time.monotonic()
    with bench.proxy.fault(DeliverLate(3.0), on=COMMIT):
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
    # The client was cut at once, long before it was delivered.
    assert bench.items == []
    assert bench.sessions() == 1
    bench.proxy.wait()
    assert time.monotonic() - began >= 3.0
    assert bench.items == [1]
    bench.wait_for_sessions(0)
    assert [step for _, _, step in steps(bench.proxy)] == ["hit", "delivered", "answered"]
    hit, delivered, _ = (record.at for record in bench.proxy.records)
    assert delivered - hit >= 3.0


def test_a_late_commit_finds_its_server_gone(bench: Bench) -> None:
    connection = bench.connect()
    with bench.proxy.fault(DeliverLate(0.3), on=COMMIT):
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
    bench.server.empty_database(bench.database)  # ends its sessions
    bench.proxy.wait()
    assert "delivered" not in [step for _, _, step in steps(bench.proxy)]


def test_a_reset_leaves_it_open_whether_it_happened(bench: Bench) -> None:
    connection = bench.connect()
    with bench.proxy.fault(Reset(), on=COMMIT):
        bench.begin(connection)
        with pytest.raises(LOST):
            bench.run(connection, "commit")
    bench.wait_for_sessions(0)
    assert bench.items in ([], [1])


def test_a_delayed_request_and_a_delayed_reply(bench: Bench) -> None:
    for number, fault in enumerate((Delay(request_seconds=0.5), Delay(reply_seconds=0.5)), 1):
        connection = bench.connect()
        bench.begin(connection, number)
        with bench.proxy.fault(fault, on=COMMIT):
            began = time.monotonic()
            bench.run(connection, "commit")
            assert time.monotonic() - began >= 0.5
        assert bench.run(connection, "select count(*) from item")[0][0] == number


def test_a_client_that_leaves_a_delayed_commit_behind_has_committed(bench: Bench) -> None:
    connection = bench.connect()
    bench.begin(connection)
    with bench.proxy.fault(Delay(request_seconds=0.5), on=COMMIT) as plan:
        if bench.server.name == "postgresql":
            connection.pgconn.send_query(b"commit")
            connection.pgconn.flush()
            handle = socket.socket(fileno=connection.fileno())
        else:
            connection._execute_command(3, "commit")
            handle = connection._sock
        plan.wait()
        handle.shutdown(socket.SHUT_RDWR)
        handle.detach() if bench.server.name == "postgresql" else None
    assert bench.items == []
    bench.proxy.wait()
    assert wait_until(lambda: bench.items == [1], timeout_seconds=PATIENCE_SECONDS)


# --- any message ---------------------------------------------------------------------------------


def test_a_claim_is_told_from_the_work(bench: Bench) -> None:
    bench.sql("create table prefiq_commit_token (token varchar(36) primary key, written_as varchar(16))")
    connection = bench.connect()
    with bench.proxy.fault(CutReply(), on=CLAIM) as plan:
        bench.run(connection, "insert into prefiq_commit_token (token, written_as) values ('1', 'work')")
        assert plan.seen == 0
        with pytest.raises(LOST):
            bench.run(connection, "INSERT INTO prefiq_commit_token (token, written_as) VALUES ('2', 'abandoned')")
    assert bench.proxy.records[0].message == "claim"
    assert len(bench.sql("select * from prefiq_commit_token")) == 2


def test_a_claim_by_parameters_is_one_too(postgresql_server: DatabaseServer) -> None:
    with FaultProxy(postgresql_server) as proxy, closing(Bench(postgresql_server, proxy)) as bench:
        bench.sql("create table prefiq_commit_token (token varchar(36) primary key, written_as varchar(16))")
        connection = bench.connect()
        claim = "insert into prefiq_commit_token (token, written_as) values (%s, %s)"
        with proxy.fault(CutReply(), on=CLAIM) as plan:
            for number in range(10):  # it is prepared after five
                connection.execute(claim, [number, "work"])
            with pytest.raises(LOST):
                connection.execute(claim, [11, "abandoned"])
        assert plan.hits == 1
        assert len(bench.sql("select * from prefiq_commit_token")) == 11


def test_a_prepared_commit_in_a_pipeline_is_found(postgresql_server: DatabaseServer) -> None:
    with FaultProxy(postgresql_server) as proxy, closing(Bench(postgresql_server, proxy)) as bench:
        connection = bench.connect(prepare_threshold=0)
        for number in range(3):
            with connection.pipeline():
                bench.begin(connection, number)
                connection.execute("commit")
        assert bench.items == [0, 1, 2]
        for number, fault in ((3, CutReply()), (4, CutRequest()), (4, DeliverLate(0.3))):
            connection = bench.connect(prepare_threshold=0)
            with proxy.fault(fault, on=COMMIT) as plan, pytest.raises(LOST), connection.pipeline():
                bench.begin(connection, number)
                connection.execute("commit")
            assert plan.hits == 1
            assert bench.items == [0, 1, 2, 3]
        proxy.wait()
        assert bench.items == [0, 1, 2, 3, 4]


def test_a_function_of_ones_own_chooses_and_sees_the_statement(bench: Bench) -> None:
    connection = bench.connect()
    with bench.proxy.fault(CutRequest(), on=lambda message: "account" in message.sql) as plan:
        bench.run(connection, "select 1")
        with pytest.raises(LOST):
            bench.run(connection, "select 1 /* account */")
    assert (plan.seen, plan.hits) == (1, 1)
    assert bench.proxy.records[0].message == "SELECT"


def test_a_function_that_fails_is_told_and_breaks_nothing(bench: Bench) -> None:
    def fails(message: Message) -> bool:
        raise ValueError("secret " + message.sql)

    connection = bench.connect()
    with pytest.raises(UsageError, match="ValueError") as caught, bench.proxy.fault(Reset(), on=fails):
        assert bench.run(connection, "select 1")[0][0] == 1
    assert "secret" not in str(caught.value)


def test_a_login_can_be_hit(bench: Bench) -> None:
    for fault in (CutRequest(), CutReply(), Reset()):
        with bench.proxy.fault(fault, on=ANY, times=1), pytest.raises(LOST):
            bench.connect()
    assert [record.message for record in bench.proxy.records if record.step == "hit"] == ["login"] * 3
    assert bench.run(bench.connect(), "select 1")[0][0] == 1


def test_a_reply_is_cut_at_every_byte(bench: Bench) -> None:
    """Never another row than the right one, and never a hang."""
    for count in range(0, 100, 7):
        connection = bench.connect()
        with bench.proxy.fault(CutReply(after_bytes=count), on=STATEMENT):
            try:
                answer = bench.run(connection, "select 42, 'forty-two'")
            except (psycopg.Error, pymysql.Error):
                continue
            assert [tuple(row) for row in answer] == [(42, "forty-two")]
    assert ("CutReply", "SELECT", "hit") in bench.proxy.counts()


def test_a_record_never_holds_a_value(bench: Bench) -> None:
    connection = bench.connect()
    with bench.proxy.fault(Delay(request_seconds=0.01), on=ANY):
        for statement in ("select 'hunter2'", "insert into item values (4711)", "-- hunter2\nselect 1"):
            bench.run(connection, statement)
        with pytest.raises((psycopg.Error, pymysql.Error)):
            bench.run(connection, "hunter2")
    assert "hunter2" not in repr(bench.proxy.records)
    assert "4711" not in repr(bench.proxy.records)
    assert {record.message for record in bench.proxy.records} == {"SELECT", "INSERT", "?"}


# --- how often -----------------------------------------------------------------------------------


def hits(bench: Bench, **options: Any) -> list[int]:
    """Which of twenty statements are hit."""
    connection = bench.connect()
    before = len(bench.proxy.records)
    hit = []
    with bench.proxy.fault(Slice(100), on=STATEMENT, **options):
        for number in range(20):
            bench.run(connection, f"select {number}")
            after = len(bench.proxy.records)
            if after > before:
                hit.append(number)
            before = after
    return hit


def test_how_often_is_as_planned_and_can_be_repeated(bench: Bench) -> None:
    assert hits(bench) == list(range(20))
    assert hits(bench, times=2) == [0, 1]
    assert hits(bench, every=5) == [4, 9, 14, 19]
    assert hits(bench, every=5, times=1) == [4]
    assert hits(bench, probability=0.0) == []
    some = hits(bench, probability=0.3, seed=7)
    assert 0 < len(some) < 20
    assert hits(bench, probability=0.3, seed=7) == some
    assert hits(bench, probability=0.3, seed=8) != some


def test_of_two_plans_the_first_that_wants_it_hits(bench: Bench) -> None:
    connection = bench.connect()
    with (
        bench.proxy.fault(Slice(10), on=STATEMENT, times=1) as first,
        bench.proxy.fault(Slice(10), on=STATEMENT) as second,
    ):
        for _ in range(3):
            bench.run(connection, "select 1")
    assert (first.hits, second.hits, second.seen) == (1, 2, 2)
    bench.run(connection, "select 1")
    assert (first.hits, second.hits) == (1, 2)


# --- silence -------------------------------------------------------------------------------------


def short(bench: Bench) -> dict[str, Any]:
    return {} if bench.server.name == "postgresql" else {"read_timeout": 1}


def times_out(bench: Bench, connection: Any, statement: str) -> None:
    """Run a statement that nobody answers; give up after a second and leave."""
    if bench.server.name == "mariadb":
        with pytest.raises(LOST):
            bench.run(connection, statement)
        return
    connection.pgconn.send_query(statement.encode())
    connection.pgconn.flush()
    with socket.socket(fileno=connection.fileno()) as handle:
        handle.settimeout(1)
        with pytest.raises(TimeoutError):
            handle.recv(1)
        handle.setblocking(False)
        handle.detach()


@pytest.mark.parametrize("delivered", [False, True])
def test_a_black_hole_keeps_the_sockets_open_until_the_network_is_back(bench: Bench, delivered: bool) -> None:
    connection = bench.connect(**short(bench))
    bench.begin(connection)
    with bench.proxy.fault(BlackHole(delivered=delivered), on=COMMIT):
        times_out(bench, connection, "commit")
    assert wait_until(lambda: bench.items == ([1] if delivered else []), timeout_seconds=PATIENCE_SECONDS)
    assert bench.proxy.connections == 1
    assert bench.sessions() == 1, "the server must not learn that its client left"
    connection.close()
    time.sleep(SOON_SECONDS)
    assert bench.sessions() == 1
    other = bench.connect()
    assert bench.run(other, "select 1")[0][0] == 1, "other connections live"
    bench.proxy.restore()
    bench.wait_for_sessions(1)
    assert wait_until(lambda: bench.items == [1], timeout_seconds=PATIENCE_SECONDS)


def test_a_silent_network_is_silent_for_all_and_comes_back(bench: Bench) -> None:
    connection, idle = bench.connect(), bench.connect(**short(bench))
    bench.proxy.black_hole()
    times_out(bench, idle, "insert into item values (7)")
    began = time.monotonic()
    with pytest.raises(LOST):
        bench.connect(connect_timeout=2, **({"read_timeout": 2} if bench.server.name == "mariadb" else {}))
    assert time.monotonic() - began > 1.5
    assert bench.items == []
    assert bench.sessions() == 2
    bench.proxy.restore()
    assert bench.run(connection, "select 1")[0][0] == 1
    assert wait_until(lambda: bench.items == [7], timeout_seconds=PATIENCE_SECONDS)
    assert bench.run(bench.connect(), "select 1")[0][0] == 1


def test_a_proxy_can_be_stopped_while_it_is_silent(bench: Bench) -> None:
    connection = bench.connect()
    bench.proxy.black_hole()
    bench.proxy.stop()
    with pytest.raises(LOST):
        bench.run(connection, "select 1")
    bench.proxy.start()
    assert bench.run(bench.connect(), "select 1")[0][0] == 1


# --- pieces --------------------------------------------------------------------------------------


def test_every_byte_in_a_segment_of_its_own(bench: Bench) -> None:
    with bench.proxy.fault(Slice(1), on=ANY) as plan:
        connection = bench.connect()
        bench.begin(connection)
        assert bench.run(connection, "select id, 'text' from item")[0] == (1, "text")
        bench.run(connection, "commit")
    assert plan.hits >= 4
    assert bench.items == [1]


@pytest.mark.postgresql
def test_async_psycopg_reads_single_bytes(postgresql_server: DatabaseServer) -> None:
    async def read(url: str) -> Any:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            cursor = await connection.execute("select %s::int, %s::text", [42, "text"])
            return await cursor.fetchall()

    with FaultProxy(postgresql_server) as proxy, proxy.fault(Slice(1), on=ANY):
        assert asyncio.run(read(proxy.url(postgresql_server.url()))) == [(42, "text")]


@pytest.mark.mariadb
def test_asyncmy_reads_single_bytes(mariadb_server: DatabaseServer) -> None:
    async def read(url: str) -> Any:
        parts = urlsplit(url)
        connection = await asyncmy.connect(
            host=parts.hostname, port=parts.port, user=parts.username, password=parts.password or ""
        )
        try:
            async with connection.cursor() as cursor:
                await cursor.execute("select %s, %s", [42, "text"])
                return await cursor.fetchall()
        finally:
            connection.close()

    with FaultProxy(mariadb_server) as proxy, proxy.fault(Slice(1), on=ANY):
        assert list(asyncio.run(read(proxy.url(mariadb_server.url())))) == [(42, "text")]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how many segments came")
@pytest.mark.parametrize(("size_bytes", "segments"), [(1, 15), (4, 4), (100, 1)])
def test_each_piece_is_a_segment(size_bytes: int, segments: int) -> None:
    login = b"\x0b\x00\x00\x01login:there"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy("127.0.0.1", listener.getsockname()[1], "mariadb") as proxy,
        socket.create_connection((proxy.host, proxy.port), timeout=10) as client,
        proxy.fault(Slice(size_bytes), on=ANY),
    ):
        there, _ = listener.accept()
        with there:
            client.sendall(login)
            there.settimeout(10)
            received = b""
            while len(received) < len(login):
                received += there.recv(100)
            info = there.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    assert received == login
    assert struct.unpack_from("I", info, 152) == (segments,)  # tcpi_data_segs_in


# --- misuse --------------------------------------------------------------------------------------


def test_what_has_no_wire_is_refused() -> None:
    with pytest.raises(UsageError, match="SQLite has no wire"):
        FaultProxy("app.db", 0, "sqlite")
    with pytest.raises(UsageError, match="protocol"):
        FaultProxy("127.0.0.1", 1, "oracle")
    with pytest.raises(UsageError, match="start"):
        FaultProxy("127.0.0.1", 0, "postgresql")


def test_a_bad_plan_is_refused_when_it_is_made() -> None:
    proxy = FaultProxy("127.0.0.1", 1, "postgresql")
    for options in ({"probability": 1.5}, {"every": 0}, {"times": 0}):
        with pytest.raises(UsageError):
            proxy.fault(Reset(), **options)  # type: ignore[arg-type]
    for make in (lambda: DeliverLate(-1), lambda: CutReply(after_bytes=-1), lambda: Delay(-1), lambda: Slice(-1)):
        with pytest.raises(UsageError, match="negative"):
            make()
