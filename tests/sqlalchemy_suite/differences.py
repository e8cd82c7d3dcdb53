"""What differs from SQLAlchemy's own dialects in SQLAlchemy's own suite, by name.

The list can only get shorter: a listed test that passes, is left out or isn't there is a failure, and so is one that
fails for another reason than the listed one. docs/guide/sqlalchemy-differences.md tells users of each entry, see
``tests/unit/test_dialect_suite_list.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_ALL: Final = ("sqlite", "postgresql", "mariadb")


@dataclass(frozen=True, slots=True)
class Difference:
    """One reason, and the tests that fail for it.

    Attributes:
        title: what the documentation calls it.
        why: for users, in a sentence.
        says: part of what each failure, or the error behind it, says.
        tests: ``Class.test``, which is every variant of a test, ``Class.test[variant]`` or ``Class``.
        each: whether each of them fails; otherwise some do, and which depends on what ran before on the connection.
        databases: where they fail.
        worlds: sync, async or both.
    """

    title: str
    why: str
    says: str
    tests: tuple[str, ...]
    databases: tuple[str, ...] = _ALL
    worlds: tuple[str, ...] = ("sync", "async")
    each: bool = True


_SERVERS: Final = ("postgresql", "mariadb")
# Tests of temporary tables make them on one connection, and look at them on another one.
_TEMPORARY: Final = (
    "ComponentReflectionTest.test_get_temp_table_columns",
    "ComponentReflectionTest.test_get_temp_table_indexes",
    "ComponentReflectionTest.test_get_temp_table_unique_constraints",
    "ComponentReflectionTest.test_reflect_table_temp_table",
)
_TEMPORARY_TOO: Final = (
    "ComponentReflectionTest.test_get_multi_check_constraints",
    "ComponentReflectionTest.test_get_multi_columns",
    "ComponentReflectionTest.test_get_multi_foreign_keys",
    "ComponentReflectionTest.test_get_multi_indexes",
    "ComponentReflectionTest.test_get_multi_pk_constraint",
    "ComponentReflectionTest.test_get_multi_unique_constraints",
    "ComponentReflectionTest.test_get_temp_table_names",
    "ComponentReflectionTest.test_get_temp_view_columns",
    "ComponentReflectionTest.test_get_temp_view_names",
    "ComponentReflectionTest.test_multi_get_table_options_tables",
)
_ENDS_WITH_THE_CHECKOUT: Final = (
    "A temporary table ends with its checkout",
    "The pool closes a connection that has one, or that was told `USE` or `SET`: the next user would see it.",
)
_SERVER_SIDE: Final = (
    "ServerSideCursorsTest.test_roundtrip_fetchall",
    "ServerSideCursorsTest.test_roundtrip_fetchmany",
    "ServerSideCursorsTest.test_ss_cursor_status[for_update_expr]",
    "ServerSideCursorsTest.test_ss_cursor_status[for_update_string]",
    "ServerSideCursorsTest.test_ss_cursor_status[global_expr]",
    "ServerSideCursorsTest.test_ss_cursor_status[global_string]",
    "ServerSideCursorsTest.test_ss_cursor_status[global_text]",
    "ServerSideCursorsTest.test_ss_cursor_status[stmt_option_disabled]",
)

# Titles with more than one entry.
_STREAMED: Final = (
    "Rows are streamed statement by statement",
    "The deprecated option `server_side_cursors` of `create_engine()` isn't supported; `stream()` and the"
    " execution option `stream_results` are.",
)
_OF_THE_CHECKOUT: Final = (
    "The isolation level belongs to the checkout",
    "It is sent with each BEGIN and dropped at checkin; `dialect.reset_isolation_level()` of a driver's "
    "connection does nothing.",
)
_NO_VALUES: Final = (
    "Errors hold no values",
    "An error about a bad isolation level doesn't quote it, and the messages of SQLAlchemy and the "
    "server, which may hold values, are only in `.original` of our error.",
)

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "Engines are made from settings",
        "Options of `create_engine()`, such as `isolation_level`, `json_serializer` and "
        "`skip_autocommit_rollback`, don't apply: pass the isolation level to `transaction()` or to "
        "`execution_options()`.",
        "NoSuchOptionError: no setting is: ",
        (
            "AutocommitIsolationTest.test_autocommit_block[block_rollback-engine]",
            "AutocommitIsolationTest.test_autocommit_block[block_rollback-false]",
            "AutocommitIsolationTest.test_autocommit_block[block_rollback-option]",
            "AutocommitIsolationTest.test_autocommit_block[not_block_rollback-engine]",
            "AutocommitIsolationTest.test_dialect_autocommit_is_restored[use_dialect_setting]",
            "IsolationLevelTest.test_dialect_user_setting_is_restored",
            "IsolationLevelTest.test_invalid_level_engine_param",
            "JSONTest.test_round_trip_custom_json",
        ),
    ),
    Difference(
        *_STREAMED,
        "NoSuchOptionError: no setting is: server_side_cursors",
        _SERVER_SIDE,
        databases=_SERVERS,
    ),
    Difference(
        *_STREAMED,
        "NoSuchOptionError: no setting is: server_side_cursors",
        tuple(name for name in _SERVER_SIDE if "for_update_string" not in name),
        databases=("sqlite",),
        worlds=("async",),
    ),
    Difference(
        "No ROLLBACK without a transaction",
        "A connection that is returned to the pool without an open transaction is not rolled back, which "
        "saves a round trip.",
        "[] != [call()]",
        (
            "AutocommitIsolationTest.test_autocommit_block[not_block_rollback-false]",
            "AutocommitIsolationTest.test_autocommit_block[not_block_rollback-option]",
        ),
    ),
    Difference(
        *_OF_THE_CHECKOUT,
        "1 != None",
        ("AutocommitIsolationTest.test_autocommit_on",),
    ),
    Difference(
        *_OF_THE_CHECKOUT,
        "' != '",
        ("IsolationLevelTest.test_non_default_isolation_level",),
        databases=_SERVERS,
    ),
    Difference(
        "SQLite is always SERIALIZABLE",
        "Every level is accepted there, and means SERIALIZABLE.",
        "'SERIALIZABLE' != 'READ UNCOMMITTED'",
        ("IsolationLevelTest.test_all_levels", "IsolationLevelTest.test_non_default_isolation_level"),
        databases=("sqlite",),
    ),
    Difference(
        *_NO_VALUES,
        "ArgumentError: isolation_level: expected one of READ UNCOMMITTED",
        ("IsolationLevelTest.test_invalid_level_execution_option",),
    ),
    Difference(
        *_NO_VALUES,
        "the call was refused with InvalidRequestError: see .original for its text",
        ("ReturningGuardsTest.test_delete_many", "ReturningGuardsTest.test_update_many"),
    ),
    Difference(
        *_ENDS_WITH_THE_CHECKOUT,
        "user_tmp",
        _TEMPORARY,
        worlds=("sync",),
        each=False,
    ),
    Difference(
        *_ENDS_WITH_THE_CHECKOUT,
        "user_tmp",
        _TEMPORARY_TOO,
        databases=("sqlite", "postgresql"),
        worlds=("sync",),
        each=False,
    ),
    Difference(
        *_ENDS_WITH_THE_CHECKOUT,
        "user_tmp",
        ("ComponentReflectionTest.test_get_multi_table_comment",),
        databases=("postgresql",),
        worlds=("sync",),
        each=False,
    ),
    Difference(
        *_ENDS_WITH_THE_CHECKOUT,
        "False is not True",
        ("HasTableTest.test_has_table_temp_table",),
        worlds=("sync",),
    ),
    Difference(
        *_ENDS_WITH_THE_CHECKOUT,
        "False is not True",
        ("HasTableTest.test_has_table_temp_view",),
        databases=("sqlite", "postgresql"),
        worlds=("sync",),
    ),
    Difference(
        "Prepared statements survive a ROLLBACK",
        "Otherwise PostgreSQL would have to prepare each text again after every ROLLBACK, at a round trip "
        "each. If a table was recreated with other types, the first transaction that uses such a statement "
        "fails; `run_in_transaction` repeats it.",
        "code 0A000",
        (
            "NumericTest",
            "ReturningTest",
        ),
        databases=("postgresql",),
        each=False,
    ),
    Difference(
        "Decimals are exact on SQLite, or refused",
        "A Decimal can't be compared with a number in JSON, nor added to a `Float`, because SQLite calculates"
        " these in floats.",
        "a value of type Decimal can't be passed to SQLite",
        (
            "JSONTest.test_index_typed_comparison[_decimal0]",
            "JSONTest.test_index_typed_comparison[_decimal2]",
            "JSONTest.test_index_typed_comparison[numeric0]",
            "JSONTest.test_index_typed_comparison[numeric1]",
            "JSONTest.test_index_typed_comparison[numeric2]",
            "JSONTest.test_path_typed_comparison[_decimal0]",
            "JSONTest.test_path_typed_comparison[_decimal2]",
            "JSONTest.test_path_typed_comparison[numeric0]",
            "JSONTest.test_path_typed_comparison[numeric1]",
            "JSONTest.test_path_typed_comparison[numeric2]",
            "NumericTest.test_float_as_decimal",
            "NumericTest.test_float_custom_scale",
        ),
        databases=("sqlite",),
    ),
    Difference(
        "Foreign keys are enforced on SQLite",
        "They are switched on for each connection, so a foreign key to a column that isn't unique or doesn't "
        "exist is an error.",
        "SchemaError: ",
        (
            "UnicodeSchemaTest.test_col_targeting",
            "UnicodeSchemaTest.test_insert",
            "UnicodeSchemaTest.test_reflect",
            "UnicodeSchemaTest.test_repr",
        ),
        databases=("sqlite",),
    ),
    Difference(
        *_NO_VALUES,
        "SchemaError: ",
        ("ExceptionTest.test_exception_with_non_ascii",),
        databases=("mariadb",),
    ),
)
