"""The headless half of each transport, a file each.

Each sends what Chromium sends (see chromium.py), and notes when it knew of a reading and when it
had it. The clock is the machine's, in seconds since the epoch, as the server's is.
"""

from importlib import import_module

from bench.clients.base import Client
from bench.clients.poll import Fetch
from bench.clients.websocket import Frames
from pushlab.transports import TRANSPORTS

#: By the transport's name, which is that of the file; and two for the fan-out benchmark.
CLIENTS: dict[str, type[Client]] = {
    **{name: import_module(f"{__name__}.{name}").CLIENT for name in TRANSPORTS},
    "frames": Frames,
    "fetch": Fetch,
}
