"""Options for Alembic's ``check`` and ``new``: how to compare, how to render our types, which tables are ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.runtime.plugins import Plugin

from prefiq_db.migrate import comparators
from prefiq_db.migrate.defaults import as_text_clause, compile_sql, default_sql, read_reported_sql
from prefiq_db.types import ExactDecimal, Json, Money, StrEnum, UtcDateTime, Uuid
from prefiq_db.types.choices import DEFAULT_LENGTH

OUR_PREFIX: Final = "prefiq_"

_SPECIAL: Final = frozenset(":%")

#: Alembic calls it to render a part of a revision; ``False`` leaves it to others.
Render = Callable[[str, Any, AutogenContext], str | Literal[False] | None]
#: Alembic asks it whether to include an object: the object, its name and kind, reflected?, its counterpart.
Include = Callable[[Any, str | None, str, bool, Any], bool]

#: Options of ``context.configure`` of which both ours and the service's take effect.
JOINED: Final = ("render_item", "include_object", "autogenerate_plugins")

_plugin = Plugin(comparators.PLUGIN)
comparators.setup(_plugin)


def autogenerate_options(
    *,
    ours: bool = False,
    render_item: Render | None = None,
    include_object: Include | None = None,
    autogenerate_plugins: Sequence[str] = ("alembic.autogenerate.*",),
) -> dict[str, Any]:
    """Return keyword arguments for Alembic's ``context.configure``.

    Args:
        ours: whether it is prefiq_db's own history, which sees only ``prefiq_*`` tables; a service's sees all others.
        render_item: your own; called first, and ours renders what it leaves (by returning ``False``).
        include_object: your own; both must include an object.
        autogenerate_plugins: yours; prefiq_db's is added to them.
    """
    plugins = [*autogenerate_plugins]
    if not {comparators.PLUGIN, f"~{comparators.PLUGIN}"} & {*plugins}:
        plugins.append(comparators.PLUGIN)
    include = include_ours if ours else include_others
    return {
        "compare_type": True,
        "compare_server_default": True,
        "autogenerate_plugins": plugins,
        "render_item": _render_ours if render_item is None else _prefer_theirs(render_item),
        "include_object": include if include_object is None else _both(include, include_object),
    }


def include_others(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Return whether a service's history includes the object: any but prefiq_db's tables."""
    return not _is_ours(item, name, type_)


def include_ours(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Return whether prefiq_db's own history includes the object: only its own tables."""
    return _is_ours(item, name, type_)


def _is_ours(item: Any, name: str | None, type_: str) -> bool:
    # Plugins add views, functions and more, which have no table.
    table = name if type_ == "table" else getattr(getattr(item, "table", None), "name", None)
    return table is not None and str(table).startswith(OUR_PREFIX)


def _both(first: Include, second: Include) -> Include:
    return lambda *about: first(*about) and second(*about)


# --- rendering our types in revisions ----------------------------------------------------------------


def _prefer_theirs(theirs: Render) -> Render:
    def render(type_: str, item: Any, context: AutogenContext) -> str | Literal[False] | None:
        written = theirs(type_, item, context)
        return _render_ours(type_, item, context) if written is False else written

    return render


def _render_ours(type_: str, item: Any, context: AutogenContext) -> str | Literal[False] | None:
    """Render what Alembic would render wrongly; leave the rest to Alembic."""
    if type_ == "type":
        return _render_type(item, context)
    if type_ == "server_default":
        return _render_default(item, context)
    return False


def _render_type(item: Any, context: AutogenContext) -> str | Literal[False]:
    """Render a portable type as ``prefiq_db.types.Money()`` and add the import.

    An enum is rendered by its values: a revision must not change when the enum does.
    """
    render = _RENDERED.get(type(item))
    if render is None:
        return False
    context.imports.add("import prefiq_db.types")
    return f"prefiq_db.types.{type(item).__name__}({render(item)})"


def _render_default(item: Any, context: AutogenContext) -> str | Literal[False]:
    """Render a default so that the revision's ``text()`` reproduces it: no bind of ``:word``, and one ``%``."""
    assert context.migration_context is not None
    dialect, prefix = context.migration_context.dialect, context.opts["sqlalchemy_module_prefix"] or ""
    if isinstance(item, sa.Computed):
        read_back = isinstance(item.sqltext, sa.TextClause) and bool(item.sqltext._bindparams)
        sql = read_reported_sql(item.sqltext) if read_back else compile_sql(item.sqltext, dialect)
        stored = "" if item.persisted is None else f", persisted={item.persisted}"
        return f"{prefix}Computed({as_text_clause(sql)!r}{stored})" if _SPECIAL & {*sql} else False
    if not isinstance(item, sa.DefaultClause) or isinstance(item.arg, str):
        return False
    sql = default_sql(item, dialect)
    return f"{prefix}text({as_text_clause(sql)!r})" if _SPECIAL & {*sql} else False


def _enum_arguments(type_: StrEnum) -> str:
    arguments = [repr(type_.values)]
    if type_.length != DEFAULT_LENGTH:
        arguments.append(f"length={type_.length}")
    if type_.name is not None:
        arguments.append(f"name={type_.name!r}")
    return ", ".join(arguments)


_RENDERED: Final[dict[type, Callable[[Any], str]]] = {
    UtcDateTime: lambda type_: "",
    Money: lambda type_: "",
    Uuid: lambda type_: "",
    Json: lambda type_: "",
    ExactDecimal: lambda type_: f"{type_.precision}, {type_.scale}",
    StrEnum: _enum_arguments,
}
