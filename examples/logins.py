"""Logins, and the WebSockets to close when one ends."""

import hmac
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, request
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import Unauthorized

from pushlab.websocket.connection import Connection

#: The close code of a login that has ended; codes from 4000 on are free (RFC 6455 section 7.4.2).
LOGGED_OUT = 4401


class Password:
    """The password in an environment variable, or a random one.

    The random one is printed.
    """

    def __init__(self, variable: str) -> None:
        self._text = os.environ.get(variable, "")
        if not self._text:
            self._text = secrets.token_hex(4)
            print(f"The password is {self._text}; {variable} sets another.", file=sys.stderr)

    def matches(self, text: str) -> bool:
        """Compare in a time independent of the text."""
        return hmac.compare_digest(text.encode(errors="replace"), self._text.encode())


class _Sessions(SecureCookieSessionInterface):
    """Flask's session cookie, HttpOnly, and Secure over HTTPS."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_samesite(self, app: Flask) -> str:
        return "Lax"  # other sites may link here, but not post or connect as the user


class Logins:
    """All logins, by the secret in their session.

    A session cookie can be copied, and cannot be revoked; a login can be ended.
    """

    def __init__(self, app: Flask) -> None:
        app.session_interface = _Sessions()
        app.secret_key = secrets.token_bytes()  # signs the cookies; a restart ends all logins
        self._lock = threading.Lock()
        self._sockets: dict[str, set[Connection]] = {}

    def __contains__(self, login: str | None) -> bool:
        return login in self._sockets

    def begin(self) -> str:
        """Return the secret of a new login."""
        login = secrets.token_hex()
        with self._lock:
            self._sockets[login] = set()
        return login

    def end(self, login: str | None) -> None:
        """End the login, if there is one; close its WebSockets."""
        with self._lock:
            # A copy: closed ones are removed from the set meanwhile.
            sockets = tuple(self._sockets.pop(login or "", ()))
        for socket in sockets:  # each in a thread: one that reads nothing must not delay the rest
            reason = (LOGGED_OUT, "logged out")
            threading.Thread(target=socket.close, args=reason, daemon=True).start()

    @contextmanager
    def using(self, login: str | None, socket: Connection) -> Iterator[None]:
        """Accept a WebSocket, to be closed when the login ends.

        Raises Unauthorized, before the 101, if there is no login.
        """
        if login not in self:
            raise Unauthorized("log in first")
        socket.accept()  # some servers let only the request's own thread do that
        with self._lock:
            sockets = self._sockets.get(login or "")
            if sockets is not None:
                sockets.add(socket)
        if sockets is None:  # it has just ended
            socket.close(LOGGED_OUT, "logged out")
            sockets = set()
        try:
            yield
        finally:
            with self._lock:
                sockets.discard(socket)
