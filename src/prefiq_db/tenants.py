"""A database of its own for each tenant: names, and the pools that are kept open."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from prefiq_db.config import Target
from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.forks import renewed

# PostgreSQL cuts a longer name, and two tenants would then share a schema.
_LONGEST_NAME: Final = 63
_NAME: Final = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{_LONGEST_NAME - 1}}}", re.ASCII)
# What is written into PostgreSQL's template1 is in every database that is made after it, each tenant's too.
_OF_THE_SERVER: Final = re.compile(r"pg_.*|template[01]|information_schema|performance_schema|mysql|sys", re.I)


def check_tenant_name(field: str, name: Any) -> None:
    """Raise :class:`UsageError` unless *name* is ``None``, or the plain name of a schema or database of users.

    The message names *field* and never the name itself, which may come from a request.
    """
    if name is None:
        return
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise UsageError(
            f"override {field}: expected an identifier: letters, digits and underscores of ASCII, no digit first, at "
            f"most {_LONGEST_NAME}; map other names of tenants to such ones yourself"
        )
    if _OF_THE_SERVER.fullmatch(name) is not None:
        raise UsageError(f"override {field}: this is a name of the server's own; expected one of yours")


def beside(target: Target, name: str) -> Target:
    """Return the database *name* of the same server as *target*; of SQLite the file of that name in the same folder.

    Raises:
        UnsupportedError: *target* is in memory.
    """
    if not target.product.is_file:
        return replace(target, database=name)
    if target.database == ":memory:":
        raise UnsupportedError(
            "override database: a database in memory has no files beside it; give the settings a file, whose folder "
            "then has a file for each tenant"
        )
    folder, own = os.path.split(os.path.abspath(target.database))
    return replace(target, database=os.path.join(folder, name + os.path.splitext(own)[1]))


class Tenant(Protocol):
    """The parts of one database, as its pools' keeper uses them."""

    engine: Any
    closed: bool

    def close(self) -> None:
        """Close the pool's connections."""


I = TypeVar("I", bound=Tenant)  # noqa: E741 - an instance


class TenantPools(Generic[I]):
    """The tenants' databases that this process uses, each with a pool of its own; the latest *most* are kept.

    Another one takes the place of the one that was used longest ago, among those without a connection in use. If all
    have one, it is not kept: its connections are closed when they come back.

    Args:
        make: makes the database of a name, without any I/O.
    """

    def __init__(self, make: Callable[[str], I], most: int) -> None:
        self._make = make
        self._most = most
        self._lock = renewed(self, "_lock")
        self._closed = False
        #: by name, the one used longest ago first
        self._kept: dict[str, I] = {}
        # Those without a place that somebody still has: a transaction, or a loop of attempts that waits for its next
        # one. It must find its own database again, not another one of that name.
        self._passing: WeakValueDictionary[str, I] = WeakValueDictionary()
        self._left: list[I] = []

    def get(self, name: str) -> I:
        """Return the database *name*; there is no I/O. After :meth:`close` it is a closed one."""
        with self._lock:
            found = self._kept.pop(name, None)
            if found is None:
                found = self._passing.get(name) or self._make(name)
                if self._closed:
                    found.closed = True
                    return found
                if not self._has_place():
                    self._pass(name, found)
                    return found
                self._passing.pop(name, None)
                found.engine.pool.retire(False)
            self._kept[name] = found
            return found

    def _has_place(self) -> bool:
        if len(self._kept) < self._most:
            return True
        for name, each in self._kept.items():
            if each.engine.pool.checkedout() == 0:
                del self._kept[name]
                self._pass(name, each)
                self._left.append(each)
                return True
        return False

    def _pass(self, name: str, instance: I) -> None:
        """Give *instance* no place: each connection that somebody still takes is closed when it comes back."""
        instance.engine.pool.retire(True)
        self._passing[name] = instance

    def close_left(self) -> None:
        """Close the idle connections of those that have lost their place. Called where a wait is possible."""
        while True:
            try:
                each = self._left.pop()
            except IndexError:
                return
            each.engine.pool.dispose()

    def open(self) -> None:
        """Make databases again, after :meth:`close`."""
        self._closed = False

    def close(self) -> None:
        """Close all, and forget them; a thread that comes in the middle gets none that is open."""
        with self._lock:
            self._closed = True
            for name, each in self._passing.items():
                self._kept.setdefault(name, each)
            self._passing.clear()
        while self._kept:
            _, each = self._kept.popitem()
            self._left.append(each)
            each.close()
        self.close_left()

    def items(self) -> list[tuple[str, I]]:
        """Return the databases with a pool, by name: those that are kept, and others in use."""
        with self._lock:
            used = {name: each for name, each in self._passing.items() if each.engine.pool.checkedout()}
            return sorted({**used, **self._kept}.items())
