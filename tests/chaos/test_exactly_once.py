"""The bank with ``exactly_once=True``, under each fault that doubles or loses with another way to retry.

The controls beside it are in ``test_bank.py``.
"""

from __future__ import annotations

import pytest

from prefiq_db.testing.faults import CLAIM, COMMIT, Bank, CutReply, CutRequest, DeliverLate, Fault, FaultProxy, Reset
from tests.chaos.conftest import run_bank, wired
from tests.conftest import Backend


@wired
@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(
    "fault", [CutReply(), CutRequest(), DeliverLate(0.3), Reset()], ids=lambda each: type(each).__name__
)
def test_nothing_is_lost_and_nothing_is_doubled(
    backend: Backend, world: str, bank: Bank, proxy: FaultProxy, transfers: int, fault: Fault
) -> None:
    with proxy.fault(fault, on=COMMIT, probability=0.1, seed=7) as plan:
        run_bank(world, bank, proxy.url(backend.url), transfers)
    proxy.wait()
    report = bank.check()
    assert plan.hits > 0, report
    assert report.is_exact, report
    assert report.committed == transfers


@wired
@pytest.mark.usefixtures("tokens")
def test_the_claims_own_replies_may_be_lost_too(
    backend: Backend, world: str, bank: Bank, proxy: FaultProxy, transfers: int
) -> None:
    with (
        proxy.fault(CutReply(), on=COMMIT, probability=0.2, seed=7),
        proxy.fault(CutReply(), on=CLAIM, every=2) as claims,
    ):
        run_bank(world, bank, proxy.url(backend.url), transfers)
    report = bank.check()
    assert claims.hits > 0, report
    assert report.is_exact, report
    assert report.committed == transfers
