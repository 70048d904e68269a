"""What every server sends: cursors like Pushlab's, in JSON."""

import json
import secrets
import socket
from itertools import count

_epoch, _numbers = secrets.token_hex(4), count(1)


def next_signal() -> str:
    """Return the next signal."""
    return f'{{"cursor":"{_epoch}-{next(_numbers)}"}}'


def event(signal: str) -> str:
    """Return the signal's event of an event stream."""
    return f"id: {json.loads(signal)['cursor']}\ndata: {signal}\n\n"


def reading(signal: str) -> str:
    """Return the signal's reading, about as large as Pushlab's."""
    cursor = json.loads(signal)["cursor"]
    return f'{{"cursor":"{cursor}","changed_at":1790000000.123456,"value":{{"number":1}}}}'


def listen() -> socket.socket:
    """Listen on a free port, and print it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(f"The server is at http://127.0.0.1:{listener.getsockname()[1]} ", flush=True)
    return listener
