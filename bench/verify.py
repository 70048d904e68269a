"""Verify first: wrong readings are never timed."""

import time

from bench.clients.http import WrongResponse
from bench.clients.worker import Worker
from bench.scenarios import Variant
from bench.target import Target

#: Seconds that it takes, about.
VERIFY_SECONDS = 3.0
#: Clients that each variant is verified with.
CLIENTS = 2
#: Seconds between two short polls meanwhile.
PERIOD = 0.05
#: Seconds in which a reading must reach all clients.
DELIVERY_TIMEOUT = 5.0
#: Seconds in which nothing may come that a client has already.
SILENCE = 0.2


class _Verifier:
    """Two clients, and assertions on what they received."""

    def __init__(self, variant: Variant, target: Target, worker: Worker) -> None:
        self._variant, self._target, self._worker = variant, target, worker
        self._polls = variant.transport == "poll"

    def open(self, after: str) -> None:
        """Connect, and begin to poll."""
        target = self._target
        self._worker.do(
            "open", transport=self._variant.transport, carry=self._variant.carry, clients=CLIENTS,
            address=[target.host, target.port], host=target.name, after=after,
        )  # fmt: skip
        if self._polls:
            self.begin()

    def begin(self) -> None:
        period = PERIOD if self._polls else 0.0
        self._worker.do("begin", begin_at=time.time(), ticks=int(self._polls), period=period)

    def received(self, *numbers: int) -> None:
        """Assert that each client has shown just these readings."""
        if not self._target.publisher.controls_data:
            return  # other programs change the data, too, and at any moment
        for shown in self._worker.do("shown")["shown"]:
            if shown != list(numbers):
                raise WrongResponse(f"a client was shown the readings {shown}, not {list(numbers)}")

    def received_newest(self, value: object) -> None:
        """Assert that both received one reading: the newest, this value."""
        number, publisher = self._target.newest, self._target.publisher
        deadline = time.time() + DELIVERY_TIMEOUT
        if self._worker.do("finish", sequence=number, deadline=deadline)["lost"]:
            raise WrongResponse(f"reading {number} did not come within {DELIVERY_TIMEOUT:g} s")
        self.received(number)
        values = self._worker.do("shown")["values"]
        if str(number) not in values and not publisher.controls_data:
            return  # a newer one was there before it could be fetched
        if values.get(str(number)) != value:
            raise WrongResponse(f"reading {number} is {values.get(str(number))}, not {value}")

    def close(self) -> None:
        self._worker.do("close")


def verify(variant: Variant, target: Target, worker: Worker) -> None:
    """Verify what two clients receive, also across a reconnect.

    Raises WrongResponse if one of them receives a reading that is not the newest, or one twice, or
    does not receive what it has missed, or receives what it has.
    """
    verifier, publisher = _Verifier(variant, target, worker), target.publisher
    verifier.open(publisher.cursor)
    for number in (1, 2, 3):  # one after the other
        verifier.begin()
        verifier.received_newest(publisher.change({"number": number}))
    verifier.close()
    last_seen = publisher.cursor
    for number in (4, 5):  # without a client
        value = publisher.change({"number": number})
    verifier.begin()
    verifier.open(last_seen)
    verifier.received_newest(value)
    verifier.close()
    verifier.begin()
    verifier.open(publisher.cursor)  # that of the newest
    time.sleep(SILENCE)
    verifier.received()
    value = publisher.change({"number": 6})
    verifier.received_newest(value)
    verifier.close()
