"""Who is measured: each contender opens on a place, and gives one function for each operation that it has.

A contender is a context manager (async in the async world), so that it can close what it opened. Each has at most ten
connections, and is used in the way that its own documentation shows first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager

from benchmarks.places import Place

#: What a contender does, by the names of :data:`benchmarks.workload.OPERATIONS`. Async: coroutine functions.
Operations = Mapping[str, Callable[[], object]]
Open = Callable[[Place], AbstractContextManager[Operations]]
OpenAsync = Callable[[Place], AbstractAsyncContextManager[Operations]]

RAW, PLAIN, AGAIN, OURS = "raw driver", "SQLAlchemy", "SQLAlchemy, again", "prefiq_db"
#: prefiq_db with one listener; its instructions are counted, and nothing else.
LISTENER = "one listener"
#: An operation that is no part of the comparison: it does what the other ones have put off. A plain function.
SETTLE = "settle"
