"""One HTTP connection on gevent, and the WebSocket that it may become.

gevent-websocket's handler is the base. Its connection object is replaced by ours: the stock one has
no size limit, no Origin check, a broken close handshake, and mixes the frames of two senders.
"""

import errno
import logging
import math
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import gevent.socket
from gevent import monkey
from geventwebsocket.handler import WebSocketHandler

from lab.meter import EXCHANGE, Exchange
from pushlab.hosting.gevent_sockets import GeventChannel, TLSChannel
from pushlab.hosting.header_parser import HeadersTooLarge, RequestHeaders
from pushlab.websocket import handshake
from pushlab.websocket.connection import SEND_BUFFER, Connection
from pushlab.websocket.middleware import converse

logger = logging.getLogger(__name__)

#: Up to this many bytes of body are copied behind the head, which is cheaper than a second write.
_ONE_WRITE = 64 * 1024

#: Seconds that a kept-alive connection may be idle, and that a request with a body may take in all.
IDLE_TIMEOUT = 75.0
BODY_TIMEOUT = 60.0
#: Seconds that a client may take to accept a piece of the answer.
SEND_TIMEOUT = 60.0

#: Names of header fields in the environ, for those that have come before.
_ENVIRON_NAMES: dict[str, str] = {}

# The standard library's socket, not gevent's: its send and recv never switch greenlets.
_PlainSocket: type[socket.socket] = monkey.get_original("socket", "socket")


def abort(sock: Any) -> None:
    """End whatever waits for bytes from this socket, TLS or not."""
    kind = gevent.socket.socket if isinstance(sock, gevent.socket.socket) else _PlainSocket
    with suppress(OSError):  # the peer may be faster
        kind.shutdown(sock, socket.SHUT_RDWR)


class GeventConnection(Connection):
    """A connection whose handshake gevent-websocket answers and whose socket can be let go."""

    def __init__(self, handler: "Handler", **options: Any) -> None:
        super().__init__(**options)
        self._handler: Any = handler

    def _open(self) -> tuple[Any, bytes]:
        self._handler.switch_protocols()
        sock = self._handler.socket
        # A client may send frames right behind its request; the reader has them already. With
        # the socket set not to wait, a peek is a look at the buffer.
        sock.settimeout(0)
        try:
            early = self._handler.rfile.peek()
        except ssl.SSLWantReadError:
            early = b""
        if self._handler.exchange is not None:
            self._handler.exchange.meter.count(up=len(early))
        return sock, early

    def _release(self) -> GeventChannel:
        handler, self._handler = self._handler, None
        sock, self._socket = self._socket, None
        handler.socket = None  # the handler shall not close it
        leave, exchange = handler.server.leave, handler.exchange
        if exchange is not None:
            leave_server = leave  # and not the handler, which would stay in memory

            def leave() -> None:
                exchange.over()
                leave_server()

        with suppress(OSError):  # macOS refuses if the browser has just left
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if hasattr(sock, "pending"):
            # The server closes a TLS socket when its greenlet ends; that only takes effect
            # when the last file made from it is closed, too.
            rfile = handler.rfile

            def leave_tls() -> None:
                leave()
                rfile.close()

            channel: GeventChannel = TLSChannel(sock, leave_tls)
        else:
            sock = _PlainSocket(fileno=sock.detach())
            sock.setblocking(False)
            channel = GeventChannel(sock, leave)
        if exchange is not None:
            channel.meter(exchange.meter)
            exchange.goes_on(partial(abort, sock))
        return channel


class Handler(WebSocketHandler):  # type: ignore[misc]
    """Serves one HTTP connection; an upgrade gives the app `environ["wsgi.websocket"]`."""

    server: Any  #: the Server in gevent_server.py
    path: str
    logger = logging.getLogger("pushlab.requests")

    connection: GeventConnection | None = None
    #: The request asks for an upgrade to WebSocket.
    wants_socket = False
    #: What the request costs a lane of the page, if it is one of a lane.
    exchange: Exchange | None = None
    #: Between two requests: nobody minds if the socket is closed.
    idle = False
    #: Until when what comes next must have come, by the monotonic clock.
    due = math.inf
    ignored_socket_errors = (
        *WebSocketHandler.ignored_socket_errors, errno.ETIMEDOUT, errno.ECONNABORTED
    )  # fmt: skip

    def handle(self) -> None:
        if not self.server.enter():
            self._turn_away()
            return
        self.server.handlers.add(self)
        self.due = time.monotonic() + self.server.head_timeout
        try:
            super().handle()
        except OSError as error:
            self.logger.debug("%s: left before the answer: %s", self.client_address, error)
        finally:
            self.server.handlers.discard(self)
            if self.connection is None or not self.connection.detached:
                self.server.leave()

    def _turn_away(self) -> None:
        """Answer 503, whatever is asked, and do not wait long for it to be read."""
        server = self.server
        server.turned_away += 1
        try:
            # Closing before the request has come may take back the answer: so wait for it, but
            # only as long as there are few to wait for.
            self.socket.settimeout(server.patience)
            with suppress(OSError):
                self.socket.recv(16 * 1024)
            self.socket.sendall(handshake.FULL)
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.recv(16 * 1024)
        except OSError:
            pass  # as quick as we want to be rid of it
        finally:
            self.rfile.close()
            server.turned_away -= 1

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        self.wants_socket = handshake.is_websocket_upgrade(environ)
        if not self.wants_socket:
            # gevent lets a body go on for ever where it sees an upgrade, be it to what it may.
            environ["wsgi.input"], environ["wsgi.input_terminated"] = self.wsgi_input, True
        self.exchange = None
        meter = self.server.meters and self.server.meters.for_query(environ["QUERY_STRING"])
        # gevent writes what a request with a body may be told first, the 100, past our counting.
        if meter and not self._has_body() and not self.headers.get("expect"):
            size = self._line_size + self.headers.size
            self.exchange = Exchange(meter, up=size, abort=partial(abort, self.socket))
            environ[EXCHANGE] = self.exchange
        return environ

    def _has_body(self) -> bool:
        return bool(self.content_length or self.headers.get("transfer-encoding"))

    def read_requestline(self) -> str:
        if self.server.closed:
            return ""  # which ends the connection
        self.idle = True
        try:
            line: str = super().read_requestline()
        finally:
            self.idle = False
        self._line_size = len(line)
        return line

    def read_request(self, raw_requestline: str) -> bool:
        # The first request has been timed since the connection was made.
        self.due = min(self.due, time.monotonic() + self.server.head_timeout)
        is_request = bool(super().read_request(raw_requestline))
        if self.path.startswith(("http://", "https://")):
            # As to a proxy; whom it names counts more than the Host header (RFC 9112 3.2.2).
            host, slash, path = self.path.partition("://")[2].partition("/")
            self.headers["Host"], self.path = host, slash + path or "/"
        return is_request

    def handle_one_response(self) -> None:
        exchange = self.exchange
        self.due = time.monotonic() + BODY_TIMEOUT if self._has_body() else math.inf
        if exchange is not None and exchange.meter.is_cut:
            abort(self.socket)
            self.close_connection = True
            exchange.over()
            return
        try:
            super().handle_one_response()
        finally:
            if exchange is not None and (self.connection is None or not self.connection.detached):
                exchange.over()
        self.due = time.monotonic() + IDLE_TIMEOUT

    def run_application(self) -> None:
        refusal = self.server.gate.refusal(self.environ)
        if refusal is not None:
            if self.exchange is not None:
                self.exchange.answer(int(refusal.status.split()[0]))
            self._answer_in_http(refusal.status, refusal.headers, [refusal.body])
            return
        if not self.wants_socket:
            super(WebSocketHandler, self).run_application()
            return
        self.connection = GeventConnection(self, **self.server.connection_options)
        answer = converse(self.application, self.environ, self.connection)
        if answer is not None:
            self._answer_in_http(*answer)

    def _answer_in_http(self, status: str, headers: Any, body: Iterable[bytes]) -> None:
        """Answer an upgrade with plain HTTP, after which the connection ends."""
        self.start_response(status, [*headers, ("Connection", "close")])
        self.result = body
        try:
            self.process_result()
        finally:
            getattr(body, "close", lambda: None)()

    def switch_protocols(self) -> None:
        """Send the 101, prepared by gevent-websocket, without making its connection object."""
        self.start_response("101 Switching Protocols", handshake.accepted(self.environ))
        if self.exchange is None:
            self.write(b"")
        else:
            self.exchange.answer(101)
            self.write(b"")
            self.exchange.told()

    def _sendall(self, data: bytes) -> None:
        before, self.due = self.due, min(self.due, time.monotonic() + SEND_TIMEOUT)
        super()._sendall(data)
        self.due = before
        if self.exchange is not None:
            self.exchange.sent(len(data))

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        is_bad_body = issubclass(t, ValueError) and self.headers.get("transfer-encoding")
        if issubclass(t, OSError) or is_bad_body:  # by the client, or by his leaving
            self.close_connection = True
            self.logger.info("%s: %r", self.client_address, v)
        else:
            super().handle_error(t, v, tb)

    def log_request(self) -> None:
        if self.logger.isEnabledFor(logging.INFO):
            self.logger.info(self.format_request())

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        """Answer what is no request; that is the client's mistake, and not worth an alarm."""
        self.logger.info("%s: no request: %s", self.client_address, ex)
        is_large = isinstance(ex, HeadersTooLarge)
        status = "431 Request Header Fields Too Large" if is_large else "400 Bad Request"
        return status, handshake.raw_response(status, str(ex))

    def _headers(self) -> Iterator[tuple[str, str]]:
        """Yield the header fields by their names in the environ."""
        for name, value in self.headers.fields:
            key = _ENVIRON_NAMES.get(name)
            if key is None:
                key = f"HTTP_{name.replace('-', '_').upper()}"
                # X_Y would look like X-Y, and these two are in the environ by other names.
                if "_" in name or name in ("content-type", "content-length"):
                    continue
                if len(_ENVIRON_NAMES) < 1000:
                    _ENVIRON_NAMES[name] = key
            yield key, value

    def MessageClass(self, rfile: Any, seekable: int) -> RequestHeaders:
        return RequestHeaders(rfile)

    def _write_with_headers(self, data: bytes) -> None:
        """Write head and body in one go, as one packet, unless the body is long."""
        self.headers_sent = True
        self.finalize_headers()
        lines = [b"HTTP/1.1 " + self.status]
        lines += [name + b": " + value for name, value in self.response_headers]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if self.response_use_chunked or len(data) > _ONE_WRITE:
            self._sendall(head)
            if self.exchange is not None and self.response_use_chunked:
                self.exchange.told()  # it may have no end
            self._write(data)
        else:
            self._sendall(head + (data or b""))
