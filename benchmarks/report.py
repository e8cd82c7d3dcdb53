"""What a run found: as text, as Markdown, and as JSON from which both can be made again."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import workload as w
from benchmarks.comparing import LOOPBACK, Comparison, Result
from benchmarks.contenders import AGAIN, OURS, PLAIN
from benchmarks.measuring import Spread
from benchmarks.targets import INSTRUCTION_TARGETS, TARGETS, Target

_PACKAGES = (
    "SQLAlchemy", "psycopg", "PyMySQL", "asyncmy", "aiosqlite", "greenlet", "asyncpg", "psycopg-pool", "aiomysql",
    "databases", "advanced-alchemy", "Django", "uvloop",
)  # fmt: skip
_THOUSANDS = ["target, thousand instructions", "", "limit", "counted", ""]
_NOISE = 0.15  # a difference below it is not one


@dataclass(slots=True)
class Report:
    """One run.

    Attributes:
        date: the day, as in ``2026-11-29``.
        versions: of Python, of the packages and of the databases.
        load: how many processes wanted a processor at the beginning and at the end, by the system's own count of the
            last minute; this program is one of them.
        instructions: of a call, by ``database world operation`` and contender; empty where valgrind is missing.
    """

    date: str
    rounds: int
    cores: int
    event_loop: str
    versions: dict[str, str] = field(default_factory=dict)
    load: tuple[float, ...] = ()
    comparisons: list[Comparison] = field(default_factory=list)
    instructions: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def begin(cls, rounds: int, event_loop: str) -> Report:
        versions = {"Python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
        found = {name: number for name, number in versions.items() if number}
        return cls(time.strftime("%Y-%m-%d"), rounds, os.cpu_count() or 0, event_loop, found, (os.getloadavg()[0],))

    def add(self, comparison: Comparison) -> None:
        self.comparisons.append(comparison)
        self.versions[comparison.database] = comparison.version
        self.load = (*self.load[:1], os.getloadavg()[0])

    @property
    def results(self) -> list[Result]:
        return [result for comparison in self.comparisons for result in comparison.results]

    def find(self, target: Target) -> Spread | None:
        """Return what a target's ratio was; ``None`` if it was not measured."""
        for each in self.results:
            place = (each.database, each.world, each.operation, each.network)
            if each.contender == OURS and place == (target.database, target.world, target.operation, target.network):
                return each.of_others.get(target.other)
        return None

    # --- JSON ------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(_rounded(dataclasses.asdict(self)), indent=1) + "\n", "utf-8")

    @classmethod
    def load_from(cls, path: Path) -> Report:
        found = json.loads(path.read_text("utf-8"))
        found["comparisons"] = [_comparison(each) for each in found["comparisons"]]
        found["load"] = tuple(found["load"])
        return cls(**found)


def _rounded(value: Any) -> Any:
    """Return it with floats of four digits, which is more than they are good for."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def _comparison(found: dict[str, Any]) -> Comparison:
    return Comparison(**{**found, "results": [_result(each) for each in found["results"]]})


def _result(found: dict[str, Any]) -> Result:
    others = {name: Spread(**spread) for name, spread in found["of_others"].items()}
    return Result(**{**found, "seconds": Spread(**found["seconds"]), "of_others": others})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


# --- text ----------------------------------------------------------------------------------------


def lines(report: Report) -> Iterator[str]:
    """Yield the whole report for a terminal."""
    yield f"{report.date}, {report.cores} cores, load {' to '.join(f'{each:.1f}' for each in report.load)}"
    yield "  ".join(f"{name} {number}" for name, number in report.versions.items())
    yield f"medians of {report.rounds} interleaved rounds; in brackets the quartiles; RT: round trips of a call"
    for comparison in report.comparisons:
        for (world, network), results in _grouped(comparison.results):
            yield ""
            yield f"{comparison.database}, {world}, {network}"
            yield from _block(results)
        for name, reason in comparison.not_measured.items():
            yield f"not measured: {name} ({reason})"
    yield ""
    yield from _instruction_lines(report.instructions)
    yield "measured beside target"
    yield from (f"  {' | '.join(cells)}" for cells in target_rows(report))
    if report.instructions:
        yield "counted beside target, in thousand instructions"
        yield from (f"  {' | '.join(cells)}" for cells in instruction_target_rows(report))


def _grouped(results: Iterable[Result]) -> Iterator[tuple[tuple[str, str], list[Result]]]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.world, result.network), []).append(result)
    yield from groups.items()


def _block(results: list[Result]) -> Iterator[str]:
    for result in results:
        seconds, plain = result.seconds, result.of_sqlalchemy
        note = "" if plain is None else f"x{plain.median:5.2f} of SQLAlchemy [{plain.low:.2f} to {plain.high:.2f}]"
        if result.contender == AGAIN:
            note += "  the noise"
        trips = "" if result.round_trips is None else f"{result.round_trips} RT"
        yield f"  {result.operation:20}{result.contender:22}{seconds.median * 1e6:9.1f} us  {trips:5} {note}"


def _instruction_lines(instructions: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    if instructions:
        yield "instructions of a call, in thousands"
        for place, counts in instructions.items():
            yield f"  {place:36}" + "   ".join(f"{name} {count / 1000:.0f}" for name, count in counts.items())
        yield ""


def target_rows(report: Report) -> Iterator[list[str]]:
    """Yield a row for each target: what, at most, measured with its quartiles, and the verdict."""
    for target in TARGETS:
        what = f"{target.operation}, {target.database} {target.world}"
        if target.network != "loopback":
            what += f", {target.network}"
        spread = report.find(target)
        if spread is None:
            yield [what, target.other, target.limit_shown, "not measured", ""]
            continue
        shown = f"{target.shown(spread.median)} ({target.shown(spread.low)} to {target.shown(spread.high)})"
        yield [what, target.other, target.limit_shown, shown, _verdict(spread.median, target.limit)]


def instruction_target_rows(report: Report) -> Iterator[list[str]]:
    """Yield a row for each target of instructions: what, against, at most, counted, and the verdict."""
    for target in INSTRUCTION_TARGETS:
        counted = target.measured(report.instructions)
        shown, verdict = "not counted", ""
        if counted is not None:
            shown, verdict = f"{counted / 1000:.0f}", "met" if counted <= target.limit else "missed"
        more = f"more than {target.than}" if target.than else ""
        yield [target.place, more, f"{target.limit / 1000:.0f}", shown, verdict]


def _verdict(measured: float, limit: float) -> str:
    if measured <= limit:
        return "met"
    return "missed, within the noise" if measured <= limit * (1 + _NOISE) else "missed"


def noise(report: Report) -> str:
    """Return how plain SQLAlchemy compares to itself, over all operations."""
    found = [each.of_others[PLAIN].median for each in report.results if each.contender == AGAIN]
    half = Spread.of(found)
    ends = f"{min(found):.2f} and {max(found):.2f} at the ends"
    return f"{half.low:.2f} to {half.high:.2f} in the middle half of all rows, {ends}"


# --- Markdown ------------------------------------------------------------------------------------


def blocks(report: Report) -> dict[str, list[str]]:
    """Return the tables of the documentation, by name."""
    return {
        "summary": list(_summary(report)),
        "conditions": list(_conditions(report)),
        "targets": list(_table(["target", "against", "limit", "measured (quartiles)", ""], target_rows(report))),
        "contenders": list(_contender_tables(report)),
        "instructions": list(_instruction_table(report)),
        "instruction targets": list(_table(_THOUSANDS, instruction_target_rows(report))),
    }


def replace_blocks(page: str, report: Report) -> str:
    """Return *page* with new contents between ``<!-- benchmarks: name -->`` and ``<!-- end -->``."""
    for name, block in blocks(report).items():
        begin, end = f"<!-- benchmarks: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(begin)
        if found and block:
            page = f"{before}{begin}\n{chr(10).join(block).strip()}\n\n{end}{rest.partition(end)[2]}"
    return page


def _summary(report: Report) -> Iterator[str]:
    """Yield our time as a multiple of SQLAlchemy's, on loopback."""
    ratios = {
        (each.operation, each.world, each.database): each.of_sqlalchemy
        for each in report.results
        if (each.contender, each.network) == (OURS, LOOPBACK) and each.of_sqlalchemy is not None
    }
    databases = [each.database for each in report.comparisons]
    rows = [
        [f"{operation}, {world}", *(f"{ratios[operation, world, name].median:.2f}" for name in databases)]
        for operation in w.OPERATIONS
        for world in ("sync", "async")
        if all((operation, world, name) in ratios for name in databases)
    ]
    yield from _table(["", *databases], rows)
    verdicts = [row[-1] for row in target_rows(report)]
    yield ""
    yield f"Measured on {report.date}: {verdicts.count('met')} of {len(verdicts)} targets are met. The noise,"
    yield f"SQLAlchemy measured against itself: {noise(report)}."


def _conditions(report: Report) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    load = " to ".join(f"{each:.1f}" for each in report.load)
    yield f"Measured on {report.date} with {report.event_loop}, medians of {report.rounds} interleaved rounds, on"
    yield f"{report.cores} cores that others used too: {load} processes wanted one. {versions}."
    for comparison in report.comparisons:
        for name, reason in comparison.not_measured.items():
            yield f"Not measured on {comparison.database}: {name} ({reason})."


def _contender_tables(report: Report) -> Iterator[str]:
    for comparison in report.comparisons:
        for (world, network), results in _grouped(comparison.results):
            operations = list(dict.fromkeys(result.operation for result in results))
            cells = {(each.contender, each.operation): each for each in results}
            yield f"### {comparison.database}, {world}, {network}"
            yield ""
            names = dict.fromkeys(result.contender for result in results)
            rows = [[name, *(_cell(cells.get((name, operation))) for operation in operations)] for name in names]
            yield from _table(["", *operations], rows)
            yield ""


def _instruction_table(report: Report) -> Iterator[str]:
    names = dict.fromkeys(name for counts in report.instructions.values() for name in counts)
    rows = [
        [place, *(f"{counts[name] / 1000:.0f}" if name in counts else "" for name in names)]
        for place, counts in report.instructions.items()
    ]
    if rows:
        yield from _table(["thousand instructions", *names], rows)


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    trips = "" if result.round_trips is None else f", {result.round_trips} RT"
    plain = result.of_sqlalchemy
    ratio = "" if plain is None else f" (x{plain.median:.2f})"
    return f"{result.seconds.median * 1e6:.0f} µs{ratio}{trips}"


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |".replace("  |", " |")
