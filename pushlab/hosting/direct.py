"""Requests dispatched before a greenlet and an environ exist.

The functions are those of `wsgi.direct`, and with them those of Flask's routes. Browsers repeat
themselves: all that were notified of a change ask for what comes after the same cursor, and a
browser's headers are the same in each of its requests. So what was parsed is remembered by its
bytes.
"""

import logging
import re
from functools import lru_cache
from io import BufferedReader, BytesIO
from typing import Any, cast

from pushlab import limits
from pushlab.hosting.request_parser import (
    HOST,
    NAME,
    RequestHeaders,
    RequestLine,
    environ_name,
    parse_request_line,
)
from pushlab.websocket import handshake
from pushlab.websocket.connection import ConnectionClosed
from pushlab.wsgi.access import AccessPolicy
from pushlab.wsgi.direct import WEBSOCKET, Direct
from pushlab.wsgi.responses import Environ, Response
from pushlab.wsgi.waiting import Stream, Wait

logger = logging.getLogger(__name__)

#: Headers with which a request goes the ordinary way.
_UNUSUAL = {"content-length", "transfer-encoding", "expect"}


#: A header that begins and ends its line, without white space around its value.
_FIELD = re.compile(r"(?m)^([!-9;-~]+): ([!-~](?:[ -~]*[!-~])?)\r\n")


class DirectDispatch:
    """Dispatches the plain requests of an app."""

    def __init__(self, app: Any, policy: AccessPolicy) -> None:
        self._app = app
        self._policy = policy

    def __call__(self, client: Any, data: bytes) -> tuple[Response | Wait | Stream, str] | None:
        """Return what responds to a request, and its method.

        None if the bytes are not exactly one plain request that may go this way.
        """
        line, block = _split(data)
        headers = line and _headers(block)
        found = Direct.of(self._app)
        if not line or not headers or not found:
            return None
        function = found.functions.get((line["REQUEST_METHOD"], line["PATH_INFO"]))
        environ = {**headers, **line}
        if not function or not self._accepts(client, environ):
            return None
        try:
            response = function(environ)
        except Exception:  # it goes to a greenlet, which may wait, and Flask makes the response
            return None
        return None if response is None else (response, line["REQUEST_METHOD"])

    def upgrade(self, client: Any, data: bytes) -> bool:
        """Let a function take a client's WebSocket.

        Returns False if Flask has to dispatch the request.
        """
        (line, block), found = _split(data), Direct.of(self._app)
        function = line and found and found.functions.get((WEBSOCKET, line["PATH_INFO"]))
        headers = function and _parse(block)  # with a key, so it never comes again
        if not line or not function or not headers:
            return False
        environ = {**_as_environ(headers), **line}
        is_upgrade = handshake.is_websocket_upgrade(environ)
        if not is_upgrade or not self._accepts(client, environ, is_plain=False):
            return False
        environ["wsgi.websocket"] = opening = Handshake(client, environ)
        try:
            function(environ)
        except Exception as error:
            if not opening.is_detached:  # as above
                return False
            client.close()
            if not isinstance(error, ConnectionClosed):
                logger.exception("a WebSocket was not taken")
        return True

    def _accepts(self, client: Any, environ: Environ, *, is_plain: bool = True) -> bool:
        """Tell whether the policy accepts a request."""
        if self._policy.trusts_proxies:
            try:
                address = client.address()
            except OSError:  # it has been reset, as will be found out
                return False
            if isinstance(address, tuple):
                environ["REMOTE_ADDR"] = address[0]
        elif is_plain:  # all that can be wrong with it
            return self._policy.accepts_host(environ["HTTP_HOST"])
        return self._policy.check(environ) is None


class NotDirect(Exception):
    """The function needs a connection that can wait."""


class Handshake:
    """`environ["wsgi.websocket"]` of a request without a greenlet.

    All it can is `detach`; for anything else the request goes to Flask.
    """

    def __init__(self, client: Any, environ: Environ) -> None:
        self._client = client
        self._environ = environ
        self.is_detached = False

    def detach(self) -> tuple[Any, bytes]:
        """Send the 101; return the channel, and no early bytes."""
        self.is_detached = True
        self._client.leave_server()
        data = handshake.switching_protocols(self._environ)
        try:
            sent = self._client.send(data)
        except OSError as error:
            raise ConnectionClosed("the browser is gone") from error
        if sent < len(data):  # a new connection has room for it
            raise ConnectionClosed("the handshake was not sent")
        return self._client, b""

    def __getattr__(self, name: str) -> Any:
        raise NotDirect(name)


def _split(data: bytes) -> tuple[Environ | None, bytes]:
    """Return a request line's meaning, and the headers' bytes.

    The first is None if the bytes are not exactly one plain request.
    """
    end = data.find(b"\r\n") + 2
    if data.find(b"\r\n\r\n", end - 2) != len(data) - 4:
        return None, b""
    return _request_line(data[:end]), data[end:]


@lru_cache(limits.REMEMBERED)
def _request_line(data: bytes) -> Environ | None:
    """Return a request line's meaning; None if unusual."""
    try:
        line: RequestLine = parse_request_line(data.decode("latin-1"))
    except ValueError:
        return None
    path, _, query = line.target.partition("?")
    is_plain = line.version == "HTTP/1.1" and line.method in ("GET", "HEAD") and not line.host
    if not is_plain or "%" in path or "lane=" in query:  # the bytes of a lane are counted
        return None
    return {
        "REQUEST_METHOD": line.method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": line.version,
    }


@lru_cache(limits.REMEMBERED)
def _headers(block: bytes) -> Environ | None:
    """Return the headers' meaning; None if unusual."""
    if (environ := _plain_headers(block)) is not None:
        return environ
    headers = _parse(block)
    if headers is None or headers.get("upgrade") is not None:
        return None
    if (headers.get("connection") or "keep-alive").lower() != "keep-alive":
        return None
    return _as_environ(headers)


def _plain_headers(block: bytes) -> Environ | None:
    """Return the meaning of headers as browsers send them.

    For any others None, and the parser decides: it takes twice as long.
    """
    fields = _FIELD.findall(block.decode("latin-1"))
    environ: Environ = {_environ_key(name): value for name, value in fields}
    has_all = len(environ) == len(fields) == block.count(b"\n") - 1
    if not has_all or "" in environ or len(fields) > limits.MAX_HEADER_LINES:
        return None
    if environ.get("HTTP_CONNECTION", "keep-alive").lower() != "keep-alive":
        return None
    return environ if HOST.fullmatch(environ.get("HTTP_HOST", "/")) else None


@lru_cache(limits.REMEMBERED)
def _environ_key(name: str) -> str:
    """Return a plain header's key; "" if it is none."""
    lower = name.lower()
    is_plain = NAME.fullmatch(name) and "_" not in name and lower not in (*_UNUSUAL, "upgrade")
    return environ_name(lower) if is_plain else ""


def _parse(block: bytes) -> RequestHeaders | None:
    try:
        headers = RequestHeaders(cast(BufferedReader, _Buffer(block)))
        headers.check(RequestLine("GET", "/", "HTTP/1.1"))
    except ValueError:
        return None
    if headers.size < len(block):  # an empty line that ends in LF alone: a request follows
        return None
    names = [name for name, _ in headers.fields]
    if len(set(names)) < len(names) or not headers.get("host"):
        return None
    is_unusual = not _UNUSUAL.isdisjoint(names) or "_" in "".join(names)
    return None if is_unusual else headers


def _as_environ(headers: RequestHeaders) -> Environ:
    return {environ_name(name): value for name, value in headers.fields}


class _Buffer(BytesIO):
    """Bytes as the parser reads them from a connection."""

    def peek(self, size: int = 0) -> bytes:
        return self.getvalue()
