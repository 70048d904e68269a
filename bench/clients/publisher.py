"""Publishers: what changes the data that is measured."""

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any

from bench.clients.base import sequence
from bench.clients.frames import TEXT, BlockingWebSocket, masked, read_frame
from bench.clients.http import BlockingConnection, WrongResponse, any_certificate
from bench.processes import TIMEOUT

#: What is published, unless something else is given.
VALUE: dict[str, Any] = {"cpu_percent": 12.5, "memory_percent": 41.0, "load": 0.42}
#: Seconds after which an idle connection is not used again: some servers close it soon.
IDLE = 2.0
#: Seconds within which data that other programs change must change.
CHANGE_TIMEOUT = 60.0


class Publisher:
    """A connection for /data, opened again after being idle."""

    cursor: str  #: of the newest reading that it knows of
    changed_at: float  #: when that changed, by the server's clock
    controls_data: bool  #: nothing else changes the data

    def __init__(
        self, host: str, port: int, *, token: str = "", name: str = "", is_tls: bool = False
    ) -> None:
        self._headers = {"Host": name or f"{host}:{port}"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        if is_tls:
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT, context=any_certificate()
            )
        self._used_at = time.monotonic()
        self.refresh()

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        """Make a change, or wait for one; return the value."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Get the newest reading; raises WrongResponse if /data is none."""
        status, body = self._request("GET", "/data")
        try:
            self._take(body)
        except (ValueError, TypeError, KeyError):
            raise WrongResponse(f"GET /data: {status}, and no reading") from None

    def _take(self, body: bytes) -> Mapping[str, Any]:
        reading: dict[str, Any] = json.loads(body)
        self.cursor, self.changed_at = str(reading["cursor"]), float(reading["changed_at"])
        return dict(reading["value"])

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Return status and body; raises WrongResponse without a response."""
        if time.monotonic() > self._used_at + IDLE:
            self._connection.close()
        try:
            self._connection.request(method, path, body, self._headers)
            response = self._connection.getresponse()
            found = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise WrongResponse(f"{method} {path.partition('?')[0]}: {reason}") from error
        self._used_at = time.monotonic()
        return found

    def close(self) -> None:
        self._connection.close()


class Posting(Publisher):
    """It changes the data with `POST /data`."""

    controls_data = True

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        status, body = self._request("POST", "/data", json.dumps(value))
        if status != 201:
            raise WrongResponse(f"POST /data: {status} {body.decode(errors='replace')[:200]}")
        self.cursor = str(json.loads(body)["cursor"])
        return value


class PostingAnywhere(Posting):
    """It changes the data, readable or not."""

    def refresh(self) -> None:
        try:
            super().refresh()
        except WrongResponse:
            self.cursor = "unknown-0"


class Watching(Publisher):
    """It waits with long polls until the data changes."""

    controls_data = False

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        self.refresh()  # it may have changed since the last response
        deadline = time.monotonic() + CHANGE_TIMEOUT
        while time.monotonic() < deadline:
            path = f"/update?carry=1&timeout={TIMEOUT / 2:g}&after={self.cursor}"
            status, body = self._request("GET", path)
            if status == 200:
                return self._take(body)
            if status != 204:
                raise WrongResponse(f"GET /update: {status}")
        raise WrongResponse(f"the data has not changed for {CHANGE_TIMEOUT:.0f} s")


class Speaking(BlockingWebSocket):
    """It publishes by WebSocket, for servers without POST."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.cursor = ""
        self.open("/publish")

    def change(self) -> None:
        self.send(masked(TEXT, b"publish"))
        self.cursor = str(json.loads(self.text())["cursor"])


class FrameSending(BlockingConnection):
    """It sends the floor a frame to broadcast."""

    cursor = "floor123-100"

    def change(self) -> None:
        self.cursor = f"floor123-{sequence(self.cursor) + 1}"
        message = json.dumps({"cursor": self.cursor}, separators=(",", ":")).encode()
        self.send(bytes([0x81, len(message)]) + message)
        if self.receive(read_frame).payload != message:
            raise WrongResponse("the floor did not send what it was sent")
