"""What one field accepts: the checks of single values, and the field types made of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import BeforeValidator, GetCoreSchemaHandler, PlainSerializer, PlainValidator, SecretStr
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from prefiq_db.config import MAX_SECONDS, Mode, Reading, RetryPolicy, SslMode, WriteTo
from prefiq_db.errors import Problem
from prefiq_db.masking import MASK, Secret
from prefiq_db.products import ACCEPTED_ENGINES, EngineName, product_named
from prefiq_db.settings.problems import (
    Complaint,
    collect,
    describe_unknown_key,
    field_error,
    field_errors,
    read_complaints,
    show_key,
)
from prefiq_db.urls import split_hosts

_MODES: Final = {mode: mode for mode in get_args(Mode)}
#: "_" and "-" are the same to _choice()
_READINGS: Final = {mode.replace("_", "-"): mode for mode in get_args(Reading)}
_SSL_MODES: Final = {mode: mode for mode in get_args(SslMode)} | {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify-identity": "verify-full",
}


def drop_unset(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values that are set, without blanks around texts; empty texts and ``None`` count as not set."""
    stripped = {key: value.strip() if isinstance(value, str) else value for key, value in values.items()}
    return {key: value for key, value in stripped.items() if value is not None and value != "" and value != Secret("")}


def from_json(text: str) -> object:
    """Return the value of a JSON text; ``None`` when it isn't JSON or repeats a key."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        return None


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _whole(minimum: int, maximum: int = 2**31 - 1) -> Callable[[object], int]:
    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum:
            return value
        limit = f" and at most {maximum}" if maximum < 2**31 - 1 else ""
        raise field_error(f"a whole number, at least {minimum}{limit}", "write digits only, without a unit")

    return check


def _seconds(*, zero: bool = False) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", value, re.I):
            value = float(value)
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else -1.0
        if 0 <= number <= MAX_SECONDS and (number > 0 or zero):
            return float(number)
        limit = "at least 0" if zero else "more than 0"
        raise field_error(f"seconds, {limit} and at most {MAX_SECONDS:.0f}", "write a plain number such as 2.5")

    return check


def _boolean(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = words.get(str(value).strip().lower()) if isinstance(value, (str, bool, int)) else None
    if found is None:
        raise field_error("yes or no", "write one of 1/0, true/false, yes/no, on/off")
    return found


def check_text(value: object) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise field_error("text", "write it in quotes")
    return value


def check_host(value: object) -> str:
    text = check_text(value)
    problems: list[Problem] = []
    collect(problems, split_hosts, text, where="")
    if problems:
        raise field_errors([("", problem.expected, problem.fix) for problem in problems])
    return text


def _choice(words: Mapping[str, str], expected: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        found = words.get(value.lower().replace("_", "-")) if isinstance(value, str) else None
        if found is None:
            raise field_error(expected, "write one of these")
        return found

    return check


def _engine(value: object) -> EngineName:
    found = product_named(value) if isinstance(value, str) else None
    if found is None:
        raise field_error(ACCEPTED_ENGINES, "write one of these")
    return found.engine


def check_file(value: object) -> Path:
    path = os.path.expanduser(value) if isinstance(value, (str, Path)) else ""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return Path(path)
    raise field_error("a file that exists and may be read", "check the path, and that the file is mounted here")


def check_secret(value: object) -> Secret:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        value = Secret(value.strip())
    if not isinstance(value, Secret):
        raise field_error("text", "write it in quotes")
    if value == Secret(MASK):
        raise field_error("the secret itself", "this one was masked on its way here: set the real one")
    return value


class _SecretSchema:
    """Teach pydantic our ``Secret``: accepts a text, and every dump shows ``***``."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            check_secret,
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
            json_schema_input_schema=core_schema.str_schema(),
        )


def _retry(value: object) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if isinstance(value, str):
        value = from_json(value)
    if not isinstance(value, Mapping):
        raise field_error("a mapping of " + ", ".join(RETRY_FIELDS), "set them one by one, as in DB_RETRY__ATTEMPTS")
    found: list[Complaint] = []
    checked: dict[str, Any] = {}
    for key, item in drop_unset(value).items():
        if key not in RETRY_FIELDS:
            found.append((show_key(key), *describe_unknown_key(key, RETRY_FIELDS)))
            continue
        try:
            checked[key] = RETRY_FIELDS[key](item)
        except PydanticCustomError as error:
            found.extend((key, expected, fix) for _, expected, fix in read_complaints(error.context))
    if found:
        raise field_errors(found)
    return RetryPolicy(**checked)


RETRY_FIELDS: Final[Mapping[str, Callable[[object], float]]] = {
    entry.name: _whole(1) if entry.name == "attempts" else _seconds(zero=True) for entry in fields(RetryPolicy)
}

check_port = _whole(1, 65535)
check_ssl_mode = _choice(_SSL_MODES, "disable, prefer, require, verify-ca or verify-full")

Text = Annotated[str, BeforeValidator(check_text)]
SecretText = Annotated[Secret, _SecretSchema()]
ExistingFile = Annotated[Path, BeforeValidator(check_file)]
Boolean = Annotated[bool, BeforeValidator(_boolean)]
Seconds = Annotated[float, BeforeValidator(_seconds())]
SecondsOrZero = Annotated[float, BeforeValidator(_seconds(zero=True))]
Count = Annotated[int, BeforeValidator(_whole(1))]
CountOrZero = Annotated[int, BeforeValidator(_whole(0))]
Engine = Annotated[EngineName, BeforeValidator(_engine)]
SyncOrAsync = Annotated[Mode, BeforeValidator(_choice(_MODES, "sync or async"))]
Hosts = Annotated[str, BeforeValidator(check_host)]
Port = Annotated[int, BeforeValidator(check_port)]
ReadFrom = Annotated[Reading, BeforeValidator(_choice(_READINGS, "primary, replica or replica_preferred"))]
Writing = Annotated[WriteTo, BeforeValidator(_choice({"one": "one", "any": "any"}, "one or any"))]
Tls = Annotated[SslMode, BeforeValidator(check_ssl_mode)]
Retry = Annotated[RetryPolicy, PlainValidator(_retry), PlainSerializer(asdict, return_type=dict[str, int | float])]
