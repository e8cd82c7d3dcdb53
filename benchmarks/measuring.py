"""Contenders take turns: each round runs all of them in random order, and compares each with its own neighbours.

A machine that is busy for a while then slows all contenders down, and a ratio of two of the same round still holds.
What is left of the noise is shown, not hidden: the quartiles of the rounds, and the ratio of a contender to itself.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

#: Runs a contender for a while, and returns the seconds of one call.
Turn = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and the two quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        if len(ordered) < 2:
            return cls(ordered[0], ordered[0], ordered[0])
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, low, high)


def take_turns(
    turns: Mapping[str, Turn], rounds: int, *, before: Callable[[], object] | None = None, warm_up: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each round of each contender; *before* runs ahead of every turn, and isn't timed."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(-warm_up, rounds):
        for name in random.sample(list(turns), len(turns)):
            if before is not None:
                before()
            took = turns[name]()
            if number >= 0:
                seconds[name].append(took)
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, base: str) -> Spread:
    """Return how long *name* took as a multiple of *base* in the same round."""
    return Spread.of(one / other for one, other in zip(seconds[name], seconds[base], strict=True))


def one_after_another(call: Callable[[], object], calls: int) -> Turn:
    def turn() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - started) / calls

    return turn


def one_after_another_async(runner: asyncio.Runner, call: Callable[[], Awaitable[object]], calls: int) -> Turn:
    async def all_calls() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            await call()
        return (time.perf_counter() - started) / calls

    return lambda: runner.run(all_calls())


def in_threads(threads: Executor, count: int, call: Callable[[], object], calls: int) -> Turn:
    """*count* threads at once, *calls* in each; the seconds are those between two calls that end."""

    def several(_: int) -> None:
        for _ in range(calls):
            call()

    def turn() -> float:
        started = time.perf_counter()
        for _ in threads.map(several, range(count)):
            pass
        return (time.perf_counter() - started) / (count * calls)

    return turn


def in_tasks(runner: asyncio.Runner, count: int, call: Callable[[], Awaitable[object]], calls: int) -> Turn:
    """The same with tasks."""

    async def several() -> None:
        for _ in range(calls):
            await call()

    async def all_tasks() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(several() for _ in range(count)))
        return (time.perf_counter() - started) / (count * calls)

    return lambda: runner.run(all_tasks())


def say(line: str = "", *, to: Any = None) -> None:
    """Print a line, and show it at once: a measurement takes minutes."""
    (to or sys.stdout).write(f"{line}\n")
    (to or sys.stdout).flush()
