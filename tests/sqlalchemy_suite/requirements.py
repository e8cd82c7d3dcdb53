"""What the suite may ask of each database: what SQLAlchemy's own dialects can do there, whoever is tested.

A test is left out where the *plain* dialect has no such thing, so that each test that fails is a difference of ours.
SQLAlchemy's defaults hold for what isn't named here; where they ask the dialect, ``plugin.py`` compares the answers.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.testing import exclusions
from sqlalchemy.testing.requirements import SuiteRequirements

_ALL: Final = ("sqlite", "postgresql", "mariadb")
_SERVERS: Final = ("postgresql", "mariadb")
_SQLITE_AND_POSTGRESQL: Final = ("sqlite", "postgresql")
_POSTGRESQL: Final = ("postgresql",)
_NONE: Final = ()

_WHO_CAN: Final[dict[str, tuple[str, ...]]] = {
    "array_type": _POSTGRESQL,
    "autocommit": _ALL,
    "check_constraint_reflection": _ALL,
    "column_collation_reflection": _POSTGRESQL,
    "comment_reflection": _SERVERS,
    "comment_reflection_full_unicode": _POSTGRESQL,
    "computed_columns": ("sqlite", "mariadb", "postgresql>=18"),
    "computed_columns_default_persisted": _NONE,
    "computed_columns_reflect_persisted": _ALL,
    "computed_columns_stored": _ALL,
    "computed_columns_virtual": ("sqlite", "mariadb", "postgresql>=18"),
    "constraint_comment_reflection": _POSTGRESQL,
    "create_or_replace_view": _SERVERS,
    "create_table_as": _ALL,
    "create_temp_table_as": _ALL,
    "cross_schema_fk_reflection": _SERVERS,
    "ctes": _ALL,
    "ctes_with_update_delete": _SQLITE_AND_POSTGRESQL,
    "ctes_with_values": _SQLITE_AND_POSTGRESQL,
    "date_historic": _ALL,
    "date_implicit_bound": _SQLITE_AND_POSTGRESQL,
    "datetime_historic": _ALL,
    "datetime_implicit_bound": _SQLITE_AND_POSTGRESQL,
    "datetime_interval": _POSTGRESQL,
    "datetime_literals": _ALL,
    "datetime_microseconds": _SQLITE_AND_POSTGRESQL,
    "datetime_timezone": _POSTGRESQL,
    "datetime_timezone_historic": _POSTGRESQL,
    "dbapi_lastrowid": ("sqlite", "mariadb"),
    "default_schema_name_switch": _POSTGRESQL,
    "delete_from": _SERVERS,
    "dialect_level_isolation_level_param": _ALL,
    "expression_server_defaults": _ALL,
    "fetch_expression": _POSTGRESQL,
    "fetch_first": _SERVERS,
    "fetch_no_order_by": _SERVERS,
    "fetch_offset_with_options": _SERVERS,
    "fetch_percent": _NONE,
    "fetch_ties": _SERVERS,
    "fk_constraint_option_reflection_ondelete_noaction": _ALL,
    "fk_constraint_option_reflection_ondelete_restrict": _SQLITE_AND_POSTGRESQL,
    "fk_constraint_option_reflection_onupdate_restrict": _SQLITE_AND_POSTGRESQL,
    "float_or_double_precision_behaves_generically": _SQLITE_AND_POSTGRESQL,
    "foreign_key_constraint_name_reflection": _ALL,
    "foreign_key_constraint_option_reflection_ondelete": _ALL,
    "foreign_key_constraint_option_reflection_onupdate": _ALL,
    "foreign_keys_reflect_as_index": ("mariadb",),
    "get_isolation_level_values": _ALL,
    "has_temp_table": _ALL,
    "identity_columns": _POSTGRESQL,
    "identity_columns_standard": _POSTGRESQL,
    "implicitly_named_constraints": _SERVERS,
    "index_ddl_if_exists": _ALL,
    "index_reflects_included_columns": _POSTGRESQL,
    "indexes_check_column_order": _ALL,
    "indexes_with_expressions": _SQLITE_AND_POSTGRESQL,
    "infinity_floats": _SQLITE_AND_POSTGRESQL,
    "inline_check_constraint_reflection": _SQLITE_AND_POSTGRESQL,
    "isolation_level": _ALL,
    "json_deserializer_binary": _NONE,
    "json_type": _ALL,
    "legacy_unconditional_json_extract": _ALL,
    "materialized_views": _POSTGRESQL,
    "materialized_views_reflect_pk": _NONE,
    "nvarchar_types": _NONE,
    "parens_in_union_contained_select_w_limit_offset": _SERVERS,
    "parens_in_union_contained_select_wo_limit_offset": _SERVERS,
    "percent_schema_names": _ALL,
    "precision_generic_float_type": _SQLITE_AND_POSTGRESQL,
    "precision_numerics_many_significant_digits": _SERVERS,
    "precision_numerics_retains_significant_digits": _SERVERS,
    "reflect_indexes_with_ascdesc_as_expression": _NONE,
    "reflect_indexes_with_expressions": _POSTGRESQL,
    "reflect_table_options": _ALL,
    "reflect_tables_no_columns": _POSTGRESQL,
    "reflects_pk_names": _SQLITE_AND_POSTGRESQL,
    "regexp_match": _ALL,
    "regexp_replace": _SERVERS,
    "repeated_column_foreign_keys": _SQLITE_AND_POSTGRESQL,
    "repeated_remote_col_foreign_keys": ("sqlite",),
    "schema_create_delete": _SERVERS,
    "server_defaults": _ALL,
    "skip_autocommit_rollback": _ALL,
    "sql_expression_limit_offset": _SQLITE_AND_POSTGRESQL,
    "supports_bitwise_and": _ALL,
    "supports_bitwise_not": _SQLITE_AND_POSTGRESQL,
    "supports_bitwise_or": _ALL,
    "supports_bitwise_shift": _ALL,
    "supports_bitwise_xor": _SERVERS,
    "supports_distinct_on": _POSTGRESQL,
    "table_ddl_if_exists": _ALL,
    "table_value_constructor": _POSTGRESQL,
    "temp_table_comment_reflection": _POSTGRESQL,
    "temp_table_names": _SQLITE_AND_POSTGRESQL,
    "temporary_views": _SQLITE_AND_POSTGRESQL,
    "time_implicit_bound": _SQLITE_AND_POSTGRESQL,
    "time_microseconds": _SQLITE_AND_POSTGRESQL,
    "time_timezone": _POSTGRESQL,
    "timestamp_microseconds": _SQLITE_AND_POSTGRESQL,
    "tuple_in": _ALL,
    "unbounded_varchar": _SQLITE_AND_POSTGRESQL,
    "unicode_ddl": _ALL,
    "unique_constraints_reflect_as_index": _SERVERS,
    "unique_index_reflect_as_unique_constraints": ("mariadb",),
    "update_from": _ALL,
    "uuid_data_type": _SERVERS,
    "views": _ALL,
    "window_functions": _ALL,
    "window_range": _ALL,
    "window_range_non_numeric": _POSTGRESQL,
    "window_range_numeric": _ALL,
}


class Requirements(SuiteRequirements):  # type: ignore[misc]
    """Read by SQLAlchemy's plugin, which looks up one property per kind of test."""

    def get_order_by_collation(self, config: Any) -> str:
        return {"sqlite": "NOCASE", "postgresql": "POSIX", "mariadb": "utf8mb4_bin"}[config.db.name]


def _only_on(databases: tuple[str, ...]) -> property:
    return property(lambda self: exclusions.only_on(list(databases)) if databases else exclusions.closed())


for _name, _databases in _WHO_CAN.items():
    if not hasattr(SuiteRequirements, _name):
        raise LookupError(f"{_name}: SQLAlchemy's suite has no such requirement any more")
    setattr(Requirements, _name, _only_on(_databases))
