"""All contenders of one database, compared: each operation in each world, on loopback and on the slow link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import workload as w
from benchmarks.contenders import PLAIN, RAW
from benchmarks.measuring import Spread, ratio, say, take_turns
from benchmarks.places import Place, make_place
from benchmarks.slow_link import ONE_WAY_SECONDS, slow_link
from benchmarks.worlds import AsyncWorld, SyncWorld, World

SLOW = f"{ONE_WAY_SECONDS * 2000:g} ms"
LOOPBACK = "loopback"
_SLOW_LINK_SHARE = 4  # of the calls: each takes longer


@dataclass(frozen=True, slots=True)
class Result:
    """What one contender took for one operation.

    Attributes:
        seconds: of a call; of tasks and threads, between two calls that end.
        of_sqlalchemy: as a multiple of plain SQLAlchemy in the same round; ``None`` if that has no such operation.
        of_raw: likewise of the raw driver.
        of_others: likewise of each other contender.
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
    """How long to measure: rounds, and the share of the workload's calls in each."""

    rounds: int = 11
    share: float = 1.0
    operations: tuple[str, ...] = w.OPERATIONS

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
    operations = effort.operations if network == LOOPBACK else w.ON_THE_SLOW_LINK
    with world.opened(place) as contenders:
        for operation in (each for each in operations if each in effort.operations):
            calls = effort.calls(operation, network)
            able = {name: has[operation] for name, has in contenders.items() if operation in has}
            turns = {name: world.turn(call, operation, calls) for name, call in able.items()}
            seconds = take_turns(turns, effort.rounds)
            for name in turns:
                of_others = {other: ratio(seconds, name, other) for other in turns if other != name}
                trips = round_trips.get(name, {}).get(operation)
                yield Result(
                    place.name, world.name, network, operation, name, Spread.of(seconds[name]), of_others, trips
                )
