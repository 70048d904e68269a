"""Request headers, parsed within limits and fast.

The standard library parses them as e-mail, which costs more than the rest of a short response.
RFC 9112 section 5 lets a server refuse what is refused here: folded lines, white space
before the colon, control characters.
"""

import re
from io import BufferedReader

from pushlab import limits

_LINES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r?\n)*\r?\n")

#: Where two would let a proxy in front of us see the end of the request elsewhere than we do, and
#: take the rest for another one (RFC 9112 section 11.2).
_ONCE = ("host", "content-length", "transfer-encoding")


class BadHeaders(ValueError):
    """The lines are no header fields; the message says why."""


class HeadersTooLarge(BadHeaders):
    """There are too many lines, or too many bytes."""


class RequestHeaders:
    """Header fields, by name and in their order.

    It has the attributes that gevent's handler and Werkzeug's ask for.
    """

    __slots__ = ("_first", "fields", "size")

    #: For gevent; headers that cannot be parsed raise instead.
    status = ""

    def __init__(self, rfile: BufferedReader) -> None:
        self.fields: list[tuple[str, str]] = []  #: every field's name, in lower case, and value
        self._first: dict[str, str] = {}
        block = _read(rfile)
        self.size = len(block)  #: bytes, with the empty line
        if not _LINES.fullmatch(block):
            raise BadHeaders("these are no header fields")
        for line in block.decode("latin-1").split("\n")[:-2]:
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip(" \t\r")
            self.fields.append((name, value))
            if name in _ONCE and name in self._first:
                raise BadHeaders(f"more than one {name}")
            self._first.setdefault(name, value)
        coding, length = self.get("transfer-encoding"), self.get("content-length")
        if coding is not None and (coding.lower() != "chunked" or length is not None):
            raise BadHeaders("a body is either chunked, or has a length")
        if length is not None and not re.fullmatch("[0-9]{1,18}", length):
            raise BadHeaders("the length is no number")

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first field of this name."""
        return self._first.get(name.lower(), default)

    getheader = get

    def items(self) -> list[tuple[str, str]]:
        """Return all fields in their order, names in lower case."""
        return self.fields

    @property
    def typeheader(self) -> str | None:
        """The media type of the body."""
        return self._first.get("content-type")

    def __setitem__(self, name: str, value: str) -> None:
        name = name.lower()
        if name in self._first:
            del self[name]
        self.fields.append((name, value))
        self._first[name] = value

    def __delitem__(self, name: str) -> None:
        name = name.lower()
        del self._first[name]
        self.fields = [field for field in self.fields if field[0] != name]


def _read(rfile: BufferedReader) -> bytes:
    """Read up to and with the empty line."""
    # Nearly always all of it has come in one piece, which is in the reader's buffer already.
    waiting = rfile.peek()
    end = 2 if waiting.startswith(b"\r\n") else waiting.find(b"\r\n\r\n") + 4
    if end != 3 and waiting.count(b"\n", 0, end) <= limits.MAX_HEADER_LINES:
        return rfile.read(end)
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
            raise BadHeaders("the headers end too early")
        lines.append(line)
    return b"".join(lines)
