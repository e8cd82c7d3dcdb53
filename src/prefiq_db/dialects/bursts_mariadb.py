"""A burst on MariaDB: one ``BEGIN NOT ATOMIC`` block, with a handler that rolls back and raises the error again.

Between the statements stand SELECTs of our own, the trailers: a block reports no row counts by itself. How many of them
arrived before an error tells whose error it is. They set nothing: triggers, functions and views of the next statement
see the LAST_INSERT_ID() that the one before left (but not its ROW_COUNT(), nor FOUND_ROWS()). The handler's own mark
tells that it has rolled back: where a statement is stopped (a time limit, KILL QUERY), the server skips the handler,
and a ROLLBACK is owed.

A COMMIT in a second message behind the first, sent without waiting, would commit half a batch: never do that.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import BindParameter

from prefiq_db.bridge import await_
from prefiq_db.dialects.burst_control import BEGIN, Burst, BurstDialect, CannotTravelError, Pending
from prefiq_db.dialects.session import TransactionState
from prefiq_db.interruptions import is_interruption

# In bytes. The server closes the connection at a longer message than max_allowed_packet, which is at least 1 MB.
_LONGEST_BLOCK: Final = 500_000


@dataclass(slots=True)
class Replies:
    """The result sets of a block as they arrive: those of the statements, and our own between them.

    Attributes:
        gtid: that of the session's last transaction that wrote, after COMMIT.
        mark: what the names of our columns begin with; chosen anew for each block.
        rows_of: the result set of each statement, or ``None``.
        counts: row count and generated key of each statement.
    """

    mark: str
    rows_of: list[Any] = field(default_factory=list, repr=False)
    counts: list[tuple[int, int]] = field(default_factory=list)
    begun: bool = False
    rolled_back: bool = False
    committed: bool = False
    gtid: str = ""
    _open: Any = field(default=None, repr=False)

    def take(self, result: Any) -> None:
        """Take one result set of the driver."""
        name = result.description[0][0] if result.description else ""
        if not name.startswith(self.mark):
            self._open = result if result.description else None
            return
        what = name.removeprefix(self.mark)
        if what == "count":
            ((count, key),) = result.rows
            self.rows_of.append(self._open)
            # An INSERT that inserted nothing (IGNORE) generated no key: what is told then is that of one before.
            self.counts.append((int(count), int(key) if count > 0 else 0))
            self._open = None
        else:
            setattr(self, what, True)
            if what == "committed":
                self.gtid = str(result.rows[0][0] or "")


def block_of(burst: Burst, statements: Sequence[tuple[str, bool]], mark: str) -> str:
    """Return the block that begins, runs *statements* and commits; each says whether its generated key is needed."""
    return "\n".join(_lines(burst, statements, mark))


def _lines(burst: Burst, statements: Sequence[tuple[str, bool]], mark: str) -> Iterator[str]:
    undo = "ROLLBACK;"
    if burst.savepoint:
        # After a deadlock there is no savepoint any more, and its own error is the one to tell.
        undo = f"BEGIN DECLARE CONTINUE HANDLER FOR 1305 BEGIN END; ROLLBACK TO SAVEPOINT {burst.savepoint}; END;"
    yield "BEGIN NOT ATOMIC"
    yield f"DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN {undo} SELECT 1 AS {mark}rolled_back; RESIGNAL; END;"
    for sql in burst.begin:
        yield f"{sql};"
    yield f"SELECT 1 AS {mark}begun;"
    for sql, wants_key in statements:
        yield sql  # a comment at its end is over with the line
        key = "LAST_INSERT_ID()" if wants_key else "0"
        yield f"; SELECT ROW_COUNT() AS {mark}count, {key} AS {mark}key;"
    # Its end may tell the GTID of what was written, but not to every driver.
    said = "1" if burst.savepoint else "@@last_gtid"
    yield f"{burst.end}; SELECT {said} AS {mark}committed;"
    yield "END"


class MariadbBursts(BurstDialect):
    """Mixed into MariaDB's dialects. MySQL has no such blocks."""

    bursts_in_block = True

    @property
    def has_bursts(self) -> bool:  # type: ignore[override]
        return bool(self.is_mariadb)  # type: ignore[attr-defined]

    def burst_statement(self, pending: Pending) -> None:
        if _computes_its_key(pending.context):
            raise CannotTravelError

    def burst_begin(self, transaction: TransactionState) -> Sequence[str]:
        begin = ["START TRANSACTION READ ONLY" if transaction.read_only else "START TRANSACTION"]
        if transaction.token is not None:
            begin.append(self.token_sql(transaction.token))  # type: ignore[attr-defined]
        return begin

    def send_burst(self, proxied: Any, burst: Burst) -> None:
        raw = proxied.dbapi_connection
        replies = Replies(f"prefiq_{secrets.token_hex(4)}_")
        try:
            statements = [
                (self._mogrify(each.cursor, self.commented(each), each.parameters), _wants_key(each.context))
                for each in burst.pending
            ]
        except Exception as error:
            if is_interruption(error):
                raise
            # A value that the driver can't convert: sent one by one it fails in its turn.
            burst.unread = burst.at_rest = True
            return
        block = block_of(burst, statements, replies.mark)
        if len(block) * 4 > _LONGEST_BLOCK and len(block.encode()) > _LONGEST_BLOCK:
            burst.unread = burst.at_rest = True
            return
        try:
            self._read_all(raw, block, replies)
        except Exception as error:
            self._note_replies(burst, replies)
            if is_interruption(error) and (burst.savepoint or burst.committed):
                raise
            self._note_burst_failure(proxied, burst, replies, error)
        except BaseException:
            self._note_replies(burst, replies)
            raise
        else:
            self._note_replies(burst, replies)
            burst.at_rest = True if burst.savepoint else self.is_at_rest(raw)  # type: ignore[attr-defined]
        finally:
            if not burst.savepoint and (burst.committed or not (burst.surely_failed or burst.unread)):
                # The session's last one: if the batch wrote nothing it is an older one, which does no harm.
                self.note_gtid(replies.gtid)  # type: ignore[attr-defined]  # MariadbTravelling has it

    def _note_replies(self, burst: Burst, replies: Replies) -> None:
        for pending, result, counts in zip(burst.pending, replies.rows_of, replies.counts, strict=False):
            pending.hand_over = self._hands_over(pending.cursor, result, *counts)
        burst.answered = len(replies.counts)
        burst.committed = replies.committed

    def _note_burst_failure(self, proxied: Any, burst: Burst, replies: Replies, error: Exception) -> None:
        if replies.committed:  # what was lost is the end of the reply, which says nothing more
            self.session_of(proxied).checkout.tainted = burst.at_rest = True  # type: ignore[attr-defined]
            return
        if is_interruption(error):  # of a signal handler; the session was ended for it
            burst.fail(error, burst.answered, said=False)
            return
        judgement = self.judge(error, proxied)  # type: ignore[attr-defined]
        said = judgement.by_code is not None and not judgement.lost
        if said and not (replies.begun or replies.rolled_back):
            # The server could not read the block, and began nothing of it.
            burst.unread = True
            return
        # An error that skipped the handler behind the last statement may have hit COMMIT, or what follows it.
        sure = said and (replies.rolled_back or burst.answered < len(burst.pending))
        burst.fail(error, burst.answered if replies.begun else BEGIN, said=sure)
        burst.at_rest = replies.rolled_back

    def _mogrify(self, cursor: Any, statement: str, parameters: Any) -> str:
        made: str = cursor.mogrify(statement, parameters)
        return made

    def _read_all(self, raw: Any, block: str, replies: Replies) -> None:
        raw.query(block)
        replies.take(raw._result)
        while raw._result.has_next:
            raw.next_result()
            replies.take(raw._result)

    def _hands_over(self, cursor: Any, result: Any, count: int, key: int) -> Any:
        def hand_over() -> None:
            _fill(cursor, result, count, key)

        return hand_over


class AsyncMariadbBursts(MariadbBursts):
    """Mixed into MariaDB's async dialect."""

    def _mogrify(self, cursor: Any, statement: str, parameters: Any) -> str:
        made: str = cursor._cursor.mogrify(statement, parameters)
        return made

    def _read_all(self, raw: Any, block: str, replies: Replies) -> None:
        await_(self._read_all_async(raw, block, replies))

    async def _read_all_async(self, raw: Any, block: str, replies: Replies) -> None:
        connection = raw._connection
        async with raw._execute_mutex:
            await connection.query(block)
            replies.take(connection._result)
            while connection._result.has_next:
                await connection.next_result()
                replies.take(connection._result)

    def _hands_over(self, cursor: Any, result: Any, count: int, key: int) -> Any:
        def hand_over() -> None:
            _fill(cursor._cursor, result, count, key)
            if result is not None:
                cursor._rows.extend(result.rows)

        return hand_over


def _fill(cursor: Any, result: Any, count: int, key: int) -> None:
    """Put a reply into the driver's *cursor*, as its execute() does."""
    cursor.rownumber = 0
    cursor._result, cursor._executed = None, "batch"
    if result is None:
        cursor.description, cursor._rows, cursor.rowcount, cursor.lastrowid = None, None, count, key
    else:
        cursor.description, cursor._rows = result.description, result.rows
        cursor.rowcount, cursor.lastrowid = len(result.rows), key


def _wants_key(context: Any) -> bool:
    """Return whether SQLAlchemy asks the cursor for the key that the server generated.

    Where the statement gives the key itself, SQLAlchemy takes that one, whatever the cursor says.
    """
    return bool(context.isinsert and context.compiled is not None and context.compiled.postfetch_lastrowid)


def _computes_its_key(context: Any) -> bool:
    """Return whether an INSERT gives its generated key by an SQL expression: then only the reply itself tells it."""
    if not _wants_key(context):
        return False
    statement = context.compiled.statement
    generated = getattr(statement.table, "_autoincrement_column", None)
    values = getattr(statement, "_values", None) or {}
    return generated is not None and any(
        getattr(column, "key", column) == generated.key and not isinstance(value, BindParameter)
        for column, value in values.items()
    )
