"""Short polling: GET for readings, HEAD for signals."""

from bench.clients.base import Client
from bench.clients.chromium import request
from bench.clients.http import Response, WrongResponse


class Poll(Client):
    """The headless half of pushlab/transports/poll.py."""

    def subscribe(self, after: str) -> None:
        """Connect; it asks at every tick."""
        self.cursor = after
        self._is_due = False
        self.connection.open()

    def tick(self) -> None:
        """Poll, as soon as the last response is processed."""
        self._is_due = self.connection.is_waiting or self.is_busy
        if not self._is_due:
            method = "GET" if self.carry else "HEAD"
            self.connection.send(request(self.env.host, "/data", method=method, known=self.cursor))

    def resume(self) -> None:
        """Ask at once if that was due meanwhile."""
        if self._is_due:
            self.tick()

    def on_response(self, response: Response) -> None:
        """Take the response to a poll or to a fetch."""
        if response.status == 304:
            self.env.traffic.empty += 1
            self.resume()
        elif response.status != 200:
            raise WrongResponse(f"GET /data: {response.head!r}")
        elif response.body and not self.carry:
            self.on_data(response)
        else:
            cursor = response.header(b"ETag").strip(b'"').decode()
            self.notify(cursor, response.received_at)
            if self.carry:
                self.receive(self.env.parse(response.body), response.received_at)
            else:
                self.fetch()


CLIENT = Poll
