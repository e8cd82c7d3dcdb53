"""One logical call: a verb, over all its attempts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from prefiq_db.origin import Line, application_line

_ids = itertools.count(1)


class Call:
    """What the statements of one verb share.

    Attributes:
        id: counts up in this process.
        verb: ``fetch_all``, ``execute`` ...
        line: the application's line; None when it could not be found.
        tags: the request's tags.
        attempts: how many tries were begun.
    """

    __slots__ = ("attempts", "id", "line", "tags", "verb")

    def __init__(self, verb: str, line: Line | None, tags: Mapping[str, str]) -> None:
        self.id = next(_ids)
        self.verb = verb
        self.line = line
        self.tags = tags
        self.attempts = 0


def begin_call(verb: str, tags: Mapping[str, str]) -> Call:
    """Return a call that begins here."""
    return Call(verb, application_line(), tags)
