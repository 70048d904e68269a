"""uWSGI on gevent, on asyncio and on threads.

uWSGI's own WebSockets send empty pongs and close frames without a code, do not distinguish text
from binary, and keep a request open for every browser. So a WebSocket takes a copy of the request's
socket with the 101, and from then on only our frames are on it: uWSGI may end its request, and the
connection stays open.

A client must not send frames before it has read the 101 (RFC 6455 section 4.1). If one does, uWSGI
may read them with the request, and they are lost.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple
from urllib.parse import unquote
from weakref import WeakSet

import uwsgi
from werkzeug.http import http_date

from pushlab import limits
from pushlab.hosting.lifecycle import Hosting, StartupError, announce, hosting_of
from pushlab.hosting.request_parser import BadRequest, RequestHeaders, parse_request_line
from pushlab.hosting.settings import ServerSettings
from pushlab.hosting.socket_options import configure, configure_subscriber
from pushlab.hosting.threaded_sockets import wait_and_look
from pushlab.websocket import handshake
from pushlab.websocket.connection import Channel, Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.middleware import Upgrade, close_all
from pushlab.wsgi.responses import WSGI, Environ, Response, error
from pushlab.wsgi.waiting import WAIT, Held

#: What ends a server: Ctrl-C, what service managers send, and what uWSGI sends to reload.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Any of these options lets Python's threads run.
_WITH_THREADS = {"asyncio", "enable-threads", "gevent", "threads"}
#: What uWSGI gets in exchange for a socket.
_NOTHING = os.open(os.devnull, os.O_RDWR)
#: The body that stands for a request that has become a WebSocket.
_UPGRADED: tuple[bytes, ...] = (b"",)


def host(name: str, settings: ServerSettings | None = None) -> WSGI:
    """Return the WSGI application that uWSGI calls for an app.

    `name` is that of the app, such as `serve:app`; `settings` are for an app that brings none.
    Exits with one line if there is no such app, or if uWSGI has options that exclude it.
    """
    try:
        return _host(name, settings or ServerSettings())
    except StartupError as error:
        sys.exit(str(error))


def upgrade(app: Any, settings: ServerSettings) -> WSGI:
    """Return an app's WSGI application, with WebSockets.

    It is for an app that uWSGI loads by itself: `uwsgi --http :5000 --http-websockets --wsgi
    module:app`. On the gevent loop this patches Python, unless uWSGI has done so before.
    """
    _refuse_tls()
    if "gevent" in uwsgi.opt and not _is_patched():
        from gevent import monkey

        monkey.patch_all()
    application = UwsgiUpgrade(app.wsgi_app, hosting_of(app, settings))
    uwsgi.post_fork_hook = application.begin
    return application


def on_asyncio() -> bool:
    """Tell whether uWSGI runs on its asyncio loop."""
    return "asyncio" in uwsgi.opt


def read_shared_area(number: int, position: int) -> bytes:
    """Return a shared area of uWSGI from a position on.

    Raises ValueError if there is no such area or position.
    """
    if not hasattr(uwsgi, "sharedarea_read"):
        raise ValueError("there is no shared area: uWSGI has no option `sharedarea`")
    data: bytes = uwsgi.sharedarea_read(number, position)
    return data


def _refuse_tls() -> None:
    if "https-socket" in uwsgi.opt or "https-socket2" in uwsgi.opt:
        raise StartupError(
            "With https-socket the TLS is uWSGI's, and no WebSocket can be taken from it. Use "
            "uWSGI's `https` with `http-websockets`, or a proxy like nginx."
        )


def _host(name: str, settings: ServerSettings) -> WSGI:
    _refuse_tls()
    on_gevent = "gevent" in uwsgi.opt
    app = _import_app(name)
    if on_gevent != _is_patched():
        raise StartupError(
            "The gevent loop needs gevent-early-monkey-patch."
            if on_gevent
            else f"{name} is made for gevent: start servers/uwsgi.ini, not threads."
        )
    hosting = hosting_of(app, settings, name)
    settings = hosting.settings
    if settings.certfile:
        raise StartupError(
            "--certfile is not for uWSGI: docs/reference/uwsgi.rst says how to have TLS."
        )
    configure(uwsgi.sockets[0])
    address = _address()
    if isinstance(address, tuple):
        settings = replace(settings, host=address[0])
    application = UwsgiUpgrade(app, replace(hosting, settings=settings))

    def ready() -> None:
        application.begin()
        if not uwsgi.worker_id():
            return
        # uWSGI has made sys.stdout another name for its log, unless it is a terminal.
        with open(1, "w", closefd=False) as stdout:
            announce(hosting.name, settings, address, stdout)

    uwsgi.post_fork_hook = ready  # in the process that serves, forked or not
    return application


class _Loop(NamedTuple):
    """What differs between uWSGI's loops and its threads."""

    connection: Callable[..., Any]
    after_fork: Callable[[], None]
    wait_for_signal: Callable[[Collection[signal.Signals]], Any]


def _take_socket() -> int:
    """Return a descriptor of the request's connection, now only ours.

    uWSGI closes its own descriptor when the request ends; the connection stays open. But with
    `http11-socket` it would keep its own for a next request, and read bytes that are meant for us.
    """
    its_own: int = uwsgi.connection_fd()
    ours = os.dup(its_own)
    os.dup2(_NOTHING, its_own, inheritable=False)
    return ours


def _gevent_loop() -> _Loop:
    import gevent
    import gevent.socket

    from pushlab.hosting.gevent_sockets import GeventChannel, plain

    class UwsgiConnection(Connection):
        """A connection that takes uWSGI's socket with the 101."""

        def __init__(self, environ: Environ, **options: Any) -> None:
            super().__init__(**options)
            self._environ = environ

        def _open(self) -> tuple[Any, bytes]:
            self._socket = gevent.socket.socket(fileno=_take_socket())
            self._send_all(handshake.switching_protocols(self._environ, self.subprotocol))
            return self._socket, b""

        def _release(self) -> Channel:
            sock, self._socket = plain(self._socket), None
            configure_subscriber(sock)
            return GeventChannel(sock)

        def close_going_away(self) -> bool:
            """Close with 1001, in a greenlet of its own."""
            gevent.spawn(self.close, CloseReason.GOING_AWAY)
            return True

        def close_socket(self) -> None:
            """Close the socket, unless the hub has it."""
            if self._socket is not None:
                self._socket.close()

    return _Loop(
        UwsgiConnection,
        # gevent has opened descriptors in the master process, if the app was imported there, and
        # several workers would take each other's wake-ups.
        after_fork=lambda: gevent.reinit() if uwsgi.masterpid() else None,
        # In a native thread, or all greenlets would wait.
        wait_for_signal=lambda each: gevent.get_hub().threadpool.apply(signal.sigwait, (each,)),
    )


def _asyncio_loop() -> _Loop:
    # uWSGI takes the event loop of its thread, which must be the process's own: processes that
    # have forked with one would share its selector.
    return _thread_loop()._replace(
        after_fork=lambda: asyncio.set_event_loop(asyncio.new_event_loop())
    )


def _thread_loop() -> _Loop:
    from pushlab.hosting.threaded_sockets import SelectorThread, ThreadChannel, ThreadConnection

    selector_thread = SelectorThread()

    class UwsgiConnection(ThreadConnection):
        """A connection that takes uWSGI's socket with the 101."""

        def __init__(self, environ: Environ, **options: Any) -> None:
            super().__init__(**options)
            self._environ = environ

        def _open(self) -> tuple[ThreadChannel, bytes]:
            sock = socket.socket(fileno=_take_socket())
            self._socket = ThreadChannel(sock, selector_thread)
            self._send_all(handshake.switching_protocols(self._environ, self.subprotocol))
            return self._socket, b""

    return _Loop(UwsgiConnection, after_fork=lambda: None, wait_for_signal=signal.sigwait)


class UwsgiUpgrade(Upgrade):
    """The middleware for uWSGI, and its shutdown."""

    def __init__(self, app: WSGI, hosting: Hosting) -> None:
        super().__init__(app, hosting.settings.access_policy())
        self._options = hosting.settings.connection_options()
        self._on_shutdown = [*hosting.on_shutdown, self._close_conversations]
        self._loop = (
            _gevent_loop() if "gevent" in uwsgi.opt
            else _asyncio_loop() if on_asyncio()
            else _thread_loop()
        )  # fmt: skip
        self._connecting = threading.Lock()
        self._connections: WeakSet[Any] = WeakSet()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "wsgi.websocket" in environ:  # of another of these, in front
            return self.wsgi_app(environ, start_response)

        def start(status: str, headers: Any, *exception: Any) -> Any:
            if not any(name.lower() == "date" for name, _ in headers):
                headers = [*headers, ("Date", http_date())]  # uWSGI adds none
            return start_response(status, headers, *exception)

        response = _parse(environ)
        if response is not None:
            return response(environ, start)
        environ[WAIT] = partial(wait_and_look, uwsgi.connection_fd())
        try:
            body = super().__call__(environ, start)
        except ConnectionClosed:
            return ()
        if body is _UPGRADED:
            # For uWSGI's log; its response goes nowhere.
            start_response("101 Switching Protocols", [])
        return _until_gone(body) if isinstance(body, Held) else body

    def connect(self, environ: Environ) -> Any:
        connection = self._loop.connection(environ, **self._options)
        with self._connecting:
            self._connections.add(connection)
        return connection

    def end(self, connection: Any) -> Iterable[bytes]:
        connection.close_socket()
        return _UPGRADED

    def begin(self) -> None:
        """Begin in a process that serves, forked or not.

        It will shut down gracefully at the next signal. uWSGI would end the process at once. So
        the signals are blocked, and a thread waits for them, where uWSGI has threads.
        """
        if not uwsgi.worker_id():
            return  # a helper process of uWSGI's that serves no requests
        can_wait = not _WITH_THREADS.isdisjoint(uwsgi.opt)
        if can_wait:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._loop.after_fork()
        if not can_wait:
            return
        threading.Thread(target=self._stop_at_signal, name="signals", daemon=True).start()

    def _stop_at_signal(self) -> None:
        self._loop.wait_for_signal(_SIGNALS)
        self._shut_down()
        os._exit(0)  # uWSGI would make it 30, and 17 under gevent

    def _shut_down(self) -> None:
        """Close everything; wait for requests and sockets to end."""
        deadline = time.monotonic() + limits.SHUTDOWN_TIMEOUT
        closing = [threading.Thread(target=close, daemon=True) for close in self._on_shutdown]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))
        ours = uwsgi.worker_id() - 1
        while uwsgi.workers()[ours]["status"] == b"busy" and time.monotonic() < deadline:
            time.sleep(0.01)

    def _close_conversations(self) -> None:
        with self._connecting:
            connections = tuple(self._connections)
        close_all(connection for connection in connections if connection.accepted)


def _until_gone(body: Held) -> Iterator[bytes]:
    """Iterate over a response that waits, unless its client goes."""
    try:
        with suppress(ConnectionClosed):
            yield from body
    finally:
        body.close()


def _parse(environ: Environ) -> Response | None:
    """Correct the environ; return a response that refuses it.

    uWSGI's parser accepts what RFC 9112 refuses: so ours reads what it has made of the request.
    """
    method = environ.get("REQUEST_METHOD", "").removeprefix("\r\n")
    environ["REQUEST_METHOD"] = method  # an empty line may be before a request (section 2.2)
    fields = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")}
    if length := environ.get("CONTENT_LENGTH"):
        fields["CONTENT_LENGTH"] = length
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    target, version = environ.get("REQUEST_URI", ""), environ.get("SERVER_PROTOCOL", "")
    if version in ("HTTP/2.0", "HTTP/3.0") and "http-socket" not in uwsgi.opt:
        version = "HTTP/1.1"  # that is what a proxy's client speaks; it is not spoken here
    try:
        line = parse_request_line(f"{method} {target} {version}\r\n")
        stream: Any = BytesIO(f"{lines}\r\n".encode("latin-1"))
        RequestHeaders(BufferedReader(stream)).check(line)
    except BadRequest as problem:
        return error(problem.status, str(problem))
    if "TRANSFER_ENCODING" in fields:  # uWSGI takes a broken chunk for the last
        return error("411 Length Required", "on uWSGI a body needs its Content-Length")
    if line.target == "*":  # OPTIONS of the server as a whole (RFC 9110 section 9.3.7)
        return Response("200 OK", [("Content-Length", "0")])
    if line.host is not None:
        environ["HTTP_HOST"] = line.host
        environ["PATH_INFO"] = unquote(line.target.partition("?")[0], "latin-1")
    return None


def _import_app(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute or "app")
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the app is there, but a module is missing that it needs
        raise StartupError(f"There is no app {name}: {error}.") from error
    except AttributeError as error:
        if error.name != attribute:
            raise
        raise StartupError(f"There is no app {name}: {error}.") from error


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _address() -> Any:
    """Return uWSGI's address: (host, port) or a path."""
    with socket.socket(fileno=os.dup(uwsgi.sockets[0])) as listener:
        return listener.getsockname()
