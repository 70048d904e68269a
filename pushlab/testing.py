"""A test client that follows topics: no server, no sleep.

    with Client(app) as ann:
        ann.http.post("/login/7")
        orders = ann.follow("orders/7")
        push.publish("orders/7", {"order": 1})
        assert orders.values() == [{"order": 1}]

Its browser has a WebSocket to the app itself: the app's own middleware takes one end of a socket
pair, as under `flask run`, and everything from the handshake to the frames is what a server runs.
"""

import base64
import json
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from flask import Flask
from flask.testing import FlaskClient

from pushlab.push import Push
from pushlab.websocket.frames import (
    CloseConnection,
    CloseReason,
    Decoder,
    Ping,
    TextMessage,
    encode,
)

__all__ = ["TIMEOUT", "Client", "Following"]

#: Seconds that the app may take to send what was published; it ends what would hang.
TIMEOUT = 60.0


class Client:
    """A user's browser: its cookies, and what it follows.

    `app` is an app, or a test client of Flask's with which the user has logged in.
    """

    def __init__(self, app: Flask | FlaskClient) -> None:
        self.http = app if isinstance(app, FlaskClient) else app.test_client()
        application: Any = self.http.application
        self.push: Push = application.extensions["push"]
        self._opened: list[Following] = []

    def follow(
        self, *topics: str, after: str | Sequence[str | None] = (), carry: bool = True
    ) -> "Following":
        """Follow topics, from one cursor each, or from nothing."""
        cursors = (after,) if isinstance(after, str) else after or (None,) * len(topics)
        following = Following(self, dict(zip(topics, cursors, strict=True)), carry=carry)
        self._opened.append(following)
        return following

    def close(self) -> None:
        """Close all that it follows."""
        for each in self._opened:
            each.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Following:
    """What a browser follows over one connection."""

    def __init__(self, client: Client, cursors: dict[str, str | None], *, carry: bool) -> None:
        self._client = client
        self._carry = carry
        self._socket: socket.socket | None = None
        self._received: list[dict[str, Any]] = []
        #: By topic, the cursor of the last message.
        self.cursors = cursors
        #: The status of the handshake: 101, or that of the refusal.
        self.status = 0
        #: What the refusal says.
        self.error = ""
        self._closed: int | None = None
        self._connect()

    def _connect(self) -> None:
        self._closed, self.status, self.error, self._text = None, 0, "", ""
        self._decoder = Decoder(is_client=True)
        pairs = [("topic", topic) for topic in self.cursors]
        if any(self.cursors.values()):
            pairs += [("after", cursor or "") for cursor in self.cursors.values()]
        query = urlencode([*pairs, ("carry", int(self._carry))])
        self._socket, its_end = socket.socketpair()
        try:
            # As Werkzeug's servers do.
            response = self._client.http.get(
                f"{self._client.push.url_prefix}/update?{query}",
                headers={
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
                },
                environ_overrides={"werkzeug.socket": its_end, "wsgi.multithread": True},
            )
            self.status = response.status_code
        finally:
            its_end.close()  # which does nothing if the app has taken it
            if self.status != 101:
                self._end(CloseReason.ABNORMAL_CLOSURE)
        if self._socket is not None:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self._socket.recv(1)
        else:
            self.error = (response.get_json(silent=True) or {}).get("error", "")

    # What it has received.

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages since the last call.

        Everything that was published before is among them, except what a state has skipped.
        """
        self._receive()
        received, self._received = self._received, []
        return received

    def readings(self) -> list[dict[str, Any]]:
        """Return the messages since the last call that are readings.

        Not a `reset`, nor the cursor of a topic that has no reading yet.
        """
        return [
            each
            for each in self.messages()
            if "reset" not in each and not each["cursor"].endswith("-0")
        ]

    def values(self) -> list[Any]:
        """Return the values of `readings`."""
        return [each["value"] for each in self.readings()]

    def resets(self) -> list[str]:
        """Return the topics that were reset since the last call."""
        return [each["topic"] for each in self.messages() if "reset" in each]

    @property
    def closed(self) -> int | None:
        """The close code, or None while it is open.

        After `push.disconnect` it is 4401, without a close frame 1006.
        """
        self._receive()
        return self._closed

    def _receive(self) -> None:
        while self._socket is not None and not self._is_up_to_date():
            self._read(TIMEOUT)
        while self._socket is not None and self._read(0):
            pass

    def _is_up_to_date(self) -> bool:
        newest = self._client.push.cursor
        return all(cursor == newest(topic) for topic, cursor in self.cursors.items())

    def _read(self, timeout: float) -> bool:
        """Handle what has come; return whether something has."""
        assert self._socket is not None  # noqa: S101 - for mypy
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        if not data:
            self._end(CloseReason.ABNORMAL_CLOSURE)
        for event in self._decoder.feed(data):
            if isinstance(event, TextMessage):
                self._text += event.data
                if event.message_finished:  # of a long one, pieces come
                    message, self._text = json.loads(self._text), ""
                    self.cursors[message["topic"]] = message["cursor"]
                    self._received.append(message)
            elif isinstance(event, Ping):
                with suppress(OSError):  # the app has ended it meanwhile
                    self._socket.sendall(encode(event.response(), by_client=True))
            elif isinstance(event, CloseConnection):
                self._end(event.code)
        return bool(data)

    # How it ends.

    def lose_connection(self) -> None:
        """End the connection as a network does that fails.

        What has been published before has arrived.
        """
        self._receive()
        self._end(CloseReason.ABNORMAL_CLOSURE)

    def reconnect(self) -> None:
        """Connect again, and go on from the last cursors."""
        self._end(CloseReason.ABNORMAL_CLOSURE)
        self._connect()

    def close(self) -> None:
        """Close the connection."""
        self._end(CloseReason.NORMAL_CLOSURE)

    def _end(self, code: int) -> None:
        """End the connection; wait until the app has taken note."""
        # Without a close frame: the app would respond to that, and take note only later.
        sock, self._socket = self._socket, None
        if sock is None:
            return
        self._closed = int(code)
        with sock:
            sock.settimeout(TIMEOUT)
            with suppress(ConnectionError):
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
