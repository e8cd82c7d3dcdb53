"""No value gets out: not a literal of a statement, not a parameter, not a secret."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefiq_db.masking import Secret, describe_value, is_secret_key, mask_literals

PLANTED = "planted"
DIALECTS = ["", "postgresql", "sqlite", "mariadb", "mysql"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("select 'planted', 4711 from t1 where a_2 = 3.5", "select ?, ? from t1 where a_2 = ?"),
        ("select :name, %(name_1)s, %s, ? from t", "select :name, %(name_1)s, %s, ? from t"),
        ("where a = 'it''s planted' and b = ''", "where a = ? and b = ?"),
        ("select 1 -- planted\nfrom t", "select ? ?\nfrom t"),
        ("select 1 /* planted */ from t", "select ? ? from t"),
        ("where r > .25 and s < 1e-5 and u = 0xFF and v = x%5", "where r > ? and s < ?-? and u = ? and v = x%?"),
        ("select 'planted", "select ?"),
        ("select 1 /* planted", "select ? ?"),
    ],
)
def test_literals_become_question_marks(sql: str, shown: str, dialect: str) -> None:
    """Strings, numbers and comments are masked; names, bind markers and the rest stay."""
    assert mask_literals(sql, dialect) == shown


@pytest.mark.parametrize(
    ("sql", "dialects"),
    [
        ('where a = "planted"', ["", "sqlite", "mariadb", "mysql"]),
        ("where a = \"it's\" and b = 'planted'", DIALECTS),
        ("where `it's` = 'planted'", ["", "sqlite", "mariadb", "mysql"]),
        ("where [it's] = 'planted'", ["sqlite"]),
        ("where a = '\\' and b = 'planted'", ["", "postgresql", "sqlite"]),
        ("where a = '\\' , planted'", ["", "mariadb", "mysql"]),
        ("where a = E'\\' planted'", ["", "postgresql"]),
        ("/* a /* b */ it's */ select 'planted'", ["", "postgresql"]),
        ("select $$planted 'planted' $$", ["", "postgresql"]),
        ("select $a$planted $$ planted$a$", ["", "postgresql"]),
        ("select 1 -- it's\n, 'planted'", DIALECTS),
        ("select 1 --it's\n, 'planted'", ["", "postgresql", "sqlite"]),
        ("select 5--'\nplanted'", ["", "mariadb", "mysql"]),
        ("select 1 # it's\n, 'planted'", ["", "mariadb", "mysql"]),
        ("select a #> '{planted}'", ["", "postgresql"]),
    ],
)
def test_what_a_dialect_reads_in_its_own_way_is_masked(sql: str, dialects: list[str]) -> None:
    """Quotes in names, backslashes, nested comments and strings in other quotes don't let a value through."""
    for dialect in dialects:
        assert PLANTED not in mask_literals(sql, dialect), dialect


def test_quoted_names_stay_where_they_are_names() -> None:
    """PostgreSQL's double quotes and MariaDB's backticks are names."""
    assert mask_literals('select "planted" from "t 1"', "postgresql") == 'select "planted" from "t 1"'
    assert mask_literals("select `planted` from `t 1`", "mariadb") == "select `planted` from `t 1`"


# Around the literal: whole tokens of the dialect, so that the literal is one to the server, too.
_AROUND = {
    "postgresql": [
        "a = ",
        "(",
        ",",
        ' "it\'s" ',
        " -- it's\n",
        " /* it's */ ",
        " 'x''y' ",
        " $q$ ' $q$ ",
        " E'\\'' ",
        " 1 ",
    ],
    "sqlite": ["a = ", "(", ",", ' "it\'s" ', " `it's` ", " [it's] ", " -- it's\n", " /* it's */ ", " 'x''\\' ", " 1 "],
    "mariadb": [
        "a = ",
        "(",
        ",",
        " `it's` ",
        ' "it\'s" ',
        " -- it's\n",
        " # it's\n",
        " /* it's */ ",
        " 'x\\'' ",
        " 1 ",
    ],
}


@given(st.data(), st.sampled_from(sorted(_AROUND)))
def test_a_string_literal_never_gets_through(data: st.DataObject, dialect: str) -> None:
    """In any surroundings of its dialect, a literal of any characters disappears, also when the dialect isn't known."""
    around = st.lists(st.sampled_from(_AROUND[dialect]), max_size=6).map("".join)
    inside = data.draw(st.text(alphabet="x'\" \n;-#/*$%:", max_size=8))
    literal = "'" + inside.replace("'", "''") + "planted'"
    sql = data.draw(around) + literal + data.draw(around)
    assert PLANTED not in mask_literals(sql, dialect)
    assert PLANTED not in mask_literals(sql)


@given(st.text(max_size=60))
@example("'")
@example("$$")
@example("/*/")
def test_masking_ends_and_adds_nothing(sql: str) -> None:
    """Any text is masked without an error, gets no longer, and masking it again changes nothing that matters."""
    for dialect in DIALECTS:
        assert len(mask_literals(sql, dialect)) <= len(sql)


@given(st.one_of(st.text(min_size=4), st.binary(min_size=4), st.integers(min_value=1000), st.floats(min_value=1000)))
def test_a_parameter_is_its_type_and_length(value: object) -> None:
    """describe_value tells type and length, never what is in it."""
    shown = describe_value(value)
    assert shown.startswith(f"<{type(value).__name__}")
    assert str(value) not in shown.replace(type(value).__name__, "")
    assert describe_value(None) == "None"


@given(st.text(min_size=1).filter(lambda text: text.strip("*") and text not in "Secret()"))
def test_a_secret_cannot_print_itself(value: str) -> None:
    """repr, str, format, containers, pickle and copies show three stars; reveal() is the only way."""
    secret = Secret(value)
    assert repr(secret) == str(secret) == f"{secret}" == "***"
    assert f"{[secret]} { ({'a': secret}) }" == "[***] {'a': ***}"
    assert f"{secret:>5}" == "  ***"
    assert secret.reveal() == value
    assert copy.deepcopy(secret).reveal() == value
    assert secret == Secret(value)
    assert hash(secret) == hash(Secret(value))
    assert secret != value


def test_a_pickled_secret_is_empty() -> None:
    """A pickle holds no secret, and says so when it is asked for it."""
    data = pickle.dumps(Secret("planted-secret"))
    assert b"planted-secret" not in data
    with pytest.raises(LookupError, match="pickles carry no secrets"):
        pickle.loads(data).reveal()


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("password", True),
        ("DB_PASSWORD", True),
        ("user.pwd", True),
        ("api_key", True),
        ("apikey", True),
        ("access-token", True),
        ("private_key", True),
        ("sslpassword", True),
        ("passenger", False),
        ("tokenizer", False),
        ("compass", False),
        ("user", False),
        ("sslkey", False),
    ],
)
def test_secret_keys_are_known_by_whole_words(key: str, secret: bool) -> None:
    """A password is one under every spelling; a passenger is none."""
    assert is_secret_key(key) is secret
