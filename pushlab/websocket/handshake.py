"""The WebSocket handshake in WSGI (RFC 6455 section 4.2)."""

import base64
import binascii
from typing import Any, NamedTuple

from wsproto.utilities import generate_accept_token

Environ = dict[str, Any]


class Problem(NamedTuple):
    """Why a request gets no 101, and the status instead."""

    status: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()


def is_websocket_upgrade(environ: Environ) -> bool:
    """Tell whether the request asks for an upgrade to WebSocket."""
    return "websocket" in _tokens(environ, "UPGRADE")


def check(environ: Environ) -> Problem | None:
    """Return why the upgrade is invalid, or None."""
    if environ.get("REQUEST_METHOD") != "GET":
        return Problem("400 Bad Request", "a WebSocket needs a GET request")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return Problem("400 Bad Request", "a WebSocket needs HTTP/1.1")
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        return Problem("400 Bad Request", "a WebSocket request has no body")
    if "upgrade" not in _tokens(environ, "CONNECTION"):
        return Problem("400 Bad Request", "the Connection header does not say Upgrade")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != "13":
        version = ("Sec-WebSocket-Version", "13")
        return Problem("426 Upgrade Required", "only WebSocket version 13 is supported", (version,))
    if not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()):
        return Problem("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes of base64")
    return None


def accept_headers(environ: Environ) -> list[tuple[str, str]]:
    """Return the headers of the 101 that accepts the request."""
    key = environ["HTTP_SEC_WEBSOCKET_KEY"].strip().encode()
    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", generate_accept_token(key).decode()),
    ]


def switching_protocols(environ: Environ) -> bytes:
    """Return the whole 101 that accepts the request."""
    lines = [f"{name}: {value}" for name, value in accept_headers(environ)]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()


def _tokens(environ: Environ, header: str) -> list[str]:
    return [token.strip().lower() for token in environ.get(f"HTTP_{header}", "").split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
