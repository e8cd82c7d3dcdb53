"""Split SQL text into tokens, by its database's rules: words and marks, without quoted text and comments."""

from __future__ import annotations

from dataclasses import dataclass, field

from prefiq_db.lexis import Lexis, end_of_comment

QUOTED = "'"
OTHER = "?"


@dataclass(slots=True)
class Tokens:
    """The tokens of a text.

    Attributes:
        texts: lower-case words, binds (``:name``) and marks; :data:`QUOTED` for quoted text, :data:`OTHER` for the
            rest.
        spans: each token's position in the text.
        doubtful: where a string ends depends on the server's mode.
        code_comment: there is a comment that a server may execute (MariaDB's ``/*! ... */``).
        words: the texts that are words.
    """

    texts: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    doubtful: bool = False
    code_comment: bool = False
    _words: list[str] | None = None

    def add(self, text: str, start: int, end: int) -> None:
        self.texts.append(text)
        self.spans.append((start, end))

    def slice(self, start: int, end: int) -> Tokens:
        """Return the tokens from index *start* up to *end*."""
        return Tokens(self.texts[start:end], self.spans[start:end], self.doubtful, self.code_comment)

    @property
    def words(self) -> list[str]:
        if self._words is None:
            self._words = [text for text in self.texts if is_word(text)]
        return self._words


def is_word(text: str) -> bool:
    return text[0].isalpha() or text[0] == "_"


def scan(sql: str, lexis: Lexis, *, comments_are_code: bool = True) -> Tokens:
    """Return the tokens of *sql*. Runs in linear time, even if quotes or comments are left unclosed.

    Args:
        comments_are_code: read ``/*! ... */`` as code, like the servers that execute it; others see a comment.
    """
    tokens, in_code = Tokens(), False
    match, place, end = lexis.token.match, 0, len(sql)
    texts, spans = tokens.texts, tokens.spans
    while place < end:
        found = match(sql, place)
        assert found is not None, "whatever nothing else matches, `other` does"
        kind, stop = found.lastgroup, found.end()
        if kind == "word" or kind == "mark":  # most tokens
            texts.append(found.group().lower())
            spans.append((place, stop))
        elif kind == "skip":
            pass
        elif kind == "bind":
            tokens.add(_named(found.group()), place, stop)
        elif kind == "quoted":
            tokens.doubtful = tokens.doubtful or _by_mode(found.group(), lexis)
            tokens.add(QUOTED, place, stop)
        elif kind == "dollar":
            closing = sql.find(found.group(), stop)
            stop = end if closing < 0 else closing + len(found.group())
            tokens.add(QUOTED, place, stop)
        elif kind == "comment":
            stop = end_of_comment(sql, place, nested=lexis.nested_comments)
        elif kind == "code" and sql[place] == "/":
            tokens.code_comment = in_code = True
            if not comments_are_code:
                stop, in_code = end_of_comment(sql, place, nested=False), False
        elif kind == "code" and in_code:
            in_code = False
        elif kind == "code":  # 2*/* a comment */3
            stop = place + 1
            tokens.add(OTHER, place, stop)
        elif kind == "other":
            tokens.add(OTHER, place, stop)
        place = stop
    return tokens


def _named(text: str) -> str:
    return f":{text[2:-2]}" if text[0] == "%" else text


def _by_mode(quoted: str, lexis: Lexis) -> bool:
    return "\\" in quoted and quoted[0] in lexis.escapes_by_mode
