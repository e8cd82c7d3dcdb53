"""Which functions of each database have no side effect, and which depend on the connection they run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Common to all three databases, and then each one's additions.
_COMMON: Final = _words(
    """abs avg cast ceil ceiling coalesce concat concat_ws count cume_dist current_date current_time current_timestamp
    dense_rank exp first_value floor lag last_value lead length ln log lower ltrim max min mod ntile nullif
    octet_length percent_rank power rank replace round row_number rtrim sign sqrt substr substring sum trim upper"""
)
# Grammar rather than functions: no user-defined function can replace them.
_GRAMMAR: Final = _words(
    "cast coalesce current_date current_time current_timestamp extract greatest grouping least localtime "
    "localtimestamp nullif"
)
_POSTGRESQL: Final = (
    _COMMON
    | _GRAMMAR
    | _words(
        """array_agg array_length bool_and bool_or btrim char_length character_length date date_part date_trunc every
        format json_agg json_build_object json_object jsonb_agg jsonb_build_object left lpad md5 now pg_backend_pid
        position reverse right rpad split_part starts_with string_agg strpos to_char to_date to_timestamp trunc
        version"""
    )
)
_MARIADB: Final = _COMMON | _words(
    """char_length character_length convert curdate curtime date date_add date_format date_sub datediff day dayofweek
    dayofyear extract field find_in_set format from_unixtime greatest group_concat hour if ifnull instr
    json_arrayagg json_array json_contains json_extract json_length json_object json_unquote json_value last_day
    least left localtime localtimestamp locate lpad md5 minute month now position pow quarter regexp_replace
    repeat reverse right rpad second std stddev str_to_date strcmp substring_index time timestamp timestampdiff
    truncate unix_timestamp utc_timestamp uuid variance version week weekday year"""
)
_SQLITE: Final = (_COMMON - _words("cast")) | _words(
    """cast char date datetime format glob group_concat hex ifnull iif instr json json_array json_array_length
    json_extract json_group_array json_group_object json_object julianday likelihood likely printf quote sqlite_version
    strftime string_agg time total trunc typeof unicode unixepoch unlikely"""
)


@dataclass(frozen=True, slots=True)
class Functions:
    """The functions of one kind of database.

    Attributes:
        harmless: functions that change nothing, called by their bare name.
        takable: those of them that a user-defined function of the same name may replace: on PostgreSQL one whose
            argument types fit better wins over the built-in.
        glued: whether a blank before the parenthesis calls a user-defined function instead (MariaDB).
        session: functions that, called without arguments, return something about the connection's earlier statements.
        session_by_name: the same, with an argument.
    """

    harmless: frozenset[str]
    takable: frozenset[str] = frozenset()
    glued: bool = False
    session: frozenset[str] = frozenset()
    session_by_name: frozenset[str] = frozenset()


_OF_MARIADB: Final = Functions(
    _MARIADB,
    glued=True,
    session=_words("last_insert_id row_count found_rows"),
    session_by_name=_words("lastval"),
)
FUNCTIONS: Final[Mapping[str, Functions]] = {
    "postgresql": Functions(
        _POSTGRESQL,
        takable=_POSTGRESQL - _GRAMMAR,
        session=_words("lastval"),
        session_by_name=_words("currval"),
    ),
    "sqlite": Functions(_SQLITE, session=_words("last_insert_rowid changes total_changes")),
    "mariadb": _OF_MARIADB,
    "mysql": _OF_MARIADB,
}

# MariaDB's variables that describe the statement before.
SESSION_VARIABLES: Final = _words("identity last_insert_id insert_id warning_count error_count")


def taken_sql(names: frozenset[str]) -> str:
    """Return a PostgreSQL query that yields a row if a user-defined function or aggregate has one of *names*.

    In any schema, for any arguments: which of several the server picks depends on the search path and on types.
    Functions of extensions (citext has a ``max``) don't count as user-defined. *names* are from the lists above.
    """
    listed = ", ".join(f"'{name}'" for name in sorted(names))
    return (
        "SELECT 1 FROM pg_catalog.pg_proc AS f"
        f" WHERE f.proname IN ({listed}) AND f.oid >= 16384"  # lower OIDs are the server's own
        " AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d"
        " WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = f.oid AND d.deptype = 'e') LIMIT 1"
    )
