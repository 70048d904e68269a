"""The ways of hearing of a change that are compared: a transport, and what it brings."""

from typing import NamedTuple

from pushlab.transports import TRANSPORTS

#: What news may bring, by the name that the command line has for it.
PAYLOADS = {"signal": False, "carry": True}


class Variant(NamedTuple):
    """A transport that only signals, so that the browser fetches /data, or that carries it."""

    transport: str
    carry: bool

    @property
    def payload(self) -> str:
        return "carry" if self.carry else "signal"

    @property
    def title(self) -> str:
        """What people call it, as in "WebSocket, carry"."""
        known = TRANSPORTS.get(self.transport)
        return f"{known.short if known else self.transport}, {self.payload}"


#: All of them.
WAYS = tuple(Variant(transport, carry) for transport in TRANSPORTS for carry in PAYLOADS.values())
