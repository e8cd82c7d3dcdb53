"""How the API reference reads our source; ``mkdocs.yml`` names this file.

- A class that lists its verbs (``fetch_all = Verbs.fetch_all``) has them as methods.
- A role in a docstring (``:class:`~prefiq_db.Database```) is a link, where what it names is on the site.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|attr|data|exc|mod):`(?P<path>~?[\w.]+)`")


class Roles(griffe.Extension):
    """Write roles as links of the site."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda found: _link(obj, found["path"]), obj.docstring.value)


def _link(obj: griffe.Object, named: str) -> str:
    path = named.removeprefix("~")
    shown = path.rpartition(".")[2] if named.startswith("~") else path
    try:
        target = path if path.startswith("prefiq_db.") else obj.resolve(path)
    except griffe.NameResolutionError:
        target = path
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'


class ListedVerbs(griffe.Extension):
    """Put the function in place of the attribute that names it."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for module in (pkg, *_modules(pkg)):
            for cls in module.classes.values():
                if not cls.is_alias:
                    _list_verbs(cls, pkg)


def _modules(module: griffe.Module) -> list[griffe.Module]:
    found = []
    for each in module.modules.values():
        if not each.is_alias:
            found += [each, *_modules(each)]
    return found


def _list_verbs(cls: griffe.Class, pkg: griffe.Module) -> None:
    for name, attribute in list(cls.attributes.items()):
        if attribute.is_alias or not isinstance(attribute.value, griffe.ExprAttribute):
            continue
        path = attribute.value.canonical_path.removeprefix(f"{pkg.path}.")
        try:
            verb = pkg[path]
        except KeyError:
            continue
        if verb.is_function:
            cls.set_member(name, griffe.Alias(name, verb, lineno=attribute.lineno, parent=cls))
