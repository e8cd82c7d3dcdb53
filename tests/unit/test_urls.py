"""URLs: one parser, refusing what could be read in two ways, and silent about values."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.config import Host, Target
from prefiq_db.errors import SettingsError
from prefiq_db.masking import Secret, is_secret_key
from prefiq_db.products import PRODUCTS, EngineName, product_named
from prefiq_db.settings import DatabaseSettings
from prefiq_db.urls import format_url, parse_url, split_hosts


def parse(text: str) -> Target:
    return parse_url(text, where="DB_URL")


def parsed(text: str) -> Target | SettingsError:
    try:
        return parse(text)
    except SettingsError as error:
        return error


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return [problem.where for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("scheme", "engine", "flavor"),
    [
        ("postgres", "postgres", ""),
        ("postgresql", "postgres", ""),
        ("PostgreSQL", "postgres", ""),
        ("pg", "postgres", ""),
        ("psql", "postgres", ""),
        ("postgresql+psycopg", "postgres", ""),
        ("postgresql+psycopg_async", "postgres", ""),
        ("mariadb", "mariadb", ""),
        ("Maria", "mariadb", ""),
        ("mariadb+pymysql", "mariadb", ""),
        ("mysql", "mariadb", "mysql"),
        ("MYSQL+asyncmy", "mariadb", "mysql"),
        ("mongo", "mongodb", ""),
        ("mongodb", "mongodb", ""),
    ],
)
def test_every_alias_gives_its_engine_and_standard_port(scheme: str, engine: EngineName, flavor: str) -> None:
    target = parse(f"{scheme}://u:p@h/d")
    assert target == Target(
        engine, (Host("h", PRODUCTS[engine].default_port),), "u", password=Secret("p"), database="d", flavor=flavor
    )


@pytest.mark.parametrize(
    ("text", "database"),
    [
        ("sqlite://", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite:///app.db", "app.db"),
        ("sqlite3:///data/a@b#c.db", "data/a@b#c.db"),
        ("sqlite+aiosqlite:////srv/app.db", "/srv/app.db"),
        ("SQLite+pysqlite:///my%20app.db", "my app.db"),
        ("  sqlite:///app.db\n", "app.db"),
    ],
)
def test_sqlite_paths(text: str, database: str) -> None:
    assert parse(text) == Target("sqlite", database=database)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("pg://h1:1,h2/d", [("h1", 1), ("h2", 5432)]),
        ("pg://[::1]:1,[fe80::2],h/d", [("::1", 1), ("fe80::2", 5432), ("h", 5432)]),
        ("pg:///d?host=h1:1&host=h2:2", [("h1", 1), ("h2", 2)]),
        ("pg://u@/d?host=h1,h2&port=1,2", [("h1", 1), ("h2", 2)]),
        ("pg:///d?host=h1,h2&port=7", [("h1", 7), ("h2", 7)]),
        ("pg://h1,h2/d?port=7", [("h1", 7), ("h2", 7)]),
        ("pg:///d?host=::1", [("::1", 5432)]),
        ("pg://%2Frun%2Fpostgresql/d", [("/run/postgresql", 5432)]),
        ("pg:///d?host=/run/postgresql", [("/run/postgresql", 5432)]),
        ("pg:///d?host=/cloudsql/project:region:instance", [("/cloudsql/project:region:instance", 5432)]),
        ("pg://u:p@/d?host=/cloudsql/p:r:i:5433", [("/cloudsql/p:r:i", 5433)]),
        ("pg://u:p@/d?host=/cloudsql/p:r:i&port=5433", [("/cloudsql/p:r:i", 5433)]),
        ("pg://%2Fcloudsql%2Fp:r:i/d", [("/cloudsql/p:r:i", 5432)]),
        ("pg://%2Fcloudsql%2Fp%3Ar%3A1:7,h/d", [("/cloudsql/p:r:1", 7), ("h", 5432)]),
        ("pg:///d?host=/a%20b/[c],h:6", [("/a b/[c]", 5432), ("h", 6)]),
        ("mysql:///d?unix_socket=/run/mysqld/mysqld.sock", [("/run/mysqld/mysqld.sock", 3306)]),
        ("mariadb://u@localhost/d?unix_socket=/run/m.sock", [("/run/m.sock", 3306)]),
        ("mariadb://u@LOCALHOST:3307/d?unix_socket=/run/a:b.sock", [("/run/a:b.sock", 3306)]),
        ("mariadb://localhost/d", [("localhost", 3306)]),
    ],
)
def test_hosts_of_the_authority_and_of_the_query(text: str, hosts: list[tuple[str, int]]) -> None:
    assert parse(text).hosts == tuple(Host(*host) for host in hosts)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("mariadb://db1/d?unix_socket=/c4n4ry", "DB_URL (unix_socket)"),
        ("mariadb:///d?unix_socket=c4n4ry", "DB_URL (unix_socket)"),
        ("mariadb:///d?unix_socket=/c4n4ry&host=h", "DB_URL (unix_socket)"),
        ("pg:///d?host=/c4n4ry:99999", "DB_URL (port)"),
    ],
)
def test_a_socket_beside_another_host_is_refused(text: str, where: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(text, where="DB_URL")
    assert caught.value.problems[0].where == where
    assert "c4n4ry" not in str(caught.value)


def test_every_part_is_percent_decoded() -> None:
    target = parse("pg://us%40er:p%40%2F%3A%3F%23%25%C3%A9:x@h/d%2Fb?opt=a%26b")
    assert target.user == "us@er"
    assert target.password == Secret("p@/:?#%é:x")
    assert target.database == "d/b"
    assert target.options == {"opt": "a&b"}


def test_secrets_of_the_query_are_wrapped() -> None:
    target = parse("pg://h/d?user=u&password=c4n4ry&sslpassword=c4n4ry&api_key=c4n4ry&sslmode=require")
    assert (target.user, target.password) == ("u", Secret("c4n4ry"))
    assert target.secret_options == {"sslpassword": Secret("c4n4ry"), "api_key": Secret("c4n4ry")}
    assert target.options == {"sslmode": "require"}
    assert "c4n4ry" not in f"{target} {target!r}"


def test_empty_parts_count_as_not_given() -> None:
    assert parse("pg://u:@h?a=&sslmode=") == Target("postgres", (Host("h", 5432),), "u")
    assert parse("pg://@h") == Target("postgres", (Host("h", 5432),))


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg", "pymysql", "aiomysql", "c4n4ry", "srv"])
def test_a_foreign_driver_is_refused_with_the_scheme_to_write(driver: str) -> None:
    with pytest.raises(SettingsError, match="write postgres:// alone") as caught:
        parse(f"postgresql+{driver}://u:p@h/d")
    assert driver not in str(caught.value)


@pytest.mark.parametrize(
    "password", ["c4n@4ry", "c4n/4ry", "c4n?4ry", "c4n#4ry", "c/4@n4ry", "@", "/", "c4n%4ry", "c4n@4ry/r@?#"]
)
def test_a_raw_special_character_in_the_password_is_refused(password: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(f"postgres://user:{password}@host/db")
    assert "%" in caught.value.problems[0].fix
    assert "c4n" not in str(caught.value)
    assert "4ry" not in str(caught.value)


def test_all_wrong_parts_are_told_at_once() -> None:
    assert problems("pg+psycopg2://%zz:%zz@h:x/d/e?a=1&a=2&b") == [
        "DB_URL (scheme)",
        "DB_URL (options)",
        "DB_URL (port)",
        "DB_URL (options)",
        "DB_URL (user)",
        "DB_URL (password)",
        "DB_URL (database)",
    ]


def test_user_and_password_are_said_once() -> None:
    assert problems("pg://u:p@h/d?user=v&password=q") == ["DB_URL (user)", "DB_URL (password)"]
    assert parse("pg://u:p@h/d?user=u&password=p").user == "u"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "", "٣", "1.0", "999999999999"])
def test_a_port_is_a_number_in_range(port: str) -> None:
    assert problems(f"pg://h:{port}/d") == ["DB_URL (port)"]


def test_host_lists_of_a_field() -> None:
    assert split_hosts("a, b:2 ,[::1]:3,::1", where="DB_HOST") == (("a", None), ("b", 2), ("::1", 3), ("::1", None))
    with pytest.raises(SettingsError) as caught:
        split_hosts("a b,:1,c:x", where="DB_HOST")
    assert {problem.where for problem in caught.value.problems} == {"DB_HOST"}


def test_an_unknown_engine_has_no_name() -> None:
    product = product_named(" PG ")
    assert product is not None
    assert product.engine == "postgres"
    assert product_named("oracle") is None


# --- what must always hold -----------------------------------------------------------------------------

_TEXT = st.text(min_size=1, max_size=12)
_HOSTS = st.builds(
    Host,
    st.one_of(
        st.from_regex(r"[a-z0-9][a-z0-9.-]{0,9}", fullmatch=True),
        st.ip_addresses(v=6).map(str),
        st.just("/run/postgresql"),
        st.just("fe80::1%eth0"),
    ),
    st.integers(1, 65535),
)
_OWN_OPTIONS = ("host", "port", "user", "password")
_OPTIONS = st.dictionaries(_TEXT.filter(lambda key: key not in _OWN_OPTIONS and not is_secret_key(key)), _TEXT)
_SECRET_OPTIONS = st.dictionaries(st.sampled_from(["sslpassword", "token", "api_key"]), _TEXT.map(Secret))


@st.composite
def targets(draw: st.DrawFn) -> Target:
    common: dict[str, Any] = {"options": draw(_OPTIONS), "secret_options": draw(_SECRET_OPTIONS)}
    engine = draw(st.sampled_from(["sqlite", "postgres", "mariadb", "mongodb"]))
    if engine == "sqlite":
        return Target("sqlite", database=draw(_TEXT), **common)
    return Target(
        engine,
        hosts=tuple(draw(st.lists(_HOSTS, min_size=1, max_size=3))),
        user=draw(st.none() | _TEXT),
        password=draw(st.none() | _TEXT.map(Secret)),
        database=draw(st.just("") | _TEXT),
        flavor="mysql" if engine == "mariadb" and draw(st.booleans()) else "",
        **common,
    )


@given(targets())
def test_a_target_survives_the_way_to_a_url_and_back(target: Target) -> None:
    assert parse(format_url(target)) == target


@given(targets())
def test_a_target_can_be_copied_and_a_pickle_of_it_carries_no_secrets(target: Target) -> None:
    assert copy.deepcopy(target) == target
    back = pickle.loads(pickle.dumps(target))
    secrets = [*back.secret_options.values(), *([] if back.password is None else [back.password])]
    assert len(secrets) == len(target.secret_options) + (target.password is not None)
    for secret in secrets:
        with pytest.raises(LookupError):
            secret.reveal()
    assert replace(back, password=None, secret_options={}) == replace(target, password=None, secret_options={})


@pytest.mark.parametrize(
    "url", ["postgres://u:c4n4ry@h/d?sslpassword=c4n4ry&keepalives=1", "postgres://h/d?sslpassword=c4n4ry"]
)
def test_no_secret_of_a_url_is_in_a_pickle(url: str) -> None:
    for target in (parse(url), DatabaseSettings(url=url).target):
        assert b"c4n4ry" not in pickle.dumps(target)
        assert b"c4n4ry" not in pickle.dumps(copy.deepcopy(target))


@given(st.text(max_size=20))
def test_a_target_shown_to_people_never_has_the_password(noise: str) -> None:
    password = f"c4n4ry{noise}"
    url = format_url(
        Target(
            "postgres", (Host("h", 1),), "u", Secret(password), "d", secret_options={"sslpassword": Secret(password)}
        )
    )
    assert "c4n4ry" not in f"{parse(url)} {parse(url)!r}"


@given(st.text(max_size=60), st.sampled_from(["", "sqlite:", "pg://", "mysql://u:", "mongo+", "pg:///d?", "sqlite://"]))
def test_any_text_is_a_target_or_a_value_free_problem(text: str, start: str) -> None:
    result = parsed(f"{start}c4n4ry{text}")
    if isinstance(result, SettingsError):
        assert result.problems
        assert "c4n4ry" not in str(result)
        assert result.__context__ is None
