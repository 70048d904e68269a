"""Verify first: wrong readings are never timed."""

import time

from bench.clients.http import WrongResponse
from bench.clients.worker import Worker
from bench.scenarios import Variant
from bench.target import Target

#: Clients that each variant is verified with.
CLIENTS = 2
#: Seconds between two short polls meanwhile.
PERIOD = 0.05
#: Seconds in which a reading must reach all clients.
DELIVERY_TIMEOUT = 5.0
#: Seconds in which nothing may come that a client has already.
SILENCE = 0.2


def verify(variant: Variant, target: Target, worker: Worker) -> None:
    """Verify what two clients receive, also across a reconnect.

    Raises WrongResponse if one of them receives a reading that is not the newest, or one twice, or
    does not receive what it has missed, or receives what it has.
    """
    publisher, polls = target.publisher, variant.transport == "poll"

    def begin() -> None:
        worker.do("begin", begin_at=time.time(), ticks=int(polls), period=PERIOD * polls)

    def connect(after: str) -> None:
        address = target.address(variant.transport) | {"after": after}
        worker.do("open", carry=variant.carry, clients=CLIENTS, **address)
        if polls:
            begin()

    def received(*numbers: int) -> None:
        if not publisher.controls_data:
            return  # other programs change the data, too, and at any moment
        for shown in worker.do("shown")["shown"]:
            if shown != list(numbers):
                raise WrongResponse(f"a client was shown the readings {shown}, not {list(numbers)}")

    def received_newest(value: object) -> None:
        number, deadline = target.newest, time.time() + DELIVERY_TIMEOUT
        if worker.do("finish", sequence=number, deadline=deadline)["lost"]:
            raise WrongResponse(f"reading {number} did not come within {DELIVERY_TIMEOUT:g} s")
        received(number)
        values = worker.do("shown")["values"]
        if str(number) not in values and not publisher.controls_data:
            return  # a newer one was there before it could be fetched
        if values.get(str(number)) != value:
            raise WrongResponse(f"reading {number} is {values.get(str(number))}, not {value}")

    connect(publisher.cursor)
    for number in (1, 2, 3):  # one after the other
        begin()
        received_newest(publisher.change({"number": number}))
    worker.do("close")
    last_seen = publisher.cursor
    for number in (4, 5):  # without a client
        value = publisher.change({"number": number})
    begin()
    connect(last_seen)
    received_newest(value)
    worker.do("close")
    begin()
    connect(publisher.cursor)  # that of the newest
    time.sleep(SILENCE)
    received()
    received_newest(publisher.change({"number": 6}))
    worker.do("close")
