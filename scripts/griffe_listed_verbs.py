"""For the API reference: a class that lists its verbs (``fetch_all = Verbs.fetch_all``) has them as methods."""

from __future__ import annotations

from typing import Any

import griffe


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
