"""MongoDB's own specification tests, in both worlds, against the scripted server: what applies holds for our mapping.

What doesn't apply is skipped by name: ``python -m tests.mongo.specifications`` lists each test, what became of it and
why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pymongo import common

from prefiq_db.errors import PrefiqDbError
from prefiq_db.mongo import session_block
from prefiq_db.mongo.session_block import SessionBlock
from prefiq_db.reports import Outcome
from prefiq_db.testing.servers import is_required
from tests.mongo.specifications.spec_differences import DIFFERENCES
from tests.mongo.specifications.spec_files import SPECIFICATIONS, Case, cases, why_not
from tests.mongo.specifications.spec_runner import Run, SkippedError
from tests.mongo.specifications.spec_server import SpecServer

#: At least so many tests of each specification must run and hold: a runner that skips everything proves nothing.
_AT_LEAST = {
    "transactions": 50,
    "transactions-convenient-api": 14,
    "retryable_writes": 65,
    "retryable_reads": 70,
    "crud": 140,
}
_BY_FILE: dict[str, list[Case]] = {}
for _case in cases():
    _BY_FILE.setdefault(_case.file, []).append(_case)


@pytest.fixture(scope="module")
def spec_server() -> Iterator[SpecServer]:
    if reason := why_not():
        if is_required("mongodb_specifications"):
            pytest.fail(f"mongodb_specifications are demanded, but {reason}", pytrace=False)
        pytest.skip(reason)
    with SpecServer() as server:
        yield server


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyMongo look for a lost server at once, as its own tests do."""
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)


async def run_all(
    chosen: Sequence[Case], server: SpecServer, make: Callable[..., Any]
) -> tuple[list[str], list[str], dict[str, str]]:
    """Return which tests held, which failed with what, and which were skipped with the reason."""
    held, failed, skipped = [], [], {}
    made: list[Any] = []

    def make_one(url: str, **fields: Any) -> Any:
        made.append(make(url, **fields))
        return made[-1]

    for case in chosen:
        try:
            await Run(case, server, make_one).run()
            held.append(case.name)
        except SkippedError as reason:
            skipped[case.name] = str(reason)
        except AssertionError as error:
            failed.append(f"{case.name}: {error}")
        while made:
            await made.pop().close()
    return held, failed, skipped


@pytest.mark.timeout(600)  # hundreds of tests each, and the machine may be busy
@pytest.mark.parametrize("specification", SPECIFICATIONS)
async def test_what_applies_of_a_specification_holds(
    specification: str, spec_server: SpecServer, make_db: Callable[..., Any]
) -> None:
    chosen = [case for case in cases() if case.specification == specification and case.name not in DIFFERENCES]
    held, failed, skipped = await run_all(chosen, spec_server, make_db)
    assert failed == []
    assert len(held) >= _AT_LEAST.get(specification, 1), Counter(skipped.values()).most_common(10)


async def test_what_differs_on_purpose_still_differs(spec_server: SpecServer, make_db: Callable[..., Any]) -> None:
    chosen = [case for case in cases() if case.name in DIFFERENCES]
    assert {case.name for case in chosen} == set(DIFFERENCES), "an entry names no test"
    held, _, skipped = await run_all(chosen, spec_server, make_db)
    assert (held, skipped) == ([], {})


# --- controls ------------------------------------------------------------------------------------


async def failures(file: str, server: SpecServer, make: Callable[..., Any]) -> list[str]:
    return (await run_all(_BY_FILE[file], server, make))[1]


async def test_control_a_commit_that_is_repeated_with_its_body_fails(
    spec_server: SpecServer, make_db: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(self: SessionBlock) -> PrefiqDbError | None:
        error = self._send_commit(1)
        if error is not None:
            self.outcome = Outcome.NOT_COMMITTED
            error.classification = replace(error.classification, retry_transaction=True)
        return error

    monkeypatch.setattr(SessionBlock, "_send_commits", careless)
    found = await failures("transactions-convenient-api/commit-writeconcernerror", spec_server, make_db)
    assert len(found) >= 4


@pytest.mark.parametrize("file", ["callback-retry", "commit-transienttransactionerror"])
async def test_control_a_transient_label_that_is_ignored_fails(
    file: str, spec_server: SpecServer, make_db: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_block, "_has_label", lambda error, label: False)
    assert await failures(f"transactions-convenient-api/{file}", spec_server, make_db)


async def test_control_a_read_that_is_never_repeated_fails(
    spec_server: SpecServer, make_db: Callable[..., Any]
) -> None:
    def make(url: str, **fields: Any) -> Any:
        return make_db(url, **{**fields, "retry": {"attempts": 1}})

    assert len(await failures("retryable_reads/find", spec_server, make)) >= 2
    assert await failures("retryable_reads/find", spec_server, make_db) == []


async def test_control_a_server_that_plays_no_fail_point_fails(
    spec_server: SpecServer, make_db: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SpecServer, "set_fail_point", lambda self, command: None)
    assert await failures("retryable_writes/insertOne", spec_server, make_db)
