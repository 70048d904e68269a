"""The headless half of each transport, a file each: a browser without a screen.

Each sends what Chromium sends (see chromium.py), and notes when it knew of a reading and when it
had it. The clock is the machine's, in seconds since the epoch, as the server's is.
"""

from bench.clients.base import Client
from bench.clients.longpoll import LongPoll
from bench.clients.poll import Poll
from bench.clients.sse import EventStream
from bench.clients.websocket import Frames, WebSocket

CLIENTS: dict[str, type[Client]] = {
    "poll": Poll,
    "longpoll": LongPoll,
    "sse": EventStream,
    "websocket": WebSocket,
    "frames": Frames,
}
