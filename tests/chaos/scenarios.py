"""What happens to the network in a run: the faults at COMMIT, at the claims, or everywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from prefiq_db.testing.faults import (
    CLAIM,
    COMMIT,
    STATEMENT,
    CutReply,
    CutRequest,
    Delay,
    DeliverLate,
    Fault,
    FaultPlan,
    FaultProxy,
    FaultyLink,
    Message,
    Reset,
    Slice,
)

_SEED = 7
FOR_EVER = float("inf")


def _holds_a_token(message: Message) -> bool:
    """The COMMIT of somebody's work: who else is cut leaves a session that holds nothing, which nobody has to end."""
    return message.is_commit and not message.is_claim


class LateByChance:
    """A late delivery, each after another time."""

    def __init__(self, least_seconds: float, most_seconds: float) -> None:
        self._least, self._most = least_seconds, most_seconds
        self._random = random.Random(_SEED)

    def strike(self, link: FaultyLink, message: Message) -> None:
        DeliverLate(self._random.uniform(self._least, self._most)).strike(link, message)


@dataclass(frozen=True, slots=True)
class Hit:
    """One fault, on such a part of the messages."""

    fault: Fault
    on: Callable[[Message], bool] = COMMIT
    probability: float = 0.1


#: Made anew for each run: faults have a generator of their own. The argument is the longest delay.
Scenario = Callable[[float], list[Hit]]

SCENARIOS: dict[str, Scenario] = {
    "reply cut": lambda late: [Hit(CutReply())],
    "reply cut, claims too": lambda late: [Hit(CutReply()), Hit(CutReply(), CLAIM, 0.5)],
    "request cut": lambda late: [Hit(CutRequest())],
    "late COMMIT": lambda late: [Hit(LateByChance(0.1, late))],
    "zombies for ever": lambda late: [Hit(CutRequest(zombie_seconds=FOR_EVER), _holds_a_token)],
    "everything": lambda late: [
        Hit(CutReply(), CLAIM, 0.3),
        Hit(CutRequest(), CLAIM, 0.2),
        Hit(LateByChance(0.05, 0.5), CLAIM, 0.1),
        Hit(CutReply(), COMMIT, 0.03),
        Hit(CutReply(after_bytes=3), COMMIT, 0.02),
        Hit(CutReply(polite=True, zombie_seconds=1), COMMIT, 0.02),
        Hit(CutRequest(), COMMIT, 0.03),
        Hit(CutRequest(zombie_seconds=FOR_EVER), _holds_a_token, 0.02),
        Hit(LateByChance(0.1, late), COMMIT, 0.05),
        Hit(Reset(), COMMIT, 0.03),
        Hit(Delay(request_seconds=0.05), COMMIT, 0.02),
        Hit(Delay(reply_seconds=0.05), COMMIT, 0.02),
        Hit(Slice(1), COMMIT, 0.05),
        Hit(CutReply(), STATEMENT, 0.005),
        Hit(CutRequest(polite=True), STATEMENT, 0.005),
        Hit(Slice(2), STATEMENT, 0.02),
    ],
}


class Struck:
    """The plans of a scenario that is under way."""

    def __init__(self, plans: list[FaultPlan]) -> None:
        self._plans = plans

    @property
    def hits(self) -> int:
        return sum(plan.hits for plan in self._plans)


@contextmanager
def struck(proxy: FaultProxy, scenario: Scenario, late_seconds: float) -> Iterator[Struck]:
    """Let a scenario happen to whoever comes through *proxy*; what was begun goes on afterwards."""
    with ExitStack() as stack:
        plans: list[Any] = []
        for number, hit in enumerate(scenario(late_seconds)):
            plan = proxy.fault(hit.fault, hit.on, probability=hit.probability, seed=_SEED + number)
            plans.append(stack.enter_context(plan))
        yield Struck(plans)
