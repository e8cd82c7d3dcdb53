"""What variables say to the user's own models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource

from prefiq_db.errors import Problem
from prefiq_db.settings.layers import FieldPath, read_secret
from prefiq_db.settings.namespaces import merge


class _Variables(EnvSettingsSource):
    """pydantic-settings' reading of variables (nesting, JSON for lists), over a mapping instead of the process's."""

    def __init__(self, model: type[BaseModel], prefix: str, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(cast("type[BaseSettings]", model), False, prefix, env_nested_delimiter="__")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables


def environment_sections(
    prefix: str,
    variables: Mapping[str, str],
    namespaces: Mapping[str, type[BaseModel]],
    problems: list[Problem],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what the variables say to each namespace, and by upper-case name what the user calls each variable."""
    shown = {name.upper(): name for name in variables}
    sections: dict[str, dict[str, Any]] = {}
    for namespace, model in namespaces.items():
        own = _with_files(prefix, f"{namespace.upper()}_", model, variables, shown, problems)
        section = _read_variables(namespace, model, own)
        if section is None:  # one by one, to tell which of them is at fault
            section = {}
            for name, value in own.items():
                part = _read_variables(namespace, model, {name: value})
                section = merge(section, part or {})
                if part is None:
                    where = prefix + shown.get(name, name)
                    problems.append(Problem(where, "JSON, since it is a list or a mapping", 'write it like ["a", "b"]'))
        if section:
            sections[namespace] = section
    return sections, shown


def _read_variables(namespace: str, model: type[BaseModel], variables: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the variables say to the fields of *model*, or ``None`` when one is not valid JSON."""
    source = _Variables(model, f"{namespace}_", variables)
    section: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        try:
            value, key, is_complex = source.get_field_value(info, name)
            prepared = source.prepare_field_value(name, info, value, is_complex)
        except ValueError:
            return None
        if prepared is not None:
            section[key] = prepared
    return section


def _with_files(
    prefix: str,
    stem: str,
    model: type[BaseModel],
    variables: Mapping[str, str],
    shown: dict[str, str],
    problems: list[Problem],
) -> dict[str, str]:
    """Return *variables* with the content of each file that a ``*_FILE`` variable of this namespace names."""
    known = set(_leaves(stem, model))
    own = {name.upper(): value for name, value in variables.items()}
    for name, path in list(own.items()):
        plain = name.removesuffix("_FILE")
        if name in known or plain not in known or plain == name:
            continue
        where = prefix + shown[name]
        if plain in own:
            problems.append(Problem(where, f"only one of this and {prefix}{shown[plain]}", "unset one of the two"))
        content = read_secret(path, where, problems)
        if content is not None:
            own[plain], shown[plain] = content, shown[name]
    return own


def _leaves(stem: str, model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield f"{stem}{name.upper()}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _leaves(f"{stem}{name.upper()}__", info.annotation)


def locate_variable(prefix: str, shown: Mapping[str, str], namespace: str, path: FieldPath) -> str | None:
    for length in range(len(path), 0, -1):
        name = f"{namespace}_{'__'.join(path[:length])}".upper()
        if name in shown:
            return prefix + shown[name]
    return None
