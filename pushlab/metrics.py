"""Metrics for Prometheus, of all processes that share a Redis.

An app decides who may read them, in a route of its own:

    metrics = Metrics(push)

    @app.get("/metrics")
    def show_metrics():
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            abort(401)
        return metrics.response()

About once a second each process adds to totals in Redis what it has counted since, and so does a
scrape, which then reads all of it. So totals go on when a process ends, whose gauges are gone
within `limits.REDIS_PROCESS`.
"""

import atexit
import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import flask
from flask import request

from pushlab import counts
from pushlab.counts import BOUNDS, HISTOGRAMS, Key
from pushlab.feed import Feed, NotPublished
from pushlab.forked import PerProcess
from pushlab.wsgi.responses import error

if TYPE_CHECKING:
    from pushlab.push import Push
    from pushlab.redis_feed import RedisFeeds

logger = logging.getLogger(__name__)

_MISSING = error(
    "501 Not Implemented", "metrics need prometheus_client: pip install 'pushlab[metrics]'"
)
_SEVERAL_PROCESSES = error(
    "503 Service Unavailable",
    "this server runs several processes, each of which counts only what it has done; start it with "
    "one, or share a Redis: Push(app, redis=...)",
)

#: Each metric's labels and meaning, by its name here and in `counts`.
COUNTERS = {
    "notifications": ("transport topic", "Readings, or signals of them, that were sent."),
    "coalesced": ("transport topic", "Readings of states that were skipped, as newer ones came."),
    "resets": ("transport topic", "Resets that were sent, as a log no longer had the readings."),
    "sent_bytes": ("transport", "Bytes of frames, streams, and bodies of responses to polls."),
    "dropped": ("transport reason", "Subscribers that were slow, or silent: no pong came."),
    "refused": ("reason", "Requests and WebSockets that were refused, by the status's name."),
}
GAUGES = {"subscribers": ("transport topic", "Open subscribers, once for each topic.")}
DURATIONS = {
    "last_write": ("publish_to_last_write", "From publishing to the hub's write to the last."),
    "redis_lag": ("redis_lag", "From Redis's append to another process's having it."),
}


class _State(NamedTuple):
    """What is shown."""

    totals: Mapping[Key, float]
    gauges: Mapping[Key, float]
    is_connected: bool | None  #: to Redis; None without it


class Metrics:
    """What the processes of an app have counted.

    `source` is a Push, after its `init_app`, or a Feed: what has the Redis, if there is one. Counts
    are those of the process, whatever the number of its apps, so make one of these.
    """

    def __init__(self, source: "Push | Feed") -> None:
        self._redis: RedisFeeds | None = source.redis
        self._sharing = PerProcess(lambda: threading.Lock())  # held during requests
        self._shared: dict[Key, float] = {}  # what is in Redis already
        self._adding: dict[Key, float] | None = None  # what is too, if a response was lost
        self._additions = 0
        self._failed_at = -math.inf
        if self._redis is not None:
            self._redis.on_tick.append(self._share)
            atexit.register(self._share_last)
        if isinstance(source, Feed):
            counts.declare(source.rule)

    def response(self) -> flask.Response:
        """Return the response to Prometheus's request.

        While Redis is away, only that is in it: what other processes count is not known. 501
        without prometheus_client; 503 on a server of several processes without Redis.
        """
        if self._redis is None and (request.environ.get("wsgi.multiprocess") or Feed.forbidden):
            return _SEVERAL_PROCESSES.for_flask()
        try:
            from prometheus_client.exposition import choose_encoder
            from prometheus_client.registry import CollectorRegistry
        except ImportError:
            return _MISSING.for_flask()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self._read()))
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return flask.Response(encode(registry), content_type=content_type)

    def _read(self) -> _State:
        if self._redis is None:
            return _State(counts.totals(), counts.gauges(), None)
        try:
            totals, gauges = self._share()
        except NotPublished as problem:
            logger.info("metrics: %s", problem)
            return _State({}, {}, is_connected=False)
        return _State(totals, gauges, is_connected=not self._redis.problem)

    def _share(self) -> tuple[dict[Key, float], dict[Key, float]]:
        """Add what is new; return all totals and gauges.

        Raises NotPublished if Redis cannot be asked.
        """
        asked_at = time.monotonic()
        with self._sharing.get():  # what is new is added once
            if self._failed_at >= asked_at:  # those that ask meanwhile do not wait one by one
                raise NotPublished("Redis does not respond")
            try:
                if self._adding is not None:
                    self._add(self._adding)
                found, all_gauges = self._add(counts.totals())
            except NotPublished:
                self._failed_at = time.monotonic()
                raise
        sums: Counter[Key] = Counter()
        for each in all_gauges:
            for key, number in json.loads(each):
                sums[tuple(key)] += number
        return {tuple(json.loads(name)): number for name, number in found.items()}, dict(sums)

    def _add(self, totals: dict[Key, float]) -> tuple[dict[str, float], list[str]]:
        """Add what is new in these totals."""
        assert self._redis is not None  # noqa: S101 - callers have looked
        self._adding = totals
        new = {
            json.dumps(key): number - self._shared.get(key, 0)
            for key, number in totals.items()
            if number != self._shared.get(key)
        }
        gauges = json.dumps([[key, number] for key, number in counts.gauges().items()])
        found = self._redis.sum_up(self._additions, new, gauges)
        self._shared, self._adding = totals, None
        self._additions += 1
        return found

    def _share_last(self) -> None:
        if self._redis is not None and not self._redis.problem and self._shared:
            with suppress(NotPublished):
                self._share()


class _Collector:
    """A collector of prometheus_client for one scrape."""

    def __init__(self, state: _State) -> None:
        self._state = state

    def collect(self) -> Iterator[Any]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        state = self._state
        for found, metrics, family in (
            (state.gauges, GAUGES, GaugeMetricFamily),
            (state.totals, COUNTERS, CounterMetricFamily),
        ):
            for name, (labels, meaning) in metrics.items():
                metric = family(f"pushlab_{name}", meaning, labels=labels.split())
                for key, number in sorted(found.items()):
                    if key[0] == name:
                        metric.add_metric(key[1:], number)
                if metric.samples:
                    yield metric
        for name in HISTOGRAMS:
            if (name, "sum") in state.totals and (state.is_connected or name != "redis_lag"):
                yield self._histogram(name)
        if state.is_connected is not None:
            meaning = "Whether Redis responds and accepts writes; else nothing is known."
            yield GaugeMetricFamily("pushlab_redis_connected", meaning, state.is_connected)

    def _histogram(self, name: str) -> Any:
        from prometheus_client.metrics_core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        title, meaning = DURATIONS[name]
        totals = self._state.totals
        numbers = accumulate(totals.get((name, str(at)), 0) for at in range(len(BOUNDS) + 1))
        bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, numbers, strict=True))
        return HistogramMetricFamily(
            f"pushlab_{title}_seconds", meaning, buckets, totals[name, "sum"]
        )
