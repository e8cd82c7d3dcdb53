"""Split the bytes of a connection, which arrive in any pieces, into messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Final

from prefiq_db.testing.faults import sql_words
from prefiq_db.testing.faults.sql_words import Protocol

# MongoDB's COMMIT; in SQL it is a statement.
_COMMIT_COMMAND: Final = "commitTransaction"


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One message of a client's protocol.

    Attributes:
        command: the protocol's name for it: ``Query``, ``Execute``, ``COM_QUERY``, ``COM_PING``, ``login``, ``insert``.
        sql: the statement that it runs, even if that was prepared before; empty if there is none. Never printed.
        raw: its bytes. Never printed.
        is_request: whether the server answers it as a whole, so that it can be the target of a fault.
        protocol: ``postgresql``, ``mariadb`` or ``mongodb``.
        parameters: the values bound to the statement, as bytes. Never printed.
        in_transaction: false if the server's last reply said that no transaction is open, and nothing was sent since.
        collection: the collection that a command of MongoDB is about; empty if there is none.
    """

    command: str
    sql: str = field(default="", repr=False)
    raw: bytes = field(default=b"", repr=False)
    is_request: bool = False
    protocol: Protocol = "postgresql"
    parameters: bytes = field(default=b"", repr=False)
    in_transaction: bool = True
    collection: str = ""

    @property
    def is_commit(self) -> bool:
        """Whether it commits something; asyncmy sends COMMIT on each new connection, and that commits nothing."""
        if self.command == _COMMIT_COMMAND:
            return True
        return bool(self.sql) and sql_words.commits(self.sql, self.protocol, in_transaction=self.in_transaction)

    @property
    def is_claim(self) -> bool:
        """Whether it claims a commit token of ours as abandoned."""
        return bool(self.sql) and sql_words.claims(self.sql.encode() + self.parameters)

    @property
    def word(self) -> str:
        """A word for it that holds no value: ``COMMIT``, ``claim``, ``UPDATE``, ``login``, ``COM_PING``."""
        if self.is_commit:
            return "COMMIT"
        if not self.sql:
            return self.command
        return "claim" if self.is_claim else sql_words.summary_word(self.sql, self.protocol)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """One message of a server's protocol.

    Attributes:
        raw: its bytes.
        request: the message that it answers; ``None`` for a message that the server sends unasked.
        is_last: whether it is the end of that answer.
    """

    raw: bytes = field(repr=False)
    request: Message | None = None
    is_last: bool = False


class Framing(ABC):
    """Both directions of one connection.

    Feed :meth:`client_said` and :meth:`server_said`; take :meth:`next_message` and :meth:`next_reply` until they return
    ``None``. Report each message that goes to the server to :meth:`forwarded`, or answers can't be matched.
    """

    protocol: ClassVar[Protocol]

    def __init__(self) -> None:
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._unanswered: deque[Message] = deque()
        self._idle = False  # by the server's last reply
        self.said_instead: bytes = b""  # the proxy's reply to the client in place of the server's

    def client_said(self, data: bytes) -> None:
        self._from_client += data

    def server_said(self, data: bytes) -> None:
        self._from_server += data

    def messages(self) -> Iterator[Message]:
        """Yield the complete messages of the client, each once."""
        while message := self.next_message():
            yield message

    def replies(self) -> Iterator[Reply]:
        """Yield the complete messages of the server, each once."""
        while reply := self.next_reply():
            yield reply

    @abstractmethod
    def next_message(self) -> Message | None:
        """Take the next complete message of the client, if there is one."""

    @abstractmethod
    def next_reply(self) -> Reply | None:
        """Take the next complete message of the server, if there is one."""

    @abstractmethod
    def forwarded(self, message: Message) -> None:
        """Expect the answer to *message*."""

    def rest_of_flight(self) -> bytes:
        """Return the bytes that the server needs to complete its answer, if the client can't send them any more."""
        return b""

    @property
    def _in_transaction(self) -> bool:
        return not self._idle or bool(self._unanswered)

    def _take(self, buffer: bytearray, count: int) -> bytes:
        taken = bytes(buffer[:count])
        del buffer[:count]
        return taken
