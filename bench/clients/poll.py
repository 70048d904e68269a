"""Short polling: GET for readings, HEAD for signals."""

from bench.clients.base import Client
from bench.clients.chromium import request
from bench.clients.http import Response, WrongResponse


class Poll(Client):
    """The headless half of pushlab/transports/poll.py."""

    ticks = True

    def subscribe(self, after: str) -> None:
        """Connect; it asks at every tick."""
        self.cursor = after
        self._due = 0  # polls that wait until the last response is processed
        self.connection.open()

    def tick(self) -> None:
        """Poll, as soon as the last response is processed."""
        self._due = 1
        self.resume()

    def resume(self) -> None:
        """Poll if that is due and possible."""
        if self._due and not self.connection.is_waiting and not self.is_busy:
            self._due -= 1
            self.poll()

    def poll(self) -> None:
        method = "GET" if self.carry else "HEAD"
        self.connection.send(request(self.env.host, "/data", method=method, known=self.cursor))

    def on_response(self, response: Response) -> None:
        """Take the response to a poll or to a fetch."""
        if response.status == 304:
            self.env.traffic.empty += 1
            self.resume()
        elif response.status != 200:
            raise WrongResponse(f"GET /data: {response.head!r}")
        elif response.body:
            self.on_data(response)
        else:
            cursor = response.header(b"ETag").strip(b'"').decode()
            self.notify(cursor, response.received_at)
            self.fetch()


CLIENT = Poll


class Fetch(Poll):
    """GET /data at first, then at each tick."""

    def subscribe(self, after: str) -> None:
        super().subscribe(after)
        self.poll()

    @property
    def is_subscribed(self) -> bool:
        return not self.connection.is_waiting

    def tick(self) -> None:
        self._due += 1
        self.resume()

    def poll(self) -> None:
        self.notified = self.sequence = -1  # until the response
        self.connection.send(request(self.env.host, "/data"))
