"""Sessions whose own errors hold no values: SQLAlchemy writes primary keys into some of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from prefiq_db.masking import MASK

T = TypeVar("T")

# An identity key: (<class 'shop.User'>, ('somebody',), None). A value may contain the end of one: match up to the last.
_KEY: Final = re.compile(r"(\(<class '[^']*'>, )\(.*\), [^()]*\)", re.S)


class QuietSession(Session):
    """SQLAlchemy's session; its errors about two objects with one key name their class, not the key.

    Attributes:
        has_written: since its last commit or rollback it has sent more than SELECT, or may have.
    """

    has_written = False

    def connection(self, *args: Any, **options: Any) -> Connection:
        self.has_written = True
        return super().connection(*args, **options)

    def bulk_save_objects(self, *args: Any, **options: Any) -> None:
        self.has_written = True
        super().bulk_save_objects(*args, **options)

    def bulk_insert_mappings(self, *args: Any, **options: Any) -> None:
        self.has_written = True
        super().bulk_insert_mappings(*args, **options)

    def bulk_update_mappings(self, *args: Any, **options: Any) -> None:
        self.has_written = True
        super().bulk_update_mappings(*args, **options)

    def add(self, instance: object, *, _warn: bool = True) -> None:
        with _quiet():
            super().add(instance, _warn=_warn)

    def add_all(self, instances: Iterable[object]) -> None:
        with _quiet():
            super().add_all(instances)

    def delete(self, instance: object) -> None:
        with _quiet():
            super().delete(instance)

    def merge(self, instance: T, **options: Any) -> T:
        with _quiet():
            return super().merge(instance, **options)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        with _quiet():
            super().flush(objects)


@event.listens_for(QuietSession, "do_orm_execute")
def _note_statement(state: ORMExecuteState) -> None:
    if not state.is_select and isinstance(state.session, QuietSession):
        state.session.has_written = True


@event.listens_for(QuietSession, "after_flush")
def _note_flush(session: QuietSession, context: object) -> None:
    session.has_written = True


@event.listens_for(QuietSession, "after_transaction_end")
def _note_end(session: QuietSession, ended: SessionTransaction) -> None:
    if ended.parent is None:
        session.has_written = False


def quiet(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for an AsyncSession over a QuietSession, unless they name another session class."""
    return {"sync_session_class": QuietSession, **options}


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        if error.args and isinstance(error.args[0], str) and "<class '" in error.args[0]:
            error.args = (_KEY.sub(rf"\1{MASK})", error.args[0]), *error.args[1:])
        raise
