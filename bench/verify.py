"""Verify first: no way of hearing is timed that does not bring the right readings."""

import time

from bench.bytes_on_wire import WrongResponse
from bench.clients.base import sequence
from bench.scenarios import Variant
from bench.target import Target, Worker

#: Seconds that it takes, about.
VERIFYING = 3.0
#: How many clients each way is verified with.
CLIENTS = 2
#: Seconds between two questions of short polling meanwhile.
PERIOD = 0.05
#: Seconds in which everybody must have been told.
PATIENCE = 5.0
#: Seconds in which nobody must be told what he has already.
SILENCE = 0.2


class _Witness:
    """Two clients of a way, who are asked what they have."""

    def __init__(self, variant: Variant, target: Target, worker: Worker) -> None:
        self._way, self._target, self._audience = variant, target, worker

    def come(self, after: str) -> None:
        target = self._target
        self._audience.ask(
            "open", transport=self._way.transport, carry=self._way.carry, clients=CLIENTS,
            address=[target.host, target.port], host=target.name, after=after,
            processing_time=0.0,
        )  # fmt: skip

    def begin(self) -> None:
        period = PERIOD if self._way.transport == "poll" else 0.0
        self._audience.ask("begin", begin_at=time.time(), ticks=int(period > 0), period=period)

    def must_have(self, cursor: str) -> None:
        number = sequence(cursor)
        found = self._audience.ask(
            "finish", sequence=number, deadline=time.time() + PATIENCE
        )  # fmt: skip
        if found["lost"]:
            raise WrongResponse(f"reading {number} was not told within {PATIENCE:g} s")

    def must_have_seen(self, *numbers: int) -> None:
        if not self._target.publisher.is_ours:
            return  # others change the data, too, and at any moment
        for shown in self._audience.ask("show")["shown"]:
            if shown != list(numbers):
                raise WrongResponse(f"a client was shown the readings {shown}, not {list(numbers)}")

    def must_know_value(self, number: int, value: object) -> None:
        values = self._audience.ask("show")["values"]
        if str(number) not in values and not self._target.publisher.is_ours:
            return  # a newer one was there before it could be had
        said = values.get(str(number))
        if said != value:
            raise WrongResponse(f"reading {number} said {said}, not {value}")

    def must_be_told(self, value: object) -> None:
        """Must have, see and know the newest reading, which says this, and have seen no other."""
        publisher = self._target.publisher
        self.must_have(publisher.cursor)
        self.must_have_seen(sequence(publisher.cursor))
        self.must_know_value(sequence(publisher.cursor), value)

    def leave(self) -> None:
        self._audience.ask("leave")


def verify(variant: Variant, target: Target, worker: Worker) -> None:
    """Have two clients hear a known sequence, leave, miss some, and come back.

    Raises WrongAnswer if one of them is told another reading than the newest, or one twice, or not
    told what it has missed, or told what it has.
    """
    witness, publisher = _Witness(variant, target, worker), target.publisher
    witness.come(publisher.cursor)
    for number in (1, 2, 3):  # one after the other
        witness.begin()
        value = publisher.change({"number": number})
        witness.must_be_told(value)
    witness.leave()
    last_seen = publisher.cursor
    for number in (4, 5):  # while nobody listens
        value = publisher.change({"number": number})
    witness.begin()
    witness.come(last_seen)
    if variant.transport == "poll":
        witness.begin()
    witness.must_be_told(value)
    witness.leave()
    witness.begin()
    witness.come(publisher.cursor)  # it has the newest
    if variant.transport == "poll":
        witness.begin()
    time.sleep(SILENCE)
    witness.must_have_seen()
    value = publisher.change({"number": 6})
    witness.must_be_told(value)
    witness.leave()
