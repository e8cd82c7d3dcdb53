"""The table of products: all differences between kinds of databases that can be expressed as data.

Code reads an entry (``target.product.is_file``) and never compares names. Differences in behaviour are functions in
``dialects``. docs/architecture.md lists what else a new kind of database touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

EngineName = Literal["sqlite", "postgres", "mariadb", "mongodb"]


@dataclass(frozen=True, slots=True)
class Driver:
    """How SQLAlchemy connects to a product, sync or async.

    Attributes:
        scheme: the scheme of SQLAlchemy's URL.
        module: the driver's module; if it is missing, :class:`~prefiq_db.errors.MissingDriverError` is raised.
        dialect: module and class of our dialect; imported when the first engine is created.
    """

    scheme: str
    module: str
    dialect: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """One kind of database.

    Attributes:
        name: the scheme of a URL, and the name that users give as ``engine``.
        engine: the resulting value of the setting ``engine``; MySQL is a flavor of ``mariadb``.
        dialect: SQLAlchemy's name for it; errors, events, traces and metrics use it too.
        aliases: other names that URLs and the setting ``engine`` accept.

        is_file: a file or ``:memory:``, without host, port, user and password.
        default_port: the TCP port if neither a URL nor a field gives one; 0 for a file.
        default_user: likewise the user.
        default_database: likewise the database; for a file its path.
        scheme_drivers: the drivers that may follow a ``+`` in a URL's scheme: those that we use anyway.
        url_options: the options that a URL may have: none, ``target_session_attrs`` alone, libpq's, or MongoDB's.
        has_socket_option: a URL may have ``?unix_socket=<path>`` instead of a host.
        has_srv: a URL may begin with ``<name>+srv://``: the name service then lists the hosts.

        extra: the extra to install: ``prefiq-db[extra]``; ``""`` if the driver is part of Python.
        sync_driver: the driver for sync use; ``None``: not supported yet.
        async_driver: likewise for async use.
        document_driver: the module of the driver of a database that keeps documents, not tables; it has neither of
            the drivers above.
        has_migrations: whether Alembic can migrate it.

        literals: the rules for recognising strings, names and comments when a statement is masked.
        name_quotes: the characters that open a quoted name in SQL.
        has_decimals: a column can store decimals; SQLite has only floats for them.
        has_json: a JSON column keeps the document's text; SQLite would convert some documents to numbers.
        sends_json_as_bytes: the driver returns documents as bytes.
        keeps_zones: a column stores an instant with its time zone.
        exact_collation: the collation that compares texts by code point, if a column has to declare it.
        speaks_mysql: it has MySQL's SQL: character sets and fractional seconds in column types, backslashes in strings.
        rewrites_expressions: it reports defaults and checks in its own wording, with casts.
        error_fails_transaction: after a failed statement a transaction refuses all others.
        has_namespaces: a database has several schemas, and a transaction chooses one. Elsewhere it is a database.
    """

    name: str
    engine: EngineName
    dialect: str
    aliases: tuple[str, ...]

    is_file: bool = False
    default_port: int = 0
    default_user: str | None = None
    default_database: str
    scheme_drivers: frozenset[str] = frozenset()
    url_options: Literal["none", "session_attrs", "libpq", "documents"]
    has_socket_option: bool = False
    has_srv: bool = False

    extra: str = ""
    sync_driver: Driver | None = None
    async_driver: Driver | None = None
    document_driver: str = ""
    has_migrations: bool = True

    literals: Literal["sqlite", "postgresql", "mysql", ""]
    name_quotes: str = ""
    has_decimals: bool = True
    has_json: bool = True
    sends_json_as_bytes: bool = False
    keeps_zones: bool = False
    exact_collation: str | None = None
    speaks_mysql: bool = False
    rewrites_expressions: bool = False
    error_fails_transaction: bool = False
    has_namespaces: bool = False

    @property
    def flavor(self) -> str:
        """Its name if that differs from its engine's: ``"mysql"``; else ``""``."""
        return "" if self.name == self.engine else self.name

    @property
    def keeps_documents(self) -> bool:
        """Whether it keeps documents, not tables."""
        return bool(self.document_driver)

    @property
    def names(self) -> tuple[str, ...]:
        """All its names in URLs and in the setting ``engine``."""
        return (self.name, *self.aliases)

    def driver(self, is_async: bool) -> Driver | None:
        """Return the driver for sync or async use; ``None``: not supported yet."""
        return self.async_driver if is_async else self.sync_driver


_SQLITE: Final = Product(
    name="sqlite",
    engine="sqlite",
    dialect="sqlite",
    aliases=("sqlite3",),
    is_file=True,
    default_database="app.db",
    scheme_drivers=frozenset({"pysqlite", "aiosqlite"}),
    url_options="none",
    sync_driver=Driver("sqlite+prefiq", "sqlite3", ("prefiq_db.dialects.sqlite", "PrefiqSqlite")),
    async_driver=Driver("sqlite+prefiq_async", "aiosqlite", ("prefiq_db.dialects.sqlite", "PrefiqSqliteAsync")),
    literals="sqlite",
    name_quotes='"`[',
    has_decimals=False,
    has_json=False,
)

_POSTGRESQL: Final = Product(
    name="postgres",
    engine="postgres",
    dialect="postgresql",
    aliases=("postgresql", "pg", "psql"),
    default_port=5432,
    default_user="postgres",
    default_database="postgres",
    scheme_drivers=frozenset({"psycopg", "psycopg_async"}),
    url_options="libpq",
    extra="postgres",
    sync_driver=Driver("postgresql+prefiq", "psycopg", ("prefiq_db.dialects.postgresql", "PrefiqPostgresql")),
    async_driver=Driver(
        "postgresql+prefiq_async", "psycopg", ("prefiq_db.dialects.postgresql", "PrefiqPostgresqlAsync")
    ),
    literals="postgresql",
    name_quotes='"',
    sends_json_as_bytes=True,
    keeps_zones=True,
    exact_collation="C",
    rewrites_expressions=True,
    error_fails_transaction=True,
    has_namespaces=True,
)

_MARIADB: Final = Product(
    name="mariadb",
    engine="mariadb",
    dialect="mariadb",
    aliases=("maria",),
    default_port=3306,
    default_user="root",
    default_database="test",
    scheme_drivers=frozenset({"pymysql", "asyncmy"}),
    url_options="session_attrs",
    has_socket_option=True,
    extra="mariadb",
    sync_driver=Driver("mariadb+prefiq", "pymysql", ("prefiq_db.dialects.mariadb", "PrefiqMariadb")),
    async_driver=Driver("mariadb+prefiq_async", "asyncmy", ("prefiq_db.dialects.mariadb", "PrefiqMariadbAsync")),
    literals="mysql",
    name_quotes="`",
    speaks_mysql=True,
)

_MYSQL: Final = replace(
    _MARIADB,
    name="mysql",
    dialect="mysql",
    aliases=(),
    sync_driver=Driver("mysql+prefiq", "pymysql", ("prefiq_db.dialects.mariadb", "PrefiqMysql")),
    async_driver=Driver("mysql+prefiq_async", "asyncmy", ("prefiq_db.dialects.mariadb", "PrefiqMysqlAsync")),
)

_MONGODB: Final = Product(
    name="mongodb",
    engine="mongodb",
    dialect="mongodb",
    aliases=("mongo",),
    default_port=27017,
    default_database="test",
    url_options="documents",
    has_srv=True,
    extra="mongodb",
    document_driver="pymongo",
    has_migrations=False,
    literals="",
)

#: By name: ``PRODUCTS[target.flavor or target.engine]``, or shorter ``target.product``.
PRODUCTS: Final[Mapping[str, Product]] = {
    product.name: product for product in (_SQLITE, _POSTGRESQL, _MARIADB, _MYSQL, _MONGODB)
}

#: The defaults if no engine is set: the first with a host, port, user or password, the second without any of them.
DEFAULT_SERVER: Final = _MARIADB
DEFAULT_FILE: Final = _SQLITE

_BY_NAME: Final[Mapping[str, Product]] = {name: product for product in PRODUCTS.values() for name in product.names}
_BY_DIALECT: Final[Mapping[str, Product]] = {product.dialect: product for product in PRODUCTS.values()}

_ENGINES: Final = tuple(product.name for product in PRODUCTS.values() if not product.flavor)
#: For messages: the values of the setting ``engine``, and their aliases.
ACCEPTED_ENGINES: Final = (
    f"{', '.join(_ENGINES[:-1])} or {_ENGINES[-1]} (or one of their other names: "
    f"{', '.join(name for name in _BY_NAME if name not in _ENGINES)})"
)
_SUPPORTED: Final = tuple(name for name in _ENGINES if PRODUCTS[name].sync_driver is not None)
#: For messages: the engines that have a driver.
SUPPORTED_ENGINES: Final = f"{', '.join(_SUPPORTED[:-1])} or {_SUPPORTED[-1]}"


def product_named(name: str) -> Product | None:
    """Return the product called *name*, in any case, aliases included; ``None`` if unknown."""
    return _BY_NAME.get(name.strip().lower())


def product_of_dialect(name: str) -> Product | None:
    """Return the product for SQLAlchemy's dialect *name*; ``None`` if unknown."""
    return _BY_DIALECT.get(name)


def dialects(*, where: Callable[[Product], bool]) -> frozenset[str]:
    """Return the names of SQLAlchemy's dialects whose product satisfies *where*.

    Call it once per module, so that each check is one look-up in a set: ``if dialect.name in _WITHOUT_DECIMALS``.
    """
    return frozenset(product.dialect for product in PRODUCTS.values() if where(product))
