"""The most that a call of prefiq_db may cost, in gates.toml; tests hold it, and who makes a call cheaper lowers it."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_GATES = tomllib.loads(Path(__file__).with_name("gates.toml").read_text("utf-8"))

#: By operation.
Costs = Mapping[str, int]


def round_trips(database: str, world: str) -> Costs:
    """Return the round trips of each operation, which are exact."""
    found: Costs = _GATES["round_trips"][database][world]
    return found


def instructions(database: str, world: str) -> Costs:
    """Return the most instructions of each operation, on :func:`interpreter`; empty if nobody has measured there."""
    found: Mapping[str, Any] = _GATES["instructions"].get(interpreter(), {})
    costs: Costs = found.get(database, {}).get(world, {})
    return costs


def interpreter() -> str:
    """Return what the numbers of instructions hold for, as in ``CPython 3.11 x86_64``: another one has others."""
    major, minor, _ = platform.python_version_tuple()
    return f"{platform.python_implementation()} {major}.{minor} {platform.machine()}"


def exceeded(measured: Costs, most: Costs) -> Iterator[str]:
    """Yield what costs more than it may, and what has no gate or was not measured."""
    for operation in sorted(measured.keys() | most.keys()):
        if operation not in measured or operation not in most:
            missing = "gate" if operation in measured else "measurement"
            yield f"{operation}: there is no {missing}"
        elif measured[operation] > most[operation]:
            yield f"{operation}: {measured[operation]:,} instead of {most[operation]:,}"
