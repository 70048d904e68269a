"""gevent's WSGI server, with limits on who may come and a farewell when it stops."""

import logging
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.pywsgi import WSGIServer

from lab.meter import Metering, Meters
from lab.settings import HEAD_TIMEOUT
from pushlab.hosting.gevent_handler import Handler, abort
from pushlab.hosting.listener import MANY, listen, raise_descriptor_limit
from pushlab.websocket.connection import CLOSE_TIMEOUT
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.handshake import AccessPolicy

__all__ = ["SHUTDOWN_TIMEOUT", "Server", "freeze", "listen", "raise_descriptor_limit"]

logger = logging.getLogger(__name__)

#: Seconds that a stopping server gives requests and sockets to come to their end.
SHUTDOWN_TIMEOUT = 3.5

#: Descriptors that are kept for files, pipes, and for turning clients away.
_SPARE_DESCRIPTORS = 200


def freeze(seconds: float) -> None:
    """Hold up the whole server: all greenlets take turns in one thread, which sleeps now."""
    monkey.get_original("time", "sleep")(seconds)


class Server(WSGIServer):  # type: ignore[misc]
    """A WSGIServer that says goodbye.

    On Ctrl-C or SIGTERM it stops accepting, calls everything in `on_shutdown` (close the feed, so
    that waiting polls are answered; close the hub), closes conversations with 1001, and returns
    from `serve_forever` when all is done, at once if nobody is connected.
    """

    handler_class = Handler

    def __init__(
        self,
        listener: socket.socket,
        application: Any,
        *,
        on_shutdown: Collection[Callable[[], None]] = (),
        gate: AccessPolicy | None = None,
        max_clients: int | None = None,
        head_timeout: float = HEAD_TIMEOUT,
        meters: Meters | None = None,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        options.setdefault("log", None)
        options.setdefault("error_log", logging.getLogger("pushlab.requests"))
        if meters is not None:  # in front of all that an app may have in front of it
            application = Metering(application)
            meters.are_counting = True
        super().__init__(listener, application, **options)
        self.on_shutdown = on_shutdown
        self.gate = gate or AccessPolicy()
        self.connection_options = connection_options
        self.handlers: set[Handler] = set()
        self.head_timeout = head_timeout
        self.meters = meters
        self.max_clients = min(
            max_clients or MANY, max(1, raise_descriptor_limit() - _SPARE_DESCRIPTORS)
        )
        self.turned_away = 0
        self._clients = 0
        self._handshaking = 0  # of TLS
        self._asked_to_stop = Event()

    def start(self) -> None:
        """Accept clients; from now on Ctrl-C and SIGTERM end `serve_forever`, even in advance."""
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):  # they differ between systems
                gevent.signal_handler(getattr(signal, name), self._asked_to_stop.set)
        super().start()

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until SIGTERM, Ctrl-C or `stop`."""
        if not self.started:
            self.start()
        while not self._asked_to_stop.wait(min(1.0, self.head_timeout / 4)):
            self.close_timed_out()
        self.stop(stop_timeout)

    def close_timed_out(self) -> None:
        """Drop the connections on which nothing has come for longer than may be."""
        now = time.monotonic()
        for handler in [each for each in self.handlers if each.due < now]:
            abort(handler.socket)

    @property
    def patience(self) -> float:
        """Seconds to spend on a client that is turned away: none when there are many of them."""
        return 1.0 if self.turned_away < _SPARE_DESCRIPTORS / 2 else 0.0

    def enter(self) -> bool:
        """Count one more connection, if there is room for it."""
        if self._clients >= self.max_clients:
            return False
        self._clients += 1
        return True

    def leave(self) -> None:
        """Count one connection less."""
        self._clients -= 1

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, say goodbye to everyone, and wait at most `timeout` seconds for them."""
        deadline = time.monotonic() + (SHUTDOWN_TIMEOUT if timeout is None else timeout)
        self.close()
        self._asked_to_stop.set()
        goodbyes = [gevent.spawn(goodbye) for goodbye in self.on_shutdown]
        for handler in tuple(self.handlers):
            if handler.idle:
                abort(handler.socket)
            elif handler.connection is not None and handler.connection.accepted:
                goodbyes.append(gevent.spawn(handler.connection.close, CloseReason.GOING_AWAY))
                gevent.spawn_later(CLOSE_TIMEOUT, self._give_up, handler)
        gevent.joinall(goodbyes, timeout=deadline - time.monotonic())
        while self.handlers and time.monotonic() < deadline:
            gevent.sleep(0.01)

    def _give_up(self, handler: Handler) -> None:
        """End a conversation whose peer has not answered our close."""
        if handler in self.handlers:
            abort(handler.socket)

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        # Some beyond the limit may finish their handshake, to be told by a 503 that it is one.
        if self._clients + self._handshaking >= self.max_clients + _SPARE_DESCRIPTORS // 2:
            return
        self._handshaking += 1
        try:
            with gevent.Timeout(self.head_timeout, TimeoutError):
                tls_socket = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # of which SSLError and TimeoutError are two
            logger.info("%s: no TLS connection: %s", address[0], error)
            return
        finally:
            self._handshaking -= 1
        with closing(tls_socket):
            self.handle(tls_socket, address)
