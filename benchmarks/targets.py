"""What prefiq_db is meant to reach, with everything on. The report puts what was measured beside it, met or missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks import workload as w
from benchmarks.comparing import LOOPBACK, SLOW
from benchmarks.contenders import LISTENER, OURS, PLAIN, RAW

_EVERYWHERE = ("sqlite", "postgresql", "mariadb")


@dataclass(frozen=True, slots=True)
class Target:
    """A limit for our time as a multiple of *other*'s.

    Attributes:
        as_rate: told and shown the other way round: how many times as many calls in the same time.
    """

    database: str
    world: str
    operation: str
    other: str
    limit: float
    network: str = LOOPBACK
    as_rate: bool = False

    def shown(self, ratio: float) -> str:
        return f"{1 / ratio:.2f} times" if self.as_rate else f"x{ratio:.2f}"

    @property
    def limit_shown(self) -> str:
        return f">= {1 / self.limit:g} times" if self.as_rate else f"<= x{self.limit:g}"


def _times() -> list[Target]:
    point = {"sync": (0.20, 0.25, 0.50), "async": (0.20, 0.20, 0.25)}
    found = [
        Target(database, world, w.POINT, PLAIN, limit)
        for world, limits in point.items()
        for database, limit in zip(_EVERYWHERE, limits, strict=True)
    ]
    for world in ("sync", "async"):
        found += [Target(database, world, w.TRANSACTION, PLAIN, 0.70) for database in _EVERYWHERE]
        found += [Target(database, world, w.TRANSACTION, PLAIN, 0.75, SLOW) for database in _EVERYWHERE[1:]]
        found += [
            Target(database, world, w.MANY_ROWS, RAW, 0.70 if (database, world) == ("mariadb", "sync") else 1.15)
            for database in _EVERYWHERE
        ]
    return found


def _rates() -> list[Target]:
    tasks = [("sqlite", PLAIN, 4), ("postgresql", PLAIN, 10), ("postgresql", "asyncpg pool", 2)]
    tasks += [("mariadb", PLAIN, 5), ("mariadb", "asyncmy pool", 1)]
    threads = [("sqlite", 2.2), ("postgresql", 7), ("mariadb", 2.4)]
    return [
        *(Target(name, "async", w.TASKS, other, 1 / times, as_rate=True) for name, other, times in tasks),
        *(Target(name, "sync", w.THREADS, PLAIN, 1 / times, as_rate=True) for name, times in threads),
    ]


TARGETS = (*_times(), *_rates())


@dataclass(frozen=True, slots=True)
class InstructionTarget:
    """A limit for the instructions of a call.

    Attributes:
        than: an operation of ours, or a contender of the same operation, that may cost this much less; empty: none.
    """

    place: str
    limit: int
    than: str = ""

    def measured(self, counts: Mapping[str, Mapping[str, int]]) -> int | None:
        """Return what it is held against, from counts by place and contender; ``None`` if it was not counted."""
        found = counts.get(self.place, {})
        mine = found.get(OURS, found.get(LISTENER))
        if not self.than:
            return mine
        base = found.get(self.than, counts.get(self.than, {}).get(OURS))
        return None if mine is None or base is None else mine - base


INSTRUCTION_TARGETS = (
    InstructionTarget(f"sqlite sync {w.POINT}", 60_000),
    InstructionTarget(f"postgresql sync {w.POINT}", 150_000),
    InstructionTarget(f"mariadb sync {w.POINT}", 45_000, RAW),
    InstructionTarget(f"sqlite sync {w.TRANSACTION}", 180_000),
    InstructionTarget(f"postgresql sync {w.TRANSACTION}", 400_000),
    InstructionTarget(f"sqlite async {w.POINT}", 250_000),
    InstructionTarget(f"postgresql async {w.POINT}", 250_000),
    *(InstructionTarget(f"{name} sync {w.LISTENED}", 8_000, f"{name} sync {w.POINT}") for name in _EVERYWHERE),
)
