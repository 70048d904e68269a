"""Werkzeug's server on native threads, with limits and shutdown.

`flask run` uses the same server, which is made for development: a native thread per request. Here
connections are limited in number and in time, a TLS handshake or a silent client holds up no other
connection, and bytes are counted.
"""

import ctypes
import logging
import math
import re
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from io import BufferedIOBase, BufferedReader, BytesIO
from typing import Any, cast
from urllib.parse import urlsplit

from flask import Flask
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from pushlab import limits
from pushlab.hosting.access_log import AccessLog, Entry
from pushlab.hosting.deadlines import Deadlines
from pushlab.hosting.lifecycle import hosting_of, serve, stop_signals
from pushlab.hosting.listener import AcceptErrors
from pushlab.hosting.listener import max_connections as listener_limit
from pushlab.hosting.log_lines import printable
from pushlab.hosting.metering import EXCHANGE, Exchange
from pushlab.hosting.rejections import is_plain_http, reject_busy, service_unavailable
from pushlab.hosting.request_body import RequestBody
from pushlab.hosting.request_parser import BadRequest, RequestHeaders, parse_request_line
from pushlab.hosting.settings import ServerSettings
from pushlab.hosting.threaded_sockets import abort
from pushlab.hosting.werkzeug import ON_RELEASE, WerkzeugUpgrade
from pushlab.websocket.handshake import is_websocket_upgrade
from pushlab.wsgi.responses import raw_error

logger = logging.getLogger(__name__)
requests = logging.getLogger("pushlab.requests")


def freeze(seconds: float) -> None:
    """Hold up the whole server for some seconds.

    It sleeps and keeps the interpreter's lock, as a careless library may. Python without that lock
    (3.13t) goes on in its other threads.
    """
    milliseconds = int(seconds * 1000)
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(milliseconds)
    else:
        ctypes.PyDLL(None).poll(None, 0, milliseconds)


#: What Werkzeug writes and does not flush.
_LAST_CHUNK = b"0\r\n\r\n"
_UNFLUSHED = (_LAST_CHUNK, b"HTTP/1.1 100 Continue\r\n\r\n")


class _Writer(BufferedIOBase):
    """Collects what Werkzeug writes, to send it in one packet.

    Headers and body go together, and the parts of a chunk.
    """

    def __init__(self, handler: "Handler") -> None:
        self._handler = handler
        self._waiting: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting.append(bytes(data))
        if data in _UNFLUSHED:
            self.flush()
        return len(data)

    def flush(self) -> None:
        data, self._waiting = b"".join(self._waiting), []
        if data:
            self._handler.send(data)


class _Rest(BufferedIOBase):
    """What a client sends after its request.

    Werkzeug reads it before it closes the connection.

    It would read ten megabytes at a time. Nothing looks at them, so small pieces and an end do.
    """

    def __init__(self, rfile: BufferedReader) -> None:
        self._rfile = rfile
        self._left = limits.MAX_DISCARDED

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._rfile.read1(self._left) if self._left > 0 else b""
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._rfile.close()


class Handler(WSGIRequestHandler):
    """One connection with one request: Werkzeug keeps none alive."""

    server: "Server"
    raw_requestline: bytes
    protocol_version = "HTTP/1.1"
    timeout = limits.RESPONSE_TIMEOUT
    disable_nagle_algorithm = True  # where accepted sockets do not inherit it

    #: No request has come yet: closing the socket loses nothing.
    idle = True
    #: The monotonic time by which the next bytes must have come.
    deadline = math.inf
    #: What counts the bytes of the request, if they are counted.
    exchange: Exchange | None = None
    #: Its entry in the access log, if there is one.
    entry: Entry | None = None

    def setup(self) -> None:
        super().setup()
        self.wfile = _Writer(self)
        self.environ: dict[str, Any] = {}
        self._left, self._is_chunked = math.inf, False  # of the response, to be sent
        self.deadline = time.monotonic() + self.server.header_timeout

    def handle(self) -> None:
        self.server.handlers.add(self)
        try:
            if isinstance(self.connection, ssl.SSLSocket):
                if is_plain_http(self.connection, socket.socket):
                    return
                self.connection.do_handshake()
            super().handle()
        finally:
            self.server.handlers.discard(self)

    @property
    def is_detached(self) -> bool:
        """True if the hub has the socket."""
        connection = self.environ.get("wsgi.websocket")
        return connection is not None and bool(connection.detached)

    def send(self, data: bytes) -> None:
        """Send a piece of the response."""
        try:
            self.connection.sendall(data)
        except OSError as error:  # whatever TLS calls it
            raise BrokenPipeError(str(error)) from error
        self._left -= len(data)
        if self.entry is not None:
            self.entry.bytes += len(data)
        if self.exchange is not None:
            self.exchange.sent(len(data))
            if self._left <= 0:
                self.exchange.report()
        if data == _LAST_CHUNK if self._is_chunked else self._left <= 0:
            # Werkzeug waits for the client to close, so that no response is lost by a reset. Do not
            # wait long for a client that keeps sending after `Connection: close`.
            self.deadline = time.monotonic() + limits.LINGER
            if not isinstance(self.connection, ssl.SSLSocket):
                with suppress(OSError):  # the other end may be faster
                    self.connection.shutdown(socket.SHUT_WR)

    # Reading.

    def parse_request(self) -> bool:
        # Our parser checks rules and limits; the base then parses what it has accepted.
        self.requestline, self.command = "", ""
        try:
            line = parse_request_line(self.raw_requestline.decode("latin-1"))
            self.request_headers = headers = RequestHeaders(cast(BufferedReader, self.rfile))
            headers.check(line)
            urlsplit(line.target)  # Werkzeug will, too
        except ValueError as error:
            status = error.status if isinstance(error, BadRequest) else "400 Bad Request"
            self.log("info", "no request: %s", error)
            self.close_connection = True
            self.wfile.write(raw_error(status, str(error)))
            self.wfile.flush()
            return False
        self.headers_size = len(self.raw_requestline) + headers.size
        # An HTTP/1.0 client knows no chunks: Werkzeug looks at this to decide.
        self.protocol_version = line.version
        self.raw_requestline = f"{line.method} {line.target} {line.version}\r\n".encode("latin-1")
        # The body below sends the 100, not Werkzeug.
        fields = [field for field in headers.fields if field[0] != "expect"]
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        rfile, self.rfile = self.rfile, BytesIO(f"{lines}\r\n".encode("latin-1"))
        try:
            if not super().parse_request():
                return False
        finally:
            self.rfile = rfile
            self.idle = False
            self.deadline = math.inf
        if line.target == "*":  # OPTIONS of the server as a whole (RFC 9110 section 9.3.7)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.wfile.flush()
            return False
        return True

    def handle_one_request(self) -> None:
        if isinstance(self.rfile, _Rest):  # the response is sent: wait for the client to close
            while self.rfile.read():
                pass
            self.close_connection = True
            return
        for _ in range(limits.MAX_EMPTY_LINES):  # before a request (RFC 9112 section 2.2)
            if not cast(BufferedReader, self.rfile).peek().startswith(b"\r\n"):
                break
            self.rfile.read(2)
        super().handle_one_request()

    # Responding.

    def run_wsgi(self) -> None:
        if self.request_headers.has_body:
            self.deadline = time.monotonic() + limits.BODY_TIMEOUT
        self._left, self._is_chunked = math.inf, False
        try:
            super().run_wsgi()
        finally:
            if not self.is_detached:
                if self.exchange is not None:
                    self.exchange.closed()
                if self.entry is not None:
                    connection = self.environ.get("wsgi.websocket")
                    self.entry.end(connection and connection.ended_with)

    def make_environ(self) -> dict[str, Any]:
        environ = super().make_environ()
        environ[ON_RELEASE] = self.server.release
        if self.server.access_log is not None:
            self.entry = self.server.access_log.begin(environ, self.path)
        if not is_websocket_upgrade(environ):
            body = RequestBody(self.rfile, self.request_headers, self.connection.sendall)
            environ["wsgi.input"], environ["wsgi.input_terminated"] = body.for_application(), True
            self.rfile = _Rest(cast(BufferedReader, self.rfile))
        meters = self.server.meters
        if meters is not None and not self.request_headers.has_body:
            gone = partial(abort, self.connection)
            exchange = meters.open(environ["QUERY_STRING"], up=self.headers_size, abort=gone)
            if exchange is not None:
                self.exchange = environ[EXCHANGE] = exchange
                if exchange.is_cut:
                    gone()
                    raise ConnectionAbortedError
        return environ

    def send_response(self, code: int, message: str | None = None) -> None:
        self.log_request(code)
        if self.entry is not None:
            self.entry.status = code
        self.send_response_only(code, message)
        # The version is that of the server, whatever the client's (RFC 9110 section 2.5).
        self._headers_buffer[0] = self._headers_buffer[0].replace(b"HTTP/1.0", b"HTTP/1.1", 1)

    def end_headers(self) -> None:
        if not any(line.lower().startswith(b"date:") for line in self._headers_buffer):
            self.send_header("Date", self.date_time_string())
        # An exchange is reported when all is sent. Werkzeug then waits ten milliseconds for more
        # input before it ends the request. A response that may have no end is reported with its
        # headers.
        headers = b"".join(self._headers_buffer) + b"\r\n"
        fields = headers.lower()
        length = re.search(rb"\r\ncontent-length: *([0-9]+)\r\n", fields)
        if self.command == "HEAD" or re.match(rb"http/1.[01] (204|304) ", fields):
            self._left = len(headers)
        elif b"\r\ntransfer-encoding: chunked\r\n" in fields:
            self._left, self._is_chunked = len(headers), True
        elif length:
            self._left = len(headers) + int(length[1])
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Respond to what is no request: the client's mistake."""
        reason = self.responses[code][0]
        self.log("info", "no request: %s %s", code, message or reason)
        self.close_connection = True
        self.wfile.write(raw_error(f"{int(code)} {reason}", message or reason))
        self.wfile.flush()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.log("info", '"%s" %s', printable(self.requestline), code)

    def log(self, type: str, message: str, *args: Any) -> None:
        if requests.isEnabledFor(logging.INFO):
            requests.info("%s: %s", self.address_string(), message % args)


class Server(ThreadedWSGIServer):
    """Werkzeug's server with limits and a graceful shutdown.

    On Ctrl-C or SIGTERM it stops accepting, calls everything in `on_shutdown` (close the feed, so
    that waiting polls get their response; close the hub), and returns from `serve_forever` when all
    is done, at once without connections.
    """

    def __init__(
        self,
        listener: socket.socket,
        app: Flask,
        settings: ServerSettings | None = None,
        *,
        on_shutdown: Collection[Callable[[], None]] = (),
    ) -> None:
        settings = settings or ServerSettings(host=str(listener.getsockname()[0]))
        hosting = hosting_of(app, settings)
        self.meters = hosting.meters
        # The meters' middleware stands in front of all of the app's.
        wsgi_app: Any = self.meters.install(app) if self.meters else app
        address = listener.getsockname()
        super().__init__(address[0], address[1], wsgi_app, Handler, fd=listener.fileno())
        self.socket.close()  # a copy
        listener.setblocking(False)
        self.socket = listener
        self.server_address = address
        # Not the base's, which would shake hands while it accepts.
        self.ssl_context = settings.ssl_context()
        if self.ssl_context is not None:
            self.ssl_context.options |= ssl.OP_NO_RENEGOTIATION
        self.on_shutdown = (*hosting.on_shutdown, *on_shutdown)
        self.header_timeout = settings.header_timeout
        self.access_log = AccessLog.at(settings.access_log)
        self.handlers: set[Handler] = set()
        self._deadlines = Deadlines()
        self._accept_errors = AcceptErrors()
        self._room = threading.Semaphore(listener_limit(settings.max_connections))
        self._rejecting = threading.Semaphore(limits.MAX_REJECTING)
        self.release = self._room.release
        # Signals, as bytes: a handler in Python could come at any moment, even while it holds a
        # lock that it needs.
        self._signals, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)

    def start(self) -> None:
        """Have Ctrl-C and SIGTERM end `serve_forever`, even in advance."""
        # A thread that computes is interrupted after this, and not after the usual five
        # milliseconds: with several such threads, a flood of frames would delay all broadcasts.
        sys.setswitchinterval(limits.SWITCH_INTERVAL)
        signal.set_wakeup_fd(self._signalled.fileno())
        for number in stop_signals():
            signal.signal(number, lambda number, frame: None)

    def serve_forever(self, poll_interval: float = limits.LOOK_INTERVAL) -> None:
        """Serve until SIGTERM or Ctrl-C."""
        poll_interval = min(poll_interval, self.header_timeout / 4)
        next_check = time.monotonic() + poll_interval
        while True:
            ready, _, _ = select.select([self.socket, self._signals], [], [], poll_interval)
            if self._signals in ready:
                break
            if ready:
                self._accept()
            if time.monotonic() >= next_check:
                self._close_timed_out()
                next_check = time.monotonic() + poll_interval
        self.stop()

    def shutdown(self) -> None:
        """Have `serve_forever` stop and return; for any thread."""
        self._signalled.send(b".")

    def _accept(self) -> None:
        try:
            request, address = self.get_request()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionError):
                self._accept_errors.log(error)
                time.sleep(AcceptErrors.PAUSE)
            return
        request.setblocking(True)  # some systems let it inherit what the listener is
        self.process_request(request, address)

    def _close_timed_out(self) -> None:
        """Abort the connections whose deadline has passed."""
        for late in self._deadlines.passed(self.handlers.copy()):
            abort(late.connection)

    def stop(self) -> None:
        """Stop accepting, close everything, wait at most SHUTDOWN_TIMEOUT."""
        deadline = time.monotonic() + limits.SHUTDOWN_TIMEOUT
        self.server_close()
        for handler in self.handlers.copy():
            if handler.idle:
                abort(handler.connection)
        for close in self.on_shutdown:
            close()
        while self.handlers and time.monotonic() < deadline:
            time.sleep(0.01)

    # One thread per connection.

    def process_request(self, request: Any, client_address: Any) -> None:
        for room, target in (self._room, self._serve), (self._rejecting, self._reject_busy):
            if room.acquire(blocking=False):
                try:
                    threading.Thread(
                        target=target, args=(request, client_address), name="request", daemon=True
                    ).start()
                except RuntimeError as error:  # the system has no thread left
                    logger.warning("no thread for %s: %s", client_address[0], error)
                    room.release()
                    break
                return
        with suppress(OSError):
            request.setblocking(False)
            if self.ssl_context is None:
                request.send(service_unavailable())
        self.shutdown_request(request)

    def _serve(self, request: Any, client_address: Any) -> None:
        is_detached = False
        try:
            request = self._wrap(request)
            is_detached = Handler(request, client_address, self).is_detached
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)
            if not is_detached:
                self.release()

    def _wrap(self, request: Any) -> Any:
        """Put TLS on a socket if configured; no handshake yet."""
        if self.ssl_context is None:
            return request
        return self.ssl_context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        )

    def _reject_busy(self, request: Any, client_address: Any) -> None:
        """Send 503, and wait a moment for the client's close."""
        try:
            request.settimeout(limits.REJECT_TIMEOUT)
            request = self._wrap(request)
            if self.ssl_context is not None:
                request.do_handshake()
            reject_busy(request)
        except OSError:
            pass  # the client has closed, which is what we want
        finally:
            self.shutdown_request(request)
            self._rejecting.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):  # the client's mistake, or it has closed
            requests.info("%s: %r", client_address[0], error)
        else:
            logger.exception("a request failed")

    def log(self, type: str, message: str, *args: Any) -> None:
        logger.log(getattr(logging, type.upper()), message, *args)


def run(
    app: Flask,
    settings: ServerSettings | None = None,
    *,
    background: Callable[[], None] | None = None,
    on_shutdown: Collection[Callable[[], None]] = (),
    while_serving: Callable[[int], AbstractContextManager[object]] = nullcontext,
    **changes: Any,
) -> None:
    """Serve the app until Ctrl-C or SIGTERM, in one call.

    The same as `gevent_server.run`, with `background` in a thread of its own.
    """
    settings = replace(settings or hosting_of(app, ServerSettings()).settings, **changes)
    upgrade = WerkzeugUpgrade.of(app, settings)
    start = background and threading.Thread(target=background, name="background", daemon=True).start
    serve(Server, app, settings, start, (upgrade.close, *on_shutdown), while_serving)
