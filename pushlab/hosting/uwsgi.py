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

import uwsgi

from lab import settings as options
from lab.settings import Settings
from pushlab.websocket.middleware import WSGI, Upgrade, close_all

#: What ends a server: Ctrl-C, what service managers send, and uWSGI's wish to reload.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds that a stopping server gives requests and sockets to come to their end.
SHUTDOWN_TIMEOUT = 3.5
_OVER: tuple[bytes, ...] = (b"",)  # what an app returns whose request has become a WebSocket


def host(name: str) -> WSGI:
    """Return what uWSGI is to call for the app of this name, such as `serve:app`.

    Of an app of ours it also knows whom to say goodbye to, and who may come. Exits with one line if
    there is no such app, or if uWSGI is asked for what cannot be.
    """
    if "https-socket" in uwsgi.opt or "https-socket2" in uwsgi.opt:
        sys.exit(
            "With https-socket the TLS is uWSGI's, and no WebSocket can be taken from it. Use "
            "uWSGI's `https` with `http-websockets`, or a proxy like nginx."
        )
    on_gevent = "gevent" in uwsgi.opt
    app = _app(name)
    if on_gevent != _is_patched():
        sys.exit(
            "The gevent loop needs gevent-early-monkey-patch."
            if on_gevent
            else f"{name} is made for gevent: start servers/uwsgi.ini, not threads."
        )
    parts = getattr(app, "extensions", {}).get("pushlab")
    settings: Settings = parts.settings if parts else options.parse([])
    if settings.certfile:
        sys.exit("--certfile is not for uWSGI: docs/reference/uwsgi.rst has the ways to have TLS.")
    address = _address()
    if isinstance(address, tuple):
        settings = replace(settings, host=address[0])
    hosted = Hosted(
        app,
        settings,
        parts.on_shutdown if parts else (),
        import_module(
            "pushlab.hosting.uwsgi_gevent" if on_gevent else "pushlab.hosting.uwsgi_threads"
        ),
    )

    def ready() -> None:
        if not uwsgi.worker_id():
            return  # a helper of uWSGI's that serves nobody
        hosted.hear_signals()
        where = settings.url(address[1]) if isinstance(address, tuple) else address
        # uWSGI has made sys.stdout another name for its log, unless it is a terminal.
        with open(1, "w", closefd=False) as stdout:
            what = "Pushlab" if parts else name
            print(f"{what} is at {where} (Ctrl-C stops it)", file=stdout)

    uwsgi.post_fork_hook = ready  # in the process that serves, be it another one or not
    return hosted


class Hosted(Upgrade):
    """An app, its WebSockets, and their end."""

    def __init__(
        self, app: WSGI, settings: Settings, on_shutdown: Iterable[Callable[[], None]], loop: Any
    ) -> None:
        """The loop is `uwsgi_gevent` or `uwsgi_threads`, which have the same to offer."""
        super().__init__(app, settings.gate())
        self._options = settings.connection()
        self._on_shutdown = [*on_shutdown, self._close_conversations]
        self._loop = loop
        self._connecting = threading.Lock()
        self._connections: WeakSet[Any] = WeakSet()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        body = super().__call__(environ, start_response)
        if body is _OVER:
            # For uWSGI's log; what it writes goes nowhere.
            start_response("101 Switching Protocols", [])
        return body

    def connect(self, environ: dict[str, Any]) -> Any:
        connection = self._loop.UwsgiConnection(environ, **self._options)
        with self._connecting:
            self._connections.add(connection)
        return connection

    def end(self, connection: Any) -> Iterable[bytes]:
        connection.leave()
        return _OVER

    def hear_signals(self) -> None:
        """Stop at the next signal.

        uWSGI would end the process at once, in the middle of whatever it does. So the signals are
        kept from its handlers, and a thread waits for them.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if uwsgi.masterpid():
            self._loop.after_fork()
        threading.Thread(target=self._stop_at_signal, name="signals", daemon=True).start()

    def _stop_at_signal(self) -> None:
        self._loop.wait_for_signal(_SIGNALS)
        self._say_goodbye()
        os._exit(0)  # uWSGI would make it 30, and 17 under gevent

    def _say_goodbye(self) -> None:
        """Tell everyone, and wait for requests and sockets to come to their end."""
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT
        goodbyes = [threading.Thread(target=each, daemon=True) for each in self._on_shutdown]
        for goodbye in goodbyes:
            goodbye.start()
        for goodbye in goodbyes:
            goodbye.join(max(0.0, deadline - time.monotonic()))
        me = uwsgi.worker_id() - 1
        while uwsgi.workers()[me]["status"] == b"busy" and time.monotonic() < deadline:
            time.sleep(0.01)

    def _close_conversations(self) -> None:
        with self._connecting:
            connections = tuple(self._connections)
        close_all(connection for connection in connections if connection.accepted)


def _app(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute or "app")
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, but something is missing that it needs
        sys.exit(f"There is no app {name}: {error}.")
    except AttributeError as error:
        if error.name != attribute:
            raise
        sys.exit(f"There is no app {name}: {error}.")


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _address() -> Any:
    """Return where uWSGI listens: an address and a port, or the path of a Unix socket."""
    with socket.socket(fileno=os.dup(uwsgi.sockets[0])) as listener:
        return listener.getsockname()
