"""uWSGI hosts an app: `host` gives it its WebSockets, says when it is ready, and says goodbye."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import import_module
from typing import Any
from weakref import WeakSet

import gevent
import uwsgi

from pushlab.connection import Connection
from pushlab.frames import CloseReason
from pushlab.handshake import Gate
from pushlab.options import Settings
from pushlab.upgrade import WSGI, Upgrade
from pushlab.uwsgi_connection import UwsgiConnection

#: What ends a server: Ctrl-C, what service managers send, and uWSGI's wish to reload.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds that a stopping server gives requests and sockets to come to their end.
FAREWELL_TIMEOUT = 3.5


def host(name: str) -> WSGI:
    """Return what uWSGI is to call for the app of this name, such as `serve:app`.

    Of an app of ours it also knows whom to say goodbye to, and who may come. Exits with one line if
    there is no such app, or if uWSGI is asked for what cannot be.
    """
    if "https-socket" in uwsgi.opt or "https-socket2" in uwsgi.opt:
        sys.exit(
            "With https-socket the TLS is uWSGI's, and no WebSocket can be taken from it. Use "
            "`https` with `http-websockets`, which decrypts in a process of its own, or a proxy."
        )
    module, _, attribute = name.partition(":")
    try:
        app = getattr(import_module(module), attribute or "app")
    except (ImportError, AttributeError) as error:
        sys.exit(f"There is no app {name}: {error}.")
    parts = getattr(app, "extensions", {}).get("pushlab")
    address = _address()
    settings = parts.settings if parts else Settings()
    if isinstance(address, tuple):
        settings = replace(settings, host=address[0])
    hosted = Hosted(app, settings.gate(), parts.farewell if parts else ())

    def ready() -> None:
        hosted.hear_signals()
        where = settings.url(address[1]) if isinstance(address, tuple) else address
        # uWSGI has made sys.stdout another name for its log.
        print(f"Pushlab is at {where} (Ctrl-C stops it)", file=sys.__stdout__, flush=True)

    uwsgi.post_fork_hook = ready  # in the process that serves, be it another one or not
    return hosted


class Hosted(Upgrade):
    """An app, its WebSockets, and their end."""

    def __init__(self, app: WSGI, gate: Gate, farewell: Iterable[Callable[[], None]]) -> None:
        super().__init__(app, gate)
        self._farewell = [*farewell, self._close_conversations]
        self._connections: WeakSet[UwsgiConnection] = WeakSet()

    def connect(self, environ: dict[str, Any]) -> UwsgiConnection:
        connection = UwsgiConnection(environ)
        self._connections.add(connection)
        return connection

    def end(self, connection: Connection) -> Iterable[bytes]:
        if isinstance(connection, UwsgiConnection):
            connection.end()
        return []

    def hear_signals(self) -> None:
        """Stop at the next signal.

        uWSGI would end the process at once, in the middle of whatever it does. So the signals are
        kept from its handlers, and a thread, a real one, waits for them.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._stop_at_signal, name="signals", daemon=True).start()

    def _stop_at_signal(self) -> None:
        gevent.get_hub().threadpool.apply(signal.sigwait, (_SIGNALS,))
        self._say_goodbye()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # uWSGI would make it 30, and 17 under gevent

    def _say_goodbye(self) -> None:
        """Tell everyone, and wait for requests and sockets to come to their end."""
        deadline = time.monotonic() + FAREWELL_TIMEOUT
        goodbyes = [threading.Thread(target=each, daemon=True) for each in self._farewell]
        for goodbye in goodbyes:
            goodbye.start()
        for goodbye in goodbyes:
            goodbye.join(max(0.0, deadline - time.monotonic()))
        me = uwsgi.worker_id() - 1
        while uwsgi.workers()[me]["status"] == "busy" and time.monotonic() < deadline:
            time.sleep(0.01)

    def _close_conversations(self) -> None:
        for connection in tuple(self._connections):
            if connection.accepted:
                connection.close(CloseReason.GOING_AWAY)


def _address() -> Any:
    """Return where uWSGI listens: an address and a port, or the path of a Unix socket."""
    with socket.socket(fileno=os.dup(uwsgi.sockets[0])) as listener:
        return listener.getsockname()
