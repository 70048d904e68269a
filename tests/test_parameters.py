"""What a browser may say in the query of /update, and what it is told if it says something else."""

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
    answer = server.http.get(f"/update?{query}", headers=headers)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["error"].startswith(f"{parameter}:")


@pytest.mark.parametrize(
    "timeout",
    [
        "",
        "x",
        "-1",
        "60.1",
        "61",
        "1e1",
        "nan",
        "inf",
        "1_0",
        "\u0665",
        "+5",
        "0x10",
        "999999999999",
    ],
)
def test_a_malformed_timeout_is_named(server: Server, timeout: str) -> None:
    answer = server.http.get(f"/update?timeout={quote(timeout)}")
    assert answer.status == 400
    assert answer.json["error"].startswith("timeout:")


@pytest.mark.parametrize("timeout", ["0", "0.0", "0.25"])
def test_a_poll_is_held_as_long_as_asked(server: Server, timeout: str) -> None:
    start = time.monotonic()
    answer = server.http.get(
        f"/update?after={server.http.get('/data').json['cursor']}&timeout={timeout}"
    )
    elapsed = time.monotonic() - start
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Cache-Control"] == "no-store"
    assert elapsed >= float(timeout)
