"""The checker finds each anomaly in a history made by hand, and nothing in clean ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefiq_db.errors import UsageError
from prefiq_db.testing.faults import (
    Append,
    HistoryReport,
    HistoryTransaction,
    Read,
    check_history,
    forbidden,
)

X, Y, Z = 1, 2, 3


def a(key: int, value: int) -> Append:
    return Append(key, value)


def r(key: int, *values: int) -> Read:
    return Read(key, values)


def check(
    *bodies: Any, final: Mapping[int, tuple[int, ...]] | None = None, aborted: tuple[int, ...] = ()
) -> HistoryReport:
    """Check transactions 1, 2, ... with these operations."""
    return check_history(
        [HistoryTransaction(number, tuple(body), number not in aborted) for number, body in enumerate(bodies, 1)], final
    )


def names(report: HistoryReport) -> set[str]:
    return {anomaly.name for anomaly in report.anomalies}


# --- clean ones ----------------------------------------------------------------------------------


def test_one_after_the_other_is_clean() -> None:
    report = check([a(X, 1)], [r(X, 1), a(X, 2), r(X, 1, 2)], [r(X, 1, 2), r(Y)], final={X: (1, 2), Y: ()})
    assert report.anomalies == ()
    assert str(report) == "3 committed, 0 aborted, 0 unknown; no anomaly"


def test_what_was_rolled_back_and_not_seen_is_clean() -> None:
    assert check([a(X, 1)], [a(X, 2)], [r(X, 1)], final={X: (1,)}, aborted=(2,)).anomalies == ()


def test_what_an_aborted_transaction_read_does_not_count() -> None:
    assert check([a(X, 1)], [r(X, 7)], final={X: (1,)}, aborted=(2,)).anomalies == ()


def test_an_unknown_one_may_have_happened_or_not() -> None:
    unknown = HistoryTransaction(1, (a(X, 1),), None)
    for final in ({X: (1,)}, {X: ()}):
        assert check_history([unknown], final).anomalies == ()
    assert check_history([unknown]).unknown == 1


@given(st.integers(0, 10**9), st.integers(1, 30))
def test_any_serial_history_is_clean(seed: int, count: int) -> None:
    choice = random.Random(seed)
    lists: dict[int, list[int]] = {key: [] for key in (X, Y, Z)}
    value, bodies, aborted = 0, [], []
    for number in range(1, count + 1):
        now = {key: list(values) for key, values in lists.items()}
        body: list[Append | Read] = []
        for _ in range(choice.randint(1, 5)):
            key = choice.choice((X, Y, Z))
            if choice.random() < 0.5:
                value += 1
                now[key].append(value)
                body.append(a(key, value))
            else:
                body.append(r(key, *now[key]))
        bodies.append(body)
        if choice.random() < 0.2:
            aborted.append(number)
        else:
            lists = now
    final = {key: tuple(values) for key, values in lists.items()}
    assert check(*bodies, final=final, aborted=tuple(aborted)).anomalies == ()


@given(st.integers(0, 10**9))
def test_any_snapshot_history_has_nothing_beyond_a_snapshot(seed: int) -> None:
    """First committer wins on what was written; reads are of the snapshot: write skew may be, and nothing worse."""
    choice = random.Random(seed)
    lists: dict[int, list[int]] = {key: [] for key in (X, Y, Z)}
    value, bodies = 0, []
    for _ in range(15):
        concurrent = []
        for _ in range(choice.randint(1, 3)):  # they begin together, and commit in some order
            now = {key: list(values) for key, values in lists.items()}
            body: list[Append | Read] = []
            written = set()
            for _ in range(choice.randint(1, 4)):
                key = choice.choice((X, Y, Z))
                if choice.random() < 0.5:
                    value += 1
                    now[key].append(value)
                    written.add(key)
                    body.append(a(key, value))
                else:
                    body.append(r(key, *now[key]))
            concurrent.append((body, written, now))
        taken: set[int] = set()
        for body, written, now in concurrent:
            if not written & taken:
                taken |= written
                bodies.append(body)
                lists |= {key: now[key] for key in written}
    report = check(*bodies, final={key: tuple(values) for key, values in lists.items()})
    assert report.beyond("REPEATABLE READ") == ()


def interleaved(choice: random.Random) -> tuple[list[list[Append | Read]], dict[int, tuple[int, ...]]]:
    """Run four transactions without any isolation, operation by operation; return what they did and the lists."""
    lists: dict[int, list[int]] = {X: [], Y: []}
    bodies: list[list[Append | Read]] = [[] for _ in range(4)]
    for value in range(1, choice.randint(4, 11)):
        body, key = choice.choice(bodies), choice.choice((X, Y))
        if choice.random() < 0.5:
            lists[key].append(value)
            body.append(a(key, value))
        else:
            body.append(r(key, *lists[key]))
    return bodies, {key: tuple(values) for key, values in lists.items()}


def is_explained(bodies: Iterable[list[Append | Read]], final: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether the transactions, one after the other in some order, do and see just that."""
    return any(is_serial(order, final) for order in permutations(bodies))


def is_serial(bodies: Iterable[list[Append | Read]], final: Mapping[int, tuple[int, ...]]) -> bool:
    lists: dict[int, tuple[int, ...]] = {X: (), Y: ()}
    for body in bodies:
        for operation in body:
            if isinstance(operation, Append):
                lists[operation.key] += (operation.value,)
            elif operation.values != lists[operation.key]:
                return False
    return lists == final


@settings(max_examples=400)
@given(st.integers(0, 10**9))
def test_a_history_is_clean_if_and_only_if_some_order_explains_it(seed: int) -> None:
    bodies, final = interleaved(random.Random(seed))
    assert (check(*bodies, final=final).anomalies == ()) is is_explained(bodies, final)


def test_the_property_above_sees_both_kinds() -> None:
    assert {is_explained(*interleaved(random.Random(seed))) for seed in range(50)} == {True, False}


# --- each anomaly --------------------------------------------------------------------------------

LEVELS = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

# What is read, what must be found, and the lowest level that forbids it.
ANOMALIES: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "G0": ([[a(X, 1), a(Y, 2)], [a(X, 3), a(Y, 4)]], {"final": {X: (1, 3), Y: (4, 2)}}, "READ UNCOMMITTED"),
    "G1a": ([[a(X, 1)], [r(X, 1)]], {"aborted": (1,)}, "READ COMMITTED"),
    "G1b": ([[a(X, 1), a(X, 2)], [r(X, 1)]], {"final": {X: (1, 2)}}, "READ COMMITTED"),
    "G1c": ([[a(X, 1), r(Y, 2)], [a(Y, 2), r(X, 1)]], {}, "READ COMMITTED"),
    "internal": ([[a(X, 1), r(X)]], {"final": {X: (1,)}}, "READ COMMITTED"),
    "G-single": ([[r(X), r(Y, 2)], [a(X, 1), a(Y, 2)]], {"final": {X: (1,), Y: (2,)}}, "REPEATABLE READ"),
    "lost update": ([[r(X), a(X, 1)], [r(X), a(X, 2)]], {"final": {X: (1, 2)}}, "REPEATABLE READ"),
    "G-nonadjacent": (
        # 1 -rw-> 2 -wr-> 3 -rw-> 4 -wr-> 1
        [[r(X), r(Y, 4)], [a(X, 2), a(Z, 2)], [r(Z, 2), r(Y)], [a(Y, 4)]],
        {"final": {X: (2,), Y: (4,), Z: (2,)}},
        "REPEATABLE READ",
    ),
    "G2-item": (
        [[r(X), r(Y), a(X, 1)], [r(X), r(Y), a(Y, 2)]],  # write skew
        {"final": {X: (1,), Y: (2,)}},
        "SERIALIZABLE",
    ),
    "incompatible order": ([[a(X, 1)], [a(X, 2)], [r(X, 1, 2)], [r(X, 2)]], {}, "READ UNCOMMITTED"),
    "doubled append": ([[a(X, 1)]], {"final": {X: (1, 1)}}, "READ UNCOMMITTED"),
    "lost append": ([[a(X, 1)], [a(X, 2)]], {"final": {X: (2,)}}, "READ UNCOMMITTED"),
    "unknown value": ([[r(X, 7)]], {}, "READ UNCOMMITTED"),
}


@pytest.mark.parametrize("name", ANOMALIES)
def test_each_anomaly_is_found_and_forbidden_from_its_level_on(name: str) -> None:
    bodies, options, lowest = ANOMALIES[name]
    report = check(*bodies, **options)
    assert name in names(report), report
    for level in LEVELS:
        is_forbidden = LEVELS.index(level) >= LEVELS.index(lowest)
        assert (name in {anomaly.name for anomaly in report.beyond(level)}) is is_forbidden, level


def test_the_tests_know_every_anomaly() -> None:
    assert set(ANOMALIES) == forbidden("SERIALIZABLE")


@pytest.mark.parametrize("name", ["G0", "G1c", "G-single", "G-nonadjacent", "G2-item"])
def test_a_cycle_is_told_by_its_own_name_and_no_worse(name: str) -> None:
    bodies, options, lowest = ANOMALIES[name]
    report = check(*bodies, **options)
    below = LEVELS[: LEVELS.index(lowest)]
    assert all(not report.beyond(level) for level in below)


def test_a_cycle_is_shown_with_its_dependencies() -> None:
    bodies, options, _ = ANOMALIES["G-single"]
    (anomaly,) = check(*bodies, **options).anomalies
    assert anomaly.transactions == (1, 2)
    assert anomaly.explanation == "1 -rw-> 2 -wr-> 1"
    assert str(check(*bodies, **options)) == "2 committed, 0 aborted, 0 unknown; 1 G-single"


def test_what_was_denied_and_is_there_at_the_end_is_found() -> None:
    """A retry that said "not committed" of what had committed."""
    report = check([a(X, 1)], [a(X, 2)], final={X: (1, 2)}, aborted=(1,))
    assert names(report) == {"G1a"}
    assert report.anomalies[0].transactions == (0, 1)


def test_a_long_cycle_among_many_is_found() -> None:
    count = 300
    # Each reads the next one's list before the next one appends, all around the ring.
    ring = [[r(number % count + 1), a(number, number)] for number in range(1, count + 1)]
    report = check(*ring, final={number: (number,) for number in range(1, count + 1)})
    assert names(report) == {"G2-item"}
    assert len(report.anomalies[0].transactions) == count
    assert check(*ring[:-1], final={number: (number,) for number in range(1, count)}).anomalies == ()


def test_innodb_repeatable_read_forbids_less() -> None:
    bodies, options, _ = ANOMALIES["lost update"]
    report = check(*bodies, **options)
    assert report.beyond("repeatable_read")
    assert not report.beyond("INNODB REPEATABLE READ")


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError, match="level"):
        check([a(X, 1)]).beyond("SNAPSHOT")
    with pytest.raises(UsageError, match="value"):
        check([a(X, 1)], [a(X, 1)])
    with pytest.raises(UsageError, match="number"):
        check_history([HistoryTransaction(0, ())])
