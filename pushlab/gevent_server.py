"""gevent's WSGI server with WebSockets that are safe to serve, and a farewell when it stops.

gevent-websocket's handler decides what an upgrade is and answers it. Its connection object is
replaced by ours: the stock one has no size limit, no Origin check, a broken close handshake, and
mixes the frames of two senders.
"""

import errno
import json
import logging
import math
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from types import MappingProxyType
from typing import Any

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

import gevent
import gevent.socket
from gevent import monkey
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler
from wsproto.utilities import generate_accept_token

from pushlab import handshake
from pushlab.connection import Connection, ConnectionClosed
from pushlab.frames import CloseReason
from pushlab.heads import Head, HeadTooLarge
from pushlab.options import HEAD_TIMEOUT

logger = logging.getLogger(__name__)

#: Seconds that a stopping server gives requests and sockets to come to their end.
FAREWELL_TIMEOUT = 3.5

_READ, _WRITE = 1, 2  # libev's and libuv's event masks
#: Bytes that the kernel may hold for one push socket: a slow browser's backlog is bounded there.
_SEND_BUFFER = 32 * 1024
#: Up to this many bytes of body are copied behind the head, which is cheaper than a second write.
_ONE_WRITE = 64 * 1024

#: Descriptors that are kept for files, pipes, and for turning clients away.
_SPARE_DESCRIPTORS = 200
#: What counts as no limit.
_MANY = 100_000

#: Seconds that a kept-alive connection may be idle, and that a request with a body may take in all.
IDLE_TIMEOUT = 75.0
BODY_TIMEOUT = 60.0

#: Names of header fields in the environ, for those that have come before.
_ENVIRON_NAMES: dict[str, str] = {}

# The standard library's socket, not gevent's: its send and recv never switch greenlets.
_PlainSocket: type[socket.socket] = monkey.get_original("socket", "socket")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Exits with one line if it cannot.

    gevent writes an answer's headers and its body one after the other. Without TCP_NODELAY the
    second waits for the browser's delayed acknowledgement of the first, 40 ms per request;
    accepted sockets inherit the option.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Port {port} is in use. Choose another with --port; 0 takes any free one.")
        sys.exit(f"Cannot listen on {host} port {port}: {error.strerror}")
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def raise_descriptor_limit() -> int:
    """Let this process open what it may, often more than at first; return how many that are."""
    if resource is None:
        return _MANY  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _MANY) if hard == resource.RLIM_INFINITY else hard
    with suppress(ValueError, OSError):  # some systems promise more than they give
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def hang_up(sock: Any) -> None:
    """End whatever greenlet waits for bytes from this socket, TLS or not."""
    with suppress(OSError):  # the peer may be faster
        gevent.socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _plain_answer(status: str, message: str) -> bytes:
    """Return a whole answer, for when nothing is there yet to make one."""
    body = json.dumps({"error": message}).encode()
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_FULL = _plain_answer("503 Service Unavailable", "this server is full; try again later")


class GeventChannel:
    """A socket that gevent's loop watches, with no greenlet waiting for it."""

    __slots__ = ("_release", "_socket", "_watcher", "receive", "send")

    def __init__(self, sock: Any, release: Callable[[], None]) -> None:
        self._socket = sock
        self._release = release
        self._watcher: Any = None
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self.receive: Callable[[int], bytes] = sock.recv

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        events = _WRITE if writing else _READ
        self._watcher = gevent.get_hub().loop.io(self._socket.fileno(), events)
        self._watcher.start(callback, argument)

    def finish(self) -> None:
        with suppress(OSError):  # the peer may be faster; reading will tell
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            self._socket.close()
            self._release()


class TLSChannel(GeventChannel):
    """The same over TLS, where the bytes on the wire are not ours to write."""

    __slots__ = ()

    def __init__(self, sock: Any, release: Callable[[], None]) -> None:
        super().__init__(sock, release)
        self.send = partial(self._send, sock)
        self.receive = partial(self._receive, sock)

    @staticmethod
    def _send(sock: Any, data: bytes | memoryview) -> int:
        # gevent's non-blocking send returns 0 where TLS must wait; the same bytes must come
        # again, and they do: the hub keeps what was not sent as its outbox.
        sent: int = sock.send(data)
        return sent

    @staticmethod
    def _receive(sock: Any, size: int) -> bytes:
        # Bytes that TLS has decrypted and not handed out do not make the socket readable.
        data: bytes = b""
        try:
            data = sock.recv(size)
            while data and (left := sock.pending()):
                data += sock.recv(left)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            if not data:
                raise BlockingIOError from error
        return data


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
            return sock, self._handler.rfile.peek()
        except ssl.SSLWantReadError:
            return sock, b""

    def _release(self) -> GeventChannel:
        handler, self._handler = self._handler, None
        sock, self._socket = self._socket, None
        handler.socket = None  # the handler shall not close it
        leave = handler.server.leave
        with suppress(OSError):  # macOS refuses if the browser has just left
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        if hasattr(sock, "pending"):
            # The server closes a TLS socket when its greenlet ends; that only takes effect
            # when the last file made from it is closed, too.
            rfile = handler.rfile

            def leave_tls() -> None:
                leave()
                rfile.close()

            return TLSChannel(sock, leave_tls)
        plain = _PlainSocket(fileno=sock.detach())
        plain.setblocking(False)
        return GeventChannel(plain, leave)


class Handler(WebSocketHandler):  # type: ignore[misc]
    """Serves one HTTP connection; an upgrade gives the app `environ["wsgi.websocket"]`."""

    server: "Server"
    path: str
    logger = logging.getLogger("pushlab.requests")

    connection: GeventConnection | None = None
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
            self.socket.settimeout(1.0 if server.turned_away < _SPARE_DESCRIPTORS / 2 else 0.0)
            with suppress(OSError):
                self.socket.recv(16 * 1024)
            self.socket.sendall(_FULL)
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.recv(16 * 1024)
        except OSError:
            pass  # as quick as we want to be rid of it
        finally:
            self.rfile.close()
            server.turned_away -= 1

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        if not handshake.is_asked_for(environ):
            # gevent lets a body go on for ever where it sees an upgrade, be it to what it may.
            environ["wsgi.input"], environ["wsgi.input_terminated"] = self.wsgi_input, True
        return environ

    def read_requestline(self) -> str:
        if self.server.closed:
            return ""  # which ends the connection
        self.idle = True
        try:
            line: str = super().read_requestline()
        finally:
            self.idle = False
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
        has_body = self.content_length or self.headers.get("transfer-encoding")
        self.due = time.monotonic() + BODY_TIMEOUT if has_body else math.inf
        super().handle_one_response()
        self.due = time.monotonic() + IDLE_TIMEOUT

    def run_application(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self._answer_in_http(refusal.status, refusal.headers, [refusal.body])
            return
        if not handshake.is_asked_for(self.environ):
            super(WebSocketHandler, self).run_application()
            return
        self.connection = self.environ["wsgi.websocket"] = GeventConnection(
            self, **self.server.connection_options
        )
        self._converse(self.connection)

    def _refusal(self) -> handshake.Refusal | None:
        """Return why the app is not even asked, if it is not."""
        host = self.environ.get("HTTP_HOST")
        if self.request_version == "HTTP/1.1" and not host:
            return handshake.without_host()
        if host is not None and not self.server.is_ours(host):
            return handshake.misdirected(host)
        if handshake.is_asked_for(self.environ):
            self.environ["HTTP_UPGRADE"] = "websocket"  # of whatever list it was in
            return handshake.refusal(self.environ, allow_origins=self.server.allow_origins)
        return None

    def _converse(self, connection: GeventConnection) -> None:
        """Let the app use the socket; what it answers counts only if it left the socket alone."""
        status, headers = "200 OK", []

        def start_response(its_status: str, its_headers: Any, exc_info: Any = None) -> Any:
            nonlocal status, headers
            status, headers = its_status, its_headers
            return lambda data: None

        body: Iterable[bytes] = ()
        try:
            with suppress(ConnectionClosed):  # that is how a route learns that the browser left
                body = self.application(self.environ, start_response)
        except Exception:
            if not connection.accepted:
                self.environ.pop("wsgi.websocket")  # its presence would spoil the error page
                raise
            status = "500"
            self.handle_error(*sys.exc_info())
        try:
            code = int(status.split()[0])
            if not connection.accepted and code >= 300:
                self._answer_in_http(status, headers, body)
            elif not connection.detached:
                with suppress(ConnectionClosed):
                    connection.accept()
                connection.finish(
                    CloseReason.INTERNAL_ERROR if code >= 500 else CloseReason.NORMAL_CLOSURE
                )
        finally:
            getattr(body, "close", lambda: None)()

    def _answer_in_http(self, status: str, headers: Any, body: Iterable[bytes]) -> None:
        """Answer an upgrade with plain HTTP, after which the connection ends."""
        self.environ.pop("wsgi.websocket", None)
        self.start_response(status, [*headers, ("Connection", "close")])
        self.result = body
        self.process_result()

    def switch_protocols(self) -> None:
        """Send the 101, prepared by gevent-websocket, without making its connection object."""
        key = self.environ["HTTP_SEC_WEBSOCKET_KEY"].strip().encode()
        headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", generate_accept_token(key).decode()),
        ]
        self.start_response("101 Switching Protocols", headers)
        self.write(b"")

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        if self.connection is not None and self.connection.accepted:
            logger.error("a WebSocket route failed", exc_info=(t, v, tb))
        else:
            super().handle_error(t, v, tb)

    def log_request(self) -> None:
        if self.logger.isEnabledFor(logging.INFO):
            self.logger.info(self.format_request())

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        """Answer what is no request; that is the client's mistake, and not worth an alarm."""
        self.logger.info("%s: no request: %s", self.client_address, ex)
        status = "431 Request Header Fields Too Large" if isinstance(ex, HeadTooLarge) else None
        return status or "400 Bad Request", _plain_answer(status or "400 Bad Request", str(ex))

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

    def MessageClass(self, rfile: Any, seekable: int) -> Head:
        return Head(rfile)

    def _write_with_headers(self, data: bytes) -> None:
        """Write head and body in one go, as one packet, unless the body is long."""
        self.headers_sent = True
        self.finalize_headers()
        lines = [b"HTTP/1.1 " + self.status]
        lines += [name + b": " + value for name, value in self.response_headers]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if self.response_use_chunked or len(data) > _ONE_WRITE:
            self._sendall(head)
            self._write(data)
        else:
            self._sendall(head + data)


class Server(WSGIServer):  # type: ignore[misc]
    """A WSGIServer that says goodbye.

    On Ctrl-C or SIGTERM it stops accepting, calls everything in `farewell` (close the feed, so
    that waiting polls are answered; close the hub), closes conversations with 1001, and returns
    from `serve_forever` when all is done, at once if nobody is connected.
    """

    handler_class = Handler

    def __init__(
        self,
        listener: socket.socket,
        application: Any,
        *,
        farewell: Collection[Callable[[], None]] = (),
        allow_origins: Collection[str] = (),
        allow_hosts: Collection[str] | None = None,
        max_clients: int | None = None,
        head_timeout: float = HEAD_TIMEOUT,
        connection_options: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        options.setdefault("log", None)
        options.setdefault("error_log", logging.getLogger("pushlab.requests"))
        super().__init__(listener, application, **options)
        self.farewell = farewell
        self.allow_origins = allow_origins
        self.connection_options = connection_options
        self.handlers: set[Handler] = set()
        self.head_timeout = head_timeout
        self.max_clients = min(
            max_clients or _MANY, max(1, raise_descriptor_limit() - _SPARE_DESCRIPTORS)
        )
        self.turned_away = 0
        self._clients = 0
        self._allow_hosts = allow_hosts
        self._our_hosts: set[str] = set()
        self._asked_to_stop = Event()

    def serve_forever(self, stop_timeout: float | None = None) -> None:
        """Serve until SIGTERM, Ctrl-C or `stop`."""
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):  # they differ between systems
                gevent.signal_handler(getattr(signal, name), self._asked_to_stop.set)
        self.start()
        while not self._asked_to_stop.wait(min(1.0, self.head_timeout / 4)):
            now = time.monotonic()
            for handler in [each for each in self.handlers if each.due < now]:
                hang_up(handler.socket)
        self.stop(stop_timeout)

    def enter(self) -> bool:
        """Count one more connection, if there is room for it."""
        if self._clients >= self.max_clients:
            return False
        self._clients += 1
        return True

    def leave(self) -> None:
        """Count one connection less."""
        self._clients -= 1

    def is_ours(self, host: str) -> bool:
        """Tell whether this server answers to the name in a Host header."""
        if self._allow_hosts is None or host in self._our_hosts:
            return True
        if not handshake.host_allowed(host, self._allow_hosts):
            return False
        if len(self._our_hosts) < 100:
            self._our_hosts.add(host)
        return True

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, say goodbye to everyone, and wait at most `timeout` seconds for them."""
        deadline = time.monotonic() + (FAREWELL_TIMEOUT if timeout is None else timeout)
        self.close()
        self._asked_to_stop.set()
        goodbyes = [gevent.spawn(goodbye) for goodbye in self.farewell]
        for handler in tuple(self.handlers):
            if handler.idle:
                hang_up(handler.socket)
            elif handler.connection is not None and handler.connection.accepted:
                goodbyes.append(gevent.spawn(handler.connection.close, CloseReason.GOING_AWAY))
        gevent.joinall(goodbyes, timeout=deadline - time.monotonic())
        while self.handlers and time.monotonic() < deadline:
            gevent.sleep(0.01)

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        client_socket.settimeout(self.head_timeout)
        try:
            tls_socket = self.wrap_socket(client_socket, **self.ssl_args)
        except OSError as error:  # of which SSLError is one
            logger.info("%s: no TLS connection: %s", address[0], error)
            return
        with closing(tls_socket):
            tls_socket.settimeout(None)
            self.handle(tls_socket, address)
