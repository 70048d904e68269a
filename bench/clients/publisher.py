"""What changes the data that is measured: we do, or somebody else whom we wait for."""

import http.client
import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

from bench.bytes_on_wire import VALUE, WrongResponse
from bench.processes import PATIENCE

#: Seconds after which an idle connection is not used again: some servers close it soon.
IDLE = 2.0


class Publisher(Protocol):
    """What changes the data, or waits until it changes."""

    cursor: str  #: of the newest reading that it knows of
    changed_at: float  #: when that changed, by the server's clock
    is_ours: bool  #: nobody else changes the data

    def refresh(self) -> None:
        """Learn what the newest reading is now."""

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        """Make a change, or wait for one; return what the data says from then on."""

    def close(self) -> None:
        """Hang up."""


class Posting:
    """It changes the data with `POST /data`."""

    is_ours = True

    def __init__(self, host: str, port: int, *, token: str = "", name: str = "") -> None:
        self._line = _Line(host, port, name)
        self.refresh()
        if token:
            self._line.headers["Authorization"] = f"Bearer {token}"

    def refresh(self) -> None:
        reading = self._line.newest()
        self.cursor, self.changed_at = reading["cursor"], reading["changed_at"]

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        status, body = self._line.ask("POST", "/data", json.dumps(value))
        if status != 201:
            raise WrongResponse(f"POST /data: {status} {body.decode(errors='replace')[:200]}")
        self.cursor = str(json.loads(body)["cursor"])
        return value

    def close(self) -> None:
        self._line.close()


class Watching:
    """It waits until the data changes by itself, with long polls."""

    is_ours = False

    def __init__(self, host: str, port: int, *, name: str = "", patience: float = 60.0) -> None:
        self._line = _Line(host, port, name)
        self._patience = patience
        self.refresh()

    def refresh(self) -> None:
        reading = self._line.newest()
        self.cursor, self.changed_at = reading["cursor"], reading["changed_at"]

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        self.refresh()  # it may have changed since it was asked for the last time
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            path = f"/update?carry=1&timeout={PATIENCE / 2:g}&after={self.cursor}"
            status, body = self._line.ask("GET", path)
            if status == 200:
                reading: dict[str, Any] = json.loads(body)
                self.cursor, self.changed_at = reading["cursor"], reading["changed_at"]
                return dict(reading["value"])
            if status != 204:
                raise WrongResponse(f"GET /update: {status}")
        raise WrongResponse(f"the data has not changed for {self._patience:.0f} s")

    def close(self) -> None:
        self._line.close()


class _Line:
    """A connection that is opened anew when it has been idle."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self.headers = {"Host": name or f"{host}:{port}"}
        self._connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        self._used_at = time.monotonic()

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Return the status and the body of the answer; raises WrongAnswer if there is none."""
        if time.monotonic() > self._used_at + IDLE:
            self._connection.close()
        try:
            self._connection.request(method, path, body, self.headers)
            answer = self._connection.getresponse()
            found = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise WrongResponse(f"{method} {path.partition('?')[0]}: {reason}") from error
        self._used_at = time.monotonic()
        return found

    def newest(self) -> dict[str, Any]:
        """Return the newest reading; raises WrongAnswer if /data is none."""
        status, body = self.ask("GET", "/data")
        try:
            reading: dict[str, Any] = json.loads(body)
            return {"cursor": str(reading["cursor"]), "changed_at": float(reading["changed_at"])}
        except (ValueError, TypeError, KeyError):
            raise WrongResponse(f"GET /data: {status}, and no reading") from None

    def close(self) -> None:
        self._connection.close()
