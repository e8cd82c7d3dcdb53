"""The replicas of a database: which one gets the next read, and which are out of the rotation."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final, Generic, Protocol, TypeVar

from prefiq_db.errors import ErrorKind
from prefiq_db.events import ReplicaChanged
from prefiq_db.forks import in_child, renewed
from prefiq_db.marks import Standing
from prefiq_db.reports import NodeStats, PoolStats

logger = logging.getLogger("prefiq_db.readers")

#: how long the word of a replica about itself counts
FRESH_SECONDS: Final = 1.0
#: why a node is out that can't be connected to
UNREACHABLE: Final = ErrorKind.CONNECT_FAILED.value
_BACK: Final = "replica %s of database %s gets reads again"
_BUSY: Final = ErrorKind.POOL_TIMEOUT.value
_FIRST_OUT_SECONDS: Final = 0.5
_LONGEST_OUT_SECONDS: Final = 8.0
#: why the primary gets no reads as a replica
PROMOTED: Final = "promoted"
#: how long a question is not put again that the server has refused: it would count as an error each time
_REFUSED_SECONDS: Final = 3600.0


class Pooled(Protocol):
    """The part of an instance that a node uses."""

    engine: Any


I = TypeVar("I", bound=Pooled)  # noqa: E741 - an instance


class Node(Generic[I]):
    """One replica, and what is known of it.

    Attributes:
        reason: why it is out of the rotation, in a word; ``""``: it is in.
    """

    def __init__(self, name: str, weight: float, instance: I) -> None:
        self.name = name
        self.weight = weight
        self.instance = instance
        self.reason = ""
        self.standing = Standing()
        # When it last said that it was connected to its primary, less what it lagged then.
        self._fresh_at = 0.0
        self._served = 0.0
        self._looked_at = 0.0
        self._out_until = 0.0
        self._out_seconds = _FIRST_OUT_SECONDS
        self._refused_until = 0.0
        #: out, and given to a session, which can't ask before
        self.on_trial = False
        self._lookers: dict[None, object] = {}
        in_child(self, Node._forget_lookers)

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.reason or 'in the rotation'}>"

    def _forget_lookers(self) -> None:
        """Forget who asks it: in a forked child nobody does."""
        self._lookers.clear()

    @property
    def load(self) -> tuple[float, float]:
        """What the next read is weighed by: connections in use, then reads until now, both for its weight."""
        return self.instance.engine.pool.checkedout() / self.weight, self._served / self.weight

    @property
    def role(self) -> str:
        """What it said that it is."""
        return {True: "replica", False: "primary", None: "unknown"}[self.standing.is_replica]

    def served(self) -> None:
        """Count one read that was sent there."""
        self._served += 1

    def catch_up(self, others: Collection[Node[I]]) -> None:
        """Count as many reads as the *others* for its weight, so that a node that returns doesn't get all of them."""
        self._served = max([self._served, *(self.weight * each._served / each.weight for each in others)])

    def has_to_be_asked(self, now: float, *, by_force: bool = False) -> bool:
        """Return whether its last word is too old, or it is time to try it again; *by_force*: that it always is."""
        if self.reason:
            return by_force or now >= self._out_until
        return now - self._looked_at >= FRESH_SECONDS

    def may_be_asked(self, now: float) -> bool:
        """Return whether its user may ask it how it stands, as far as is known."""
        return now >= self._refused_until

    def refused(self, now: float) -> bool:
        """Note that its user may not ask it; return whether that is new."""
        is_new = not self._refused_until
        self._refused_until = now + _REFUSED_SECONDS
        return is_new

    def may_look(self, looker: object) -> bool:
        """Return whether *looker* is the only one who asks it now; then it has to call :meth:`looked`."""
        return self._lookers.setdefault(None, looker) is looker

    def looked(self, looker: object) -> None:
        """Note that *looker* is done."""
        if self._lookers.get(None) is looker:
            del self._lookers[None]

    def aged(self, standing: Standing, now: float) -> Standing:
        """Return *standing*, of a node without a connection to its primary with what it lags at most.

        On an idle primary the server's own word, the age of the last transaction, would be far too much, and MariaDB
        has none.
        """
        if not standing.is_detached or not self._fresh_at:
            # Without a word of its own it has the time that it may lag, from now on.
            self._fresh_at = now - (standing.lag_seconds or 0.0)
            return standing
        known, since = standing.lag_seconds, now - self._fresh_at
        return replace(standing, lag_seconds=since if known is None else min(known, since))

    def put_off(self, now: float) -> None:
        """Note that it was to be asked and could not be: what it said before counts for as long again."""
        self._looked_at = now

    def put_in(self, standing: Standing, now: float, others: Collection[Node[I]]) -> bool:
        """Note that it is fit for reads; return whether it was out."""
        was_out = bool(self.reason)
        self.standing, self.reason, self._looked_at = standing, "", now
        self._out_seconds = _FIRST_OUT_SECONDS
        if was_out:
            self.catch_up(others)
        return was_out

    def put_out(self, reason: str, now: float, standing: Standing | None = None) -> bool:
        """Note why it gets no reads for a while; return whether it was in."""
        was_in = not self.reason
        self.reason, self._looked_at = reason, now
        # Without a word of its own it isn't known any more how far it is behind.
        self.standing = replace(self.standing, lag_seconds=None) if standing is None else standing
        if was_in:
            self._out_seconds = _FIRST_OUT_SECONDS
        self._out_until = now + self._out_seconds
        self._out_seconds = min(_LONGEST_OUT_SECONDS, self._out_seconds * 2)
        return was_in

    def stats(self, pool: PoolStats) -> NodeStats:
        """Return what is known of it, without asking it."""
        return NodeStats(self.name, self.role, not self.reason, self.reason, self.standing.lag_seconds, pool)


class Readers(Generic[I]):
    """The replicas of one database.

    Args:
        emit: tells listeners.

    Attributes:
        key: what marks of this database are kept under.
    """

    def __init__(
        self, database: str, nodes: list[Node[I]], max_lag_seconds: float, emit: Callable[[ReplicaChanged], None]
    ) -> None:
        self.database = database
        self._emit = emit
        self.nodes = nodes
        self.key = object()
        self.fallback_count = 0
        self._max_lag_seconds = max_lag_seconds
        self._lock = renewed(self, "_lock")

    def named(self, name: str) -> Node[I] | None:
        """Return the node *name*, or ``None``."""
        return next((each for each in self.nodes if each.name == name), None)

    def next(
        self, tried: Collection[Node[I]], look: Callable[[Node[I]], Standing] | None, *, by_force: bool = False
    ) -> Node[I] | None:
        """Return the node for the next read, of those not *tried*: the one with the least to do for its weight.

        Args:
            look: asks a node for its standing; ``None``: nobody is asked.
            by_force: a node that is out is asked at once, and not when its time has come.
        """
        looker = object()
        for node in self._by_load(tried):
            now = time.monotonic()
            if look is not None and node.has_to_be_asked(now, by_force=by_force) and node.may_look(looker):
                try:
                    self._judge(node, look)
                finally:
                    node.looked(looker)
            if not node.reason or (look is None and self._tries(node, now)):
                with self._lock:
                    node.served()
                return node
        return None

    def _tries(self, node: Node[I], now: float) -> bool:
        """Return whether one who can't ask is to try *node*, which could not be reached: it is time, for one."""
        with self._lock:
            tries = node.reason == UNREACHABLE and node.has_to_be_asked(now)
            if tries:
                node.put_out(node.reason, now)
                node.on_trial = True
        return tries

    def connected(self, node: Node[I]) -> None:
        """Note that a connection to *node* came about."""
        if not node.on_trial:
            return
        with self._lock:
            node.on_trial = False
            others = [each for each in self.nodes if each is not node and not each.reason]
            was_out = node.put_in(node.standing, time.monotonic(), others)
        if was_out:
            self._tell(node, logging.INFO, _BACK)

    def unreachable(self, node: Node[I]) -> None:
        """Note that no connection to *node* came about; whoever reads by a verb does so by itself."""
        node.on_trial = False
        if not node.reason:
            self.out(node, UNREACHABLE)

    def _by_load(self, tried: Collection[Node[I]]) -> list[Node[I]]:
        with self._lock:
            return sorted((each for each in self.nodes if each not in tried), key=lambda each: each.load)

    def _judge(self, node: Node[I], look: Callable[[Node[I]], Standing]) -> None:
        was_in = not node.reason
        try:
            standing = node.aged(look(node), time.monotonic())
        except Unfit as error:
            if error.reason == _BUSY and not node.reason:
                node.put_off(time.monotonic())  # that its connections are in use says nothing of the server
            elif not (was_in and node.reason == error.reason):  # else its pool has noted it just now
                self.out(node, error.reason)
            return
        reason = self._ailment(standing)
        if reason:
            self.out(node, reason, standing)
            return
        with self._lock:
            others = [each for each in self.nodes if each is not node and not each.reason]
            was_out = node.put_in(standing, time.monotonic(), others)
        if was_out:
            self._tell(node, logging.INFO, _BACK)

    def _ailment(self, standing: Standing) -> str:
        if standing.is_replica is False:
            return PROMOTED
        if standing.stopped:
            return "not following"
        lag = standing.lag_seconds
        return "behind" if lag is not None and lag > self._max_lag_seconds else ""

    def out(self, node: Node[I], reason: str, standing: Standing | None = None) -> None:
        """Take *node* out of the rotation for a while, because of *reason*."""
        # The settings may name every host, so that the primary of now stands among them: nothing has happened then.
        is_usual = reason == PROMOTED and node.standing.is_replica is None
        with self._lock:
            was_in = node.put_out(reason, time.monotonic(), standing)
        if was_in:
            level = logging.INFO if is_usual else logging.WARNING
            self._tell(node, level, f"replica %s of database %s gets no reads for now: {reason}")

    def may_not_ask(self, node: Node[I]) -> None:
        """Note that the user of *node* may not ask how it stands, and log it once."""
        with self._lock:
            is_new = node.refused(time.monotonic())
        if is_new:
            extra = {"database": self.database, "node": node.name}
            logger.warning(
                "the user of database %s may not ask replica %s how it stands, so nobody sees how far it is behind, or "
                "that it was promoted: GRANT SLAVE MONITOR ON *.* to that user, and restart",
                self.database,
                node.name,
                extra=extra,
            )

    def _tell(self, node: Node[I], level: int, message: str) -> None:
        extra = {"database": self.database, "node": node.name, "reason": node.reason}
        logger.log(level, message, node.name, self.database, extra=extra)
        lag = node.standing.lag_seconds
        self._emit(ReplicaChanged(self.database, node.name, not node.reason, node.reason, node.role, lag))

    def states(self) -> str:
        """Return the state of every node in words, for an error."""
        return ", ".join(f"{each.name} ({each.reason or 'in the rotation'})" for each in self.nodes)

    def close(self, close: Callable[[I], None]) -> None:
        """Close every node's pool, even if an interruption hits at one of them."""
        left = itertools.chain(self.nodes)
        try:
            for each in left:
                close(each.instance)
        finally:
            for each in left:
                close(each.instance)


class Unfit(Exception):  # noqa: N818 - nobody sees it: it says why a node is out
    """A node did not answer, or not well."""

    def __init__(self, kind: ErrorKind) -> None:
        super().__init__(kind.value)
        self.reason = kind.value
