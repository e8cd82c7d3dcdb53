"""What differs between databases is asked of the table of products, and no name is compared elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.dialects import registry

import prefiq_db
import prefiq_db.engines  # registers the dialects
from prefiq_db.config import Target
from prefiq_db.products import ACCEPTED_ENGINES, PRODUCTS, SUPPORTED_ENGINES, Product, dialects, product_named

PACKAGE = Path(prefiq_db.__file__).parent
NAMES = {name for product in PRODUCTS.values() for name in (*product.names, product.dialect)}

#: Where a product's name may be compared or listed, and why.
ALLOWED = {
    "products.py": "the table",
    "dialects/": "how each product behaves",
    "drivers/": "how each driver behaves",
    "translation/": "what each product's errors mean, and how its SQL is read for them",
    "migrate/lint/__init__.py": "what the command lints for unless told otherwise, in the order of its report",
    "migrate/lint/rule_table.py": "each rule says for which databases it is",
    "testing/": "servers to test against, and their protocols",
    "interruptions.py": "modules of drivers, one of which is called sqlite3",
}


def is_allowed(path: Path) -> bool:
    return path.relative_to(PACKAGE).as_posix().startswith(tuple(ALLOWED))


def named_products(source: str) -> Iterator[tuple[int, str]]:
    """Yield each place of *source* that compares with a product's name, or lists names to compare with."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            found = _has_name(node.left) or any(map(_has_name, node.comparators))
        elif isinstance(node, (ast.Set, ast.Tuple, ast.List)):
            found = any(_is_name(element) for element in node.elts)
        elif isinstance(node, ast.MatchValue):
            found = _is_name(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found = node.func.attr in ("startswith", "endswith") and any(map(_has_name, node.args))
        else:
            continue
        if found:
            yield node.lineno, ast.unparse(node) if isinstance(node, ast.expr) else ast.unparse(node.value)


def _has_name(node: ast.expr) -> bool:
    return any(_is_name(each) for each in ast.walk(node))


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in NAMES


def test_no_product_is_compared_by_name() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if not is_allowed(path)
        for line, text in named_products(path.read_text("utf-8"))
    ]
    assert found == [], "ask an attribute of prefiq_db.products.Product instead"


@pytest.mark.parametrize(
    "source",
    [
        'if engine == "sqlite": pass',
        'found = "postgres" != target.engine',
        'if dialect.name in ("mysql", "mariadb"): pass',
        'MYSQL = frozenset({"mysql", "mariadb"})',
        'match engine:\n    case "mongodb": pass',
        'if url.startswith("postgresql"): pass',
    ],
)
def test_a_comparison_is_found(source: str) -> None:
    assert list(named_products(source))


@pytest.mark.parametrize(
    "source", ['engine: Engine = "sqlite"', 'rules = {"sqlite": SQLITE}[name]', 'where = path == "sqlite.py"']
)
def test_a_name_that_is_only_said_is_left_alone(source: str) -> None:
    assert not list(named_products(source))


def test_each_allowed_place_exists() -> None:
    for place in ALLOWED:
        assert (PACKAGE / place).exists(), place


# --- the table itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=list(PRODUCTS))
def test_a_product_is_found_by_each_of_its_names(product: Product) -> None:
    for name in (*product.names, product.dialect):
        assert product_named(name) is product
        assert product_named(f" {name.upper()} ") is product
    assert Target(product.engine, flavor=product.flavor).product is product


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=list(PRODUCTS))
def test_a_products_drivers_have_dialects_of_ours(product: Product) -> None:
    for driver in filter(None, (product.sync_driver, product.async_driver)):
        loaded = registry.load(driver.scheme.replace("+", "."))
        assert (loaded.__module__, loaded.__name__) == driver.dialect
        assert loaded.name == product.dialect


def test_files_have_no_server() -> None:
    for product in PRODUCTS.values():
        assert product.is_file == (product.default_port == 0)


def test_messages_list_the_engines() -> None:
    assert ACCEPTED_ENGINES == (
        "sqlite, postgres, mariadb or mongodb (or one of their other names: "
        "sqlite3, postgresql, pg, psql, maria, mysql, mongo)"
    )
    assert SUPPORTED_ENGINES == "sqlite, postgres or mariadb"


def test_dialects_are_chosen_by_an_attribute() -> None:
    assert dialects(where=lambda product: product.speaks_mysql) == {"mariadb", "mysql"}
    assert dialects(where=lambda product: product.keeps_zones) == {"postgresql"}
    assert dialects(where=lambda product: not product.has_decimals) == {"sqlite"}
