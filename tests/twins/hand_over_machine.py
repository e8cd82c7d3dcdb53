"""A state machine over every way to begin, fail, catch, commit, close and hand a connection back.

The pool has one connection, so whatever one user leaves on it the next one meets. The oracle is a second connection:
what was acknowledged is there, what was refused is not, and no transaction is open once nobody holds the connection.
"""

from __future__ import annotations

import gc
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from prefiq_db.call import Call
from prefiq_db.errors import PrefiqDbError
from prefiq_db.testing.processes import wait_until
from prefiq_db.transaction import RootBlock, TransactionOptions

INSERT = "insert into item (id) values (:id)"
# A row that is always there: to insert it again is an error.
TAKEN = 0

_OPEN_TRANSACTIONS = {
    "postgresql": "select count(*) from pg_stat_activity where datname = current_database()"
    " and pid <> pg_backend_pid() and state like 'idle in transaction%'",
    "mariadb": "select count(*) from information_schema.innodb_trx",
}
# Each begins something, inserts the row, and leaves it to others.
_ROUTINES = {
    "p_begins": "begin start transaction; insert into item (id) values (x); end",
    "p_begins_and_fails": "begin start transaction; insert into item (id) values (x);"
    " insert into item (id) values (0); end",
    "p_switches_off": "begin set autocommit = 0; insert into item (id) values (x); end",
    "p_answers_and_begins": "begin select 1; start transaction; insert into item (id) values (x); end",
}
# Each commits by itself what is open, and does something more.
_ENDING = {
    "p_commits": "begin insert into item (id) values (x); commit; end",
    "p_commits_and_begins": "begin insert into item (id) values (x); commit; start transaction; end",
    "p_commits_and_fails": "begin insert into item (id) values (x); commit; insert into item (id) values (0); end",
    "p_defines": "begin insert into item (id) values (x); create or replace table probe (id integer); end",
}


class CommitListenerError(Exception):
    """What a listener to SQLAlchemy's ``commit`` event raises."""


@dataclass
class Place:
    """One database, its world, and a second connection to look with.

    Attributes:
        run: carries out a function that speaks SQLAlchemy's synchronous words, in this world.
    """

    backend: str
    db: Any
    run: Callable[[Callable[[], Any]], Any]
    oracle: Any
    is_async: bool
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def engine(self) -> Any:
        engine = self.db.engine
        return engine.sync_engine if self.is_async else engine

    def prepare(self) -> None:
        execute = self.oracle.execute
        execute("create table item (id integer primary key)")
        execute(
            "create table child (id integer primary key, parent integer references item (id)"
            f"{'' if self.backend == 'mariadb' else ' deferrable initially deferred'})"
        )
        execute(INSERT, {"id": TAKEN})
        if self.backend == "mariadb":
            for name, body in (_ROUTINES | _ENDING).items():
                execute(f"create procedure {name} (x integer) {body}")

    def rows(self) -> set[int]:
        return {row[0] for row in self.oracle.fetch_all("select id from item")}

    def open_transactions(self) -> int:
        if self.backend == "sqlite":
            # Whoever is in one keeps the log from being emptied.
            with closing(sqlite3.connect(self.oracle.settings.target.database, timeout=0)) as looker:
                return int(looker.execute("pragma wal_checkpoint(truncate)").fetchone()[0])
        return int(self.oracle.fetch_value(_OPEN_TRANSACTIONS[self.backend]))


class HandOvers(RuleBasedStateMachine):
    """One connection, many users."""

    place: ClassVar[Place]
    #: what was found wrong, also when Hypothesis can't repeat it
    found: ClassVar[list[str]]

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.held: Any = None
        self.here: set[int] = {TAKEN}
        self.gone: set[int] = set()
        self.pending: set[int] = set()
        # Nobody said anything of these: a batch that failed half-way, and was committed by somebody's own COMMIT.
        self.doubtful: set[int] = set()
        self.in_text = False

    @initialize()
    def start(self) -> None:
        self.place.oracle.execute("delete from child")
        self.place.oracle.execute(f"delete from item where id <> {TAKEN}")

    def teardown(self) -> None:
        try:
            if self.held is not None:
                self._close()
        finally:
            run, core = self.place.run, self.place.db._core
            run(core.close)
            run(core.open)

    # --- words -----------------------------------------------------------------------------------

    def do(self, fn: Callable[[], Any]) -> bool:
        """Carry it out; return whether it went well. What goes wrong is somebody's to catch, as in bad programs."""
        try:
            self.place.run(fn)
        except Exception:
            return False
        return True

    def new_id(self) -> int:
        return next(self.place.numbers)

    def execute(self, sql: str, parameters: Any = None) -> bool:
        """Run it on whatever is held, through that one's own words."""
        held = self.held
        if self.kind == "raw":
            return self.do(lambda: self._on_cursor(held, sql, parameters))
        if self.kind == "tx":
            road = self.place.db._core.road
            return self.do(lambda: held.run(Call("execute", text(sql), parameters, _NOTHING), explicit=True) or road)
        return self.do(lambda: held.execute(text(sql), parameters))

    def _on_cursor(self, raw: Any, sql: str, parameters: Any) -> None:
        cursor = raw.cursor()
        for row in parameters if isinstance(parameters, list) else [parameters]:
            given = sql if row is None else sql.replace(":id", str(int(row["id"])))
            cursor.execute(given)
        cursor.close()

    def acknowledge(self) -> None:
        self.here |= self.pending
        self.pending = set()

    def refuse(self) -> None:
        self.gone |= self.pending
        self.pending = set()

    def hold(self, kind: str, make: Callable[[], Any]) -> None:
        self.held = self.place.run(make)
        self.kind, self.in_text = kind, False

    @property
    def commits_each(self) -> bool:
        return self.kind == "autocommit" and not self.in_text

    # --- statements on their own -----------------------------------------------------------------

    @precondition(lambda self: self.held is None)
    @rule()
    def one_shot(self) -> None:
        number = self.new_id()
        core = self.place.db._core
        acknowledged = self.do(lambda: core.execute(INSERT, {"id": number}))
        self._see(acknowledged, "a plain insert failed: somebody left something behind")
        self.here.add(number)

    @precondition(lambda self: self.held is None)
    @rule()
    def one_shot_that_fails(self) -> None:
        core = self.place.db._core
        assert not self.do(lambda: core.execute(INSERT, {"id": TAKEN}))

    @precondition(lambda self: self.held is None and self.place.backend == "mariadb")
    @rule(name=st.sampled_from(sorted(_ROUTINES)), verb=st.sampled_from(["execute", "fetch_all"]))
    def one_shot_call_that_begins(self, name: str, verb: str) -> None:
        number = self.new_id()
        core = self.place.db._core
        arguments = (f"call {name}({number})", None) + ((None,) if verb == "fetch_all" else ())
        acknowledged = self.do(lambda: getattr(core, verb)(*arguments))
        (self.here if acknowledged else self.gone).add(number)

    # --- to begin --------------------------------------------------------------------------------

    @precondition(lambda self: self.held is None)
    @rule()
    def begin_connection(self) -> None:
        self.hold("connection", self.place.engine.connect)

    @precondition(lambda self: self.held is None)
    @rule()
    def begin_session(self) -> None:
        self.hold("session", lambda: Session(self.place.engine))

    @precondition(lambda self: self.held is None)
    @rule()
    def begin_autocommit(self) -> None:
        engine = self.place.engine
        self.hold("autocommit", lambda: engine.connect().execution_options(isolation_level="AUTOCOMMIT"))

    @precondition(lambda self: self.held is None)
    @rule()
    def begin_raw(self) -> None:
        self.hold("raw", self.place.engine.raw_connection)

    @precondition(lambda self: self.held is None)
    @rule()
    def begin_transaction(self) -> None:
        core = self.place.db._core

        def make() -> Any:
            block = RootBlock(core.instance, TransactionOptions())
            block.begin()
            return block

        self.hold("tx", make)

    @precondition(lambda self: self.kind in ("autocommit", "raw") and not self.in_text)
    @rule(word=st.sampled_from(["BEGIN", "START TRANSACTION"]))
    def begin_in_text(self, word: str) -> None:
        if self.kind == "autocommit":
            self.in_text = self.execute("BEGIN" if self.place.backend == "sqlite" else word)
        elif self.place.backend != "mariadb":  # there it commits what is open, as everybody knows
            self.execute("BEGIN")

    @precondition(lambda self: self.kind in ("autocommit", "raw") and self.place.backend == "mariadb")
    @rule()
    def switch_autocommit_off(self) -> None:
        if self.execute("set autocommit = 0") and self.kind == "autocommit":
            self.in_text = True

    # --- to work and to fail ---------------------------------------------------------------------

    @precondition(lambda self: self.held is not None)
    @rule()
    def insert(self) -> None:
        number = self.new_id()
        went_well = self.execute(INSERT, {"id": number})
        if not went_well:
            self.gone.add(number)
        elif self.commits_each:
            self.here.add(number)
        else:
            self.pending.add(number)

    @precondition(lambda self: self.held is not None)
    @rule()
    def fail(self) -> None:
        assert not self.execute(INSERT, {"id": TAKEN})

    @precondition(lambda self: self.held is not None)
    @rule()
    def fail_in_a_batch(self) -> None:
        first = self.new_id()
        assert not self.execute(INSERT, [{"id": first}, {"id": TAKEN}])
        self.doubtful.add(first)

    @precondition(lambda self: self.held is not None and self.place.backend != "mariadb")
    @rule()
    def break_a_deferred_constraint(self) -> None:
        number = self.new_id()
        self.execute("insert into child (id, parent) values (:id, -1)", {"id": number})

    @precondition(lambda self: self.kind in ("connection", "session"))
    @rule(released=st.booleans())
    def savepoint(self, released: bool) -> None:
        held, number = self.held, self.new_id()

        def nested() -> None:
            inner = held.begin_nested()
            held.execute(text(INSERT), {"id": number})
            (inner.commit if released else inner.rollback)()

        went_well = self.do(nested)
        (self.pending if went_well and released else self.gone).add(number)

    # psycopg warns of a cursor that can't be closed any more, because its transaction has failed meanwhile.
    @precondition(lambda self: self.kind == "connection" and self.place.backend != "postgresql")
    @rule()
    def leave_a_result_half_read(self) -> None:
        held = self.held

        def look() -> None:
            result = held.execution_options(stream_results=True).execute(text("select id from item"))
            try:
                result.fetchone()
            finally:
                result.close()

        self.do(look)

    @precondition(lambda self: self.kind in ("connection", "session", "tx"))
    @rule()
    def define(self) -> None:
        name = f"probe_{self.new_id()}"
        if self.execute(f"create table {name} (id integer)") and self.place.backend == "mariadb":
            assert self.kind != "tx", "DDL in transaction() commits there"
            self.acknowledge()

    @precondition(lambda self: self.place.backend == "mariadb" and self.kind in ("connection", "session", "tx"))
    @rule(name=st.sampled_from(sorted(_ENDING)))
    def call_what_commits(self, name: str) -> None:
        number = self.new_id()
        went_well = self.execute(f"call {name}({number})")
        if self.kind == "tx":
            self._see(not went_well, "it ended the transaction, and nobody said so")
            self.doubtful |= self.pending | {number}
            self.pending = set()
        elif went_well:
            self.acknowledge()
            self.here.add(number)
        else:
            # An error comes after the COMMIT, or from an earlier error because of which nothing was sent.
            self.doubtful |= self.pending | {number}
            self.pending = set()

    # --- to end ----------------------------------------------------------------------------------

    @precondition(lambda self: self.kind in ("connection", "session", "raw", "autocommit"))
    @rule()
    def commit(self) -> None:
        held = self.held
        if self.do(held.commit):
            self.acknowledge()
        else:
            self.refuse()
            self._roll_back_after_refusal()
        self.in_text = self.in_text and self.kind == "autocommit" and self._still_in_text()

    def _still_in_text(self) -> bool:
        # SET autocommit=0 outlives a COMMIT, BEGIN in text doesn't; the server knows which it was.
        raw = self.held.connection.dbapi_connection
        return not self.place.engine.dialect.is_at_rest(raw)

    def _roll_back_after_refusal(self) -> None:
        """Do what SQLAlchemy asks for after a failed COMMIT, or nothing at all and go on."""
        self.do(self.held.rollback)
        self.refuse()

    @precondition(lambda self: self.kind in ("connection", "session"))
    @rule()
    def commit_with_a_listener_that_raises(self) -> None:
        with raising_listener(self.place.engine):
            committed = self.do(self.held.commit)
        if committed:  # nothing had begun, so nobody was told
            self.acknowledge()
        else:
            self._close()

    @precondition(lambda self: self.held is not None and self.kind != "tx")
    @rule()
    def roll_back(self) -> None:
        if self.do(self.held.rollback):
            self.refuse()
            self.in_text = self.kind == "autocommit" and self.in_text and self._still_in_text()

    @precondition(lambda self: self.kind == "connection")
    @rule()
    def commit_by_the_driver(self) -> None:
        held = self.held
        if self.do(lambda: held.connection.commit()):  # noqa: PLW0108 - looking it up may fail as well
            self.acknowledge()

    @precondition(lambda self: self.kind == "tx")
    @rule(fails=st.booleans())
    def end_transaction(self, fails: bool) -> None:
        block = self.held
        went_well = self.do(lambda: block.end(LookupError("never mind") if fails else None))
        self.held, self.kind = None, ""
        if went_well and not fails:
            self.acknowledge()
        else:
            self.refuse()

    @precondition(lambda self: self.kind == "tx")
    @rule()
    def end_transaction_behind_its_back(self) -> None:
        block = self.held
        if not self.do(lambda: block.connection.connection.commit()):  # noqa: PLW0108 - likewise
            return
        self.doubtful |= self.pending
        self.pending = set()
        ended: list[PrefiqDbError] = []

        def end() -> None:
            try:
                block.end(None)
            except PrefiqDbError as error:
                ended.append(error)

        self.place.run(end)
        self.held, self.kind = None, ""
        assert str(block.outcome) in ("unknown", "not committed"), block.outcome
        self._see(bool(ended), "a transaction that had ended was told to be committed")

    @precondition(lambda self: self.held is not None and self.kind != "tx")
    @rule()
    def close(self) -> None:
        self._close()

    def _close(self) -> None:
        if self.kind == "tx":
            self.end_transaction(True)
            return
        self.do(self.held.close)
        self.held, self.kind, self.in_text = None, "", False
        self.refuse()

    @precondition(lambda self: self.kind in ("connection", "raw") and not self.place.is_async)
    @rule()
    def forget(self) -> None:
        """Lose the last reference; the garbage collector hands it back."""
        self.held, self.kind = None, ""
        gc.collect()
        self.refuse()

    @precondition(lambda self: self.kind in ("connection", "raw"))
    @rule()
    def invalidate(self) -> None:
        self.do(self.held.invalidate)
        self._close()

    # --- what always holds -----------------------------------------------------------------------

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        if self.held is not None:
            return
        self.gone -= self.doubtful
        rows = self.place.rows()
        self._see(rows >= self.here, "acknowledged, and not there")
        self._see(not rows & self.gone, "refused, and there")
        # A connection that was closed may take the server a moment to notice.
        none_open = wait_until(lambda: self.place.open_transactions() == 0, timeout_seconds=20)
        self._see(none_open, "a transaction is open, and nobody holds it")
        self._see(self.place.db.stats().pool.checked_out == 0, "a connection is checked out, and nobody holds it")

    def _see(self, right: bool, wrong: str) -> None:
        if not right:
            self.found.append(wrong)
        assert right, wrong


@contextmanager
def raising_listener(engine: Any) -> Iterator[None]:
    def raising(connection: Any) -> None:
        raise CommitListenerError

    event.listen(engine, "commit", raising)
    try:
        yield
    finally:
        event.remove(engine, "commit", raising)


class _Nothing:
    """A shape that fetches nothing."""

    fetch = staticmethod(lambda result: None)
    finish = None


_NOTHING: Any = _Nothing()
