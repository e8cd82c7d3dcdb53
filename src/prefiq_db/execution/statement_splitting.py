"""Split a text into statements: a body, a CASE or a rule contains semicolons of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prefiq_db.dialects.rules import Rules
from prefiq_db.execution.sql_tokens import Tokens, is_word

ROUTINES: Final = frozenset({"trigger", "procedure", "function", "event", "package"})
# Words that continue a control structure.
_GO_ON: Final = frozenset({"else", "elseif", "until"})


def statements_in(tokens: Tokens, rules: Rules) -> list[Tokens]:
    """Return the statements between the semicolons; empty ones are left out."""
    parts = [part for part in _parts(tokens, rules) if part.words]
    return _whole_structures(parts, rules) if rules.structures else parts


def is_routine(words: list[str]) -> bool:
    """Return whether it is a CREATE of an object with a body."""
    return words[:1] == ["create"] and not ROUTINES.isdisjoint(words[1:8])


def _parts(tokens: Tokens, rules: Rules) -> Iterator[Tokens]:
    texts, start, depth = [*tokens.texts, ""], 0, 0
    for place, text in enumerate(texts):
        if text == ";" and depth <= 0:
            yield tokens.slice(start, place)
            start, depth = place + 1, 0
        elif text == "(":
            depth += 1
        elif text == ")":
            depth -= 1
        elif text not in ("case", "begin", "end") or (place and texts[place - 1] in (".", "as")):
            continue  # after these two it is a name
        elif text == "case":
            depth += texts[place - 1] != "end"
        elif text == "begin":
            depth += _opens_body(texts, start, place, depth, rules)
        elif depth > 0 and (texts[place + 1] == "case" or texts[place + 1] not in rules.structures):
            depth -= 1
    yield tokens.slice(start, len(texts))


def _opens_body(texts: list[str], start: int, place: int, depth: int, rules: Rules) -> bool:
    """Return whether the BEGIN at *place*, in the statement from *start* on, opens a body."""
    following = texts[place + 1]
    if rules.body_begins is not None:  # all other bodies are in quotes there, and a parameter may be called begin
        return following == rules.body_begins and depth == 0
    head = texts[start : min(start + 60, place + 2)]
    return depth > 0 or following == "not" or is_routine([text for text in head if text and is_word(text)])


def _whole_structures(parts: list[Tokens], rules: Rules) -> list[Tokens]:
    """Join the parts of IF ... END IF and the like, which need no BEGIN around them."""
    last = max((number for number, part in enumerate(parts) if _ends_structure(part.words, rules)), default=0)
    if not last:
        return parts
    whole = Tokens(doubtful=parts[0].doubtful, code_comment=parts[0].code_comment)
    for part in parts[: last + 1]:
        whole.texts += [*part.texts, ";"]
        whole.spans += [*part.spans, part.spans[-1]]
    return [whole, *parts[last + 1 :]]


def _ends_structure(words: list[str], rules: Rules) -> bool:
    return words[0] in _GO_ON or (words[0] == "end" and not rules.structures.isdisjoint(words[1:2]))


def carries_rows(texts: list[str]) -> bool:
    """Return whether a statement is a COPY that sends its rows over the connection, not from or to a server file."""
    depth = 0
    for place, text in enumerate(texts if texts[0] == "copy" else []):
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth == 0 and texts[place : place + 2] in (["from", "stdin"], ["to", "stdout"]):
            return True
    return False
