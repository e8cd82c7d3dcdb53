"""What is found out once of a statement on the direct road: its SQL, how it takes its binds, and how it gives its rows.

SQLAlchemy finds out all of it, once: it compiles the statement and describes its rows. What it doesn't do by the
compiled statement alone (defaults that it makes itself, lists, sequences, many rows) is left to the standard road; the
key of an inserted row is the exception, see :mod:`prefiq_db.execution.inserted_keys`.
"""

from __future__ import annotations

import datetime as dt
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from operator import is_
from typing import Any, Final

from sqlalchemy import Delete, Executable, Insert, TextClause, Update
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql.compiler import WARN_LINTING, SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CompoundSelect, Select, TextualSelect

from prefiq_db.execution.in_places import places_of
from prefiq_db.execution.inserted_keys import InsertedKey, key_of
from prefiq_db.execution.inside import Inside, known_inside
from prefiq_db.execution.statement_facts import facts_of, facts_of_text
from prefiq_db.interruptions import is_interruption

_WRITES: Final = frozenset({Insert, Update, Delete})
#: the kinds of constructs whose execution is known to need nothing but the compiled statement
KNOWN_KINDS: Final = frozenset({TextClause, TextualSelect, Select, CompoundSelect}) | _WRITES

_SCALARS: Final = frozenset({str, int, float, bool, bytes, type(None)})
#: Types of which a text's values are none that it reads differently for, as for a list.
_SINGLE: Final = _SCALARS | {
    Decimal, dt.date, dt.datetime, dt.time, dt.timedelta, uuid.UUID, bytearray, memoryview,
}  # fmt: skip
_NOTHING: Final[Mapping[str, Any]] = {}


class Prepared:
    """One statement, as one dialect sends it and reads its rows.

    Attributes:
        sql: the driver's text.
        compiled: returns SQLAlchemy's compiled statement; ``None`` once SQLAlchemy has dropped it.
        keys: the names that the binds take, if all of them need a value and no conversion; else ``None``.
        stands_alone: it may be sent outside a transaction.
        is_plain: it may take the short way, with exactly the values in *asked*.
        asked: the names of the values that a caller has to give.
        single: the types that a text's values have to have there; ``None``: any.
        decimals: the columns of exact decimals that are to be looked at first; ``None``: it names none.
        inside: what it means for a transaction, where it may take the short way there, too; else ``None``.
        taken: the types whose values the driver takes unchanged.
        order: the names of the binds, where the driver takes them by their places; else ``None``.
        may_wait: a column's type of somebody else's converts a value, and a task may have to wait there.
        is_write: it is an INSERT, UPDATE or DELETE of Core, whose text depends on the names of its values.
        key: where the key of the row is found that it inserts; ``None``: it inserts none, or has a RETURNING.
        noted: what the observer knows of it; ``None`` before it is first sent on the short way.
        statement: a text's own object; ``None`` for another construct, which this must not keep alive.
        format: how its rows were read last time; ``None`` before the first ones.
    """

    # No __slots__: a dictionary is copied in one step, which for_another() does for a construct that is built anew.

    def __init__(
        self,
        statement: Any,
        compiled: Any,
        own: Mapping[str, Any],
        dialect: Any,
        *,
        weak: bool,
        plan: Sequence[_Planned] | None = None,
    ) -> None:
        self.compiled: Callable[[], Any] = weakref.ref(compiled)
        self._kept = None if weak else compiled
        self.sql: str = compiled.string
        converts = compiled._bind_processors
        self._binds = _binds_of(compiled, own)
        self._plan = plan
        self._converts = [(name, converts[name]) for name in own if name in converts]
        self.asked = frozenset(key for _, key, by_itself in self._binds if by_itself is None)
        #: what SQLAlchemy would not miss: it compiles a bind that needs a value like one that has its own
        self.unmissed = self.asked.intersection(each.key for each in compiled.bind_names if not each.required)
        self.order: tuple[str, ...] | None = tuple(compiled.positiontup) if compiled.positional else None
        self._sequence = dialect.execute_sequence_format
        is_plain = not self._converts and all(name == key and given is None for name, key, given in self._binds)
        self.keys: frozenset[str] | None = self.asked if is_plain else None
        self.taken: frozenset[type] = dialect.values.taken
        self.noted: Any = None
        self.statement: TextClause | None = None
        self.format: RowFormat | None = None
        self._columns = _columns_of(statement)
        self._judge(statement, compiled, dialect)

    def _judge(self, statement: Any, compiled: Any, dialect: Any) -> None:
        """Find out which ways are open to the statement."""
        label = dialect.label
        facts = facts_of_text(self.sql, label)
        self.stands_alone = facts.stands_alone and facts_of(statement, label).stands_alone
        text: Any = statement.element if type(statement) is TextualSelect else statement
        is_text = isinstance(text, TextClause)
        self.single = _SINGLE if is_text else None
        asks_list = is_text and any(place.bare for places in places_of(text.text, label).values() for place in places)
        self.is_plain = self.stands_alone and not asks_list and dialect.is_plain(compiled)
        self.decimals: frozenset[tuple[str, str]] | None = getattr(compiled, "decimal_columns", None) or None
        results = (each.type for each in compiled._result_columns or ())
        self.may_wait = any(map(_is_foreign, (*(each.type for each in compiled.bind_names), *results)))
        self.is_write = type(statement) in _WRITES
        self.key: InsertedKey | None = key_of(statement, compiled) if type(statement) is Insert else None
        needs_no_care = self.decimals is None and not asks_list and dialect.is_plain(compiled)
        self.inside: Inside | None = known_inside(facts, self.sql, dialect) if needs_no_care else None

    def for_another(self, statement: Any, extracted: Sequence[Any] | None) -> Prepared | None:
        """Return what is known of *statement*, which SQLAlchemy compiles alike: other values, perhaps other columns.

        ``None``: it is to be found out anew, because another value is to be given, or is made by a function.
        """
        if self._plan is None:
            return None
        binds: list[tuple[str, str, Any]] = []
        for (name, key, place, own), (_, _, first) in zip(self._plan, self._binds, strict=True):
            bind = own if place is None or extracted is None else extracted[place]
            if bind.callable is not None or bind.required is not (first is None):
                return None
            binds.append((name, key, None if first is None else bind))
        made = Prepared.__new__(Prepared)
        made.__dict__.update(self.__dict__)
        made._binds = binds
        made._columns = columns = _columns_of(statement)
        if not columns or len(columns) != len(self._columns) or not all(map(is_, columns, self._columns)):
            made.format = None  # its rows know columns by other objects
        return made

    def executed(self, given: Any) -> Any:
        """Return what SQLAlchemy executes where a verb was *given* a text or a construct."""
        return given if self.statement is None else self.statement

    def takes(self, params: Mapping[str, Any] | None) -> bool:
        """Return whether *params* has every value that the statement needs."""
        given = _NOTHING if params is None else params
        if self.keys is not None or self.is_write:
            return given.keys() == self.asked
        return all(key in given or name in given for name, key, by_itself in self._binds if by_itself is None)

    def fits(self, params: Any) -> bool:
        """Return whether *params* are exactly what a text needs, and simple enough that no more is to be checked."""
        if params is None:
            return not self.keys and self.keys is not None
        return type(params) is dict and params.keys() == self.keys and _SCALARS.issuperset(map(type, params.values()))

    def takes_unchanged(self, params: Any) -> bool:
        """Return whether *params*, which have what is asked for, are all values, and taken as they are."""
        return self.keys is not None and (not params or self.taken.issuperset(map(type, params.values())))

    def is_read_alike(self, params: Any) -> bool:
        """Return whether values like *params* can't make another statement of a text, as a list does."""
        return self.single is None or not params or self.single.issuperset(map(type, params.values()))

    def bound(self, params: Mapping[str, Any] | None) -> Any:
        """Return *params* as the driver takes them."""
        given = _NOTHING if params is None else params
        if self.keys is not None:
            return dict(given) if self.order is None else self._sequence([given[name] for name in self.order])
        values = self.named(given)
        for name, convert in self._converts:
            values[name] = convert(values[name])
        return values if self.order is None else self._sequence([values[name] for name in self.order])

    def named(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the value of each bind before any conversion; its own may have been changed in the construct."""
        if not params:
            return {name: own.value for name, _, own in self._binds}
        return {
            name: params[key] if key in params else params[name] if own is None else params.get(name, own.value)
            for name, key, own in self._binds
        }

    def format_of(self, columns: Any, description: Any, statement: Executable, dialect: Any) -> RowFormat:
        """Return how rows with these *columns* become SQLAlchemy's: as last time, or found out anew.

        A text may have other columns than last time, after ``ALTER TABLE`` or with another type in a bind.
        """
        known = self.format
        if known is not None and (known.columns is None or known.columns == columns):
            return known
        self.format = made = describe(self.compiled(), columns, description(), statement, dialect)
        return made


class RowFormat:
    """How the driver's rows become SQLAlchemy's.

    Attributes:
        columns: the columns that it is for; ``None``: the statement always has the same.
        metadata: what a row knows of its columns.
        processors: convert the values of a row, each its own; ``None``: there is nothing to convert.
        key_to_index: the place of each name in a row.
    """

    __slots__ = ("columns", "key_to_index", "metadata", "processors")

    def __init__(self, columns: Any, metadata: Any) -> None:
        effective = metadata._effective_processors
        self.columns = columns
        self.metadata = metadata
        self.processors = None if effective is None else tuple(effective)
        self.key_to_index = metadata._key_to_index


def describe(compiled: Any, columns: Any, description: Any, statement: Executable, dialect: Any) -> RowFormat:
    """Let SQLAlchemy find out how the rows of a cursor's *description* become its own."""
    context = dialect.execution_ctx_cls.__new__(dialect.execution_ctx_cls)
    context.dialect, context.compiled, context.invoked_statement = dialect, compiled, statement
    context.execution_options, context.cache_hit = {}, dialect.CACHE_HIT
    context.result_column_struct = (
        compiled._result_columns,
        compiled._ordered_columns,
        compiled._textual_ordered_columns,
        compiled._ad_hoc_textual,
        compiled._loose_column_name_matching,
    )
    result: Any = CursorResult.__new__(CursorResult)
    result.context, result._echo = context, False
    metadata = result._init_metadata(context, description)
    # SQLAlchemy's own rule: where it keeps them, they don't depend on what the server says of its columns.
    return RowFormat(None if metadata._safe_for_cache else columns, metadata)


def prepare(statement: Executable, params: Mapping[str, Any] | None, engine: Any, *, weak: bool) -> Prepared | None:
    """Return what is known of *statement*; ``None`` if its execution needs more than that.

    Args:
        weak: it is kept with the statement itself, so it must not hold it.
    """
    made: Any = statement
    if type(statement) not in KNOWN_KINDS or made._execution_options or made._propagate_attrs:
        return None
    dialect = engine.dialect
    try:
        compiled, extracted, collected, _ = made._compile_w_cache(
            dialect,
            compiled_cache=engine._compiled_cache,
            column_keys=sorted(params or (), key=str),
            linting=dialect.compiler_linting | WARN_LINTING,
        )
    except Exception as error:
        if is_interruption(error):
            raise
        return None  # the standard road raises it, where all roads do
    if collected:
        return None
    alike = _alike.get(compiled) if weak else None
    known = None if alike is None else alike.for_another(made, extracted)
    if known is None:
        if not _is_complete(statement, compiled):
            return None
        own = _own_values(compiled, extracted)
        if own is None:
            return None
        plan = _plan_of(compiled, extracted) if weak else None
        known = Prepared(made, compiled, own, dialect, weak=weak, plan=plan)
    if weak and (alike is None or (alike.format is None and alike._columns)):
        _alike[compiled] = known
    return known


#: what is known of a construct, by what SQLAlchemy compiles it and all constructs like it to
_alike: Final[weakref.WeakKeyDictionary[Any, Prepared]] = weakref.WeakKeyDictionary()


def _binds_of(compiled: Any, own: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    return list(dict.fromkeys((name, bind.key, own[name]) for bind, name in compiled.bind_names.items()))


def _is_foreign(kind: Any) -> bool:
    """Return whether a value of this type may be converted by code that is neither SQLAlchemy's nor ours."""
    if not type(kind).__module__.startswith(("sqlalchemy.", "prefiq_db.")):
        return True
    inner = getattr(kind, "item_type", None)
    return (inner is not None and _is_foreign(inner)) or any(map(_is_foreign, kind._variant_mapping.values()))


#: the name and the key of a bind, and where its value is: in the statement's own binds, or else in the compiled one
_Planned = tuple[str, str, int | None, Any]


def _plan_of(compiled: Any, extracted: Sequence[Any] | None) -> list[_Planned] | None:
    """Return where each bind has its value, for statements that compile alike; ``None`` if binds share a name."""
    names = compiled.bind_names
    if len(set(names.values())) != len(names):
        return None
    places: dict[Any, int] = {}
    if extracted:
        own = compiled._cache_key_bind_match[0]
        places = {bind: place for place, first in enumerate(compiled.cache_key[1]) for bind in own[first]}
    return [(name, bind.key, places.get(bind), None if bind in places else bind) for bind, name in names.items()]


def _columns_of(statement: Any) -> tuple[Any, ...]:
    """Return the objects that the rows of a statement know its columns by, or those that have them."""
    if type(statement) is Select:
        return tuple(statement._raw_columns)
    return tuple(statement._returning) if isinstance(statement, UpdateBase) else ()


def _is_complete(statement: Any, compiled: Any) -> bool:
    """Return whether SQLAlchemy would send *compiled* as it is, and do nothing before or after."""
    if not isinstance(compiled, SQLCompiler):
        return False
    is_write = compiled.isinsert or compiled.isupdate or compiled.isdelete
    if is_write and not (type(statement) in _WRITES and _is_simple(statement, compiled)):
        return False
    return not (
        compiled.post_compile_params
        or compiled.literal_execute_params
        or compiled.escaped_bind_names
        or compiled.has_out_parameters
        or compiled.schema_translate_map
        or compiled._collect_params
        or compiled.insert_prefetch  # defaults that SQLAlchemy makes, also those of an INSERT within a SELECT
        or compiled.update_prefetch
    )


def _is_simple(statement: Any, compiled: Any) -> bool:
    """Return whether all that SQLAlchemy does after a write is to look for the key of an inserted row."""
    return not (
        compiled.ctes
        or statement._return_defaults
        or statement._supplemental_returning
        # RETURNING that SQLAlchemy adds to another write; and MariaDB's DELETE, which may describe no rows
        or (compiled.effective_returning and not (compiled.isinsert or statement._returning))
        or (compiled.isdelete and compiled.effective_returning)
        or (compiled.isinsert and not _is_of_one_row(statement))
    )


def _is_of_one_row(statement: Any) -> bool:
    """Return whether an INSERT has the values of one row, and no other way than to insert it."""
    return not statement._multi_values and statement.select is None and statement._post_values_clause is None


def _own_values(compiled: Any, extracted: Sequence[Any] | None) -> dict[str, Any] | None:
    """Return what holds the value that each bind has by itself, as in ``column == 7``; ``None``: a function makes one.

    SQLAlchemy compiles statements that differ by such values once, so they are looked for in the statement itself.
    """
    given = {}
    if extracted:
        own = compiled._cache_key_bind_match[0]
        given = {
            bind: each for first, each in zip(compiled.cache_key[1], extracted, strict=True) for bind in own[first]
        }
    found: dict[str, Any] = {}
    for bind, name in compiled.bind_names.items():
        mine = given.get(bind, bind)
        if mine.callable is not None or bind.callable is not None:
            return None
        if mine.required:
            found[name] = None
        else:  # where binds share a name, one that needs a value decides
            found.setdefault(name, mine)
    return found
