"""What readiness asks besides: is the schema where this version of the code expects it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prefiq_db import migrate
from prefiq_db.config import NO_RETRY
from prefiq_db.health import Status, Verdict
from prefiq_db.integrations.sources import AnyDatabase

_NOT_CHECKED: Final = Verdict(Status.WARN, "not checked")
_AT_HEAD: Final = Verdict()
_BEHIND: Final = Verdict(Status.FAIL, "the schema is not at its head: run the migrations")


def schema_checks(databases: Sequence[AnyDatabase], options: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """Return a check for each of *databases* that the service writes to and can't do without, by *options*."""
    spared = {*options.get("non_critical", ()), *options.get("read_only", ())}
    return {f"{each.name}:schema": schema_at_head(each) for each in databases if each.name not in spared}


def schema_at_head(database: AnyDatabase) -> Callable[[], Any]:
    """Return the check that prefiq_db's own table is as the installed version wants it.

    It is asked until it is so, and then no more: a schema that this process can work with stays one.
    """
    ask: Any = getattr(migrate, "at_head_async" if database.is_async else "at_head", None)
    once = database.using(retry=NO_RETRY)
    passed: list[Verdict] = []

    def judge(at_head: object) -> Verdict:
        if at_head:
            passed.append(_AT_HEAD)
        return _AT_HEAD if at_head else _BEHIND

    def check() -> Verdict:
        return passed[0] if passed else judge(ask(once))

    async def check_async() -> Verdict:
        return passed[0] if passed else judge(await ask(once))

    if ask is None:
        return lambda: _NOT_CHECKED
    return check_async if database.is_async else check
