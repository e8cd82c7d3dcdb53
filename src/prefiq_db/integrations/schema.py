"""What readiness asks besides: is the schema where this version of the code expects it?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prefiq_db.config import NO_RETRY
from prefiq_db.health import Status, Verdict
from prefiq_db.integrations.sources import AnyDatabase
from prefiq_db.migrate import VERSION_TABLE, HeadReport, Revisions, at_head, at_head_async

_AT_HEAD: Final = Verdict()
_BEHIND: Final = Verdict(Status.FAIL, "the schema is behind the code: run the migrations")


def schema_at_head(
    database: AnyDatabase, *histories: str | os.PathLike[str] | Revisions, tokens: bool | None = None
) -> Callable[[], Any]:
    """Return a check that *database* has every revision that this service uses: of *histories* and of prefiq_db's own.

    It asks until that is so, and then no more: a schema that this process can work with stays one.

    Args:
        tokens: whether the service uses ``exactly_once``, and so prefiq_db's own tables. Default: when somebody asked
            for it in this process (a decorator does so when it is made), or has begun to apply that history.
    """
    once: Any = database.using(retry=NO_RETRY)  # a probe comes again by itself
    passed: set[bool] = set()

    def find_needed() -> bool:
        return database._core.instance.needs_tokens if tokens is None else tokens

    def judge(report: HeadReport, asked_for_tokens: bool) -> Verdict:
        behind = [each for each in report.histories if each.behind]
        if not asked_for_tokens:
            # Nobody has ever applied it; or somebody has, and then this version of the code expects the newest.
            behind = [
                each for each in behind if each.version_table != VERSION_TABLE or (tokens is None and each.current)
            ]
        if behind:
            return _BEHIND
        passed.add(asked_for_tokens)
        return _AT_HEAD

    def check() -> Verdict:
        asked = find_needed()
        return _AT_HEAD if asked in passed else judge(at_head(once, *histories), asked)

    async def check_async() -> Verdict:
        asked = find_needed()
        return _AT_HEAD if asked in passed else judge(await at_head_async(once, *histories), asked)

    return check_async if database.is_async else check


def schema_checks(databases: Sequence[AnyDatabase], options: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return a check for each of *databases* that the service writes to and can't do without, by *options*."""
    spared = {*options.get("non_critical", ()), *options.get("read_only", ())}
    spared |= {each.name for each in databases if each.settings.read_only}
    return {f"{each.name}:schema": schema_at_head(each) for each in databases if each.name not in spared}
