"""gevent's WSGI server: HTTP, WebSockets, limits, and a graceful shutdown.

`run` starts one and serves until Ctrl-C; `Server` and `Handler` are what it is made of.
"""

import errno
import logging
import math
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from io import BufferedReader, RawIOBase
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

from pushlab import counts, limits
from pushlab.feed import Feed
from pushlab.hosting.access_log import AccessLog, Entry
from pushlab.hosting.client_gone import gone
from pushlab.hosting.deadlines import Deadlines
from pushlab.hosting.direct import DirectDispatch
from pushlab.hosting.gevent_connections import (
    ClientConnection,
    GeventConnection,
    Returns,
    TLSConnection,
)
from pushlab.hosting.gevent_sockets import PlainSocket, abort, for_greenlets, wait_until_gone
from pushlab.hosting.greenlet_pool import GreenletPool
from pushlab.hosting.lifecycle import StartupError, hosting_of, serve, stop_signals
from pushlab.hosting.listener import AcceptErrors
from pushlab.hosting.listener import max_connections as listener_limit
from pushlab.hosting.log_lines import printable
from pushlab.hosting.metering import EXCHANGE, Exchange
from pushlab.hosting.rejections import is_plain_http, reject_busy
from pushlab.hosting.request_body import NO_BODY, BadBody, RequestBody
from pushlab.hosting.request_parser import (
    BadRequest,
    RequestHeaders,
    environ_name,
    parse_request_line,
)
from pushlab.hosting.settings import ServerSettings
from pushlab.hosting.timer_wheel import TimerWheel
from pushlab.websocket import handshake
from pushlab.websocket.connection import ConnectionClosed
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.middleware import run_websocket_app
from pushlab.wsgi.responses import WSGI, HeaderFields, Headers, Response, encode, raw_error
from pushlab.wsgi.waiting import WAIT, Held, Stream, Wait

logger = logging.getLogger(__name__)

#: Up to this many bytes of body are copied behind the headers: cheaper than a second write.
_ONE_WRITE = 64 * 1024

#: Seconds that a read takes at most if it need not wait.
_NO_WAIT = 20e-6


def freeze(seconds: float) -> None:
    """Hold up the whole server for some seconds.

    All greenlets take turns in one thread, which sleeps now.
    """
    monkey.get_original("time", "sleep")(seconds)


class Received(RawIOBase):
    """What a client sends, as a file.

    It begins with what has been read already.
    """

    def __init__(self, sock: Any, early: bytes) -> None:
        self._receive_into = sock.recv_into
        self.early = early
        self.waits = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if early := self.early:
            size = min(len(buffer), len(early))
            buffer[:size], self.early = early[:size], early[size:]
            return size
        if not self.waits:
            return None
        count: int = self._receive_into(buffer)
        return count


def _close(sock: Any) -> None:
    """Close a socket.

    What has come is read before, or closing would reset the connection.
    """
    with suppress(OSError):
        sock.settimeout(0)
        sock.recv(16 * 1024)
    with suppress(OSError):
        sock.close()


class Handler(WebSocketHandler):  # type: ignore[misc]
    """One request, and those that have come behind it.

    An upgrade makes it a WebSocket.

    gevent-websocket's handler is the base, and its contract is kept: an upgrade gives the app
    `environ["wsgi.websocket"]`. The object there is ours: the stock one has no size limit, no
    Origin check, a broken close handshake, and mixes the frames of two senders.
    """

    server: "Server"
    socket: Any
    path: str
    logger = logging.getLogger("pushlab.requests")

    connection: GeventConnection | None = None
    #: The request asks for an upgrade to WebSocket.
    wants_socket = False
    #: What counts the bytes of the request, if they are counted.
    exchange: Exchange | None = None
    #: Its entry in the access log, if there is one.
    entry: Entry | None = None
    #: What the request waits for, if the hub is to hold the connection.
    held: Wait | Stream | None = None
    #: The monotonic time by which the next bytes must have come.
    deadline = math.inf
    provided_content_length: str | None
    #: The monotonic time at which this connection lets others run.
    _slice_ends = 0.0
    ignored_socket_errors = (
        *WebSocketHandler.ignored_socket_errors, errno.ETIMEDOUT, errno.ECONNABORTED
    )  # fmt: skip

    def __init__(
        self, client: ClientConnection | None, sock: Any, address: Any, server: Any, early: bytes
    ) -> None:
        self.client: Any = client
        self._received = Received(sock, early)
        super().__init__(sock, address, server, rfile=BufferedReader(self._received))

    def early(self) -> bytes:
        """Return what has come behind the request, without waiting."""
        self._received.waits = False
        early: bytes = self.rfile.peek() + self._received.early  # with what did not fit
        self._received.waits = True
        return early

    def handle(self) -> None:
        """Serve what has come; give the connection back."""
        server, client = self.server, self.client
        server.handlers.add(self)
        now = time.monotonic()
        self.deadline = min(client.due, now + server.header_timeout)
        self._slice_ends = now + limits.TIME_SLICE
        goes_on = False
        try:
            while not goes_on and self.socket is not None and not server.closed:
                self.time_start, self.time_finish = time.time(), 0.0
                result = self.handle_one_request()
                if result is None:
                    break
                if result is not True:
                    self.status, body = result
                    self.socket.sendall(body)
                    break
                goes_on = self.held is not None or not self.early()
        except OSError as error:
            self.logger.debug("%s: closed before the response: %s", self.client_address, error)
        finally:
            server.handlers.discard(self)
            sock, self.socket = self.socket, None
            if sock is None:
                if self.connection is None or not self.connection.detached:
                    server.release()
            elif goes_on:
                self._give_back(sock)
            else:
                _close(sock)
                server.release()

    def _give_back(self, sock: Any) -> None:
        client, held, early = self.client, self.held, self.early()
        client.take_back(sock)
        client.park(limits.IDLE_TIMEOUT)  # before it waits, or its end would not be noticed
        if held is not None:
            self.server.hold(client, held, self._headers_so_far())
            if early and isinstance(held, Wait):
                client.resume(early)

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
        self.exchange, self.held = None, None
        if self.server.access_log is not None:
            self.entry = self.server.access_log.begin(environ, self.path)
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
        begun = time.monotonic()
        line: str = super().read_requestline()
        for _ in range(limits.MAX_EMPTY_LINES):  # before a request (RFC 9112 section 2.2)
            if line != "\r\n":
                break
            line = super().read_requestline()
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
            if self.connection is None or not self.connection.detached:
                if exchange is not None:
                    exchange.closed()
                if self.entry is not None:
                    self.entry.end(getattr(self.connection, "ended_with", None))
        if self.wsgi_input.broken:  # and so is what follows it (RFC 9112 section 11.2)
            self.close_connection = True
        self.deadline = time.monotonic() + self.server.header_timeout

    def run_application(self) -> None:
        rejection = self.server.access_policy.check(self.environ)
        if rejection is not None:
            counts.refuse(rejection.code)
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
        if self.entry is not None:
            self.entry.status = self.code
            self.entry.bytes += len(data)
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
            # X_Y would look like X-Y; these two have other names in the environ.
            if "_" not in name and name not in ("content-type", "content-length"):
                yield environ_name(name), value

    def write(self, data: bytes) -> None:
        has_content = self.command != "HEAD" and self.code not in (204, 304)
        super().write(data if has_content else b"")

    def process_result(self) -> None:
        if isinstance(self.result, Held) and self._can_be_held(self.result.what):
            self.result.begin()
            self.held = self.result.what
            return
        if self.command != "HEAD":
            super().process_result()
            return
        for _ in self.result:  # an application may only begin when it is iterated
            break
        if not self.headers_sent:
            self.write(b"")

    def _can_be_held(self, what: Wait | Stream) -> bool:
        # The bytes of a lane are counted by request, which a group of polls does not know.
        return (
            what.hub is not None
            and not self.server.logs_requests  # which would be before the response is known
            and self.exchange is None
            and self.command == "GET"
            and self.request_version == "HTTP/1.1"
            and not self.close_connection
        )

    def _headers_so_far(self) -> Headers:
        """Return what app and middleware add to a waiting response."""
        pairs = ((n.decode("latin-1"), v.decode("latin-1")) for n, v in self.response_headers)
        return list(pairs)

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


def _can_wait() -> bool:
    return gevent.getcurrent() is not gevent.get_hub()


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
        app = application
        self.hosting = hosting_of(app, settings)
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
        self.access_log = AccessLog.at(settings.access_log)
        self.max_connections = listener_limit(settings.max_connections)
        self.max_requests = math.inf  # that are in greenlets at a time
        self._direct = DirectDispatch(app, self.access_policy, self.hold)
        Feed.can_wait = staticmethod(_can_wait)
        self.wheel = TimerWheel(self._call_after)
        self.returns = Returns(self.loop)
        self._greenlets = GreenletPool()
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

        From now on Ctrl-C and SIGTERM end `serve_forever`, even in advance. Raises StartupError if
        Python is not patched: the first `accept` would block everything.
        """
        if not monkey.is_module_patched("socket"):
            raise StartupError(
                "gevent's server needs `from gevent import monkey; monkey.patch_all()`, before "
                "anything else is imported."
            )
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
            self.loop.run_callback(self._end_wait, number, self.waiting[number])

    def _end_wait(self, number: int, greenlet: Any) -> None:
        # It may have got its news meanwhile, and serve another client now.
        if number in self.waiting and self.waiting[number] is greenlet:
            greenlet.throw(ConnectionClosed("the client is gone"))

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
            if handler.connection is not None and handler.connection.accepted:
                closing.append(gevent.spawn(handler.connection.close, CloseReason.GOING_AWAY))
                gevent.spawn_later(limits.CLOSE_TIMEOUT, self._abort, handler)
        gevent.joinall(closing, timeout=deadline - time.monotonic())
        while self.handlers and time.monotonic() < deadline:
            gevent.sleep(0.01)
        for client in self.wheel:  # which await a request
            client.close()

    def _abort(self, handler: Handler) -> None:
        """Abort a conversation that got no close frame."""
        if handler in self.handlers:
            abort(handler.socket)

    def do_read(self) -> Any:
        """Accept a connection; None if that is not possible now."""
        listener = self.socket
        try:
            number, address = listener._accept()
        except (BlockingIOError, ConnectionError):  # no more; or the client has closed already
            return None
        except OSError as error:
            if self.is_fatal_error(error):
                raise
            self._accept_errors.log(error)
            self.stop_accepting()
            self._timer = self.loop.timer(AcceptErrors.PAUSE)
            self._timer.start(self._start_accepting_if_started)
            return None
        return PlainSocket(listener.family, listener.type, listener.proto, number), address

    def _call_after(self, seconds: float, callback: Callable[[], None]) -> Any:
        timer = self.loop.timer(seconds)
        timer.start(callback)
        return timer

    # Connections, which have no greenlet unless a request needs one.

    def do_handle(self, sock: Any, address: Any) -> None:
        """Await the first request of an accepted connection."""
        if self.ssl_enabled:
            gevent.spawn(self._begin_tls, for_greenlets(sock), address)
        elif self.connections >= self.max_connections:
            gevent.spawn(self._reject_busy, for_greenlets(sock))
        else:
            self.connections += 1
            sock.setblocking(False)
            ClientConnection(sock, self).park(self.header_timeout)

    def _begin_tls(self, sock: Any, address: Any) -> None:
        # Some beyond the limit may finish their handshake, to receive a 503.
        if self.connections + len(self._handshaking) >= self.max_connections + limits.MAX_REJECTING:
            sock.close()
            return
        client = _Handshake(sock, time.monotonic() + self.header_timeout)
        self._handshaking.add(client)
        try:
            if is_plain_http(sock, type(sock)):
                _close(sock)
                return
            client.socket = self.wrap_socket(sock, do_handshake_on_connect=False, **self.ssl_args)
            client.socket.do_handshake()
        except OSError as error:  # of which SSLError is one
            logger.info("%s: no TLS connection: %s", address[0], error)
            client.socket.close()
            return
        finally:
            self._handshaking.discard(client)
        if self.connections >= self.max_connections:
            self._reject_busy(client.socket)
        else:
            self.connections += 1
            TLSConnection(client.socket, self).park(self.header_timeout)

    def _reject_busy(self, sock: Any, *, request_came: bool = False) -> None:
        """Send 503, and wait a moment for the client's close."""
        self.rejecting += 1
        has_time = self.rejecting <= limits.MAX_REJECTING
        try:
            # It does not wait if there are many to wait for.
            sock.settimeout(limits.REJECT_TIMEOUT if has_time else 0.0)
            reject_busy(sock, request_came=request_came)
        except OSError:
            pass  # the client has closed, which is what we want
        finally:
            sock.close()
            self.rejecting -= 1

    @property
    def logs_requests(self) -> bool:
        """True if a handler logs each request."""
        return self.access_log is not None or Handler.logger.isEnabledFor(logging.INFO)

    def serve(self, client: ClientConnection, data: bytes) -> None:
        """Serve what has come, if need be in a greenlet."""
        if not self.logs_requests and self._direct(client, data):
            return
        try:
            address = client.address()
        except OSError:  # it has been reset
            client.close()
            return
        if len(self.handlers) >= self.max_requests:
            self.connections -= 1
            gevent.spawn(self._reject_busy, client.lend(), request_came=True)
            return
        self._greenlets.run(self._serve, client, address, data)

    def _serve(self, client: ClientConnection, address: Any, data: bytes) -> None:
        self.handler_class(client, client.lend(), address, self, data).handle()

    def hold(self, client: ClientConnection, what: Wait | Stream, headers: HeaderFields) -> bool:
        """Give a connection to the hub; return False without one."""
        hub = what.hub
        if hub is None:
            return False
        if isinstance(what, Wait):
            client.configure()
            hub.hold(client, what, headers)
        else:
            client.leave_server()
            hub.stream(client, what, _stream_head(tuple(headers), int(time.time())))
        return True


@lru_cache(8)  # all that come in one second get the same
def _stream_head(headers: tuple[tuple[str, str], ...], second: int) -> bytes:
    """Return what a stream begins with in this second."""
    head = encode(Response("200 OK", [*headers])).removesuffix(b"\r\n")
    return head + b"Transfer-Encoding: chunked\r\n\r\n"


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
    settings = replace(settings or hosting_of(app, ServerSettings()).settings, **changes)
    start = background and partial(gevent.spawn, background)
    serve(Server, app, settings, start, on_shutdown, while_serving)
