"""Skip the waits between attempts, so that a test of retries takes no time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefiq_db import retry


@contextmanager
def no_waits() -> Iterator[None]:
    """Skip the waits between attempts in this block, in all threads and tasks; how often is tried stays the same."""
    before, retry.waits_are_skipped = retry.waits_are_skipped, True
    try:
        yield
    finally:
        retry.waits_are_skipped = before
