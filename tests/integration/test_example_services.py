"""The example services under a real server: what is put is there, what is refused is not, and the download is whole."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Backend
from tests.serving import serve_asgi

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@pytest.mark.parametrize("name", ["service_starlette", "service_litestar"])
def test_a_service_keeps_what_it_accepts(example: Any, backend: Backend, name: str) -> None:
    service = example(name).make_app({"url": backend.url})
    with serve_asgi(service) as url, httpx.Client(base_url=url) as client:
        assert client.put("/stock/CUP", params={"quantity": 3}).json() == {"sku": "CUP", "quantity": 3}
        assert client.put("/stock/POT", params={"quantity": 1}).status_code == 200
        assert client.put("/stock/CUP", params={"quantity": -1}).status_code == 422
        assert client.get("/stock.csv").text == "CUP;3\nPOT;1\n"
