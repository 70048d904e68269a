"""The headless half of each transport, with which tests receive readings as browsers do."""

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import websocket
from websockets.sync.client import ClientConnection, connect

from tests.conftest import Server


class Browser(Protocol):
    """A subscriber: it receives one message after the other."""

    def receive(self, *, timeout: float = 5.0) -> Any:
        """Wait for the next message and return it; TimeoutError if none comes."""

    def close(self) -> None: ...


def query(carry: bool, after: str | None) -> str:
    return f"/update?carry={int(carry)}" + ("" if after is None else f"&after={after}")


class ShortPoll:
    """Requests /data again and again: with GET for readings, with HEAD for signals."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.http, self.after, self.method = server.http, after, "GET" if carry else "HEAD"

    def receive(self, *, timeout: float = 5.0) -> Any:
        deadline = time.monotonic() + timeout
        known = {} if self.after is None else {"If-None-Match": f'"{self.after}"'}
        while (response := self.http.request(self.method, "/data", headers=known)).status == 304:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache"), response
        self.after = response.headers["ETag"].strip('"')
        if self.method == "HEAD":
            assert response.body == b""
            return {"cursor": self.after}
        assert response.json["cursor"] == self.after
        return response.json

    def close(self) -> None:
        pass


class LongPoll:
    """Sends a request, waits for the response, and sends the next with its cursor."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.http, self.after, self.carry = server.http, after, carry

    def receive(self, *, timeout: float = 5.0) -> Any:
        response = self.http.get(f"{query(self.carry, self.after)}&timeout={timeout}")
        if response.status == 204:
            raise TimeoutError
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store"), response
        self.after = response.json["cursor"]
        return response.json

    def close(self) -> None:
        pass


class WebSocket:
    """The `websockets` library. Not over TLS: it would read and write it from two threads, which
    Python's ssl survives only from 3.13 on."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        # The types of websockets differ between the releases for Python 3.10 and for later ones.
        self._opened = connect(server.ws + query(carry, after))
        entered: Any = self._opened.__enter__()
        self.socket: ClientConnection = entered

    def receive(self, *, timeout: float = 5.0) -> Any:
        return json.loads(self.socket.recv(timeout))

    def close(self) -> None:
        self._opened.__exit__(None, None, None)
        assert self.socket.close_code == 1000


class WebSocketClient:
    """The `websocket-client` library."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.socket = websocket.create_connection(
            server.ws + query(carry, after), sslopt={"context": server.tls}
        )

    def receive(self, *, timeout: float = 5.0) -> Any:
        self.socket.settimeout(timeout)
        try:
            return json.loads(self.socket.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None

    def close(self) -> None:
        self.socket.close()


class EventStream:
    """Parses a stream as WHATWG HTML section 9.2.6 says, from a socket with a timeout."""

    def __init__(
        self, server: Server, *, after: str | None = None, carry: bool = False,
        last_event_id: str | None = None,
    ) -> None:  # fmt: skip
        last = [] if last_event_id is None else [f"Last-Event-ID: {last_event_id}"]
        self.socket = server.send_get(query(carry, after), "Accept: text/event-stream", *last)
        self._received = b""
        self._text = b""
        self._chunked = False
        self.head = self._until(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/event-stream; charset=utf-8\r\n" in self.head
        assert b"Cache-Control: no-store\r\n" in self.head
        self._chunked = b"chunked" in self.head  # or it goes on to the end of the connection
        assert self.event() == [("retry", "1000")]

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            data = self.socket.recv(65536)
            assert data, "the stream ended"
            self._received += data
        found, _, self._received = self._received.partition(end)
        return found + end

    def event(self) -> list[tuple[str, str]]:
        """Read on to the next empty line; return the fields before it. EOFError at the end."""
        while b"\n\n" not in self._text:
            if not self._chunked:
                more, self._received = self._received or self.socket.recv(65536), b""
                if not more:
                    raise EOFError
                self._text += more
                continue
            size = int(self._until(b"\r\n"), 16)
            if not size:
                raise EOFError
            while len(self._received) < size + 2:
                self._received += self.socket.recv(65536)
            self._text += self._received[:size]
            self._received = self._received[size + 2 :]
        lines, _, self._text = self._text.partition(b"\n\n")
        fields = [line.decode().partition(": ") for line in lines.split(b"\n")]
        return [(name, value) for name, _, value in fields]

    def receive(self, *, timeout: float = 5.0) -> Any:
        self.socket.settimeout(timeout)
        (name, cursor), (other, data) = self.event()
        assert (name, other) == ("id", "data")
        assert json.loads(data)["cursor"] == cursor
        return json.loads(data)

    def close(self) -> None:
        self.socket.close()


#: By name, the headless halves; a WebSocket with two libraries.
CLIENTS: dict[str, Callable[..., Browser]] = {
    "poll": ShortPoll,
    "longpoll": LongPoll,
    "sse": EventStream,
    "websocket": WebSocket,
    "websocket-client": WebSocketClient,
}


def clients(*, tls: bool) -> list[str]:
    """Return the names of those that can be used, with TLS or without."""
    return [name for name in CLIENTS if not (tls and name == "websocket")]


def sequence(cursor: str) -> int:
    """Return the cursor's sequence number."""
    return int(cursor.rpartition("-")[2])
