"""Run all specification tests and say what became of each: ``python -m tests.mongo.specifications [sync|async]``."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from typing import Any

from tests.mongo.specifications.spec_differences import DIFFERENCES
from tests.mongo.specifications.spec_files import cases, why_not
from tests.mongo.specifications.spec_runner import Run, SkippedError
from tests.mongo.specifications.spec_server import SpecServer
from tests.mongo.worlds import make_mongo
from tests.twins.harness import drive


async def _report(world: str) -> int:
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    with SpecServer() as server:
        for case in cases():
            made: list[Any] = []

            def make(url: str, _made: list[Any] = made, **fields: Any) -> Any:
                _made.append(make_mongo(world, url, **fields))
                return _made[-1]

            became, why = "passed", ""
            try:
                await Run(case, server, make).run()
            except SkippedError as reason:
                became, why = "skipped", str(reason)
                reasons[why.partition(":")[0]] += 1
            except AssertionError as error:
                became, why = (
                    ("differs", DIFFERENCES[case.name]) if case.name in DIFFERENCES else ("FAILED", str(error))
                )
            for database in made:
                await database.close()
            counts[case.specification, became] += 1
            sys.stdout.write(f"{became:8} {case.name}{f' ({why})' if why else ''}\n")
    for (specification, became), count in sorted(counts.items()):
        sys.stdout.write(f"{specification:30} {became:8} {count}\n")
    for reason, count in reasons.most_common():
        sys.stdout.write(f"{count:4} skipped: {reason}\n")
    return int(any(became == "FAILED" for _, became in counts))


def main() -> int:
    if reason := why_not():
        sys.stdout.write(f"{reason}\n")
        return 2
    logging.disable(logging.WARNING)
    world = sys.argv[1] if len(sys.argv) > 1 else "sync"
    return drive(_report(world)) if world == "sync" else asyncio.run(_report(world))


if __name__ == "__main__":
    sys.exit(main())
