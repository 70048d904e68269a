"""The headless half of each transport, a file each."""

from collections.abc import Callable
from importlib import import_module

from pushlab.transports import TRANSPORTS
from tests.transports.base import Browser, sequence
from tests.transports.sse import EventStream

__all__ = ["CLIENTS", "Browser", "EventStream", "sequence"]

#: The headless halves, by the transport's name.
CLIENTS: dict[str, Callable[..., Browser]] = {
    name: import_module(f"tests.transports.{name}").CLIENT for name in TRANSPORTS
}
