"""The headless half of each transport, a file each: a browser without a screen, cheap and exact.

Each sends what Chromium sends (see pushlab/measure/wire.py) and notes when it knew of a reading
and when it had it. The clock is the machine's, in seconds since the epoch, as the server's is.
"""

from pushlab.measure.clients.client import Client
from pushlab.measure.clients.longpoll import LongPoll
from pushlab.measure.clients.poll import Poll
from pushlab.measure.clients.sse import EventStream
from pushlab.measure.clients.websocket import WebSocket

CLIENTS: dict[str, type[Client]] = {
    "poll": Poll,
    "longpoll": LongPoll,
    "sse": EventStream,
    "websocket": WebSocket,
}
