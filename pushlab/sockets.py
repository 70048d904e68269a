"""Flask-Sockets 0.2.1 on today's Flask: the same API, with the parts replaced that broke.

What broke: routes lack `websocket=True`, which Werkzeug 2 asks for; blueprints register by a
signature that Flask 2 changed; a request that is no WebSocket is a 404 instead of going on to
Flask; and a KeyError raised by a route of ours looks like a missing page.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import flask_sockets
from flask import Blueprint, Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect, Rule

if hasattr(flask_sockets, "worker"):  # gunicorn is installed
    from pushlab.hosting.gunicorn import make_safe

    # `gunicorn -k flask_sockets.worker`, as its README says, would serve stock connections.
    make_safe(flask_sockets.worker)


class Sockets(flask_sockets.Sockets):  # type: ignore[misc]
    """`@sockets.route("/path")` on functions that take the socket and the URL's variables."""

    def init_app(self, app: Flask) -> None:
        self.app = app
        app.wsgi_app = SocketMiddleware(app.wsgi_app, app, self)  # type: ignore[method-assign]

    def add_url_rule(
        self, rule: str, endpoint: str | None, view: Callable[..., Any], **options: Any
    ) -> None:
        options.pop("provide_automatic_options", None)  # of blueprints, about HTTP's OPTIONS
        self.url_map.add(Rule(rule, endpoint=view, websocket=True, **options))

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Add the socket routes of a blueprint, below its `url_prefix`."""
        self.blueprints[blueprint.name] = blueprint
        # What the blueprint takes for the app only has to add routes.
        app = cast(Flask, self)
        state = blueprint.make_setup_state(app, options, first_registration=False)
        for deferred in blueprint.deferred_functions:
            deferred(state)


class SocketMiddleware:
    """Gives a socket to its route; everything else, and unknown paths, to Flask."""

    def __init__(self, wsgi_app: Callable[..., Any], app: Flask, sockets: Sockets) -> None:
        self.wsgi_app = wsgi_app
        self.app = app
        self.sockets = sockets

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        socket = environ.get("wsgi.websocket")
        if socket is None:
            return self.wsgi_app(environ, start_response)  # type: ignore[no-any-return]
        adapter = self.sockets.url_map.bind_to_environ(environ)
        try:
            view, values = adapter.match()
        except RequestRedirect as redirect:
            return redirect(environ, start_response)
        except HTTPException:
            return self.wsgi_app(environ, start_response)  # type: ignore[no-any-return]
        with self.app.request_context(environ):
            try:
                view(socket, **values)
            except Exception as error:
                # The app's own error handlers; what they do not know is raised again.
                answer = self.app.make_response(self.app.handle_user_exception(error))
                return answer(environ, start_response)
        return []
