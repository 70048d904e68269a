"""Push: topics, permissions and routes for a Flask app.

    push = Push(app)

    @push.topic("orders/<int:user>", keep=1000)
    def orders(user):
        if user != session.get("user"):
            abort(403)

    push.publish("orders/7", {"order": 1})

A topic's function runs in the request of who asks, before anything is accepted. With that the
request is over: what waits holds no thread, no context and no database session on a server whose
connections the hub can have.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import ref

import flask
from flask import Blueprint, Flask, request
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    NotFound,
    ServiceUnavailable,
    Unauthorized,
    default_exceptions,
)

from pushlab import counts, limits
from pushlab.feed import Feed, NotPublished, Reading, check_mapping
from pushlab.hosting.lifecycle import Hosting, close_feeds_and_hubs, shutdown_at_exit
from pushlab.hosting.settings import from_config
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from pushlab.hub import Hub
from pushlab.presence import Follower, Presence
from pushlab.push_commands import make_group
from pushlab.topics import NoTopic, Publisher, Rules, connect
from pushlab.transports import routes, websocket
from pushlab.wsgi import parameters
from pushlab.wsgi.cross_origin import CrossOrigin
from pushlab.wsgi.policy import error_as_json
from pushlab.wsgi.responses import Environ, Response
from pushlab.wsgi.waiting import REVOKED, Stream

if TYPE_CHECKING:
    from pushlab.redis_feed import RedisFeed, RedisFeeds

STATIC = Path(__file__).parent / "static"

SEVERAL_PROCESSES = (
    "this server runs several processes, each of which would push only to its own browsers; start "
    "it with one, or share a Redis: Push(app, redis=...)"
)

F = TypeVar("F", bound=Callable[..., Any])

#: The log of what was disconnected. No topic of an app has such a name.
_DISCONNECTED = "\0disconnected"


class _Permission(NamedTuple):
    """What decides whether a topic may be followed."""

    rule: str
    function: Callable[..., Any]
    blueprint: str | None


class _Topic:
    """A topic with followers or with readings."""

    __slots__ = ("feed", "followers", "is_published", "users")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.followers = 0
        self.users = 0  #: requests and publishers that are using the feed
        self.is_published = False  #: not only begun with what its function returned


class Push:
    """Topics that browsers follow, and programs publish to.

    `url_prefix` is where the routes are. `redis` is the URL of a Redis or Valkey that several
    processes share. `identify` is called in the request of who asks, and returns the user's
    identity for `disconnect`, or None.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        url_prefix: str = "/push",
        redis: str | None = None,
        identify: Callable[[], Any] = lambda: None,
    ) -> None:
        self.url_prefix = url_prefix.rstrip("/")
        self.hub = Hub()
        self._identify = identify
        self.rules = Rules()
        self.redis = connect(redis) if redis else None
        self._starting = threading.Lock()
        self._disconnected: RedisFeed | None = None
        self._disconnected_after = ""
        self._is_declared = False
        # A follower may end while the lock is held, when it is garbage.
        self._lock = threading.RLock()
        self._topics: dict[str, _Topic] = {}
        # By identity and by `id`: a follower ends where nothing else refers to it.
        self._followers: dict[str, dict[int, ref[Follower]]] = {}
        # The same for all feeds: one that is forgotten, as nobody has published to it, goes on
        # where it was when it is made again. That happens with every response to a long poll.
        self._epoch = secrets.token_hex(4)
        self._presence = Presence()
        # A request may be finding out its identity while that one is disconnected.
        self._disconnects = 0
        self._disconnected_at: dict[str, int] = {}  # those of late
        # One object each, for all topics and followers.
        self._broadcast, self._on_left = self.hub.broadcast, self._left
        self._on_follow = self._presence.changed
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add the routes, and what a server needs to know.

        Reads `PUSHLAB_ALLOW_ORIGINS`, `PUSHLAB_ALLOW_HOSTS`, `PUSHLAB_TRUSTED_PROXIES`,
        `PUSHLAB_PING_INTERVAL`, `PUSHLAB_ACCESS_LOG` and `PUSHLAB_REDIS` from `app.config`. Raises
        ValueError if one of them is wrong.
        """
        settings = from_config(app.config)
        if self.redis is None and app.config.get("PUSHLAB_REDIS"):
            self.redis = connect(app.config["PUSHLAB_REDIS"])
        self.hub.ping_interval = settings.ping_interval
        self._presence.init_app(app)
        app.extensions["pushlab"] = Hosting(app.name, settings)
        app.extensions["push"] = self
        app.jinja_env.globals.setdefault("push", self)
        app.cli.add_command(make_group(self), "push")
        app.register_blueprint(self._blueprint(app))
        if settings.allow_origins:
            app.wsgi_app = CrossOrigin(  # type: ignore[method-assign]
                app.wsgi_app,
                settings.allow_origins,
                paths={self.url_prefix + path for path in routes()},
            )
        # Outermost; it does nothing on servers that open WebSockets themselves.
        upgrade = WerkzeugUpgrade.of(app, settings)
        shutdown_at_exit((close_feeds_and_hubs, upgrade.close))

    def _blueprint(self, app: Flask) -> Blueprint:
        """Return the routes; all their errors are JSON."""
        name = "pushlab"
        if name in app.blueprints:  # of another Push, at another prefix
            name += self.url_prefix.replace("/", "-").replace(".", "-")
        blueprint = Blueprint(
            name, __name__, url_prefix=self.url_prefix, static_folder=STATIC, static_url_path="/"
        )
        for path, respond in routes().items():
            blueprint.add_url_rule(path, path.strip("/"), self._view(path, respond))
        blueprint.add_url_rule("/update", "websocket", self._websocket, websocket=True)
        blueprint.register_error_handler(HTTPException, error_as_json)
        return blueprint

    # Topics.

    def topic(self, name: str, *, keep: int = 1, blueprint: str | None = None) -> Callable[[F], F]:
        """Return a decorator for the function of a topic.

        `name` may have variables, as a URL rule has them. `keep` is how many readings its feeds
        keep: 1 makes them states, more makes them logs. The function is called with the variables,
        in the request of who asks, after the `before_request` functions of the app and of
        `blueprint`. It refuses with `abort`. Of a state it may return the value, a dict: it counts
        if nothing was published yet.
        """

        def decorator(function: F) -> F:
            self.rules.add(name, keep, _Permission(name, function, blueprint))
            counts.declare(name)
            return function

        return decorator

    @contextmanager
    def _using(self, topic: str, keep: int, rule: str) -> Iterator[_Topic]:
        """Have a topic that is not forgotten meanwhile.

        Raises NotPublished if Redis is needed and away.
        """
        # Made without the lock: garbage that needs it may be collected while a feed's is held.
        found = self._topics.get(topic) or _Topic(self._make_feed(topic, keep, rule))
        with self._lock:
            found = self._topics.setdefault(topic, found)
            found.users += 1
        try:
            found.feed.load()
            yield found
        finally:
            with self._lock:
                found.users -= 1
                self._forget_if_unused(topic)

    def _make_feed(self, topic: str, keep: int, rule: str) -> Feed:
        if self.redis is not None:
            feed: Feed = self.redis.feed(topic, keep)
        else:
            feed = Feed(keep, topic=topic, epoch=self._epoch)
        feed.rule = rule
        feed.subscribe(self._broadcast)
        return feed

    def _forget_if_unused(self, topic: str) -> None:
        found = self._topics[topic]
        if not (found.followers or found.users or found.is_published) and found.feed.release():
            del self._topics[topic]

    # With Redis.

    def _start(self) -> "RedisFeeds | None":
        """Take part in what other processes do, once.

        Returns None without Redis. Not when the app is made: the process may be forked afterwards.
        """
        shared = self.redis
        if shared is None:
            return None
        with self._starting:
            if self._disconnected is None:
                self._disconnected = shared.feed(_DISCONNECTED, limits.REDIS_DISCONNECTED)
                self._disconnected.subscribe(self._disconnect_those)
                shared.first = self._disconnected
                shared.on_tick.append(self._tick)
        self._disconnected.load()
        if not self._is_declared:
            shared.declare(self.rules.keeps)
            self._is_declared = True
        return shared

    def _disconnect_those(self, newest: Reading) -> None:
        """Disconnect identities that another process has disconnected."""
        if not self._disconnected_after:  # those of before this process
            self._disconnected_after = newest.cursor
            return
        readings = newest.feed.since(self._disconnected_after)
        if readings and readings[0].is_reset:  # Redis has lost its log, and begun another
            readings = newest.feed.since(None)
        for reading in readings:
            self._disconnected_after = reading.cursor
            if "identity" in reading.value:
                self._revoke(reading.value["identity"])

    def _tick(self) -> None:
        """Write down how many follow each topic; forget topics."""
        with self._lock:
            for topic in tuple(self._topics):
                self._forget_if_unused(topic)
            followers = {topic: found.followers for topic, found in self._topics.items()}
        shared = self.redis
        if shared is None:
            return
        is_known = shared.set_counts({topic: n for topic, n in followers.items() if n})
        if not is_known:  # Redis may have lost its data
            shared.declare(self.rules.keeps)

    # For the app.

    def publish(self, topic: str, value: Mapping[str, Any]) -> Reading:
        """Make the value the topic's newest reading.

        From a request, a thread or a greenlet. Browsers get it in the order of the calls. Raises
        TypeError and ValueError for what JSON cannot say (`Feed.publish`), and ValueError for a
        name that no topic has. With Redis, raises NotPublished within `limits.REDIS_TIMEOUT` if it
        does not say that it has published.
        """
        check_mapping(value)  # None, which publishes the newest once more, is for a Feed alone
        keep, permission, _ = self.rules.match(topic)
        shared = self._start()
        if shared is not None:
            return shared.append(topic, keep, value)
        if flask.has_request_context() and request.environ.get("wsgi.multiprocess"):
            raise RuntimeError(SEVERAL_PROCESSES)
        with self._using(topic, keep, permission.rule) as found:
            reading = found.feed.publish(value)
            found.is_published = True
        return reading

    @staticmethod
    def publisher(redis: str) -> Publisher:
        """Return what publishes from a program that is no app.

        `redis` is the URL that the apps have.
        """
        return Publisher(redis)

    def cursor(self, topic: str) -> str:
        """Return the newest cursor, for a page being made.

        The page follows from there, and misses nothing that is published meanwhile.
        """
        keep, permission, _ = self.rules.match(topic)
        self._start()
        with self._using(topic, keep, permission.rule) as found:
            return found.feed.latest.cursor

    def disconnect(self, identity: Any) -> int:
        """End everything that was opened by this identity.

        Its sockets are closed with 4401, its streams end, and its polls get 401. What is published
        afterwards is not sent to them. With Redis that is so in every process; raises NotPublished
        if it is away, when only this process has done so. Returns how many there were in this
        process.
        """
        number = self._revoke(str(identity))
        shared = self._start()
        if shared is not None:
            value = {"identity": str(identity)}
            shared.append(_DISCONNECTED, limits.REDIS_DISCONNECTED, value)
        return number

    def _revoke(self, identity: str) -> int:
        with self._lock:
            self._disconnects += 1
            self._disconnected_at.pop(identity, None)
            self._disconnected_at[identity] = self._disconnects
            if len(self._disconnected_at) > limits.REMEMBERED:
                del self._disconnected_at[next(iter(self._disconnected_at))]
            known = tuple(self._followers.get(identity, {}).values())
        followers = [follower for each in known if (follower := each()) is not None]
        for follower in followers:
            follower.revoke()
        return len(followers)

    def count(self, topic: str) -> int:
        """Return how many browsers follow a topic.

        With Redis, those of other processes as of a second ago.
        """
        shared, found = self._start(), self._topics.get(topic)
        return (found.followers if found else 0) + (shared.count(topic) if shared else 0)

    def topics(self) -> list[str]:
        """Return the names of topics with followers or readings."""
        shared = self._start()
        return sorted({*self._topics, *(shared.topics() if shared else ())})

    @property
    def problem(self) -> str:
        """Why nothing new comes, in words, or nothing.

        For a load balancer: this process shuts down, or Redis is away.
        """
        if self.hub.is_closed:
            return "the server shuts down"
        try:
            shared = self._start()
        except NotPublished as problem:
            return str(problem)
        return shared.problem if shared else ""

    def on_follow(self, function: F) -> F:
        """Call the function with every Follower that comes."""
        self._presence.on_follow.append(function)
        return function

    def on_leave(self, function: F) -> F:
        """Call the function with a Follower that left, and why.

        The reason is "closed", "disconnected", "silent" (no pong), "slow", "full" or "shutdown".
        """
        self._presence.on_leave.append(function)
        return function

    # Requests.

    def _view(self, path: str, respond: Callable[..., Any]) -> Callable[[], flask.Response]:
        def view() -> flask.Response:
            with self._admitted("") as (feeds, follower):
                outcome = respond(feeds, request.environ)
                if follower.is_revoked:  # what was published afterwards may be in it
                    outcome = REVOKED
                if isinstance(outcome, Response):
                    # With a time-out of 0 it only asks; else its browser is there.
                    if path == "/update" and parameters.read(request.environ).timeout != 0:
                        follower.transport = "longpoll"
                        follower.attach(lambda: None)
                    follower.left("disconnected" if outcome is REVOKED else "answered")
                else:
                    follower.transport = "sse" if isinstance(outcome, Stream) else "longpoll"
                    outcome = replace(outcome, follower=follower)
                response: flask.Response = outcome.for_flask()
                return response

        return view

    def _websocket(self) -> str:
        with self._admitted("websocket") as (feeds, follower):
            websocket.update(self.hub, feeds, request.environ, follower)
        return ""

    @contextmanager
    def _admitted(self, transport: str) -> Iterator[tuple[list[Feed], Follower]]:
        """Have the feeds that the request may follow.

        Raises HTTPException if it may not.
        """
        environ: Environ = request.environ
        if self.redis is None and (environ.get("wsgi.multiprocess") or Feed.forbidden):
            raise ServiceUnavailable(SEVERAL_PROCESSES)
        topics, afters, _, _ = parameters.read(environ)
        if not topics:
            raise BadRequest("topic: none is named")
        try:
            matched = [self.rules.match(topic) for topic in topics]
        except NoTopic as error:
            raise NotFound(str(error)) from None
        disconnects = self._disconnects
        identity = self._identify()
        follower = Follower(
            topics,
            None if identity is None else str(identity),
            transport,
            request.remote_addr or "",
            self._on_follow,
            self._on_left,
        )
        if follower.identity is not None:  # from here on, `disconnect` finds it
            with self._lock:
                known = self._followers.setdefault(follower.identity, {})
                known[id(follower)] = ref(follower)
                disconnected_at = self._disconnected_at.get(follower.identity, 0)
            if disconnected_at > disconnects:
                follower.revoke()
        try:
            states = [_permit(permission, values) for _, permission, values in matched]
            self._start()
            feeds = [
                self._follow(topic, keep, permission.rule, state, follower)
                for topic, (keep, permission, _), state in zip(topics, matched, states, strict=True)
            ]
            for feed, after in zip(feeds, parameters.resumed(environ, afters), strict=True):
                feed.load(after)
            _check_still_welcome(follower)
            yield feeds, follower
        except BaseException as error:
            follower.left("disconnected" if follower.is_revoked else "refused")
            if isinstance(error, NotPublished):
                raise ServiceUnavailable(str(error)) from error
            raise

    def _follow(self, topic: str, keep: int, rule: str, state: Any, follower: Follower) -> Feed:
        with self._using(topic, keep, rule) as found:
            if state is not None:
                if found.feed.is_log:
                    raise TypeError(f"{topic!r} is a log: its function returns None")
                found.feed.begin(state)
            with self._lock:
                found.followers += 1
                follower.joined += 1
            return found.feed

    def _left(self, follower: Follower, reason: str) -> None:
        with self._lock:
            for topic in follower.topics[: follower.joined]:
                self._topics[topic].followers -= 1
                self._forget_if_unused(topic)
            if follower.identity is not None:
                known = self._followers.get(follower.identity, {})
                if known.pop(id(follower), None) is not None and not known:
                    del self._followers[follower.identity]
        if follower.has_followed or follower.is_revoked:
            self._presence.changed(follower, reason)


def _check_still_welcome(follower: Follower) -> None:
    if follower.is_revoked:
        raise Unauthorized("you were disconnected; log in again")


def _permit(rule: _Permission, values: Mapping[str, Any]) -> Any:
    """Call a topic's function; return the value of a state.

    Raises HTTPException if it refuses.
    """
    app = flask.current_app
    for before in app.before_request_funcs.get(rule.blueprint, ()) if rule.blueprint else ():
        _refuse_with(app.ensure_sync(before)())
    found = app.ensure_sync(rule.function)(**values)
    if found is None or isinstance(found, Mapping):
        return found
    _refuse_with(found)
    return None


def _refuse_with(found: Any) -> None:
    """Refuse with the response that a function returned, if any.

    A redirect, such as Flask-Login's to the page for logging in, means 401.
    """
    if found is None:
        return
    status = flask.current_app.make_response(found).status_code
    if status < 400:
        raise Unauthorized("log in first")
    raise default_exceptions.get(status, Forbidden)()
