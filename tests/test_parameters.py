"""The query of /update, and the errors that name what is malformed in it."""

import time
from urllib.parse import quote

import pytest

from tests.clients import UPGRADE
from tests.conftest import Server


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=", "after"),
        ("after=41", "after"),
        ("after=8f3a91c2-", "after"),
        ("after=8f3a91c2-41%0a", "after"),
        ("after=%ff%fe-1", "after"),
        ("carry=", "carry"),
        ("carry=2", "carry"),
        ("carry=true", "carry"),
        ("carry=0&after=no", "after"),
    ],
)
@pytest.mark.parametrize("transport", ["longpoll", "sse", "websocket"])
def test_malformed_parameters_are_named(
    server: Server, transport: str, query: str, parameter: str
) -> None:
    event_stream = {"Accept": "text/event-stream"}
    headers = {"websocket": UPGRADE, "sse": event_stream}.get(transport, {})
    response = server.http.get(f"/update?{query}", headers=headers)
    assert response.status == 400
    assert response.headers["Content-Type"] == "application/json"
    assert response.json["error"].startswith(f"{parameter}:")


@pytest.mark.parametrize("timeout", ["", "x", "-1", "60.1", "61", "1e1", "nan", "inf", "1_0",
                                     "\u0665", "+5", "0x10", "999999999999"])  # fmt: skip
def test_a_malformed_timeout_is_named(server: Server, timeout: str) -> None:
    response = server.http.get(f"/update?timeout={quote(timeout)}")
    assert response.status == 400
    assert response.json["error"].startswith("timeout:")


@pytest.mark.parametrize("timeout", ["0", "0.0", "0.25"])
def test_a_poll_is_held_for_its_timeout(server: Server, timeout: str) -> None:
    start = time.monotonic()
    response = server.http.get(f"/update?after={server.cursor}&timeout={timeout}")
    elapsed = time.monotonic() - start
    assert (response.status, response.body) == (204, b"")
    assert response.headers["Cache-Control"] == "no-store"
    assert elapsed >= float(timeout)
