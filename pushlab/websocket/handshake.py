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
    return "websocket" in tokens(environ.get("HTTP_UPGRADE", ""))


def check(environ: Environ) -> Problem | None:
    """Return why the upgrade is invalid, or None."""
    if environ.get("REQUEST_METHOD") != "GET":
        return Problem("400 Bad Request", "a WebSocket needs a GET request")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return Problem("400 Bad Request", "a WebSocket needs HTTP/1.1")
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        return Problem("400 Bad Request", "a WebSocket request has no body")
    if "upgrade" not in tokens(environ.get("HTTP_CONNECTION", "")):
        return Problem("400 Bad Request", "the Connection header does not say Upgrade")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != "13":
        version = ("Sec-WebSocket-Version", "13")
        return Problem("426 Upgrade Required", "only WebSocket version 13 is supported", (version,))
    if not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()):
        return Problem("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes of base64")
    return None


def offered_subprotocols(environ: Environ) -> list[str]:
    """Return the offered subprotocols, the preferred one first."""
    offered = environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "")
    return [name.strip() for name in offered.split(",") if name.strip()]


def accept_headers(environ: Environ, subprotocol: str | None = None) -> list[tuple[str, str]]:
    """Return the headers of the 101 that accepts the request."""
    key = environ["HTTP_SEC_WEBSOCKET_KEY"].strip().encode()
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", generate_accept_token(key).decode()),
    ]
    return [*headers, ("Sec-WebSocket-Protocol", subprotocol)] if subprotocol else headers


def switching_protocols(environ: Environ, subprotocol: str | None = None) -> bytes:
    """Return the whole 101 that accepts the request."""
    lines = [f"{name}: {value}" for name, value in accept_headers(environ, subprotocol)]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()


def tokens(value: str) -> list[str]:
    """Return the elements of a header's list, in lower case."""
    return [token.strip().lower() for token in value.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
