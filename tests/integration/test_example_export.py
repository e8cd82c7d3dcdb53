"""The example's download: every row as CSV, a batch at a time, and a client that goes away frees the connection."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = 2500


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("export_fastapi")


async def _fill(db: Any, rows: int) -> None:
    values = [{"id": number, "customer": f'Ada, "{number}"', "quantity": number % 7} for number in range(rows)]
    await db.execute_many("insert into orders (id, customer, quantity) values (:id, :customer, :quantity)", values)


@pytest.mark.parametrize("rows", [0, 3, ROWS])
async def test_the_download_has_every_row(example: Any, tmp_path: Path, rows: int) -> None:
    service = example.make_app({"url": f"sqlite:///{tmp_path / 'orders.db'}"})
    async with service.router.lifespan_context(service):
        db = service.state.db
        await _fill(db, rows)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://service") as client:
            answer = await client.get("/orders.csv")
        assert answer.status_code == 200
        lines = answer.text.splitlines()
        assert lines[0] == "id,customer,quantity"
        assert lines[1:] == [f'{number},"Ada, ""{number}""",{number % 7}' for number in range(rows)]
        assert len([piece async for piece in example.as_csv(db) if piece]) == max(1, -(-rows // 1000))
        assert db.stats().pool.checked_out == 0


async def test_a_client_that_goes_away_frees_the_connection(example: Any, tmp_path: Path) -> None:
    """A response that is cancelled closes its generator, and that the stream."""
    service = example.make_app({"url": f"sqlite:///{tmp_path / 'orders.db'}"})
    async with service.router.lifespan_context(service):
        db = service.state.db
        await _fill(db, ROWS)
        pieces = example.as_csv(db)
        await anext(pieces)
        assert db.stats().pool.checked_out == 1
        await pieces.aclose()
        assert db.stats().pool.checked_out == 0
