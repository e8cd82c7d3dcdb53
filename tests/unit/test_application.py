"""The container: names, factories, the order of providers, and what is left when one of them fails."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import Any

import pytest

from prefiq_db.application import Application, start_order
from prefiq_db.errors import (
    BindingError,
    ClosedError,
    ConnectFailedError,
    ErrorClass,
    ErrorKind,
    Problem,
    ProviderError,
    SettingsError,
    UsageError,
)
from prefiq_db.providers import BaseProvider

SECRET = "hunter2-of-the-test"


def recording(
    name: str, log: list[str], *needs: str, fail: str = "", error: BaseException | None = None
) -> BaseProvider:
    """Return a provider that writes each of its steps to *log*, and raises *error* in the step called *fail*."""

    class Recorder(BaseProvider):
        requires = needs

        def _step(self, step: str) -> None:
            log.append(f"{step} {self.name}")
            if step == fail:
                raise error or RuntimeError(SECRET)

        def register(self) -> None:
            self._step("register")

        def boot(self) -> None:
            self._step("boot")

        def shutdown(self) -> None:
            self._step("shutdown")

    Recorder.name = name
    return Recorder()


def application(*providers: BaseProvider) -> Application:
    app = Application()
    for provider in providers:
        app.register(provider)
    return app


# --- bindings --------------------------------------------------------------------------------------


def test_a_value_is_resolved_as_it_was_bound() -> None:
    app = Application()
    value = object()
    app.bind("clock", value)
    app.bind("nothing", None)
    assert app.resolve("clock") is value
    assert app.resolve("nothing") is None
    assert app.has("clock")
    assert not app.has("clocks")


def test_an_unknown_name_lists_the_known_ones_and_a_near_one() -> None:
    app = Application()
    app.bind("db.main", 1)
    app.singleton("db.analytics", lambda _: 2)
    with pytest.raises(BindingError) as caught:
        app.resolve("db.analytic")
    assert str(caught.value) == (
        "the container has no 'db.analytic'; did you mean 'db.analytics'? Known names: db.analytics, db.main"
    )
    with pytest.raises(BindingError, match=r"no 'zebra'\. Known names: none"):
        Application().resolve("zebra")


def test_a_name_is_bound_once_unless_replaced() -> None:
    app = Application()
    app.bind("clock", 1)
    for bind in (lambda: app.bind("clock", 2), lambda: app.singleton("clock", lambda _: 2)):
        with pytest.raises(BindingError, match="replace=True"):
            bind()
    assert app.resolve("clock") == 1
    app.bind("clock", 2, replace=True)
    assert app.resolve("clock") == 2
    app.singleton("clock", lambda _: 3, replace=True)
    assert app.resolve("clock") == 3
    app.bind("clock", 4, replace=True)
    assert app.resolve("clock") == 4


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_binding_needs_a_name(name: Any) -> None:
    with pytest.raises(UsageError):
        Application().bind(name, 1)


def test_an_expected_type_is_checked() -> None:
    app = Application()
    app.bind("port", 80)
    assert app.resolve("port", int) == 80
    with pytest.raises(BindingError, match="'port' is bound to a int, not to a str"):
        app.resolve("port", str)


def test_a_singleton_is_built_at_the_first_call_and_only_once() -> None:
    app = Application()
    built: list[Application] = []
    app.singleton("mailer", lambda given: built.append(given) or object())
    assert built == []
    assert app.resolve("mailer") is app.resolve("mailer")
    assert built == [app]


def test_a_singleton_is_built_once_by_many_threads() -> None:
    app = Application()
    built: list[int] = []
    start = threading.Barrier(8)

    def factory(_: Application) -> object:
        built.append(threading.get_ident())
        time.sleep(0.02)  # a wide door: all the others arrive while it is being built
        return object()

    app.singleton("slow", factory)
    seen: list[object] = []

    def ask() -> None:
        start.wait()
        seen.append(app.resolve("slow"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def test_a_factory_that_needs_itself_is_told_the_circle() -> None:
    app = Application()
    app.singleton("a", lambda app: app.resolve("b"))
    app.singleton("b", lambda app: app.resolve("c"))
    app.singleton("c", lambda app: app.resolve("a"))
    with pytest.raises(BindingError, match="'a' needs itself: a -> b -> c -> a"):
        app.resolve("a")
    app.bind("c", 7, replace=True)
    assert app.resolve("a") == 7


def test_a_factory_that_fails_is_called_again() -> None:
    app = Application()
    answers: list[Any] = [ValueError("not yet"), 5]

    def factory(_: Application) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    app.singleton("late", factory)
    with pytest.raises(ValueError, match="not yet"):
        app.resolve("late")
    assert app.resolve("late") == 5


def test_a_coroutine_function_is_no_factory() -> None:
    async def factory(_: Application) -> int:
        return 1

    with pytest.raises(UsageError, match="coroutine"):
        Application().singleton("x", factory)


def test_two_applications_share_nothing() -> None:
    one, two = Application(), Application()
    one.bind("name", 1)
    one.singleton("lazy", lambda _: object())
    assert not two.has("name")
    two.singleton("lazy", lambda _: object())
    assert one.resolve("lazy") is not two.resolve("lazy")
    provider = one.register(recording("a", []))
    with pytest.raises(UsageError, match="belongs to an application already"):
        two.register(provider)
    assert two.providers == ()


# --- order -----------------------------------------------------------------------------------------


def test_providers_start_in_the_order_of_what_they_need_and_stop_in_reverse() -> None:
    log: list[str] = []
    app = application(
        recording("web", log, "cache", "mail"),
        recording("cache", log),
        recording("mail", log, "cache"),
        recording("z", log),
    )
    app.boot()
    names = ["cache", "mail", "web", "z"]
    assert [provider.name for provider in app.providers] == names
    assert log == [f"{step} {name}" for step in ("register", "boot") for name in names]
    log.clear()
    app.shutdown()
    assert log == [f"shutdown {name}" for name in reversed(names)]


def test_the_order_of_registration_is_kept_where_nothing_else_is_said() -> None:
    log: list[str] = []
    providers = [recording(name, log) for name in "dbca"]
    assert [provider.name for provider in start_order(providers)] == list("dbca")


def test_a_circle_is_told() -> None:
    log: list[str] = []
    app = application(recording("a", log, "b"), recording("b", log, "c"), recording("c", log, "a"))
    with pytest.raises(BindingError, match="in a circle: a -> b -> c -> a"):
        app.boot()
    assert log == []


def test_a_provider_that_requires_itself_is_a_circle() -> None:
    with pytest.raises(BindingError, match="in a circle: a -> a"):
        application(recording("a", [], "a")).boot()


def test_a_missing_requirement_is_told_and_can_still_be_added() -> None:
    log: list[str] = []
    app = application(recording("web", log, "cahce"), recording("cache", log))
    with pytest.raises(BindingError, match=r"provider 'web' requires 'cahce'; did you mean 'cache'\?"):
        app.boot()
    app.register(recording("cahce", log))
    app.boot()
    assert log[-1] == "boot cache"


def test_a_bound_name_meets_a_requirement() -> None:
    log: list[str] = []
    app = application(recording("web", log, "clock"))
    app.bind("clock", time.monotonic)
    app.boot()
    assert log == ["register web", "boot web"]


def test_a_provided_name_meets_a_requirement_with_all_below_it() -> None:
    log: list[str] = []
    queue = recording("broker", log)
    type(queue).provides = ("queue",)
    queue.register = lambda: queue.app.bind("queue.mail", 1)  # type: ignore[method-assign]
    app = application(recording("web", log, "queue.mail"), queue)
    app.boot()
    assert log == ["register web", "boot broker", "boot web"]


def test_a_provided_name_that_nobody_bound_is_told_before_anything_boots() -> None:
    log: list[str] = []
    broker = recording("broker", log)
    type(broker).provides = ("queue",)
    app = application(recording("web", log, "queue.mail"), broker)
    with pytest.raises(BindingError, match=r"provider 'web' requires 'queue\.mail'"):
        app.boot()
    assert "boot broker" not in log


def test_two_providers_of_one_name_are_refused() -> None:
    app = application(recording("a", []))
    with pytest.raises(BindingError, match="two providers are called 'a'"):
        app.register(recording("a", []))


def test_what_is_no_provider_is_refused() -> None:
    with pytest.raises(UsageError, match="no provider: derive it from"):
        Application().register(object())  # type: ignore[type-var]


def test_a_provider_class_is_made_and_given_back() -> None:
    class Mail(BaseProvider):
        pass

    class Broken(BaseProvider):
        def __init__(self) -> None:
            raise OSError(SECRET)

    app = Application()
    assert isinstance(app.register(Mail), Mail)
    with pytest.raises(ProviderError, match="provider 'broken' failed to be made: OSError") as caught:
        app.register(Broken)
    assert SECRET not in str(caught.value)


# --- failures --------------------------------------------------------------------------------------


def test_when_a_boot_fails_what_booted_is_stopped_in_reverse_and_the_error_names_the_provider() -> None:
    log: list[str] = []
    app = application(recording("a", log), recording("b", log), recording("c", log, fail="boot"), recording("d", log))
    with pytest.raises(ProviderError) as caught:
        app.boot()
    assert log[4:] == ["boot a", "boot b", "boot c", "shutdown b", "shutdown a"]
    assert caught.value.provider == "c"
    with pytest.raises(ClosedError):
        app.boot()


def test_a_foreign_failure_is_told_by_type_and_place_only() -> None:
    app = application(recording("a", [], fail="boot"))
    with pytest.raises(ProviderError) as caught:
        app.boot()
    error = caught.value
    assert str(error).startswith("provider 'a' failed to boot: RuntimeError at test_application.py:")
    assert SECRET not in f"{error} {error!r} {error.__dict__} {error.args}"
    assert SECRET.encode() not in pickle.dumps(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert isinstance(error.original, RuntimeError)
    assert error.original.__traceback__ is None


def test_our_own_failure_keeps_its_message_kind_and_class() -> None:
    down = ConnectFailedError(
        "no server", code="08001", database="main", classification=ErrorClass(ErrorKind.CONNECT_FAILED, transient=True)
    )
    app = application(recording("a", [], fail="boot", error=down))
    with pytest.raises(ProviderError) as caught:
        app.boot()
    error = caught.value
    assert str(error) == "provider 'a' failed to boot: no server"
    assert (error.kind, error.code, error.database, error.is_transient) == (
        ErrorKind.CONNECT_FAILED,
        "08001",
        "main",
        True,
    )
    assert error.original is down
    assert error.__context__ is None


def test_a_settings_error_is_raised_as_it_is() -> None:
    wrong = SettingsError([Problem("DB_PORT", "a port", "write digits")])
    log: list[str] = []
    app = application(recording("a", log), recording("b", log, fail="register", error=wrong), recording("c", log))
    with pytest.raises(SettingsError) as caught:
        app.boot()
    assert caught.value is wrong
    assert log == ["register a", "register b"]


def test_an_interrupt_stops_what_booted_and_goes_on_as_itself() -> None:
    log: list[str] = []
    interrupt = KeyboardInterrupt()
    app = application(recording("a", log), recording("b", log, fail="boot", error=interrupt))
    with pytest.raises(KeyboardInterrupt) as caught:
        app.boot()
    assert caught.value is interrupt
    assert log[-1] == "shutdown a"


def test_a_failed_shutdown_stops_nobody_else_and_is_raised_at_the_end() -> None:
    log: list[str] = []
    app = application(recording("a", log, fail="shutdown"), recording("b", log), recording("c", log, fail="shutdown"))
    app.boot()
    with pytest.raises(ProviderError) as caught:
        app.shutdown()
    assert log[-3:] == ["shutdown c", "shutdown b", "shutdown a"]
    assert caught.value.provider == "c, a"
    assert "provider 'c' failed to shut down: RuntimeError" in str(caught.value)
    assert "provider 'a' failed to shut down: RuntimeError" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value.original, ExceptionGroup)
    app.shutdown()
    assert len(log) == 9


def test_a_failed_boot_tells_of_failed_shutdowns_too() -> None:
    app = application(recording("a", [], fail="shutdown"), recording("b", [], fail="boot"))
    with pytest.raises(ProviderError, match=r"'b' failed to boot: .*; then provider 'a' failed to shut down: Runtime"):
        app.boot()


def test_an_interrupt_during_shutdown_leaves_nobody_running() -> None:
    log: list[str] = []
    app = application(recording("a", log), recording("b", log, fail="shutdown", error=KeyboardInterrupt()))
    app.boot()
    with pytest.raises(KeyboardInterrupt):
        app.shutdown()
    assert log[-1] == "shutdown a"


def test_shutdown_is_idempotent_and_needs_no_boot() -> None:
    log: list[str] = []
    app = application(recording("a", log))
    app.shutdown()
    app.shutdown()
    assert log == []
    with pytest.raises(ClosedError):
        app.register(recording("b", log))


def test_after_shutdown_built_values_stay_and_nothing_new_is_built() -> None:
    app = Application()
    app.bind("value", 1)
    app.singleton("built", lambda _: 2)
    app.singleton("unbuilt", lambda _: 3)
    assert app.resolve("built") == 2
    app.shutdown()
    assert (app.resolve("value"), app.resolve("built")) == (1, 2)
    with pytest.raises(ClosedError, match="shut down"):
        app.resolve("unbuilt")


def test_an_application_boots_once() -> None:
    app = application(recording("a", []))
    app.boot()
    with pytest.raises(UsageError, match="booted already"):
        app.boot()
    with pytest.raises(UsageError, match="before boot"):
        app.register(recording("b", []))


def test_leaving_the_block_shuts_down() -> None:
    log: list[str] = []
    with application(recording("a", log)) as app:
        app.boot()
    assert log[-1] == "shutdown a"


def test_the_error_of_the_block_wins_over_a_failed_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    app = application(recording("a", [], fail="shutdown"))
    app.boot()
    with pytest.raises(LookupError, match="mine"), app:
        raise LookupError("mine")
    assert "provider 'a' failed to shut down" in caplog.text
    with pytest.raises(ProviderError), application(recording("a", [], fail="shutdown")) as app:
        app.boot()


# --- the async world ---------------------------------------------------------------------------------


async def test_async_twins_are_called_and_default_to_the_sync_ones() -> None:
    log: list[str] = []

    class Loop(BaseProvider):
        async def boot_async(self) -> None:
            log.append(f"boot in {type(asyncio.get_running_loop()).__name__ != ''}")

        async def ashutdown(self) -> None:
            log.append("shutdown in a loop")

    app = application(recording("a", log))
    app.register(Loop)
    async with app:
        await app.boot_async()
    assert log == ["register a", "boot a", "boot in True", "shutdown in a loop", "shutdown a"]


async def test_the_old_name_of_the_async_shutdown_works_and_warns() -> None:
    log: list[str] = []
    with pytest.warns(DeprecationWarning, match=r"Old\.shutdown_async is deprecated: write ashutdown") as warned:

        class Old(BaseProvider):
            async def boot_async(self) -> None:
                log.append("boot")

            async def shutdown_async(self) -> None:
                log.append("shutdown")

    assert warned[0].filename == __file__
    app = application()
    provider = app.register(Old)
    with pytest.raises(UsageError, match=r"boot_async\(\)"):
        app.boot()
    async with app:
        await app.boot_async()
    assert log == ["boot", "shutdown"]
    await provider.ashutdown()
    assert log == ["boot", "shutdown", "shutdown"]


async def test_a_provider_of_the_old_name_finds_the_one_that_it_overrides() -> None:
    log: list[str] = []

    class New(BaseProvider):
        async def ashutdown(self) -> None:
            log.append("new")

    with pytest.warns(DeprecationWarning, match="Old"):

        class Old(New):
            async def shutdown_async(self) -> None:
                log.append("old")
                await super().shutdown_async()

    class Newest(Old):
        async def ashutdown(self) -> None:
            log.append("newest")
            await super().ashutdown()

    with pytest.warns(DeprecationWarning, match="shutdown_async is deprecated: write ashutdown") as warned:
        await Newest().ashutdown()
    assert log == ["newest", "old", "new"]
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="shutdown_async"):
        await New().shutdown_async()
    assert log[3:] == ["new"]
    with pytest.warns(DeprecationWarning, match="shutdown_async"):
        await recording("a", log).shutdown_async()
    assert log[4:] == ["shutdown a"]


async def test_a_provider_of_ones_own_may_know_the_old_name_only() -> None:
    log: list[str] = []

    class Foreign:
        name, requires, provides, schema_namespace, schema_model = "foreign", (), (), None, None

        def attach(self, app: Application) -> None: ...

        def async_only(self) -> str:
            return ""

        def register(self) -> None: ...

        async def boot_async(self) -> None: ...

        async def shutdown_async(self) -> None:
            log.append("shutdown")

    app = Application()
    with pytest.warns(DeprecationWarning, match=r"Foreign\.shutdown_async is deprecated: write ashutdown"):
        app.register(Foreign())  # type: ignore[type-var]
    async with app:
        await app.boot_async()
    assert log == ["shutdown"]


async def test_the_async_shutdown_of_a_mixin_counts_under_both_names() -> None:
    log: list[str] = []

    class OldMixin:
        async def shutdown_async(self) -> None:
            log.append("old mixin")
            await super().shutdown_async()  # type: ignore[misc]

    class NewMixin:
        async def ashutdown(self) -> None:
            log.append("new mixin")

    with pytest.warns(DeprecationWarning, match=r"Mixed\.shutdown_async is deprecated: write ashutdown") as warned:

        class Mixed(OldMixin, BaseProvider):
            def boot(self) -> None:
                log.append("boot")

    assert warned[0].filename == __file__

    class Child(Mixed):
        async def ashutdown(self) -> None:
            log.append("child")
            await super().ashutdown()

    class New(NewMixin, BaseProvider):
        pass

    assert Mixed().async_only() == "it has ashutdown() and no shutdown()"
    app = application()
    app.register(Mixed)
    app.register(Child)
    app.register(New)
    with pytest.raises(UsageError, match="'mixed': it has ashutdown"):
        app.boot()
    with pytest.warns(DeprecationWarning, match="shutdown_async"):
        async with app:
            await app.boot_async()
    assert log == ["boot", "boot", "new mixin", "child", "old mixin", "old mixin"]
    with pytest.warns(DeprecationWarning, match="shutdown_async"):
        await New().shutdown_async()
    assert log[6:] == ["new mixin"]


async def test_an_async_shutdown_under_the_old_name_may_come_later_than_the_class() -> None:
    log: list[str] = []

    class Own(BaseProvider):
        def __init__(self) -> None:
            async def close() -> None:
                log.append("own")

            self.shutdown_async = close  # type: ignore[method-assign]

    class Assigned(BaseProvider):
        pass

    async def close(self: BaseProvider) -> None:
        log.append(self.name)

    with pytest.warns(DeprecationWarning, match="Replaced"):

        class Replaced(BaseProvider):
            async def shutdown_async(self) -> None:
                log.append("not this one")

    Assigned.shutdown_async = Replaced.shutdown_async = close  # type: ignore[method-assign]
    assert Assigned().async_only() == "it has shutdown_async() and no shutdown()"
    app = application()
    with pytest.warns(DeprecationWarning, match=r"Own\.shutdown_async is deprecated: write ashutdown") as warned:
        app.register(Own)
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"Assigned\.shutdown_async is deprecated"):
        app.register(Assigned)
    app.register(Replaced)
    async with app:
        await app.boot_async()
    assert log == ["replaced", "assigned", "own"]


def test_an_async_provider_can_not_be_booted_synchronously() -> None:
    class Loop(BaseProvider):
        async def boot_async(self) -> None:
            pass

    log: list[str] = []
    app = application(recording("a", log))
    app.register(Loop)
    with pytest.raises(UsageError, match=r"'loop': it has boot_async\(\) and no boot\(\).*await bootstrap_async\(\)"):
        app.boot()
    assert "boot a" not in log

    async def later() -> None:  # the mistake can be mended with the same application
        await app.boot_async()
        with pytest.raises(UsageError, match=r"await app\.ashutdown\(\)"):
            app.shutdown()
        await app.ashutdown()
        await app.ashutdown()

    asyncio.run(later())
    assert log[-1] == "shutdown a"


async def test_an_async_boot_that_fails_stops_what_booted() -> None:
    log: list[str] = []
    app = application(recording("a", log), recording("b", log, fail="boot"))
    with pytest.raises(ProviderError) as caught:
        await app.boot_async()
    assert caught.value.__context__ is None
    assert log[-1] == "shutdown a"


async def test_a_cancelled_boot_stops_what_booted_and_is_cancelled() -> None:
    log: list[str] = []
    waiting = asyncio.Event()

    class Slow(BaseProvider):
        async def boot_async(self) -> None:
            waiting.set()
            await asyncio.Event().wait()

    app = application(recording("a", log))
    app.register(Slow)
    task = asyncio.ensure_future(app.boot_async())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log[-1] == "shutdown a"


async def test_a_failed_async_shutdown_stops_nobody_else() -> None:
    log: list[str] = []
    app = application(recording("a", log), recording("b", log, fail="shutdown"))
    await app.boot_async()
    with pytest.raises(ProviderError, match="'b' failed to shut down"):
        await app.ashutdown()
    assert log[-1] == "shutdown a"


async def test_the_error_of_an_async_block_wins_over_a_failed_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    app = application(recording("a", [], fail="shutdown"))
    await app.boot_async()
    with pytest.raises(LookupError, match="mine"):
        async with app:
            raise LookupError("mine")
    assert "failed to shut down" in caplog.text
