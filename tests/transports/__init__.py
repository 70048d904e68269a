"""The headless half of each transport, a file each: tests receive readings as browsers do."""

from collections.abc import Callable
from importlib import import_module

from pushlab.transports import TRANSPORTS
from tests.transports.base import Browser, sequence
from tests.transports.sse import EventStream
from tests.transports.websocket import WebSocketClient

__all__ = ["CLIENTS", "Browser", "EventStream", "clients", "sequence"]

#: By name, the headless halves; a WebSocket with two libraries.
CLIENTS: dict[str, Callable[..., Browser]] = {
    **{name: import_module(f"tests.transports.{name}").CLIENT for name in TRANSPORTS},
    "websocket-client": WebSocketClient,
}


def clients(*, tls: bool) -> list[str]:
    """Return the names of those that can be used, with TLS or without."""
    return [name for name in CLIENTS if not (tls and name == "websocket")]
