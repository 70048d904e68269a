"""Flask-uWSGI-WebSocket's API, on uWSGI and on every other server.

Version 0.6.1 imports what Flask and asyncio no longer have, and uses uWSGI's own WebSockets, which
lose and mix data (docs/reference/uwsgi.rst). Here a client has a connection of ours: uWSGI gives it
the socket; any other server has opened it.
"""

import asyncio
import inspect
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from flask import Flask
from werkzeug.exceptions import NotImplemented as NotImplementedResponse

from pushlab.hosting.asyncio_sockets import AsyncioConnection, Conversations
from pushlab.hosting.lifecycle import StartupError, say
from pushlab.hosting.settings import from_config
from pushlab.hosting.threaded_sockets import ThreadConnection
from pushlab.sockets import SocketMiddleware, Sockets
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.middleware import connection_of
from pushlab.wsgi.responses import WSGI, Environ

__all__ = ["AsyncioWebSocket", "AsyncioWebSocketClient", "AsyncioWebSocketMiddleware",
           "GeventWebSocket", "GeventWebSocketClient", "GeventWebSocketMiddleware",
           "WebSocket", "WebSocketClient", "WebSocketMiddleware"]  # fmt: skip


class Text(str):
    """A text message, which may be decoded.

    Programs do so, as uWSGI's messages are bytes.
    """

    __slots__ = ()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the text."""
        return str(self)


Message = Text | bytes


def _message(received: str | bytes | None) -> Message | None:
    return Text(received) if isinstance(received, str) else received


def _uwsgi() -> ModuleType | None:
    """Return our part for uWSGI, or None elsewhere."""
    if "uwsgi" not in sys.modules:  # where uWSGI itself puts it
        return None
    from pushlab.hosting import uwsgi

    return uwsgi


class _Client:
    """What every client has: its request, and a connection."""

    _connection: Connection

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.id = str(uuid.uuid4())
        self._next: str | bytes | None = None  # it has come, and nobody has received it

    @property
    def connected(self) -> bool:
        """True until the connection is closed, and all is received.

        This looks what has come, up to the next message: so it notices a browser that has closed,
        also if the route never receives.
        """
        if self._next is None and not self._connection.closed:
            self._look()
        return self._next is not None or not self._connection.closed

    def _look(self) -> None:
        raise NotImplementedError

    def _take(self) -> Message | None:
        """Return what has come; TimeoutError if that is nothing."""
        received, self._next = self._next, None
        return _message(self._connection.receive(timeout=0) if received is None else received)

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame; nothing can be sent after it."""
        self._connection.close(code, reason)


class WebSocketClient(_Client):
    """A browser, for a function: `receive`, `send`, `close`, `connected`.

    Text is received as str and sent from it, binary as bytes.
    """

    def __init__(self, environ: Environ) -> None:
        super().__init__(environ)
        self._connection = connection_of(environ)
        self._receiving = threading.Lock()

    def _look(self) -> None:
        if self._receiving.acquire(blocking=False):
            try:
                self._next = self._take()
            except TimeoutError:
                pass
            finally:
                self._receiving.release()

    def receive(self) -> Message | None:
        """Wait for the next message; None once closed."""
        with self._receiving:
            received, self._next = self._next, None
            return _message(self._connection.receive() if received is None else received)

    recv = receive

    def recv_nb(self) -> Message:
        """Return the next message, or "" if none has come.

        Raises ConnectionClosed, an OSError, once closed.
        """
        if not self._receiving.acquire(blocking=False):
            return Text()
        try:
            message = self._take()
        except TimeoutError:
            return Text()
        finally:
            self._receiving.release()
        if message is None:
            raise ConnectionClosed("the connection is closed")
        return message

    def send(self, msg: str | bytes, binary: bool = False) -> None:
        """Send a message; ConnectionClosed, an OSError, once closed."""
        if binary:
            self.send_binary(msg)
        else:
            self._connection.send(msg)

    def send_binary(self, msg: str | bytes) -> None:
        """Send a binary message."""
        self._connection.send(msg.encode() if isinstance(msg, str) else msg)

    def send_from_sharedarea(self, id: int, pos: int) -> None:
        """Send a shared area of uWSGI from a position on.

        Raises ValueError for what is no shared area.
        """
        self.send(self._shared_area(id, pos).decode())

    def send_binary_from_sharedarea(self, id: int, pos: int) -> None:
        """Send the same as a binary message."""
        self.send(self._shared_area(id, pos))

    def _shared_area(self, number: int, position: int) -> bytes:
        uwsgi = _uwsgi()
        if uwsgi is None:
            raise ValueError("there is no shared area: this server is not uWSGI")
        data: bytes = uwsgi.read_shared_area(number, position)
        return data


class GeventWebSocketClient(WebSocketClient):
    """The same on gevent, where greenlets wait."""


class AsyncioWebSocketClient(_Client):
    """A browser, for a coroutine on an asyncio loop."""

    _connection: AsyncioConnection

    def __init__(self, environ: Environ, connection: AsyncioConnection) -> None:
        super().__init__(environ)
        self._connection = connection
        self._receiving = asyncio.Lock()

    def _look(self) -> None:
        if not self._receiving.locked():
            with suppress(TimeoutError):
                self._next = self._take()

    async def a_recv(self) -> Message | None:
        """Wait for the next message; None once closed."""
        async with self._receiving:
            received, self._next = self._next, None
            if received is None:
                received = await self._connection.receive_soon()
            return _message(received)

    receive = recv = a_recv

    def recv_nb(self) -> Message | None:
        """Return the next message, or "" if none has come.

        None once closed.
        """
        if self._receiving.locked():
            return Text()
        try:
            return self._take()
        except TimeoutError:
            return Text()

    async def a_send(self, msg: str | bytes) -> None:
        """Send a message; ConnectionClosed, an OSError, once closed."""
        await self._connection.send_soon(msg)

    send = a_send

    def send_nb(self, msg: str | bytes) -> None:
        """Send a message without waiting for a slow browser."""
        self._connection.send(msg)


class WebSocketMiddleware(SocketMiddleware):
    """Gives a route its client, and Flask all other requests."""

    client: Callable[[Environ], Any] = WebSocketClient

    def __init__(self, wsgi_app: WSGI, websocket: "WebSocket") -> None:
        super().__init__(wsgi_app, websocket.app, websocket)

    def converse(self, view: Callable[..., Any], environ: Environ, **values: Any) -> None:
        view(type(self).client(environ), **values)


class GeventWebSocketMiddleware(WebSocketMiddleware):
    """The same with a GeventWebSocketClient."""

    client = GeventWebSocketClient


class AsyncioWebSocketMiddleware(WebSocketMiddleware):
    """Gives a coroutine its client, on an asyncio loop."""

    sockets: "AsyncioWebSocket"
    client: Callable[..., Any] = AsyncioWebSocketClient

    def converse(self, view: Callable[..., Any], environ: Environ, **values: Any) -> None:
        opened = connection_of(environ)
        if not isinstance(opened, ThreadConnection):
            raise NotImplementedResponse(
                "AsyncioWebSocket needs uWSGI's asyncio loop, or a server with native threads"
            )
        self.sockets.conversations.begin(
            opened,
            lambda connection: view(type(self).client(environ, connection), **values),
            self.app.request_context(environ),
        )


class WebSocket(Sockets):
    """Routes for functions that take a client.

    `app.run` then runs uWSGI. A route runs within the request's context. `timeout` is in seconds,
    between two pings on uWSGI; the app's configuration has more, such as PUSHLAB_ALLOW_ORIGINS.
    """

    middleware: type[WebSocketMiddleware] = WebSocketMiddleware

    def __init__(self, app: Flask | None = None, timeout: float | None = None) -> None:
        self._timeout = timeout
        super().__init__(app)

    def init_app(self, app: Flask) -> None:
        """Put the routes before the app's own; replace `app.run`."""
        self.app = app
        if os.environ.get("FLASK_UWSGI_DEBUG"):
            from werkzeug.debug import DebuggedApplication

            app.debug = True
            app.wsgi_app = DebuggedApplication(app.wsgi_app, evalex=True)  # type: ignore[method-assign]
        app.wsgi_app = self.middleware(app.wsgi_app, self)  # type: ignore[method-assign]
        app.run = self.run  # type: ignore[method-assign, assignment]
        if (uwsgi := _uwsgi()) is not None:
            settings = from_config(app.config)
            if self._timeout is not None:
                settings = replace(settings, ping_interval=self._timeout)
            app.wsgi_app = uwsgi.upgrade(app, settings)  # type: ignore[method-assign]

    def run(
        self,
        debug: bool | None = None,
        host: str = "localhost",
        port: int = 5000,
        *,
        app: str | None = None,
        uwsgi_binary: str | None = None,
        **options: Any,
    ) -> NoReturn:
        """Become uWSGI, which serves the app with these options.

        An option such as `gevent=100` is uWSGI's `--gevent 100`; True stands for one without a
        value, False for none at all. `app` is the app's name for uWSGI, `module:variable`.
        """
        debug = self.app.debug if debug is None else debug
        every: dict[str, Any] = {"plugins_dir": None, "plugin": None}  # they come first
        if not options.get("http"):  # whose router would end before its WebSockets are closed
            every["http_socket"] = f"{host}:{port}"
        every |= dict.fromkeys(("master", "die_on_term", "enable_threads", "need_app"), True)
        if options.get("gevent"):
            every["gevent_early_monkey_patch"] = True
        if debug:
            every["py_autoreload"] = 1
        if sys.prefix != sys.base_prefix:
            every["virtualenv"] = sys.prefix
        every["pythonpath"] = sys.path[0] or "."
        every |= {"wsgi": app or _name_of(self.app)} | options
        beside = Path(sys.executable).with_name("uwsgi")
        binary = uwsgi_binary or os.environ.get("FLASK_UWSGI_BINARY")
        command = [binary or (str(beside) if beside.exists() else "uwsgi"), *_arguments(every)]
        say(f"Running: {' '.join(command)}")
        environment = os.environ | ({"FLASK_UWSGI_DEBUG": "1"} if debug else {})
        try:
            os.execvpe(command[0], command, environment)  # noqa: S606 - the user's own options
        except OSError as error:
            sys.exit(f"Cannot run {command[0]}: {error.strerror}. `pip install uwsgi` has it.")


class GeventWebSocket(WebSocket):
    """Routes on uWSGI's gevent loop: `app.run(gevent=100)`."""

    middleware = GeventWebSocketMiddleware


class AsyncioWebSocket(WebSocket):
    """Routes that are coroutines: `app.run(asyncio=100, greenlet=True)`."""

    middleware = AsyncioWebSocketMiddleware

    def __init__(self, app: Flask | None = None, timeout: float | None = None) -> None:
        self.conversations = Conversations()
        super().__init__(app, timeout)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        """Add a route; raise TypeError for what is no coroutine."""
        if not inspect.iscoroutinefunction(view_func):
            raise TypeError(f"a route of AsyncioWebSocket is an `async def`, not {view_func!r}")
        super().add_url_rule(rule, endpoint, view_func, **options)


def _arguments(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if value is None or value is False:
            continue
        for each in value if isinstance(value, list | tuple) else (value,):
            yield f"--{name.replace('_', '-')}"
            if each is not True:
                yield str(each)


def _name_of(app: Flask) -> str:
    """Return `module:variable`, by which uWSGI finds the app."""
    main = sys.modules["__main__"]
    for module in (main, sys.modules.get(app.import_name, main)):
        for variable, value in vars(module).items():
            if value is app:
                if module is not main:
                    return f"{module.__name__}:{variable}"
                spec = getattr(main, "__spec__", None)
                name = spec.name if spec else Path(str(main.__file__)).stem
                return f"{name}:{variable}"
    raise StartupError("uWSGI cannot find the app: name it, as in app.run(app='module:app').")
