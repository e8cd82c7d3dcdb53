"""Exactly once: a COMMIT without an answer is found out; it is never lost, never done twice, never guessed."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.errors import (
    ErrorKind,
    NestingError,
    NotCommittedError,
    OutcomeUnknownError,
    PermissionDeniedError,
    SchemaError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.events import Listener, OutcomeResolved, TransactionFinished
from prefiq_db.exactly_once import new_token
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.faults import (
    CLAIM,
    COMMIT,
    CutReply,
    CutRequest,
    Delay,
    DeliverLate,
    Fault,
    FaultProxy,
    Message,
    Reset,
)
from prefiq_db.testing.wire import WireCounter
from tests import interpreters
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.support import session_id, slow_read, upgrade_schema

POLICY = RetryPolicy(attempts=6, wait_initial_seconds=0.001, wait_max_seconds=0.01, total_seconds=8)
WAYS = ["run_in_transaction", "transactional", "attempts"]
ADD_TEN = "update stock set quantity = quantity + 10 where id = 1"

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)


@pytest.fixture
def stock(backend: Backend, db: Any, run: Callable[[Any], Any]) -> Any:
    """The database with the shipped tables and one row in a table of its own."""
    upgrade_schema(backend)
    run(db.execute("create table stock (id integer primary key, quantity integer not null)"))
    run(db.execute("insert into stock (id, quantity) values (1, 0)"))
    return db


@pytest.fixture
def distant(stock: Any, backend: Backend, world: str, proxy: FaultProxy, run: Callable[[Any], Any]) -> Iterator[Any]:
    """The same database, through the proxy."""
    db = make_database(world, proxy.url(backend.url), ssl_mode="disable", pool_size=2, retry=POLICY)
    run(db.open())
    yield db
    checked_out = db.stats().pool.checked_out
    run(db.close())
    assert not checked_out


async def applied(db: Any) -> int:
    """Return how often ADD_TEN was applied."""
    return int(await db.fetch_value("select quantity from stock where id = 1")) // 10


async def tokens(db: Any) -> list[str]:
    return [row.written_as for row in await db.fetch_all("select written_as from prefiq_commit_token order by token")]


async def repeated(db: Any, way: str, body: Callable[[Any], Awaitable[Any]]) -> Any:
    """Run *body* exactly once, by one of the three ways that repeat it."""
    if way == "run_in_transaction":
        return await db.run_in_transaction(body, exactly_once=True)
    if way == "transactional":
        return await db.transactional(exactly_once=True)(body)()
    result = None
    for attempt in db.attempts(exactly_once=True):
        async with attempt as tx:
            result = await body(tx)
    return result


async def add_ten(tx: Any) -> str:
    await tx.execute(ADD_TEN)
    return "added"


# --- when nothing goes wrong ---------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_commit_leaves_its_token(stock: Any, way: str) -> None:
    """Each transaction writes one token, with its own work; a roll back takes both back."""
    assert await repeated(stock, way, add_ten) == "added"
    assert await tokens(stock) == ["work"]
    assert await applied(stock) == 1

    async def fails(tx: Any) -> None:
        await tx.execute(ADD_TEN)
        raise KeyError("the caller's")

    with pytest.raises(KeyError):
        await repeated(stock, way, fails)
    assert await tokens(stock) == ["work"]
    assert await applied(stock) == 1


async def test_a_block_has_a_token_that_can_be_asked_for(stock: Any) -> None:
    """tx.token is there from the start, and tells what became of the block, again and again."""
    async with stock.transaction(exactly_once=True) as tx:
        token = tx.token
        await tx.execute(ADD_TEN)
    for _ in range(2):
        assert await stock.resolve_outcome(token) == "committed"
    with pytest.raises(KeyError):
        async with stock.transaction(exactly_once=True) as tx:
            token = tx.token
            raise KeyError
    for _ in range(2):
        assert await stock.resolve_outcome(token) == "not committed"
    assert await tokens(stock) == ["work", "abandoned"]
    async with stock.transaction() as tx:
        assert tx.token is None


@on_servers
@pytest.mark.parametrize("isolation", [None, "SERIALIZABLE"])
async def test_the_token_adds_no_round_trip(stock: Any, backend: Backend, world: str, isolation: str | None) -> None:
    """Counted at the wire: two statements and COMMIT cost the same with and without a token."""
    assert backend.server is not None
    counts = []
    with WireCounter(backend.server.host, backend.server.port) as wire:
        db = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        await db.open()
        async with db.transaction(exactly_once=True):  # shows that there is a table for tokens
            pass
        for exactly_once in (False, True):
            with wire.count() as count:
                async with db.transaction(isolation=isolation, exactly_once=exactly_once) as tx:
                    await tx.execute(ADD_TEN)
                    await tx.fetch_value("select quantity from stock where id = 1")
            counts.append(count.round_trips)
        await db.close()
    assert counts == [3, 3]
    assert await tokens(stock) == ["work", "work"]


# --- when the reply to COMMIT is lost ------------------------------------------------------------

FAULTS: dict[str, tuple[Fault, int]] = {
    # The fault, and how often the body runs.
    "reply cut": (CutReply(), 1),
    "reply cut in its middle": (CutReply(after_bytes=3), 1),
    "reply cut, politely": (CutReply(polite=True), 1),
    "reply cut, the session stays": (CutReply(zombie_seconds=1), 1),
    "request cut": (CutRequest(), 2),
    "request cut, politely": (CutRequest(polite=True), 2),
    "commit comes late": (DeliverLate(0.3), 1),
}


@on_servers
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("way", WAYS)
async def test_it_is_done_once(stock: Any, distant: Any, proxy: FaultProxy, way: str, name: str) -> None:
    """Whatever happens to COMMIT, the work is done once, the result is returned, and on_commit runs once."""
    fault, bodies = FAULTS[name]
    calls: list[str] = []

    async def body(tx: Any) -> str:
        calls.append("body")
        tx.on_commit(lambda: calls.append("on_commit"))
        tx.on_rollback(lambda: calls.append("on_rollback"))
        return await add_ten(tx)

    with proxy.fault(fault, on=COMMIT, times=1) as plan:
        assert await repeated(distant, way, body) == "added"
    assert plan.hits == 1
    proxy.wait()
    assert await applied(stock) == 1
    assert calls.count("body") == bodies
    assert calls.count("on_commit") == 1
    assert calls.count("on_rollback") == bodies - 1


@on_servers
@pytest.mark.parametrize("name", FAULTS)
async def test_a_block_that_cannot_run_again_says_what_happened(
    stock: Any, distant: Any, proxy: FaultProxy, name: str
) -> None:
    """Leaving a with block means committed; NotCommittedError means that it was not, and never will be."""
    fault, bodies = FAULTS[name]
    with proxy.fault(fault, on=COMMIT, times=1):
        tx = distant.transaction(exactly_once=True)
        if bodies == 1:
            async with tx as open_tx:
                await add_ten(open_tx)
        else:
            with pytest.raises(NotCommittedError, match="never will be") as failure:
                async with tx as open_tx:
                    await add_ten(open_tx)
            assert failure.value.is_transient
            assert failure.value.__cause__ is None
            assert failure.value.__context__ is None
    assert open_tx.outcome == ("committed" if bodies == 1 else "not committed")
    proxy.wait()
    assert await applied(stock) == (1 if bodies == 1 else 0)


@on_servers
@pytest.mark.parametrize("on_claim", [CutReply(), CutRequest(), Reset(), Delay(reply_seconds=0.2)], ids=repr)
@pytest.mark.parametrize("on_commit", [CutReply(), CutRequest(), DeliverLate(0.5)], ids=repr)
async def test_claims_can_fail_too(
    stock: Any, distant: Any, proxy: FaultProxy, on_commit: Fault, on_claim: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """A claim whose own reply is lost is repeated, and does not take its own row for the transaction's."""
    with proxy.fault(on_claim, on=CLAIM, times=3) as claims, proxy.fault(on_commit, on=COMMIT, times=1):
        assert await distant.run_in_transaction(add_ten, exactly_once=True) == "added"
    assert claims.hits >= 1
    proxy.wait()
    assert await applied(stock) == 1
    assert [record.getMessage() for record in caplog.records if record.name.startswith("sqlalchemy")] == []


@on_servers
async def test_a_session_without_a_client_is_ended(
    stock: Any, distant: Any, proxy: FaultProxy, backend: Backend
) -> None:
    """The old session stays open with its locks, and nobody will ever speak on it: the resolution ends it."""
    with proxy.fault(CutRequest(zombie_seconds=60), on=COMMIT, times=1):
        async with asyncio.timeout(10) if asyncio._get_running_loop() else _no_limit():
            assert await distant.run_in_transaction(add_ten, exactly_once=True) == "added"
    assert await applied(stock) == 1
    assert await tokens(stock) == ["abandoned", "work"]


class _no_limit:  # noqa: N801 - in the place of asyncio.timeout
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


@on_servers
async def test_who_locks_the_table_is_not_ended(
    stock: Any, distant: Any, proxy: FaultProxy, backend: Backend, world: str
) -> None:
    """A session in the way that doesn't hold the token (a migration's, say) is left alone, and nothing is guessed."""
    lock = {
        "postgresql": "lock table prefiq_commit_token in exclusive mode",
        "mariadb": "select * from prefiq_commit_token for update",
    }[backend.name]
    impatient = distant.using(timeout=2.5)
    async with distant.transaction(exactly_once=True) as tx:
        token = tx.token
        await tx.execute("update stock set quantity = quantity where id = 1")
    assert backend.server is not None
    async with stock.transaction() as other:
        await other.fetch_all(lock)
        for asked in (new_token(), new_token()):
            assert await impatient.resolve_outcome(asked) == "unknown"
        assert await other.fetch_value("select 1") == 1
    assert await distant.resolve_outcome(token) == "committed"


@on_servers
async def test_resolvers_may_race(stock: Any, distant: Any, proxy: FaultProxy, harness: Harness) -> None:
    """Several ask for the same token while its transaction is still open: all get the same answer, which is true."""
    for fault, expected in ((DeliverLate(0.4), None), (CutRequest(zombie_seconds=30), "not committed")):
        before = await applied(stock)
        await distant.open()  # asyncmy says COMMIT when it connects, and that isn't the one to be hit
        held: list[str] = []
        answers: list[str] = []

        async def transfer(held: list[str] = held) -> str:
            try:
                async with distant.transaction(exactly_once=True) as tx:
                    held.append(tx.token)
                    await add_ten(tx)
            except NotCommittedError:
                return "not committed"
            return "committed"

        async def ask(held: list[str] = held) -> str:
            async def begun() -> bool:
                return plan.hits > 0

            await harness.until(begun)
            return str(await stock.resolve_outcome(held[0]))

        with proxy.fault(fault, on=COMMIT, times=1) as plan:
            answers = await harness.together(transfer, ask, ask, ask)
        proxy.wait()
        assert len(set(answers)) == 1
        assert expected is None or answers[0] == expected
        assert await applied(stock) - before == (1 if answers[0] == "committed" else 0)


@on_servers
@pytest.mark.parametrize("fault", [CutReply(), CutRequest()], ids=repr)
async def test_a_server_that_stays_away_leaves_a_token(
    stock: Any, proxy: FaultProxy, backend: Backend, world: str, fault: Fault
) -> None:
    """When nobody can be asked within the budget, the error carries the token, and another process asks later."""
    policy = RetryPolicy(total_seconds=0.5)
    db = make_database(world, proxy.url(backend.url), ssl_mode="disable", retry=policy)
    await db.open()
    resolved: list[OutcomeResolved] = []

    class Heard(Listener):
        def outcome_resolved(self, event: OutcomeResolved) -> None:
            resolved.append(event)

    db.hooks.add(Heard())
    lost = pytest.raises(OutcomeUnknownError, match="resolve_outcome")
    with proxy.fault(fault, on=COMMIT, times=1), lost as failure:
        async with db.transaction(exactly_once=True) as tx:
            await add_ten(tx)
            tx.on_commit(lambda: pytest.fail("nobody knows that"))
            tx.on_rollback(lambda: pytest.fail("nobody knows that"))
            proxy.refuse()
    assert tx.outcome == "unknown"
    assert failure.value.token == tx.token
    assert [event.outcome for event in resolved] == ["unknown"]
    assert db.stats().pool.checked_out == 0
    await db.close()
    proxy.accept()
    ask = "import sys; from prefiq_db import Database; print(Database(sys.argv[1]).resolve_outcome(sys.argv[2]))"
    done = interpreters.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", ask, backend.url, failure.value.token],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ("committed\n" if isinstance(fault, CutReply) else "not committed\n")
    assert await applied(stock) == (1 if isinstance(fault, CutReply) else 0)


@on_servers
async def test_who_listens_is_told(
    stock: Any, distant: Any, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Events and the log say what was asked and answered; the transaction's event says the true outcome."""
    heard: list[Any] = []

    class Heard(Listener):
        def outcome_resolved(self, event: OutcomeResolved) -> None:
            heard.append((event.outcome, event.claims, event.transaction_id is not None))

        def transaction_finished(self, event: TransactionFinished) -> None:
            heard.append(event.outcome)

    distant.hooks.add(Heard())
    caplog.set_level(logging.WARNING, logger="prefiq_db.exactly_once")
    with proxy.fault(CutRequest(), on=COMMIT, times=1):
        await distant.run_in_transaction(add_ten, exactly_once=True)
    assert heard == [("not committed", 1, True), "not committed", "committed"]
    (record,) = [record for record in caplog.records if record.name == "prefiq_db.exactly_once"]
    assert record.outcome == "not committed"  # type: ignore[attr-defined]


@on_servers
async def test_a_limit_holds_for_the_resolution_too(
    stock: Any, distant: Any, proxy: FaultProxy, harness: Harness
) -> None:
    """transaction(timeout=) bounds the questions, too: what is not known by then is unknown, with the token."""
    unheard = proxy.fault(CutReply(), on=CLAIM)
    lost = pytest.raises(OutcomeUnknownError)
    with proxy.fault(CutRequest(zombie_seconds=30), on=COMMIT, times=1), unheard, lost as failure:
        async with distant.transaction(exactly_once=True, timeout=2) as tx:
            await add_ten(tx)
    assert await distant.resolve_outcome(failure.value.token) == "not committed"
    assert await applied(stock) == 0


@on_servers
async def test_a_cancelled_task_knows_the_outcome(stock: Any, distant: Any, proxy: FaultProxy, world: str) -> None:
    """Cancelled while COMMIT is being resolved: the resolution ends, and the very exception carries the truth."""
    if world == "sync":
        pytest.skip("only tasks are cancelled")
    for fault, expected in ((CutReply(), "committed"), (CutRequest(), "not committed")):
        before = await applied(stock)
        await distant.open()  # likewise
        slow_claim = proxy.fault(Delay(reply_seconds=0.3), on=CLAIM, times=1)
        with slow_claim as claims, proxy.fault(fault, on=COMMIT, times=1):
            task = asyncio.create_task(distant.run_in_transaction(add_ten, exactly_once=True))
            while not claims.hits:  # noqa: ASYNC110 - the proxy can't set an event
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await task
        assert cancelled.value.transaction_outcome == expected  # type: ignore[attr-defined]
        assert await applied(stock) - before == (expected == "committed")


@on_servers
async def test_a_limit_of_the_call_holds_for_the_resolution_too(stock: Any, distant: Any, proxy: FaultProxy) -> None:
    """using(timeout=) bounds the questions as well, not only the retries around them."""
    await distant.open()  # likewise
    unheard = proxy.fault(CutReply(), on=CLAIM)
    lost = pytest.raises(OutcomeUnknownError)
    # Without the limit it would ask for as long as the policy says, far longer than a test may take.
    patient = dataclasses.replace(POLICY, attempts=10_000, total_seconds=3600)
    with proxy.fault(CutRequest(zombie_seconds=30), on=COMMIT, times=1), unheard, lost as failure:
        await distant.using(timeout=2, retry=patient).run_in_transaction(add_ten, exactly_once=True)
    assert await distant.resolve_outcome(failure.value.token) == "not committed"


@on_servers
@pytest.mark.parametrize("exactly_once", [True, False])
async def test_a_signal_in_commit_is_no_verdict(
    stock: Any, distant: Any, proxy: FaultProxy, world: str, exactly_once: bool
) -> None:
    """A job queue's time limit is an exception out of a signal handler: COMMIT was sent all the same."""
    if world == "async":
        pytest.skip("a loop runs signal handlers between its tasks")

    class TimeIsUp(Exception):  # noqa: N818 - likewise, as the queues call theirs
        pass

    def ring(number: int, frame: object) -> None:
        raise TimeIsUp

    await distant.open()
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with proxy.fault(Delay(reply_seconds=1.5), on=COMMIT, times=1):
            signal.setitimer(signal.ITIMER_REAL, 0.7)
            if exactly_once:
                assert await distant.run_in_transaction(add_ten, exactly_once=True) == "added"
            else:
                with pytest.raises(OutcomeUnknownError):
                    await distant.run_in_transaction(add_ten)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    proxy.wait()
    assert await applied(stock) == 1


@on_servers
async def test_who_locks_the_row_is_not_ended(stock: Any, make_db: Callable[..., Any], backend: Backend) -> None:
    """A committed row holds nobody: neither who deletes it now is ended, nor the session that wrote it long ago."""
    db = make_db(pool_size=1, max_overflow=0)
    impatient = make_db(retry=RetryPolicy(total_seconds=2.5))
    async with db.transaction(exactly_once=True) as tx:
        token = tx.token
        await tx.execute(ADD_TEN)
        writer = await session_id(tx, backend)
    async with stock.transaction() as cleaner:
        await cleaner.execute("delete from prefiq_commit_token where token = :token", {"token": token})
        async with db.transaction() as innocent:
            assert await session_id(innocent, backend) == writer
            assert await impatient.resolve_outcome(token) == "unknown"
            assert await session_id(innocent, backend) == writer
        assert await cleaner.fetch_value("select 1") == 1
    async with db.transaction(exactly_once=True) as tx:
        token = tx.token
    async with stock.transaction() as reader:
        await reader.fetch_all("select * from prefiq_commit_token for update")
        async with db.transaction() as innocent:
            answer = await impatient.resolve_outcome(token)
            assert await session_id(innocent, backend) == writer
    assert answer == ("unknown" if backend.name == "mariadb" else "committed")


@on_servers
async def test_a_second_begin_has_a_token_of_its_own(stock: Any, distant: Any, proxy: FaultProxy) -> None:
    """BEGIN's reply is lost and its session stays: it holds its token, and must not be in the way of the next one."""
    await distant.open()  # likewise

    def begins(message: Message) -> bool:
        return not message.is_claim and "prefiq_commit_token" in message.sql

    with proxy.fault(CutReply(zombie_seconds=30), on=begins, times=1) as plan:
        async with distant.transaction(exactly_once=True) as tx:
            await add_ten(tx)
    assert plan.hits == 1
    assert await distant.resolve_outcome(tx.token) == "committed"
    assert await applied(stock) == 1


@on_servers
@pytest.mark.parametrize("how", ["in the block", "after the loop"])
async def test_who_leaves_the_loop_too_early_hears_of_it(
    stock: Any, distant: Any, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """A return inside the block can't be stopped when COMMIT fails: nothing is committed, and that is logged."""

    async def leaves() -> str:
        for attempt in distant.attempts(exactly_once=True):
            async with attempt as tx:
                await add_ten(tx)
                if how == "in the block":
                    return "left"
        return "left"

    await distant.open()  # likewise
    with proxy.fault(CutRequest(), on=COMMIT, times=1), caplog.at_level(logging.ERROR, logger="prefiq_db.transaction"):
        assert await leaves() == "left"
    said = "left by return or break" in caplog.text
    assert (await applied(stock), said) == ((0, True) if how == "in the block" else (1, False))


# --- what is refused, and what is said -----------------------------------------------------------


async def test_what_cannot_be_exactly_once_is_refused(stock: Any) -> None:
    with pytest.raises(UsageError, match="read-only"):
        stock.transaction(exactly_once=True, read_only=True)
    with pytest.raises(UsageError, match="exactly_once: expected True or False"):
        stock.transaction(exactly_once="yes")
    async with stock.transaction():
        with pytest.raises(NestingError, match="exactly_once"):
            await stock.run_in_transaction(add_ten, exactly_once=True)
    async with stock.transaction(exactly_once=True) as outer:
        await stock.run_in_transaction(add_ten, exactly_once=True)  # its fate is the outer one's
        async with outer.transaction() as inner:
            assert inner.token is None
    assert await applied(stock) == 1
    assert await tokens(stock) == ["work"]


@pytest.mark.parametrize("bad", ["", "no-such-thing", None, 7, "12345678-1234-4234-8234-123456789abc"])
async def test_what_is_no_token_is_refused(stock: Any, bad: Any) -> None:
    with pytest.raises(UsageError, match="token: expected") as failure:
        await stock.resolve_outcome(bad)
    assert not isinstance(bad, str) or not bad or bad not in str(failure.value)


async def test_an_old_token_is_unknown(stock: Any) -> None:
    """Older than a day by its own time stamp: its row may be gone, so nobody asks."""
    assert await stock.resolve_outcome("01900000-da47-734b-ab0b-ce316b4048ae") == "unknown"
    assert await tokens(stock) == []


async def test_without_the_table_it_says_what_to_run(db: Any) -> None:
    """BEGIN fails, the body never runs, and the connection serves the next caller."""

    async def body(tx: Any) -> None:
        pytest.fail("there was no transaction")

    for _ in range(2):
        with pytest.raises(SchemaError, match="alembic upgrade head") as failure:
            await db.run_in_transaction(body, exactly_once=True)
        assert failure.value.kind is ErrorKind.SCHEMA
        assert failure.value.__context__ is None
        with pytest.raises(SchemaError, match="alembic upgrade head"):
            await db.resolve_outcome(new_token())
        assert await db.fetch_value("select 1") == 1
    assert db.stats().pool.checked_out == 0


@on_servers
async def test_a_missing_database_is_no_missing_table(stock: Any, backend: Backend, world: str) -> None:
    url = sa.make_url(backend.url).set(database="no_such_database").render_as_string(hide_password=False)
    with pytest.raises(SchemaError, match="no database of that name"):
        async with make_database(world, url).transaction(exactly_once=True):
            pytest.fail("there was no transaction")


async def test_an_error_of_the_body_is_its_own(stock: Any) -> None:
    """A missing table of the caller's, or a violated key, is told as such."""

    async def misspelt(tx: Any) -> None:
        await tx.execute("update no_such_table set x = 1")

    with pytest.raises(SchemaError) as failure:
        await stock.run_in_transaction(misspelt, exactly_once=True)
    assert "prefiq_commit_token" not in str(failure.value)

    async def twice(tx: Any) -> None:
        await tx.execute("insert into stock (id, quantity) values (1, 1)")

    with pytest.raises(UniqueViolationError):
        await stock.run_in_transaction(twice, exactly_once=True)
    assert await tokens(stock) == []


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
async def test_without_the_right_it_says_which(stock: Any, backend: Backend, world: str) -> None:
    """A user who may write the tables of the service, but not the tokens, reads which rights are missing."""
    assert backend.server is not None
    name = f"clerk_{new_token().replace('-', '')}"
    _, at, rest = backend.url.partition("@")
    database = rest.rpartition("/")[2]
    backend.server.execute(f"create role {name} login password 'clerk'")
    try:
        backend.server.execute(f"grant select, update on stock to {name}", database)
        db = make_database(world, f"postgresql://{name}:clerk{at}{rest}")
        with pytest.raises(PermissionDeniedError, match="SELECT, INSERT and DELETE rows of prefiq_commit_token"):
            await db.run_in_transaction(add_ten, exactly_once=True)
        assert await db.run_in_transaction(add_ten) == "added"
        await db.close()
    finally:
        backend.server.execute(f"drop owned by {name}", database)
        backend.server.execute(f"drop role {name}")


@pytest.mark.mariadb
async def test_a_commit_that_waits_for_its_replica_is_not_ended(
    new_mariadb_server: Callable[..., DatabaseServer], world: str
) -> None:
    """With semi-synchronous replication COMMIT waits for a replica: ending that would show what a failover loses."""
    server = new_mariadb_server(settings={"log-bin": "binlog", "server-id": "1"})
    backend = Backend("mariadb", server.url(server.create_database()), server)
    upgrade_schema(backend)
    with FaultProxy(server) as proxy:
        db = make_database(world, proxy.url(backend.url), retry=RetryPolicy(total_seconds=3))
        await db.execute("create table stock (id integer primary key, quantity integer not null)")
        await db.execute("insert into stock (id, quantity) values (1, 0)")
        await db.open()
        for setting in ("timeout = 60000", "wait_point = AFTER_SYNC", "enabled = ON"):
            server.execute(f"set global rpl_semi_sync_master_{setting}")
        with proxy.fault(DeliverLate(0), on=COMMIT, times=1), pytest.raises(OutcomeUnknownError) as failure:
            async with db.transaction(exactly_once=True) as tx:
                await add_ten(tx)
        assert failure.value.token is not None
        server.execute("set global rpl_semi_sync_master_enabled = OFF")  # as if the replica had answered
        assert await db.resolve_outcome(failure.value.token) == "committed"
        assert await applied(db) == 1
        await db.close()


# --- pruning -------------------------------------------------------------------------------------


async def _plant(db: Any, hours: float, count: int) -> None:
    """Insert tokens that are so many hours old by the server's clock."""
    name = db.engine.dialect.name
    ago = {
        "postgresql": f"current_timestamp - interval '{hours} hours'",
        "mariadb": f"utc_timestamp(6) - interval {hours * 60:.0f} minute",
        "sqlite": f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{hours} hours')",
    }[name]
    await db.execute_many(
        f"insert into prefiq_commit_token (token, written_as, created_at) values (:token, 'work', {ago})",
        [{"token": new_token()} for _ in range(count)],
    )


async def test_old_tokens_are_pruned_and_young_ones_kept(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a transaction that had a token, some of the old ones go; by a statement outside of it, never more at once
    than the limit."""
    await _plant(stock, 26, 5)
    await _plant(stock, 24.5, 3)
    core = getattr(stock, "_wrapped", stock)._core
    core.instance.pruner._due_at = 0.0
    monkeypatch.setattr("prefiq_db.exactly_once.pruning.LIMIT", 3)
    monkeypatch.setattr("prefiq_db.exactly_once.pruning._CHANCE", -1.0)
    seen: list[tuple[str, bool]] = []
    stock.hooks.before(lambda event: seen.append((event.summary, event.transaction_id is not None)))
    left = []
    for _ in range(3):
        await stock.run_in_transaction(add_ten, exactly_once=True)
        left.append(len(await tokens(stock)))
    assert left == [6, 5, 6], "3 old and then 2 old are gone, and each transaction adds its own"
    deletes = [inside for summary, inside in seen if summary.startswith("DELETE prefiq_commit_token")]
    assert deletes == [False, False], "outside of any transaction, and not again when there was nothing left"
    assert core.instance.pruner._due_at > 0


async def test_pruning_that_fails_is_nobodys_problem(
    stock: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = getattr(stock, "_wrapped", stock)._core
    core.instance.pruner._due_at = 0.0
    monkeypatch.setattr(core.road.dialect, "prune_sql", lambda age, limit: "delete from no_such_table")
    with caplog.at_level(logging.INFO, logger="prefiq_db.exactly_once"):
        assert await stock.run_in_transaction(add_ten, exactly_once=True) == "added"
    assert "were not removed (schema)" in caplog.text
    assert await applied(stock) == 1


@on_servers
async def test_pruning_costs_nobody_more_than_a_moment(stock: Any, make_db: Callable[..., Any]) -> None:
    """Somebody locks an old token, and locks are waited for much longer: the call's own limit holds all the same."""
    await _plant(stock, 26, 1)
    db = make_db(lock_timeout_seconds=300)
    await db.open()
    getattr(db, "_wrapped", db)._core.instance.pruner._due_at = 0.0
    old = await stock.fetch_value("select token from prefiq_commit_token")
    async with stock.transaction() as other:
        await other.fetch_all("select * from prefiq_commit_token where token = :old for update", {"old": old})
        await db.using(timeout=2).run_in_transaction(add_ten, exactly_once=True)
    assert await applied(stock) == 1


@on_servers
async def test_cancelled_while_pruning_it_is_committed(
    stock: Any, world: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world == "sync":
        pytest.skip("only tasks are cancelled")
    core = stock._core
    core.instance.pruner._due_at = 0.0
    pruning = asyncio.Event()

    def slow_sql(age: float, limit: int) -> str:
        pruning.set()
        return slow_read(backend)

    monkeypatch.setattr(core.road.dialect, "prune_sql", slow_sql)
    task = asyncio.create_task(stock.run_in_transaction(add_ten, exactly_once=True))
    await pruning.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    assert cancelled.value.transaction_outcome == "committed"  # type: ignore[attr-defined]
    assert await applied(stock) == 1


# --- SQLite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_a_process_that_died_in_commit_can_be_asked_for(stock: Any, backend: Backend) -> None:
    """SQLite has no reply to lose, but a process that writes can die: its token tells whether it had committed."""
    die = (
        "import os, sys\n"
        "from prefiq_db import Database\n"
        "db = Database(sys.argv[1])\n"
        "tx = db.transaction(exactly_once=True)\n"
        "tx.__enter__()\n"
        "print(tx.token, flush=True)\n"
        "tx.execute('update stock set quantity = quantity + 10 where id = 1')\n"
        "if sys.argv[2] == 'after':\n"
        "    tx.__exit__(None, None, None)\n"
        "os._exit(9)\n"
    )
    for when, expected in (("before", "not committed"), ("after", "committed")):
        command = [sys.executable, "-c", die, backend.url, when]
        died = interpreters.run(command, capture_output=True, text=True)
        assert died.returncode == 9, died.stderr
        assert await stock.resolve_outcome(died.stdout.strip()) == expected
    assert await applied(stock) == 1
