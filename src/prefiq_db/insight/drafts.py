"""Statement events while they are being made: the same objects, and not frozen yet.

The ``__init__`` of a frozen dataclass sets each field by ``object.__setattr__``; for sixteen fields that costs more
than all the rest of an event. A draft is of a class with the same slots, whose fields are set as any object's, and it
becomes the event when its class is exchanged: the layout is the same, so nothing is copied.
docs/decisions/0144-how-an-event-is-made-cheaply.md has the numbers.
"""

from __future__ import annotations

from prefiq_db.events import StatementEvent


class DraftOfStarted(StatementEvent):
    """Becomes a ``StatementStarted``."""

    __slots__ = ()
    __setattr__, __delattr__ = object.__setattr__, object.__delattr__


class DraftOfFinished(StatementEvent):
    """Becomes a ``StatementFinished``."""

    __slots__ = ("duration_seconds", "rows")
    __setattr__, __delattr__ = object.__setattr__, object.__delattr__


class DraftOfFailed(StatementEvent):
    """Becomes a ``StatementFailed``."""

    __slots__ = ("code", "duration_seconds", "kind")
    __setattr__, __delattr__ = object.__setattr__, object.__delattr__
