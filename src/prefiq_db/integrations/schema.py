"""What readiness asks besides: is the schema where this version of the code expects it?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prefiq_db.config import NO_RETRY
from prefiq_db.health import Status, Verdict
from prefiq_db.integrations.sources import AnyDatabase
from prefiq_db.migrate import Revisions, at_head, at_head_async

_AT_HEAD: Final = Verdict()
_BEHIND: Final = Verdict(Status.FAIL, "the schema is behind the code: run the migrations")


def schema_at_head(database: AnyDatabase, *histories: str | os.PathLike[str] | Revisions) -> Callable[[], Any]:
    """Return a check that *database* has every revision of the code: of prefiq_db's own history and of *histories*.

    It asks until that is so, and then no more: a schema that this process can work with stays one.
    """
    once: Any = database.using(retry=NO_RETRY)  # a probe comes again by itself
    passed: list[Verdict] = []

    def judged(at_head: object) -> Verdict:
        if not at_head:
            return _BEHIND
        passed.append(_AT_HEAD)
        return _AT_HEAD

    def check() -> Verdict:
        return passed[0] if passed else judged(at_head(once, *histories))

    async def check_async() -> Verdict:
        return passed[0] if passed else judged(await at_head_async(once, *histories))

    return check_async if database.is_async else check


def schema_checks(databases: Sequence[AnyDatabase], options: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return a check for each of *databases* that the service writes to and can't do without, by *options*."""
    spared = {*options.get("non_critical", ()), *options.get("read_only", ())}
    spared |= {each.name for each in databases if each.settings.read_only}
    return {f"{each.name}:schema": schema_at_head(each) for each in databases if each.name not in spared}
