"""The demo's Flask app: the page, the transports, and /healthz.

A server adds the WebSocket route at /update.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flask import Flask, Response, abort, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException

from lab import documentation, source_view, static_files
from lab.classroom import HINTS, Classroom, qr_code
from lab.glossary import GLOSSARY
from lab.instruments import Lab
from lab.settings import Settings
from lab.sources import PACED
from lab.summary import details, headline, moment
from pushlab.feed import Feed, NotPublished, ValueTooLarge
from pushlab.hosting.lifecycle import Hosting
from pushlab.hosting.settings import exit_with
from pushlab.hub import Hub
from pushlab.limits import MAX_VALUE
from pushlab.metrics import Metrics
from pushlab.transports import TRANSPORTS, routes
from pushlab.websocket.middleware import connection_of
from pushlab.wsgi import json_text
from pushlab.wsgi.access import is_loopback_request, origin_allowed
from pushlab.wsgi.cross_origin import CrossOrigin
from pushlab.wsgi.direct import Direct, direct
from pushlab.wsgi.policy import content_security_policy, error_as_json
from pushlab.wsgi.responses import error

ROOT = Path(__file__).resolve().parent.parent

#: For /healthz the data is out of date after this many of its paces, and after LEAST_AGE.
STALE_PACES = 5
LEAST_AGE = 30.0  #: seconds


def create_feed(settings: Settings) -> Feed:
    """Return the lab's feed; in Redis if so set."""
    if settings.redis is None:
        return Feed()
    try:
        from lab import shared_feed

        return shared_feed.connect(settings.redis, has_source=settings.source != "http")
    except ImportError as problem:
        exit_with(str(problem))
    except ValueError as problem:
        exit_with(f"--redis: {problem}")


def create_app(feed: Feed, hub: Hub, lab: Lab, settings: Settings) -> Flask:
    """Return the app that shows this feed."""
    if settings.redis is not None:
        from lab.shared_feed import share_controls

        share_controls(feed, lab)
    app = Flask("pushlab", static_folder=None, template_folder=ROOT / "templates")
    static_files.add_to(app)
    app.extensions["pushlab"] = Hosting(
        "Pushlab",
        settings,
        on_shutdown=(feed.close, hub.close),
        # With Redis, a lane's requests may go to any of several processes.
        meters=None if settings.redis else lab.meters,
    )
    app.config["MAX_CONTENT_LENGTH"] = MAX_VALUE
    for text in (headline, details, moment):
        app.add_template_filter(text)

    @app.get("/")
    def page() -> Response:
        """The page; it shows the newest reading without JavaScript."""
        present = request.args.get("present")
        places = _places(lab.ports)
        far = next((place.distance for place in places if place.here), 0)
        text = render_template(
            "page.html",
            reading=feed.latest,
            now=feed.now(),
            # With the whole list, a browser need not find one module after another.
            modules=static_files.MODULES,
            transports=[TRANSPORTS[name] for name in _lanes(present)],
            paces=lab.pace.names if lab.is_paced else (),
            places=places,
            far=f"{far:g} ms" if far else "",
            halfway=f"{far / 2:g} ms",
            present=present,
            query="" if present is None else f"?present={present}" if present else "?present",
            glossary=GLOSSARY,
            counted=lab.meters.are_counting,
            source=lab.source_problem,
            hints=HINTS,
            classroom=lab.classroom and _invitation(lab.classroom, lab.ports[0]),
        )
        page = Response(text)
        page.headers["Content-Security-Policy"] = content_security_policy(request.host)
        page.headers["Cache-Control"] = "no-cache"
        if lab.classroom:
            # The teacher's key is in the page's URL at first; a path would be in Referer.
            page.headers["Referrer-Policy"] = "strict-origin"
        return page

    # GET /data is the short poll; GET /update the long poll, or an event stream. A WebSocket at
    # /update has a route of its own.
    transports = routes()
    for path, respond in transports.items():
        app.add_url_rule(path, path, direct(partial(respond, [feed])))

    @app.post("/data")
    def publish() -> ResponseReturnValue:
        """Publish the JSON object in the body."""
        if settings.source != "http":
            message = f"the data comes from {settings.source!r}; start with --source http to post"
            abort(405, valid_methods=["GET", "HEAD", "OPTIONS"], description=message)
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        is_bearer = scheme.lower() == "bearer"  # in any case (RFC 9110 section 11.1)
        if settings.token and not (
            hmac.compare_digest(credentials.strip(" ").encode(), settings.token.encode())
            and is_bearer
        ):
            message = "Authorization: not 'Bearer' and the token of this server"
            abort(401, message, www_authenticate=WWWAuthenticate("bearer"))
        if not settings.token and not is_loopback_request(request.environ):
            # Another server may listen on an address that is not in our options.
            abort(403, "without a token only this machine may publish; set PUSHLAB_TOKEN")
        if not origin_allowed(request.environ, settings.allow_origins):
            abort(403, "Origin: pages from elsewhere may not publish here")
        codings = request.headers.get("Content-Encoding", "").lower().split(",")
        if {each.strip(" \t") for each in codings} - {"", "identity"}:  # a list may be empty
            message, accepted = "Content-Encoding: none is known", ("Accept-Encoding", "identity")
            return error("415 Unsupported Media Type", message, accepted).for_flask()
        try:
            value = json_text.loads_object(request.get_data())
        except ValueError as problem:
            abort(400, f"the body is {problem}")
        try:
            reading = feed.publish(value)
        except ValueTooLarge as problem:
            abort(413, str(problem))
        except ValueError as problem:
            abort(400, str(problem))
        except NotPublished as problem:
            abort(503, str(problem))
        return jsonify(cursor=reading.cursor), 201

    @app.route("/lab", websocket=True, endpoint="lab")
    def instruments() -> str:
        """The instruments and the controls of a page."""
        lab.serve(connection_of(request.environ), request.environ)
        return ""

    @app.get("/healthz")
    def health() -> ResponseReturnValue:
        """200 while the data changes as it should, else 503."""
        if lab.source_problem:
            return jsonify(error=lab.source_problem, source=lab.source_state), 503
        if feed.closed:
            return jsonify(error="the server shuts down"), 503
        age = feed.age
        allowed = max(LEAST_AGE, STALE_PACES * lab.pace.longest)
        if settings.source in PACED and age > allowed:
            return jsonify(error=f"the data has not changed for {age:.0f} s"), 503
        return jsonify(status="ok", cursor=feed.latest.cursor)

    metrics = Metrics(feed)

    @app.get("/metrics")
    def show_metrics() -> Response:
        """What Prometheus reads; the page shows as much to everybody."""
        return metrics.response()

    app.register_blueprint(source_view.blueprint)
    app.register_blueprint(documentation.blueprint)
    app.register_error_handler(HTTPException, error_as_json)
    if settings.direct:
        app.wsgi_app = Direct(app)  # type: ignore[method-assign]
    if settings.allow_origins:
        app.wsgi_app = CrossOrigin(  # type: ignore[method-assign]
            app.wsgi_app, settings.allow_origins, paths=transports
        )
    return app


def _lanes(present: str | None) -> Iterable[str]:
    """Return the transports that `?present=longpoll,websocket` names, or all."""
    names = present.split(",") if present else TRANSPORTS
    for name in names:
        if name not in TRANSPORTS:
            abort(400, f"present: no transport {name!r}; there are: {', '.join(TRANSPORTS)}")
    return dict.fromkeys(names)


class Invitation(NamedTuple):
    """What a class's page shows, so that others can join."""

    urls: list[str]
    code: Markup  #: the first as a QR code


def _invitation(room: Classroom, port: int) -> Invitation:
    host, _, _ = request.host.rpartition(":")
    urls = room.urls(port, host.strip("[]"))
    return Invitation(urls, Markup(qr_code(urls[0])))  # noqa: S704 - made by us


class Place(NamedTuple):
    """A port that serves the page, and its distance."""

    name: str
    distance: float  #: the round trip in milliseconds
    url: str
    here: bool


def _places(ports: Mapping[float, int]) -> list[Place]:
    """Return links to the server and its far ports.

    There are none if the page was requested at another port, such as a proxy's.
    """
    host = re.fullmatch(r"(.+?)(?::([0-9]+))?", request.host)
    name = host[1] if host else ""
    port = int((host and host[2]) or (443 if request.is_secure else 80))
    if len(ports) < 2 or port not in ports.values():
        return []
    return [
        Place(
            name=f"{distance:g} ms away" if distance else "here",
            distance=distance,
            url=f"{request.scheme}://{name}:{its_port}{request.script_root}/",
            here=port == its_port,
        )
        for distance, its_port in ports.items()
    ]
