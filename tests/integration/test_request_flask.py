"""What is Flask's own about the scope of a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, g

from prefiq_db import Database, bootstrap, bootstrap_async
from prefiq_db.errors import ClosedError, TransactionOwnershipError, TransactionTimeoutError, UsageError
from prefiq_db.events import StatementFinished
from prefiq_db.integrations.flask import PrefiqDb
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

ROW = {"id": 1, "quantity": 1}


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.chdir(tmp_path)
    with Database(f"sqlite:///{tmp_path}/flask.db") as db:
        db.execute(CREATE_STOCK)
        yield db


def made(stock: Database, **options: Any) -> tuple[Flask, PrefiqDb]:
    arguments = {"database": {"url": f"sqlite:///{Path.cwd()}/flask.db"}}
    app = Flask("tests")
    app.testing = True
    return app, PrefiqDb(app, lambda: bootstrap(arguments=arguments, environ={}), **options)


def test_a_request_has_an_id_a_route_and_a_deadline(stock: Database) -> None:
    app, prefiq = made(stock, timeout=5, timeout_header="X-Timeout")
    tags: list[Any] = []
    left: list[float] = []
    with prefiq:

        @prefiq.db.hooks.after
        def note(event: StatementFinished) -> None:
            tags.append(dict(event.tags))

        @app.get("/stock/<int:number>")
        def read(number: int) -> str:
            left.append(prefiq.db._core.overrides().timeout)
            return str(prefiq.db.fetch_value(COUNT_STOCK))

        headers = {"X-Request-ID": "7", "X-Timeout": "2"}
        assert app.test_client().get("/stock/1", headers=headers).text == "0"
        tags = [each for each in tags if each]
        assert tags == [{"request_id": "7", "route": "/stock/<int:number>", "method": "GET"}]
        assert 0 < left[0] <= 2


def test_the_deadline_bounds_the_transaction(stock: Database) -> None:
    app, prefiq = made(stock, timeout=0.05)

    @app.post("/")
    @prefiq.transactional
    def write() -> str:
        prefiq.db.execute(INSERT_STOCK, ROW)
        time.sleep(0.06)
        return "done"

    with prefiq, pytest.raises(TransactionTimeoutError):
        app.test_client().post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0


def test_an_error_handler_that_answers_200_commits_nothing(stock: Database) -> None:
    app, prefiq = made(stock)

    @app.errorhandler(LookupError)
    def calm(error: LookupError) -> str:
        return "never mind"

    @app.post("/")
    @prefiq.transactional
    def write() -> str:
        assert prefiq.db.execute(INSERT_STOCK, ROW).rowcount == 1
        assert prefiq.tx.outcome.value == "active"
        raise LookupError("a mistake")

    with prefiq:
        assert app.test_client().post("/").status_code == 200
        assert prefiq.db.stats().pool.checked_out == 0
    assert stock.fetch_value(COUNT_STOCK) == 0


def test_a_transaction_of_ones_own_that_is_open_at_the_response_is_refused(stock: Database) -> None:
    """Begun in before_request and ended in teardown_request, it would be committed after the response."""
    app, prefiq = made(stock)

    @app.before_request
    def begin() -> None:
        g.own = prefiq.db.transaction()
        g.own.__enter__()

    @app.teardown_request
    def end(error: BaseException | None) -> None:
        if (own := g.pop("own", None)) is not None:
            own.__exit__(None, None, None)

    @app.post("/")
    def write() -> str:
        prefiq.db.execute(INSERT_STOCK, ROW)
        return "done"

    with prefiq, pytest.raises(TransactionOwnershipError, match="after the response"):
        app.test_client().post("/")


# --- WSGI middleware between the view and prefiq_db -------------------------------------------------

Wsgi = Callable[[Any, Callable[..., Any]], Iterable[bytes]]


def starts_when_read(app: Wsgi) -> Wsgi:
    """Hold the status back until the body is read, as a middleware that compresses does."""

    def middleware(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        held: list[Any] = []
        body = app(environ, lambda *args: held.append(args))
        yield b""
        start_response(*held[-1])
        yield from body

    return middleware


def starts_after_its_first_bytes(app: Wsgi) -> Wsgi:
    """Send bytes before the status, which WSGI forbids."""

    def middleware(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        held: list[Any] = []
        body = app(environ, lambda *args: held.append(args))
        yield b"too early"
        start_response(*held[-1])
        yield from body

    return middleware


def calms(status: str) -> Callable[[Wsgi], Wsgi]:
    """Answer every exception with *status*."""

    def make(app: Wsgi) -> Wsgi:
        def middleware(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
            try:
                return app(environ, start_response)
            except Exception:
                start_response(status, [])
                return [b"calm"]

        return middleware

    return make


def says_ok(app: Wsgi) -> Wsgi:
    """Replace an error, whose start was passed on, with a 200."""

    def middleware(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = app(environ, start_response)
        start_response("200 OK", [], (None, None, None))
        return body

    return middleware


def layered(stock: Database, *middleware: Callable[[Wsgi], Wsgi]) -> tuple[Flask, PrefiqDb]:
    """Return an application with *middleware* inside of prefiq_db's; ``/orphan`` fails at its COMMIT."""
    stock.execute("create table orphan (id integer references stock (id) deferrable initially deferred)")
    arguments = {"database": {"url": f"sqlite:///{Path.cwd()}/flask.db"}}
    app = Flask("tests")
    for each in middleware:
        app.wsgi_app = each(app.wsgi_app)  # type: ignore[method-assign]
    prefiq = PrefiqDb(app, lambda: bootstrap(arguments=arguments, environ={}))

    @app.post("/")
    @prefiq.transactional
    def write() -> str:
        prefiq.db.execute(INSERT_STOCK, ROW)
        return "done"

    @app.post("/orphan")
    @prefiq.transactional
    def orphan() -> str:
        prefiq.db.execute("insert into orphan (id) values (99)")
        return "done"

    @app.post("/refused")
    @prefiq.transactional
    def refused() -> tuple[str, int]:
        prefiq.db.execute(INSERT_STOCK, ROW)
        return "refused", 409

    return app, prefiq


def test_a_status_that_is_held_back_until_the_body_is_read_commits(stock: Database) -> None:
    app, prefiq = layered(stock, starts_when_read)
    with prefiq:
        client = app.test_client()
        answer = client.post("/")
        assert (answer.status_code, answer.text) == (200, "done")
        assert stock.fetch_value(COUNT_STOCK) == 1
        assert client.post("/orphan").status_code == 500
        assert prefiq.db.stats().pool.checked_out == 0
    assert stock.fetch_value("select count(*) from orphan") == 0


def test_a_status_that_comes_after_the_first_bytes_is_no_200(stock: Database) -> None:
    app, prefiq = layered(stock, starts_after_its_first_bytes)
    with prefiq, pytest.raises(UsageError, match="start_response"):
        app.test_client().post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0


@pytest.mark.parametrize(("status", "heard"), [("200 OK", 500), ("302 FOUND", 500), ("503 BUSY", 503)])
def test_a_middleware_that_calms_a_failed_commit_may_only_say_an_error(
    stock: Database, status: str, heard: int
) -> None:
    for twice in (False, True):
        stock.execute("drop table if exists orphan")
        app, prefiq = layered(stock, *[calms(status)] * (2 if twice else 1))
        with prefiq:
            assert app.test_client().post("/orphan").status_code == heard
    assert stock.fetch_value("select count(*) from orphan") == 0


def test_an_error_that_was_rolled_back_becomes_no_200(stock: Database) -> None:
    app, prefiq = layered(stock, says_ok)
    with prefiq, pytest.raises(UsageError, match="only an error"):
        app.test_client().post("/refused")
    assert stock.fetch_value(COUNT_STOCK) == 0


def test_what_flask_can_not_do_is_refused(stock: Database) -> None:
    with pytest.raises(UsageError, match="cancel_on_disconnect"):
        PrefiqDb(cancel_on_disconnect=True)
    with pytest.raises(UsageError, match="app: expected a Flask application"):
        PrefiqDb(stock)  # type: ignore[arg-type] # the mistake
    with pytest.raises(UsageError, match="source: "):
        PrefiqDb(source=Flask("tests"))  # type: ignore[arg-type] # the mistake
    with pytest.raises(UsageError, match="bootstrap"):
        PrefiqDb(Flask("tests"), bootstrap_async)
    app, prefiq = made(stock)
    with prefiq:
        with pytest.raises(UsageError, match="already"):
            prefiq.init_app(app)

        async def view() -> str:
            return ""

        with pytest.raises(UsageError, match="def"):
            prefiq.transactional(view)
        with pytest.raises(UsageError, match="attempts"):
            prefiq.transactional(attempts=3)
    with pytest.raises(ClosedError):
        _ = prefiq.db
    other = PrefiqDb(source=stock)
    app = Flask("tests")
    app.testing = True
    app.add_url_rule("/", view_func=other.transactional(lambda: "done"), endpoint="view")
    with pytest.raises(UsageError, match="init_app"):
        app.test_client().get("/")


@pytest.mark.parametrize("behind", ["after_request", "make_response"])
def test_an_exception_behind_the_view_commits_nothing(stock: Database, behind: str) -> None:
    app, prefiq = made(stock)
    app.testing = False

    @app.errorhandler(500)
    def calm(error: Exception) -> str:
        return "never mind"

    if behind == "after_request":

        @app.after_request
        def fail(response: Any) -> Any:
            raise LookupError("a mistake")

    @app.post("/")
    @prefiq.transactional
    def write() -> Any:
        prefiq.db.execute(INSERT_STOCK, ROW)
        return "done" if behind == "after_request" else object()

    with prefiq:
        assert app.test_client().post("/").status_code == 200
    assert stock.fetch_value(COUNT_STOCK) == 0


def test_the_decorator_above_the_route_is_refused(stock: Database) -> None:
    app, prefiq = made(stock)
    shop = Blueprint("shop", __name__)

    @prefiq.transactional
    @shop.post("/")
    def write() -> str:
        prefiq.db.execute(INSERT_STOCK, ROW)
        return "done"

    app.register_blueprint(shop)
    with prefiq, pytest.raises(UsageError, match=r"write: @transactional stands above the route"):
        app.test_client().post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0
