"""Flask-Sockets' API on today's Flask: routes that take the socket.

Flask-Sockets 0.2.1 fails on Flask 3. Its routes lack `websocket=True`, which Werkzeug 2 asks for;
its blueprints register by a signature that Flask 2 changed; a request that is no WebSocket is a 404
instead of going on to Flask; and a KeyError raised by a route looks like a missing page.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from flask import Blueprint, Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect, Rule

from pushlab.websocket import handshake
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.middleware import connection_of, run_websocket_app
from pushlab.wsgi.access import origin_allowed
from pushlab.wsgi.responses import WSGI, Environ

View = TypeVar("View", bound=Callable[..., Any])


class Sockets:
    """Routes for functions that take a socket: `@sockets.route("/path")`."""

    def __init__(self, app: Flask | None = None) -> None:
        self.url_map = Map()
        self.blueprints: dict[str, Blueprint] = {}
        self._got_first_request = False  # blueprints look at it, as at an app's
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the socket routes in front of the app's own."""
        self.app = app
        app.wsgi_app = SocketMiddleware(app.wsgi_app, app, self)  # type: ignore[method-assign]
        _make_flask_sockets_worker_safe()

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:
        """Return a decorator that adds a socket route."""

        def decorator(view: View) -> View:
            self.add_url_rule(rule, options.pop("endpoint", None), view, **options)
            return view

        return decorator

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        """Add a socket route; the endpoint is ignored."""
        options.pop("provide_automatic_options", None)  # of blueprints, about HTTP's OPTIONS
        self.url_map.add(Rule(rule, endpoint=view_func, websocket=True, **options))

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Add the socket routes of a blueprint, below its `url_prefix`."""
        self.blueprints[blueprint.name] = blueprint
        # What the blueprint takes for the app only has to add routes.
        app = cast(Flask, self)
        state = blueprint.make_setup_state(app, options, first_registration=False)
        for deferred in blueprint.deferred_functions:
            deferred(state)


class SocketMiddleware:
    """Dispatches WebSockets to their routes, all else to Flask."""

    def __init__(self, wsgi_app: WSGI, app: Flask, sockets: Sockets) -> None:
        self.wsgi_app = wsgi_app
        self.app = app
        self.sockets = sockets

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "wsgi.websocket" not in environ and not handshake.is_websocket_upgrade(environ):
            return self.wsgi_app(environ, start_response)
        stock = environ.get("wsgi.websocket")
        if type(stock).__module__ == "geventwebsocket.websocket":
            return self._take_over(stock, environ)
        adapter = self.sockets.url_map.bind_to_environ(environ)
        try:
            view, values = adapter.match(websocket=True)
        except RequestRedirect as redirect:
            return redirect(environ, start_response)
        except HTTPException:
            return self.wsgi_app(environ, start_response)
        with self.app.request_context(environ):
            try:
                self.converse(cast(Callable[..., Any], view), environ, **values)
            except Exception as error:
                # The app's own error handlers; an error that they do not handle is raised again.
                response = self.app.make_response(self.app.handle_user_exception(error))
                return response(environ, start_response)
        return []

    def _take_over(self, stock: Any, environ: Environ) -> Iterable[bytes]:
        """Replace a connection of gevent-websocket by ours."""
        from pushlab.hosting.gevent_sockets import StockConnection
        from pushlab.hosting.settings import from_config

        connection = StockConnection(stock)
        if origin_allowed(environ, from_config(self.app.config).allow_origins):
            run_websocket_app(self, environ, connection)
        else:  # the 101 is out: too late for our servers' 403
            connection.accept()
            connection.close_and_wait(CloseReason.POLICY_VIOLATION)
        return []

    def converse(self, view: Callable[..., Any], environ: Environ, **values: Any) -> None:
        """Call a route with the request's WebSocket."""
        view(connection_of(environ), **values)


def __getattr__(name: str) -> Any:
    """Return what `gunicorn -k pushlab.sockets.worker` asks for."""
    if name != "worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pushlab.hosting.gunicorn import Worker

    return Worker


def _make_flask_sockets_worker_safe() -> None:
    """Have `gunicorn -k flask_sockets.worker`, of Flask-Sockets' README, serve as ours.

    Its connections are gevent-websocket's stock ones, which are not safe (docs/reference).
    """
    worker = getattr(sys.modules.get("flask_sockets"), "worker", None)
    if worker is not None:
        from pushlab.hosting.gunicorn import make_safe

        make_safe(worker)
