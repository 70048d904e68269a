"""Short polling: it asks again and again, with GET for readings, with HEAD for signals."""

import json

from bench.bytes_on_wire import WrongResponse
from bench.clients.base import Client
from bench.clients.http import Answer, request


class Poll(Client):
    """The headless half of pushlab/transports/poll.py."""

    def listen(self, after: str) -> None:
        """Be on the line; it asks at every tick."""
        self.cursor = after
        self._is_due = False
        self.line.open()

    def tick(self) -> None:
        """Ask whether there is anything new, as soon as the last answer has been dealt with."""
        self._is_due = self.line.is_waiting or self.is_busy
        if not self._is_due:
            method = "GET" if self.carry else "HEAD"
            self.line.ask(request(self.around.host, "/data", method=method, known=self.cursor))

    def idle(self) -> None:
        """Ask at once what was due meanwhile."""
        if self._is_due:
            self.tick()

    def answered(self, answer: Answer) -> None:
        """Take what the question was answered with, or the reading that was fetched then."""
        if answer.status == 304:
            self.around.traffic.empty += 1
            self.note("empty", answer)
            self.idle()
        elif answer.status != 200:
            raise WrongResponse(f"GET /data: {answer.head!r}")
        elif answer.body and not self.carry:
            self.fetched(answer)
        else:
            self.note("poll", answer)
            cursor = answer.header(b"ETag").strip(b'"').decode()
            self.knows(cursor, answer.received_at)
            if self.carry:
                self.take(json.loads(answer.body), answer.received_at)
            else:
                self.fetch_news()
