"""What Alembic is told for ``check`` and ``new``: how to compare, how to write our types, whose tables are whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.runtime.plugins import Plugin

from prefiq_db.migrate import comparators
from prefiq_db.types import ExactDecimal, Json, Money, StrEnum, UtcDateTime, Uuid
from prefiq_db.types.choices import DEFAULT_LENGTH

OUR_PREFIX: Final = "prefiq_"

_plugin = Plugin(comparators.PLUGIN)
comparators.setup(_plugin)


def autogenerate_options(*, ours: bool = False) -> dict[str, Any]:
    """Return keyword arguments for Alembic's ``context.configure``.

    Args:
        ours: whether it is prefiq_db's own history, which sees only ``prefiq_*`` tables; a service's sees all others.
    """
    return {
        "compare_type": True,
        "compare_server_default": True,
        "autogenerate_plugins": ["alembic.autogenerate.*", comparators.PLUGIN],
        "render_item": render_item,
        "include_object": include_ours if ours else include_others,
    }


def include_others(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Say whether a service's history is about this: not when it is a table of prefiq_db."""
    return not _is_ours(item, name, type_)


def include_ours(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Say whether prefiq_db's own history is about this: only its own tables."""
    return _is_ours(item, name, type_)


def _is_ours(item: Any, name: str | None, type_: str) -> bool:
    table = name if type_ == "table" else item.table.name
    return table is not None and table.startswith(OUR_PREFIX)


# --- writing our types into revisions ----------------------------------------------------------------


def render_item(type_: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Write a portable type as ``prefiq_db.types.Money()`` and add the import; leave the rest to Alembic.

    An enum is written by its values: a revision must not change when the enum does.
    """
    render = _RENDERED.get(type(item)) if type_ == "type" else None
    if render is None:
        return False
    context.imports.add("import prefiq_db.types")
    return f"prefiq_db.types.{type(item).__name__}({render(item)})"


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
