"""All contenders of one database, compared: each operation in each world, on loopback and on the slow link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import workload as w
from benchmarks.contenders import OURS, PLAIN, RAW
from benchmarks.measuring import Spread, ratio, say, take_turns
from benchmarks.places import Place, make_place
from benchmarks.slow_link import ONE_WAY_SECONDS, slow_link
from benchmarks.worlds import AsyncWorld, SyncWorld, World

SLOW = f"{ONE_WAY_SECONDS * 2000:g} ms"
LOOPBACK = "loopback"
_ROUNDS_OF_A_SITTING = 2
_SLOW_LINK_SHARE = 4  # of the calls: each takes longer


@dataclass(frozen=True, slots=True)
class Result:
    """What one contender took for one operation.

    Attributes:
        seconds: of a call; of tasks and threads, between two calls that end.
        of_sqlalchemy: as a multiple of plain SQLAlchemy in the same round; ``None`` if that has no such operation.
        of_raw: likewise of the raw driver.
        of_others: those two by name, and for prefiq_db all other contenders.
        round_trips: of a call; ``None`` where there is no wire, and for tasks and threads.
    """

    database: str
    world: str
    network: str
    operation: str
    contender: str
    seconds: Spread
    of_others: Mapping[str, Spread]
    round_trips: int | None = None

    @property
    def of_sqlalchemy(self) -> Spread | None:
        return self.of_others.get(PLAIN)

    @property
    def of_raw(self) -> Spread | None:
        return self.of_others.get(RAW)


@dataclass(slots=True)
class Comparison:
    """Everything about one database."""

    database: str
    version: str
    results: list[Result] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds, and the share of the workload's calls in each.

    In a sitting of some rounds each contender keeps its connections. On a busy machine one of them can be slower than
    another by half, all the time, because of the processor on which the system runs its server's process or thread. So
    there are several sittings, each with new connections.
    """

    rounds: int = 12
    share: float = 1.0
    operations: tuple[str, ...] = w.OPERATIONS

    def sittings(self) -> Iterator[int]:
        """Yield the rounds of each sitting."""
        for start in range(0, self.rounds, _ROUNDS_OF_A_SITTING):
            yield min(_ROUNDS_OF_A_SITTING, self.rounds - start)

    def calls(self, operation: str, network: str) -> int:
        calls = w.CALLS[operation] * self.share / (_SLOW_LINK_SHARE if network != LOOPBACK else 1)
        return max(1, round(calls))


def compare(name: str, effort: Effort, *, loop_factory: Callable[[], Any] | None = None) -> Comparison:
    """Measure the contenders of a database that is made for this, and removed afterwards."""
    with make_place(name) as place, asyncio.Runner(loop_factory=loop_factory) as runner:
        comparison = Comparison(name, place.version)
        for world in (SyncWorld(), AsyncWorld(runner)):
            say(f"{name} {place.version}, {world.name}")
            round_trips = world.count_round_trips(place) if place.port else {}
            comparison.results += _measure(world, LOOPBACK, place, effort, round_trips)
            if place.port:
                with slow_link(place.port) as port:
                    comparison.results += _measure(world, SLOW, place.at_port(port), effort, round_trips)
            comparison.not_measured |= world.not_measured
        return comparison


def _measure(
    world: World, network: str, place: Place, effort: Effort, round_trips: Mapping[str, Mapping[str, int]]
) -> Iterator[Result]:
    operations = [each for each in effort.operations if network == LOOPBACK or each in w.ON_THE_SLOW_LINK]
    found: dict[str, dict[str, list[float]]] = {operation: {} for operation in operations}
    for rounds in effort.sittings():
        with world.opened(place) as contenders:
            for operation in operations:
                calls = effort.calls(operation, network)
                able = {name: has[operation] for name, has in contenders.items() if operation in has}
                turns = {name: world.turn(call, operation, calls) for name, call in able.items()}
                for name, seconds in take_turns(turns, rounds).items():
                    found[operation].setdefault(name, []).extend(seconds)
    for operation, times in found.items():
        for name, seconds in times.items():
            others = times if name == OURS else (PLAIN, RAW)
            of_others = {each: ratio(times, name, each) for each in others if each in times and each != name}
            trips = round_trips.get(name, {}).get(operation)
            yield Result(place.name, world.name, network, operation, name, Spread.of(seconds), of_others, trips)
