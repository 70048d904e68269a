"""Long polling: it asks, is answered when there is something to say, and asks again."""

from bench.bytes_on_wire import WrongResponse
from bench.clients.base import Client
from bench.clients.http import Answer, request


class LongPoll(Client):
    """The headless half of pushlab/transports/longpoll.py."""

    def listen(self, after: str) -> None:
        """Ask for what comes after this reading."""
        self.cursor = after
        self._fetching = False
        self.idle()

    def idle(self) -> None:
        """Ask for what comes next."""
        self.line.ask(
            request(self.around.host, f"/update?carry={self.carry:d}&after={self.cursor}")
        )  # fmt: skip

    def answered(self, answer: Answer) -> None:
        """Take the news, or the reading that was fetched then."""
        if self._fetching:
            self._fetching = False
            self.fetched(answer)
        elif answer.status == 204:  # nothing within the 25 seconds that the server holds a poll
            self.around.traffic.empty += 1
            self.note("empty", answer)
            self.idle()
        elif answer.status == 200:
            self.note("longpoll", answer)
            self.told(answer.body, answer.received_at)
            self._fetching = self.line.is_waiting and not self.carry
        else:
            raise WrongResponse(f"GET /update: {answer.head!r}")
