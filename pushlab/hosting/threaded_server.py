"""Werkzeug's threaded server, with limits on who may come and a farewell when it stops.

It is what `flask run` uses, one native thread per request, and made for developing. Here it does
what a server owes those who find it: connections are limited in number and in how long they may
take, TLS handshakes and silent clients hold up nobody, and all bytes are counted.
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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedIOBase, BufferedReader, BytesIO
from typing import Any, cast
from urllib.parse import urlsplit

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from lab.meter import EXCHANGE, Exchange, Metering, Meters
from lab.settings import HEAD_TIMEOUT
from pushlab.hosting.header_parser import BadHeaders, HeadersTooLarge, RequestHeaders
from pushlab.hosting.listener import MANY, raise_descriptor_limit
from pushlab.hosting.werkzeug import RELEASED
from pushlab.websocket import handshake
from pushlab.websocket.middleware import WSGI

logger = logging.getLogger(__name__)
requests = logging.getLogger("pushlab.requests")

#: Seconds that a stopping server gives requests and sockets to come to their end.
SHUTDOWN_TIMEOUT = 3.5
#: Seconds that a thread may compute while others wait.
SWITCH_INTERVAL = 0.001
#: Bytes of a request's first line, as many as gevent allows.
MAX_REQUEST_LINE = 8192
#: Seconds that a request with a body may take in all.
BODY_TIMEOUT = 60.0
#: Seconds that a client may take to accept a piece of the answer.
SEND_TIMEOUT = 60.0
#: Seconds that a client may take to leave when it has its answer.
LINGER = 2.0
#: Clients that are turned away at a time whose request is waited for; more are not.
_TURNED_AWAY = 100
#: Descriptors that are kept for files, pipes, and for turning clients away.
_SPARE_DESCRIPTORS = 200


def freeze(seconds: float) -> None:
    """Hold up the whole server: sleep and keep the interpreter's lock, as a careless library may.

    Python built without that lock (3.13t) goes on in its other threads.
    """
    milliseconds = int(seconds * 1000)
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(milliseconds)
    else:
        ctypes.PyDLL(None).poll(None, 0, milliseconds)


def abort(sock: socket.socket) -> None:
    """End whatever waits for bytes from this socket, TLS or not."""
    with suppress(OSError):  # the peer may be faster
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


#: What Werkzeug writes and does not flush.
_LAST_CHUNK = b"0\r\n\r\n"
_UNFLUSHED = (_LAST_CHUNK, b"HTTP/1.1 100 Continue\r\n\r\n")


class _Writer(BufferedIOBase):
    """What Werkzeug writes an answer to: head and body, or the parts of a chunk, leave as one."""

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


class Handler(WSGIRequestHandler):
    """One connection, which is one request: Werkzeug keeps none alive."""

    server: "Server"
    protocol_version = "HTTP/1.1"
    timeout = SEND_TIMEOUT
    disable_nagle_algorithm = True  # where accepted sockets do not inherit it

    #: No request has come yet: nobody minds if the socket is closed.
    idle = True
    #: Until when what comes next must have come, by the monotonic clock.
    due = math.inf
    #: What the request costs a lane of the page, if it is one of a lane.
    exchange: Exchange | None = None

    def setup(self) -> None:
        super().setup()
        self.wfile = _Writer(self)
        self.environ: dict[str, Any] = {}
        self._left, self._is_chunked = math.inf, False  # of the answer, to be sent
        self.due = time.monotonic() + self.server.head_timeout

    def handle(self) -> None:
        with self.server.serving(self):
            if isinstance(self.connection, ssl.SSLSocket):
                try:
                    self.connection.do_handshake()
                except OSError as error:
                    logger.info("%s: no TLS connection: %s", self.client_address[0], error)
                    return
            super().handle()

    @property
    def is_detached(self) -> bool:
        """True if the hub has the socket."""
        connection = self.environ.get("wsgi.websocket")
        return connection is not None and bool(connection.detached)

    def send(self, data: bytes) -> None:
        """Send a piece of the answer."""
        try:
            self.connection.sendall(data)
        except OSError as error:  # whatever TLS calls it
            raise BrokenPipeError(str(error)) from error
        self._left -= len(data)
        if self.exchange is not None:
            self.exchange.sent(len(data))
            if self._left <= 0:
                self.exchange.told()
        if data == _LAST_CHUNK if self._is_chunked else self._left <= 0:
            # Werkzeug waits for the client to leave, so that no answer is lost by a reset. Who goes
            # on asking, although he was told that this was all, shall not wait for long.
            self.due = time.monotonic() + LINGER
            if not isinstance(self.connection, ssl.SSLSocket):
                with suppress(OSError):  # the peer may be faster
                    self.connection.shutdown(socket.SHUT_WR)

    # Reading.

    def parse_request(self) -> bool:
        # The head is read by our rules and within our limits; the base only takes it apart.
        if len(self.raw_requestline) > MAX_REQUEST_LINE:
            self.requestline, self.command = "", ""
            self.send_error(414)
            return False
        try:
            head = RequestHeaders(cast(BufferedReader, self.rfile))
        except BadHeaders as error:
            self.requestline, self.command = "", ""
            self.send_error(431 if isinstance(error, HeadersTooLarge) else 400, str(error))
            return False
        self.head_size = len(self.raw_requestline) + head.size
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.fields)
        rfile, self.rfile = self.rfile, BytesIO(f"{lines}\r\n".encode("latin-1"))
        try:
            if not super().parse_request():
                return False
            urlsplit(self.path)  # Werkzeug will, too
        except ValueError:
            self.send_error(400, "that is no URL")
            return False
        else:
            return True
        finally:
            self.rfile = rfile
            self.idle = False
            self.due = math.inf

    def handle_expect_100(self) -> bool:
        return True  # Werkzeug will say so; a client wants to hear it once

    # Answering.

    def run_wsgi(self) -> None:
        if self._has_body():
            self.due = time.monotonic() + BODY_TIMEOUT
        self._left, self._is_chunked = math.inf, False
        try:
            super().run_wsgi()
        finally:
            if self.exchange is not None and not self.is_detached:
                self.exchange.over()

    def _has_body(self) -> bool:
        coding, length = self.headers.get("transfer-encoding"), self.headers.get("content-length")
        return bool(coding or int(length or 0))

    def make_environ(self) -> dict[str, Any]:
        environ = super().make_environ()
        environ[RELEASED] = self.server.leave
        meters = self.server.meters
        meter = meters.for_query(environ["QUERY_STRING"]) if meters is not None else None
        if meter is not None and not self._has_body() and "HTTP_EXPECT" not in environ:
            gone = partial(abort, self.connection)
            self.exchange = Exchange(meter, up=self.head_size, abort=gone)
            environ[EXCHANGE] = self.exchange
            if meter.is_cut:
                gone()
                raise ConnectionAbortedError
        return environ

    def send_response(self, code: int, message: str | None = None) -> None:
        self.log_request(code)
        self.send_response_only(code, message)

    def end_headers(self) -> None:
        if not any(line.lower().startswith(b"date:") for line in self._headers_buffer):
            self.send_header("Date", self.date_time_string())
        # An exchange is over, for the lab, when all is sent, and not when Werkzeug has looked for
        # ten milliseconds whether more comes in. What may have no end is told with its head.
        head = b"".join(self._headers_buffer) + b"\r\n"
        fields = head.lower()
        length = re.search(rb"\r\ncontent-length: *([0-9]+)\r\n", fields)
        if self.command == "HEAD" or re.match(rb"http/1.1 (204|304) ", fields):
            self._left = len(head)
        elif b"\r\ntransfer-encoding: chunked\r\n" in fields:
            self._left, self._is_chunked = len(head), True
        elif length:
            self._left = len(head) + int(length[1])
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request; that is the client's mistake, and not worth an alarm."""
        reason = self.responses[code][0]
        self.log("info", "no request: %s %s", code, message or reason)
        self.close_connection = True
        self.wfile.write(handshake.raw_response(f"{int(code)} {reason}", message or reason))
        self.wfile.flush()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.log("info", '"%s" %s', self.requestline, code)

    def log(self, type: str, message: str, *args: Any) -> None:
        if requests.isEnabledFor(logging.INFO):
            requests.info("%s: %s", self.address_string(), message % args)


class Server(ThreadedWSGIServer):
    """Werkzeug's server, on a listener of ours; it says goodbye.

    On Ctrl-C or SIGTERM it stops accepting, calls everything in `on_shutdown` (close the feed, so
    that waiting polls are answered; close the hub), and returns from `serve_forever` when all is
    done, at once if nobody is connected.
    """

    def __init__(
        self,
        listener: socket.socket,
        app: WSGI,
        *,
        on_shutdown: Collection[Callable[[], None]] = (),
        meters: Meters | None = None,
        max_clients: int | None = None,
        head_timeout: float = HEAD_TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if meters is not None:  # in front of all that an app may have in front of it
            app = Metering(app)
            meters.are_counting = True
        address = listener.getsockname()
        super().__init__(address[0], address[1], app, Handler, fd=listener.fileno())
        self.socket.close()  # a copy
        listener.setblocking(False)
        self.socket = listener
        self.server_address = address
        self.ssl_context = ssl_context  # not the base's, which would shake hands while it accepts
        if ssl_context is not None:
            ssl_context.options |= ssl.OP_NO_RENEGOTIATION
        self.on_shutdown = on_shutdown
        self.meters = meters
        self.head_timeout = head_timeout
        self.max_clients = min(
            max_clients or MANY, max(1, raise_descriptor_limit() - _SPARE_DESCRIPTORS)
        )
        self._handlers: set[Handler] = set()
        self._clients = 0
        self._turned_away = 0
        self._changed = threading.Condition()  # of the three above
        # Signals, as bytes: a handler in Python could come at any moment, even while it holds a
        # lock that it needs.
        self._signals, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)

    def start(self) -> None:
        """From now on Ctrl-C and SIGTERM end `serve_forever`, even in advance."""
        # A thread that has much to do gives way after this, and not after the usual five
        # milliseconds for each of those that do: a flood of frames would hold up all news.
        sys.setswitchinterval(SWITCH_INTERVAL)
        signal.set_wakeup_fd(self._signalled.fileno())
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):  # they differ between systems
                signal.signal(getattr(signal, name), lambda number, frame: None)

    def serve_forever(self, poll_interval: float = 1.0) -> None:
        """Serve until SIGTERM or Ctrl-C."""
        poll_interval = min(poll_interval, self.head_timeout / 4)
        late = time.monotonic() + poll_interval
        while True:
            ready, _, _ = select.select([self.socket, self._signals], [], [], poll_interval)
            if self._signals in ready:
                break
            if ready:
                self._accept()
            if time.monotonic() >= late:
                self._hang_up_on_late()
                late = time.monotonic() + poll_interval
        self.stop()

    def _accept(self) -> None:
        try:
            request, address = self.get_request()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionError):
                logger.warning("cannot accept a connection: %s", error)
                time.sleep(0.1)  # it will not be better at once
            return
        request.setblocking(True)  # some systems let it inherit what the listener is
        self.process_request(request, address)

    def _hang_up_on_late(self) -> None:
        """Drop the connections on which nothing has come for longer than may be."""
        now = time.monotonic()
        for handler in self._handlers.copy():
            if handler.due < now:
                abort(handler.connection)

    def stop(self) -> None:
        """Stop accepting, say goodbye to everyone, and wait at most FAREWELL_TIMEOUT for them."""
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT
        self.server_close()
        for handler in self._handlers.copy():
            if handler.idle:
                abort(handler.connection)
        for goodbye in self.on_shutdown:
            goodbye()
        with self._changed:
            self._changed.wait_for(lambda: not self._handlers, deadline - time.monotonic())

    # One thread per connection.

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            has_room = self._clients < self.max_clients
            self._clients += has_room
            has_time = self._turned_away < _TURNED_AWAY
            self._turned_away += not has_room and has_time
        serve = self.process_request_thread if has_room else self._turn_away
        try:
            if has_room or has_time:
                threading.Thread(
                    target=serve, args=(request, client_address), name="request", daemon=True
                ).start()
                return
        except RuntimeError as error:  # the system has no more threads for us
            logger.warning("no thread for %s: %s", client_address[0], error)
            if has_room:
                self.leave()
            else:
                with self._changed:
                    self._turned_away -= 1
        else:
            with suppress(OSError):
                request.setblocking(False)
                if self.ssl_context is None:
                    request.send(handshake.FULL)
        self.shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        is_left = True
        try:
            request = self._secure(request)
            is_left = not Handler(request, client_address, self).is_detached
        finally:
            self.shutdown_request(request)
            if is_left:
                self.leave()

    def _secure(self, request: Any) -> Any:
        """Put TLS on a socket, if it is asked for; the handshake is yet to come."""
        if self.ssl_context is None:
            return request
        return self.ssl_context.wrap_socket(
            request, server_side=True, do_handshake_on_connect=False
        )

    @contextmanager
    def serving(self, handler: Handler) -> Iterator[None]:
        """Know of a handler while it serves."""
        with self._changed:
            self._handlers.add(handler)
        try:
            yield
        finally:
            with self._changed:
                self._handlers.discard(handler)
                self._changed.notify_all()

    def leave(self) -> None:
        """Count one connection less."""
        with self._changed:
            self._clients -= 1

    def _turn_away(self, request: Any, client_address: Any) -> None:
        """Answer 503, whatever is asked, and do not wait long for it to be read."""
        try:
            # Closing before the request has come may take back the answer: so wait for it.
            request.settimeout(1.0)
            request = self._secure(request)
            if self.ssl_context is not None:
                request.do_handshake()
            with suppress(TimeoutError):
                request.recv(16 * 1024)
            request.sendall(handshake.FULL)
            request.shutdown(socket.SHUT_WR)
            request.recv(16 * 1024)
        except OSError:
            pass  # as quick as we want to be rid of it
        finally:
            self.shutdown_request(request)
            with self._changed:
                self._turned_away -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):  # by the client, or by his leaving
            requests.info("%s: %r", client_address[0], error)
        else:
            logger.exception("a request failed")

    def log(self, type: str, message: str, *args: Any) -> None:
        logger.log(getattr(logging, type.upper()), message, *args)
