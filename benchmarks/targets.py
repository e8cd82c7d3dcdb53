"""What prefiq_db is meant to reach, with everything on. The report puts what was measured beside it, met or missed."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import workload as w
from benchmarks.comparing import LOOPBACK, SLOW
from benchmarks.contenders import PLAIN, RAW

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
