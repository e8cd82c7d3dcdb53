"""One logical call: a verb, over all its attempts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

_ids = itertools.count(1)


class Call:
    """What the statements of one verb share.

    Attributes:
        id: counts up in this process.
        verb: ``fetch_all``, ``execute`` ...
        tags: the request's tags.
        attempts: how many tries were begun.
        started: on the monotonic clock.
    """

    __slots__ = ("attempts", "id", "started", "tags", "verb")

    def __init__(self, verb: str, tags: Mapping[str, str]) -> None:
        self.id = next(_ids)
        self.verb = verb
        self.tags = tags
        self.attempts = 0
        self.started = time.monotonic()
