"""Plain, frozen configuration: values with defaults that can be compared, copied with ``replace`` and logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from prefiq_db.errors import UsageError
from prefiq_db.masking import Secret
from prefiq_db.products import PRODUCTS, EngineName, Product

Mode = Literal["sync", "async"]
Reading = Literal["primary", "replica", "replica_preferred"]
WriteTo = Literal["one", "any"]
SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

#: 23 days: PostgreSQL stores its timeouts as milliseconds in 32 bits
MAX_SECONDS: Final = 2_000_000.0

ISOLATION_LEVELS: Final = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

#: the URL option that says which of several hosts to use; the name is libpq's
SESSION_ATTRS: Final = "target_session_attrs"
#: the values of that option that work for MariaDB too; libpq has more
ANY_HOST, WRITER, READER = SHARED_SESSION_ATTRS = ("any", "read-write", "read-only")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and for how long, to retry what is safe to repeat.

    Attributes:
        attempts: attempts in total, including the first; 1 means no retry. Default 4.
        wait_initial_seconds: upper bound of the first wait; it doubles with each further one. Default 0.05.
        wait_max_seconds: upper bound of any wait. Default 2.
        total_seconds: no attempt starts later than this after the first one began. Default 15.

    Waits have full jitter: each is drawn evenly between 0 and its bound, so that clients don't all retry at once.
    """

    attempts: int = 4
    wait_initial_seconds: float = 0.05
    wait_max_seconds: float = 2.0
    total_seconds: float = 15.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise UsageError("RetryPolicy.attempts: expected a whole number of at least 1; 1 means no retry")
        for name in ("wait_initial_seconds", "wait_max_seconds", "total_seconds"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise UsageError(f"RetryPolicy.{name}: expected seconds, at least 0 and finite")


NO_RETRY: Final = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class Host:
    """One server to try.

    Attributes:
        host: a name, an address, or a path: PostgreSQL's socket directory, MariaDB's socket.
        port: a TCP port; PostgreSQL's socket has it in its name, MariaDB's doesn't.
    """

    host: str
    port: int

    @property
    def is_path(self) -> bool:
        """Whether this is a path: a Unix socket on this machine."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_path:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a database is: the one parsed form of a URL or of split fields.

    Attributes:
        engine: the kind of database.
        hosts: servers in the order to try them; empty for SQLite.
        user: login name, or ``None``.
        password: a :class:`~prefiq_db.masking.Secret`, or ``None``.
        database: database name; for SQLite a file path or ``:memory:``.
        options: the URL's query options that are not fields of ours, passed on to the driver; never a secret.
        secret_options: the options among them that are secrets (``sslpassword``).
        flavor: ``"mysql"`` when the user said MySQL rather than MariaDB, else ``""``.
        is_srv: the one host is a name for which the name service lists the hosts (``mongodb+srv://``).
    """

    engine: EngineName
    hosts: tuple[Host, ...] = ()
    user: str | None = None
    password: Secret | None = None
    database: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    secret_options: Mapping[str, Secret] = field(default_factory=dict)
    flavor: str = ""
    is_srv: bool = False

    @property
    def product(self) -> Product:
        """The product table's entry for this kind of database."""
        return PRODUCTS[self.flavor or self.engine]

    def __str__(self) -> str:
        """Return a URL that is safe to show: without password and options."""
        if self.product.is_file:
            return f"{self.engine}:///{self.database}"
        hosts = ",".join(host.host if self.is_srv else str(host) for host in self.hosts)
        user = f"{self.user}@" if self.user else ""
        return f"{self.engine}{'+srv' if self.is_srv else ''}://{user}{hosts}/{self.database}"
