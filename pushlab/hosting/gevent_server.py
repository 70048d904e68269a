"""gevent's WSGI server: HTTP, WebSockets, limits, and a graceful shutdown.

`run` starts one and serves until Ctrl-C; `Server` and `Handler` are what it is made of.
"""

import errno
import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from pushlab import limits
from pushlab.hosting.client_gone import gone
from pushlab.hosting.deadlines import Deadlines
from pushlab.hosting.gevent_sockets import GeventConnection, abort, wait_until_gone
from pushlab.hosting.lifecycle import hosting_of, serve, stop_signals
from pushlab.hosting.listener import AcceptErrors
from pushlab.hosting.listener import max_connections as listener_limit
from pushlab.hosting.log_lines import printable
from pushlab.hosting.metering import EXCHANGE, Exchange
from pushlab.hosting.request_body import NO_BODY, BadBody, RequestBody
from pushlab.hosting.request_parser import BadRequest, RequestHeaders, parse_request_line
from pushlab.hosting.settings import ServerSettings
from pushlab.hosting.tls import is_plain_http
from pushlab.websocket import handshake
from pushlab.websocket.connection import ConnectionClosed
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.middleware import run_websocket_app
from pushlab.wsgi.responses import WSGI, raw_error, service_unavailable
from pushlab.wsgi.waiting import WAIT

logger = logging.getLogger(__name__)

#: Up to this many bytes of body are copied behind the headers: cheaper than a second write.
_ONE_WRITE = 64 * 1024

#: Seconds that a read takes at most if it need not wait.
_NO_WAIT = 20e-6

#: Names of header fields in the environ, for those that have come before.
_ENVIRON_NAMES: dict[str, str] = {}


def freeze(seconds: float) -> None:
    """Hold up the whole server for some seconds.

    All greenlets take turns in one thread, which sleeps now.
    """
    monkey.get_original("time", "sleep")(seconds)


class Handler(WebSocketHandler):  # type: ignore[misc]
    """One HTTP connection, and the WebSocket that it may become.

    gevent-websocket's handler is the base, and its contract is kept: an upgrade gives the app
    `environ["wsgi.websocket"]`. The object there is ours: the stock one has no size limit, no
    Origin check, a broken close handshake, and mixes the frames of two senders.
    """

    server: "Server"
    path: str
    logger = logging.getLogger("pushlab.requests")

    connection: GeventConnection | None = None
    #: The request asks for an upgrade to WebSocket.
    wants_socket = False
    #: What counts the bytes of the request, if they are counted.
    exchange: Exchange | None = None
    #: Between two requests: closing the socket loses nothing.
    idle = False
    #: The monotonic time by which the next bytes must have come.
    deadline = math.inf
    provided_content_length: str | None
    #: The monotonic time at which this connection lets others run.
    _slice_ends = 0.0
    ignored_socket_errors = (
        *WebSocketHandler.ignored_socket_errors, errno.ETIMEDOUT, errno.ECONNABORTED
    )  # fmt: skip

    def handle(self) -> None:
        if self.server.connections >= self.server.max_connections:
            self._reject_busy()
            return
        self.server.connections += 1
        self.server.handlers.add(self)
        now = time.monotonic()
        self.deadline, self._slice_ends = now + self.server.header_timeout, now + limits.TIME_SLICE
        try:
            super().handle()
        except OSError as error:
            self.logger.debug("%s: closed before the response: %s", self.client_address, error)
        finally:
            self.server.handlers.discard(self)
            if self.connection is None or not self.connection.detached:
                self.server.release()

    def _reject_busy(self) -> None:
        """Send 503, and wait a moment for the client's close."""
        server = self.server
        server.rejecting += 1
        has_time = server.rejecting <= limits.MAX_REJECTING
        try:
            # Closing before the request has come would reset the connection, and the response could
            # be lost. So wait for the request, unless there are many to wait for.
            self.socket.settimeout(limits.REJECT_TIMEOUT if has_time else 0.0)
            with suppress(OSError):
                self.socket.recv(16 * 1024)
            self.socket.sendall(service_unavailable())
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.recv(16 * 1024)
        except OSError:
            pass  # the client has closed, which is what we want
        finally:
            self.rfile.close()
            server.rejecting -= 1

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        self.wants_socket = handshake.is_websocket_upgrade(environ)
        # None of these refers to the handler: without a cycle it is gone with its request.
        if self.headers.has_body:
            self.wsgi_input = RequestBody(self.rfile, self.headers, self.socket.sendall)
        else:
            self.wsgi_input = NO_BODY
        environ["wsgi.input"] = self.wsgi_input.for_application()
        environ["wsgi.input_terminated"] = True
        environ[WAIT] = partial(wait_until_gone, self.server.waiting, self.socket)
        self.exchange = None
        meters = self.server.meters
        if meters is not None and not self.headers.has_body:
            self.exchange = meters.open(
                environ["QUERY_STRING"],
                up=self._line_size + self.headers.size,
                abort=partial(abort, self.socket),
            )
            if self.exchange is not None:
                environ[EXCHANGE] = self.exchange
        return environ

    def handle_one_request(self) -> Any:
        # A client that sends requests faster than they are served never makes us wait, and so would
        # have the server for itself.
        if time.monotonic() >= self._slice_ends:
            gevent.sleep(0)
            self._slice_ends = time.monotonic() + limits.TIME_SLICE
        return super().handle_one_request()

    def read_requestline(self) -> str:
        if self.server.closed:
            return ""  # which ends the connection
        self.idle, begun = True, time.monotonic()
        try:
            line: str = super().read_requestline()
            for _ in range(limits.MAX_EMPTY_LINES):  # before a request (RFC 9112 section 2.2)
                if line != "\r\n":
                    break
                line = super().read_requestline()
        finally:
            self.idle = False
        if (now := time.monotonic()) - begun > _NO_WAIT:  # others have run meanwhile
            self._slice_ends = now + limits.TIME_SLICE
        self._line_size = len(line)
        return line

    def read_request(self, raw_requestline: str) -> bool:
        # The first request has been timed since the connection was made.
        self.deadline = min(self.deadline, time.monotonic() + self.server.header_timeout)
        self.requestline = raw_requestline.rstrip()
        line = parse_request_line(raw_requestline)
        self.command, self.path, self.request_version = line.method, line.target, line.version
        self.headers = RequestHeaders(self.rfile)
        self.headers.check(line)
        self.content_length = int(self.headers.get("content-length") or 0) or None
        options = handshake.tokens(self.headers.get("connection") or "")
        is_old = line.version == "HTTP/1.0"
        self.close_connection = "keep-alive" not in options if is_old else "close" in options
        return True

    def handle_one_response(self) -> None:
        exchange = self.exchange
        has_body = self.headers.has_body
        self.deadline = time.monotonic() + limits.BODY_TIMEOUT if has_body else math.inf
        if exchange is not None and exchange.is_cut:
            abort(self.socket)
            self.close_connection = True
            exchange.closed()
            return
        try:
            super().handle_one_response()
        finally:
            if exchange is not None and (self.connection is None or not self.connection.detached):
                exchange.closed()
        if self.wsgi_input.broken:  # and so is what follows it (RFC 9112 section 11.2)
            self.close_connection = True
        self.deadline = time.monotonic() + limits.IDLE_TIMEOUT

    def run_application(self) -> None:
        rejection = self.server.access_policy.check(self.environ)
        if rejection is not None:
            if self.exchange is not None:
                self.exchange.responds(rejection.code)
            is_head = self.environ["REQUEST_METHOD"] == "HEAD"
            self._respond_in_http(
                rejection.status, rejection.headers, () if is_head else rejection.body
            )
            return
        if self.path == "*":  # OPTIONS of the server as a whole (RFC 9110 section 9.3.7)
            self.start_response("200 OK", [("Content-Length", "0")])
            self.write(b"")
            return
        if not self.wants_socket:
            super(WebSocketHandler, self).run_application()
            return
        self.connection = GeventConnection(self, **self.server.connection_options)
        response = run_websocket_app(self.application, self.environ, self.connection)
        if response is not None:
            self._respond_in_http(*response)

    def _respond_in_http(self, status: str, headers: Any, body: Iterable[bytes]) -> None:
        """Send a plain HTTP response, with which the connection ends."""
        self.start_response(status, [*headers, ("Connection", "close")])
        self.result = body
        try:
            self.process_result()
        finally:
            getattr(body, "close", lambda: None)()

    def switch_protocols(self, subprotocol: str | None) -> None:
        """Send the 101, without gevent-websocket's connection object."""
        self.start_response(
            "101 Switching Protocols", handshake.accept_headers(self.environ, subprotocol)
        )
        if self.exchange is None:
            self.write(b"")
        else:
            self.exchange.responds(101)
            self.write(b"")
            self.exchange.report()

    def _sendall(self, data: bytes) -> None:
        before, self.deadline = (
            self.deadline,
            min(self.deadline, time.monotonic() + limits.RESPONSE_TIMEOUT),
        )
        super()._sendall(data)
        self.deadline = before
        if self.exchange is not None:
            self.exchange.sent(len(data))

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        if issubclass(t, OSError | ConnectionClosed):  # the client's mistake, or it has closed
            self.close_connection = True
            self.logger.info("%s: %r", self.client_address, v)
            if issubclass(t, BadBody) and not self.headers_sent:
                with suppress(OSError):
                    self.socket.sendall(raw_error("400 Bad Request", str(v)))
        else:
            super().handle_error(t, v, tb)

    def log_request(self) -> None:
        if self.logger.isEnabledFor(logging.INFO):
            self.logger.info("%s", printable(self.format_request()))

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        """Return the response to bytes that are no request."""
        self.logger.info("%s: no request: %s", self.client_address, ex)
        status = ex.status if isinstance(ex, BadRequest) else "400 Bad Request"
        return status, raw_error(status, str(ex))

    def _headers(self) -> Iterator[tuple[str, str]]:
        """Yield the header fields by their names in the environ."""
        for name, value in self.headers.fields:
            key = _ENVIRON_NAMES.get(name)
            if key is None:
                key = f"HTTP_{name.replace('-', '_').upper()}"
                # X_Y would look like X-Y; these two have other names in the environ.
                if "_" in name or name in ("content-type", "content-length"):
                    continue
                if len(_ENVIRON_NAMES) < 1000:
                    _ENVIRON_NAMES[name] = key
            yield key, value

    def write(self, data: bytes) -> None:
        has_content = self.command != "HEAD" and self.code not in (204, 304)
        super().write(data if has_content else b"")

    def process_result(self) -> None:
        if self.command != "HEAD":
            super().process_result()
            return
        for _ in self.result:  # an application may only begin when it is iterated
            break
        if not self.headers_sent:
            self.write(b"")

    def _write_with_headers(self, data: bytes) -> None:
        """Write headers and a short body in one packet."""
        self.headers_sent = True
        if self.command == "HEAD" and self.provided_content_length is None:
            self.provided_content_length = ""  # unknown, and not the size of no content
        self.finalize_headers()
        if self.wsgi_input.broken:
            self.response_headers.append((b"Connection", b"close"))
        if self.command == "HEAD":  # no content, and so no chunks (RFC 9110 section 9.3.2)
            self.response_use_chunked = False
        lines = [b"HTTP/1.1 " + self.status]
        lines += [name + b": " + value for name, value in self.response_headers]
        headers = b"\r\n".join(lines) + b"\r\n\r\n"
        if self.response_use_chunked or len(data) > _ONE_WRITE:
            self._sendall(headers)
            if self.exchange is not None and self.response_use_chunked:
                self.exchange.report()  # its body may have no end
            self._write(data)
        else:
            self._sendall(headers + (data or b""))


@dataclass(eq=False)
class _Handshake:
    """A client whose TLS handshake has begun."""

    socket: Any
    deadline: float


class Server(WSGIServer):  # type: ignore[misc]
    """A WSGIServer with limits and a graceful shutdown.

    On Ctrl-C or SIGTERM it stops accepting, calls everything in `on_shutdown` (close the feed, so
    that waiting polls get their response; close the hub), closes conversations with 1001, and
    returns from `serve_forever` when all is done, at once without connections.

    `options` are those of the base.
    """

    handler_class = Handler

    def __init__(
        self,
        listener: socket.socket,
        application: Any,
        settings: ServerSettings | None = None,
        *,
        on_shutdown: Collection[Callable[[], None]] = (),
        **options: Any,
    ) -> None:
        settings = settings or ServerSettings(host=str(listener.getsockname()[0]))
        self.settings = settings
        self.hosting = hosting_of(application, settings)
        self.meters = self.hosting.meters
        if self.meters is not None:  # in front of all middleware of the app
            application = self.meters.install(application)
        options.setdefault("log", None)
        options.setdefault("error_log", logging.getLogger("pushlab.requests"))
        if "ssl_context" not in options and (ssl_context := settings.ssl_context()):
            options["ssl_context"] = ssl_context
        super().__init__(listener, application, **options)
        self.on_shutdown = (*self.hosting.on_shutdown, *on_shutdown)
        self.access_policy = settings.access_policy()
        self.connection_options = settings.connection_options()
        self.header_timeout = settings.header_timeout
        self.max_connections = listener_limit(settings.max_connections)
        self.handlers: set[Handler] = set()
        #: By descriptor, the greenlets that wait for news.
        self.waiting: dict[int, Any] = {}
        self.rejecting = 0  # connections that are being rejected with 503
        self.connections = 0
        self._handshaking: set[_Handshake] = set()  # of TLS
        self._deadlines = Deadlines()
        self._accept_errors = AcceptErrors()
        self._stop_requested = Event()

    def start(self) -> None:
        """Accept connections.

        From now on Ctrl-C and SIGTERM end `serve_forever`, even in advance.
        """
        for number in stop_signals():
            gevent.signal_handler(number, self._stop_requested.set)
        super().start()

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until SIGTERM, Ctrl-C or `stop`."""
        if not self.started:
            self.start()
        while not self._stop_requested.wait(min(limits.LOOK_INTERVAL, self.header_timeout / 4)):
            self.close_timed_out()
        self.stop(stop_timeout)

    def close_timed_out(self) -> None:
        """End late connections, and the waits of gone clients."""
        clients: list[Handler | _Handshake] = [*self.handlers, *self._handshaking]
        for late in self._deadlines.passed(clients):
            abort(late.socket)
        for number in gone(self.waiting):
            gevent.kill(self.waiting[number], ConnectionClosed("the client is gone"))

    def release(self) -> None:
        """Count one connection less."""
        self.connections -= 1

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, close everything, wait at most `timeout` seconds."""
        deadline = time.monotonic() + (limits.SHUTDOWN_TIMEOUT if timeout is None else timeout)
        self.close()
        self._stop_requested.set()
        closing = [gevent.spawn(close) for close in self.on_shutdown]
        for handler in tuple(self.handlers):
            if handler.idle:
                abort(handler.socket)
            elif handler.connection is not None and handler.connection.accepted:
                closing.append(gevent.spawn(handler.connection.close, CloseReason.GOING_AWAY))
                gevent.spawn_later(limits.CLOSE_TIMEOUT, self._abort, handler)
        gevent.joinall(closing, timeout=deadline - time.monotonic())
        while self.handlers and time.monotonic() < deadline:
            gevent.sleep(0.01)

    def _abort(self, handler: Handler) -> None:
        """Abort a conversation that got no close frame."""
        if handler in self.handlers:
            abort(handler.socket)

    def do_read(self) -> Any:
        """Accept a connection; None if that is not possible now."""
        try:
            return super().do_read()
        except ConnectionError:  # the client has closed already
            return None
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            self._accept_errors.log(error)
            self.stop_accepting()
            self._timer = self.loop.timer(AcceptErrors.PAUSE)
            self._timer.start(self._start_accepting_if_started)
            return None

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        # Some beyond the limit may finish their handshake, to receive a 503.
        if self.connections + len(self._handshaking) >= self.max_connections + limits.MAX_REJECTING:
            return
        client = _Handshake(client_socket, time.monotonic() + self.header_timeout)
        self._handshaking.add(client)
        try:
            if is_plain_http(client_socket, type(client_socket)):
                return
            client.socket = self.wrap_socket(
                client_socket, do_handshake_on_connect=False, **self.ssl_args
            )
            client.socket.do_handshake()
        except OSError as error:  # of which SSLError is one
            logger.info("%s: no TLS connection: %s", address[0], error)
            client.socket.close()
            return
        finally:
            self._handshaking.discard(client)
        with closing(client.socket):
            self.handle(client.socket, address)


def run(
    app: WSGI,
    settings: ServerSettings | None = None,
    *,
    background: Callable[[], None] | None = None,
    on_shutdown: Collection[Callable[[], None]] = (),
    while_serving: Callable[[int], AbstractContextManager[object]] = nullcontext,
    **changes: Any,
) -> None:
    """Serve the app until Ctrl-C or SIGTERM, in one call.

    `background` runs in a greenlet of its own. `on_shutdown` are called when the server stops,
    after those that the app names. `while_serving(port)` returns a context in which the server
    serves. `changes` are fields of ServerSettings, such as `port=8000`. Exits with status 1 and one
    line if the server cannot start.
    """
    settings = replace(settings or ServerSettings(), **changes)
    start = background and partial(gevent.spawn, background)
    serve(Server, app, settings, start, on_shutdown, while_serving)
