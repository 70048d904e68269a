"""WebSockets, headless, with two libraries."""

import json
from typing import Any

import websocket

from tests.clients import HANG_TIMEOUT, open_websocket
from tests.conftest import Server
from tests.transports.base import query


class WebSocket:
    """The `websockets` library."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self._opened = open_websocket(server.ws + query(carry, after))
        self.socket = self._opened.__enter__()

    def receive(self, *, timeout: float = HANG_TIMEOUT) -> Any:
        return json.loads(self.socket.recv(timeout))

    def close(self) -> None:
        self._opened.__exit__(None, None, None)
        assert self.socket.close_code == 1000


class WebSocketClient:
    """The `websocket-client` library, for TLS.

    `websockets` reads and writes from two threads, which Python's ssl supports only from 3.13 on.
    """

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.socket = websocket.create_connection(
            server.ws + query(carry, after), sslopt={"context": server.tls}
        )

    def receive(self, *, timeout: float = HANG_TIMEOUT) -> Any:
        self.socket.settimeout(timeout)
        try:
            return json.loads(self.socket.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None

    def close(self) -> None:
        self.socket.close()


def CLIENT(server: Server, **query: Any) -> WebSocket | WebSocketClient:
    return WebSocketClient(server, **query) if server.tls else WebSocket(server, **query)
