"""Long polling: requests that are held until there is news."""

from bench.clients.base import Client
from bench.clients.chromium import request
from bench.clients.http import Response, WrongResponse


class LongPoll(Client):
    """The headless half of pushlab/transports/longpoll.py."""

    def subscribe(self, after: str) -> None:
        """Ask for what comes after this cursor."""
        self.cursor = after
        self._is_fetching = False
        self.resume()

    def resume(self) -> None:
        """Ask for what comes next."""
        path = f"/update?carry={self.carry:d}&after={self.cursor}"
        self.connection.send(request(self.env.host, path))

    def on_response(self, response: Response) -> None:
        """Take the news, or the reading that it fetched then."""
        if self._is_fetching:
            self._is_fetching = False
            self.on_data(response)
        elif response.status == 204:  # nothing within the 25 seconds that the server holds a poll
            self.env.traffic.empty += 1
            self.resume()
        elif response.status == 200:
            self.on_message(response.body, response.received_at)
            self._is_fetching = self.connection.is_waiting and not self.carry and self.fetches
        else:
            raise WrongResponse(f"GET /update: {response.head!r}")


CLIENT = LongPoll
