"""Chromium's requests, byte for byte.

As sent by Chromium 156 on Linux, past its cache. A test compares them with the browser's own.
"""

import base64
import hashlib
import os
from functools import lru_cache
from pathlib import Path

_FOLDER = Path(__file__).with_suffix("")


def _template(name: str) -> str:
    return (_FOLDER / f"{name}.http").read_text().replace("\n", "\r\n")


#: {etag} is If-None-Match, which the page adds once it has a reading.
FETCH, EVENT_SOURCE, HANDSHAKE = map(_template, ("fetch", "event-source", "handshake"))
#: Reloading the page.
NAVIGATE = _template("navigate")
AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Safari/537.36"
)


@lru_cache(maxsize=1000)  # every client sends the same
def request(
    host: str, path: str, *, method: str = "GET", known: str = "", template: str = FETCH
) -> bytes:
    """Return a request of a page that has a reading."""
    etag = f'If-None-Match: "{known}"\r\n' if known else ""
    return template.format(method=method, path=path, host=host, agent=AGENT, etag=etag).encode()


def handshake(host: str, path: str) -> tuple[bytes, bytes]:
    """Return a WebSocket's request, and what accepts it (RFC 6455)."""
    key = base64.b64encode(os.urandom(16)).decode()
    request = HANDSHAKE.format(path=path, host=host, agent=AGENT, key=key).encode()
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode())  # noqa: S324
    return request, base64.b64encode(digest.digest())
