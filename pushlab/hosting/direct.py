"""Requests dispatched before a greenlet and an environ exist.

The functions are those of `wsgi.direct`, and with them those of Flask's routes. Browsers repeat
themselves: all that were notified of a change ask for what comes after the same cursor, and a
browser's headers are the same in each of its requests. So what was parsed is remembered by its
bytes.
"""

import logging
import re
from collections.abc import Callable
from io import BufferedReader, BytesIO
from typing import Any, cast

from pushlab import limits
from pushlab.hosting.request_parser import (
    HOST,
    TOKEN,
    RequestHeaders,
    RequestLine,
    environ_name,
)
from pushlab.websocket import handshake
from pushlab.websocket.connection import ConnectionClosed
from pushlab.wsgi.access import AccessPolicy
from pushlab.wsgi.direct import WEBSOCKET, Direct
from pushlab.wsgi.remembered import remembered
from pushlab.wsgi.responses import Environ, HeaderFields, Response, encode
from pushlab.wsgi.waiting import Stream, Wait

logger = logging.getLogger(__name__)

#: Gives a client to the hub, until there is a response; returns False without a hub.
Hold = Callable[[Any, Wait | Stream, HeaderFields], bool]

#: Headers, as in an environ, with which a request goes the ordinary way.
_UNUSUAL = {"HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT"}

#: A line without a body, an absolute URL, or an escaped path.
_REQUEST_LINE = re.compile(
    r"(GET|HEAD) (/[^\x00-\x20#%?\x7f]*)(?:\?([^\x00-\x20#\x7f]*))? HTTP/1\.1"
)
#: A header without white space around its value. With X_Y for a name it would look like X-Y.
_FIELD = re.compile(f"({TOKEN.replace('_', '')}): ([!-~](?:[ -~]*[!-~])?)\r")
#: What differs between two handshakes of a browser.
_KEY = re.compile(rb"\r\nSec-WebSocket-Key: ([0-9A-Za-z+/]{22}==)(?=\r\n)")


class DirectDispatch:
    """Dispatches the plain requests of an app."""

    def __init__(self, app: Any, policy: AccessPolicy, hold: Hold) -> None:
        self._app = app
        self._policy = policy
        self._hold = hold

    def __call__(self, client: Any, data: bytes) -> bool:
        """Respond to a request, or have its client held.

        Returns False if Flask has to dispatch the request: the bytes are not exactly one plain
        request, or it may not go this way.
        """
        first, _, block = data.partition(b"\r\n")
        line, found = _request_line(first), Direct.of(self._app)
        if not line or not found:
            return False
        headers = _headers(block)
        if not headers:
            return b"pgrade:" in block and self._upgrade(client, found, line, block)
        method = line["REQUEST_METHOD"]
        function = found.functions.get((method, line["PATH_INFO"]))
        environ = {**headers, **line}
        if not function:
            return False
        if self._policy.trusts_proxies:
            if not self._accepts(client, environ):
                return False
        elif not self._policy.accepts_host(environ["HTTP_HOST"]):  # all that can be wrong with it
            return False
        try:
            outcome = function(environ)
        except Exception:  # it goes to a greenlet, which may wait, and Flask makes the response
            return False
        if isinstance(outcome, Response):
            if not isinstance(outcome.body, tuple):  # it may have to wait for its body
                return False
            client.respond(encode(outcome, is_head=method == "HEAD"))
            return True
        if outcome is None or method == "HEAD":
            return False
        return self._hold(client, outcome, outcome.headers)

    def _upgrade(self, client: Any, found: Direct, line: Environ, block: bytes) -> bool:
        """Let a function take a client's WebSocket.

        Returns False if Flask has to dispatch the request.
        """
        function = found.functions.get((WEBSOCKET, line["PATH_INFO"]))
        headers = function and _upgrade_headers(block)
        if not function or not headers:
            return False
        environ = {**headers, **line}
        is_accepted = self._accepts(client, environ)
        if not is_accepted or environ.get("HTTP_UPGRADE") != "websocket":  # as the policy writes it
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

    def _accepts(self, client: Any, environ: Environ) -> bool:
        """Tell whether the policy accepts a request."""
        if self._policy.trusts_proxies:
            try:
                address = client.address()
            except OSError:  # it has been reset, as will be found out
                return False
            if isinstance(address, tuple):
                environ["REMOTE_ADDR"] = address[0]
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


@remembered
def _request_line(data: bytes) -> Environ | None:
    """Return a request line's meaning; None if unusual."""
    match = _REQUEST_LINE.fullmatch(data.decode("latin-1"))
    if match is None or "lane=" in (match[3] or ""):  # the bytes of a lane are counted
        return None
    method, path, query = match.groups("")
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }


def _headers_of(block: bytes) -> Environ | None:
    """Return the headers' meaning; None if unusual."""
    environ = None if b"pgrade:" in block else _environ_of(block)
    if environ is None or "HTTP_UPGRADE" in environ:
        return None
    connection = environ.get("HTTP_CONNECTION") or "keep-alive"
    return environ if connection.lower() == "keep-alive" else None


_headers = remembered(_headers_of, "MAX_PIECE")


def _upgrade_headers(block: bytes) -> Environ | None:
    """Return the meaning of a handshake's headers; None if unusual."""
    if block.count(b"\n") > limits.MAX_HEADER_LINES + 1:  # with the empty one
        return None
    found = _KEY.search(block)
    if found is None:
        return _environ_of(block)
    if block.find(b"\r\n\r\n") < len(block) - 4:  # behind the headers, a key is no part of them
        return None
    environ = _keyless(block[: found.start()] + block[found.end() :])
    if environ is None or "HTTP_SEC_WEBSOCKET_KEY" in environ:  # twice
        return None
    return {**environ, "HTTP_SEC_WEBSOCKET_KEY": found[1].decode()}


def _environ_of(block: bytes) -> Environ | None:
    """Return the headers' meaning; None if a greenlet parses them."""
    if not block.endswith(b"\r\n\r\n"):
        return None
    if (plain := _plain_headers(block)) is not None:
        return plain
    headers = _parse(block)
    return None if headers is None else _as_environ(headers)


_keyless = remembered(_environ_of, "MAX_PIECE")  # comes again, while a key does not


def _plain_headers(block: bytes) -> Environ | None:
    """Return the meaning of headers as browsers send them.

    For any others None, and the parser decides: it takes five times as long.
    """
    lines = block.split(b"\n")[:-2]
    environ: Environ = dict(map(_plain_header, lines))
    has_all = len(environ) == len(lines) <= limits.MAX_HEADER_LINES
    return environ if has_all and "" not in environ and "HTTP_HOST" in environ else None


@remembered  # most lines are those of other requests, too
def _plain_header(line: bytes) -> tuple[str, str]:
    """Return a header's key and value, if it is plain."""
    match = _FIELD.fullmatch(line.decode("latin-1"))
    if match is None:
        return "", ""
    name, value = match.groups()
    key = environ_name(name)
    is_plain = key not in _UNUSUAL and (key != "HTTP_HOST" or HOST.fullmatch(value))
    return (key, value) if is_plain else ("", "")


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
    is_unusual = not _UNUSUAL.isdisjoint(map(environ_name, names)) or "_" in "".join(names)
    return None if is_unusual else headers


def _as_environ(headers: RequestHeaders) -> Environ:
    return {environ_name(name): value for name, value in headers.fields}


class _Buffer(BytesIO):
    """Bytes as the parser reads them from a connection."""

    def peek(self, size: int = 0) -> bytes:
        return self.getvalue()
