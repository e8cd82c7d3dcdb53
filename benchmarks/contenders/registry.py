"""All contenders, by database and world."""

from __future__ import annotations

from benchmarks.contenders import AGAIN, OURS, PLAIN, RAW, Open, OpenAsync
from benchmarks.contenders import peers as p
from benchmarks.contenders import peers_async as pa
from benchmarks.contenders import raw_drivers as raw
from benchmarks.contenders.with_prefiq_db import ours, ours_async
from benchmarks.contenders.with_sqlalchemy import plain, plain_async

_RAW: dict[str, Open] = {"sqlite": raw.raw_sqlite, "postgresql": raw.raw_psycopg, "mariadb": raw.raw_pymysql}
_RAW_ASYNC: dict[str, OpenAsync] = {
    "sqlite": raw.raw_aiosqlite, "postgresql": raw.raw_psycopg_async, "mariadb": raw.raw_asyncmy
}  # fmt: skip
_PEERS: dict[str, dict[str, Open]] = {
    "sqlite": {},
    "postgresql": {"psycopg_pool": p.psycopg_pool},
    "mariadb": {},
}
_PEERS_ASYNC: dict[str, dict[str, OpenAsync]] = {
    "sqlite": {},
    "postgresql": {
        "psycopg_pool": pa.psycopg_pool_async,
        "asyncpg pool": pa.asyncpg_pool,
        "SQLAlchemy + asyncpg": plain_async("postgresql+asyncpg"),
    },
    "mariadb": {"asyncmy pool": pa.asyncmy_pool, "aiomysql pool": pa.aiomysql_pool},
}


def sync_contenders(database: str) -> dict[str, Open]:
    peers = {"Django cursor": p.django_cursor, "advanced-alchemy": p.advanced_alchemy}
    # The same twice, which shows the noise.
    return {RAW: _RAW[database], PLAIN: plain, AGAIN: plain, **_PEERS[database], **peers, OURS: ours}


def async_contenders(database: str) -> dict[str, OpenAsync]:
    peers = {"databases": pa.encode_databases, "advanced-alchemy": pa.advanced_alchemy_async}
    mine = {RAW: _RAW_ASYNC[database], PLAIN: plain_async(), AGAIN: plain_async()}
    return {**mine, **_PEERS_ASYNC[database], **peers, OURS: ours_async}
