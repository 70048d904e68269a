"""How far the server's clock is from ours: asked often, and the shortest round trip counts."""

import base64
import json
import os
import socket
import time
from typing import BinaryIO

from bench.bytes_on_wire import AGENT, HANDSHAKE, WrongResponse, masked

#: How often it is asked.
TIMES = 15
#: Seconds that the whole may take.
PATIENCE = 10.0


def offset(host: str, port: int, *, name: str) -> float:
    """Return how many seconds have to be added to our clock to have the server's.

    It is asked through the lab, the WebSocket of the page's instruments. Raises WrongAnswer if
    there is none.
    """
    try:
        with (
            socket.create_connection((host, port), PATIENCE) as sock,
            sock.makefile("rb") as stream,
        ):
            return _ask(sock, stream, name)
    except (OSError, ValueError) as error:
        raise WrongResponse(f"/lab does not tell the time: {error}") from error


def _ask(sock: socket.socket, stream: BinaryIO, name: str) -> float:
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(HANDSHAKE.format(path="/lab", host=name, agent=AGENT, key=key).encode())
    if b" 101 " not in stream.readline():
        raise WrongResponse("/lab does not tell the time: it is no WebSocket there")
    while stream.readline().strip():
        pass
    found: list[tuple[float, float]] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < TIMES and time.monotonic() < deadline:
        sock.sendall(masked(1, json.dumps({"do": "clock", "sent": time.time() * 1e3}).encode()))
        while time.monotonic() < deadline:
            opcode, size = stream.read(2)
            size = (
                int.from_bytes(stream.read({126: 2, 127: 8}[size]), "big") if size > 125 else size
            )
            message = stream.read(size)
            if opcode == 0x81 and "clock" in (told := json.loads(message)):
                sent, at, now = told["clock"]["sent"] / 1e3, told["clock"]["at"] / 1e3, time.time()
                found.append((now - sent, at - (sent + now) / 2))
                break
    if not found:
        raise WrongResponse("/lab does not tell the time")
    return min(found)[1]
