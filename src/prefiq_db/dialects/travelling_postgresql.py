"""PostgreSQL: what travels with a statement is in one burst of libpq's pipeline mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from prefiq_db.dialects.following import FollowingDialect
from prefiq_db.marks import Mark, Standing

_NUMBERED: Final = re.compile(r"\$\d")
#: what a message of PostgreSQL's has room for
_MOST_PARAMETERS: Final = 65535


def was_refused_ahead(error: Exception) -> bool:
    """Return whether *error* is that of a request ahead of the statement, which the server skipped then."""
    return bool(getattr(error, "prefiq_db_ahead", False))


class PipelineTravelling(FollowingDialect):
    """Mixed into our dialects for psycopg."""

    def new_burst(self, ahead: Sequence[str] = (), behind: str | None = None) -> Any:
        from prefiq_db.drivers.travellers import PipelineBurst

        burst = PipelineBurst(ahead, behind)
        if behind is not None and self.marker is not None:
            burst.after = self.mark_sql
        return burst

    def goes_alone(self, context: Any, driver: Any) -> bool:
        return super().goes_alone(context, driver) or driver._pipeline is not None or _is_odd(context)

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        driver = self._driver(dbapi_connection)
        if driver._pipeline is not None:
            return False
        driver.send_unheard(text)
        return True

    def hears_all(self, dbapi_connection: Any) -> bool:
        heard: bool = self._driver(dbapi_connection).hears_all()
        return heard

    # --- read your writes ------------------------------------------------------------------------

    _question_travels = True
    mark_kind = "p"

    # Without new commits an age would grow for ever, so a replica that has replayed all it got is not behind.
    standing_sql = (
        "SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_stat_wal_receiver),"
        " pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_last_wal_replay_lsn(),"
        " EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"
    )

    def standing_of(self, rows: Any) -> Standing:
        ((is_replica, is_following, has_all, age),) = rows
        lag = 0.0 if is_following and has_all else None if age is None else max(0.0, float(age))
        return Standing(bool(is_replica), lag, is_detached=bool(is_replica) and not is_following)

    # The name of the file says the timeline. Whatever is written by now is before the place of the next insertion.
    mark_sql = "SELECT pg_walfile_name(l), l - '0/0'::pg_lsn FROM pg_current_wal_insert_lsn() AS l"

    def mark_from(self, row: Any) -> Mark | None:
        timeline, place = int(row[0][:8], 16), int(row[1])
        # At the start of a page the next record comes after the page's header, but a replica ends before it: so nobody
        # would have got that far until somebody writes more. No record ends within a header.
        place -= {_SHORT_HEADER: _SHORT_HEADER}.get(place % _PAGE, 0)
        place -= {_LONG_HEADER: _LONG_HEADER}.get(place % _SEGMENT, 0)
        return Mark("p", {0: (timeline, place)})

    def _told_mark(self, driver: Any, burst: Any, cursor: Any) -> None:
        # Where the statement was sent again, to be prepared anew, the answer came before what it wrote then.
        answer = None if burst is None or burst.refused else burst.answer
        self.marker.note(None if answer is None else self.mark_from(answer))

    def check_sql(self, mark: Mark, seconds: float) -> str:
        # A statement that only fails: one that waited would hold a snapshot, which may hold up the replay itself. With
        # another isolation level the snapshot might be older than the place that is compared here.
        level = "current_setting('transaction_isolation') = 'read committed'"
        return f"SELECT 1 / ({level} AND pg_is_in_recovery() AND {_has_place(mark)} AND {_is_of_branch(mark)})::int"

    def followed_sql(self, mark: Mark, seconds: float) -> str:
        # One that got so far on another branch, or has left recovery, gets no nearer by waiting.
        hopeless = f"NOT pg_is_in_recovery() OR ({_has_place(mark)} AND NOT {_is_of_branch(mark)})"
        return f"SELECT CASE WHEN {hopeless} THEN NULL ELSE {_has_place(mark)} END"

    def _send_commit(self, dbapi_connection: Any) -> str | None:
        if self.marker is None:
            return super()._send_commit(dbapi_connection)
        if not self.begin_travels:
            try:
                return super()._send_commit(dbapi_connection)
            finally:
                self.marker.note(None)  # behind it: who asks before COMMIT gets an answer that isn't enough
        clock = self.clock_of(dbapi_connection)
        clock.is_committing = True
        try:
            tag, answer = self._commit_and_ask(dbapi_connection)
        except BaseException:
            self.marker.note(None)
            raise
        finally:
            clock.is_committing = False
        self.marker.note(None if answer is None else self.mark_from(answer))
        return tag

    def _commit_and_ask(self, dbapi_connection: Any) -> tuple[str, Any]:
        """Send COMMIT, and behind it the question; return COMMIT's command tag, and the answer if one came."""
        from prefiq_db.drivers.psycopg_bursts import commit_and_ask

        return commit_and_ask(self._driver(dbapi_connection), self.mark_sql, self._wait_for_all)  # type: ignore[attr-defined]  # the dialect has it


# Of the WAL: the size of a page and its header, and the smallest segment with the header of its first page.
_PAGE: Final = 8192
_SHORT_HEADER: Final = 24
_SEGMENT: Final = 1024 * 1024
_LONG_HEADER: Final = 40


def _has_place(mark: Mark) -> str:
    place = mark.places[0][1]
    return f"coalesce(pg_last_wal_replay_lsn() >= '{place >> 32:X}/{place & 0xFFFFFFFF:X}'::pg_lsn, false)"


def _is_of_branch(mark: Mark) -> str:
    # The control file is the only word on the timeline that every user may read; after a failover it may be late, so
    # the primary is read until the next restart point rather than a replica of the branch that was lost.
    return (
        "((SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)"
        f" FROM pg_control_checkpoint() AS c, pg_control_recovery() AS r) >= {mark.places[0][0]})"
    )


def _is_odd(context: Any) -> bool:
    """Return whether the protocol that a burst needs treats the statement otherwise than psycopg's execute().

    Without parameters psycopg uses the simple protocol, where ``$1`` is a mistake that the server explains; and more
    parameters than the protocol has room for are refused when BEGIN is on its way already.
    """
    statement, parameters = getattr(context, "statement", None), getattr(context, "parameters", None)
    if statement is None or not parameters:
        return statement is not None and _NUMBERED.search(statement) is not None
    return len(parameters[0]) > _MOST_PARAMETERS or (not parameters[0] and _NUMBERED.search(statement) is not None)
