"""Logins: who is logged in, and which sockets to close when he no longer is."""

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

#: The close code that says that the login has ended; those from 4000 on are any app's own.
LOGGED_OUT = 4401


class Password:
    """The password in this variable of the environment, or else one that is made and printed."""

    def __init__(self, variable: str) -> None:
        self._text = os.environ.get(variable, "")
        if not self._text:
            self._text = secrets.token_hex(4)
            print(f"The password is {self._text}; {variable} sets another.", file=sys.stderr)

    def is_it(self, text: str) -> bool:
        """Compare; it takes as long, however much of it is right."""
        return hmac.compare_digest(text.encode(errors="replace"), self._text.encode())


class _Sessions(SecureCookieSessionInterface):
    """Flask's session cookie, HttpOnly as ever, and Secure where it comes by https."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure

    def get_cookie_samesite(self, app: Flask) -> str:
        return "Lax"  # other sites' pages may link here, but not post or connect as the user


class Logins:
    """Every login, by a secret that its session keeps, with its sockets.

    A session cookie alone can be copied and never taken back; a login that has ended is over.
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
        """End a login, if it is one, and close its sockets."""
        with self._lock:
            # A copy: they leave the set as soon as the first of them are closed.
            sockets = tuple(self._sockets.pop(login or "", ()))
        for socket in sockets:  # each by a thread: one that takes nothing must not hold up the rest
            goodbye = (LOGGED_OUT, "logged out")
            threading.Thread(target=socket.close, args=goodbye, daemon=True).start()

    @contextmanager
    def using(self, login: str | None, socket: Connection) -> Iterator[None]:
        """Have the socket closed when the login ends; a 401 if there is none, before the 101."""
        if login not in self:
            raise Unauthorized("log in first")
        socket.accept()  # here, as some servers let only the request's own thread do that
        with self._lock:
            sockets = self._sockets.get(login or "")
            if sockets is not None:
                sockets.add(socket)
        if sockets is None:  # it has ended in this very moment
            socket.close(LOGGED_OUT, "logged out")
            sockets = set()
        try:
            yield
        finally:
            with self._lock:
                sockets.discard(socket)
