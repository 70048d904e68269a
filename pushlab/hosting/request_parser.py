"""Request lines and headers, parsed within limits and fast.

The rules are those of RFC 9112 sections 2, 3, 5 and 6.
Every server of ours uses it, so that all of them refuse the same. The standard library parses
headers as e-mail, which costs more than all the rest of a response from memory.
"""

import re
from io import BufferedReader
from typing import NamedTuple

from pushlab import limits
from pushlab.wsgi.remembered import remembered

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - of RFC 9110 section 5.6.2
NAME = re.compile(TOKEN)
#: What no header may contain; a carriage return only at the end of a line.
_CONTROLS = bytes({*range(32), 127} - {*b"\t\r\n"})
_EMPTY_LINE = re.compile(rb"(?:^|\n)\r?\n")
_REQUEST_LINE = re.compile(rf"({TOKEN}) ([^\x00-\x20#\x7f]+) HTTP/([0-9])\.([0-9])\r?\n")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?@]+)(?=[/?]|$)(.*)")
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\x00-\x20\x7f/?#@\\,:\[\]]*)(?::[0-9]*)?")

#: Where two would let a proxy in front of us find the end of the request elsewhere than we do, and
#: take the rest for another one (RFC 9112 section 11.2).
_ONCE = ("host", "content-length", "transfer-encoding")


class BadRequest(ValueError):
    """What came is no request; the message says why."""

    status = "400 Bad Request"


class RequestLineTooLong(BadRequest):
    """The request line is longer than `limits.MAX_REQUEST_LINE`."""

    status = "414 URI Too Long"


class HeadersTooLarge(BadRequest):
    """There are too many header lines, or too many bytes."""

    status = "431 Request Header Fields Too Large"


class ExpectationFailed(BadRequest):
    """The expectation is unknown (RFC 9110 section 10.1.1)."""

    status = "417 Expectation Failed"


class NotImplementedHere(BadRequest):
    """The method or transfer coding is not implemented."""

    status = "501 Not Implemented"


class VersionNotSupported(BadRequest):
    """The request is not of HTTP/1 (RFC 9110 section 15.6.6)."""

    status = "505 HTTP Version Not Supported"


class RequestLine(NamedTuple):
    """The first line of a request."""

    method: str
    target: str  #: in origin-form or asterisk-form
    version: str  #: "HTTP/1.0" or "HTTP/1.1"
    host: str | None = None  #: of an absolute-form, which counts more than the Host header


def parse_request_line(line: str) -> RequestLine:
    """Return the parts of a request line; raises BadRequest.

    An absolute-form is split into its host and an origin-form (RFC 9112 section 3.2).
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if len(line) >= limits.MAX_REQUEST_LINE:
            raise RequestLineTooLong(f"more than {limits.MAX_REQUEST_LINE} bytes of request line")
        raise BadRequest("this is no request line of HTTP/1.1")
    method, target, major, minor = match.groups()
    if major != "1":
        raise VersionNotSupported(f"HTTP/{major}.{minor} is not spoken here")
    if method != method.upper():  # Werkzeug would take it for the other (RFC 9110 section 9.1)
        raise NotImplementedHere(f"methods are case-sensitive; {method} is none")
    version = "HTTP/1.0" if minor == "0" else "HTTP/1.1"
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return RequestLine(method, target, version)
    if absolute := _ABSOLUTE.fullmatch(target):
        host, rest = absolute.groups()
        return RequestLine(method, rest if rest.startswith("/") else f"/{rest}", version, host)
    if method == "CONNECT":
        raise NotImplementedHere("CONNECT is for proxies")
    raise BadRequest("the request target is neither a path nor a URL")


class RequestHeaders:
    """Header fields, by name and in their order.

    It has the attributes that gevent's handler and Werkzeug's ask for.
    """

    __slots__ = ("_values", "fields", "size")

    #: For gevent; headers that cannot be parsed raise instead.
    status = ""

    def __init__(self, rfile: BufferedReader) -> None:
        self.fields: list[tuple[str, str]] = []  #: every field's name, in lower case, and value
        self._values: dict[str, str] = {}
        block = _read(rfile)
        self.size = len(block)  #: bytes, with the empty line
        is_clean = len(block.translate(None, _CONTROLS)) == len(block)
        if not is_clean or block.count(b"\r") != block.count(b"\r\n"):
            raise BadRequest("these are no header fields")
        for line in block.decode("latin-1").split("\n")[:-2]:
            name, colon, value = line.partition(":")
            name, value = _lower(name), value.strip(" \t\r")
            if not colon or not name:
                raise BadRequest("these are no header fields")
            self.fields.append((name, value))
            if name in self._values:
                if name in _ONCE:
                    raise BadRequest(f"more than one {name}")
                value = f"{self._values[name]}, {value}"
            self._values[name] = value

    def check(self, line: RequestLine) -> None:
        """Raise BadRequest unless the request's framing and host are clear."""
        coding, length = self.get("transfer-encoding"), self.get("content-length")
        if coding is not None:
            if line.version == "HTTP/1.0":
                raise BadRequest("HTTP/1.0 has no Transfer-Encoding")
            if length is not None:
                raise BadRequest("a body is either chunked, or has a length")
            *others, last = re.split("[ \t]*,[ \t]*", coding.lower())
            if last != "chunked" or "chunked" in others:
                raise BadRequest("the last transfer coding of a body is chunked, once")
            if others:
                raise NotImplementedHere("of transfer codings only chunked is known")
        if length is not None and not re.fullmatch("[0-9]{1,18}", length):
            raise BadRequest("the length is no number")
        host = self.get("host")
        if host is None and line.version != "HTTP/1.0":
            raise BadRequest("the Host header is missing")
        if not all(HOST.fullmatch(each) for each in (host, line.host) if each is not None):
            raise BadRequest("the Host header names no host")
        if line.host is not None:
            self["host"] = line.host
        if line.version == "HTTP/1.0":
            if "expect" in self._values:
                del self["expect"]  # such a client knows no 100 (RFC 9110 section 10.1.1)
        elif (self.get("expect") or "100-continue").lower() != "100-continue":
            raise ExpectationFailed("the only expectation met here is 100-continue")

    @property
    def has_body(self) -> bool:
        """True if a body follows."""
        return "transfer-encoding" in self._values or int(self._values.get("content-length", 0)) > 0

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the values of all fields of this name."""
        return self._values.get(name.lower(), default)

    getheader = get

    def items(self) -> list[tuple[str, str]]:
        """Return all fields in their order."""
        return self.fields

    @property
    def typeheader(self) -> str | None:
        """The media type of the body."""
        return self._values.get("content-type")

    def __setitem__(self, name: str, value: str) -> None:
        name = name.lower()
        if name in self._values:
            del self[name]
        self.fields.append((name, value))
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        name = name.lower()
        del self._values[name]
        self.fields = [field for field in self.fields if field[0] != name]


@remembered
def _lower(name: str) -> str:
    """Return a header's name in lower case, or ""."""
    return name.lower() if NAME.fullmatch(name) else ""


@remembered
def environ_name(name: str) -> str:
    """Return the key of a header in a WSGI environ."""
    return f"HTTP_{name.replace('-', '_').upper()}"


def _read(rfile: BufferedReader) -> bytes:
    """Read up to and with the empty line."""
    # Nearly always all of it has come in one piece, which is in the reader's buffer already.
    waiting = rfile.peek()
    end = waiting.find(b"\r\n\r\n") + 4
    is_usual = end > 4 and not waiting.startswith((b"\r", b"\n"))  # no bare line feeds either
    is_usual = is_usual and waiting.find(b"\n\r\n", 0, end - 1) == waiting.find(b"\n\n", 0, end)
    if is_usual and waiting.count(b"\n", 0, end) <= limits.MAX_HEADER_LINES:
        return rfile.read(end)
    empty_line = _EMPTY_LINE.search(waiting)
    if empty_line and waiting.count(b"\n", 0, empty_line.end()) <= limits.MAX_HEADER_LINES:
        return rfile.read(empty_line.end())
    lines: list[bytes] = []
    left = limits.MAX_HEADER_BYTES
    while not lines or lines[-1] not in (b"\r\n", b"\n"):
        line = rfile.readline(left + 1)
        left -= len(line)
        if left < 0 or len(lines) > limits.MAX_HEADER_LINES:
            raise HeadersTooLarge(
                f"more than {limits.MAX_HEADER_LINES} lines or "
                f"{limits.MAX_HEADER_BYTES} bytes of headers"
            )
        if not line:
            raise BadRequest("the headers end too early")
        lines.append(line)
    return b"".join(lines)
