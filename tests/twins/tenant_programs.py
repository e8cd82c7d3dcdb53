"""Random programs of nested overrides, transactions, tasks, threads and failures, and what they may store."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import sqlalchemy as sa
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db.bridge import spawn
from prefiq_db.errors import PrefiqDbError
from tests.twins.harness import drive
from tests.twins.tenancy import ADD, ITEM, SKUS, Tenants

#: whose a row is, as it is written into the row; the last is the database of the settings
OWNERS: Final = (0, 1, None)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    sku: Mapped[str] = mapped_column(primary_key=True)
    qty: Mapped[int]


# --- programs --------------------------------------------------------------------------------------

_tenants: Final = st.sampled_from([0, 1])
_chosen: Final = st.fixed_dictionaries(
    {},
    optional={
        "tenant": _tenants,
        "timeout": st.sampled_from([3, 7]),
        "read_only": st.just(True),
        "tags": st.just({"a": "b"}),
    },
)
_writes: Final = st.tuples(
    st.just("write"),
    st.sampled_from(["execute", "core", "many", "batch", "bulk", "upsert", "session"]),
    st.booleans(),
)
_leaves: Final = st.one_of(_writes, st.just(("read",)), st.just(("stream",)), st.just(("error",)), st.just(("boom",)))


def _branches(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(parts, min_size=1, max_size=4)
    return st.one_of(
        st.tuples(st.just("scope"), _chosen, st.booleans(), several),
        st.tuples(st.just("view"), _chosen, several),
        st.tuples(st.just("transaction"), st.booleans(), several),
        st.tuples(st.just("child"), st.booleans(), several),
        st.tuples(st.just("cancelled"), st.integers(0, 12), several),
    )


programs: Final = st.lists(st.recursive(_leaves, _branches, max_leaves=12), min_size=1, max_size=4)


class Boom(Exception):  # noqa: N818 - an application's own
    """A failure of the application."""


@dataclass(frozen=True)
class Env:
    """Where in a program a part runs.

    Attributes:
        view_tenant: what the views say; ``None``: nothing.
        scope_tenant: what the scopes say.
        tx_tenant: of the open transaction.
        tx_view_tenant: what the view said that it began with.
        unsure: it may be cancelled, so nobody knows what it has stored.
        sink: takes what is stored if the transaction commits.
    """

    view: Any
    sink: list[tuple[int | None, str]]
    view_tenant: int | None = None
    scope_tenant: int | None = None
    tx: Any = None
    tx_tenant: int | None = None
    tx_view_tenant: int | None = None
    unsure: bool = False

    @property
    def tenant(self) -> int | None:
        return self.scope_tenant if self.view_tenant is None else self.view_tenant

    @property
    def tenant_of_tx(self) -> int | None:
        said = self.scope_tenant if self.tx_view_tenant is None else self.tx_view_tenant
        return self.tx_tenant if said is None else said


def owner_of(sku: str) -> str:
    return sku.partition(":")[0]


@dataclass
class Interpreter:
    """Runs programs on *db*.

    Attributes:
        stored: what must be stored, and whose it is.
        perhaps: what may be stored.
    """

    db: Any
    tenants: Tenants
    is_async: bool
    stored: list[tuple[int | None, str]] = field(default_factory=list)
    perhaps: list[tuple[int | None, str]] = field(default_factory=list)
    count: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self, program: Sequence[Any]) -> None:
        try:
            await self._all(program, Env(self.db, self.stored))
        finally:
            # One whose parent was cancelled may still be on its way.
            await asyncio.gather(*self.tasks, return_exceptions=True) if self.tasks else None

    def _start(self, parts: Sequence[Any], env: Env) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(self._all(parts, env)))
        return self.tasks[-1]

    async def _all(self, parts: Sequence[Any], env: Env) -> None:
        for part in parts:
            try:
                await getattr(self, f"_{part[0]}")(*part[1:], env)
            except Boom:
                if env.tx is not None:
                    raise

    def _over(self, chosen: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in chosen.items() if name != "tenant"}
        return {**given, **self.tenants.over(chosen["tenant"])} if "tenant" in chosen else given

    # --- branches --------------------------------------------------------------------------------

    async def _scope(self, chosen: dict[str, Any], inherit: bool, parts: Sequence[Any], env: Env) -> None:
        inner = replace(env, scope_tenant=chosen.get("tenant", env.scope_tenant))
        async with env.view.override(inherit=inherit, **self._over(chosen)):
            if inherit:
                await self._all(parts, inner)
            else:  # children have what was in force around it: the model doesn't follow them
                await self._all([part for part in parts if part[0] not in ("child", "cancelled")], inner)

    async def _view(self, chosen: dict[str, Any], parts: Sequence[Any], env: Env) -> None:
        view = env.view.using(**self._over(chosen))
        await self._all(parts, replace(env, view=view, view_tenant=chosen.get("tenant", env.view_tenant)))

    async def _transaction(self, fails: bool, parts: Sequence[Any], env: Env) -> None:
        sink: list[tuple[int | None, str]] = []
        try:
            async with env.view.transaction() as tx:
                nested = env.tx is not None
                inner = replace(
                    env,
                    tx=tx,
                    sink=sink,
                    tx_tenant=env.tx_tenant if nested else env.tenant,
                    tx_view_tenant=env.view_tenant,
                )
                await self._all(parts, inner)
                if fails:
                    raise Boom
        except (Boom, PrefiqDbError):
            return
        env.sink.extend(sink)

    async def _child(self, with_context: bool, parts: Sequence[Any], env: Env) -> None:
        """Run *parts* in a task, or in a thread with a copy of the context or without one."""
        if self.is_async:
            await self._start(parts, env)
            return
        failed: list[BaseException] = []
        inner = env if with_context else replace(env, scope_tenant=None)
        context = contextvars.copy_context() if with_context else contextvars.Context()

        def work() -> None:
            try:
                context.run(drive, self._all(parts, inner))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]

    async def _cancelled(self, turns: int, parts: Sequence[Any], env: Env) -> None:
        """Cancel a task in the middle; in the sync world an exception leaves all its blocks."""
        if not self.is_async:
            await self._all([*parts, ("boom",)], env)
            return
        task = self._start(parts, replace(env, unsure=True, sink=[]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, AssertionError):
            raise result

    # --- leaves ----------------------------------------------------------------------------------

    async def _boom(self, env: Env) -> None:
        raise Boom

    async def _error(self, env: Env) -> None:
        try:
            await env.view.fetch_all("select nothing from nowhere")
        except PrefiqDbError:
            return
        raise AssertionError("there is such a table")

    async def _read(self, env: Env) -> None:
        try:
            rows = await env.view.fetch_all(SKUS)
        except PrefiqDbError:
            return
        assert {owner_of(sku) for (sku,) in rows} <= {str(env.tenant)}

    async def _stream(self, env: Env) -> None:
        try:
            async with env.view.stream(sa.select(ITEM.c.sku), batch_size=1) as rows:
                seen = [row.sku async for row in rows]
        except PrefiqDbError:
            return
        assert {owner_of(sku) for sku in seen} <= {str(env.tenant)}

    async def _write(self, how: str, by_tx: bool, env: Env) -> None:
        self.count += 1
        explicit = by_tx and env.tx is not None
        owner = env.tenant_of_tx if explicit else env.tenant
        row = {"sku": f"{owner}:{self.count}", "qty": self.count}
        written = (owner, row["sku"])
        if env.unsure:
            self.perhaps.append(written)
        try:
            await _written(env.tx if explicit else env.view, how, row)
        except PrefiqDbError:
            return
        env.sink.append(written)


async def _written(executor: Any, how: str, row: dict[str, Any]) -> None:
    if how == "execute":
        await executor.execute(ADD, row)
    elif how == "core":
        await executor.execute(ITEM.insert().values(row))
    elif how == "many":
        await executor.execute_many(ADD, [row])
    elif how == "batch":
        await executor.batch([(ADD, row), "select 1"])
    elif how == "bulk":
        await executor.bulk_insert("item", [row])
    elif how == "upsert":
        await executor.upsert("item", [row], key=["sku"])
    else:
        async with executor.session() as session:
            session.add(Item(**row))
            await session.commit()


# --- what the server says ----------------------------------------------------------------------------

STATE: Final = {
    "postgresql": "select current_setting('search_path'), current_setting('default_transaction_read_only'), "
    "current_setting('lock_timeout'), current_setting('role')",
    "mariadb": "select database(), @@tx_read_only, @@autocommit, @@innodb_lock_wait_timeout",
    "sqlite": "select (select group_concat(name || '=' || file) from pragma_database_list where name <> 'temp'), "
    "(select query_only from pragma_query_only)",
}
TIMEOUT: Final = {
    "postgresql": "select current_setting('statement_timeout')",
    "mariadb": "select @@max_statement_time",
    "sqlite": "select timeout from pragma_busy_timeout",
}


async def states(db: Any, backend: str) -> dict[str, set[Any]]:
    """Return what the server says of each idle connection, by the database that its pool is for."""
    base = getattr(db, "_wrapped", db)._base.instance
    pools = {"": base, **dict(base.tenants.items())}

    def asked(instance: Any) -> set[Any]:
        dialect = instance.road.dialect
        queue = instance.engine.pool._pool
        queue = queue.queue if hasattr(queue, "queue") else queue._queue._queue
        idle = [record.dbapi_connection for record in list(queue)]
        return {tuple(dialect.ask(each, STATE[backend])[0]) for each in idle if each is not None}

    if db.is_async:
        return {name: await spawn(asked, instance) for name, instance in pools.items()}
    return {name: asked(instance) for name, instance in pools.items()}
