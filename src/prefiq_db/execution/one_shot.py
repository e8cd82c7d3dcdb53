"""One statement outside a transaction, from the pool to the driver and back: the short way, in one function.

It is for the usual case, in which nothing is left to decide: the statement is known, a fit connection is idle, nobody
else listens. What isn't usual before the statement is sent is left to the other roads, as if nothing had happened; what
fails after that is ended by a shot of the direct road, which knows how.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from logging import DEBUG, INFO
from time import perf_counter
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, Row

from prefiq_db.call import Reads, Shape, Told
from prefiq_db.dialects.awaiting import AwaitingDialect
from prefiq_db.execution.prepared import Prepared
from prefiq_db.execution.standard import Shot, StandardRoad
from prefiq_db.insight.statement_observer import LEVELS
from prefiq_db.insight.statistics import FOLD_AT
from prefiq_db.memory import Memory
from prefiq_db.pool.vetting import AsyncPrefiqPool, PrefiqPool

#: What the short way returns when nothing was sent.
UNUSUAL: Final = object()
#: How far a statement came: what was done last was to take a connection, to send, to read, or to look what is left.
TAKING, SENDING, READING, LEAVING = range(4)

_EVERY_ROW, _FIRST_ROW = Reads.EVERY_ROW, Reads.FIRST_ROW


class Flight(NamedTuple):
    """A statement on the short way, for the roads that go on from there.

    Attributes:
        statement: the text or the construct that the verb was given.
        told: what events and reports tell of the call; ``None`` without tags, while nobody listens to events.
        record: its connection's place in the pool; ``None``: it has none any more.
        cursor: the driver's, or what a task has of the reply.
        parameters: *params* as the driver got them; ``None``: they aren't bound yet.
    """

    prepared: Prepared
    statement: Any
    params: Any
    shape: Shape
    told: Told | None
    record: Any
    cursor: Any
    parameters: Any


class ShortRoad(StandardRoad):
    """The standard road, with the short way for texts and constructs that are known.

    Attributes:
        steps_aside: every statement takes the standard road; for tests that compare the roads.
        texts: what is known of a text, by the text that a verb was given.
        seen: returns what is known of a construct, by a weak reference to it.
    """

    steps_aside = False
    seen: Callable[[Any], Prepared | None]

    def __init__(self, engine: Engine, database: str, *, masked: bool = True) -> None:
        super().__init__(engine, database, masked=masked)
        self.texts: Memory[Prepared] = Memory(1024)
        self.steps_aside = type(self).steps_aside  # found faster here
        self._audience = Audience(engine)

    def shoot(
        self, prepared: Prepared, statement: Any, params: Any, shape: Shape, told: Told | None, now: float
    ) -> Any:
        """Return what *shape* reads of a statement, or ``UNUSUAL`` if nothing was sent.

        Args:
            prepared: is plain, and *params* have exactly what it asks for.
            statement: the text or the construct that the verb was given.
            told: what events and reports tell of the call; ``None`` without tags, while nobody listens to events.
            now: when the call began, on the clock of ``perf_counter``.

        Raises:
            PrefiqDbError: as of :meth:`one_shot`.
        """
        audience = self._audience
        if audience.is_there() or self.steps_aside:
            return UNUSUAL
        lane, dialect, observer, watcher = audience.lane, audience.dialect, audience.observer, audience.watcher
        if lane is None:
            return UNUSUAL
        compiled, taken = prepared.compiled(), prepared.taken  # kept here: SQLAlchemy may drop it at any time
        is_taken = prepared.keys is not None and (not params or taken.issuperset(map(type, params.values())))
        if compiled is None or not (is_taken or prepared.is_read_alike(params)):
            return UNUSUAL
        pool = lane.pool
        record: Any = None
        cursor: Any = None
        parameters: Any = None
        failure: BaseException | None = None
        returns, step = 0, TAKING
        try:
            try:
                if lane.waiters:  # new callers must not overtake waiting ones
                    return UNUSUAL
                try:
                    take = lane.take
                    record = take()
                except IndexError:
                    return UNUSUAL
                returns, raw = record.returns, record.dbapi_connection
                state = record.session
                if (
                    raw is None
                    or state is None
                    or now >= state.expires_at
                    or now - state.last_used >= lane.ping_after_idle_seconds
                    or pool._invalidate_time > record.starttime
                    or record._soft_invalidate_time > record.starttime
                    or not dialect.is_ready(raw, state, now)
                    or (prepared.decimals is not None and not dialect.has_checked(raw, prepared.decimals))
                ):
                    pool.put_back(record)
                    return UNUSUAL
                checkout, note = state.checkout, state.statement
                checkout.checked_out_at = now
                worker = lane.worker
                checkout.worker = worker()
                checkout.one_shot = True
                lane.waits.append(0.0)
                if watcher.wants_checkouts:
                    watcher.checked_out(state)
                step = SENDING
                order = prepared.order
                if not is_taken:
                    parameters = prepared.bound(params)
                elif order is None:
                    parameters = {} if params is None else dict(params)
                else:
                    parameters = tuple(map(params.__getitem__, order)) if order else ()
                cursor = raw.cursor()
                if not is_taken:
                    values = parameters.values() if order is None else parameters
                    if not dialect.values.takes(values):
                        shot = self.shot_of(
                            Flight(prepared, statement, params, shape, told, record, cursor, parameters)
                        )
                        parameters = dialect.values.one(parameters, prepared.sql, shot, dialect.knows)
                known = prepared.noted
                if known is None:
                    prepared.noted = known = observer.look_up(prepared.sql, compiled)
                note.call, note.summary = told, known.summary
                if not observer.acts_before and DEBUG in LEVELS and not LEVELS[DEBUG]:
                    note.sent_at = sent_at = perf_counter()
                    dialect.execute_alone(cursor, prepared.sql, parameters)
                    duration = perf_counter() - sent_at
                    note.sent_at = 0.0
                    durations = known.durations
                    durations.append(duration)
                    rows = cursor.rowcount
                    if rows > 0:
                        known.rows.append(rows)
                    if duration >= lane.slow_seconds or len(durations) >= FOLD_AT:
                        observer.note_more(known, duration, rows, state)
                    if observer.tells_finished:
                        values = params if is_taken and (not params or len(params) == 1) else prepared.named(params)
                        observer.tell_finished(known, values, duration, rows, told)
                else:
                    shot = self.shot_of(Flight(prepared, statement, params, shape, told, record, cursor, parameters))
                    observer.observe(dialect.execute_alone, cursor, prepared.sql, parameters, shot, 1, state)
                columns, found = dialect.columns_of(cursor), prepared.format
                step = READING
                reads = shape.reads
                if (
                    reads is None
                    or columns is None
                    or found is None
                    or (found.columns is not None and found.columns != columns)
                ):
                    flight = Flight(prepared, statement, params, shape, told, record, cursor, parameters)
                    fetched = self.shot_of(flight).read(columns)
                else:
                    metadata, processors, places = found.metadata, found.processors, found.key_to_index
                    if reads is _EVERY_ROW:
                        fetched = [Row(metadata, processors, places, row) for row in cursor.fetchall()]
                    else:
                        fetched = cursor.fetchone()
                        if fetched is not None:
                            fetched = Row(metadata, processors, places, fetched)
                            if reads is not _FIRST_ROW:
                                fetched = fetched[0]
                        cursor.close()  # there may be more rows
                step = LEAVING
                if dialect.is_at_rest(raw):  # only a statement that left no open transaction counts as done
                    if checkout.tainted or checkout.leaked or pool._retired:
                        pool.give_back(record)
                        return fetched
                    # Of what is known of the session, a statement that succeeded changed no more than this.
                    note.call, note.summary = None, ""
                    checkout.one_shot = False
                    checkout.worker = None
                    checkout.checked_out_at = 0.0
                    state.last_used = used = perf_counter()
                    uses = lane.uses
                    uses.append(used - now)
                    if watcher.wants_checkouts:
                        watcher.checked_in(state, used - now)
                    # From here on another caller may already hold it, or have returned it, too.
                    record.returns = returns + 1
                    put = lane.put
                    put(record)
                    if lane.waiters or len(uses) >= FOLD_AT or len(lane.idle) > lane.size or pool._retired:
                        pool.tidy()
                    return fetched
            except BaseException as error:  # noqa: BLE001 - the shot that ends it raises it
                failure = error
            is_ours = record is not None and record.returns == returns and record.place is not None
            if not is_ours:
                pool.tidy()  # it is back, and those who wait were perhaps not told
            held = record if is_ours else None
            flight = Flight(prepared, statement, params, shape, told, held, cursor, parameters)
            return self.fly(self.broken_shot(flight, step, failure))
        except BaseException:
            if record is not None and record.returns == returns and record.place is not None:
                pool._drop(record)
            raise
        finally:
            del failure  # its traceback holds this frame

    @abstractmethod
    def construct(self, statement: Any, params: Mapping[str, Any] | None) -> Prepared | None:
        """Return what is known of a construct, once it was found out; ``None``: it takes the standard road."""

    @abstractmethod
    def shot_of(self, flight: Flight) -> Any:
        """Return the shot that is under way, for those that look at the execution as a whole."""

    @abstractmethod
    def broken_shot(self, flight: Flight, step: int, failure: BaseException | None) -> Shot:
        """Return a shot that ends what *failure* broke off at *step*; ``None``: it left a transaction open."""


class Audience:
    """Whether anybody but us changes or listens to an engine, its dialect or its pool, or reads their logs.

    And what every statement needs of them, looked up once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine: Any = engine
        #: those that we gave it; update_execution_options() replaces them
        self._options = self._engine._execution_options
        self.dialect: Any = self._engine.dialect
        self.observer: Any = getattr(engine.dialect, "observer", None)
        self.watcher: Any = getattr(engine.dialect, "watcher", None)
        self.pool: Any = None
        self.lane: Lane | None = None
        #: that of the async pool
        self.awaited_lane: Lane | None = None
        self._is_ours = False

    def is_there(self) -> bool:
        """Return whether SQLAlchemy's own objects are to be seen, because somebody else listens or logs.

        So they are for execution options of the engine itself, which change what is sent: other schemas, for instance.
        """
        engine = self._engine
        pool = engine.pool
        if pool is not self.pool:
            self._look_up(pool)
        if (
            engine._execution_options is not self._options
            or Connection._has_events
            or not self._is_ours
            or len(self._handlers) != 1  # one is our own
            or any(self._listeners)
            or (engine._has_events and self.hears(engine))
        ):
            return True
        try:
            return bool(engine.logger._cache[INFO] or pool.logger._cache[DEBUG])
        except (AttributeError, KeyError):
            return bool(engine._should_log_info() or pool._should_log_debug())

    def hears(self, target: Any) -> bool:
        """Return whether somebody listens on *target*, the engine or one of its connections.

        SQLAlchemy's flag ``_has_events`` is set with the first listener, and never back.
        """
        dispatch = target.dispatch
        return any(getattr(dispatch, name) for name in self._engine.dispatch._event_names)

    def _look_up(self, pool: Any) -> None:
        """Get the collections that SQLAlchemy adds listeners to; it keeps them as long as their owner."""
        dialect, watcher = self.dialect, self.watcher
        found = []
        for owner, name in (
            (dialect.dispatch, "handle_error"),
            (dialect.dispatch, "do_execute"),
            (pool.dispatch, "checkout"),
            (pool.dispatch, "reset"),
            (pool.dispatch, "checkin"),
        ):
            collection = getattr(owner, name).for_modify(owner)
            found += [collection.listeners, collection.parent_listeners]
        self._handlers, *self._listeners = found
        # Another class of pool may lend connections in its own way.
        self._is_ours = type(pool) in (PrefiqPool, AsyncPrefiqPool)
        has_lane = self._is_ours and watcher is not None and self.observer is not None
        lane = Lane(pool, watcher, self.observer) if has_lane else None
        self.lane = lane if type(pool) is PrefiqPool else None
        waits_for_tasks = type(pool) is AsyncPrefiqPool and isinstance(dialect, AwaitingDialect)
        self.awaited_lane = lane if waits_for_tasks else None
        self.pool = pool  # last: another thread may look


class Lane:
    """What the short way uses of one pool and of those who take notes, looked up once.

    Attributes:
        waiters: who waits for a connection.
        idle: the idle connections, of which the pool keeps *size* at most; *take* and *put* are its own methods.
        worker: names the running thread.
        waits: seconds that were waited, uncounted.
        uses: seconds that connections were used, uncounted.
    """

    __slots__ = (
        "idle", "ping_after_idle_seconds", "pool", "put", "size", "slow_seconds", "take", "uses", "waiters", "waits",
        "worker",
    )  # fmt: skip

    def __init__(self, pool: Any, watcher: Any, observer: Any) -> None:
        self.pool = pool
        self.waiters = pool.waiters
        self.idle, self.size = pool.idle.queue, pool.idle.maxsize
        self.take, self.put = pool.idle.take, pool.idle.queue.append
        self.worker = pool.current_worker
        self.waits, self.uses = watcher.waits, watcher.uses
        self.ping_after_idle_seconds = pool.limits.ping_after_idle_seconds
        self.slow_seconds = observer.slow_seconds
