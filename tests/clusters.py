"""Clusters for tests: where one can't start, its tests are skipped with the reason, or fail if it is required."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import pytest

from prefiq_db.testing import ServerUnavailableError
from prefiq_db.testing.locate import REQUIRE_VARIABLE
from prefiq_db.testing.servers import is_required

_Made = TypeVar("_Made", bound=AbstractContextManager[Any])


def find(name: str, make: Callable[..., _Made], **options: Any) -> _Made:
    """Return ``make(**options)``, not started yet; *name* is as in ``PREFIQ_REQUIRE``: ``galera``, ``patroni`` ..."""
    try:
        return make(**options)
    except ServerUnavailableError as error:
        reason = str(error)
    if is_required(name):
        pytest.fail(f"{REQUIRE_VARIABLE} demands {name}, but there is {reason}", pytrace=False)
    pytest.skip(reason)
