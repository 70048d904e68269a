"""Short polling, headless."""

import time
from typing import Any

from tests.clients import HANG_TIMEOUT
from tests.conftest import Server


class ShortPoll:
    """Requests /data: with GET for readings, with HEAD for signals."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.http, self.after, self.method = server.http, after, "GET" if carry else "HEAD"

    def receive(self, *, timeout: float = HANG_TIMEOUT) -> Any:
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


CLIENT = ShortPoll
