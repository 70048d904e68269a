"""Responses made without Flask, and the servers' JSON errors."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import flask
from werkzeug.http import http_date

Environ = dict[str, Any]
WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]
HeaderFields = Sequence[tuple[str, str]]  # to which nothing is added

_JSON = ("Content-Type", "application/json")


class Response:
    """A status, headers and body, and their WSGI application."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: str, headers: Headers, body: Iterable[bytes] = ()) -> None:
        self.status = status  #: code and reason phrase, such as "200 OK"
        self.headers = headers
        self.body = body

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(self.status, self.headers)
        if environ["REQUEST_METHOD"] != "HEAD":
            return self.body
        getattr(self.body, "close", lambda: None)()  # a stream that will not be read
        return ()

    @property
    def code(self) -> int:
        """The status code."""
        return int(self.status[:3])

    def for_flask(self) -> flask.Response:
        """Return the same response as an object of Flask's."""
        response = flask.Response(self.body, self.status, self.headers)
        if not any(name == "Content-Type" for name, _ in self.headers):
            del response.headers["Content-Type"]  # Flask's default, for no body
        return response


def encode(response: Response, more: HeaderFields = (), *, is_head: bool = False) -> bytes:
    """Return a response's bytes, with a Date.

    A server that has a clock must send it (RFC 9110 section 6.6.1).
    """
    body, has_length = b"".join(response.body), False
    head = f"HTTP/1.1 {response.status}\r\n"
    for name, value in response.headers:
        head += f"{name}: {value}\r\n"
        has_length = has_length or name == "Content-Length"
    for name, value in more:
        head += f"{name}: {value}\r\n"
    if body and not has_length:
        head += f"Content-Length: {len(body)}\r\n"
    head += f"Date: {_date(int(time.time()))}\r\n\r\n"
    return head.encode("latin-1") + (b"" if is_head else body)


_date = lru_cache(maxsize=1)(http_date)  # a Date header's value, for each second


def json_response(status: str, body: bytes, *headers: tuple[str, str]) -> Response:
    """Return a response with encoded JSON as its body."""
    return Response(status, [_JSON, ("Content-Length", str(len(body))), *headers], (body,))


def error(status: str, message: str, *headers: tuple[str, str]) -> Response:
    """Return a response with `{"error": message}` as its body."""
    return json_response(status, json.dumps({"error": message}).encode(), *headers)


def raw_error(status: str, message: str) -> bytes:
    """Return the bytes of an HTTP/1.1 error response.

    The connection ends with it (`Connection: close`).
    """
    return encode(error(status, message, ("Connection", "close")))
