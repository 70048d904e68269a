"""Long polling, headless."""

from typing import Any

from tests.clients import HANG_TIMEOUT
from tests.conftest import Server
from tests.transports.base import query

#: Seconds that one poll may be held: less than what ends the request itself.
LONGEST = HANG_TIMEOUT / 2


class LongPoll:
    """Sends the next request with the cursor of each response."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.http, self.after, self.carry = server.http, after, carry

    def receive(self, *, timeout: float = HANG_TIMEOUT) -> Any:
        response = self.http.get(f"{query(self.carry, self.after)}&timeout={min(timeout, LONGEST)}")
        if response.status == 204:
            raise TimeoutError
        assert (response.status, response.headers["Cache-Control"]) == (200, "no-store"), response
        self.after = response.json["cursor"]
        return response.json

    def close(self) -> None:
        pass


CLIENT = LongPoll
