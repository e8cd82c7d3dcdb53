"""PostgreSQL's primary is killed and its standby promoted: writes go on, nothing confirmed is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import OutcomeUnknownError, PrefiqDbError
from prefiq_db.testing import PostgresPair, PostgresServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import Backend, _find
from tests.lateness import Lateness
from tests.twins.harness import Harness, make_database
from tests.twins.support import upgrade_schema

pytestmark = pytest.mark.postgresql

ACCOUNTS = 8
CLIENTS = 4
BEFORE, AFTER = 30, 30  # transfers of each client, before the failover and after it
PATIENT = RetryPolicy(attempts=200, wait_initial_seconds=0.02, wait_max_seconds=0.1, total_seconds=15)


@pytest.fixture
def pair() -> Iterator[PostgresPair]:
    _find(PostgresServer)
    with PostgresPair() as made:
        yield made


@dataclass
class Ledger:
    """What the clients were told."""

    confirmed: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


async def make_bank(db: Any) -> None:
    await db.execute("create table account (id integer primary key, balance integer not null)")
    # No key on purpose: a transfer that was made twice must show.
    await db.execute("create table transfer (number integer not null, source integer, target integer)")
    await db.execute_many(
        "insert into account (id, balance) values (:id, 100)", [{"id": number} for number in range(ACCOUNTS)]
    )


async def transfer(tx: Any, number: int) -> None:
    source, target = number % ACCOUNTS, (number * 3 + 1) % ACCOUNTS
    # In the order of the accounts, so that two transfers never deadlock; the servers' failure is what is tested.
    for account, by in sorted(((source, -1), (target, 1))):
        await tx.execute("update account set balance = balance + :by where id = :id", {"by": by, "id": account})
    await tx.execute(
        "insert into transfer (number, source, target) values (:number, :source, :target)",
        {"number": number, "source": source, "target": target},
    )


async def client(db: Any, ledger: Ledger, numbers: range, **options: Any) -> None:
    for number in numbers:
        try:
            await db.run_in_transaction(transfer, number, **options)
        except OutcomeUnknownError:
            ledger.unknown.append(number)
        except PrefiqDbError:
            ledger.failed.append(number)
        else:
            ledger.confirmed.append(number)


async def check(db: Any, ledger: Ledger) -> Counter[int]:
    """Compare what the clients were told with what the database says; return how often each transfer is there."""
    rows = Counter(row.number for row in await db.fetch_all("select number from transfer"))
    assert not [number for number in ledger.confirmed if rows[number] == 0], "lost"
    assert not [number for number, times in rows.items() if times > 1], "doubled"
    assert not [number for number in ledger.failed if rows[number]], "said to have failed, and didn't"
    assert set(rows) <= {*ledger.confirmed, *ledger.unknown}
    assert await db.fetch_value("select sum(balance) from account") == 100 * ACCOUNTS
    return rows


@pytest.mark.parametrize(
    ("how", "exactly_once"),
    [("kill", False), ("kill", True), ("freeze", True)],
    ids=["killed-plain", "killed-exactly_once", "frozen-exactly_once"],
)
async def test_a_killed_primary_costs_no_confirmed_transfer(
    how: str, exactly_once: bool, pair: PostgresPair, harness: Harness, world: str, loop_runner: asyncio.Runner
) -> None:
    """Four clients transfer through a URL of both hosts while the primary is killed; the standby takes over.

    Plain, a COMMIT that was in flight is told as unknown. Exactly once, not a single one is. A primary that is frozen
    instead keeps its connections open and says nothing: time ends them.
    """
    name = pair.create_database()
    upgrade_schema(Backend("postgresql", pair.primary.url(name), pair.primary))
    db = make_database(
        world, pair.url(name), pool_size=CLIENTS, max_overflow=0, retry=PATIENT,
        statement_timeout_seconds=2, connect_timeout_seconds=2, retry_budget=10_000,
    )  # fmt: skip
    try:
        await make_bank(db)
        ledger = Ledger()
        promoted_at = 0.0
        resumed_after: list[float] = []

        fail = pair.primary.kill if how == "kill" else pair.primary.freeze

        async def failover() -> None:
            nonlocal promoted_at
            await harness.until(lambda: _true(len(ledger.confirmed) >= CLIENTS * BEFORE))
            if world == "async":
                await asyncio.to_thread(fail)
                await asyncio.to_thread(pair.promote)
            else:
                fail()
                pair.promote()
            promoted_at = time.monotonic()
            confirmed = len(ledger.confirmed)
            await harness.until(lambda: _true(len(ledger.confirmed) > confirmed))
            resumed_after.append(time.monotonic() - promoted_at)

        def work(first: int) -> Any:
            async def run() -> None:
                number = first
                while not resumed_after or number < first + BEFORE + AFTER:
                    await client(db, ledger, range(number, number + 1), exactly_once=exactly_once)
                    number += 1

            return run

        with Lateness() as late:
            await harness.together(failover, *(work(number * 1_000_000) for number in range(CLIENTS)))
        # On a silent server a statement ends with its time, and that is not repeated by itself: it may take as long.
        assert len(ledger.failed) <= (CLIENTS if how == "freeze" else 0), "each could be repeated on the new primary"
        # At most what was in flight when the primary died: its COMMIT was sent and never answered.
        assert len(ledger.unknown) <= (0 if exactly_once else CLIENTS)
        assert resumed_after[0] < 10 + late.seconds
        await check(db, ledger)
        port = await db.fetch_value("select inet_server_port()")
        assert port == pair.primary.port
        assert await db.fetch_value("select pg_is_in_recovery()") is False
        assert db.stats().pool.checked_out == 0
    finally:
        await db.close()


async def test_control_the_checker_sees_a_lost_and_a_doubled_transfer(
    world: str, loop_runner: asyncio.Runner, postgresql_server: Any
) -> None:
    """The comparison fails when a confirmed transfer is missing, is there twice, or one that failed is there."""
    database = postgresql_server.create_database()
    db = make_database(world, postgresql_server.url(database))
    try:
        await make_bank(db)
        ledger = Ledger()
        await client(db, ledger, range(3))
        await check(db, ledger)
        for spoil, restore, word in (
            ("delete from transfer where number = 1", "insert into transfer (number) values (1)", "lost"),
            ("insert into transfer (number) values (2)", "delete from transfer where number = 2 and source is null",
             "doubled"),
        ):  # fmt: skip
            await db.execute(spoil)
            with pytest.raises(AssertionError, match=word):
                await check(db, ledger)
            await db.execute(restore)
            await check(db, ledger)
        ledger.failed.append(ledger.confirmed.pop())
        with pytest.raises(AssertionError, match="said to have failed"):
            await check(db, ledger)
    finally:
        await db.close()
        postgresql_server.drop_database(database)


async def test_what_the_standby_has_not_got_is_not_called_committed(pair: PostgresPair, world: str) -> None:
    """COMMIT waits for a standby that is away: who asks must not end that wait, and take what it then sees for safe."""
    name = pair.create_database()
    upgrade_schema(Backend("postgresql", pair.primary.url(name), pair.primary))
    pair.primary.execute("create table item (id integer)", name)
    db = make_database(
        world, pair.primary.url(name), statement_timeout_seconds=1, retry=RetryPolicy(total_seconds=4), pool_size=1
    )
    waiting = "from pg_stat_activity where wait_event = 'SyncRep' and application_name not like 'prefiq_db claim %'"
    standby = pair.standby
    assert standby is not None
    try:
        await db.open()
        standby.stop()
        with pytest.raises(OutcomeUnknownError) as failure:
            async with db.transaction(exactly_once=True) as tx:
                await tx.execute("insert into item values (1)")
        assert pair.primary.execute(f"select count(*) {waiting}")[0][0] == 1, "it waits still"
        # An administrator ends the wait. Now everybody sees the row, which the standby hasn't got all the same.
        pair.primary.execute(f"select pg_cancel_backend(pid) {waiting}")
        assert wait_until(lambda: pair.primary.execute("select 1 from item", name), timeout_seconds=10)
        assert await db.resolve_outcome(failure.value.token) == "unknown"
        standby.start()
        assert await db.resolve_outcome(failure.value.token) == "committed"
        pair.primary.kill()
        pair.promote()
        assert pair.primary.execute("select count(*) from item", name)[0][0] == 1
    finally:
        await db.close()


async def test_control_an_asynchronous_standby_loses_what_was_confirmed() -> None:
    """Why the pair is synchronous: a standby that was behind knows nothing of a row that was confirmed."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        pair.primary.execute("create table item (id integer)", name)
        standby = pair.standby
        assert standby is not None
        for there, database in (
            (f"select 1 from pg_database where datname = '{name}'", None),
            ("select 1 from pg_class where relname = 'item'", name),
        ):
            assert wait_until(lambda there=there, at=database: standby.execute(there, at), timeout_seconds=10)
        standby.stop()
        pair.primary.execute("insert into item values (1)", name)
        pair.primary.kill()
        standby.start()
        pair.promote()
        assert pair.primary.execute("select count(*) from item", name)[0][0] == 0


async def _true(answer: bool) -> bool:
    return answer
