"""Read a database URL into a :class:`~prefiq_db.config.Target`, and write one back.

This is the only URL parser of prefiq_db. It reports every wrong part by name, never by value, and refuses ambiguous
URLs: a raw ``@`` in a password shifts the host, and other parsers then print half of the password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote, unquote

from prefiq_db.config import Host, Target
from prefiq_db.errors import Problem, SettingsError
from prefiq_db.masking import Secret, is_secret_key
from prefiq_db.products import ACCEPTED_ENGINES, Product, product_named

MEMORY: Final = ":memory:"
_ENCODE: Final = "percent-encode the special characters of each part: @ is %40, / is %2F, : is %3A, ? is %3F, % is %25"

_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>.*))?", re.DOTALL)
_HOST_NAME = re.compile(r"[\w.-]+|/[^,\x00-\x1f]+")
_PATH_AND_PORT = re.compile(r"(?P<path>.+?)(?::(?P<port>[0-9]+))?", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}")
_SRV: Final = "+srv"
_LOCAL: Final = frozenset({"", "localhost", "127.0.0.1", "[::1]"})


def parse_url(text: str, *, where: str) -> Target:
    """Return the target of a URL; standard ports are filled in, secrets are wrapped.

    *where* is the user's name for this URL (``DB_URL``); each problem begins with it. ``sqlite://`` and
    ``sqlite:///:memory:`` mean ``:memory:``; three slashes begin a relative path, four an absolute one.

    Raises:
        SettingsError: lists every wrong part, without values.
    """
    reader = _Reader(where)
    target = reader.read(text.strip())
    if reader.problems or target is None:
        raise SettingsError(reader.problems)
    return target


def split_hosts(text: str, *, where: str) -> tuple[tuple[str, int | None], ...]:
    """Return the hosts of a comma-separated list, each with its port or ``None``: ``db1,db2:5433,[::1]:5434,::1``.

    Raises:
        SettingsError: names *where*, without values.
    """
    reader = _Reader(where, whole=True)
    hosts = reader.hosts(text, str)
    if reader.problems:
        raise SettingsError(reader.problems)
    return hosts


def format_url(target: Target) -> str:
    """Return the URL of *target*, **password included**: ``parse_url(format_url(t)) == t``. Never show it."""
    secrets = {key: secret.reveal() for key, secret in target.secret_options.items()}
    options = {**target.options, **secrets}
    if target.product.is_file:
        return f"{target.product.name}:///{quote(target.database, safe='/:')}{_format_options(options)}"
    login = quote(target.user, safe="") if target.user else ""
    if target.password:
        if login:
            login += ":" + quote(target.password.reveal(), safe="")
        else:
            options["password"] = target.password.reveal()
    hosts = ",".join(host.host if target.is_srv else _format_host(host) for host in target.hosts)
    database = quote(target.database, safe="")
    scheme = f"{target.product.name}{_SRV if target.is_srv else ''}"
    return f"{scheme}://{login}{'@' if login else ''}{hosts}/{database}{_format_options(options)}"


def _format_host(host: Host) -> str:
    ipv6 = ":" in host.host and not host.is_path
    name = f"[{quote(host.host, safe=':')}]" if ipv6 else quote(host.host, safe="")
    return f"{name}:{host.port}"


def _format_options(options: Mapping[str, str]) -> str:
    pairs = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in options.items())
    return f"?{pairs}" if pairs else ""


@dataclass(slots=True)
class _Reader:
    """One pass over a URL. Continues after a problem, so that the user sees all problems at once."""

    where: str
    whole: bool = False  # the text is a single part (a host list), so problems don't name the part
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, part: str, expected: str, fix: str) -> None:
        where = self.where if self.whole or not part else f"{self.where} ({part})"
        self.problems.append(Problem(where, expected, fix))

    def read(self, text: str) -> Target | None:
        scheme, found, rest = text.partition("://")
        if not found:
            self.wrong("", "a URL", "write it like postgres://user@host/name or sqlite:///file.db")
            return None
        product = self.scheme(scheme.lower())
        if product is None:
            return None
        if product.is_file:
            return self.file(product, rest)
        target = self.network(product, rest)
        return self.srv(target) if target is not None and scheme.lower().endswith(_SRV) else target

    def scheme(self, scheme: str) -> Product | None:
        name, plus, driver = scheme.partition("+")
        product = product_named(name)
        if product is None:
            self.wrong("scheme", ACCEPTED_ENGINES, "begin the URL with one of these names and ://")
        elif plus and driver not in product.scheme_drivers and not (product.has_srv and f"+{driver}" == _SRV):
            fix = f"write {product.engine}:// alone: prefiq_db chooses the driver by DB_MODE"
            self.wrong("scheme", "no driver name", fix)
        return product

    # --- files -------------------------------------------------------------------------------------

    def file(self, product: Product, rest: str) -> Target | None:
        path, _, query = rest.partition("?")
        if path and not path.startswith("/"):
            self.wrong("path", "three slashes and a path", "write sqlite:///file.db, or sqlite:////srv/file.db")
            return None
        if path == "/":
            self.wrong("path", "a file, or :memory:", "write sqlite:///file.db, or sqlite:///:memory:")
        options, secrets = _split_secrets(self.single(self.query(query)))
        database = self.decode(path[1:], "path") if path else MEMORY
        return Target(product.engine, database=database, options=options, secret_options=secrets)

    # --- servers ----------------------------------------------------------------------------------

    def network(self, product: Product, rest: str) -> Target | None:
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        if self.ambiguous(rest, authority):
            return None
        path, _, query = rest[len(authority) :].partition("?")
        login, _, netloc = authority.rpartition("@")
        repeatable = self.query(query)
        if product.has_socket_option and (sockets := repeatable.pop("unix_socket", [])):
            netloc = self.socket(netloc, sockets, repeatable)
        hosts = self.all_hosts(netloc, repeatable.pop("host", []), repeatable.pop("port", []))
        single = self.single(repeatable)
        user, password = self.login(login, single)
        options, secrets = _split_secrets(single)
        if "/" in path[1:]:
            self.wrong("database", "one name after the host", _ENCODE)
        return Target(
            product.engine,
            hosts=tuple(Host(name, port or product.default_port) for name, port in hosts),
            user=user or None,
            password=Secret(password) if password else None,
            database=self.decode(path[1:], "database"),
            options=options,
            secret_options=secrets,
            flavor=product.flavor,
        )

    def srv(self, target: Target) -> Target:
        """Return *target* as one whose hosts the name service lists; its port is listed there, too."""
        if len(target.hosts) != 1 or target.hosts[0].port != target.product.default_port or target.hosts[0].is_path:
            self.wrong("host", "one name without a port", "with +srv the name service lists hosts and ports")
        return replace(target, is_srv=True)

    def ambiguous(self, rest: str, authority: str) -> bool:
        before = len(self.problems)
        # A further "@", or one after a "/", "?" or "#", is most likely part of a raw password.
        if rest.count("@") > 1 or ("@" in rest and "@" not in authority):
            self.wrong("password", "no raw @ or / in it, nor @ elsewhere in the URL", _ENCODE)
        elif "#" in rest:
            self.wrong("", "no raw # in it", "percent-encode it as %23")
        if re.search(r"[\s\x00-\x1f]", rest):
            self.wrong("", "no blanks or line breaks inside", "remove them, or percent-encode a blank as %20")
        return len(self.problems) > before

    def login(self, login: str, options: dict[str, str]) -> tuple[str, str]:
        raw_user, _, raw_password = login.partition(":")
        user, password = self.decode(raw_user, "user"), self.decode(raw_password, "password")
        if raw_password and not raw_user:
            self.wrong("user", "a user before the password", "write user:password@host")
        return self.once("user", user, options), self.once("password", password, options)

    def once(self, part: str, value: str, options: dict[str, str]) -> str:
        other = options.pop(part, "")
        if value and other and value != other:
            self.wrong(part, "one value", f"say it before the host or as ?{part}=, not both")
        return value or other

    def all_hosts(self, netloc: str, query_hosts: list[str], ports: list[str]) -> tuple[tuple[str, int | None], ...]:
        if netloc and query_hosts:
            self.wrong("host", "hosts in one place", "say them after the // or as ?host=, not both")
        if query_hosts:
            hosts = self.hosts(",".join(query_hosts), str)
        elif netloc:
            hosts = self.hosts(netloc, lambda raw: self.decode(raw, "host"), bare_ipv6=False)
        else:
            self.wrong("host", "a host", "write 127.0.0.1 for this machine")
            return ()
        return self.with_ports(hosts, ",".join(ports)) if ports else hosts

    def socket(self, netloc: str, paths: list[str], options: dict[str, list[str]]) -> str:
        """Move MariaDB's socket to the option ``host``; return the new, empty netloc."""
        if re.sub(r":[0-9]+$", "", netloc).lower() not in _LOCAL or "host" in options:
            self.wrong("unix_socket", "no other host beside it", "write localhost before the path, or leave it out")
        elif not all(path.startswith("/") for path in paths):
            self.wrong("unix_socket", "an absolute path", "write it like ?unix_socket=/run/mysqld/mysqld.sock")
        options.pop("port", None)  # the port of localhost; a socket has none
        options["host"] = paths
        return ""

    def with_ports(self, hosts: tuple[tuple[str, int | None], ...], text: str) -> tuple[tuple[str, int | None], ...]:
        ports = [self.port(item.strip()) for item in text.split(",")]
        if len(ports) == 1:
            ports *= len(hosts)
        if len(ports) != len(hosts) or any(port is not None for _, port in hosts):
            self.wrong("port", "one port for all hosts, or one for each, said once", "write host:port for each host")
            return hosts
        return tuple((name, port) for (name, _), port in zip(hosts, ports, strict=True))

    def hosts(
        self, text: str, decode: Callable[[str], str], *, bare_ipv6: bool = True
    ) -> tuple[tuple[str, int | None], ...]:
        return tuple(self.host(item.strip(), decode, bare_ipv6) for item in text.split(","))

    def host(self, item: str, decode: Callable[[str], str], bare_ipv6: bool) -> tuple[str, int | None]:
        if bare_ipv6 and _is_ipv6(item):
            return item, None
        if item.startswith("/") or item[:3].lower() == "%2f":
            return self.path(item, decode)
        match = _HOST_AND_PORT.fullmatch(item)
        ipv6 = decode(match["ipv6"]) if match and match["ipv6"] is not None else None
        name = decode(match["name"]) if match and match["name"] is not None else ""
        if match is None or not (_is_ipv6(ipv6) if ipv6 is not None else _HOST_NAME.fullmatch(name)):
            self.wrong("host", "host names or addresses", "write host, host:port or [IPv6]:port, with commas between")
            return "", None
        port = None if match["port"] is None else self.port(match["port"])
        return ipv6 or name, port

    def path(self, item: str, decode: Callable[[str], str]) -> tuple[str, int | None]:
        """Return a socket's path and port: the port follows the last colon, if only digits do."""
        match = _PATH_AND_PORT.fullmatch(item)
        path = decode(match["path"]) if match else ""
        if match is None or not _HOST_NAME.fullmatch(path):
            self.wrong("host", "the absolute path of a socket or its directory", "write it without commas")
            return "", None
        return path, None if match["port"] is None else self.port(match["port"])

    def port(self, text: str) -> int | None:
        if _PORT.fullmatch(text) and 1 <= int(text) <= 65535:
            return int(text)
        self.wrong("port", "a whole number from 1 to 65535", "write host:port, or leave :port out for the standard one")
        return None

    # --- pieces -----------------------------------------------------------------------------------

    def query(self, text: str) -> dict[str, list[str]]:
        """Return the options without empty ones. A ``+`` is a plus sign, as in libpq."""
        found: dict[str, list[str]] = {}
        for piece in filter(None, text.split("&")):
            raw_key, equals, raw_value = piece.partition("=")
            key, value = self.decode(raw_key, "options"), self.decode(raw_value, "options")
            if not equals or not key:
                self.wrong("options", "name=value pairs with & between", "write ?name=value&name=value")
            elif value:
                found.setdefault(key, []).append(value)
        return found

    def single(self, options: Mapping[str, list[str]]) -> dict[str, str]:
        if any(len(set(values)) > 1 for values in options.values()):
            self.wrong("options", "each option once", "remove the repeated ones; only host and port may be repeated")
        return {key: values[0] for key, values in options.items()}

    def decode(self, raw: str, part: str) -> str:
        if not _BAD_PERCENT.search(raw):
            try:
                return unquote(raw, errors="strict")
            except UnicodeDecodeError:
                pass
        self.wrong(part, "valid percent-encoding of UTF-8", "write a plain % as %25")
        return ""


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _split_secrets(options: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, Secret]]:
    """Return the options that may be shown, and those that are secrets."""
    plain = {key: value for key, value in options.items() if not is_secret_key(key)}
    secret = {key: Secret(value) for key, value in options.items() if is_secret_key(key)}
    return plain, secret
