"""What a statement costs: the raw driver, plain SQLAlchemy, other libraries and prefiq_db, in one interleaved run.

    python -m benchmarks                              # SQLite, and private servers of PostgreSQL and MariaDB
    python -m benchmarks postgresql --rounds 21
    python -m benchmarks --json benchmarks/measured.json
    python -m benchmarks --from benchmarks/measured.json --svg docs/performance.svg --docs docs/performance.md

Each database has a process of its own, in which the contenders take turns in random order. It measures on loopback, and
on a link that takes a millisecond for a round trip. Times are never asserted anywhere; round trips and instructions are
held by tests, see gates.toml. What was measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks import chart, comparing, instructions, report, workload
from benchmarks.measuring import say
from benchmarks.places import DATABASES


def main() -> None:
    options = _parser().parse_args()
    if options.one:
        _measure_one(options)
        return
    found = report.Report.load_from(options.from_json) if options.from_json else _measure(options)
    if options.json:
        found.save(options.json)
    if options.svg:
        options.svg.write_text(chart.draw(found), "utf-8")
    for page in options.docs or ():
        page.write_text(report.replace_blocks(page.read_text("utf-8"), found), "utf-8")
    for line in report.lines(found):
        say(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("databases", nargs="*", metavar="database", help=f"of {', '.join(DATABASES)}; all by default")
    parser.add_argument("--rounds", type=int, default=comparing.Effort.rounds, help="rounds whose median counts")
    parser.add_argument("--share", type=float, default=1.0, help="of the calls in a round: 0.1 is a quick look")
    parser.add_argument("--quick", action="store_true", help="see that everything runs: two rounds of a few calls")
    parser.add_argument("--only", action="append", choices=workload.OPERATIONS, help="an operation; may be repeated")
    parser.add_argument("--uvloop", action="store_true", help="run the async world on uvloop")
    parser.add_argument("--no-instructions", action="store_true", help="don't count instructions by valgrind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a chart into this file")
    parser.add_argument("--docs", type=Path, action="append", metavar="PAGE", help="write the tables into this page")
    parser.add_argument("--from", dest="from_json", type=Path, metavar="FILE", help="report on such a file instead")
    parser.add_argument("--one", type=Path, metavar="FILE", help=argparse.SUPPRESS)  # be the process of one database
    return parser


def _measure(options: argparse.Namespace) -> report.Report:
    databases = options.databases or DATABASES
    if unknown := set(databases) - set(DATABASES):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(DATABASES)}")
    if options.quick:
        options.rounds, options.share = 2, 0.02
    found = report.Report.begin(options.rounds, "uvloop" if options.uvloop else "asyncio")
    for database in databases:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "one.json")
            subprocess.run([sys.executable, "-m", "benchmarks", database, "--one", path, *_passed(options)], check=True)
            found.add(report.Report.load_from(path).comparisons[0])
    if not (options.quick or options.no_instructions) and instructions.can_count():
        for database in databases:
            found.instructions |= instructions.count(database)
    return found


def _passed(options: argparse.Namespace) -> Iterable[str]:
    yield from ("--rounds", str(options.rounds), "--share", str(options.share))
    for operation in options.only or ():
        yield from ("--only", operation)
    if options.uvloop:
        yield "--uvloop"


def _measure_one(options: argparse.Namespace) -> None:
    loop_factory = None
    if options.uvloop:
        import uvloop

        loop_factory = uvloop.new_event_loop
    effort = comparing.Effort(options.rounds, options.share, tuple(options.only or workload.OPERATIONS))
    found = report.Report.begin(options.rounds, "")
    found.add(comparing.compare(options.databases[0], effort, loop_factory=loop_factory))
    found.save(options.one)


if __name__ == "__main__":
    main()
