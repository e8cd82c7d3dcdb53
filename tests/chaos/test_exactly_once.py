"""The bank with ``exactly_once=True``, under each fault that doubles or loses with another way to retry.

The controls are the same runs with other ways to retry: what they double, the harness would catch of ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.testing.faults import Bank, FaultProxy
from tests.chaos.conftest import Record, run_bank, wired
from tests.chaos.controls import TOKENS, blind_retry, plain, select_the_token
from tests.chaos.racers import Racers, raced
from tests.chaos.scenarios import SCENARIOS, struck
from tests.conftest import Backend

#: Nobody gives up: each transfer ends committed, however often it is hit.
PATIENT = RetryPolicy(attempts=50, wait_initial_seconds=0.01, wait_max_seconds=0.2, total_seconds=60)

pytestmark = pytest.mark.usefixtures("tokens")


@pytest.fixture
def wide(backend: Backend) -> Bank:
    """A bank with many accounts: a COMMIT that hangs holds up a few others, not all."""
    assert backend.server is not None
    made = Bank(backend.server, backend.url.rpartition("/")[2], accounts=64)
    made.create()
    return made


@pytest.fixture
def count(transfers: int, is_long: bool) -> int:
    """Enough to be hit several times; in the short version fewer of what takes its time."""
    return transfers if is_long else transfers // 2


@wired
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost_and_nothing_is_doubled(
    backend: Backend,
    world: str,
    wide: Bank,
    proxy: FaultProxy,
    count: int,
    late_seconds: float,
    record: Record,
    name: str,
) -> None:
    with struck(proxy, SCENARIOS[name], late_seconds) as happened:
        run_bank(world, wide, proxy.url(backend.url), count, retry=PATIENT)
    proxy.wait()
    report = wide.check()
    record(name, report, happened.hits)
    assert happened.hits > 0, report
    assert report.is_exact, report
    assert report.committed == count, report


@wired
@pytest.mark.parametrize("name", ["reply cut", "late COMMIT", "everything"])
def test_whoever_asks_gets_the_same_answer_and_the_true_one(
    backend: Backend,
    world: str,
    wide: Bank,
    proxy: FaultProxy,
    count: int,
    late_seconds: float,
    is_long: bool,
    record: Record,
    name: str,
) -> None:
    """Two more databases ask for the tokens of transfers, from just before its COMMIT on."""
    racers = Racers(world, proxy.url(backend.url), every=1 if is_long else 4, retry=PATIENT, pool_size=1)
    with struck(proxy, SCENARIOS[name], late_seconds) as happened, racers.running():
        run_bank(world, wide, proxy.url(backend.url), count, transfer=raced(world, wide, racers), retry=PATIENT)
    proxy.wait()
    report = wide.check()
    record(f"{name}, raced", report, happened.hits)
    assert not racers.errors
    assert happened.hits > 0, report
    assert report.is_exact, report
    assert report.committed == count, report
    assert_answers_are_true(backend, racers)


def assert_answers_are_true(backend: Backend, racers: Racers) -> None:
    assert backend.server is not None
    assert all(len(answers) == 2 for answers in racers.answers.values())
    told = {token: answers[0] for token, answers in racers.answers.items()}
    assert [token for token, answers in racers.answers.items() if len(set(answers)) > 1] == []
    assert set(told) == set(racers.tokens)
    database = backend.url.rpartition("/")[2]
    applied = Counter(int(row[0]) for row in backend.server.execute("select transfer from bank_ledger", database))
    applied = Counter({number: times for number, times in applied.items() if number in set(racers.tokens.values())})
    assert Counter(racers.tokens[token] for token in told if told[token] == "committed") == applied
    rows = backend.server.execute("select token, written_as from prefiq_commit_token", database)
    words = {"work": "committed", "abandoned": "not committed"}
    assert {str(token): words[word] for token, word in rows if str(token) in told} == told


def test_without_faults_whoever_asks_too_early_waits(
    backend: Backend, world: str, bank: Bank, transfers: int, record: Record
) -> None:
    """SQLite, too: a question that comes while COMMIT is under way never undoes it for its caller."""
    racers = Racers(world, backend.url, retry=PATIENT, pool_size=1)
    with racers.running():
        run_bank(world, bank, backend.url, transfers, transfer=raced(world, bank, racers), retry=PATIENT)
    report = bank.check()
    record("nothing, raced", report, 0)
    assert not racers.errors
    assert report.is_exact, report
    assert report.committed == transfers
    assert {answer for answers in racers.answers.values() for answer in answers} == {"committed"}


# --- the controls --------------------------------------------------------------------------------

_ROUNDS = 5


@wired
@pytest.mark.parametrize(
    ("control", "name"), [("blind", "reply cut"), ("blind", "late COMMIT"), ("select the token", "late COMMIT")]
)
def test_the_wrong_ways_double(
    backend: Backend,
    world: str,
    wide: Bank,
    proxy: FaultProxy,
    count: int,
    late_seconds: float,
    record: Record,
    control: str,
    name: str,
) -> None:
    wide._direct.execute(TOKENS)
    ways: dict[str, Any] = {
        "blind": lambda: blind_retry(world, plain(world, wide)),
        "select the token": lambda: select_the_token(world, wide),
    }
    hits = 0
    for _ in range(_ROUNDS):  # on a busy machine a late COMMIT may arrive before anybody asks
        with struck(proxy, SCENARIOS[name], late_seconds) as happened:
            run_bank(world, wide, proxy.url(backend.url), count, transfer=ways[control]())
        proxy.wait()
        report = wide.check()
        hits += happened.hits
        if report.doubled:
            break
    record(f"{name}, {control} (control)", report, hits)
    assert hits > 0
    assert report.doubled > 0, report
    # Doubling is all that is wrong: money moved twice is still money.
    assert replace(report, doubled=0).is_exact, report
