"""The reads and appends of transactions: the history in which a checker looks for anomalies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from prefiq_db.errors import UsageError

AnomalyName = Literal[
    "G0",
    "G1a",
    "G1b",
    "G1c",
    "G-single",
    "G-nonadjacent",
    "G2-item",
    "lost update",
    "internal",
    "incompatible order",
    "doubled append",
    "lost append",
    "unknown value",
]

_NEVER: frozenset[AnomalyName] = frozenset(
    {"G0", "incompatible order", "doubled append", "lost append", "unknown value"}
)
_READ_COMMITTED: frozenset[AnomalyName] = _NEVER | {"G1a", "G1b", "G1c", "internal"}
_SNAPSHOT: frozenset[AnomalyName] = _READ_COMMITTED | {"G-single", "G-nonadjacent", "lost update"}
_SERIALIZABLE: frozenset[AnomalyName] = _SNAPSHOT | {"G2-item"}

_FORBIDDEN: dict[str, frozenset[AnomalyName]] = {
    "READ UNCOMMITTED": _NEVER,
    "READ COMMITTED": _READ_COMMITTED,
    "INNODB REPEATABLE READ": _READ_COMMITTED,
    "REPEATABLE READ": _SNAPSHOT,
    "SERIALIZABLE": _SERIALIZABLE,
}


def forbidden(level: str) -> frozenset[AnomalyName]:
    """Return the anomalies that an isolation level forbids.

    MariaDB's REPEATABLE READ reads from a snapshot and writes past it, so it is ``INNODB REPEATABLE READ`` here, unless
    ``innodb_snapshot_isolation`` is on.

    Raises:
        UsageError: if there is no such level.
    """
    found = _FORBIDDEN.get(level.upper().replace("_", " "))
    if found is None:
        raise UsageError(f"level: expected one of {', '.join(_FORBIDDEN)}")
    return found


@dataclass(frozen=True, slots=True)
class Append:
    """Append *value*, which is never appended twice, to the list of *key*."""

    key: int
    value: int


@dataclass(frozen=True, slots=True)
class Read:
    """Read the list of *key*; the result was *values*."""

    key: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HistoryTransaction:
    """One attempt of a transaction.

    Attributes:
        number: unique, from 1; 0 is the final read.
        operations: its operations, in order.
        committed: ``None`` if unknown.
    """

    number: int
    operations: tuple[Append | Read, ...]
    committed: bool | None = True


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A violation of isolation or of the data.

    Attributes:
        name: Adya's name of it (``G0`` to ``G2-item``; ``G-nonadjacent``: a cycle that a snapshot rules out, too), or
            what is wrong with the data itself: ``internal`` (its own append isn't what it reads last),
            ``incompatible order`` (two reads of which neither continues the other), ``doubled append``,
            ``lost append``, ``unknown value``.
        transactions: its transactions; for a cycle, in the cycle's order.
        key: the list, if there is one.
        explanation: the cycle, as ``1 -wr-> 2 -rw-> 1``, or a sentence.
    """

    name: AnomalyName
    transactions: tuple[int, ...]
    key: int | None
    explanation: str


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """The result of checking a history.

    Attributes:
        committed, aborted, unknown: how many attempts ended with that outcome.
        anomalies: what isn't serializable; for cycles among the same transactions, one of each name.
        seconds: how long the runs took.
    """

    committed: int
    aborted: int
    unknown: int
    anomalies: tuple[Anomaly, ...]
    seconds: float = 0.0

    def beyond(self, level: str) -> tuple[Anomaly, ...]:
        """Return the anomalies that *level* forbids, see :func:`forbidden`."""
        names = forbidden(level)
        return tuple(anomaly for anomaly in self.anomalies if anomaly.name in names)

    def __str__(self) -> str:
        found = Counter(anomaly.name for anomaly in self.anomalies)
        names = ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "no anomaly"
        return f"{self.committed} committed, {self.aborted} aborted, {self.unknown} unknown; {names}"
