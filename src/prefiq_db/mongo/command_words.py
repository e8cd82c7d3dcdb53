"""Describe a command without a value of it: its name, its collection, and the operators of pipelines and updates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prefiq_db.insight.summary import Description
from prefiq_db.masking import describe_value

#: Commands whose content is a secret; PyMongo empties them, and nobody counts them.
SECRET_COMMANDS: Final = frozenset(
    {"authenticate", "saslstart", "saslcontinue", "getnonce", "createuser", "updateuser", "copydb", "copydbsaslstart"}
)

_OPERATOR: Final = re.compile(r"\$[A-Za-z]{1,32}")
_NAME: Final = re.compile(r"[^\W$][\w.$-]{0,119}")
# The part of a command that holds what it is about, and what each command calls it.
_SHOWN: Final = ("filter", "query", "documents", "updates", "deletes", "pipeline")
_MOST_OPERATORS: Final = 12


def describe_command(name: str, command: Mapping[str, Any], text: str) -> Description:
    """Return the description of a command: ``find item``, ``aggregate item``, ``update item``.

    The fingerprint is that of *text*, made by :func:`show_command`: it depends on the command, the collection and the
    operators, not on fields and values.
    """
    collection = collection_of(name, command)
    fingerprint = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Description(_summary(name, collection), name, (collection,) if collection else (), fingerprint)


def _summary(name: str, collection: str) -> str:
    return f"{name} {collection}" if collection else name


def collection_of(name: str, command: Mapping[str, Any]) -> str:
    """Return the collection that a command is about; ``""`` if none."""
    found = command.get("collection") if name == "getMore" else command.get(name)
    return found if isinstance(found, str) and _NAME.fullmatch(found) else ""


def show_command(name: str, command: Mapping[str, Any]) -> str:
    """Return the text that events and logs show: ``aggregate item [$match, $group]``, ``update item [$set]``."""
    summary = _summary(name, collection_of(name, command))
    if "pipeline" not in command and "updates" not in command:
        return summary
    operators = list(dict.fromkeys(_operators(command)))[:_MOST_OPERATORS]
    return f"{summary} [{', '.join(operators)}]" if operators else summary


def _operators(command: Mapping[str, Any]) -> Iterable[str]:
    """Yield the stages of a pipeline, and the operators of updates; nothing deeper, where fields and values are."""
    changes = [each.get("u") for each in _mappings(command.get("updates"))]
    for stages in (command.get("pipeline"), *changes):
        for stage in _mappings(stages if isinstance(stages, list) else [stages]):
            yield from (key for key in stage if isinstance(key, str) and _OPERATOR.fullmatch(key))


def _mappings(found: Any) -> list[Mapping[str, Any]]:
    # More of them say the same: a batch is written with one kind of change, mostly.
    return [each for each in found[:100] if isinstance(each, Mapping)] if isinstance(found, list) else []


def describe_parts(command: Mapping[str, Any]) -> dict[str, str]:
    """Return type and length of what a command holds: ``{"filter": "<dict:2>", "documents": "<list:3>"}``."""
    return {name: describe_value(_plain(command[name])) for name in _SHOWN if name in command}


def _plain(value: Any) -> Any:
    """Return *value* as the plain type that it is a kind of: PyMongo sends documents as BSON's SON, too."""
    return dict(value) if isinstance(value, Mapping) else value


def batch_size(command: Mapping[str, Any]) -> int:
    """Return how many documents or operations a command has; 1 for a single one."""
    found = next((command[name] for name in ("documents", "updates", "deletes") if name in command), None)
    return max(1, len(found)) if isinstance(found, list) else 1


def rows_of(reply: Mapping[str, Any]) -> int:
    """Return how many documents a reply brought or changed; -1 if it doesn't say."""
    if "cursor" in reply:
        cursor = reply["cursor"]
        if type(cursor) is dict or isinstance(cursor, Mapping):
            batch = cursor["firstBatch"] if "firstBatch" in cursor else cursor.get("nextBatch")
            return len(batch) if isinstance(batch, list) else -1
    count = reply.get("n")
    return count if isinstance(count, int) else -1
