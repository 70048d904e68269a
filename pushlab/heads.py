"""The head of a request: its header lines, read within limits and without waste.

The standard library reads them with its parser for e-mail, which costs more than all the rest of
answering from memory. What is refused here is what RFC 9112 section 5 lets a server refuse:
folded lines, white space before the colon, control characters.
"""

import re
from typing import BinaryIO

#: The most header lines of a request, and the most bytes of all of them.
MAX_LINES = 100
MAX_BYTES = 32 * 1024

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*\r?\n")

#: Where two that differ would let a proxy in front of us understand the request in another way.
_ONCE = ("host", "content-length", "transfer-encoding")


class BadHead(ValueError):
    """The lines are no header lines; the message says why."""


class HeadTooLarge(BadHead):
    """There are too many lines, or too much in them."""


class Head:
    """Header fields as gevent's handler asks for them: by name, and as lines."""

    __slots__ = ("_fields", "headers")

    #: gevent asks for it; a head that cannot be read raises instead.
    status = ""

    def __init__(self, rfile: BinaryIO) -> None:
        self.headers: list[str] = []  #: every line, "Name: value"
        self._fields: dict[str, str] = {}
        left = MAX_BYTES
        while (line := rfile.readline(left + 1)) not in (b"\r\n", b"\n"):
            left -= len(line)
            if left < 0 or len(self.headers) == MAX_LINES:
                raise HeadTooLarge(f"more than {MAX_LINES} lines or {MAX_BYTES} bytes of headers")
            field = _LINE.fullmatch(line)
            if field is None:
                raise BadHead("not a header line" if line else "the head ends too early")
            name, value = field[1].decode("latin-1"), field[2].decode("latin-1")
            self.headers.append(f"{name}: {value}")
            if self._fields.setdefault(name.lower(), value) != value and name.lower() in _ONCE:
                raise BadHead(f"more than one {name}")

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first field of this name."""
        return self._fields.get(name.lower(), default)

    getheader = get

    @property
    def typeheader(self) -> str | None:
        """The media type of the body."""
        return self._fields.get("content-type")

    def __setitem__(self, name: str, value: str) -> None:
        if name.lower() in self._fields:
            del self[name]
        self.headers.append(f"{name}: {value}")
        self._fields[name.lower()] = value

    def __delitem__(self, name: str) -> None:
        name = name.lower()
        del self._fields[name]
        self.headers = [line for line in self.headers if line.partition(":")[0].lower() != name]
