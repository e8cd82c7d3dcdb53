"""Of several hosts find the one to work with, by asking them; two primaries are refused, not chosen from by chance.

Why and when the other hosts are asked: docs/decisions/0159-why-two-primaries-are-refused.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prefiq_db.config import ANY_HOST, SESSION_ATTRS, WRITER, Host, Target
from prefiq_db.connectors.connector import Connector
from prefiq_db.connectors.host_memory import HostMemory
from prefiq_db.deadline import Deadline, Shares
from prefiq_db.dialects.node_roles import ONE_SERVER, Role
from prefiq_db.errors import (
    ConnectFailedError,
    ErrorClass,
    ErrorKind,
    NotReadyError,
    PrefiqDbError,
    ReadOnlyError,
    SplitBrainError,
)
from prefiq_db.interruptions import is_interruption
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.classify import in_phase, treatment
from prefiq_db.translation.judging import judge, judge_outcome

logger = logging.getLogger("prefiq_db.connectors")

# How long each of the other hosts is asked whether it takes writes, too; one that is silent doesn't take part.
_SURVEY_SECONDS: Final = 1.0


class SeveralHosts(Connector):
    """Mixed into a connector: finds the host to work with, and stays with it."""

    def __init__(self, settings: DatabaseSettings, target: Target) -> None:
        super().__init__(settings, target)
        self.wanted = target.options.get(SESSION_ATTRS, ANY_HOST if settings.read_only else WRITER)
        #: whether the host to find is the primary, of which there has to be one
        self.seeks_primary = self.wanted == WRITER
        #: whether a pooled connection has to be asked whether its server still is the one to work with
        self.asks_role = True
        self.memory = HostMemory(target.hosts, spreads=settings.write_to == "any")
        self._has_warned = False
        #: whether new connections lead to another host than those before, and nobody has noticed it yet
        self.has_moved = False

    # --- of each database ------------------------------------------------------------------------

    def role_of(self, connection: Any) -> Role:
        """Ask the server behind *connection* for its role."""
        raise NotImplementedError

    def kinship(self, connection: Any, other: Any) -> str | None:
        """Return what shows that two servers hold the same data, in words; ``None`` if nothing does.

        ``ONE_SERVER``: both connections lead to the same one.
        """
        raise NotImplementedError

    def is_of_driver(self, error: Exception) -> bool:
        """Return whether the driver or the network raised *error*, so that another host may do."""
        raise NotImplementedError

    def ailment_in(self, error: Exception) -> ErrorKind | None:
        """Return why a host that answered doesn't fit, if the driver itself found that out."""
        return None

    def may_pass(self, error: Exception) -> bool:
        """Return whether the host may do later; not if it said that login or database are wrong."""
        return True

    def drop(self, connection: Any) -> None:
        """Close *connection* without waiting for anybody."""
        raise NotImplementedError

    # --- the search ------------------------------------------------------------------------------

    def doubt(self) -> None:
        """Ask the other hosts again with the next new connection."""
        self.memory.doubt()

    def find(self, opened: Callable[[Host, Deadline], Any], deadline: Deadline) -> tuple[Host, Any]:
        """Return a host that fits, and the connection to it that *opened* made; *deadline* is for all hosts together.

        Raises:
            SplitBrainError: another host of the same cluster takes writes, too.
            ReadOnlyError, NotReadyError: none of the hosts that answered fits.
        """
        failures = _Failures(self.target.product.dialect)
        ailment: ErrorKind | None = None
        resorts: list[Host] = []
        shares = Shares(deadline, len(self.target.hosts))
        order, search = self.memory.order(), _Search(self, opened, deadline)
        for place, host in enumerate(order):
            try:
                connection = opened(host, shares.next())
                role = self.ask_role(connection)
            except Exception as error:
                if not self.is_of_driver(error) or is_interruption(error):
                    raise
                found = self.ailment_in(error)
                if found is not None:
                    ailment = found
                    continue
                failures.note(host, error, is_final=not self.may_pass(error))
                self.memory.note_failure(host)
                continue
            if role.ailment is None:
                return search.settle(_Candidate(host, connection, role), order[place + 1 :])
            self.drop(connection)
            ailment = role.ailment
            if role.is_last_resort:
                resorts.append(host)
        if resorts:
            host = resorts[0]
            return search.settle(_Candidate(host, opened(host, deadline), Role(shares_writes=True)), ())
        if ailment is not None:
            raise _none_fits(ailment, failures.told())
        raise failures.of_all()

    def ask_role(self, connection: Any) -> Role:
        """Ask like :meth:`role_of`; close the connection if that fails."""
        try:
            return self.role_of(connection)
        except BaseException:
            self.drop(connection)
            raise

    def tell_strangers(self, host: Host, other: Host) -> None:
        """Warn once that two hosts take writes, and nothing shows that they are of one cluster."""
        if self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "%s and %s both take writes, and nothing shows that they hold the same data; the first is used. If each of"
            " them may be written, say write_to=any; otherwise leave one of them out",
            host,
            other,
        )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A host that takes writes, and the connection to it."""

    host: Host
    connection: Any
    role: Role


class _Search:
    """One search for the primary; before a host is trusted, it looks for a second one among those not tried."""

    def __init__(self, connector: SeveralHosts, opened: Callable[[Host, Deadline], Any], deadline: Deadline) -> None:
        self._connector = connector
        # What is learned here doesn't end a doubt that arises from now on.
        self._doubts = connector.memory.doubts
        self._opened = opened
        self._deadline = deadline

    def settle(self, found: _Candidate, others: Sequence[Host]) -> tuple[Host, Any]:
        """Stay with *found*; before that, ask *others*, which were not tried, whether they are primaries as well."""
        connector, memory, host, connection = self._connector, self._connector.memory, found.host, found.connection
        is_alone = found.role.shares_writes or memory.spreads or memory.trusts(host)
        if connector.seeks_primary and not is_alone:
            host, connection = self._compare(found, others)
        before = memory.chosen
        if memory.choose(host, self._doubts):
            connector.has_moved = True
            logger.warning("connections lead to %s from now on; they led to %s", host, before)
        return host, connection

    def _compare(self, found: _Candidate, others: Sequence[Host]) -> tuple[Host, Any]:
        """Return the primary with its connection: *found*, or one of *others* that it follows."""
        drop = self._connector.drop
        try:
            for place, host in enumerate(others):
                limit = min(_SURVEY_SECONDS, self._deadline.left() / (2 * (len(others) - place)))
                other = self._ask(host, Deadline.after(limit))
                if other is None:
                    continue
                try:
                    loser = self._loser(found, other)
                except BaseException:
                    drop(other.connection)
                    raise
                found = found if loser is other else other
                drop(loser.connection)
        except BaseException:
            drop(found.connection)
            raise
        return found.host, found.connection

    def _ask(self, host: Host, deadline: Deadline) -> _Candidate | None:
        """Return *host* if it takes writes; ``None`` if not, or if it can't be asked."""
        connector = self._connector
        try:
            connection = self._opened(host, deadline)
            role = connector.ask_role(connection)
        except Exception as error:
            if is_interruption(error):
                raise
            logger.debug("host %s can't be asked for its role: %s", host, type(error).__name__)
            return None
        if role.ailment is None:
            return _Candidate(host, connection, role)
        connector.drop(connection)
        return None

    def _loser(self, one: _Candidate, other: _Candidate) -> _Candidate:
        """Return which of two writable hosts is no primary: who follows another one, or else the later in the list."""
        if one.role.follows != other.role.follows:
            return one if one.role.follows else other
        kinship = self._connector.kinship(one.connection, other.connection)
        if kinship == ONE_SERVER:
            return other
        if kinship is not None:
            raise _two_primaries(one.host, other.host, kinship)
        self._connector.tell_strangers(one.host, other.host)
        return other


class _Failures:
    """Why hosts gave no connection."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._found: list[tuple[Host, Exception, ErrorClass]] = []
        self._refusal: Exception | None = None

    def note(self, host: Host, error: Exception, *, is_final: bool) -> None:
        """Note *error* of *host*; *is_final*: somebody has to change something there."""
        judged = judge_outcome(judge(error, self._dialect), error, self._dialect, "connect")
        self._found.append((host, error, judged))
        if is_final:
            self._refusal = self._refusal or error

    def told(self) -> str:
        """Return the hosts with the kind of their errors; ``""``: none failed."""
        return ", ".join(f"{host} ({judged.kind.value})" for host, _, judged in self._found)

    def of_all(self) -> Exception:
        """Return the error to raise, if no host gave a connection: one of theirs, or one that names them all."""
        if len({judged.transient for *_, judged in self._found}) == 1:
            return self._refusal or self._found[-1][1]
        # One that is cut off, or was set up anew, may not know user or database; those that are away may be back soon.
        return ConnectFailedError(
            f"none of the hosts gives a connection: {self.told()}. Those that can't be reached may be back soon; what "
            "another one refuses, somebody has to change there",
            classification=in_phase(treatment(ErrorKind.CONNECT_FAILED), "connect"),
        )


def _two_primaries(host: Host, other: Host, kinship: str) -> SplitBrainError:
    return SplitBrainError(
        f"{host} and {other} both say that they are the primary of one cluster ({kinship}), so no connection is given "
        "for writes: what one of them confirms, the other doesn't have. Stop the wrong one, or make it a replica; "
        f"?{SESSION_ATTRS}={ANY_HOST} in the URL and read_only still read",
        hosts=(str(host), str(other)),
        classification=in_phase(treatment(ErrorKind.NOT_READY), "connect"),
    )


def _none_fits(ailment: ErrorKind, failures: str) -> PrefiqDbError:
    """Return the error for a list of hosts none of which fits; *ailment* is why the last one that answered didn't.

    *failures*: the hosts that gave no connection, of which one may be the right one.
    """
    classification = in_phase(treatment(ailment), "connect")
    others = f". These gave no connection, and may be it: {failures}" if failures else ""
    if ailment is ErrorKind.READ_ONLY:
        return ReadOnlyError(
            f"none of the hosts takes writes: those that answered are read-only{others}. A failover may be under way; "
            f"to stay with a host that only reads, say ?{SESSION_ATTRS}={ANY_HOST} in the URL",
            classification=classification,
        )
    return NotReadyError(
        "none of the hosts is one to work with now: those that answered are not ready, or not what "
        f"?{SESSION_ATTRS}= in the URL asks for{others}",
        classification=classification,
    )


def ask_one(connection: Any, question: str) -> Any:
    """Return the one row that is the answer."""
    cursor = connection.cursor()
    cursor.execute(question)
    row = cursor.fetchone()
    cursor.close()
    return row
