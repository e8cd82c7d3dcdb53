"""How far a primary was when somebody wrote, and who has to see that: read your writes on replicas.

A :class:`Mark` is a place in a server's log. A :class:`Seen` remembers marks for a scope: that of ``override()``, a
request, or else the task or thread. A read in the scope that goes to a replica waits for them. Why this is so:
decisions/0154-how-a-read-waits-for-its-write.md.
"""

from __future__ import annotations

import re
import weakref
import zlib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from prefiq_db.errors import UsageError

#: branch and number: of PostgreSQL the timeline and the place in the WAL, of MariaDB the server and the sequence number
Place = tuple[int, int]

_FORM: Final = re.compile(r"1([pm])\.([0-9a-f]{1,8})\.([0-9a-z.-]{3,400})\.([0-9a-f]{1,8})", re.ASCII)
_PLACE: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,20})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log of a primary; later ones hold all that earlier ones hold.

    Attributes:
        kind: ``p`` for PostgreSQL's log, ``m`` for MariaDB's.
        places: by domain; PostgreSQL has one only.
    """

    kind: str
    places: Mapping[int, Place]

    def with_(self, other: Mark | None) -> Mark:
        """Return the mark that holds both."""
        if other is None or other.kind != self.kind or other.places == self.places:
            return self
        places = dict(self.places)
        for domain, place in other.places.items():
            mine = places.get(domain)
            # On PostgreSQL a number counts only together with its timeline; MariaDB's numbers go on on any server.
            is_later = mine is None or (place > mine if self.kind == "p" else place[1] > mine[1])
            if is_later:
                places[domain] = place
        return Mark(self.kind, places)

    def holds(self, other: Mark) -> bool:
        """Return whether whoever has this one has *other*, too."""
        return self.with_(other).places == self.places

    def text(self, home: str) -> str:
        """Return the token for :func:`mark_of`; *home* names the database."""
        places = ".".join(f"{domain}-{branch}-{number}" for domain, (branch, number) in sorted(self.places.items()))
        body = f"1{self.kind}.{_sum(home)}.{places}"
        return f"{body}.{_sum(body)}"


def _sum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):x}"


def check_mark_text(token: object) -> str | None:
    """Return *token* if it can be a mark, or ``None``; the message never shows it, as it may come from a client.

    Raises:
        UsageError: it is neither.
    """
    if token is None:
        return None
    found = _FORM.fullmatch(token) if isinstance(token, str) else None
    if found is None or not isinstance(token, str) or _sum(token.rpartition(".")[0]) != found[4]:
        raise UsageError("override after: expected what mark() returned, unchanged")
    return token


def mark_of(token: str, kind: str, home: str) -> Mark:
    """Return the mark that *token* says, which :func:`check_mark_text` has seen.

    Raises:
        UsageError: it is a mark of another kind of server, or of another database.
    """
    found = _FORM.fullmatch(token)
    assert found is not None, "checked before"
    places = [_PLACE.fullmatch(each) for each in found[3].split(".")]
    if found[1] != kind or found[2] != _sum(home) or not all(places):
        raise UsageError("override after: this mark is of another database; expected one of this database's mark()")
    return Mark(kind, {int(each[1]): (int(each[2]), int(each[3])) for each in places if each is not None})


@dataclass(frozen=True, slots=True)
class Standing:
    """What a replica says of itself.

    Attributes:
        is_replica: it follows a primary; ``False``: it was promoted; ``None``: its user may not know.
        lag_seconds: how old what it has is; 0 if nothing newer is known to exist; ``None``: unknown.
        stopped: it does not follow now.
    """

    is_replica: bool | None = None
    lag_seconds: float | None = None
    stopped: bool = False


class Seen:
    """What a scope has written, or was told of: by database the mark that its reads on a replica wait for.

    Args:
        worker: the only task or thread that notes here; another one that inherits it makes one of its own, which begins
            with what is known here, and notes here, too. ``None``: all that is started in the scope shares it.
    """

    __slots__ = ("__weakref__", "_above", "_marks", "_unknown", "outer", "scope", "worker")

    def __init__(self, worker: object = None, outer: Seen | None = None) -> None:
        self.worker = worker
        #: the block that it is for, and what is noted in after that
        self.scope: object = None
        self.outer: Seen | None = None
        self._marks: dict[object, Mark] = {} if outer is None else dict(outer._marks)
        # Those after whose writes nobody has asked how far the primary is.
        self._unknown: set[object] = set() if outer is None else set(outer._unknown)
        # Weak: a chain of tasks that start one another must not keep them all.
        self._above: tuple[weakref.ref[Seen], ...] = ()
        if outer is not None:
            self._above = (*(each for each in outer._above if each() is not None), weakref.ref(outer))

    def _all(self) -> Iterable[Seen]:
        yield self
        for each in self._above:
            if (outer := each()) is not None:
                yield outer

    def note(self, key: object, mark: Mark | None) -> None:
        """Note that the scope has seen *mark*; ``None``: it may have written, and how far that went isn't known."""
        for each in self._all():
            if mark is None:
                each._unknown.add(key)
            else:
                known = each._marks.get(key)
                each._marks[key] = mark if known is None else known.with_(mark)

    def settle(self, key: object, mark: Mark) -> None:
        """Note *mark*, which was asked for after all that was written until now."""
        self._unknown.discard(key)
        self.note(key, mark)

    def mark(self, key: object) -> Mark | None:
        """Return the mark that a read has to wait for; ``None``: none is known."""
        return self._marks.get(key)

    def is_unknown(self, key: object) -> bool:
        """Return whether something was written, and nobody has asked how far the primary was then."""
        return key in self._unknown


_here: ContextVar[Seen | None] = ContextVar("prefiq_db_seen", default=None)


def seen_here() -> Seen | None:
    """Return what the code here has written, or was told of, and has to see."""
    return _here.get()


def seen_by(worker: object) -> Seen:
    """Return where *worker*, the running task or thread, notes what it has written."""
    held = _here.get()
    if held is None or held.worker not in (None, worker):
        held = Seen(worker, held)
        _here.set(held)
    return held


def enter_scope(scope: object) -> None:
    """Let the code of the block *scope* share one from here on."""
    outer = _here.get()
    made = Seen(None, outer)
    made.scope, made.outer = scope, outer
    _here.set(made)


def leave_scope(scope: object) -> None:
    """End what :func:`enter_scope` began here; without one around it, what the block wrote is still to be seen."""
    mine = _here.get()
    if mine is not None and mine.scope is scope and mine.outer is not None:
        _here.set(mine.outer)


def share(seen: Seen | None) -> None:
    """Let the code from here on share *seen*; ``None``: nothing."""
    _here.set(seen)
