"""No frame of ours that an error comes through holds a value: error trackers record the local variables of each.

Every traceback is walked as Sentry does it: ``repr`` of each local variable of each frame, of the error and of those
behind it. In the verbs no frame of SQLAlchemy's or a driver's holds one either. The control shows what is found where
masking is off.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa

from prefiq_db import (
    AsyncDatabase,
    Database,
    DatabaseSettings,
    RetryPolicy,
    bootstrap,
    bootstrap_async,
    with_retry,
    with_retry_async,
)
from prefiq_db.errors import MappingError, PrefiqDbError, SettingsError
from prefiq_db.silence import has_ended, hush
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.support import on_engine, slow_read
from tests.twins.test_canary import NUMBER, SECRET, VALUE

OURS = ("prefiq_db",)
ALL = ("prefiq_db", "sqlalchemy", "tenacity", "psycopg", "psycopg_binary", "pymysql", "asyncmy", "aiosqlite", "sqlite3")
KEPT, LACKING = (
    sa.Table(name, sa.MetaData(), sa.Column("word", sa.String(60), primary_key=True), sa.Column("number", sa.Integer))
    for name in ("kept", "lacking")
)
INSERT = "insert into kept (word, number) values (:word, :number)"
ROW = {"word": VALUE, "number": NUMBER}
ONCE = RetryPolicy(attempts=1)


def frames_behind(error: BaseException) -> Iterator[FrameType]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        trace = each.__traceback__
        while trace is not None:
            yield trace.tb_frame
            trace = trace.tb_next
        todo += [each.__cause__, each.__context__, getattr(each, "original", None)]


def telling(error: BaseException, packages: tuple[str, ...], *values: object) -> list[str]:
    """Return the variables in frames of *packages* whose repr says one of *values*; fail when there is no frame."""
    frames = [
        frame
        for frame in frames_behind(error)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in packages
    ]
    assert frames, "the walk must meet frames of ours"
    return [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}: {name}"
        for frame in frames
        for name, value in frame.f_locals.items()
        if any(str(each) in shown(value) for each in values)
    ]


def shown(value: object) -> str:
    """Return the repr, as a tracker makes it: of an object that was never finished there is none."""
    try:
        return repr(value)
    except AttributeError:
        return ""


class Model(pydantic.BaseModel):
    word: int
    number: int


Verb = Callable[[Any], Awaitable[Any]]


async def in_transaction(db: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async with db.transaction() as tx:
        await work(tx)


async def insert(tx: Any, row: dict[str, Any], *, again: Any = None) -> Any:
    return await tx.execute(INSERT, row)


async def in_session(db: Any) -> Any:
    async with db.session() as session:
        await session.execute(sa.text(INSERT), ROW)


async def in_engine(db: Any) -> Any:
    await on_engine(db, lambda connection: connection.execute(sa.text(INSERT), ROW))


def with_literals(sql: str) -> str:
    return sql.replace(":word", f"'{VALUE}'").replace(":number", str(NUMBER))


# A row of that word is there already.
VERBS: dict[str, Verb] = {
    "execute": lambda db: db.execute(INSERT, ROW),
    "literals": lambda db: db.execute(with_literals(INSERT)),
    "fetch_all": lambda db: db.fetch_all(f"{INSERT} returning word", ROW),
    "fetch_one": lambda db: db.fetch_one(f"{INSERT} returning word", ROW),
    "fetch_exactly_one": lambda db: db.fetch_exactly_one(f"{INSERT} returning word", ROW),
    "no row": lambda db: db.fetch_exactly_one("select word from kept where word = :word", {"word": VALUE + VALUE}),
    "fetch_value": lambda db: db.fetch_value(f"{INSERT} returning word", ROW),
    "execute_many": lambda db: db.execute_many(INSERT, [ROW, ROW]),
    "using": lambda db: db.using(timeout=5, tags={"a": "b"}).execute(INSERT, ROW),
    "read only": lambda db: db.using(read_only=True).execute(INSERT, ROW),
    "missing bind": lambda db: db.execute(INSERT, {"word": VALUE}),
    "upsert": lambda db: db.upsert(KEPT, [ROW, {"word": f"other {VALUE}", "number": object()}], key="word"),
    "upsert twice": lambda db: db.upsert(KEPT, [ROW, ROW], key="word", update={"number": NUMBER}),
    "tx.upsert": lambda db: in_transaction(db, lambda tx: tx.upsert(LACKING, ROW, key="word", returning="number")),
    "wrong shape": lambda db: db.execute_many(INSERT, [ROW, [VALUE]]),
    "no such table": lambda db: db.fetch_all("select word from nowhere where word = :word", {"word": VALUE}),
    "mapping": lambda db: db.fetch_all("select word, number from kept where word = :word", ROW | {}, into=Model),
    "mapped": lambda db: db.fetch_one("select word, number from kept where word = :word", {"word": VALUE}, into=Model),
    "tx.execute": lambda db: in_transaction(db, lambda tx: tx.execute(INSERT, ROW)),
    "tx.fetch_all": lambda db: in_transaction(db, lambda tx: tx.fetch_all(f"{INSERT} returning word", ROW)),
    "tx.fetch_one": lambda db: in_transaction(db, lambda tx: tx.fetch_one(f"{INSERT} returning word", ROW)),
    "tx.fetch_value": lambda db: in_transaction(db, lambda tx: tx.fetch_value(f"{INSERT} returning word", ROW)),
    "tx.execute_many": lambda db: in_transaction(db, lambda tx: tx.execute_many(INSERT, [ROW, ROW])),
    "ambient": lambda db: in_transaction(db, lambda tx: db.execute(INSERT, ROW)),
    "run_in_transaction": lambda db: db.run_in_transaction(insert, ROW, retry=ONCE, again=VALUE),
    "transactional": lambda db: db.transactional(insert)(ROW, again=VALUE),
}
OF_SQLALCHEMY: dict[str, Verb] = {"session": in_session, "engine": in_engine}


async def make_kept(db: Any) -> None:
    await db.execute("create table kept (word varchar(30) primary key, number integer not null)")
    await db.execute(INSERT, ROW)


async def raised_by(work: Awaitable[Any]) -> BaseException:
    try:
        await work
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


async def test_no_frame_of_a_verb_holds_a_value(make_db: Any, backend: Backend) -> None:
    db = make_db()
    await make_kept(db)
    for name, verb in VERBS.items():
        error = await raised_by(verb(db))
        assert isinstance(error, PrefiqDbError), name
        assert telling(error, ALL, VALUE, NUMBER) == [], name
    for name, verb in OF_SQLALCHEMY.items():
        error = await raised_by(verb(db))
        assert telling(error, OURS, VALUE, NUMBER) == [], name


async def test_control_without_masking_frames_keep_what_they_were_given(make_db: Any, backend: Backend) -> None:
    """In development they help; and it shows that the walk finds what is there."""
    db = make_db(mask=False, environment="development")
    await make_kept(db)
    for name in ("execute", "tx.execute_many", "missing bind"):
        found = telling(await raised_by(VERBS[name](db)), OURS, VALUE)
        assert any(line.endswith(("params", "rows", "executable")) for line in found), name
    for name, verb in OF_SQLALCHEMY.items():
        found = telling(await raised_by(verb(db)), OURS, VALUE)
        assert any("do_execute" in line for line in found), name


class LimitError(Exception):
    """What a job queue's signal handler raises."""


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Raise :class:`LimitError` soon, from a signal handler."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise LimitError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.2)  # type: ignore[func-returns-value]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_what_interrupts_brings_no_values_along(
    make_db: Any, backend: Backend, world: str, harness: Harness, interrupt: Callable[[], None]
) -> None:
    """It goes on as it is, with the traceback that it has: through drivers and all."""
    slow = f"select :word, ({slow_read(backend)})"
    for transaction in (False, True):
        db = make_db(pool_size=1)

        async def work(db: Any = db, transaction: bool = transaction) -> None:
            if transaction:
                await in_transaction(db, lambda tx: tx.fetch_all(slow, {"word": VALUE}))
            await db.fetch_all(slow, {"word": VALUE})

        await db.fetch_value("select 1")
        if world == "sync":
            interrupt()
            error = await raised_by(work())
            assert isinstance(error, LimitError)
        else:
            task = asyncio.create_task(work())
            await asyncio.sleep(0.2)
            task.cancel()
            error = await raised_by(task)
            assert isinstance(error, asyncio.CancelledError)
        assert telling(error, ALL, VALUE) == []


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
async def test_no_frame_holds_the_password(backend: Backend, world: str) -> None:
    """Of a connection that can't be made: by a verb, and by SQLAlchemy's engine, which keeps the traceback."""
    assert backend.server is not None
    url = f"{backend.name}://nobody:{SECRET}@{backend.server.host}:{backend.server.port}/nowhere"
    db = make_database(world, url, connect_timeout_seconds=2)
    for work in (
        db.open(),
        db.ping(),
        db.fetch_value("select 1"),
        in_transaction(db, lambda tx: tx.execute("select 1")),
    ):
        assert telling(await raised_by(work), ALL, SECRET) == []
    for verb in OF_SQLALCHEMY.values():
        assert telling(await raised_by(verb(db)), OURS, SECRET) == []
    await db.close()


WRONG: dict[str, Callable[[], Any]] = {
    "url": lambda: DatabaseSettings(url=f"postgres://u:{SECRET}@h:port/db"),
    "from_url": lambda: DatabaseSettings.from_url(f"postgres://u:{SECRET}@h:port/db"),
    "field": lambda: DatabaseSettings(engine="postgres", password=SECRET, port="x"),
    "replace": lambda: DatabaseSettings(engine="postgres").replace(password=SECRET, port="x"),
    "model_copy": lambda: DatabaseSettings(engine="postgres").model_copy(update={"password": SECRET, "port": "x"}),
    "Database": lambda: Database(f"postgres://u:{SECRET}@h@k/db"),
    "AsyncDatabase": lambda: AsyncDatabase(f"postgres://u:{SECRET}@h/db", pool_size="x"),
    "environ": lambda: bootstrap(environ={"DB_PASSWORD": SECRET, "DB_PORT": "x", "AWS_SECRET_ACCESS_KEY": SECRET}),
    "arguments": lambda: bootstrap(environ={}, arguments={"database": {"password": SECRET, "port": "x"}}),
    "async": lambda: asyncio.run(bootstrap_async(environ={"DB_URL": f"postgres://u:{SECRET}@h:x/db"})),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings_leave_no_secret_in_frames(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is full of secrets, and not only ours: the environment, above all."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        WRONG[wrong]()
    assert telling(caught.value, ALL, SECRET) == []


@pytest.mark.parametrize("name", [".env", "settings.yaml"])
def test_wrong_files_leave_no_secret_in_frames(name: str, tmp_path: Path) -> None:
    url = f"postgres://u:{SECRET}@h:x/db"
    (tmp_path / name).write_text(f"DB_URL={url}\n" if name == ".env" else f"database:\n  url: {url}\n")
    with pytest.raises(SettingsError) as caught:
        bootstrap(environ={}, directory=tmp_path)
    assert telling(caught.value, ALL, SECRET) == []


async def test_with_retry_keeps_no_arguments() -> None:
    def fails(word: str, *, number: int) -> None:
        raise ValueError

    async def fails_async(word: str, *, number: int) -> None:
        raise ValueError

    policy = RetryPolicy(attempts=2, wait_initial_seconds=0, wait_max_seconds=0)

    async def sync(*args: Any, **kwargs: Any) -> None:
        with_retry(fails, policy=policy, on=ValueError)(*args, **kwargs)

    for retried in (sync, with_retry_async(fails_async, policy=policy, on=ValueError)):
        error = await raised_by(retried(VALUE, number=NUMBER))
        assert telling(error, ALL, VALUE, NUMBER) == []
        assert any("fails" in frame.f_code.co_name and frame.f_locals for frame in frames_behind(error)), "his own stay"


class WithDict(pydantic.BaseModel):
    attributes: dict[str, int]
    nested: list[Model] = []


@pytest.mark.parametrize("world", ["sync"], indirect=True)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_mapping_error_names_the_column_and_no_key_of_the_data(make_db: Any, backend: Backend) -> None:
    """pydantic's place of a problem goes into the data: the key of a dict may be an e-mail address, or a token."""
    db = make_db()

    def document(value: Any, name: str) -> Any:
        return sa.select(sa.type_coerce(sa.literal(value, sa.JSON), sa.JSON).label(name))

    cases = [
        (document({f"{VALUE}@example.org": "x"}, "attributes"), WithDict, "attributes[…]: int_parsing"),
        (document(VALUE, "attributes"), WithDict, "attributes: dict_type"),
        (document({"a": 1}, "other"), WithDict, "attributes: missing"),
        (
            document({VALUE: {"deep": VALUE}}, "root"),
            pydantic.RootModel[dict[str, dict[str, int]]],
            "root[…]: int_type",
        ),
    ]
    for statement, model, expected in cases:
        error = await raised_by(db.fetch_one(statement, into=model))
        assert isinstance(error, MappingError)
        assert expected in str(error)
        assert VALUE not in str(error) + repr(error)
        assert telling(error, ALL, VALUE) == []


def ticks() -> Iterator[int]:
    caught: list[BaseException] = []
    while True:
        try:
            yield len(caught)
        except ValueError as error:
            caught.append(error)


def fails(value: object) -> None:
    raise KeyError


def as_if_ours(function: Any) -> Any:
    return FunctionType(function.__code__, {**globals(), "__name__": "prefiq_db.somewhere"})


def test_a_generator_that_caught_the_error_goes_on() -> None:
    """To empty its frame would end it: SQLite's clock is one, and no limit would hold on that connection any more."""
    clock = as_if_ours(ticks)()
    assert next(clock) == 0
    error = ValueError()
    assert clock.throw(error) == 1
    assert error.__traceback__ is not None
    hush(error)
    assert next(clock) == 1
    with pytest.raises(KeyError) as caught:
        as_if_ours(fails)(VALUE)
    assert telling(caught.value, OURS, VALUE) != []
    hush(caught.value)
    assert telling(caught.value, OURS, VALUE) == []


class SharedError(Exception):
    pass


async def test_an_error_that_several_tasks_share_ends_none_of_them(
    make_db: Any, world: str, backend: Backend, harness: Harness
) -> None:
    """A failed look-up that many wait for, or a module's constant: the first who is done must not empty the others."""
    if world == "sync":
        pytest.skip("a sync program has no task whose frame could wait")
    db = make_db(pool_size=4)
    await db.open()
    shared = SharedError("x")
    go = asyncio.Event()
    arrived = 0

    async def body(tx: Any) -> None:
        nonlocal arrived
        await tx.fetch_value("select 1")
        arrived += 1
        await go.wait()
        raise shared

    tasks = [asyncio.create_task(db.run_in_transaction(body)) for _ in range(4 if backend.name != "sqlite" else 1)]
    readers = [asyncio.create_task(db.using(read_only=True).run_in_transaction(body)) for _ in range(3)]

    async def all_wait() -> bool:
        return arrived == len(tasks) + len(readers)

    await harness.until(all_wait)
    go.set()
    ends = await asyncio.wait_for(asyncio.gather(*tasks, *readers, return_exceptions=True), 30)
    assert [type(end) for end in ends] == [SharedError] * len(ends)
    assert db.stats().pool.checked_out == 0
    assert db.stats().pool.lost == {}


async def waits(error: Exception) -> str:
    try:
        raise error
    except SharedError:
        await _Once()
    return "went on"


def goes_on_after_hush() -> bool:
    """Return whether a coroutine of ours that caught the error can go on after somebody else has emptied its frames."""
    error = SharedError()
    waiting = as_if_ours(waits)(error)
    waiting.send(None)
    hush(error)
    try:
        waiting.send(None)
    except StopIteration as end:
        return bool(end.value == "went on")
    except RuntimeError:  # "cannot reuse already awaited coroutine"
        return False
    raise AssertionError("it waits once only")


def test_a_coroutine_that_caught_the_error_goes_on() -> None:
    assert goes_on_after_hush()


def test_control_whatever_lets_itself_be_emptied_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 refuses by itself; before that, nothing but the look at the frame saves the coroutine."""
    monkeypatch.setattr("prefiq_db.silence.has_ended", lambda frame: True)
    assert goes_on_after_hush() == (sys.version_info >= (3, 13))


def test_only_a_frame_thathas_ended_is_emptied() -> None:
    """Running, waiting and ended, of functions, generators and coroutines."""

    def function() -> FrameType:
        assert not has_ended(sys._getframe())
        return sys._getframe()

    def generator() -> Iterator[FrameType]:
        yield sys._getframe()

    async def coroutine() -> None:
        frames.append(sys._getframe())
        await _Once()

    assert has_ended(function())
    made = generator()
    frame = next(made)
    assert not has_ended(frame)
    assert next(made, None) is None
    assert has_ended(frame)
    frames: list[FrameType] = []
    waiting = coroutine()
    waiting.send(None)
    assert not has_ended(frames[0])
    with pytest.raises(StopIteration):
        waiting.send(None)
    assert has_ended(frames[0])


class _Once:
    def __await__(self) -> Iterator[None]:
        yield
