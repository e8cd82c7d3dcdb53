"""Clusters for tests: where one can't start, its tests are skipped with the reason, or fail if it is required.

Of those whose nodes watch each other, Galera and Patroni, one runs at a time on this machine, see :func:`run_alone`.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from prefiq_db.testing import ServerUnavailableError
from prefiq_db.testing.locate import REQUIRE_VARIABLE
from prefiq_db.testing.servers import is_required

_Made = TypeVar("_Made", bound=AbstractContextManager[Any])
# One place for all runs: those of a shell with another TMPDIR, or on a machine that had less memory left, too.
_LOCKS = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
#: For tests of a cluster: also the wait for the clusters of other workers counts as theirs.
PATIENCE_OF_TESTS = pytest.mark.timeout(1800)


def find(name: str, make: Callable[..., _Made], **options: Any) -> _Made:
    """Return ``make(**options)``, not started yet; *name* is as in ``PREFIQ_REQUIRE``: ``galera``, ``patroni`` ..."""
    try:
        return make(**options)
    except ServerUnavailableError as error:
        reason = str(error)
    if is_required(name):
        pytest.fail(f"{REQUIRE_VARIABLE} demands {name}, but there is {reason}", pytrace=False)
    pytest.skip(reason)


@contextmanager
def run_alone(name: str, make: Callable[..., _Made], **options: Any) -> Iterator[_Made]:
    """Run a cluster, found as by :func:`find`, when those of all other workers and runs have ended.

    Several at once take the processors from each other: nodes hear too late of each other, and leave the cluster.
    """
    cluster = find(name, make, **options)
    with hold(_LOCKS / f"prefiq_db-tests-{os.geteuid()}-cluster.lock"), cluster:
        yield cluster


@contextmanager
def hold(lock: Path) -> Iterator[None]:
    """Wait, as long as it takes, until no other process holds *lock*, and hold it. It ends with this process."""
    with lock.open("a") as file:  # not inherited by the programs that we start
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a fork may still have it open
