"""The readiness check of the schema: is it at the revision that this version of the code expects?"""

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
    """Return a check that *database* has every revision this service uses: of *histories* and of prefiq_db's own.

    Once it has passed, it doesn't query again: a schema that this process can work with stays usable.

    Args:
        tokens: whether the service uses ``exactly_once``, and so prefiq_db's own tables. Default: true if this process
            has requested it (a decorator does so when it is created), or if that history was applied, even in part.
    """
    once: Any = database.using(retry=NO_RETRY)  # the next probe is the retry
    passed: set[bool] = set()

    def find_needed() -> bool:
        return database._base.instance.needs_tokens if tokens is None else tokens

    def judge(report: HeadReport, asked_for_tokens: bool) -> Verdict:
        behind = [each for each in report.histories if each.behind]
        if not asked_for_tokens:
            # Ignore our own history if it was never applied; once applied, this version of the code expects its head.
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
    """Return a check for each of *databases* that, by *options*, is critical and written to."""
    spared = {*options.get("non_critical", ()), *options.get("read_only", ())}
    spared |= {each.name for each in databases if each.settings.read_only}
    spared |= {each.name for each in databases if not each.settings.target.product.has_migrations}
    return {f"{each.name}:schema": schema_at_head(each) for each in databases if each.name not in spared}
