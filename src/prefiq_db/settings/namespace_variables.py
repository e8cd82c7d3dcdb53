"""Read the user's own models from variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource

from prefiq_db.errors import Problem
from prefiq_db.settings.layers import FieldPath, read_secret
from prefiq_db.settings.namespaces import merge


@dataclass(slots=True)
class NamespaceVariables:
    """The variables of one layer, for the user's models.

    Attributes:
        prefix: stands before each name in messages: ``.env:``.
        variables: without those that are not set.
        problems: collects the problems.
    """

    prefix: str
    variables: Mapping[str, str]
    problems: list[Problem]
    _shown: dict[str, str] = field(init=False)  # upper-case name -> what the user wrote

    def __post_init__(self) -> None:
        self._shown = {name.upper(): name for name in self.variables}

    def read(self, namespace: str, model: type[BaseModel]) -> dict[str, Any]:
        """Return the variables' values for *model*; those that can't be read become problems instead."""
        variables = self._with_files(f"{namespace.upper()}_", model)
        section = _read(namespace, model, variables)
        if section is not None:
            return section
        section = {}
        for name, value in variables.items():  # one by one, to find the one that fails
            part = _read(namespace, model, {name: value})
            section = merge(section, part or {})
            if part is None:
                self._problem(name, "JSON, since it is a list or a mapping", 'write it like ["a", "b"]')
        return section

    def locate(self, namespace: str, path: FieldPath) -> str | None:
        """Return the user's name for the variable that sets *path* or a parent of it."""
        for length in range(len(path), 0, -1):
            name = f"{namespace}_{'__'.join(path[:length])}".upper()
            if name in self._shown:
                return self._where(name)
        return None

    def _with_files(self, stem: str, model: type[BaseModel]) -> dict[str, str]:
        """Return the variables, with the content of each file that a ``*_FILE`` variable of this namespace names."""
        known = set(_leaves(stem, model))
        variables = {name.upper(): value for name, value in self.variables.items()}
        for name, path in list(variables.items()):
            plain = name.removesuffix("_FILE")
            if name in known or plain not in known:
                continue
            if plain in variables:
                self._problem(name, f"only one of this and {self._where(plain)}", "unset one of the two")
            content = read_secret(path, self._where(name), self.problems)
            if content is not None:
                variables[plain], self._shown[plain] = content, self._shown[name]
        return variables

    def _where(self, name: str) -> str:
        return self.prefix + self._shown[name]

    def _problem(self, name: str, expected: str, fix: str) -> None:
        self.problems.append(Problem(self._where(name), expected, fix))


class _Source(EnvSettingsSource):
    """pydantic-settings' reading of variables (nesting, JSON for lists), from a mapping instead of the process's."""

    def __init__(self, model: type[BaseModel], prefix: str, variables: Mapping[str, str]) -> None:
        self._variables = {name.lower(): value for name, value in variables.items()}
        super().__init__(cast("type[BaseSettings]", model), False, prefix, env_nested_delimiter="__")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables


def _read(namespace: str, model: type[BaseModel], variables: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the variables' values for the fields of *model*, or ``None`` if one is not valid JSON."""
    source = _Source(model, f"{namespace}_", variables)
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


def _leaves(stem: str, model: type[BaseModel]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        yield f"{stem}{name.upper()}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _leaves(f"{stem}{name.upper()}__", info.annotation)
