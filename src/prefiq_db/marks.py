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
from typing import Any, Final

from prefiq_db.errors import UsageError

#: branch and number: of PostgreSQL the timeline and the place in the WAL, of MariaDB the server and the sequence number
Place = tuple[int, int]

# No longer than a cookie may be: MariaDB has a place for each domain.
_FORM: Final = re.compile(r"1([pmn])\.([0-9a-f]{1,8})\.([0-9a-z.-]{3,3900})\.([0-9a-f]{1,8})", re.ASCII)
_PLACE: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,20})", re.ASCII)
#: what stands in the token of somebody who doesn't know how far the primary is, for the kind and the place
_UNKNOWN_KIND: Final = "n"
_UNKNOWN_PLACE: Final = "0-0-0"
# Of a timeline, a domain or a server; and of a place in the log or a sequence number, of which PostgreSQL counts less.
_LARGEST_ID: Final = 2**32 - 1
_LARGEST_NUMBER: Final = 2**63 - 1


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
        return _signed(self.kind, home, places)


def unknown_text(home: str) -> str:
    """Return the token of a write whose place nobody knows here: whoever reads after it asks the primary."""
    return _signed(_UNKNOWN_KIND, home, _UNKNOWN_PLACE)


def _signed(kind: str, home: str, places: str) -> str:
    body = f"1{kind}.{_sum(home)}.{places}"
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


def mark_of(token: str, kind: str, home: str) -> Mark | None:
    """Return the mark that *token* says, which :func:`check_mark_text` has seen; ``None``: the primary has to be asked.

    Raises:
        UsageError: it is a mark of another kind of server, or of another database.
    """
    found = _FORM.fullmatch(token)
    assert found is not None, "checked before"
    if (found[1], found[2], found[3]) == (_UNKNOWN_KIND, _sum(home), _UNKNOWN_PLACE):
        return None
    texts = [_PLACE.fullmatch(each) for each in found[3].split(".")]
    places = {int(each[1]): (int(each[2]), int(each[3])) for each in texts if each is not None}
    # Whoever knows the form can make one, so no number goes to a server that has no room for it.
    has_room = all(
        max(domain, branch) <= _LARGEST_ID and number <= _LARGEST_NUMBER for domain, (branch, number) in places.items()
    )
    is_whole = all(texts) and len(places) == len(texts) and (kind == "m" or list(places) == [0])
    if found[1] != kind or found[2] != _sum(home) or not (is_whole and has_room):
        raise UsageError("override after: this mark is of another database; expected one of this database's mark()")
    return Mark(kind, places)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a replica says of itself.

    Attributes:
        is_replica: it follows a primary; ``False``: it was promoted; ``None``: its user may not know.
        lag_seconds: how old what it has is; 0 if nothing newer is known to exist; ``None``: unknown.
        stopped: it does not follow now.
        is_detached: it has no connection to its primary, so it can't know how much newer that is.
    """

    is_replica: bool | None = None
    lag_seconds: float | None = None
    stopped: bool = False
    is_detached: bool = False


class Doubt:
    """That something was written, and nobody has asked how far the primary was then.

    Args:
        writer: a pooled connection on which somebody writes what we don't see. No answer settles it before that is
            returned.
    """

    __slots__ = ("_writer",)

    def __init__(self, writer: Any = None) -> None:
        self._writer = None if writer is None else weakref.ref(writer)

    @property
    def lasts(self) -> bool:
        """Whether it goes on."""
        writer = None if self._writer is None else self._writer()
        return writer is not None and writer.dbapi_connection is not None


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
        self._unknown: dict[object, Doubt] = {} if outer is None else dict(outer._unknown)
        # Weak: a chain of tasks that start one another must not keep them all.
        self._above: tuple[weakref.ref[Seen], ...] = ()
        if outer is not None:
            self._above = (*(each for each in outer._above if each() is not None), weakref.ref(outer))

    def _all(self) -> Iterable[Seen]:
        yield self
        for each in self._above:
            if (outer := each()) is not None:
                yield outer

    def _scopes(self) -> Iterable[Seen]:
        """Yield this one and the scopes around it: what is written in those later, by a task of theirs, counts here."""
        for each in self._all():
            if each is self or each.worker is None:
                yield each

    def note(self, key: object, mark: Mark | None, doubt: Doubt | None = None) -> None:
        """Note that the scope has seen *mark*; ``None``: it may have written, and how far that went isn't known.

        Args:
            doubt: what is noted for the latter; default: a new one, that the next answer settles.
        """
        doubt = doubt or Doubt()
        for each in self._all():
            if mark is not None:
                known = each._marks.get(key)
                each._marks[key] = mark if known is None else known.with_(mark)
                continue
            before = each._unknown.get(key)
            if before is None or not before.lasts:
                each._unknown[key] = doubt

    def doubts(self, key: object) -> list[tuple[Seen, Doubt]]:
        """Return what isn't known here and around: take it before the question, give it to :meth:`settle`."""
        found = ((each, each._unknown.get(key)) for each in self._all())
        return [(each, doubt) for each, doubt in found if doubt is not None and not doubt.lasts]

    def settle(self, key: object, mark: Mark, doubts: Iterable[tuple[Seen, Doubt]]) -> None:
        """Note *mark*, which was asked for after *doubts* were taken; what was written since then stays in doubt."""
        self.note(key, mark)
        for each, doubt in doubts:
            if each._unknown.get(key) is doubt:
                del each._unknown[key]

    def mark(self, key: object) -> Mark | None:
        """Return the mark that a read has to wait for; ``None``: none is known."""
        found: Mark | None = None
        for each in self._scopes():
            known = each._marks.get(key)
            if known is not None:
                found = known if found is None else found.with_(known)
        return found

    def is_unknown(self, key: object) -> bool:
        """Return whether something was written, and nobody has asked how far the primary was then."""
        return any(key in each._unknown for each in self._scopes())


#: whoever notes or reads makes one of its own
_NOBODY: Final = object()
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
    if mine is not None and mine.scope is scope:
        # Not the block's own: tasks that are started from now on don't belong to it.
        _here.set(mine.outer or Seen(_NOBODY, mine))


def share(seen: Seen | None) -> None:
    """Let the code from here on share *seen*; ``None``: nothing."""
    _here.set(seen)
