"""MariaDB: what travels with a statement is in one message, several statements of one COM_QUERY.

It is safe as long as each is one statement to its very end: the transaction's guard lets no other travel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from prefiq_db.bridge import await_
from prefiq_db.dialects.following import FollowingDialect
from prefiq_db.dialects.node_roles import MARIADB_HEALTH, mysql_role, status_of
from prefiq_db.dialects.session import TransactionState
from prefiq_db.errors import ErrorKind
from prefiq_db.marks import Mark, Standing

#: under this domain a mark has a place among Galera's write sets: the begin of their history's UUID, and the number
GALERA: Final = 2**32 - 1
_STATUS: Final = (
    "FROM information_schema.global_status WHERE variable_name IN ('WSREP_LOCAL_STATE_UUID', 'WSREP_LAST_COMMITTED')"
)
GALERA_MARK: Final = (
    f"SELECT @@gtid_binlog_pos, LEFT({status_of('WSREP_LOCAL_STATE_UUID')}, 8), {status_of('WSREP_LAST_COMMITTED')} "
    f"{_STATUS}"
)


class MariadbTravelling(FollowingDialect):
    """Mixed into MariaDB's dialect. Nothing is proven for MySQL's server."""

    travels_in_text = True

    @property
    def begin_travels(self) -> bool:
        return bool(self.is_mariadb)  # type: ignore[attr-defined]  # MariaDB's dialects have it

    def begin_messages(self, transaction: TransactionState) -> list[str]:
        message = ["START TRANSACTION READ ONLY" if transaction.read_only else "START TRANSACTION"]
        if transaction.isolation is not None:
            # The level holds for the next transaction only.
            message.insert(0, f"SET TRANSACTION ISOLATION LEVEL {transaction.isolation}")
        if transaction.token is not None:
            message.append(self.token_sql(transaction.token))
        return message

    def _driver(self, dbapi_connection: Any) -> Any:
        return dbapi_connection

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        self.check_not_streaming(dbapi_connection)  # type: ignore[attr-defined]  # MariaDB's dialects have it
        self._driver(dbapi_connection).send_unheard(text)
        return True

    def hears_all(self, dbapi_connection: Any) -> bool:
        return bool(dbapi_connection.hears_all())

    def hear_out(self, dbapi_connection: Any) -> bool:
        dbapi_connection.hear()
        return self.is_at_rest(dbapi_connection)

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        super().set_statement_timeout(proxied, seconds)
        raw = proxied.dbapi_connection
        if self._driver(raw).is_unheard:
            self._hear_before(proxied, raw)

    def _hear_before(self, proxied: Any, raw: Any) -> None:
        """Read the reply that nobody waited for before anything is sent, unless what comes next may be sent twice."""
        state = self.session_of(proxied)
        self._driver(raw).may_overtake = overtakes = state.checkout.repeatable
        if not (overtakes or state.transaction.owes_begin):
            self.hear_out(raw)

    # --- read your writes ------------------------------------------------------------------------

    mark_kind = "m"

    #: a node of Galera, as it was when the pool connected first; asked only where there are replicas
    is_galera = False
    #: the server has told a GTID once: one without a binary log never does
    _has_told = False

    def initialize(self, connection: Any) -> None:
        super().initialize(connection)  # type: ignore[misc]  # SQLAlchemy's
        if self.marker is not None or self.gate is not None:
            said = connection.exec_driver_sql("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'").first()
            self.is_galera = said is not None and said[1] == "ON"

    @property
    def mark_sql(self) -> str:
        if not self.is_galera:
            return "SELECT @@gtid_binlog_pos"
        # Who writes to several nodes may ask another one than that which wrote, and it may be a moment behind.
        connector: Any = self.connector
        several = len(connector.target.hosts) > 1
        return f"{'SET STATEMENT wsrep_sync_wait = 1 FOR ' if several else ''}{GALERA_MARK}"

    # Only a user with SLAVE MONITOR, or its old name REPLICATION CLIENT, may ask.
    standing_sql = "SHOW ALL SLAVES STATUS"

    @property
    def peer_sql(self) -> str:
        return MARIADB_HEALTH if self.is_galera else ""

    def peer_standing(self, standing: Standing, row: Any) -> Standing:
        role = mysql_role(row)
        is_in_step = role.ailment in (None, ErrorKind.READ_ONLY) and role.state == "Synced"
        return replace(standing, is_replica=True, stopped=standing.stopped or not is_in_step)

    def standing_of(self, rows: Any) -> Standing:
        if not rows:
            return Standing(is_replica=False)
        found = [each._mapping for each in rows]
        runs = all(each["Slave_SQL_Running"] == "Yes" for each in found)
        lags = [each["Seconds_Behind_Master"] for each in found]
        # Without a connection to its primary a replica doesn't know; it still serves what it has, for a while.
        lag = None if None in lags else float(max(lags))
        is_attached = all(each["Slave_IO_Running"] == "Yes" for each in found)
        return Standing(True, lag, stopped=not runs, is_detached=not is_attached)

    def mark_from(self, row: Any) -> Mark | None:
        mark = self._told(row[0] or "")
        if len(row) == 1 or not row[1]:
            return mark
        place = Mark("m", {GALERA: (int(row[1], 16), int(row[2]))})
        return place.with_(mark)

    def _told(self, gtids: str) -> Mark | None:
        mark = mark_of_gtids(gtids)
        if mark is not None:
            self._has_told = True
        return mark

    def _forget_told(self, driver: Any) -> None:
        driver.told_gtid = ""

    def _told_mark(self, driver: Any, burst: Any, cursor: Any) -> None:
        # Behind rows the server tells nothing.
        self._note_gtid(driver, is_sure=cursor is None or not cursor.description)

    def note_gtid(self, gtid: str) -> None:
        """Note the GTID of what was written; ``""``: it isn't known."""
        if self.marker is not None:
            self.marker.note(None if self.is_galera else self._told(gtid))

    def note_told(self, dbapi_connection: Any, *, is_sure: bool) -> None:
        """Note the GTID that the server told at COMMIT; if it told none, *is_sure* says that nothing was written."""
        if self.marker is not None:
            self._note_gtid(self._driver(dbapi_connection), is_sure=is_sure)

    def told_unasked(self, dbapi_connection: Any) -> None:
        self.note_told(dbapi_connection, is_sure=False)

    def _note_gtid(self, driver: Any, *, is_sure: bool) -> None:
        told, driver.told_gtid = driver.told_gtid, ""
        # Of a Galera node's place nothing is told, and without a binary log no GTID either.
        mark, is_sure = (None, False) if self.is_galera else (self._told(told), is_sure)
        if mark is not None or not (is_sure and driver.tells_gtid and self._has_told):
            self.marker.note(mark)

    def check_sql(self, mark: Mark, seconds: float) -> str:
        fails = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'prefiq_db: this replica is behind'"
        return f"BEGIN NOT ATOMIC IF {_waited(mark, seconds)} THEN {fails}; END IF; END"

    def followed_sql(self, mark: Mark, seconds: float) -> str:
        return f"SELECT NOT ({_waited(mark, seconds)})"

    def _send_commit(self, dbapi_connection: Any) -> str | None:
        is_sure = False
        try:
            tag = super()._send_commit(dbapi_connection)
            is_sure = True
        finally:
            self.note_told(dbapi_connection, is_sure=is_sure)
        return tag


def mark_of_gtids(text: str) -> Mark | None:
    """Return the mark of a list of GTIDs as the server writes it: ``0-1-270,1-1-3``."""
    places = {}
    for gtid in filter(None, text.split(",")):
        domain, server, number = map(int, gtid.split("-"))
        places[domain] = (server, number)
    return Mark("m", places) if places else None


def _waited(mark: Mark, seconds: float) -> str:
    """Return the condition that a replica did not get *mark* within *seconds*; for Galera's place it doesn't wait."""
    places = dict(mark.places)
    place = places.pop(GALERA, None)
    gtids = ",".join(f"{domain}-{server}-{number}" for domain, (server, number) in places.items())
    is_late = f"COALESCE(MASTER_GTID_WAIT('{gtids}', {max(0.0, seconds):.3f}), -1) <> 0" if gtids else "TRUE"
    if place is None:
        return is_late
    history, number = place
    # A node of another cluster, or of none, may replicate from this one.
    return (
        f"(SELECT IF(COALESCE({status_of('WSREP_LOCAL_STATE_UUID')}, '') LIKE '{history:08x}-%', "
        f"COALESCE({status_of('WSREP_LAST_COMMITTED')}, 0) + 0 < {number}, {is_late}) {_STATUS})"
    )


class AsyncMariadbTravelling(MariadbTravelling):
    """Mixed into MariaDB's async dialect."""

    def _driver(self, dbapi_connection: Any) -> Any:
        return dbapi_connection._connection

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        self.check_not_streaming(dbapi_connection)  # type: ignore[attr-defined]  # MariaDB's dialects have it
        await_(self._driver(dbapi_connection).send_unheard(text))
        return True

    def hears_all(self, dbapi_connection: Any) -> bool:
        return bool(await_(self._driver(dbapi_connection).hears_all()))

    def hear_out(self, dbapi_connection: Any) -> bool:
        await_(self._timed_hearing(dbapi_connection))
        return self.is_at_rest(dbapi_connection)

    async def _timed_hearing(self, dbapi_connection: Any) -> None:
        async with dbapi_connection._execute_mutex:
            await self._driver(dbapi_connection).hear()
